//! What each CPU keeps for itself: reached through GS while in the kernel.
//!
//! The kernel is not preempted and runs with interrupts off, so plain cells are enough for what only the
//! owner touches; what other CPUs read or write is atomic. A CPU's block is never freed.

use super::frames::Cache;
use super::heap::Magazines;
use super::segments::Segments;
use crate::cpu::MAX;
use core::arch::asm;
use core::cell::{Cell, UnsafeCell};
use core::ptr::null;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicU64, AtomicUsize, Ordering};

/// The block of one CPU. The first fields are used by the entry code.
#[repr(C, align(128))]
pub struct Local {
    /// Address of this block.
    this: Cell<*const Local>,
    /// Top of the current thread's kernel stack: where SYSCALL switches to.
    pub kernel_rsp: Cell<u64>,
    /// The user stack pointer, for the few instructions between SYSCALL and its push.
    pub user_rsp: Cell<u64>,
    /// The current thread: the raw form of an `Arc<Thread<K>>`, owning one reference. Null before the idle
    /// thread is adopted.
    pub current: Cell<*const ()>,
    /// Not zero: system calls go to `Kernel::watched_syscall`. Read by the entry code. The current thread's flag, or
    /// everybody's ([`super::cpu::watch_all`]); other CPUs set it only.
    pub watched: AtomicU32,
    /// This CPU's number, also its APIC id.
    pub id: Cell<usize>,
    /// The address space in CR3 may be used for user copies: it is the current thread's.
    pub space_active: Cell<bool>,
    /// The thread whose FPU state this CPU's registers hold, with [`super::fpu`]'s conditions.
    pub fpu_owner: Cell<*const ()>,
    /// Address space in CR3; null: the kernel's own root.
    pub space: Cell<*const super::space::AddressSpace>,
    /// TLB generation of that space this CPU has caught up with.
    pub space_seen: Cell<u64>,
    /// See [`super::time`]: what the kernel wants, in ns; 0: nothing.
    pub deadline: Cell<u64>,
    /// What the timer hardware was last told, in ns; 0: it is off.
    pub armed: Cell<u64>,
    /// DR7 as it is loaded; 0: no breakpoint.
    pub breakpoints: Cell<u64>,
    /// Where an exception of user code was last returned to; see [`super::traps`].
    pub resumed: Cell<u64>,
    /// Free page frames.
    pub frames: UnsafeCell<Cache>,
    /// Free heap objects of each size class.
    pub heap: UnsafeCell<Magazines>,
    /// GDT, TSS and interrupt stacks.
    pub segments: UnsafeCell<Segments>,

    /// Flush requests posted to this CPU; other CPUs add.
    pub flush_wanted: AtomicU64,
    /// Requests answered.
    pub flush_done: AtomicU64,
    /// The space in CR3 is only kept for the next user thread; see [`super::tlb`].
    pub lazy: AtomicBool,
    /// Next time the lazy space is used it must be flushed or left.
    pub leave_space: AtomicBool,
    /// The next flush is one of the kernel's translations, too.
    pub flush_kernel: AtomicBool,
    /// Rounds of waiting for locks; see [`super::lock`].
    pub spins: Cell<u32>,
    /// The CPU that was given our time last; see [`super::host`].
    pub yielded_to: Cell<usize>,
    /// Pages handed out as [`Frame`](crate::Frame)s minus pages taken back, on this CPU.
    pub user_pages: core::sync::atomic::AtomicI64,
}

// SAFETY: cells are touched by the owning CPU only, by the rule of this module; all else is atomic.
unsafe impl Sync for Local {}

impl Local {
    /// A block before [`Local::prepare`].
    pub const fn new() -> Self {
        Self {
            this: Cell::new(null()),
            kernel_rsp: Cell::new(0),
            user_rsp: Cell::new(0),
            current: Cell::new(null()),
            watched: AtomicU32::new(0),
            id: Cell::new(0),
            space_active: Cell::new(false),
            fpu_owner: Cell::new(null()),
            space: Cell::new(null()),
            space_seen: Cell::new(0),
            deadline: Cell::new(0),
            armed: Cell::new(0),
            breakpoints: Cell::new(0),
            resumed: Cell::new(0),
            frames: UnsafeCell::new(Cache::new()),
            heap: UnsafeCell::new(Magazines::new()),
            segments: UnsafeCell::new(Segments::new()),
            flush_wanted: AtomicU64::new(0),
            flush_done: AtomicU64::new(0),
            lazy: AtomicBool::new(false),
            leave_space: AtomicBool::new(false),
            flush_kernel: AtomicBool::new(false),
            spins: Cell::new(0),
            yielded_to: Cell::new(0),
            user_pages: core::sync::atomic::AtomicI64::new(0),
        }
    }

    /// Loads the segments and GS of the running CPU, number `id`: from here on [`local`] is this block.
    pub fn prepare(&'static self, id: usize) {
        self.this.set(self);
        self.id.set(id);
        // SAFETY: called once for each block, by the CPU it belongs to, before anybody else can reach it.
        unsafe { (*self.segments.get()).load(self) };
    }

    /// Lets other CPUs find the block, and so interrupt this one.
    pub fn publish(&'static self) {
        let id = self.id.get();
        LOCALS[id].store(core::ptr::from_ref(self).cast_mut(), Ordering::Release);
        ONLINE.fetch_add(1, Ordering::Release);
    }
}

static BOOT: Local = Local::new();
/// How many of `LOCALS` are there.
static ONLINE: AtomicUsize = AtomicUsize::new(0);
static LOCALS: [AtomicPtr<Local>; MAX] = [const { AtomicPtr::new(core::ptr::null_mut()) }; MAX];

/// The boot CPU's block.
pub fn boot() -> &'static Local {
    &BOOT
}

/// The running CPU's block.
#[inline(always)]
pub fn local() -> &'static Local {
    let p: *const Local;
    // SAFETY: in the kernel GS points at the running CPU's block, whose first field is its own address.
    unsafe {
        asm!("mov {}, gs:[0]", out(reg) p, options(nostack, preserves_flags, readonly, pure));
        &*p
    }
}

/// The block of a CPU that has started.
pub fn of(cpu: usize) -> Option<&'static Local> {
    let p = LOCALS.get(cpu)?.load(Ordering::Acquire);
    // SAFETY: blocks are published by `publish` and never freed.
    unsafe { p.as_ref() }
}

/// How many CPUs have started.
pub fn online() -> usize {
    ONLINE.load(Ordering::Acquire)
}

/// All CPUs that have started.
pub fn all() -> impl Iterator<Item = &'static Local> {
    (0..MAX).filter_map(of)
}
