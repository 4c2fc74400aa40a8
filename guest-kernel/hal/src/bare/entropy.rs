//! Randomness of the processor, for the seed of the kernel's generator.

use super::asm::{cpuid, rdtsc};
use core::arch::asm;

/// Fills `buf` from RDSEED, else RDRAND, mixed with the time-stamp counter. Without either instruction only
/// timing is left: mix in the boot document's seed and virtio-rng.
pub fn seed(buf: &mut [u8]) {
    let has_rdrand = cpuid(1, 0)[2] & 1 << 30 != 0;
    let has_rdseed = cpuid(7, 0)[1] & 1 << 18 != 0;
    let mut state = rdtsc();
    for chunk in buf.chunks_mut(8) {
        let hardware = if has_rdseed { retry(rdseed).or_else(|| retry(rdrand)) } else { None };
        let hardware = hardware.or_else(|| if has_rdrand { retry(rdrand) } else { None });
        // splitmix64: diffuses the counter so that its predictable bits do not stand alone in any byte.
        state = state.wrapping_add(rdtsc() ^ 0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        let word = (hardware.unwrap_or(0) ^ z ^ z >> 31).to_le_bytes();
        chunk.copy_from_slice(&word[..chunk.len()]);
    }
}

/// The instructions may run dry for a moment (Intel's manual says ten tries for RDRAND).
fn retry(f: fn() -> Option<u64>) -> Option<u64> {
    (0..10).find_map(|_| f())
}

fn rdrand() -> Option<u64> {
    let (v, ok): (u64, u8);
    // SAFETY: the caller has seen the feature bit.
    unsafe { asm!("rdrand {}", "setc {}", out(reg) v, out(reg_byte) ok, options(nomem, nostack)) };
    (ok != 0).then_some(v)
}

fn rdseed() -> Option<u64> {
    let (v, ok): (u64, u8);
    // SAFETY: as above.
    unsafe { asm!("rdseed {}", "setc {}", out(reg) v, out(reg_byte) ok, options(nomem, nostack)) };
    (ok != 0).then_some(v)
}
