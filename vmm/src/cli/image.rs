//! `ringfence image`: EROFS images of root trees.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::Failure;

/// Refuses what is not an EROFS image before a machine is built for it.
pub fn check(file: &File, path: &Path) -> Result<(), Failure> {
    const SUPERBLOCK: u64 = 1024;
    const MAGIC: u32 = 0xe0f5_e1e2;
    let mut magic = [0u8; 4];
    match file.read_exact_at(&mut magic, SUPERBLOCK) {
        Ok(()) if u32::from_le_bytes(magic) == MAGIC => Ok(()),
        _ => Err(Failure::setup(format!(
            "{} is not an EROFS image; make one with `ringfence image build DIR -o FILE`",
            path.display()
        ))),
    }
}

/// The cached image of a directory.
pub fn of_directory(_dir: &Path) -> Result<PathBuf, Failure> {
    Err(Failure::setup("--rootfs is not there yet; use --image"))
}
