//! The root file system of a container, and what every Linux program expects to be mounted on it.

use alloc::{format, string::String, sync::Arc, vec::Vec};

use ringfence_hal::pmem::PhysRegion;
use ringfence_protocol::{Base, DiskMount, Root, VolumeMount};

use super::{FIRST_CONTAINER, Failed, find, resolver};
use crate::{
    block,
    errno::Errno,
    fs::{
        FileSystem, FileType, Mount, MountFlags, MountNamespace, NewKind, Path, Subject, Superblock, Walk,
        WalkFlags,
        erofs::Erofs,
        ext4,
        filesystems::{self, Mounter},
        fuse::Fuse,
        tmpfs::{Tmpfs, TmpfsOptions},
    },
    sync::Once,
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

/// The image in the pmem device, opened once: all containers share what is cached of it.
static IMAGE: Once<Arc<Erofs>> = Once::new();

/// Opens the image of the sandbox.
pub fn set_image(region: PhysRegion) -> Result<(), Failed> {
    let erofs = Erofs::open(region)
        .map_err(|e| (Errno::EINVAL, format!("the root image is not a usable EROFS image: {e}")))?;
    IMAGE.call_once(|| erofs);
    Ok(())
}

/// What the first container mounts besides.
static DISK_MOUNTS: Once<Vec<DiskMount>> = Once::new();

/// Says which disks the first container, which does not exist yet, is to have mounted.
pub fn set_disk_mounts(mounts: &[DiskMount]) {
    if !mounts.is_empty() {
        DISK_MOUNTS.call_once(|| mounts.to_vec());
    }
}

/// Makes the mount namespace of a container.
pub fn mount(root: &Root, volumes: &[VolumeMount], mounter: &Mounter) -> Result<Arc<MountNamespace>, Failed> {
    let top = base(root, mounter)?;
    let flags = if root.base == Base::Image { MountFlags::READ_ONLY } else { top.mount().flags() };
    let flags = flags | MountFlags::RELATIME;
    let walk = Walk { subject: Subject::ROOT, root: top.clone(), task: None };
    let place = walk
        .resolve(&top, root.path.as_bytes(), WalkFlags::DIRECTORY | WalkFlags::FOLLOW)
        .map_err(|e| (Errno::EINVAL, format!("cannot use `{}` as the root directory: {e}", root.path)))?;
    let superblock = place.mount().superblock().clone();
    let namespace =
        MountNamespace::new(Mount::new(superblock, place.dentry().clone(), flags, b"root"), &mounter.user_ns);
    for &(kind, place, options, flags) in PSEUDO {
        match mount_pseudo(&namespace, mounter, kind, place, options, flags) {
            // A root without the directory, which cannot be made either, does without the mount.
            Ok(()) | Err(Errno::ENOENT | Errno::EROFS | Errno::ENODEV) => {}
            Err(e) => return Err((e, format!("cannot mount {kind} on {place}: {e}"))),
        }
    }
    if mounter.pid_ns.container() == 0
        && let Some(mounts) = DISK_MOUNTS.get()
    {
        mounts.iter().try_for_each(|wanted| mount_disk(&namespace, wanted))?;
    }
    if mounter.pid_ns.container() == 0 {
        resolver::mount(&namespace)
            .map_err(|e| (e, format!("cannot mount a file on /etc/resolv.conf: {e}")))?;
    }
    for volume in volumes {
        mount_volume(&namespace, volume)
            .map_err(|e| (e, format!("cannot mount a shared directory on {}: {e}", volume.destination)))?;
    }
    Ok(namespace)
}

/// Mounts the file system of a disk.
fn mount_disk(namespace: &Arc<MountNamespace>, wanted: &DiskMount) -> Result<(), Failed> {
    let failed = |e| {
        (
            e,
            format!(
                "cannot mount disk {} on {}: {e}; the kernel's log (--loglevel info) says why",
                wanted.disk, wanted.at
            ),
        )
    };
    let device = block::nth(wanted.disk as usize).ok_or(Errno::ENXIO).map_err(failed)?;
    let fs = ext4::mount(&device, b"ext4", b"", true).map_err(failed)?;
    let root = namespace.root().ok_or(Errno::ENOENT).map_err(failed)?;
    let walk = Walk { subject: Subject::ROOT, root: root.clone(), task: None };
    let at = make_directories(&walk, &root, &wanted.at).map_err(failed)?;
    let superblock = Superblock::new(fs);
    let dentry = superblock.root().clone();
    let source = format!("/dev/{}", device.name);
    let mount = Mount::new(superblock, dentry, MountFlags::READ_ONLY, source.as_bytes());
    namespace.mount(&mount, at).map_err(failed)
}

/// The directory `path`, made with those above it as far as they are missing.
fn make_directories(walk: &Walk<'_>, root: &Path, path: &str) -> Result<Path, Errno> {
    let mut at = root.clone();
    let path = path.trim_end_matches('/');
    for end in path.match_indices('/').map(|(i, _)| i).skip(1).chain([path.len()]) {
        let part = path.get(..end).unwrap_or_default();
        at = match walk.resolve(root, part.as_bytes(), WalkFlags::DIRECTORY | WalkFlags::FOLLOW) {
            Err(Errno::ENOENT) => make_directory(walk, root, part)?,
            found => found?,
        };
    }
    Ok(at)
}

/// The root of the tree that the container's root is in. In the container's own view of the image the image's ids are the
/// container's; in what it shares with others, they are the sandbox's.
fn base(root: &Root, mounter: &Mounter) -> Result<Path, Failed> {
    let out_of_memory = |e| (e, String::from("not enough memory for the root file system"));
    let image = || IMAGE.get().cloned().ok_or((Errno::ENODEV, String::from("the machine has no root image")));
    let fs: Arc<dyn FileSystem> = match root.base {
        Base::Main => {
            let root = find(FIRST_CONTAINER).ok().and_then(|c| c.world()).and_then(|w| w.mounts.root());
            return root.ok_or((Errno::ENOENT, String::from("the first container has no files")));
        }
        Base::Overlay => Tmpfs::over_of(image()?, &TmpfsOptions::default(), &mounter.user_ns),
        Base::Image => image()?,
        Base::Volume(volume) => Fuse::volume(volume, root.cache)
            .map_err(|e| (e, format!("cannot use shared directory {volume} as the root: {e}")))?,
        Base::Empty => {
            let (uid, gid) = mounter.ids;
            Tmpfs::new(&TmpfsOptions { mode: 0o755, uid, gid, ..TmpfsOptions::default() })
                .map_err(out_of_memory)?
        }
    };
    let superblock = Superblock::new(fs);
    let dentry = superblock.root().clone();
    Ok(Path::new(Mount::internal(superblock), dentry))
}

fn mount_pseudo(
    namespace: &Arc<MountNamespace>,
    mounter: &Mounter,
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
    let fs = filesystems::create(kind.as_bytes(), options.as_bytes(), mounter)?;
    let superblock = Superblock::owned(fs, &mounter.user_ns);
    let dentry = superblock.root().clone();
    namespace.mount(&Mount::new(superblock, dentry, flags | MountFlags::RELATIME, kind.as_bytes()), at)
}

/// Mounts a volume, on a directory or file that is made if it is missing.
fn mount_volume(namespace: &Arc<MountNamespace>, volume: &VolumeMount) -> Result<(), Errno> {
    let fs = Fuse::volume(volume.volume, volume.cache)?;
    let is_directory = fs.root().kind() == FileType::Directory;
    let root = namespace.root().ok_or(Errno::ENOENT)?;
    let walk = Walk { subject: Subject::ROOT, root: root.clone(), task: None };
    let mut at = root;
    let mut names = volume.destination.split('/').filter(|name| !matches!(*name, "" | ".")).peekable();
    while let Some(name) = names.next() {
        at = match walk.resolve(&at, name.as_bytes(), WalkFlags::FOLLOW) {
            Err(Errno::ENOENT) => {
                let directory = names.peek().is_some() || is_directory;
                let (kind, mode) =
                    if directory { (NewKind::Directory, 0o755) } else { (NewKind::Regular, 0o644) };
                crate::fs::ops::create(&walk.subject, &at, name.as_bytes(), kind, mode)?
            }
            found => found?,
        };
    }
    if (at.inode()?.kind() == FileType::Directory) != is_directory {
        return Err(Errno::ENOTDIR);
    }
    let flags = if volume.read_only { MountFlags::READ_ONLY } else { MountFlags::empty() };
    let superblock = Superblock::new(fs);
    let dentry = superblock.root().clone();
    namespace.mount(&Mount::new(superblock, dentry, flags | MountFlags::NODEV, b"ringfence"), at)
}

fn make_directory(walk: &Walk<'_>, root: &Path, place: &str) -> Result<Path, Errno> {
    let (parent, name) = place.rsplit_once('/').ok_or(Errno::ENOENT)?;
    let parent = if parent.is_empty() { "/" } else { parent };
    let parent = walk.resolve(root, parent.as_bytes(), WalkFlags::DIRECTORY)?;
    crate::fs::ops::create(&walk.subject, &parent, name.as_bytes(), NewKind::Directory, 0o755)
}
