//! Threads, and the switch between them.
//!
//! A thread is a kernel stack, what the processor must be told before the thread's user code runs (FPU state, FS and
//! GS base, address space), and the kernel proper's payload. At the top of a user thread's stack is one word of padding,
//! then an uncounted copy of the thread's own `Arc` (the system-call path borrows it from there), then its
//! [`UserRegs`]; below them, while it does not run, the six registers a call preserves and a return address.
//!
//! Each CPU owns one reference to its current thread, as a raw pointer in its block: the system-call path
//! borrows it without counting. [`Thread::switch_to`] takes the next thread's reference and hands the previous one's
//! to [`Kernel::after_switch`], on the next thread's stack: only then is nothing of the previous thread in use any
//! more, and another CPU may run it.

use super::asm::{load_breakpoints, rdmsr, wrmsr};
use super::fpu::Area;
use super::local::local;
use super::space::AddressSpace;
use super::stack::KernelStack;
use super::{cpu, entry, msr, tlb};
use crate::sync::SpinLock;
use crate::{DebugRegisters, FpuInit, Kernel, NonCanonical, OutOfMemory, UserRegs};
use alloc::sync::Arc;
use core::arch::{asm, naked_asm};
use core::cell::{Cell, UnsafeCell};
use core::mem::ManuallyDrop;
use core::ops::Deref;
use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};

/// What the hardware layer keeps about a thread, whatever the kernel proper is.
#[repr(C)]
pub struct Head {
    /// Not zero: `Kernel::user_work` runs before user mode. Read by the entry code.
    pub work: AtomicU32,
    /// Stack pointer while the thread does not run.
    saved_rsp: Cell<u64>,
    /// The thread's own stack; the idle threads keep the boot stacks.
    stack: Option<KernelStack>,
    /// User threads have one.
    fpu: UnsafeCell<Option<Area>>,
    /// CPU whose registers were last loaded with this thread's FPU state.
    fpu_cpu: Cell<usize>,
    /// While the thread does not run (and always, where user code cannot change it by itself).
    fs_base: AtomicU64,
    /// The same.
    gs_base: AtomicU64,
    space: SpinLock<Option<Arc<AddressSpace>>>,
    /// DR7 while the thread runs; 0: it has no breakpoints.
    breakpoints: AtomicU64,
    debug: SpinLock<DebugRegisters>,
    /// Its system calls go to `Kernel::watched_syscall`.
    watched: AtomicBool,
}

/// A kernel thread, and a user thread if it has an address space. Dereferences to the kernel proper's payload.
#[repr(C)]
pub struct Thread<K: Kernel> {
    /// First, so that a pointer to the thread is one to its head.
    head: Head,
    task: K::Task,
}

// SAFETY: cells are touched only by the CPU that runs the thread, or by the creator before it runs; the kernel proper's
// running claim orders one CPU's accesses before the next one's. The payload is `Send + Sync`.
unsafe impl<K: Kernel> Sync for Thread<K> {}
// SAFETY: as above.
unsafe impl<K: Kernel> Send for Thread<K> {}

const NO_CPU: usize = usize::MAX;
/// Bytes of the stack above the user registers: padding, and the thread's own `Arc`. Keeps the frame's end
/// 16-byte aligned, as the processor wants it.
const ABOVE: u64 = 16;
const REGS: u64 = size_of::<UserRegs>() as u64;

impl Head {
    fn new(
        stack: Option<KernelStack>,
        fpu: Option<Area>,
        fs: u64,
        gs: u64,
        space: Option<Arc<AddressSpace>>,
    ) -> Self {
        Self {
            work: AtomicU32::new(0),
            saved_rsp: Cell::new(0),
            stack,
            fpu: UnsafeCell::new(fpu),
            fpu_cpu: Cell::new(NO_CPU),
            fs_base: AtomicU64::new(fs),
            gs_base: AtomicU64::new(gs),
            space: SpinLock::new(space),
            breakpoints: AtomicU64::new(0),
            debug: SpinLock::new(DebugRegisters::default()),
            watched: AtomicBool::new(false),
        }
    }

    fn is_current(&self) -> bool {
        local().current.get() == core::ptr::from_ref(self).cast()
    }

    /// Puts away what the user code of the running thread has in the processor.
    fn save_user_state(&self) {
        // SAFETY: this is the running thread; nobody else touches its area.
        if let Some(area) = unsafe { &mut *self.fpu.get() } {
            area.save();
            if cpu::has_fsgsbase() {
                self.fs_base.store(live_fs(), Ordering::Relaxed);
                self.gs_base.store(live_gs(), Ordering::Relaxed);
            }
        }
    }

    /// The reverse, when the thread runs again.
    fn load_user_state(&self) {
        let l = local();
        // SAFETY: as above.
        let Some(area) = (unsafe { &*self.fpu.get() }) else { return };
        let this = core::ptr::from_ref(self).cast();
        if l.fpu_owner.get() != this || self.fpu_cpu.get() != l.id.get() {
            l.fpu_owner.set(this);
            self.fpu_cpu.set(l.id.get());
            assert!(area.load().is_ok(), "saved FPU state refused");
        }
        set_live_fs(self.fs_base.load(Ordering::Relaxed));
        set_live_gs(self.gs_base.load(Ordering::Relaxed));
    }

    /// Before the switch to this thread: its address space, and where traps from user mode go.
    fn prepare(&self) {
        match &*self.space.lock() {
            Some(s) => tlb::activate(s),
            None => tlb::deactivate(),
        }
        if let Some(stack) = &self.stack {
            let l = local();
            let frame_end = stack.top() - ABOVE;
            l.kernel_rsp.set(frame_end - 8);
            self.refresh_watched();
            if l.breakpoints.get() | self.breakpoints.load(Ordering::Relaxed) != 0 {
                self.load_breakpoints();
            }
            // SAFETY: the running CPU's own tables; the processor reads the slot at the next trap from user mode.
            unsafe { (*l.segments.get()).set_rsp0(frame_end) };
        }
    }

    /// Brings the running CPU's copy up to date; this is the current thread, or about to be.
    fn refresh_watched(&self) {
        let l = local();
        l.watched.store(self.watched.load(Ordering::Relaxed).into(), Ordering::Relaxed);
        // `cpu::watch_all` sets its flag before our copy: what came before our store is seen here.
        if cpu::all_watched() {
            l.watched.store(1, Ordering::Relaxed);
        }
    }

    /// Gives the running CPU this thread's breakpoints.
    #[cold]
    fn load_breakpoints(&self) {
        let debug = *self.debug.lock();
        local().breakpoints.set(debug.loaded());
        // SAFETY: `DebugRegisters::new` lets no address of the kernel through.
        unsafe { load_breakpoints(debug.addresses(), debug.loaded()) };
    }

    /// Where the user registers are while the thread is in the kernel.
    fn regs(&self) -> *mut UserRegs {
        match &self.stack {
            Some(s) => (s.top() - ABOVE - REGS) as *mut UserRegs,
            None => panic!("an idle thread has no user registers"),
        }
    }

    /// Lays out a new stack: `start` is "returned" to by the first switch, with `rbx` and `rsp` as given.
    fn lay_out(&self, start: unsafe extern "C" fn() -> !, rsp: u64, rbx: u64) {
        let context: [u64; 7] = [0, 0, 0, 0, rbx, 0, start as *const () as u64];
        let at = rsp - size_of_val(&context) as u64;
        // SAFETY: on the new thread's stack, which nobody uses yet.
        unsafe { (at as *mut [u64; 7]).write(context) };
        self.saved_rsp.set(at);
    }
}

/// The current thread, without counting.
///
/// # Safety
/// There is one, and it stays current as long as the result is used (on its own stack that is always so).
#[inline]
pub(super) unsafe fn borrow_current<K: Kernel>() -> ManuallyDrop<Arc<Thread<K>>> {
    // SAFETY: `current` is the raw form of an `Arc<Thread<K>>` whose reference the CPU owns; we do not release it.
    ManuallyDrop::new(unsafe { Arc::from_raw(local().current.get().cast()) })
}

/// Calls `f` with the current thread's FPU area.
pub(super) fn with_current_fpu<R>(f: impl FnOnce(&mut Area) -> R) -> R {
    let head = local().current.get().cast::<Head>();
    assert!(!head.is_null(), "FPU state without a thread");
    // SAFETY: the current thread's head; only the running thread touches its area, and `f` does not switch.
    match unsafe { &mut *(*head).fpu.get() } {
        Some(area) => f(area),
        None => panic!("FPU state of a kernel thread"),
    }
}

/// Switches stacks; returns, on the next thread's stack, the raw thread that was left.
///
/// # Safety
/// `next` was written by this function or by [`Head::lay_out`], and belongs to a thread that runs nowhere.
#[unsafe(naked)]
unsafe extern "C" fn switch(save: *mut u64, next: u64, left: *const ()) -> *const () {
    naked_asm!(
        "push rbp\npush rbx\npush r12\npush r13\npush r14\npush r15",
        "mov [rdi], rsp",
        "mov rsp, rsi",
        "pop r15\npop r14\npop r13\npop r12\npop rbx\npop rbp",
        "mov rax, rdx",
        "ret",
    )
}

/// First code of a user thread: the registers are above the stack pointer, after one word.
#[unsafe(naked)]
unsafe extern "C" fn start_user<K: Kernel>() -> ! {
    naked_asm!(
        "mov rdi, rax",
        "call {arrive}",
        "add rsp, 8",
        "jmp {leave}",
        arrive = sym arrive::<K>,
        leave = sym entry::leave::<K>,
    )
}

/// First code of a kernel thread: its main function is in `rbx`.
#[unsafe(naked)]
unsafe extern "C" fn start_kernel<K: Kernel>() -> ! {
    naked_asm!(
        "mov rdi, rax",
        "call {arrive}",
        "mov rdi, rbx",
        "call {main}",
        "ud2",
        arrive = sym arrive::<K>,
        main = sym kernel_main::<K>,
    )
}

extern "C" fn kernel_main<K: Kernel>(main: *const ()) -> ! {
    // SAFETY: `new_kernel` put a function of this type there.
    let main = unsafe { core::mem::transmute::<*const (), fn(&Arc<Thread<K>>) -> !>(main) };
    // SAFETY: we run on the current thread's stack.
    let this = unsafe { borrow_current::<K>() };
    main(&this)
}

/// On the new thread's stack, right after the switch.
extern "C" fn arrive<K: Kernel>(left: *const ()) {
    // SAFETY: the current thread's head.
    unsafe { &*local().current.get().cast::<Head>() }.load_user_state();
    // SAFETY: `switch_to` took this reference out of the CPU's block.
    K::after_switch(unsafe { Arc::from_raw(left.cast::<Thread<K>>()) });
}

impl<K: Kernel> Thread<K> {
    /// A thread that begins in user mode with `regs`. It runs when somebody switches to it.
    pub fn new_user(
        task: K::Task,
        regs: &UserRegs,
        fpu: FpuInit,
        fs_base: u64,
        gs_base: u64,
        space: Arc<AddressSpace>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        let mut area = Area::new().ok_or(OutOfMemory)?;
        if fpu == FpuInit::CopyCurrent {
            with_current_fpu(|current| {
                current.save();
                area.copy_from(current);
            });
        }
        let stack = KernelStack::new()?;
        let frame_end = stack.top() - ABOVE;
        let head = Head::new(Some(stack), Some(area), fs_base, gs_base, Some(space));
        // SAFETY: the new stack.
        unsafe { head.regs().write(*regs) };
        head.lay_out(start_user::<K>, frame_end - REGS - 8, 0);
        let this = Arc::new(Self { head, task });
        // SAFETY: the word above the frame, on the new stack. The copy is only borrowed, by the thread's own system calls,
        // while the CPU that runs it owns a reference.
        unsafe { (frame_end as *mut Arc<Self>).write(core::ptr::read(&this)) };
        Ok(this)
    }

    /// A thread that stays in the kernel.
    pub fn new_kernel(task: K::Task, main: fn(&Arc<Self>) -> !) -> Result<Arc<Self>, OutOfMemory> {
        let stack = KernelStack::new()?;
        let top = stack.top();
        let head = Head::new(Some(stack), None, 0, 0, None);
        head.lay_out(start_kernel::<K>, top - 16, main as *const () as u64);
        Ok(Arc::new(Self { head, task }))
    }

    /// Makes what runs on this CPU, the boot code on its boot stack, its first current thread.
    ///
    /// # Panics
    /// If this CPU has a current thread.
    pub fn adopt_idle(task: K::Task) -> Arc<Self> {
        let l = local();
        assert!(l.current.get().is_null(), "idle thread adopted twice");
        let this = Arc::new(Self { head: Head::new(None, None, 0, 0, None), task });
        l.current.set(Arc::into_raw(this.clone()).cast());
        this
    }

    /// The current thread; `None` before [`Self::adopt_idle`].
    pub fn current() -> Option<Arc<Self>> {
        Self::with_current(|t| t.cloned())
    }

    /// Calls `f` with the current thread, without touching its count.
    #[inline]
    pub fn with_current<R>(f: impl FnOnce(Option<&Arc<Self>>) -> R) -> R {
        if local().current.get().is_null() {
            return f(None);
        }
        // SAFETY: we run on the current thread's stack.
        let current = unsafe { borrow_current::<K>() };
        f(Some(&current))
    }

    /// Leaves the current thread for `next`; returns when somebody switches back. No spin lock is held.
    ///
    /// # Panics
    /// If `next` is the current thread, or there is none.
    pub fn switch_to(next: Arc<Self>) {
        let l = local();
        let left = l.current.get();
        let next = Arc::into_raw(next);
        assert!(!left.is_null() && left != next.cast(), "switch from no thread, or to the current one");
        // SAFETY: both are alive: the CPU's reference to the one becomes ours, ours to the other the CPU's.
        let (from, to) = unsafe { (&*left.cast::<Head>(), &(*next).head) };
        from.save_user_state();
        to.prepare();
        l.current.set(next.cast());
        // SAFETY: the kernel proper claims a thread before it switches to it, so `to` runs nowhere.
        let left = unsafe { switch(from.saved_rsp.as_ptr(), to.saved_rsp.get(), left) };
        arrive::<K>(left);
    }

    /// Not zero: [`Kernel::user_work`] runs before user mode.
    #[inline]
    pub fn work(&self) -> &AtomicU32 {
        &self.head.work
    }

    /// Has the thread's system calls go to [`Kernel::watched_syscall`], or not any more. For a thread that runs elsewhere
    /// this takes effect when it next returns to user mode by way of [`Kernel::user_work`].
    pub fn set_watched(&self, on: bool) {
        self.head.watched.store(on, Ordering::Relaxed);
        if self.head.is_current() {
            self.head.refresh_watched();
        }
    }

    /// Has the entry code look again; this is the current thread.
    pub(super) fn refresh_watched(&self) {
        self.head.refresh_watched();
    }

    /// The saved user registers of a thread that does not run.
    pub fn regs(&self) -> UserRegs {
        // SAFETY: at the top of its stack; plain integers of any value.
        unsafe { self.head.regs().read_volatile() }
    }

    /// Whether a user thread in the kernel came by a system call, not by an exception or interrupt.
    pub fn in_system_call(&self) -> bool {
        // SAFETY: as above.
        unsafe { (&raw const (*self.head.regs()).orig_rax).read_volatile() != u64::MAX }
    }

    /// Replaces them.
    pub fn set_regs(&self, regs: UserRegs) {
        // SAFETY: as above; whatever is written is made safe on the way to user mode.
        unsafe { self.head.regs().write_volatile(regs) };
    }

    /// The thread's debug registers.
    pub fn debug_registers(&self) -> DebugRegisters {
        *self.head.debug.lock()
    }

    /// Sets the debug registers of the current thread, or of one that does not run.
    pub fn set_debug_registers(&self, new: DebugRegisters) {
        *self.head.debug.lock() = new;
        self.head.breakpoints.store(new.loaded(), Ordering::Relaxed);
        if self.head.is_current() {
            self.head.load_breakpoints();
        }
    }

    /// User FS base: live if this is the current thread, else as saved.
    pub fn fs_base(&self) -> u64 {
        if self.head.is_current() && cpu::has_fsgsbase() {
            live_fs()
        } else {
            self.head.fs_base.load(Ordering::Relaxed)
        }
    }

    /// User GS base, likewise.
    pub fn gs_base(&self) -> u64 {
        if self.head.is_current() && cpu::has_fsgsbase() {
            live_gs()
        } else {
            self.head.gs_base.load(Ordering::Relaxed)
        }
    }

    /// Sets the user FS base; at once if this is the current thread.
    pub fn set_fs_base(&self, base: u64) -> Result<(), NonCanonical> {
        canonical(base)?;
        self.head.fs_base.store(base, Ordering::Relaxed);
        if self.head.is_current() {
            set_live_fs(base);
        }
        Ok(())
    }

    /// Sets the user GS base, likewise.
    pub fn set_gs_base(&self, base: u64) -> Result<(), NonCanonical> {
        canonical(base)?;
        self.head.gs_base.store(base, Ordering::Relaxed);
        if self.head.is_current() {
            set_live_gs(base);
        }
        Ok(())
    }

    /// Gives the current thread another address space, at once; its share of the previous one is released.
    ///
    /// # Panics
    /// If this is not the current thread.
    pub fn set_address_space(&self, space: Arc<AddressSpace>) {
        assert!(self.head.is_current(), "address space of another thread");
        tlb::activate(&space);
        let old = self.head.space.lock().replace(space);
        drop(old);
    }

    /// The thread's address space; a kernel thread has none.
    pub fn address_space(&self) -> Option<Arc<AddressSpace>> {
        self.head.space.lock().clone()
    }
}

impl<K: Kernel> Deref for Thread<K> {
    type Target = K::Task;
    #[inline]
    fn deref(&self) -> &K::Task {
        &self.task
    }
}

fn canonical(base: u64) -> Result<(), NonCanonical> {
    if base < 1 << 47 { Ok(()) } else { Err(NonCanonical) }
}

fn live_fs() -> u64 {
    let v: u64;
    // SAFETY: only called where the instruction exists.
    unsafe { asm!("rdfsbase {}", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

/// In the kernel the user's GS base is the one that is swapped out.
fn live_gs() -> u64 {
    let v: u64;
    // SAFETY: as above; interrupts are off, so nothing sees the swapped state.
    unsafe { asm!("swapgs", "rdgsbase {}", "swapgs", out(reg) v, options(nomem, nostack, preserves_flags)) };
    v
}

fn set_live_fs(v: u64) {
    // SAFETY: FS is not used by the kernel; the value is canonical, because it was checked or read from the register.
    unsafe {
        if cpu::has_fsgsbase() {
            asm!("wrfsbase {}", in(reg) v, options(nomem, nostack, preserves_flags));
        } else if rdmsr(msr::FS_BASE) != v {
            wrmsr(msr::FS_BASE, v);
        }
    }
}

fn set_live_gs(v: u64) {
    // SAFETY: as above.
    unsafe {
        if cpu::has_fsgsbase() {
            asm!("swapgs", "wrgsbase {}", "swapgs", in(reg) v, options(nomem, nostack, preserves_flags));
        } else {
            wrmsr(msr::KERNEL_GS_BASE, v);
        }
    }
}
