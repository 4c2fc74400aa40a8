//! See [`ringfence_fuzz::fuse`].
#![no_main]

libfuzzer_sys::fuzz_target!(init: ringfence_fuzz::fuse::prepare(), |data: &[u8]| ringfence_fuzz::fuse::run(data));
