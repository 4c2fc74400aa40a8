//! See [`ringfence_fuzz::erofs`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_fuzz::erofs::run(data));
