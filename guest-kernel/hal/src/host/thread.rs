//! Kernel threads: a parked std thread each, and the baton that passes a simulated CPU between them.
//!
//! [`Thread::switch_to`] puts a [`Baton`] into the next thread's mailbox and parks the caller at its own. The
//! std thread of a thread starts with its first baton.
//!
//! # The end of a thread
//!
//! On a real machine the stack of a thread that was switched away from for the last time is freed and never
//! unwound: what its functions had on it is forgotten. Here too: its std thread stays parked for ever, and
//! runs no destructor. When the machine stops, the std threads of all *living* threads unwind (with the
//! payload [`Halt`]), so that a simulation leaves nothing of them behind. A destructor that wants to switch
//! or wait meanwhile parks its thread for ever.

use super::context;
use super::fpu;
use super::lock;
use super::program;
use super::space::AddressSpace;
use super::world::{Stop, World, world};
use crate::{DebugRegisters, FpuInit, Kernel, NonCanonical, OutOfMemory, UserRegs};
use std::convert::Infallible;
use std::fmt;
use std::mem::ManuallyDrop;
use std::ops::Deref;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, Weak};

/// A kernel thread and the context of its user code. Dereferences to the kernel's own payload.
pub struct Thread<K: Kernel> {
    task: K::Task,
    mailbox: Arc<Mailbox<K>>,
    /// What the std thread does first; taken when it starts.
    start: Mutex<Option<Start<K>>>,
    /// Holds a CPU, or its switch away is not complete.
    running: AtomicBool,
    work: AtomicU32,
    watched: AtomicBool,
    fs_base: AtomicU64,
    gs_base: AtomicU64,
    space: Mutex<Option<Arc<AddressSpace>>>,
    debug: Mutex<DebugRegisters>,
    /// The user registers at the last kernel entry, and those to return with if somebody changed them.
    pub(super) saved: Mutex<SavedRegs>,
}

pub(super) struct SavedRegs {
    pub entry: UserRegs,
    pub changed: Option<UserRegs>,
}

enum Start<K: Kernel> {
    User { regs: Box<UserRegs>, fpu: Box<fpu::Image> },
    Kernel(fn(&Arc<Thread<K>>) -> !),
}

/// The right to run on a CPU, handed to `next` by `prev`.
struct Baton<K: Kernel> {
    cpu: usize,
    next: Arc<Thread<K>>,
    prev: Arc<Thread<K>>,
}

/// Where the std thread of a thread waits for its baton. Outlives the thread.
struct Mailbox<K: Kernel> {
    world: Arc<World>,
    thread: Weak<Thread<K>>,
    mail: Mutex<Mail<K>>,
    posted: Condvar,
}

struct Mail<K: Kernel> {
    baton: Option<Baton<K>>,
    /// The thread was dropped: nobody can post a baton any more.
    dead: bool,
}

impl<K: Kernel> Thread<K> {
    fn build(
        task: K::Task,
        start: Option<Start<K>>,
        regs: UserRegs,
        bases: (u64, u64),
        space: Option<Arc<AddressSpace>>,
    ) -> Arc<Self> {
        let thread = Arc::new_cyclic(|me: &Weak<Self>| Self {
            task,
            mailbox: Arc::new(Mailbox {
                world: world(),
                thread: me.clone(),
                mail: Mutex::new(Mail { baton: None, dead: false }),
                posted: Condvar::new(),
            }),
            start: Mutex::new(start),
            running: AtomicBool::new(false),
            work: AtomicU32::new(0),
            watched: AtomicBool::new(false),
            fs_base: AtomicU64::new(bases.0),
            gs_base: AtomicU64::new(bases.1),
            space: Mutex::new(space),
            debug: Mutex::default(),
            saved: Mutex::new(SavedRegs { entry: regs, changed: None }),
        });
        let sleeper: Weak<Mailbox<K>> = Arc::downgrade(&thread.mailbox);
        thread.mailbox.world.add_sleeper(sleeper);
        thread
    }

    /// A thread that enters user mode with these registers when it is first switched to.
    pub fn new_user(
        task: K::Task,
        regs: &UserRegs,
        fpu: FpuInit,
        fs_base: u64,
        gs_base: u64,
        space: Arc<AddressSpace>,
    ) -> Result<Arc<Self>, OutOfMemory> {
        let fpu = match fpu {
            FpuInit::Fresh => fpu::initial(),
            FpuInit::CopyCurrent => fpu::live(),
        };
        let start = Start::User { regs: Box::new(*regs), fpu: Box::new(fpu) };
        Ok(Self::build(task, Some(start), *regs, (fs_base, gs_base), Some(space)))
    }

    /// A thread that runs `main` in kernel mode when it is first switched to.
    pub fn new_kernel(task: K::Task, main: fn(&Arc<Self>) -> !) -> Result<Arc<Self>, OutOfMemory> {
        Ok(Self::build(task, Some(Start::Kernel(main)), UserRegs::default(), (0, 0), None))
    }

    /// Makes the running boot context of this CPU its idle thread, and that the current one.
    pub fn adopt_idle(task: K::Task) -> Arc<Self> {
        let thread = Self::build(task, None, UserRegs::default(), (0, 0), None);
        thread.running.store(true, Ordering::Relaxed);
        context::set_current(Some(thread.clone()));
        thread
    }

    /// The running thread; `None` before [`adopt_idle`](Self::adopt_idle).
    pub fn current() -> Option<Arc<Self>> {
        context::current()
    }

    /// The running thread, borrowed.
    pub fn with_current<R>(f: impl FnOnce(Option<&Arc<Self>>) -> R) -> R {
        // Not a reference of its own: `f` may switch away for the last time.
        let current = context::current::<K>().map(|t| Borrowed::new(&t));
        f(current.as_deref())
    }

    /// Switches from the current thread to `next`; returns when somebody switches back, possibly on another
    /// CPU.
    ///
    /// # Panics
    /// If a spin lock is held, there is no current thread, or `next` is running elsewhere.
    pub fn switch_to(next: Arc<Self>) {
        lock::assert_none_held("switch_to");
        check_stop();
        let prev = Self::current().expect("switch_to without a current thread");
        if Arc::ptr_eq(&prev, &next) {
            return;
        }
        assert!(!next.running.swap(true, Ordering::Acquire), "switch_to a thread that is still running");
        let mailbox = prev.mailbox.clone();
        let cpu = context::cpu();
        drop(context::set_space(None));
        context::set_current::<K>(None);
        let start = next.start.lock().unwrap().take();
        let target = next.mailbox.clone();
        target.post(Baton { cpu, next, prev });
        if let Some(start) = start {
            spawn(target.world.clone(), "thread".into(), move || run(target, start));
        }
        mailbox.arrive();
    }

    /// Not zero: [`Kernel::user_work`] runs before user code does.
    pub fn work(&self) -> &AtomicU32 {
        &self.work
    }

    /// Has the thread's system calls go to [`Kernel::watched_syscall`], or not any more. For a thread that runs elsewhere
    /// this takes effect when it next returns to user mode by way of [`Kernel::user_work`].
    pub fn set_watched(&self, on: bool) {
        self.watched.store(on, Ordering::SeqCst);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.watched.load(Ordering::SeqCst) || super::cpu::all_watched()
    }

    /// The user registers of a thread that does not run, as they were when it entered the kernel.
    pub fn regs(&self) -> UserRegs {
        let saved = self.saved.lock().unwrap();
        saved.changed.unwrap_or(saved.entry)
    }

    /// Whether user code of the thread is in a system call; in an exception or interrupt, it is not.
    pub fn in_system_call(&self) -> bool {
        self.regs().orig_rax != u64::MAX
    }

    /// Changes the user registers of a thread that does not run; it returns to user mode with them.
    pub fn set_regs(&self, regs: UserRegs) {
        self.saved.lock().unwrap().changed = Some(regs);
    }

    /// The user's FS base.
    pub fn fs_base(&self) -> u64 {
        self.fs_base.load(Ordering::Relaxed)
    }

    /// The thread's debug registers, which do nothing here.
    pub fn debug_registers(&self) -> DebugRegisters {
        *self.debug.lock().unwrap()
    }

    /// Sets them.
    pub fn set_debug_registers(&self, new: DebugRegisters) {
        *self.debug.lock().unwrap() = new;
    }

    /// Sets the user's FS base; refused outside the lower canonical half.
    pub fn set_fs_base(&self, base: u64) -> Result<(), NonCanonical> {
        set_base(&self.fs_base, base)
    }

    /// The user's GS base.
    pub fn gs_base(&self) -> u64 {
        self.gs_base.load(Ordering::Relaxed)
    }

    /// Sets the user's GS base; refused outside the lower canonical half.
    pub fn set_gs_base(&self, base: u64) -> Result<(), NonCanonical> {
        set_base(&self.gs_base, base)
    }

    /// Gives the current thread another address space, at once; the previous one is released.
    ///
    /// # Panics
    /// If this is not the current thread.
    pub fn set_address_space(&self, space: Arc<AddressSpace>) {
        let is_current = Self::with_current(|c| c.is_some_and(|c| std::ptr::eq(&raw const **c, self)));
        assert!(is_current, "set_address_space of a thread that is not the current one");
        let previous = self.space.lock().unwrap().replace(space.clone());
        drop((context::set_space(Some(space)), previous));
    }

    /// The thread's address space; `None` for a kernel thread.
    pub fn address_space(&self) -> Option<Arc<AddressSpace>> {
        self.space.lock().unwrap().clone()
    }
}

impl<K: Kernel> Deref for Thread<K> {
    type Target = K::Task;
    fn deref(&self) -> &K::Task {
        &self.task
    }
}

impl<K: Kernel> fmt::Debug for Thread<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Thread")
    }
}

fn set_base(register: &AtomicU64, base: u64) -> Result<(), NonCanonical> {
    if base >= 1 << 47 {
        return Err(NonCanonical);
    }
    register.store(base, Ordering::Relaxed);
    Ok(())
}

impl<K: Kernel> Drop for Thread<K> {
    fn drop(&mut self) {
        self.mailbox.mail.lock().unwrap_or_else(|e| e.into_inner()).dead = true;
        self.mailbox.posted.notify_one();
    }
}

impl<K: Kernel> Mailbox<K> {
    fn post(&self, baton: Baton<K>) {
        self.mail.lock().unwrap().baton = Some(baton);
        self.posted.notify_one();
    }

    /// Parks until the baton comes, then does what follows each switch.
    fn arrive(self: Arc<Self>) {
        let Baton { cpu, next, prev } = self.wait();
        context::set_cpu(cpu);
        drop(context::set_space(next.address_space()));
        context::set_current(Some(next));
        prev.running.store(false, Ordering::Release);
        K::after_switch(prev);
    }

    fn wait(self: Arc<Self>) -> Baton<K> {
        let mut mail = self.mail.lock().unwrap();
        while !mail.dead && !self.world.is_stopped() {
            match mail.baton.take() {
                Some(baton) => return baton,
                None => mail = self.posted.wait(mail).unwrap(),
            }
        }
        let baton = mail.baton.take();
        drop(mail);
        drop(baton);
        match self.thread.upgrade() {
            // Functions on this stack borrow the thread: it must live while they unwind.
            Some(thread) => context::set_current(Some(thread)),
            None => {
                drop(self);
                park_for_ever()
            }
        }
        drop(self);
        halt()
    }
}

/// Woken when the machine stops.
pub(super) trait Sleeper: Send + Sync {
    fn wake(&self);
}

impl<K: Kernel> Sleeper for Mailbox<K> {
    fn wake(&self) {
        // The lock, so that the sleeper either sees the stop or is already waiting.
        drop(self.mail.lock().unwrap_or_else(|e| e.into_inner()));
        self.posted.notify_one();
    }
}

/// A thread's reference to itself that does not count.
///
/// A thread runs only while somebody holds a reference (its CPU's context does), and does nothing any more
/// once the last one is gone. So functions on its own stack may use this one whenever they run.
pub(super) struct Borrowed<K: Kernel>(ManuallyDrop<Arc<Thread<K>>>);

impl<K: Kernel> Borrowed<K> {
    /// `thread` is the running one.
    pub(super) fn new(thread: &Arc<Thread<K>>) -> Self {
        // SAFETY: the pointer comes from a live `Arc`. The copy is never dropped, so the count stays right,
        // and it is used only by the thread itself: see the type's invariant.
        Self(ManuallyDrop::new(unsafe { Arc::from_raw(Arc::as_ptr(thread)) }))
    }
}

impl<K: Kernel> Deref for Borrowed<K> {
    type Target = Arc<Thread<K>>;
    fn deref(&self) -> &Arc<Thread<K>> {
        &self.0
    }
}

/// The life of a thread's std thread.
fn run<K: Kernel>(mailbox: Arc<Mailbox<K>>, start: Start<K>) -> ! {
    mailbox.arrive();
    let me = Borrowed::new(&Thread::<K>::current().expect("a baton names its thread"));
    match start {
        Start::Kernel(main) => main(&me),
        Start::User { regs, fpu } => {
            fpu::set_live(*fpu);
            program::enter(&me, *regs)
        }
    }
}

/// The payload with which simulated threads unwind when the machine stops.
struct Halt;

/// Ends the calling simulated thread because the machine has stopped.
pub(super) fn halt() -> ! {
    if std::thread::panicking() {
        // A destructor, while the thread unwinds, would have to wait for something that never happens.
        park_for_ever();
    }
    resume_unwind(Box::new(Halt))
}

/// Ends the calling simulated thread if the machine has stopped.
pub(super) fn check_stop() {
    if world().is_stopped() {
        halt();
    }
}

fn park_for_ever() -> ! {
    {
        let world = world();
        let mut m = world.machine();
        m.live -= 1;
        m.parked += 1;
        world.changed.notify_all();
    }
    loop {
        std::thread::park();
    }
}

/// Runs `f` on a std thread of the simulation. A panic in it ends the simulation.
pub(super) fn spawn(world: Arc<World>, name: String, f: impl FnOnce() -> Infallible + Send + 'static) {
    world.machine().live += 1;
    let body = move || {
        world.clone().enter(|| {
            let Err(payload) = catch_unwind(AssertUnwindSafe(f));
            if !payload.is::<Halt>() {
                world.stop(Stop::Failed(payload));
            }
            context::clear();
        });
        world.machine().live -= 1;
        world.changed.notify_all();
    };
    std::thread::Builder::new().name(name).spawn(body).expect("a std thread for a simulated one");
}
