//! See [`ringfence_fuzz::json`].
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| ringfence_fuzz::json::run(data));
