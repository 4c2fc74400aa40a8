//! SysV shared memory: shmget, shmat, shmdt, shmctl.
//!
//! A segment is an object of pages that is mapped like a file. How often it is attached is not counted but looked
//! up when somebody asks: it is the number of mappings in the address spaces that have it. A segment that was
//! removed while attached keeps its id, without its key, and goes with its last mapping; its id is then
//! forgotten by whoever looks next.

use alloc::sync::{Arc, Weak};
use core::sync::atomic::Ordering;

use ringfence_hal::{Frame, Prot};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{
    Space,
    ids::{self, IPC_INFO, IPC_RMID, IPC_SET, IPC_STAT, Object, Permissions, READ, RawPermissions, WRITE},
    objects,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    mm::{
        FileMapping, MapRequest, Mappable, Mappers, PAGE_SIZE, Placement, SharedMemory, VmFlags, limits_of,
    },
    ns::IpcNamespace,
    sync::SpinLock,
    syscall::{Ctx, Syscall, UserAddr, UserPtr},
    syscalls,
    task::Capabilities,
};

const SHM_HUGETLB: u32 = 0o4000;
const SHM_NORESERVE: u32 = 0o10000;
const SHM_RDONLY: u32 = 0o10000;
const SHM_RND: u32 = 0o20000;
const SHM_REMAP: u32 = 0o40000;
const SHM_EXEC: u32 = 0o100000;
/// Mode bit: goes with the last detach.
pub const SHM_DEST: u32 = 0o1000;
/// Mode bit: `SHM_LOCK`.
const SHM_LOCKED: u32 = 0o2000;

const SHM_LOCK: i32 = 11;
const SHM_UNLOCK: i32 = 12;
const SHM_STAT: i32 = 13;
const SHM_INFO: i32 = 14;
const SHM_STAT_ANY: i32 = 15;

#[derive(Clone, Copy)]
pub struct State {
    pub permissions: Permissions,
    pub cpid: i32,
    pub lpid: i32,
    pub atime: i64,
    pub dtime: i64,
    pub ctime: i64,
}

/// A segment.
pub struct Segment {
    memory: Arc<SharedMemory>,
    /// What was asked for; the memory is whole pages.
    pub size: u64,
    mappers: Mappers,
    state: SpinLock<State>,
    /// Counted there.
    space: Weak<IpcNamespace>,
}

impl Object for Segment {
    fn permissions(&self) -> Permissions {
        self.state.lock().permissions
    }
}

impl Segment {
    pub fn state(&self) -> State {
        *self.state.lock()
    }

    /// How many mappings there are (`shm_nattch`).
    pub fn attached(&self) -> usize {
        self.mappers.count_mappings(self)
    }

    pub fn resident(&self) -> usize {
        self.memory.resident()
    }

    fn pages(&self) -> u64 {
        self.size.div_ceil(PAGE_SIZE)
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        if let Some(space) = self.space.upgrade() {
            space.objects().shm_pages.fetch_sub(self.pages(), Ordering::Relaxed);
        }
    }
}

impl Mappable for Segment {
    fn page(&self, index: u64, write: bool) -> Result<Frame> {
        self.memory.page(index, write)
    }

    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.memory.cached_page(index)
    }

    fn next_cached(&self, index: u64) -> Option<u64> {
        self.memory.next_cached(index)
    }

    fn punch(&self, start: u64, end: u64) -> Result<()> {
        self.memory.punch(start, end)
    }

    fn len(&self) -> u64 {
        self.memory.len()
    }

    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }

    fn label(&self) -> Option<&'static str> {
        Some("/SYSV00000000 (deleted)")
    }
}

/// Forgets segments that were removed and have lost their last mapping.
pub fn sweep(space: &Space) {
    for (id, segment) in space.shm.all() {
        if segment.state().permissions.mode & SHM_DEST != 0 && segment.attached() == 0 {
            drop(space.shm.remove(id));
        }
    }
}

fn shmget(ctx: &mut Ctx<'_>, key: i32, size: u64, flags: u32) -> Result {
    let space = objects(ctx.task);
    sweep(&space);
    if flags & SHM_HUGETLB != 0 {
        return Err(Errno::ENOMEM); // no huge pages are set aside
    }
    let limits = &space.limits;
    let fits = |there: &Segment| if there.size < size { Err(Errno::EINVAL) } else { Ok(()) };
    let make = || {
        if size == 0 || size > limits.shmmax.load(Ordering::Relaxed) {
            return Err(Errno::EINVAL);
        }
        let bytes = size.checked_next_multiple_of(PAGE_SIZE).ok_or(Errno::ENOSPC)?;
        let (pages, max) = (bytes / PAGE_SIZE, limits.shmall.load(Ordering::Relaxed));
        let add = |n: u64| n.checked_add(pages).filter(|sum| *sum <= max);
        let memory = if flags & SHM_NORESERVE != 0 {
            SharedMemory::new(bytes)
        } else {
            SharedMemory::promised(bytes)?
        };
        space.shm_pages.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add).map_err(|_| Errno::ENOSPC)?;
        Ok(Arc::new(Segment {
            memory,
            size,
            mappers: Mappers::new(),
            state: SpinLock::new(State {
                permissions: Permissions::new(ctx.task, key, flags),
                cpid: ctx.task.pid(),
                lpid: 0,
                atime: 0,
                dtime: 0,
                ctime: ids::now(),
            }),
            space: Arc::downgrade(&space.0),
        }))
    };
    let max = limits.shmmni.load(Ordering::Relaxed);
    Ok(space.shm.get(ctx.task, key, flags, max, fits, make)? as usize)
}

fn shmat(ctx: &mut Ctx<'_>, id: i32, addr: UserAddr, flags: u32) -> Result {
    let space = objects(ctx.task);
    let segment = if id < 0 { Err(Errno::EINVAL) } else { space.shm.find(id) }?;
    let placement = match addr.0 {
        0 if flags & SHM_REMAP != 0 => return Err(Errno::EINVAL),
        0 => Placement::Any,
        at if !at.is_multiple_of(PAGE_SIZE) && flags & SHM_RND == 0 => return Err(Errno::EINVAL),
        at => match (at & !(PAGE_SIZE - 1), flags & SHM_REMAP != 0) {
            (0, true) => return Err(Errno::EINVAL),
            (at, true) => Placement::Fixed(at),
            (at, false) => Placement::FixedNoReplace(at),
        },
    };
    let read_only = flags & SHM_RDONLY != 0;
    let mut prot = Prot::READ;
    prot.set(Prot::WRITE, !read_only);
    prot.set(Prot::EXEC, flags & SHM_EXEC != 0);
    let wanted = if read_only { READ } else { READ | WRITE } | if flags & SHM_EXEC != 0 { 0o111 } else { 0 };
    segment.permissions().check(ctx.task, wanted)?;
    let file = FileMapping { object: segment.clone(), file: None, may_write: !read_only, may_exec: true };
    let len = segment.len();
    let request = MapRequest { len, placement, prot, flags: VmFlags::SHARED, file: Some((file, 0)) };
    let at = ctx.task.mm()?.map(request, &limits_of(ctx.task)).map_err(|e| match e {
        Errno::EEXIST => Errno::EINVAL,
        e => e,
    })?;
    let mut state = segment.state.lock();
    state.atime = ids::now();
    state.lpid = ctx.task.pid();
    Ok(at as usize)
}

fn shmdt(ctx: &mut Ctx<'_>, addr: UserAddr) -> Result {
    if !addr.0.is_multiple_of(PAGE_SIZE) {
        return Err(Errno::EINVAL);
    }
    let is_segment = |object: &Arc<dyn Mappable>| {
        let any: Arc<dyn core::any::Any + Send + Sync> = object.clone();
        any.downcast::<Segment>().ok()
    };
    let segment = ctx.task.mm()?.unmap_object(addr.0, is_segment).ok_or(Errno::EINVAL)?;
    {
        let mut state = segment.state.lock();
        state.dtime = ids::now();
        state.lpid = ctx.task.pid();
    }
    drop(segment);
    sweep(&objects(ctx.task));
    Ok(0)
}

/// `struct shmid64_ds`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ShmStat {
    permissions: RawPermissions,
    size: u64,
    atime: i64,
    dtime: i64,
    ctime: i64,
    cpid: i32,
    lpid: i32,
    attached: u64,
    unused: [u64; 2],
}

/// `struct shminfo64`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ShmInfo64 {
    max: u64,
    min: u64,
    mni: u64,
    seg: u64,
    all: u64,
    unused: [u64; 4],
}

/// `struct shm_info`.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
struct ShmInfo {
    used: i32,
    pad: i32,
    total: u64,
    resident: u64,
    swapped: u64,
    attempts: u64,
    successes: u64,
}

fn stat(task: &TaskRef, id: i32, segment: &Segment) -> ShmStat {
    let s = segment.state();
    ShmStat {
        permissions: s.permissions.raw(task, id),
        size: segment.size,
        atime: s.atime,
        dtime: s.dtime,
        ctime: s.ctime,
        cpid: s.cpid,
        lpid: s.lpid,
        attached: segment.attached() as u64,
        unused: [0; 2],
    }
}

fn shmctl(ctx: &mut Ctx<'_>, id: i32, command: i32, buf: UserAddr) -> Result {
    if command < 0 || id < 0 {
        return Err(Errno::EINVAL);
    }
    let space = objects(ctx.task);
    sweep(&space);
    let out = UserPtr::<ShmStat>::new(buf.0);
    match command {
        IPC_INFO => {
            let l = &space.limits;
            UserPtr::new(buf.0).write(&ShmInfo64 {
                max: l.shmmax.load(Ordering::Relaxed),
                min: 1,
                mni: l.shmmni.load(Ordering::Relaxed) as u64,
                seg: l.shmmni.load(Ordering::Relaxed) as u64,
                all: l.shmall.load(Ordering::Relaxed),
                unused: [0; 4],
            })?;
            Ok(space.shm.highest())
        }
        SHM_INFO => {
            let resident = space.shm.all().iter().map(|(_, s)| s.resident() as u64).sum();
            UserPtr::new(buf.0).write(&ShmInfo {
                used: space.shm.count() as i32,
                pad: 0,
                total: space.shm_pages.load(Ordering::Relaxed),
                resident,
                swapped: 0,
                attempts: 0,
                successes: 0,
            })?;
            Ok(space.shm.highest())
        }
        IPC_STAT | SHM_STAT | SHM_STAT_ANY => {
            let (id, segment, returned) =
                space.shm.examine(ctx.task, id, command != IPC_STAT, command == SHM_STAT_ANY)?;
            out.write(&stat(ctx.task, id, &segment))?;
            Ok(returned)
        }
        IPC_SET => {
            let new = out.read()?;
            let segment = space.shm.owned(ctx.task, id)?;
            let mut permissions = segment.permissions();
            permissions.set(ctx.task, &new.permissions)?;
            let mut state = segment.state.lock();
            state.permissions = permissions;
            state.ctime = ids::now();
            Ok(0)
        }
        IPC_RMID => {
            let segment = space.shm.owned(ctx.task, id)?;
            if segment.attached() > 0 {
                space.shm.remove_key(id);
                let mut state = segment.state.lock();
                state.permissions.mode |= SHM_DEST;
                state.permissions.key = ids::IPC_PRIVATE;
            } else {
                drop(space.shm.remove(id));
            }
            Ok(0)
        }
        SHM_LOCK | SHM_UNLOCK => {
            let segment = space.shm.find(id)?;
            let c = ctx.task.credentials();
            if !c.capable(Capabilities::IPC_LOCK) {
                segment.permissions().check_owner(ctx.task)?;
                let limit = limits_of(ctx.task).locked;
                if command == SHM_LOCK && limit < segment.size {
                    return Err(if limit == 0 { Errno::EPERM } else { Errno::ENOMEM });
                }
            }
            // There is no swap: all memory stays where it is.
            let mut state = segment.state.lock();
            let mode = state.permissions.mode & !SHM_LOCKED;
            state.permissions.mode = mode | if command == SHM_LOCK { SHM_LOCKED } else { 0 };
            Ok(0)
        }
        _ => Err(Errno::EINVAL),
    }
}

pub(super) const SYSCALLS: &[Syscall] = syscalls! {
    29 shmget(key: i32, size: u64, flags: u32) Partial "no huge pages";
    30 shmat(id: i32, addr: UserAddr, flags: u32) Full "";
    31 shmctl(id: i32, command: i32, buf: UserAddr) Full "";
    67 shmdt(addr: UserAddr) Full "the end of a process does not set shm_dtime";
};
