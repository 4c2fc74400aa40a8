//! FUSE messages, version 7.31 (`linux/fuse.h`), as far as we send and read them. All integers are little-endian.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::fs::types::{DeviceId, FileType, Metadata, Timestamp};

/// Protocol version.
pub const MAJOR: u32 = 7;
/// Its minor number: what our structures are of.
pub const MINOR: u32 = 31;
/// The number of the root of all volumes.
pub const ROOT: u64 = 1;
/// Bytes in front of each answer.
pub const OUT_HEADER: usize = 16;

/// What is asked for.
#[allow(missing_docs)]
pub mod op {
    pub const LOOKUP: u32 = 1;
    pub const FORGET: u32 = 2;
    pub const GETATTR: u32 = 3;
    pub const SETATTR: u32 = 4;
    pub const READLINK: u32 = 5;
    pub const SYMLINK: u32 = 6;
    pub const MKNOD: u32 = 8;
    pub const MKDIR: u32 = 9;
    pub const UNLINK: u32 = 10;
    pub const RMDIR: u32 = 11;
    pub const LINK: u32 = 13;
    pub const READ: u32 = 15;
    pub const WRITE: u32 = 16;
    pub const STATFS: u32 = 17;
    pub const FSYNC: u32 = 20;
    pub const SETXATTR: u32 = 21;
    pub const GETXATTR: u32 = 22;
    pub const LISTXATTR: u32 = 23;
    pub const REMOVEXATTR: u32 = 24;
    pub const INIT: u32 = 26;
    pub const READDIR: u32 = 28;
    pub const FSYNCDIR: u32 = 30;
    pub const FALLOCATE: u32 = 43;
    pub const RENAME2: u32 = 45;
    pub const LSEEK: u32 = 46;
}

/// Bits of [`SetattrIn::valid`].
#[allow(missing_docs)]
pub mod valid {
    pub const MODE: u32 = 1;
    pub const UID: u32 = 2;
    pub const GID: u32 = 4;
    pub const SIZE: u32 = 8;
    pub const ATIME: u32 = 16;
    pub const MTIME: u32 = 32;
}

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty),* $(,)? })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
        #[repr(C)]
        #[allow(missing_docs)]
        pub struct $name { $(pub $field: $type),* }
    )*};
}

messages! {
    /// In front of each request.
    InHeader { len: u32, opcode: u32, unique: u64, node: u64, uid: u32, gid: u32, pid: u32, padding: u32 }
    /// In front of each answer.
    OutHeader { len: u32, error: i32, unique: u64 }
    /// `INIT`.
    InitIn { major: u32, minor: u32, max_readahead: u32, flags: u32 }
    /// Its answer.
    InitOut {
        major: u32, minor: u32, max_readahead: u32, flags: u32, background: u32, max_write: u32, time_gran: u32,
        max_pages: u32, flags_too: u32, unused: [u32; 7],
    }
    /// Attributes of an inode.
    Attr {
        ino: u64, size: u64, blocks: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32,
        mode: u32, nlink: u32, uid: u32, gid: u32, rdev: u32, block_size: u32, flags: u32,
    }
    /// An inode that was found or made.
    EntryOut {
        node: u64, generation: u64, entry_valid: u64, attr_valid: u64, entry_valid_nsec: u32, attr_valid_nsec: u32,
        attr: Attr,
    }
    /// `GETATTR`.
    GetattrIn { flags: u32, padding: u32, fh: u64 }
    /// Attributes that were asked for or changed.
    AttrOut { valid: u64, valid_nsec: u32, padding: u32, attr: Attr }
    /// `SETATTR`.
    SetattrIn {
        valid: u32, padding: u32, fh: u64, size: u64, lock_owner: u64, atime: u64, mtime: u64, ctime: u64,
        atime_nsec: u32, mtime_nsec: u32, ctime_nsec: u32, mode: u32, unused: u32, uid: u32, gid: u32, unused_too: u32,
    }
    /// `MKNOD`; a name follows.
    MknodIn { mode: u32, rdev: u32, umask: u32, padding: u32 }
    /// `MKDIR`; a name follows.
    MkdirIn { mode: u32, umask: u32 }
    /// `LINK`; a name follows.
    LinkIn { node: u64 }
    /// `RENAME2`; two names follow.
    RenameIn { directory: u64, flags: u32, padding: u32 }
    /// `READ` and `READDIR`.
    ReadIn { fh: u64, offset: u64, size: u32, read_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// `WRITE`; the data follow.
    WriteIn { fh: u64, offset: u64, size: u32, write_flags: u32, lock_owner: u64, flags: u32, padding: u32 }
    /// What was written.
    WriteOut { size: u32, padding: u32 }
    /// `FORGET`.
    ForgetIn { count: u64 }
    /// `FSYNC`, `FSYNCDIR`.
    FsyncIn { fh: u64, flags: u32, padding: u32 }
    /// `FALLOCATE`.
    FallocateIn { fh: u64, offset: u64, length: u64, mode: u32, padding: u32 }
    /// `LSEEK`.
    LseekIn { fh: u64, offset: u64, whence: u32, padding: u32 }
    /// Where it is.
    LseekOut { offset: u64 }
    /// `SETXATTR`; name and value follow.
    SetxattrIn { size: u32, flags: u32 }
    /// `GETXATTR`, `LISTXATTR`; a name follows the first.
    GetxattrIn { size: u32, padding: u32 }
    /// `STATFS`.
    StatfsOut {
        blocks: u64, bfree: u64, bavail: u64, files: u64, ffree: u64,
        block_size: u32, name_max: u32, fragment_size: u32, padding: u32, spare: [u32; 6],
    }
    /// In front of each name of a directory.
    Dirent { ino: u64, next: u64, name_len: u32, kind: u32 }
}

impl Attr {
    /// The type; `None` if it makes no sense.
    pub fn kind(&self) -> Option<FileType> {
        FileType::from_mode(self.mode)
    }

    /// As the VFS knows it. What makes no sense becomes what does.
    pub fn metadata(&self, dev: u64, kind: FileType) -> Metadata {
        let time = |sec: u64, nsec: u32| Timestamp {
            sec: sec as i64,
            nsec: if nsec < 1_000_000_000 { nsec } else { 0 },
        };
        Metadata {
            dev,
            ino: self.ino,
            kind,
            mode: self.mode & 0o7777,
            nlink: self.nlink,
            uid: self.uid,
            gid: self.gid,
            // A device of the host is none of ours.
            rdev: DeviceId::NONE,
            size: self.size.min(i64::MAX as u64),
            blocks: self.blocks,
            block_size: if self.block_size.is_power_of_two() {
                self.block_size.clamp(512, 1 << 20)
            } else {
                4096
            },
            atime: time(self.atime, self.atime_nsec),
            mtime: time(self.mtime, self.mtime_nsec),
            ctime: time(self.ctime, self.ctime_nsec),
            btime: None,
        }
    }
}

/// One name of a directory, taken off the front of `listing`; `None` at its end or where it makes no sense.
pub fn next_name<'l>(listing: &mut &'l [u8]) -> Option<(Dirent, &'l [u8])> {
    const HEADER: usize = size_of::<Dirent>();
    let (head, rest) = Dirent::read_from_prefix(listing).ok()?;
    let len = usize::try_from(head.name_len).ok()?;
    let name = rest.get(..len)?;
    let end = (HEADER + len).next_multiple_of(8).min(listing.len());
    *listing = listing.get(end..)?;
    Some((head, name))
}

/// Whether `name` can be one component.
pub fn is_name(name: &[u8]) -> bool {
    !name.is_empty() && name.len() <= crate::fs::NAME_MAX && !name.iter().any(|b| matches!(b, 0 | b'/'))
}

#[cfg(test)]
mod tests {
    use alloc::vec::Vec;

    use super::*;

    fn entry(name_len: u32, name: &[u8]) -> Vec<u8> {
        let mut bytes = Dirent { ino: 5, next: 9, name_len, kind: 8 }.as_bytes().to_vec();
        bytes.extend_from_slice(name);
        bytes.resize(bytes.len().next_multiple_of(8), 0);
        bytes
    }

    #[test]
    fn sizes_are_those_of_the_protocol() {
        assert_eq!((size_of::<InHeader>(), size_of::<OutHeader>()), (40, OUT_HEADER));
        assert_eq!((size_of::<Attr>(), size_of::<EntryOut>(), size_of::<AttrOut>()), (88, 128, 104));
        assert_eq!((size_of::<SetattrIn>(), size_of::<StatfsOut>(), size_of::<ReadIn>()), (88, 80, 40));
        assert_eq!(size_of::<InitOut>(), 64);
    }

    #[test]
    fn listings_of_a_hostile_host_end() {
        let good = [entry(3, b"abc"), entry(1, b"x")].concat();
        let mut listing = good.as_slice();
        assert_eq!(next_name(&mut listing).map(|(_, n)| n), Some(&b"abc"[..]));
        assert_eq!(next_name(&mut listing).map(|(_, n)| n), Some(&b"x"[..]));
        assert!(next_name(&mut listing).is_none());
        for bad in [entry(u32::MAX, b"abc"), entry(9, b"abc"), good.get(..20).unwrap_or_default().to_vec()] {
            let mut listing = bad.as_slice();
            assert!(next_name(&mut listing).is_none());
        }
        for bad in [&b""[..], b"a/b", b"a\0", &[b'x'; 256]] {
            assert!(!is_name(bad));
        }
    }
}
