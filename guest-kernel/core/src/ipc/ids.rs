//! Ids, keys and permissions of SysV objects.
//!
//! An id is a sequence number above an index of 15 bits. Indexes go round in a small circle, and the sequence
//! number counts the rounds, so an id is not used again soon: what somebody keeps of a removed object is `EIDRM`
//! or `EINVAL`, not another object.

use alloc::{collections::BTreeMap, sync::Arc, vec::Vec};

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    TaskRef,
    errno::{Errno, Result},
    ns::user::IdKind,
    sync::Mutex,
    task::{Capabilities, Credentials},
};

pub const IPC_PRIVATE: i32 = 0;
pub const IPC_CREAT: u32 = 0o1000;
pub const IPC_EXCL: u32 = 0o2000;
pub const IPC_NOWAIT: u32 = 0o4000;

pub const IPC_RMID: i32 = 0;
pub const IPC_SET: i32 = 1;
pub const IPC_STAT: i32 = 2;
pub const IPC_INFO: i32 = 3;

/// Reading, as a mode that is asked for.
pub const READ: u32 = 0o444;
/// Writing (altering).
pub const WRITE: u32 = 0o222;

/// Objects of one kind (`IPCMNI`).
const MAX: usize = 32_768;
/// Indexes go round in at least this many.
const MIN_CYCLE: usize = 64;
const INDEX_BITS: u32 = 15;

/// Who made an object, whose it is and who may use it.
#[derive(Clone, Copy, Debug)]
pub struct Permissions {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
}

/// `struct ipc64_perm` of x86-64.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct RawPermissions {
    pub key: i32,
    pub uid: u32,
    pub gid: u32,
    pub cuid: u32,
    pub cgid: u32,
    pub mode: u32,
    pub seq: u16,
    pub pad: [u8; 6],
    pub unused: [u64; 2],
}

impl Permissions {
    /// A new object of `task`'s.
    pub fn new(task: &TaskRef, key: i32, mode: u32) -> Permissions {
        let c = task.credentials();
        Permissions { key, uid: c.euid, gid: c.egid, cuid: c.euid, cgid: c.egid, mode: mode & 0o777 }
    }

    /// Whether `task` may what the bits of `wanted` say, in any of their three places. `EACCES`.
    pub fn check(&self, task: &TaskRef, wanted: u32) -> Result<()> {
        let c = task.credentials();
        let wanted = (wanted >> 6) | (wanted >> 3) | wanted;
        let in_group = |gid| c.egid == gid || c.groups.contains(&gid);
        let granted = if c.euid == self.uid || c.euid == self.cuid {
            self.mode >> 6
        } else if in_group(self.gid) || in_group(self.cgid) {
            self.mode >> 3
        } else {
            self.mode
        };
        if wanted & !granted & 0o7 == 0 || capable(task, &c, Capabilities::IPC_OWNER) {
            Ok(())
        } else {
            Err(Errno::EACCES)
        }
    }

    /// Whether `task` may change or remove it. `EPERM`.
    pub fn check_owner(&self, task: &TaskRef) -> Result<()> {
        let c = task.credentials();
        let owns = c.euid == self.uid || c.euid == self.cuid;
        if owns || capable(task, &c, Capabilities::SYS_ADMIN) { Ok(()) } else { Err(Errno::EPERM) }
    }

    /// As `task` sees it; `id` is the object's.
    pub fn raw(&self, task: &TaskRef, id: i32) -> RawPermissions {
        let c = task.credentials();
        RawPermissions {
            key: self.key,
            uid: c.user_ns.show_uid(self.uid),
            gid: c.user_ns.show_gid(self.gid),
            cuid: c.user_ns.show_uid(self.cuid),
            cgid: c.user_ns.show_gid(self.cgid),
            mode: self.mode,
            seq: (id >> INDEX_BITS) as u16,
            pad: [0; 6],
            unused: [0; 2],
        }
    }

    /// `IPC_SET`: owner and permission bits. `EINVAL` for ids that mean nobody.
    pub fn set(&mut self, task: &TaskRef, to: &RawPermissions) -> Result<()> {
        let ns = task.credentials().user_ns.clone();
        self.uid = ns.to_kernel(IdKind::User, to.uid).ok_or(Errno::EINVAL)?;
        self.gid = ns.to_kernel(IdKind::Group, to.gid).ok_or(Errno::EINVAL)?;
        self.mode = self.mode & !0o777 | to.mode & 0o777;
        Ok(())
    }
}

fn capable(task: &TaskRef, c: &Credentials, which: Capabilities) -> bool {
    c.capable_in(task.namespaces().ipc.owner(), which)
}

/// What is in a table of ids.
pub trait Object {
    /// A copy of its permissions.
    fn permissions(&self) -> Permissions;
}

struct Entry<T> {
    id: i32,
    object: Arc<T>,
}

struct Table<T> {
    entries: BTreeMap<usize, Entry<T>>,
    keys: BTreeMap<i32, usize>,
    /// The next index to try, and the round.
    next: usize,
    seq: i32,
}

/// The objects of one kind.
pub struct Ids<T> {
    table: Mutex<Table<T>>,
}

impl<T: Object> Ids<T> {
    pub fn new() -> Self {
        let (entries, keys) = (BTreeMap::new(), BTreeMap::new());
        Ids { table: Mutex::new(Table { entries, keys, next: 0, seq: 0 }) }
    }

    /// The id for `key`: of the object there is, which `fits` and must grant `flags`' permissions, or of a new
    /// one that `make` makes. `max` is how many there may be (`ENOSPC`).
    pub fn get(
        &self,
        task: &TaskRef,
        key: i32,
        flags: u32,
        max: usize,
        fits: impl FnOnce(&T) -> Result<()>,
        make: impl FnOnce() -> Result<Arc<T>>,
    ) -> Result<i32> {
        let mut table = self.table.lock();
        if key != IPC_PRIVATE
            && let Some(entry) = table.keys.get(&key).and_then(|index| table.entries.get(index))
        {
            if flags & (IPC_CREAT | IPC_EXCL) == IPC_CREAT | IPC_EXCL {
                return Err(Errno::EEXIST);
            }
            fits(&entry.object)?;
            entry.object.permissions().check(task, flags & 0o777)?;
            return Ok(entry.id);
        }
        if key != IPC_PRIVATE && flags & IPC_CREAT == 0 {
            return Err(Errno::ENOENT);
        }
        if table.entries.len() >= max.min(MAX) {
            return Err(Errno::ENOSPC);
        }
        let object = make()?;
        let (index, id) = table.allocate();
        table.entries.insert(index, Entry { id, object });
        if key != IPC_PRIVATE {
            table.keys.insert(key, index);
        }
        Ok(id)
    }

    /// The object of an id. `EINVAL`; `EIDRM` if it was there.
    pub fn find(&self, id: i32) -> Result<Arc<T>> {
        let index = usize::try_from(id).map_err(|_| Errno::EINVAL)? & (MAX - 1);
        let table = self.table.lock();
        let entry = table.entries.get(&index).ok_or(Errno::EINVAL)?;
        if entry.id == id { Ok(entry.object.clone()) } else { Err(Errno::EIDRM) }
    }

    /// The object at an index, with its id (`*_STAT`). `EINVAL`.
    pub fn at(&self, index: i32) -> Result<(i32, Arc<T>)> {
        let index = usize::try_from(index).map_err(|_| Errno::EINVAL)? & (MAX - 1);
        let table = self.table.lock();
        table.entries.get(&index).map(|e| (e.id, e.object.clone())).ok_or(Errno::EINVAL)
    }

    /// What `IPC_STAT` (by id) and the `*_STAT` commands (by `index`) look at: its id, the object, and what the call
    /// returns. Who looks needs permission to read, but not for `*_STAT_ANY`.
    pub fn examine(
        &self,
        task: &TaskRef,
        number: i32,
        index: bool,
        any: bool,
    ) -> Result<(i32, Arc<T>, usize)> {
        let (id, object) = if index { self.at(number)? } else { (number, self.find(number)?) };
        if !any {
            object.permissions().check(task, READ)?;
        }
        Ok((id, object, if index { id as usize } else { 0 }))
    }

    /// The object of an id, for `task` to change or remove. `EPERM`.
    pub fn owned(&self, task: &TaskRef, id: i32) -> Result<Arc<T>> {
        let object = self.find(id)?;
        object.permissions().check_owner(task)?;
        Ok(object)
    }

    /// Takes an object out.
    pub fn remove(&self, id: i32) -> Option<Arc<T>> {
        let index = usize::try_from(id).ok()? & (MAX - 1);
        let mut table = self.table.lock();
        if table.entries.get(&index)?.id != id {
            return None;
        }
        table.forget_key(index);
        table.entries.remove(&index).map(|e| e.object)
    }

    /// Takes its key from an object that stays (a segment that is still attached).
    pub fn remove_key(&self, id: i32) {
        let index = (id as usize) & (MAX - 1);
        self.table.lock().forget_key(index);
    }

    /// All objects by index.
    pub fn all(&self) -> Vec<(i32, Arc<T>)> {
        self.table.lock().entries.values().map(|e| (e.id, e.object.clone())).collect()
    }

    pub fn count(&self) -> usize {
        self.table.lock().entries.len()
    }

    /// The highest index in use, 0 if there is none: what the `*_INFO` commands return.
    pub fn highest(&self) -> usize {
        self.table.lock().entries.last_key_value().map_or(0, |(index, _)| *index)
    }
}

impl<T> Table<T> {
    /// A free index, the next of the circle, and the id it makes.
    fn allocate(&mut self) -> (usize, i32) {
        let cycle = (self.entries.len() * 3 / 2).clamp(MIN_CYCLE, MAX);
        let mut index = self.next;
        loop {
            if index >= cycle {
                index = 0;
                self.seq = (self.seq + 1) & 0xffff;
            }
            if !self.entries.contains_key(&index) {
                break;
            }
            index += 1;
        }
        self.next = index + 1;
        (index, self.seq << INDEX_BITS | index as i32)
    }

    fn forget_key(&mut self, index: usize) {
        self.keys.retain(|_, at| *at != index);
    }
}

/// Seconds since 1970, as `*_time` fields have them.
pub fn now() -> i64 {
    (crate::time::realtime() / 1_000_000_000) as i64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_go_round_and_ids_are_not_used_again_soon() {
        let mut t: Table<()> = Table { entries: BTreeMap::new(), keys: BTreeMap::new(), next: 0, seq: 0 };
        for want in 0..MIN_CYCLE {
            assert_eq!(t.allocate(), (want, want as i32));
        }
        t.entries.insert(0, Entry { id: 0, object: Arc::new(()) });
        assert_eq!(t.allocate(), (1, 0x8001));
    }
}
