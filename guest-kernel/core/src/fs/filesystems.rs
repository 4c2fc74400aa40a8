//! The types `mount -t` knows.

use alloc::{sync::Arc, vec::Vec};

use super::{
    devtmpfs, ext4,
    inode::FileSystem,
    tmpfs::{Given, Tmpfs, TmpfsOptions, UNLIMITED},
};
use crate::{
    TaskRef,
    block::BlockDevice,
    errno::{Errno, Result},
    ns::{Namespaces, PidNamespace, UserNamespace},
    sync::SpinLock,
};

/// For whom a file system is mounted: what some show depends on it.
pub struct Mounter {
    /// Whose namespaces count.
    pub namespaces: Arc<Namespaces>,
    /// Whose processes are shown.
    pub pid_ns: Arc<PidNamespace>,
    /// Whose user and group numbers count.
    pub user_ns: Arc<UserNamespace>,
    /// Who owns what is made.
    pub ids: (u32, u32),
}

impl Mounter {
    /// A task that calls `mount`.
    pub fn of(task: &TaskRef) -> Mounter {
        let credentials = task.credentials();
        let ids = (credentials.fsuid, credentials.fsgid);
        let user_ns = credentials.user_ns.clone();
        Mounter { namespaces: task.namespaces(), pid_ns: task.process().pid_ns.clone(), user_ns, ids }
    }
}

/// Makes (or finds) an instance from mount options, for whoever mounts it.
pub type Constructor = fn(options: &[u8], mounter: &Mounter) -> Result<Arc<dyn FileSystem>>;

static EXTRA: SpinLock<Vec<(&'static str, Constructor)>> = SpinLock::new(Vec::new());

/// Adds a type.
pub fn register(name: &'static str, constructor: Constructor) {
    EXTRA.lock().push((name, constructor));
}

/// Whether type `kind` is on a block device.
pub fn needs_device(kind: &[u8]) -> bool {
    ext4::NAMES.iter().any(|name| name.as_bytes() == kind)
}

/// What is on `device`.
pub fn create_on(
    device: &BlockDevice,
    kind: &[u8],
    options: &[u8],
    read_only: bool,
) -> Result<Arc<dyn FileSystem>> {
    ext4::mount(device, kind, options, read_only)
}

/// The names, for `/proc/filesystems`.
pub fn names() -> Vec<&'static str> {
    let mut names = alloc::vec!["tmpfs", "ramfs", "devtmpfs", "mqueue"];
    names.extend(EXTRA.lock().iter().map(|(name, _)| *name));
    names.extend(ext4::NAMES);
    names
}

/// What a file system says of an option.
pub enum Parameter {
    /// It takes it.
    Fine,
    /// It takes it and does nothing about it.
    Ignored,
    /// It does not know it.
    Unknown,
    /// It knows it, but not with this value.
    Wrong,
}

/// Whether there is such a type.
pub fn exists(kind: &[u8]) -> bool {
    names().iter().any(|name| name.as_bytes() == kind)
}

/// Whether Linux has not taught the type to look at options one by one (as of 6.1): they are looked at when it is made.
pub fn is_legacy(kind: &[u8]) -> bool {
    matches!(kind, b"devpts" | b"devtmpfs" | b"overlay")
}

/// What type `kind` says of an option, before it is made.
pub fn check_parameter(kind: &[u8], key: &[u8], value: Option<&[u8]>) -> Parameter {
    match kind {
        b"tmpfs" => Given::check(key, value),
        b"ramfs" if key == b"mode" => Parameter::Fine,
        b"ramfs" => Parameter::Ignored,
        b"proc" if matches!(key, b"gid" | b"hidepid" | b"subset") => {
            if value.is_some() {
                Parameter::Fine
            } else {
                Parameter::Wrong
            }
        }
        b"cgroup2" if matches!(key, b"nsdelegate" | b"memory_recursiveprot" | b"memory_localevents") => {
            if value.is_none() {
                Parameter::Fine
            } else {
                Parameter::Wrong
            }
        }
        _ if is_legacy(kind) || needs_device(kind) => Parameter::Fine,
        _ => Parameter::Unknown,
    }
}

/// An instance of type `kind` for `mounter`. `ENODEV` if there is no such type.
pub fn create(kind: &[u8], options: &[u8], mounter: &Mounter) -> Result<Arc<dyn FileSystem>> {
    match kind {
        b"tmpfs" => {
            let (uid, gid) = mounter.ids;
            let rule = TmpfsOptions { uid, gid, ..TmpfsOptions::default() };
            return Ok(Tmpfs::new(&Given::parse(options)?.over(rule))?);
        }
        b"ramfs" => return Ok(Tmpfs::named("ramfs", &ramfs_options(options, mounter))?),
        b"mqueue" => return Ok(mounter.namespaces.ipc.objects().mqueue.fs()),
        b"devtmpfs" => return Ok(devtmpfs::instance(mounter.pid_ns.container(), mounter.ids)?),
        _ => {}
    }
    let found = EXTRA.lock().iter().find(|(name, _)| name.as_bytes() == kind).map(|(_, c)| *c);
    found.ok_or(Errno::ENODEV)?(options, mounter)
}

/// A file system without limits, and without options but for the mode: others are ignored.
fn ramfs_options(options: &[u8], mounter: &Mounter) -> TmpfsOptions {
    let mut modes = options.split(|b| *b == b',').filter_map(|o| o.strip_prefix(b"mode="));
    let mode =
        modes.next_back().and_then(|mode| u32::from_str_radix(core::str::from_utf8(mode).ok()?, 8).ok());
    let (uid, gid) = mounter.ids;
    TmpfsOptions { size: UNLIMITED, inodes: UNLIMITED, mode: mode.unwrap_or(0o755) & 0o7777, uid, gid }
}
