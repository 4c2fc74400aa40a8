//! What tasks and processes keep about signals.

use alloc::vec::Vec;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use ringfence_hal::{Access, Exception, USER_END};

use super::types::{COUNT, Fields, SIG_DFL, SigAction, SigInfo, SigSet, Signal};
use crate::sync::SpinLock;

/// How many queued signals a task or process may have, whatever `RLIMIT_SIGPENDING` says.
const MAX_QUEUED: usize = 4096;

/// Signals queued in the whole machine, and those set aside for timers: no user has more (see [`super::limit`]).
static QUEUED: AtomicUsize = AtomicUsize::new(0);

/// How many signals are queued or set aside, of all users.
pub(super) fn queued_in_all() -> u64 {
    QUEUED.load(Ordering::Relaxed) as u64
}

/// A signal set aside for a timer as long as it lives: it can always be queued.
pub struct Reserved(());

impl Reserved {
    /// Sets one aside.
    pub fn set_aside() -> Reserved {
        QUEUED.fetch_add(1, Ordering::Relaxed);
        Reserved(())
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        QUEUED.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether it counts as one of its user's queued signals; a timer's was set aside before.
fn is_counted(info: &SigInfo) -> bool {
    !matches!(info.fields, Fields::Timer { .. })
}

/// Pending signals of a task or of a process.
#[derive(Default)]
pub struct Pending {
    /// The set, readable without the lock.
    set: AtomicU64,
    queue: SpinLock<Vec<SigInfo>>,
}

impl Pending {
    /// The signals in it.
    #[inline]
    pub fn set(&self) -> SigSet {
        SigSet(self.set.load(Ordering::Acquire))
    }

    /// Adds one. A standard signal that is pending already is dropped, unless it is a timer's, of which there is never more
    /// than one. Without room it is pending all the same, but without its `siginfo`; says whether it has it.
    pub fn push(&self, info: SigInfo, room: bool) -> bool {
        let mut queue = self.queue.lock();
        let bit = SigSet::of(info.signal);
        let counts = info.signal.is_realtime() || info.code == super::types::code::SI_TIMER;
        if !counts && !self.set().and(bit).is_empty() {
            return true;
        }
        let room = room && queue.len() < MAX_QUEUED && queue.try_reserve(1).is_ok();
        if room {
            queue.push(info);
            QUEUED.fetch_add(usize::from(is_counted(&info)), Ordering::Relaxed);
        }
        self.set.fetch_or(bit.0, Ordering::Release);
        room
    }

    /// How many it has, without those of timers.
    pub(super) fn counted(&self) -> u64 {
        if self.set() == SigSet::EMPTY {
            0
        } else {
            self.queue.lock().iter().filter(|i| is_counted(i)).count() as u64
        }
    }

    /// Takes the first one out of `allowed`.
    pub fn take(&self, allowed: SigSet) -> Option<SigInfo> {
        if self.set().and(allowed).is_empty() {
            return None;
        }
        let mut queue = self.queue.lock();
        let signal = self.set().and(allowed).first()?;
        let info = match queue.iter().position(|i| i.signal == signal) {
            Some(i) => {
                let info = queue.remove(i);
                QUEUED.fetch_sub(usize::from(is_counted(&info)), Ordering::Relaxed);
                info
            }
            None => SigInfo::user(signal, super::types::code::SI_USER, 0, 0),
        };
        if !queue.iter().any(|i| i.signal == signal) {
            self.set.fetch_and(!SigSet::of(signal).0, Ordering::Release);
        }
        Some(info)
    }

    /// The `n`th that is queued, in the order of arrival.
    pub fn peek(&self, n: usize) -> Option<SigInfo> {
        self.queue.lock().get(n).copied()
    }

    /// Whether one of those queued is `wanted`.
    pub fn has(&self, wanted: impl Fn(&SigInfo) -> bool) -> bool {
        self.queue.lock().iter().any(wanted)
    }

    /// Drops all of `set`.
    pub fn discard(&self, set: SigSet) {
        if self.set().and(set).is_empty() {
            return;
        }
        let mut queue = self.queue.lock();
        queue.retain(|i| {
            let goes = set.has(i.signal);
            QUEUED.fetch_sub(usize::from(goes && is_counted(i)), Ordering::Relaxed);
            !goes
        });
        self.set.fetch_and(!set.0, Ordering::Release);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.discard(self.set());
    }
}

/// The alternate signal stack (sigaltstack(2)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct AltStack {
    /// Lowest address.
    pub base: u64,
    /// Bytes; 0 if there is none.
    pub size: u64,
    /// `SS_AUTODISARM`, or 0.
    pub flags: u32,
}

impl AltStack {
    /// Whether `sp` is on it.
    pub fn contains(&self, sp: u64) -> bool {
        self.size != 0 && sp > self.base && sp - self.base <= self.size
    }
}

/// What a task keeps.
pub struct TaskSignals {
    mask: AtomicU64,
    /// The mask to go back to once the signal that `sigsuspend`, `ppoll`… let in has been handled.
    pub(super) saved_mask: SpinLock<Option<SigSet>>,
    /// Sent to this thread.
    pub pending: Pending,
    /// Its alternate stack.
    pub altstack: SpinLock<AltStack>,
    killed: AtomicBool,
    /// The last exception that became a signal: vector in the upper half, error code in the lower. Every frame shows it.
    pub last_trap: AtomicU64,
    /// The address of the last page fault that became a signal.
    pub last_fault: AtomicU64,
}

impl TaskSignals {
    /// Keeps what a signal frame says about an exception.
    pub fn trapped(&self, e: Exception) {
        let (vector, code) = match e {
            Exception::DivideError => (0, 0),
            Exception::Debug { .. } => (1, 0),
            Exception::Breakpoint => (3, 0),
            Exception::Overflow => (4, 0),
            Exception::Bounds => (5, 0),
            Exception::InvalidOpcode => (6, 0),
            Exception::DeviceNotAvailable => (7, 0),
            Exception::SegmentNotPresent { code } => (11, code),
            Exception::StackSegment { code } => (12, code),
            Exception::GeneralProtection { code } => (13, code),
            Exception::PageFault(fault) => {
                self.last_fault.store(fault.addr, Ordering::Relaxed);
                let how = match fault.access {
                    Access::Read => 0,
                    Access::Write => 2,
                    Access::Exec => 16,
                };
                // What is behind the user half looks like pages of the kernel.
                (14, 4 | how | u32::from(fault.present || fault.addr > USER_END))
            }
            Exception::FloatingPoint => (16, 0),
            Exception::AlignmentCheck => (17, 0),
            Exception::Simd => (19, 0),
            Exception::Other { vector, code } => (vector, code),
        };
        self.last_trap.store(u64::from(vector) << 32 | u64::from(code), Ordering::Relaxed);
    }

    /// Nothing blocked, nothing pending.
    pub(crate) fn new() -> Self {
        TaskSignals {
            mask: AtomicU64::new(0),
            saved_mask: SpinLock::new(None),
            pending: Pending::default(),
            altstack: SpinLock::new(AltStack::default()),
            killed: AtomicBool::new(false),
            last_trap: AtomicU64::new(0),
            last_fault: AtomicU64::new(0),
        }
    }

    /// The blocked signals.
    #[inline]
    pub fn mask(&self) -> SigSet {
        SigSet(self.mask.load(Ordering::Relaxed))
    }

    /// Sets the mask, less what cannot be blocked. Only the task itself does this; see [`super::set_mask`].
    pub(crate) fn store_mask(&self, set: SigSet) {
        self.mask.store(set.without(SigSet::UNBLOCKABLE).0, Ordering::Relaxed);
    }

    /// Whether this thread alone has been told to leave (`execve` in another thread).
    pub fn is_killed(&self) -> bool {
        self.killed.load(Ordering::Acquire)
    }

    /// Tells this thread alone to leave.
    pub(crate) fn kill(&self) {
        self.killed.store(true, Ordering::Release);
    }
}

/// Signal actions.
pub struct SigHand {
    actions: SpinLock<[SigAction; COUNT]>,
}

impl Default for SigHand {
    fn default() -> Self {
        const NONE: SigAction = SigAction { handler: SIG_DFL, flags: 0, restorer: 0, mask: SigSet::EMPTY };
        SigHand { actions: SpinLock::new([NONE; COUNT]) }
    }
}

impl SigHand {
    /// The action of `signal`.
    pub fn get(&self, signal: Signal) -> SigAction {
        self.actions.lock().get(signal.index()).copied().unwrap_or_default()
    }

    /// Sets it; returns the former.
    pub fn set(&self, signal: Signal, action: SigAction) -> SigAction {
        match self.actions.lock().get_mut(signal.index()) {
            Some(a) => core::mem::replace(a, action),
            None => SigAction::default(),
        }
    }

    /// A copy (`fork`).
    pub fn duplicate(&self) -> SigHand {
        SigHand { actions: SpinLock::new(*self.actions.lock()) }
    }

    /// What `execve` leaves: handlers become the default, ignored stays ignored; `clear_ignored` is
    /// `CLONE_CLEAR_SIGHAND`.
    pub fn after_exec(&self, clear_ignored: bool) -> SigHand {
        let new = self.duplicate();
        for a in new.actions.lock().iter_mut() {
            let keep = a.handler == super::types::SIG_IGN && !clear_ignored;
            *a = SigAction { handler: if keep { a.handler } else { SIG_DFL }, ..SigAction::default() };
        }
        new
    }
}
