//! The FPU state of the current thread: an XSAVE image that no instruction ever loads.
//!
//! Standard format (Intel SDM volume 1, section 13.4): 512 bytes of legacy area, a 64-byte header, and no
//! extended component, as on a machine whose XCR0 has x87 and SSE only.

use crate::InvalidFpuState;
use std::cell::RefCell;

/// Bytes of the image.
const SIZE: usize = 512 + 64;
/// XCR0: x87 and SSE.
const FEATURES: u64 = 0x3;
/// Offset of MXCSR.
const MXCSR: usize = 24;
/// MXCSR bits that exist.
const MXCSR_MASK: u32 = 0xffff;
/// Offset of XSTATE_BV; XCOMP_BV and the reserved header bytes follow.
const XSTATE_BV: usize = 512;

pub(super) type Image = [u8; SIZE];

thread_local! {
    static LIVE: RefCell<Image> = const { RefCell::new(initial()) };
}

/// The processor's initial state: control word 0x37f, MXCSR 0x1f80.
pub(super) const fn initial() -> Image {
    let mut image = [0; SIZE];
    image[0] = 0x7f;
    image[1] = 0x03;
    image[MXCSR] = 0x80;
    image[MXCSR + 1] = 0x1f;
    image[MXCSR + 4] = 0xff;
    image[MXCSR + 5] = 0xff;
    image
}

/// Bytes of the XSAVE area in standard format.
pub fn size() -> usize {
    SIZE
}

/// The enabled state components: XCR0.
pub fn features() -> u64 {
    FEATURES
}

/// Writes the live state to the first [`size`] bytes of `buf`.
///
/// # Panics
/// If `buf` is shorter.
pub fn save(buf: &mut [u8]) {
    LIVE.with_borrow(|live| buf[..SIZE].copy_from_slice(live));
}

/// Whether [`restore`] would take this image, which a program may have written.
pub fn check(buf: &[u8]) -> Result<(), InvalidFpuState> {
    let buf = buf.get(..SIZE).ok_or(InvalidFpuState)?;
    let u32_at = |off: usize| u32::from_le_bytes([buf[off], buf[off + 1], buf[off + 2], buf[off + 3]]);
    let components = u64::from(u32_at(XSTATE_BV)) | u64::from(u32_at(XSTATE_BV + 4)) << 32;
    let header_rest_is_zero = buf[XSTATE_BV + 8..XSTATE_BV + 64].iter().all(|&b| b == 0);
    if u32_at(MXCSR) & !MXCSR_MASK != 0 || components & !FEATURES != 0 || !header_rest_is_zero {
        return Err(InvalidFpuState);
    }
    Ok(())
}

/// Loads a state that a program may have written. Refused if the processor would refuse it: reserved MXCSR
/// bits, components outside [`features`], a compacted format, reserved header bytes; or too short.
pub fn restore(buf: &[u8]) -> Result<(), InvalidFpuState> {
    check(buf)?;
    let buf = buf.get(..SIZE).ok_or(InvalidFpuState)?;
    LIVE.with_borrow_mut(|live| live.copy_from_slice(buf));
    Ok(())
}

/// Loads the processor's initial state.
pub fn reset() {
    set_live(initial());
}

pub(super) fn live() -> Image {
    LIVE.with_borrow(|live| *live)
}

pub(super) fn set_live(image: Image) {
    LIVE.set(image);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_can_be_restored_and_hostile_images_cannot() {
        let mut image = vec![0; size()];
        save(&mut image);
        image[100] = 7;
        restore(&image).unwrap();
        let mut again = vec![0; size()];
        save(&mut again);
        assert_eq!(image, again);

        let broken = |off: usize, bit: u8| {
            let mut b = image.clone();
            b[off] |= bit;
            restore(&b)
        };
        assert_eq!(broken(MXCSR + 2, 1), Err(InvalidFpuState), "reserved MXCSR bit");
        assert_eq!(broken(XSTATE_BV, 4), Err(InvalidFpuState), "AVX is not enabled");
        assert_eq!(broken(XSTATE_BV + 15, 0x80), Err(InvalidFpuState), "compacted format");
        assert_eq!(broken(XSTATE_BV + 63, 1), Err(InvalidFpuState), "reserved header byte");
        assert_eq!(restore(&image[..SIZE - 1]), Err(InvalidFpuState));
        reset();
        assert_eq!(live(), initial());
    }
}
