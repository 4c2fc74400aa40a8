//! Whether a file is an image a sandbox can use.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::Path;

use ringfence_erofs::format::{BLOCK_SIZE, MAGIC, RawSuperblock, SUPER_OFFSET, SUPER_SIZE};
use ringfence_erofs::{Filesystem, Image};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::{Error, Result};

/// What an image says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Info {
    /// Bytes that belong to the image; the file may be longer.
    pub size: u64,
    /// Files, directories and so on.
    pub inodes: u64,
    /// Volume id.
    pub uuid: [u8; 16],
    /// Volume name, mostly empty.
    pub volume_name: String,
}

/// Opens an image and checks that it is one: see [`inspect_file`].
pub fn inspect(path: &Path) -> Result<Info> {
    // Opening a fifo must not wait.
    let file = File::options().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path);
    let file = file.map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Error::NoImage(path.into()),
        _ if e.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) => {
            Error::NotFile { path: path.into(), what: "a socket or fifo" }
        }
        _ => Error::ReadImage { path: path.into(), source: e },
    })?;
    inspect_file(&file, path)
}

/// Checks that an open file is a whole EROFS image with nothing that the guest cannot read; `path` is for messages.
///
/// Only the superblock and the root inode are looked at: the guest trusts nothing else either. The same open file
/// should then be used, so that what is checked is what is mapped.
pub fn inspect_file(file: &File, path: &Path) -> Result<Info> {
    let path = path.to_path_buf();
    let metadata = file.metadata().map_err(|source| Error::ReadImage { path: path.clone(), source })?;
    let kind = metadata.file_type();
    if !kind.is_file() {
        let what = match () {
            () if kind.is_dir() => "a directory",
            () if kind.is_block_device() => "a block device",
            () if kind.is_char_device() => "a character device",
            () if kind.is_fifo() => "a fifo",
            () => "a special file",
        };
        return Err(Error::NotFile { path, what });
    }
    let have = metadata.len();
    let mut start = vec![0; SUPER_OFFSET as usize + SUPER_SIZE];
    let got =
        read_start(file, &mut start).map_err(|source| Error::ReadImage { path: path.clone(), source })?;
    start.truncate(got);
    let Some(raw) = start.get(SUPER_OFFSET as usize..).and_then(|rest| rest.first_chunk::<SUPER_SIZE>())
    else {
        return Err(Error::NotErofs { path, hint: guess(&start) });
    };
    let raw = RawSuperblock::decode(raw);
    if raw.magic != MAGIC {
        return Err(Error::NotErofs { path, hint: guess(&start) });
    }
    let need = u64::from(raw.blocks) * (1u64 << raw.block_bits.min(16));
    if have < need {
        return Err(Error::Truncated { path, have, need });
    }
    let opened =
        Filesystem::open(FileImage { file, len: have }).and_then(|fs| fs.root().map(|_| *fs.superblock()));
    let superblock = opened.map_err(|source| Error::BadImage { path, source })?;
    let name = String::from_utf8_lossy(&superblock.volume_name);
    Ok(Info {
        size: superblock.blocks * BLOCK_SIZE,
        inodes: superblock.inodes,
        uuid: superblock.uuid,
        volume_name: name.trim_end_matches('\0').into(),
    })
}

/// What a file that is no image seems to be.
fn guess(start: &[u8]) -> &'static str {
    let at = |offset: usize, magic: &[u8]| start.get(offset..).is_some_and(|rest| rest.starts_with(magic));
    match () {
        () if start.is_empty() => " (it is empty)",
        () if at(0, b"\x1f\x8b") => " (it looks like a gzip archive)",
        () if at(257, b"ustar") => " (it looks like a tar archive)",
        () if at(0, b"hsqs") => " (it looks like a squashfs image)",
        () if at(0, b"QFI\xfb") => " (it looks like a qcow2 image)",
        () if at(0, b"\x7fELF") => " (it looks like a program)",
        () if at(0, b"{") => " (it looks like JSON)",
        () if at(1080, b"\x53\xef") => " (it looks like an ext4 image)",
        () => "",
    }
}

/// Reads the first bytes, wherever the file's position is; returns how many there are.
fn read_start(file: &File, buf: &mut [u8]) -> io::Result<usize> {
    let mut done = 0;
    while done < buf.len() {
        match file.read_at(&mut buf[done..], done as u64) {
            Ok(0) => break,
            Ok(n) => done += n,
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
    Ok(done)
}

struct FileImage<'a> {
    file: &'a File,
    len: u64,
}

impl Image for FileImage<'_> {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> ringfence_erofs::Result<()> {
        self.file.read_exact_at(buf, offset).map_err(|_| ringfence_erofs::Error::Io)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn says_what_is_wrong() {
        let dir = crate::testing::dir("inspect");
        let path = dir.join("image");
        let message = |path: &Path| inspect(path).unwrap_err().to_string();
        assert!(message(&path).contains("no image at"), "{}", message(&path));
        assert!(message(&dir).contains("is a directory"), "{}", message(&dir));
        assert!(message(Path::new("/dev/zero")).contains("a character device"));
        fs::write(&path, "").unwrap();
        assert!(message(&path).contains("it is empty"));
        fs::write(&path, [b"\x1f\x8b".repeat(4000)].concat()).unwrap();
        assert!(message(&path).contains("gzip"));
        crate::build_from_dir(&dir, &path, &crate::Options::default(), &mut |_| ()).unwrap();
        let good = fs::read(&path).unwrap();
        assert_eq!(inspect(&path).unwrap().size, good.len() as u64);
        fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(matches!(inspect(&path), Err(Error::Truncated { .. })));
        let mut bad = good.clone();
        bad[1024 + 80] |= 4;
        fs::write(&path, &bad).unwrap();
        assert!(message(&path).contains("chunked files"), "{}", message(&path));
        bad = good;
        bad[1024 + 20] ^= 1;
        fs::write(&path, &bad).unwrap();
        assert!(message(&path).contains("checksum"), "{}", message(&path));
    }
}
