//! Memory of programs: address spaces, page faults, and the system calls about them.
//!
//! # What Linux does
//! A process has a set of mappings (VMAs): ranges of addresses with a protection and a source of pages,
//! which is nothing (anonymous memory, zero at first) or an object such as a file. Pages are put into the
//! page tables by the fault of the first touch. Private pages are shared after `fork` until one side
//! writes (copy on write).
//!
//! # What we do
//! The same, with two data structures. [`VmaTree`] says what user code may see; the page tables
//! ([`hal::AddressSpace`]) are a cache of it that also *owns* the private pages. [`Mm`] joins the two.
//! There is no reverse map: a frame is private to one page-table entry exactly when nobody else holds a
//! reference to it (`Frame::ref_count`), which is how a write fault decides between copying and taking over.
//!
//! | file | idea |
//! |---|---|
//! | `vma`, `tree` | one mapping; the ordered set of them and the search for gaps |
//! | `mappable` | the contract with owners of pages (files, shared memory) |
//! | `pages`, `shmem`, `mappers` | a sparse array of frames; shared anonymous memory; telling mappings about a truncation |
//! | `fault`, `entry` | resolving a page fault; where faults come in and what becomes of those that fail |
//! | `map`, `brk`, `remap`, `advise`, `lock` | the operations behind the system calls |
//! | `huge` | large pages |
//! | `fork` | duplicating an address space |
//! | `remote` | reading and writing memory of another process |
//! | `report` | what procfs shows |
//! | `commit` | promises of memory: overcommit |
//! | `policy` | NUMA policies of a machine with one node |
//! | `charge` | who pays for a frame: where a memory controller comes in |
//! | `reclaim`, `oom` | giving caches up when memory is out; then choosing whom to kill |
//! | `syscalls`, `process_vm`, `cache` | the system calls themselves |
//!
//! # Locks
//! Order: inode mutex (held over user copies) → `Mm::layout` → an object's page lock → the lock inside
//! `hal::AddressSpace`. `Mm::layout` is read-locked to resolve a fault and write-locked to change mappings;
//! so faults of threads run in parallel, and meet in `AddressSpace::map_new` and `replace`, which succeed
//! for one of them only; the other looks again. `Mm::layout` spins: nothing below it may sleep, and no user
//! memory may be copied with it held. References to files are dropped after it is released.
//! Two `Mm`s are never locked at the same time, except a child that nobody else can see yet.
//!
//! # Invariants
//! - Every page in the page tables lies in a VMA, and its rights are a subset of the VMA's.
//! - A writable page-table entry of a private VMA refers to a frame that no other address space, cache or
//!   pipe refers to.

mod advise;
mod brk;
mod cache;
pub mod charge;
pub mod commit;
mod entry;
mod fault;
mod fork;
pub mod huge;
mod image;
mod lock;
mod map;
mod mappable;
mod mappers;
pub mod oom;
mod pages;
pub mod policy;
mod process_vm;
pub mod reclaim;
mod remap;
mod remote;
mod report;
mod shmem;
mod syscalls;
mod tree;
mod vma;

use alloc::{boxed::Box, sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering};

pub use entry::{kernel_fault, limits_of, user_fault};
pub use fault::FaultResult;
pub use map::{MapRequest, Placement};
pub use mappable::{FileMapping, Mappable, loaded_page};
pub use mappers::Mappers;
pub(crate) use oom::relieve;
pub use pages::PageTree;
pub use remap::RemapRequest;
pub use remote::WordKey;
pub use report::{MmStats, SmapsCounts, VmaInfo, VmaName};
pub use shmem::SharedMemory;
pub use tree::{Totals, VmaTree};
pub use vma::{Backing, LOCKS, VmFlags, Vma};

use ringfence_hal as hal;
use ringfence_hal::AddressSpace;

use crate::{
    drivers::balloon,
    errno::{Errno, Result},
    fs::FileRef,
    sync::{Once, RwSpinLock, SpinLock},
    syscall::Syscall,
};

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] =
    &[syscalls::SYSCALLS, process_vm::SYSCALLS, cache::SYSCALLS, policy::SYSCALLS];

/// Size of a page in bytes.
pub const PAGE_SIZE: u64 = hal::PAGE_SIZE as u64;
/// Bytes kept free below a mapping that grows downward (Linux: 256 pages).
pub const STACK_GUARD_GAP: u64 = 256 * PAGE_SIZE;
/// Lowest address that may be mapped (Linux: `vm.mmap_min_addr`).
pub const MMAP_MIN_ADDR: u64 = 0x10000;
/// Largest number of mappings (Linux: `vm.max_map_count`).
pub const MAX_MAP_COUNT: usize = 65530;
/// First address beyond user memory.
pub const USER_END: u64 = hal::USER_END;

/// Rounds up to a page boundary; None on overflow.
pub fn page_align_up(value: u64) -> Option<u64> {
    value.checked_add(PAGE_SIZE - 1).map(page_align_down)
}

/// Rounds down to a page boundary.
pub fn page_align_down(value: u64) -> u64 {
    value & !(PAGE_SIZE - 1)
}

/// The resource limits that memory operations look at, in bytes (soft limits). The task owner makes it from the
/// rlimits of a thread group.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// `RLIMIT_AS`.
    pub address_space: u64,
    /// `RLIMIT_DATA`, for the heap.
    pub data: u64,
    /// `RLIMIT_DATA`, for mappings: the hard limit if the soft one is 0 (as Linux does for Valgrind).
    pub data_mappings: u64,
    /// `RLIMIT_STACK`.
    pub stack: u64,
    /// `RLIMIT_MEMLOCK`; `u64::MAX` with `CAP_IPC_LOCK`.
    pub locked: u64,
}

impl Limits {
    /// No limits.
    pub const NONE: Limits = Limits {
        address_space: u64::MAX,
        data: u64::MAX,
        data_mappings: u64::MAX,
        stack: u64::MAX,
        locked: u64::MAX,
    };
}

/// Where the parts of the loaded program lie: for `/proc/PID/stat`, `cmdline`, `environ`, `auxv`, `exe`.
#[derive(Clone, Default)]
pub struct Image {
    /// First address of the program's code.
    pub start_code: u64,
    /// End of the program's code.
    pub end_code: u64,
    /// First address of the program's initialised data.
    pub start_data: u64,
    /// End of the program's initialised data.
    pub end_data: u64,
    /// Stack pointer at the program's start.
    pub start_stack: u64,
    /// First byte of the first argument.
    pub arg_start: u64,
    /// After the last argument.
    pub arg_end: u64,
    /// First byte of the first environment string.
    pub env_start: u64,
    /// After the last environment string.
    pub env_end: u64,
    /// The auxiliary vector as put on the stack: pairs of type and value, `AT_NULL` included.
    pub auxv: Vec<(u64, u64)>,
    /// The program's file.
    pub exe: Option<FileRef>,
    /// Base of the vDSO, 0 if there is none.
    pub vdso: u64,
}

/// An address space of a program. Shared by the tasks made with `CLONE_VM`.
pub struct Mm {
    space: Arc<AddressSpace>,
    layout: RwSpinLock<Layout>,
    /// Pages of anonymous and private-dirty memory now in the page tables (approximate: counted per VMA kind).
    anon_pages: AtomicI64,
    /// Pages of objects now in the page tables.
    object_pages: AtomicI64,
    peak_resident: AtomicU64,
    /// `io_setup`: contexts whose rings are mapped here.
    pub(crate) aio: Once<Box<crate::fs::aio::Contexts>>,
    /// `PR_SET_THP_DISABLE`.
    no_huge: AtomicBool,
    /// What `membarrier(2)` has been told to be ready for.
    pub(crate) membarrier: AtomicU32,
    /// Serialise upgrades of one page (see `fault`), by page number.
    upgrade_locks: [SpinLock<()>; UPGRADE_LOCKS],
}

const UPGRADE_LOCKS: usize = 8;
/// Pages unmapped at once that the host is told about.
const WORTH_REPORTING: usize = 64;

/// What the lock of an [`Mm`] guards.
struct Layout {
    vmas: VmaTree,
    /// Start of the heap; the same as `brk` when empty.
    brk_start: u64,
    /// End of the heap, byte-exact.
    brk: u64,
    /// Mappings are placed below this address, the highest first.
    mmap_base: u64,
    /// `mlockall(MCL_FUTURE)`: flags of new mappings.
    lock_future: VmFlags,
    /// Some mapping is sealed (`mseal`).
    has_seals: bool,
    /// Pages announced to [`commit`].
    committed: u64,
    /// Largest total size so far, in pages.
    peak_pages: u64,
    image: Image,
}

impl Mm {
    /// An empty address space whose `mmap` area ends at `mmap_base`.
    pub fn new(mmap_base: u64) -> Result<Arc<Mm>> {
        let layout = Layout {
            vmas: VmaTree::new(),
            brk_start: 0,
            brk: 0,
            mmap_base,
            lock_future: VmFlags::empty(),
            has_seals: false,
            committed: 0,
            peak_pages: 0,
            image: Image::default(),
        };
        Ok(Arc::new(Self::with_layout(AddressSpace::new()?, layout)))
    }

    fn with_layout(space: Arc<AddressSpace>, layout: Layout) -> Mm {
        Mm {
            space,
            layout: RwSpinLock::new(layout),
            anon_pages: AtomicI64::new(0),
            object_pages: AtomicI64::new(0),
            peak_resident: AtomicU64::new(0),
            aio: Once::new(),
            no_huge: AtomicBool::new(false),
            membarrier: AtomicU32::new(0),
            upgrade_locks: [const { SpinLock::new(()) }; UPGRADE_LOCKS],
        }
    }

    /// The page tables, for `hal::Thread`.
    pub fn space(&self) -> &Arc<AddressSpace> {
        &self.space
    }

    /// Where the parts of the program lie.
    pub fn image(&self) -> Image {
        self.layout.read().image.clone()
    }

    /// Changes the record of where the parts of the program lie (exec).
    pub fn update_image(&self, change: impl FnOnce(&mut Image)) {
        change(&mut self.layout.write().image);
    }

    /// The lock for upgrading `page`.
    fn upgrade_lock(&self, page: u64) -> &SpinLock<()> {
        let [first, ..] = &self.upgrade_locks;
        self.upgrade_locks.get((page / PAGE_SIZE) as usize % UPGRADE_LOCKS).unwrap_or(first)
    }

    /// Counts pages that entered or left the page tables for `vma`.
    fn count_pages(&self, vma: &Vma, delta: i64) {
        let counter = if vma.is_anonymous() { &self.anon_pages } else { &self.object_pages };
        counter.fetch_add(delta, Ordering::Relaxed);
        if delta > 0 {
            let resident = self.space.resident() as u64;
            if resident > self.peak_resident.load(Ordering::Relaxed) {
                self.peak_resident.fetch_max(resident, Ordering::Relaxed);
            }
        }
    }

    /// Drops the pages of `range`, which lies in `vma`.
    fn unmap_pages(&self, vma: &Vma, range: core::ops::Range<u64>) {
        let n = self.space.unmap(range);
        if n > 0 {
            self.count_pages(vma, -(n as i64));
            if n >= WORTH_REPORTING {
                balloon::memory_freed();
            }
        }
    }
}

impl Layout {
    /// Notes what has changed: the largest size so far, and the memory promised.
    fn note_change(&mut self) {
        let totals = self.vmas.totals();
        self.peak_pages = self.peak_pages.max(totals.all);
        if totals.committed != self.committed {
            commit::add(totals.committed as i64 - self.committed as i64);
            self.committed = totals.committed;
        }
    }

    /// EPERM if a part of `range` is sealed.
    fn check_seals(&self, range: &core::ops::Range<u64>) -> Result<()> {
        let sealed =
            |vma: &Vma| vma.flags.contains(VmFlags::SEALED) && vma.start < range.end && range.start < vma.end;
        if self.has_seals && self.vmas.overlapping(range.clone()).any(sealed) {
            return Err(Errno::EPERM);
        }
        Ok(())
    }
}

impl Drop for Mm {
    /// The last user is gone: gives all pages back now, even if a thread that is being torn down still holds the
    /// (then empty) page tables.
    fn drop(&mut self) {
        self.space.clear();
        commit::add(-(self.layout.get_mut().committed as i64));
    }
}

#[cfg(test)]
mod tests;
