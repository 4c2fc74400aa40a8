//! File descriptors.
//!
//! A table is shared by the tasks of a `CLONE_FILES` group. A bitmap of used numbers makes "lowest free" a
//! matter of one word in the common case; the rest is a vector of slots. All under one spin lock: what is
//! removed is handed back to the caller, who drops it after the lock is released, because the last reference
//! to an open file runs its release.

use alloc::{sync::Arc, vec::Vec};
use core::ops::RangeInclusive;

use super::{
    file::{self, FileRef},
    inotify, locks,
};
use crate::{
    errno::{Errno, Result},
    sync::{Once, SpinLock},
};

/// Linux's `sysctl_nr_open`: no descriptor number reaches this, whatever RLIMIT_NOFILE says.
pub const NR_OPEN: u64 = 1 << 20;

/// What `file::open_max` said first.
static FILE_MAX: Once<u64> = Once::new();

#[derive(Clone)]
struct Slot {
    file: FileRef,
    close_on_exec: bool,
}

#[derive(Clone, Default)]
struct Table {
    slots: Vec<Option<Slot>>,
    /// One bit for each slot: used.
    used: Vec<u64>,
    /// No word of `used` before this one has a free bit.
    first: usize,
}

impl Table {
    fn slot(&self, fd: usize) -> Option<&Slot> {
        self.slots.get(fd)?.as_ref()
    }

    /// The lowest free number not below `min`.
    fn lowest_free(&self, min: usize) -> usize {
        let mut word = (min / 64).max(self.first);
        loop {
            let Some(used) = self.used.get(word) else { return (word * 64).max(min) };
            let mask = if word == min / 64 { !0u64 << (min % 64) } else { !0 };
            let free = !used & mask;
            if free != 0 {
                return word * 64 + free.trailing_zeros() as usize;
            }
            word += 1;
        }
    }

    /// Makes `fd` a valid index; doubles, so that many opens cost little.
    fn reserve(&mut self, fd: usize) -> Result<()> {
        if fd >= self.slots.len() {
            let len = (fd + 1).next_power_of_two().max(64);
            self.slots.try_reserve(len - self.slots.len()).map_err(|_| Errno::ENOMEM)?;
            self.slots.resize(len, None);
            self.used.resize(len / 64, 0);
        }
        Ok(())
    }

    fn set(&mut self, fd: usize, new: Option<Slot>) -> Option<Slot> {
        let slot = self.slots.get_mut(fd)?;
        let used = self.used.get_mut(fd / 64)?;
        if new.is_some() {
            *used |= 1 << (fd % 64);
            if *used == !0 && self.first == fd / 64 {
                self.first += 1;
            }
        } else {
            *used &= !(1 << (fd % 64));
            self.first = self.first.min(fd / 64);
        }
        core::mem::replace(slot, new)
    }
}

/// A table of file descriptors.
#[derive(Default)]
pub struct FdTable {
    table: SpinLock<Table>,
}

impl FdTable {
    /// An empty table.
    pub fn new() -> Arc<FdTable> {
        Arc::new(FdTable::default())
    }

    /// A copy for a child that does not share it (`fork`), or for `unshare(CLONE_FILES)`.
    pub fn fork(&self) -> Arc<FdTable> {
        let table = self.table.lock().clone();
        Arc::new(FdTable { table: SpinLock::new(table) })
    }

    /// The open file behind `fd`, also one opened by `O_PATH`. `EBADF`.
    pub fn get_any(&self, fd: i32) -> Result<FileRef> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.table.lock().slot(fd).map(|s| s.file.clone()).ok_or(Errno::EBADF)
    }

    /// The open file behind `fd`; `EBADF` for an `O_PATH` one.
    pub fn get(&self, fd: i32) -> Result<FileRef> {
        let file = self.get_any(fd)?;
        if file.is_path() { Err(Errno::EBADF) } else { Ok(file) }
    }

    /// Gives `file` the lowest free number not below `min`. `limit` is RLIMIT_NOFILE. `EMFILE`; `EINVAL`
    /// if `min` itself is out of bounds; `ENFILE` if the whole machine has too many.
    pub fn install_from(&self, file: FileRef, close_on_exec: bool, min: u64, limit: u64) -> Result<i32> {
        let limit = limit.min(NR_OPEN);
        if min >= limit && min != 0 {
            return Err(Errno::EINVAL);
        }
        if file::open_count() > *FILE_MAX.call_once(file::open_max) {
            return Err(Errno::ENFILE);
        }
        let mut table = self.table.lock();
        let fd = table.lowest_free(min as usize);
        if fd as u64 >= limit {
            drop(table); // before `file`
            return Err(Errno::EMFILE);
        }
        table.reserve(fd)?;
        table.set(fd, Some(Slot { file, close_on_exec }));
        Ok(fd as i32)
    }

    /// Whether there is a number for one more file, as of now. `EMFILE`.
    pub fn check_room(&self, limit: u64) -> Result<()> {
        let free = self.table.lock().lowest_free(0);
        if (free as u64) < limit.min(NR_OPEN) { Ok(()) } else { Err(Errno::EMFILE) }
    }

    /// Gives `file` the lowest free number.
    pub fn install(&self, file: FileRef, close_on_exec: bool, limit: u64) -> Result<i32> {
        self.install_from(file, close_on_exec, 0, limit)
    }

    /// Gives two files numbers, both or none (`pipe2`, `socketpair`).
    pub fn install_pair(&self, files: [FileRef; 2], close_on_exec: bool, limit: u64) -> Result<[i32; 2]> {
        let [a, b] = files;
        let first = self.install(a, close_on_exec, limit)?;
        match self.install(b, close_on_exec, limit) {
            Ok(second) => Ok([first, second]),
            Err(e) => {
                drop(self.remove(first));
                Err(e)
            }
        }
    }

    /// Puts `file` at `fd` (`dup2`) and returns what was there, for the caller to drop. `EBADF` if
    /// `fd` is out of bounds.
    pub fn replace(
        &self,
        fd: i32,
        file: FileRef,
        close_on_exec: bool,
        limit: u64,
    ) -> Result<Option<FileRef>> {
        let index = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        if index as u64 >= limit.min(NR_OPEN) {
            return Err(Errno::EBADF);
        }
        let mut table = self.table.lock();
        table.reserve(index)?;
        let old = table.set(index, Some(Slot { file, close_on_exec })).map(|s| s.file);
        drop(table);
        Ok(old.inspect(|file| self.closed(file)))
    }

    /// Takes `fd` out, for the caller to drop. `EBADF`.
    pub fn remove(&self, fd: i32) -> Result<FileRef> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let removed = self.table.lock().set(fd, None);
        let file = removed.ok_or(Errno::EBADF)?.file;
        self.closed(&file);
        Ok(file)
    }

    /// What closing means besides dropping: record locks of this table on the file go, and its `F_NOTIFY`.
    fn closed(&self, file: &FileRef) {
        locks::closed_by_table(file, self.identity());
        inotify::closed_by_table(file, self.identity());
    }

    /// What record locks know this table by.
    pub fn identity(&self) -> usize {
        core::ptr::from_ref(self).addr()
    }

    /// Whether some descriptor refers to `file`.
    pub fn contains(&self, file: &FileRef) -> bool {
        self.table.lock().slots.iter().flatten().any(|s| Arc::ptr_eq(&s.file, file))
    }

    /// Takes a range out (`close_range`, or all at exit).
    pub fn remove_range(&self, range: RangeInclusive<u32>) -> Vec<FileRef> {
        self.take(range, |_| true)
    }

    /// Takes out all that is marked close-on-exec.
    pub fn remove_close_on_exec(&self) -> Vec<FileRef> {
        self.take(0..=u32::MAX, |slot| slot.close_on_exec)
    }

    fn take(&self, range: RangeInclusive<u32>, wanted: impl Fn(&Slot) -> bool) -> Vec<FileRef> {
        let mut table = self.table.lock();
        let end = table.slots.len().min((*range.end() as usize).saturating_add(1));
        let mut taken = Vec::new();
        for fd in *range.start() as usize..end {
            if table.slot(fd).is_some_and(&wanted) {
                taken.extend(table.set(fd, None).map(|s| s.file));
            }
        }
        drop(table);
        taken.iter().for_each(|file| self.closed(file));
        taken
    }

    /// Marks a range close-on-exec.
    pub fn set_close_on_exec_range(&self, range: RangeInclusive<u32>) {
        let mut table = self.table.lock();
        let (start, end) = (*range.start() as usize, (*range.end() as usize).saturating_add(1));
        for slot in table.slots.iter_mut().take(end).skip(start).flatten() {
            slot.close_on_exec = true;
        }
    }

    /// The close-on-exec mark of `fd`. `EBADF`.
    pub fn close_on_exec(&self, fd: i32) -> Result<bool> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        self.table.lock().slot(fd).map(|s| s.close_on_exec).ok_or(Errno::EBADF)
    }

    /// Sets the close-on-exec mark of `fd`. `EBADF`.
    pub fn set_close_on_exec(&self, fd: i32, value: bool) -> Result<()> {
        let fd = usize::try_from(fd).map_err(|_| Errno::EBADF)?;
        let mut table = self.table.lock();
        let slot = table.slots.get_mut(fd).and_then(Option::as_mut).ok_or(Errno::EBADF)?;
        slot.close_on_exec = value;
        Ok(())
    }

    /// The first open descriptor not below `from`, for listing `/proc/PID/fd`.
    pub fn next_open(&self, from: i32) -> Option<i32> {
        let table = self.table.lock();
        let start = usize::try_from(from).ok()?;
        (start..table.slots.len()).find(|fd| table.slot(*fd).is_some()).map(|fd| fd as i32)
    }

    /// Number of slots allocated (`FDSize` of `/proc/PID/status`).
    pub fn capacity(&self) -> usize {
        self.table.lock().slots.len()
    }
}

impl Drop for FdTable {
    fn drop(&mut self) {
        drop(self.remove_range(0..=u32::MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fs::{AnonInode, OpenFlags};

    fn file() -> FileRef {
        AnonInode::open_for_test("test", OpenFlags::RDWR)
    }

    #[test]
    fn the_lowest_free_number_is_given() {
        let t = FdTable::new();
        for want in 0..130 {
            assert_eq!(t.install(file(), false, 1024), Ok(want));
        }
        drop(t.remove(64).unwrap());
        drop(t.remove(3).unwrap());
        assert_eq!(t.install_from(file(), true, 10, 1024), Ok(64));
        assert_eq!(t.install(file(), false, 1024), Ok(3));
        assert_eq!(t.install(file(), false, 130), Err(Errno::EMFILE));
        assert_eq!(t.install_from(file(), false, 2000, 1024), Err(Errno::EINVAL));
        assert_eq!(t.close_on_exec(64), Ok(true));
    }

    #[test]
    fn fork_copies_and_exec_closes() {
        let t = FdTable::new();
        t.install(file(), false, 16).unwrap();
        t.install(file(), true, 16).unwrap();
        let child = t.fork();
        assert_eq!(child.get(1).unwrap().id(), t.get(1).unwrap().id());
        assert_eq!(child.remove_close_on_exec().len(), 1);
        assert_eq!(child.get(1).err(), Some(Errno::EBADF));
        assert!(t.get(1).is_ok());
    }

    #[test]
    fn replace_returns_what_was_there() {
        let t = FdTable::new();
        assert!(t.replace(5, file(), false, 16).unwrap().is_none());
        let old = t.get(5).unwrap().id();
        assert_eq!(t.replace(5, file(), false, 16).unwrap().unwrap().id(), old);
        assert_eq!(t.replace(16, file(), false, 16).err(), Some(Errno::EBADF));
        assert_eq!(t.install(file(), false, 16), Ok(0));
        assert_eq!(t.next_open(1), Some(5));
        assert_eq!(t.remove_range(0..=u32::MAX).len(), 2);
    }
}
