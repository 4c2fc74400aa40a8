//! The directory of a sandbox, and the ids nobody else has.
//!
//! ```text
//! /run/ringfence/            (root; otherwise $XDG_RUNTIME_DIR/ringfence or /tmp/ringfence-UID)
//!   web-1/                   mode 0700, one a sandbox: sockets, state
//!     lock
//!     cgroup               where its cgroup is
//!   ids/31                   one a VMM id in use
//!   .swept                   when leftovers were looked for
//! ```
//!
//! A name and an id are held by `flock(2)` on a file that the monitor has open. The lock goes with the monitor,
//! however that ended: there is no stale state to guess about. What a dead sandbox has left is removed by
//! [`sweep`], by its supervisor or by whoever takes its name next.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};

use crate::JailError;
use crate::cgroup::Cgroup;
use crate::config::{Identity, JailConfig, SandboxId, is_root};

const IDS: &str = "ids";
const LOCK: &str = "lock";
/// Its time is when the last sweep was; no name of a sandbox.
const SWEPT: &str = ".swept";
/// Holds the path of the sandbox's cgroup.
const CGROUP: &str = "cgroup";

/// Ids of VMMs, far from those of people, of services and of the ranges `/etc/subuid` hands out by default.
const FIRST_ID: u32 = 0x5246_0000;
/// How many.
const IDS_IN_ALL: u32 = 0x1_0000;

/// A file whose lock we hold, at a path that still leads to it.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: File,
}

impl Lock {
    /// Takes the lock; `None` when somebody has it, also after `patience` more attempts.
    fn claim(path: &Path, mut patience: u32) -> io::Result<Option<Self>> {
        loop {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file = File::from(open(path, flags, Mode::RUSR | Mode::WUSR)?);
            match flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // `is_locked` holds it for a moment.
                Err(rustix::io::Errno::WOULDBLOCK) if patience > 0 => {
                    patience -= 1;
                    std::thread::sleep(Duration::from_millis(1));
                    continue;
                }
                Err(rustix::io::Errno::WOULDBLOCK) => return Ok(None),
                result => result?,
            }
            // Its last holder may have removed the file between our open and our lock.
            match fs::symlink_metadata(path) {
                Ok(now) if now.ino() == file.metadata()?.ino() => {
                    return Ok(Some(Self { path: path.to_owned(), file }));
                }
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(e),
            }
        }
    }

    fn remove(&self) {
        // Who finds it unlocked will remove or reuse it.
        let _ = fs::remove_file(&self.path);
    }
}

/// Where the directories of this user's sandboxes are.
pub fn base() -> PathBuf {
    if is_root() {
        return "/run/ringfence".into();
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(dir) if Path::new(&dir).is_absolute() => Path::new(&dir).join("ringfence"),
        _ => format!("/tmp/ringfence-{}", rustix::process::geteuid().as_raw()).into(),
    }
}

/// A sandbox's directory, claimed.
#[derive(Debug)]
pub struct Runtime {
    dir: PathBuf,
    lock: Lock,
    left: Option<Cgroup>,
    id_lock: Option<Lock>,
    uid: u32,
    gid: u32,
}

impl Runtime {
    /// Takes the name and an id for it. A directory that a killed sandbox has left is emptied first.
    pub fn claim(base: &Path, id: &SandboxId, identity: Identity) -> Result<Self, JailError> {
        private_directory(base)?;
        let dir = base.join(id.as_str());
        let fail = |e| JailError::host(format!("claim {}", dir.display()), e);
        let mut was_there = false;
        let lock = loop {
            was_there |= !make_directory(&dir, 0o700).map_err(fail)?;
            match Lock::claim(&dir.join(LOCK), 3) {
                Ok(Some(lock)) => break lock,
                Ok(None) => return Err(JailError::InUse(id.clone())),
                // Removed by its last holder after we found it.
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => return Err(fail(e)),
            }
        };
        let left = fs::read(dir.join(CGROUP)).ok();
        let left = left.and_then(|path| Cgroup::at(OsStr::from_bytes(&path).into()));
        let mut runtime = Self { dir, lock, left, id_lock: None, uid: 0, gid: 0 };
        if was_there {
            let fail = |e| JailError::host(format!("clean up {}", runtime.dir.display()), e);
            runtime.empty().map_err(fail)?;
            free_ids(base).map_err(fail)?;
        }
        (runtime.uid, runtime.gid) = match identity {
            Identity::Fixed { uid, gid } => (uid, gid),
            Identity::Unique if is_root() => {
                let id = runtime.unique_id(base)?;
                (id, id)
            }
            Identity::Unique => (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()),
        };
        Ok(runtime)
    }

    fn unique_id(&mut self, base: &Path) -> Result<u32, JailError> {
        let ids = base.join(IDS);
        make_directory(&ids, 0o700).map_err(|e| JailError::host(format!("make {}", ids.display()), e))?;
        // Starting anywhere but at the same place spares most starts the search through what is taken.
        let mut start = [0u8; 2];
        let _ = rustix::rand::getrandom(&mut start, rustix::rand::GetRandomFlags::empty());
        let start = u32::from(u16::from_le_bytes(start));
        for n in 0..IDS_IN_ALL {
            let n = (start + n) % IDS_IN_ALL;
            let path = ids.join(n.to_string());
            if let Some(lock) =
                Lock::claim(&path, 0).map_err(|e| JailError::host(format!("lock {}", path.display()), e))?
            {
                self.id_lock = Some(lock);
                return Ok(FIRST_ID + n);
            }
        }
        Err(JailError::Invalid(format!("all {IDS_IN_ALL} ids for sandboxes are in use")))
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The VMM's user and group id.
    pub fn ids(&self) -> (u32, u32) {
        (self.uid, self.gid)
    }

    /// What must stay open for name and id to stay ours.
    pub fn locks(&self) -> Vec<BorrowedFd<'_>> {
        let locks = [Some(&self.lock), self.id_lock.as_ref()];
        locks.into_iter().flatten().map(|lock| lock.file.as_fd()).collect()
    }

    /// Notes where the cgroup is, for who has to clean up after us.
    pub fn note(&self, cgroup: &Cgroup) -> Result<(), JailError> {
        let note = self.dir.join(CGROUP);
        fs::write(&note, cgroup.path().as_os_str().as_bytes())
            .map_err(|e| JailError::host(format!("write {}", note.display()), e))
    }

    /// The cgroup that a killed sandbox of this name has left.
    pub fn left(&mut self) -> Option<Cgroup> {
        self.left.take()
    }

    /// Removes everything in the directory but the lock.
    fn empty(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            match entry.file_type()? {
                _ if entry.file_name() == OsStr::new(LOCK) => {}
                kind if kind.is_dir() => fs::remove_dir_all(entry.path())?,
                _ => fs::remove_file(entry.path())?,
            }
        }
        Ok(())
    }

    /// Gives name and id back, and removes what stood for them.
    pub fn remove(self) -> Result<(), JailError> {
        self.try_remove().map_err(|e| JailError::host(format!("remove {}", self.dir.display()), e))
    }

    fn try_remove(&self) -> io::Result<()> {
        if let Some(lock) = &self.id_lock {
            lock.remove();
        }
        self.empty()?;
        self.lock.remove();
        match fs::remove_dir(&self.dir) {
            // Somebody has taken the name since.
            Err(e) if e.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            result => result,
        }
    }
}

/// Removes what a sandbox has left whose monitor was killed.
pub fn sweep(base: &Path, config: &JailConfig) -> Result<(), JailError> {
    if fs::symlink_metadata(base.join(config.id.as_str())).is_err() {
        return Ok(()); // the usual case: it has cleaned up itself
    }
    let nobody = Identity::Fixed { uid: 0, gid: 0 }; // none of the unique ids
    let mut runtime = match Runtime::claim(base, &config.id, nobody) {
        Err(JailError::InUse(_)) => return Ok(()), // started again meanwhile
        claimed => claimed?,
    };
    // The note may not have been written yet.
    for cgroup in [runtime.left(), Cgroup::left_by(config)].into_iter().flatten() {
        cgroup.remove()?;
    }
    runtime.remove()?;
    free_ids(base).map_err(|e| JailError::host(format!("free the ids in {}", base.join(IDS).display()), e))
}

/// Removes the files of ids that nobody holds any more.
fn free_ids(base: &Path) -> io::Result<()> {
    let entries = match fs::read_dir(base.join(IDS)) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        if let Some(lock) = Lock::claim(&entry?.path(), 0)? {
            lock.remove();
        }
    }
    Ok(())
}

/// [`sweep_all`], at most once in `age`.
pub fn sweep_now_and_then(base: &Path, age: Duration) -> Result<(), JailError> {
    let stamp = base.join(SWEPT);
    let done = fs::symlink_metadata(&stamp).and_then(|found| found.modified());
    if done.is_ok_and(|done| done.elapsed().is_ok_and(|elapsed| elapsed < age)) {
        return Ok(());
    }
    fs::write(&stamp, "").map_err(|e| JailError::host(format!("write {}", stamp.display()), e))?;
    sweep_all(base, age)
}

/// Removes what sandboxes have left whose every process was killed at once, if that is older than `age`: a younger
/// directory without a lock may be that of a sandbox about to start.
pub fn sweep_all(base: &Path, age: Duration) -> Result<(), JailError> {
    let found = list(base).map_err(|e| JailError::host(format!("list {}", base.display()), e))?;
    let is_old = |id: &SandboxId| {
        let changed = fs::symlink_metadata(base.join(id.as_str())).and_then(|found| found.modified());
        changed.is_ok_and(|changed| changed.elapsed().is_ok_and(|elapsed| elapsed >= age))
    };
    let dead = found.into_iter().filter(|(id, running)| !running && is_old(id));
    dead.map(|(id, _)| JailConfig::new(id)).try_for_each(|config| sweep(base, &config))?;
    free_ids(base).map_err(|e| JailError::host(format!("free the ids in {}", base.join(IDS).display()), e))
}

/// Names below `base`, and whether each is running.
pub fn list(base: &Path) -> io::Result<Vec<(SandboxId, bool)>> {
    let entries = match fs::read_dir(base) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries?,
    };
    let mut found = Vec::new();
    for entry in entries {
        let entry = entry?;
        let Some(id) = entry.file_name().to_str().and_then(|n| SandboxId::new(n).ok()) else { continue };
        if entry.file_name() != OsStr::new(IDS) {
            found.push((id, is_locked(&entry.path().join(LOCK))));
        }
    }
    found.sort();
    Ok(found)
}

fn is_locked(path: &Path) -> bool {
    let Ok(file) = open(path, OFlags::RDWR | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) else {
        return false;
    };
    flock(&file, FlockOperation::NonBlockingLockShared) == Err(rustix::io::Errno::WOULDBLOCK)
}

/// False if it was there.
fn make_directory(path: &Path, mode: u32) -> io::Result<bool> {
    match DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        result => result.map(|()| true),
    }
}

/// Makes the base, or checks that the one which is there is ours alone: in `/tmp` anybody could have made it.
fn private_directory(base: &Path) -> Result<(), JailError> {
    let fail = |e| JailError::host(format!("make {}", base.display()), e);
    make_directory(base, 0o700).map_err(fail)?;
    let found = fs::symlink_metadata(base).map_err(fail)?;
    let ours = found.uid() == rustix::process::geteuid().as_raw();
    if !found.is_dir() || !ours || found.permissions().mode() & 0o022 != 0 {
        return Err(JailError::Invalid(format!(
            "{} must be a directory of this user that nobody else can write to; remove it",
            base.display()
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);
    impl Scratch {
        fn new(name: &str) -> Self {
            let dir = std::env::temp_dir().join(format!("ringfence-jailer-{name}-{}", std::process::id()));
            let _ = fs::remove_dir_all(&dir);
            Self(dir)
        }
    }
    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn id(name: &str) -> SandboxId {
        SandboxId::new(name).unwrap()
    }

    #[test]
    fn a_name_is_taken_once_and_free_again() {
        let base = Scratch::new("name");
        let first = Runtime::claim(&base.0, &id("a"), Identity::Unique).unwrap();
        assert!(matches!(
            Runtime::claim(&base.0, &id("a"), Identity::Unique),
            Err(JailError::InUse(name)) if name.as_str() == "a"
        ));
        let other = Runtime::claim(&base.0, &id("b"), Identity::Unique).unwrap();
        if is_root() {
            assert_ne!(first.ids(), other.ids());
            assert!(first.ids().0 >= FIRST_ID);
        }
        assert_eq!(list(&base.0).unwrap(), [(id("a"), true), (id("b"), true)]);
        first.remove().unwrap();
        Runtime::claim(&base.0, &id("a"), Identity::Unique).unwrap();
    }

    #[test]
    fn what_a_killed_sandbox_left_is_gone() {
        let base = Scratch::new("stale");
        let dead = Runtime::claim(&base.0, &id("a"), Identity::Unique).unwrap();
        fs::write(dead.dir().join("api.sock"), "").unwrap();
        fs::create_dir(dead.dir().join("d")).unwrap();
        fs::write(dead.dir().join("d/f"), "").unwrap();
        drop(dead); // its lock goes as it would by kill -9
        assert_eq!(list(&base.0).unwrap(), [(id("a"), false)]);
        let next = Runtime::claim(&base.0, &id("a"), Identity::Unique).unwrap();
        assert_eq!(fs::read_dir(next.dir()).unwrap().count(), 1);
    }

    #[test]
    fn a_base_of_somebody_else_is_refused() {
        let base = Scratch::new("base");
        fs::create_dir(&base.0).unwrap();
        fs::set_permissions(&base.0, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(Runtime::claim(&base.0, &id("a"), Identity::Unique).is_err());
        let link = Scratch::new("link");
        std::os::unix::fs::symlink("/", &link.0).unwrap();
        assert!(Runtime::claim(&link.0, &id("a"), Identity::Unique).is_err());
        fs::remove_file(&link.0).unwrap();
    }
}
