//! See [`ringfence_fuzz::devices`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_fuzz::devices::run(data));
