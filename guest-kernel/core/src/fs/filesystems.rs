//! The types `mount -t` knows.

use alloc::{sync::Arc, vec::Vec};

use super::{
    devtmpfs, ext4,
    inode::FileSystem,
    tmpfs::{Tmpfs, TmpfsOptions},
};
use crate::{
    TaskRef,
    block::BlockDevice,
    errno::{Errno, Result},
    ns::{Namespaces, PidNamespace},
    sync::SpinLock,
};

/// For whom a file system is mounted: what some show depends on it.
pub struct Mounter {
    /// Whose namespaces count.
    pub namespaces: Arc<Namespaces>,
    /// Whose processes are shown.
    pub pid_ns: Arc<PidNamespace>,
}

impl Mounter {
    /// A task that calls `mount`.
    pub fn of(task: &TaskRef) -> Mounter {
        Mounter { namespaces: task.namespaces(), pid_ns: task.process().pid_ns.clone() }
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
    let mut names = alloc::vec!["tmpfs", "devtmpfs", "mqueue"];
    names.extend(EXTRA.lock().iter().map(|(name, _)| *name));
    names.extend(ext4::NAMES);
    names
}

/// An instance of type `kind` for `mounter`. `ENODEV` if there is no such type.
pub fn create(kind: &[u8], options: &[u8], mounter: &Mounter) -> Result<Arc<dyn FileSystem>> {
    match kind {
        b"tmpfs" | b"ramfs" => return Ok(Tmpfs::new(&parse_tmpfs(options)?)?),
        b"mqueue" => return Ok(mounter.namespaces.ipc.objects().mqueue.fs()),
        b"devtmpfs" => return Ok(devtmpfs::instance(mounter.pid_ns.container())?),
        _ => {}
    }
    let found = EXTRA.lock().iter().find(|(name, _)| name.as_bytes() == kind).map(|(_, c)| *c);
    found.ok_or(Errno::ENODEV)?(options, mounter)
}

/// `size=`, `nr_blocks=`, `nr_inodes=`, `mode=`, `uid=`, `gid=` of `tmpfs(5)`.
fn parse_tmpfs(options: &[u8]) -> Result<TmpfsOptions> {
    let mut parsed = TmpfsOptions::default();
    for option in options.split(|b| *b == b',').filter(|o| !o.is_empty()) {
        let option = core::str::from_utf8(option).map_err(|_| Errno::EINVAL)?;
        let (key, value) = option.split_once('=').unwrap_or((option, ""));
        match key {
            "size" => parsed.size = size(value, parsed.size)?,
            "nr_blocks" => parsed.size = size(value, 0)?.saturating_mul(4096),
            "nr_inodes" => parsed.inodes = size(value, 0)?,
            "mode" => parsed.mode = u32::from_str_radix(value, 8).map_err(|_| Errno::EINVAL)? & 0o7777,
            "uid" => parsed.uid = value.parse().map_err(|_| Errno::EINVAL)?,
            "gid" => parsed.gid = value.parse().map_err(|_| Errno::EINVAL)?,
            "huge" | "noswap" | "inode64" | "inode32" | "mpol" => {}
            _ => return Err(Errno::EINVAL),
        }
    }
    if parsed.size == 0 {
        parsed.size = u64::MAX / 2; // no limit
    }
    if parsed.inodes == 0 {
        parsed.inodes = u64::MAX;
    }
    Ok(parsed)
}

/// A number with `k`, `m`, `g` or, of memory, `%`. `half` is half of the memory in bytes.
fn size(text: &str, half: u64) -> Result<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let n: u64 = digits.parse().map_err(|_| Errno::EINVAL)?;
    let unit = match text.get(digits.len()..).unwrap_or_default() {
        "" => 1,
        "k" | "K" => 1 << 10,
        "m" | "M" => 1 << 20,
        "g" | "G" => 1 << 30,
        "%" => return Ok((half / 50).saturating_mul(n)),
        _ => return Err(Errno::EINVAL),
    };
    n.checked_mul(unit).ok_or(Errno::EINVAL)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tmpfs_options_are_parsed() {
        let o = parse_tmpfs(b"size=64m,mode=700,uid=5").unwrap();
        assert_eq!((o.size, o.mode, o.uid), (64 << 20, 0o700, 5));
        assert_eq!(parse_tmpfs(b"size=x").err(), Some(Errno::EINVAL));
        assert_eq!(parse_tmpfs(b"what=1").err(), Some(Errno::EINVAL));
        assert_eq!(size("10%", 500).unwrap(), 100);
    }
}
