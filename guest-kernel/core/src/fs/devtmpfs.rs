//! `/dev`: a tmpfs with the usual nodes and links. The kernel makes one for each container; mounting `devtmpfs` again
//! shows the same one.

use alloc::{collections::BTreeMap, sync::Arc};

use super::{
    inode::{Inode, NewInode, NewKind},
    tmpfs::{Tmpfs, TmpfsOptions},
    types::DeviceId,
};
use crate::{errno::Result, sync::Mutex};

const NODES: &[(&str, u32, DeviceId)] = &[
    ("null", 0o666, DeviceId::new(1, 3)),
    ("zero", 0o666, DeviceId::new(1, 5)),
    ("full", 0o666, DeviceId::new(1, 7)),
    ("random", 0o666, DeviceId::new(1, 8)),
    ("urandom", 0o666, DeviceId::new(1, 9)),
    ("tty", 0o666, DeviceId::new(5, 0)),
    ("console", 0o600, DeviceId::new(5, 1)),
    ("ptmx", 0o666, DeviceId::new(5, 2)),
];

const LINKS: &[(&str, &str)] = &[
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
];

const DIRECTORIES: &[(&str, u32)] = &[("pts", 0o755), ("shm", 0o1777), ("mqueue", 0o1777)];

static INSTANCES: Mutex<BTreeMap<u32, Arc<Tmpfs>>> = Mutex::new(BTreeMap::new());

/// The devtmpfs of a container; made at the first call, and owned by `ids`.
pub fn instance(container: u32, ids: (u32, u32)) -> Result<Arc<Tmpfs>> {
    let mut instances = INSTANCES.lock();
    if let Some(fs) = instances.get(&container) {
        return Ok(fs.clone());
    }
    let fs = make(container == 0, ids)?;
    instances.insert(container, fs.clone());
    Ok(fs)
}

/// A container is gone.
pub fn forget(container: u32) {
    let fs = INSTANCES.lock().remove(&container);
    drop(fs); // outside the lock
}

/// `disks`: with nodes for them, which only the first container has.
fn make(disks: bool, (uid, gid): (u32, u32)) -> Result<Arc<Tmpfs>> {
    let fs = Tmpfs::named("devtmpfs", &TmpfsOptions { mode: 0o755, uid, gid, ..TmpfsOptions::default() })?;
    let root = fs.root_inode().clone();
    let add = |name: &str, kind, mode| root.create(name.as_bytes(), &NewInode { kind, mode, uid, gid });
    for (name, mode, id) in NODES {
        add(name, NewKind::CharDevice(*id), *mode)?;
    }
    for disk in crate::block::all().into_iter().filter(|_| disks) {
        add(&disk.name, NewKind::BlockDevice(disk.id), 0o660)?;
    }
    for (name, target) in LINKS {
        add(name, NewKind::Symlink(target.as_bytes()), 0o777)?;
    }
    for (name, mode) in DIRECTORIES {
        add(name, NewKind::Directory, *mode)?;
    }
    Ok(fs)
}
