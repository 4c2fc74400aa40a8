//! Fuzz targets: each takes any bytes and must not panic, hang, or take more memory than it is given.
//!
//! `cargo xtask fuzz-targets` builds them with coverage instrumentation, on stable Rust, and runs each for some seconds from its
//! corpus (`corpus/NAME`, committed). What crashes a target is kept in `target/fuzz/NAME` and printed as a command that does it again.

mod cage;
pub mod devices;
pub mod elf;
pub mod erofs;
pub mod fuse;
pub mod http;
pub mod json;
pub mod packets;

#[cfg(test)]
mod tests {
    use std::path::Path;

    /// What the targets were started from, and what once crashed one, does not.
    #[test]
    fn the_corpora_pass() {
        type Target = (&'static str, fn(&[u8]));
        let targets: [Target; 7] = [
            ("devices", super::devices::run),
            ("elf", super::elf::run),
            ("erofs", super::erofs::run),
            ("http", super::http::run),
            ("json", super::json::run),
            ("fuse", super::fuse::run),
            ("packets", super::packets::run),
        ];
        for (name, run) in targets {
            let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(name);
            let files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
            assert!(!files.is_empty(), "{name} has no corpus");
            for file in files {
                let bytes = std::fs::read(&file).unwrap();
                run(&bytes);
                // Cut off anywhere.
                for len in (0..bytes.len()).step_by(1 + bytes.len() / 50) {
                    run(&bytes[..len]);
                }
            }
        }
    }
}
