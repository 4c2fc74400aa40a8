//! `/etc/resolv.conf` of the first container (resolv.conf(5)).
//!
//! Container runtimes make a file outside of the image and mount it over the one there, so that an image that cannot be written is no
//! obstacle and its own file stays as it was. We do the same, with a file in a file system of its own in memory.
//! Programs may change it like any other file. What a DHCP server says later is written into it.

use alloc::{format, string::String, sync::Arc, vec::Vec};
use core::net::IpAddr;

use crate::{
    errno::{Errno, Result},
    fs::{
        FileType, InodeRef, Mount, MountFlags, MountNamespace, NewKind, Path, SetAttributes, Subject,
        Superblock, Walk, WalkFlags, ops,
        tmpfs::{Tmpfs, TmpfsOptions},
    },
    io::Source,
    sync::{Once, SpinLock},
};

const PLACE: &str = "/etc/resolv.conf";

/// What is known before the container is there, and the file.
static KNOWN: SpinLock<Option<String>> = SpinLock::new(None);
static FILE: Once<InodeRef> = Once::new();

/// Has the file name these servers, and this search list. Without a server there is no such file but the image's.
pub fn set(servers: &[IpAddr], search: &[String]) {
    let mut text = String::new();
    if !search.is_empty() {
        text += &format!("search {}\n", search.join(" "));
    }
    for server in servers {
        text += &format!("nameserver {server}\n");
    }
    match FILE.get() {
        Some(file) => {
            let cut = SetAttributes { size: Some(0), ..SetAttributes::default() };
            let written = file
                .set_attributes(&cut)
                .and_then(|()| file.write_at(0, &mut Source::kernel(text.as_bytes())));
            if let Err(e) = written {
                ringfence_hal::log!(Warn, "{PLACE} cannot be written: {e}");
            }
        }
        None => *KNOWN.lock() = Some(text),
    }
}

/// Mounts the file in a container. Where there is no such name and none can be made, the container does without.
pub fn mount(namespace: &Arc<MountNamespace>) -> Result<()> {
    let Some(text) = KNOWN.lock().take() else { return Ok(()) };
    let root = namespace.root().ok_or(Errno::ENOENT)?;
    let walk = Walk { subject: Subject::ROOT, root: root.clone(), task: None };
    let at = match find(&walk, &root) {
        Err(Errno::EROFS | Errno::ENOENT | Errno::ENOTDIR) => {
            ringfence_hal::log!(
                Warn,
                "the image has no {PLACE} and cannot be written: nothing names the servers"
            );
            return Ok(());
        }
        found => found?,
    };
    let options = TmpfsOptions { mode: 0o755, ..TmpfsOptions::default() };
    let superblock = Superblock::new(Tmpfs::new(&options)?);
    let top = Path::new(Mount::internal(superblock.clone()), superblock.root().clone());
    let file = ops::create(&walk.subject, &top, b"resolv.conf", NewKind::Regular, 0o644)?;
    let inode = file.inode()?.clone();
    inode.write_at(0, &mut Source::kernel(text.as_bytes()))?;
    FILE.call_once(|| inode);
    let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::NOEXEC | MountFlags::RELATIME;
    namespace.mount(&Mount::new(superblock, file.dentry().clone(), flags, b"tmpfs"), at)
}

/// The file that is mounted on; made if it is missing, in the place of a link that leads nowhere, too.
fn find(walk: &Walk<'_>, root: &Path) -> Result<Path> {
    match walk.resolve(root, PLACE.as_bytes(), WalkFlags::FOLLOW) {
        Ok(at) if at.inode()?.kind() == FileType::Regular => return Ok(at),
        Ok(_) => return Err(Errno::ENOTDIR),
        Err(Errno::ENOENT) => {}
        Err(e) => return Err(e),
    }
    let parent = walk.parent(root, PLACE.as_bytes())?;
    match ops::unlink(&walk.subject, &parent) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(e) => return Err(e),
    }
    ops::create(&walk.subject, &parent.dir, b"resolv.conf", NewKind::Regular, 0o644)
}

/// What a DHCP server said: only if nobody else has named servers.
pub fn learn(servers: &[IpAddr]) {
    static SAID: SpinLock<Vec<IpAddr>> = SpinLock::new(Vec::new());
    let mut said = SAID.lock();
    if *said != servers {
        *said = servers.to_vec();
        drop(said);
        set(servers, &[]);
    }
}
