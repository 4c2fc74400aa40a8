//! The kernel's random generator: ChaCha20, seeded from the boot configuration and the processor, reseeded by
//! the virtio-rng driver.

use rand_chacha::{
    ChaCha20Rng,
    rand_core::{Rng, SeedableRng},
};
use ringfence_hal as hal;

use crate::sync::SpinLock;

static GENERATOR: SpinLock<Option<ChaCha20Rng>> = SpinLock::new(None);

fn fresh() -> ChaCha20Rng {
    let mut seed = [0; 32];
    hal::entropy::seed(&mut seed);
    ChaCha20Rng::from_seed(seed)
}

/// Fills `buf` with random bytes.
pub fn fill(buf: &mut [u8]) {
    GENERATOR.lock().get_or_insert_with(fresh).fill_bytes(buf);
}

/// A random number.
pub fn next_u64() -> u64 {
    let mut bytes = [0; 8];
    fill(&mut bytes);
    u64::from_ne_bytes(bytes)
}

/// Mixes `entropy` into the generator; what it knew before is kept.
pub fn add_entropy(entropy: &[u8]) {
    let mut guard = GENERATOR.lock();
    let generator = guard.get_or_insert_with(fresh);
    for chunk in entropy.chunks(32) {
        let mut seed = [0; 32];
        generator.fill_bytes(&mut seed);
        for (s, e) in seed.iter_mut().zip(chunk) {
            *s ^= e;
        }
        *generator = ChaCha20Rng::from_seed(seed);
    }
}
