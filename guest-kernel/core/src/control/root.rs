//! The root file system and what every Linux program expects to be mounted on it.

use alloc::{format, string::String, sync::Arc};

use ringfence_hal::pmem::PhysRegion;
use ringfence_protocol::Root;

use super::Failed;
use crate::{
    errno::Errno,
    fs::{
        FileSystem, Mount, MountFlags, MountNamespace, NewKind, Path, Subject, Superblock, Walk, WalkFlags,
        erofs::Erofs,
        filesystems,
        tmpfs::{Tmpfs, TmpfsOptions},
    },
};

/// Type, place, options.
const PSEUDO: &[(&str, &str, &str, MountFlags)] = &[
    ("proc", "/proc", "", NOSUID_NOEXEC.union(MountFlags::NODEV)),
    ("devtmpfs", "/dev", "", MountFlags::NOSUID),
    ("devpts", "/dev/pts", "", NOSUID_NOEXEC),
    ("mqueue", "/dev/mqueue", "", NOSUID_NOEXEC.union(MountFlags::NODEV)),
    ("tmpfs", "/dev/shm", "mode=1777", MountFlags::NOSUID.union(MountFlags::NODEV)),
    ("sysfs", "/sys", "", NOSUID_NOEXEC.union(MountFlags::NODEV).union(MountFlags::READ_ONLY)),
    ("cgroup2", "/sys/fs/cgroup", "", NOSUID_NOEXEC.union(MountFlags::NODEV)),
];

const NOSUID_NOEXEC: MountFlags = MountFlags::NOSUID.union(MountFlags::NOEXEC);

/// Makes the mount namespace of the first process.
pub fn mount(root: Root, image: Option<PhysRegion>) -> Result<Arc<MountNamespace>, Failed> {
    let fs = root_file_system(root, image)?;
    let superblock = Superblock::new(fs);
    let dentry = superblock.root().clone();
    let flags = if root == Root::Pmem { MountFlags::READ_ONLY } else { MountFlags::empty() };
    let namespace = MountNamespace::new(Mount::new(superblock, dentry, flags, b"root"));
    for &(kind, place, options, flags) in PSEUDO {
        match mount_pseudo(&namespace, kind, place, options, flags) {
            // A root without the directory, which cannot be made either, does without the mount.
            Ok(()) | Err(Errno::ENOENT | Errno::EROFS | Errno::ENODEV) => {}
            Err(e) => return Err((e, format!("cannot mount {kind} on {place}: {e}"))),
        }
    }
    Ok(namespace)
}

fn root_file_system(root: Root, image: Option<PhysRegion>) -> Result<Arc<dyn FileSystem>, Failed> {
    let out_of_memory = |e| (e, String::from("not enough memory for the root file system"));
    if root == Root::Tmpfs {
        return Ok(
            Tmpfs::new(&TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() }).map_err(out_of_memory)?
        );
    }
    let region = image.ok_or((Errno::ENODEV, String::from("the machine has no root image")))?;
    let erofs = Erofs::open(region)
        .map_err(|e| (Errno::EINVAL, format!("the root image is not a usable EROFS image: {e}")))?;
    Ok(match root {
        Root::OverlayPmem => Tmpfs::over(erofs, &TmpfsOptions::default()),
        _ => erofs,
    })
}

fn mount_pseudo(
    namespace: &Arc<MountNamespace>,
    kind: &str,
    place: &str,
    options: &str,
    flags: MountFlags,
) -> Result<(), Errno> {
    let root = namespace.root().ok_or(Errno::ENOENT)?;
    let walk = Walk { subject: Subject::ROOT, root: root.clone(), task: None };
    let at = match walk.resolve(&root, place.as_bytes(), WalkFlags::DIRECTORY) {
        Ok(at) => at,
        Err(Errno::ENOENT) => make_directory(&walk, &root, place)?,
        Err(e) => return Err(e),
    };
    let superblock = Superblock::new(filesystems::create(kind.as_bytes(), options.as_bytes(), None)?);
    let dentry = superblock.root().clone();
    namespace.mount(&Mount::new(superblock, dentry, flags, kind.as_bytes()), at)
}

fn make_directory(walk: &Walk<'_>, root: &Path, place: &str) -> Result<Path, Errno> {
    let (parent, name) = place.rsplit_once('/').ok_or(Errno::ENOENT)?;
    let parent = if parent.is_empty() { "/" } else { parent };
    let parent = walk.resolve(root, parent.as_bytes(), WalkFlags::DIRECTORY)?;
    crate::fs::ops::create(&walk.subject, &parent, name.as_bytes(), NewKind::Directory, 0o755)
}
