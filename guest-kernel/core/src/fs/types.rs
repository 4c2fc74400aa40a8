//! Plain data of the VFS, with the numbers of the Linux ABI.

use bitflags::bitflags;

/// The type of a file; the values are `DT_*` of `getdents64`, and `S_IFMT >> 12`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FileType {
    /// Named pipe, or the inode of a pipe.
    Fifo = 1,
    /// Character device.
    CharDevice = 2,
    /// Directory.
    Directory = 4,
    /// Block device.
    BlockDevice = 6,
    /// Regular file.
    Regular = 8,
    /// Symbolic link.
    Symlink = 10,
    /// Socket.
    Socket = 12,
}

impl FileType {
    /// From the `S_IFMT` bits of a mode.
    pub fn from_mode(mode: u32) -> Option<FileType> {
        Some(match (mode >> 12) & 0xf {
            1 => FileType::Fifo,
            2 => FileType::CharDevice,
            4 => FileType::Directory,
            6 => FileType::BlockDevice,
            8 => FileType::Regular,
            10 => FileType::Symlink,
            12 => FileType::Socket,
            _ => return None,
        })
    }

    /// The `S_IFMT` bits.
    pub const fn mode_bits(self) -> u32 {
        (self as u32) << 12
    }
}

/// A device number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct DeviceId {
    /// Major number (12 bits in the ABI).
    pub major: u32,
    /// Minor number (20 bits in the ABI).
    pub minor: u32,
}

impl DeviceId {
    /// No device.
    pub const NONE: DeviceId = DeviceId { major: 0, minor: 0 };

    /// A device number.
    pub const fn new(major: u32, minor: u32) -> Self {
        DeviceId { major, minor }
    }

    /// The user ABI's 64-bit `dev_t`.
    pub const fn encode(self) -> u64 {
        let (ma, mi) = (self.major as u64, self.minor as u64);
        (mi & 0xff) | ((ma & 0xfff) << 8) | ((mi & !0xff) << 12) | ((ma & !0xfff) << 32)
    }

    /// From the user ABI's `dev_t`.
    pub const fn decode(dev: u64) -> Self {
        DeviceId {
            major: (((dev >> 8) & 0xfff) | ((dev >> 32) & !0xfff)) as u32,
            minor: ((dev & 0xff) | ((dev >> 12) & 0xffff_ff00)) as u32,
        }
    }
}

/// A point of wall-clock time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Timestamp {
    /// Seconds since 1970.
    pub sec: i64,
    /// Nanoseconds, below 1,000,000,000.
    pub nsec: u32,
}

impl Timestamp {
    /// The wall clock now.
    pub fn now() -> Timestamp {
        let ns = crate::time::realtime();
        Timestamp { sec: (ns / 1_000_000_000) as i64, nsec: (ns % 1_000_000_000) as u32 }
    }
}

/// What `stat` tells about an inode.
#[derive(Clone, Copy, Debug)]
pub struct Metadata {
    /// Device number of the file system (`Superblock::dev`), encoded.
    pub dev: u64,
    /// Inode number, unique and stable in its file system.
    pub ino: u64,
    /// Type.
    pub kind: FileType,
    /// Permission bits, `0o7777`.
    pub mode: u32,
    /// Hard links.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device inode.
    pub rdev: DeviceId,
    /// Size in bytes.
    pub size: u64,
    /// Allocated, in units of 512 bytes.
    pub blocks: u64,
    /// Preferred I/O size in bytes.
    pub block_size: u32,
    /// Last access.
    pub atime: Timestamp,
    /// Last change of content.
    pub mtime: Timestamp,
    /// Last change of inode.
    pub ctime: Timestamp,
    /// Birth, if known.
    pub btime: Option<Timestamp>,
}

impl Metadata {
    /// Metadata of an object without content: one link, root's, now.
    pub fn new(dev: u64, ino: u64, kind: FileType, mode: u32) -> Metadata {
        let now = Timestamp::now();
        Metadata {
            dev,
            ino,
            kind,
            mode: mode & 0o7777,
            nlink: if kind == FileType::Directory { 2 } else { 1 },
            uid: 0,
            gid: 0,
            rdev: DeviceId::NONE,
            size: 0,
            blocks: 0,
            block_size: 4096,
            atime: now,
            mtime: now,
            ctime: now,
            btime: None,
        }
    }

    /// `st_mode`: type and permissions.
    pub fn full_mode(&self) -> u32 {
        self.kind.mode_bits() | self.mode
    }
}

/// A change of attributes; what is `None` stays. Permission was checked by the caller.
#[derive(Clone, Copy, Debug, Default)]
pub struct SetAttributes {
    /// Permission bits.
    pub mode: Option<u32>,
    /// Owner.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Size in bytes: truncate or extend with zeros.
    pub size: Option<u64>,
    /// Access time.
    pub atime: Option<Timestamp>,
    /// Modification time.
    pub mtime: Option<Timestamp>,
    /// Change time; set by the VFS with every change.
    pub ctime: Option<Timestamp>,
}

impl SetAttributes {
    /// Writes the change into `m`, the size excepted. Without a change time, that is now.
    pub fn apply(&self, m: &mut Metadata) {
        m.mode = self.mode.map_or(m.mode, |mode| mode & 0o7777);
        m.uid = self.uid.unwrap_or(m.uid);
        m.gid = self.gid.unwrap_or(m.gid);
        m.atime = self.atime.unwrap_or(m.atime);
        m.mtime = self.mtime.unwrap_or(m.mtime);
        m.ctime = self.ctime.unwrap_or_else(Timestamp::now);
    }
}

/// What `statfs` tells about a file system.
#[derive(Clone, Copy, Debug, Default)]
pub struct StatFs {
    /// `f_type`, the magic of `statfs(2)`.
    pub magic: u64,
    /// Block size in bytes.
    pub block_size: u64,
    /// Blocks in all.
    pub blocks: u64,
    /// Free blocks.
    pub free: u64,
    /// Inodes in all.
    pub files: u64,
    /// Free inodes.
    pub files_free: u64,
    /// Longest name.
    pub name_max: u64,
}

bitflags! {
    /// Flags of `open(2)` and the status flags of an open file description.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
    pub struct OpenFlags: u32 {
        /// Write only.
        const WRONLY = 0o1;
        /// Read and write.
        const RDWR = 0o2;
        /// Create if missing.
        const CREAT = 0o100;
        /// Fail if there.
        const EXCL = 0o200;
        /// Do not make it the controlling terminal.
        const NOCTTY = 0o400;
        /// Truncate.
        const TRUNC = 0o1000;
        /// Every write goes to the end.
        const APPEND = 0o2000;
        /// Do not block.
        const NONBLOCK = 0o4000;
        /// Data synchronous.
        const DSYNC = 0o10000;
        /// SIGIO.
        const ASYNC = 0o20000;
        /// Unbuffered.
        const DIRECT = 0o40000;
        /// Large file; always set on x86-64.
        const LARGEFILE = 0o100000;
        /// Must be a directory.
        const DIRECTORY = 0o200000;
        /// Do not follow a final symbolic link.
        const NOFOLLOW = 0o400000;
        /// Do not update the access time.
        const NOATIME = 0o1000000;
        /// Close on exec.
        const CLOEXEC = 0o2000000;
        /// Synchronous; with DSYNC.
        const SYNC = 0o4010000;
        /// A reference to a place only.
        const PATH = 0o10000000;
        /// Unnamed temporary file; with DIRECTORY.
        const TMPFILE = 0o20000000;
    }
}

impl OpenFlags {
    /// What `fcntl(F_SETFL)` may change.
    pub const SETTABLE: OpenFlags =
        OpenFlags::APPEND.union(OpenFlags::NONBLOCK).union(OpenFlags::DIRECT).union(OpenFlags::NOATIME);

    /// Opened for reading.
    pub fn readable(self) -> bool {
        matches!(self.bits() & 3, 0 | 2) && !self.contains(OpenFlags::PATH)
    }

    /// Opened for writing.
    pub fn writable(self) -> bool {
        matches!(self.bits() & 3, 1 | 2) && !self.contains(OpenFlags::PATH)
    }
}
