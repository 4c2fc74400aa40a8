//! Sessions and job control: `drivers/tty/tty_jobctrl.c`.

use alloc::sync::{Arc, Weak};

use super::{pair::Pair, slave::Slave};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{DeviceId, File},
    signal::{
        self, SigInfo, Signal,
        types::{SIG_DFL, SIG_IGN},
    },
    syscall::UserPtr,
    task::{Capabilities, ControllingTerminal, Pid, ProcessGroup, Session},
};

/// How a session loses its terminal.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    HungUp,
    GivenUp,
    LeaderEnded,
}

impl Pair {
    /// Whether this is the controlling terminal of `task`.
    pub fn controls(&self, task: &TaskRef) -> bool {
        let session = task.process().group().session.clone();
        self.with(|s| s.session.upgrade()).is_some_and(|own| Arc::ptr_eq(&own, &session))
    }

    /// Asks whether `task` may read (SIGTTIN) or change the terminal (SIGTTOU): in the background the group is
    /// stopped, and the call repeated once it continues. `EIO` where nobody could continue it.
    pub fn check_foreground(&self, task: &TaskRef, signal: Signal) -> Result<()> {
        if !self.controls(task) {
            return Ok(());
        }
        let group = task.process().group();
        let foreground = self.foreground_pgid();
        if foreground == 0 || foreground == group.pgid {
            return Ok(());
        }
        let blocked = task.signals.mask().has(signal);
        if blocked || task.process().sighand().get(signal).handler == SIG_IGN {
            return if signal == Signal::TTIN { Err(Errno::EIO) } else { Ok(()) };
        }
        let kernel = task.kernel();
        let caught = task.process().sighand().get(signal).handler != SIG_DFL;
        if !caught && kernel.pids.tree(|t| t.is_orphaned(&group)) {
            return Err(Errno::EIO);
        }
        signal::send_to_group(kernel, &group, SigInfo::kernel(signal))?;
        Err(Errno::ERESTARTSYS)
    }

    /// Makes it the controlling terminal of the session of `group`, which goes to the foreground.
    pub fn attach(self: &Arc<Self>, group: &Arc<ProcessGroup>) {
        self.with(|s| {
            s.session = Arc::downgrade(&group.session);
            s.foreground = (group.pgid, Arc::downgrade(group));
        });
        let old = group.session.terminal.lock().replace(self.clone());
        drop(old);
    }

    /// `TIOCSCTTY`, and what opening it does: `steal` takes it from another session.
    pub fn make_controlling(self: &Arc<Self>, task: &TaskRef, steal: bool) -> Result<()> {
        if self.controls(task) {
            return Ok(());
        }
        let group = task.process().group();
        let leader = group.session.sid == task.process().pid;
        if !leader || group.session.terminal.lock().is_some() {
            return Err(Errno::EPERM);
        }
        if let Some(other) = self.with(|s| s.session.upgrade()) {
            if !steal || !task.credentials().capable(Capabilities::SYS_ADMIN) {
                return Err(Errno::EPERM);
            }
            let lost = other.terminal.lock().take();
            drop(lost);
        }
        self.attach(&group);
        Ok(())
    }

    /// The session loses its terminal: a hang-up is told to the leader, who may tell others; that the leader gives it up, or
    /// ends, to the group in the foreground. Unless it ended, they are continued, too.
    pub fn disassociate(&self, session: &Arc<Session>, why: Loss) {
        let ended = why == Loss::LeaderEnded;
        let signals: &[Signal] = if ended { &[Signal::HUP] } else { &[Signal::HUP, Signal::CONT] };
        if why == Loss::HungUp {
            if let Ok(leader) = crate::kernel::kernel().pids.process(session.sid) {
                for signal in signals {
                    let _ = signal::send_to_process(&leader, SigInfo::kernel(*signal)); // never refused
                }
            }
        } else {
            signals.iter().for_each(|signal| self.signal_foreground(*signal));
        }
        self.with(|s| {
            s.session = Weak::new();
            s.foreground = (0, Weak::new());
        });
        let lost = session.terminal.lock().take();
        drop(lost);
    }

    /// `TIOCNOTTY`. Only the leader can give the terminal up: it belongs to the session as a whole.
    pub fn give_up(&self, task: &TaskRef) -> Result<()> {
        let session = task.process().group().session.clone();
        if !self.controls(task) || session.sid != task.process().pid {
            return Err(Errno::ENOTTY);
        }
        self.disassociate(&session, Loss::GivenUp);
        Ok(())
    }

    /// The number of the foreground group; 0 if there is none. It may be gone.
    pub fn foreground_pgid(&self) -> Pid {
        self.with(|s| s.foreground.0)
    }

    /// The group in the foreground, if it is there.
    pub fn foreground(&self) -> Option<Arc<ProcessGroup>> {
        let (pgid, known, session) =
            self.with(|s| (s.foreground.0, s.foreground.1.upgrade(), s.session.upgrade()));
        if known.is_some() || pgid == 0 {
            return known;
        }
        // A process was put there before it made the group. (The number may be another's by now: of another session.)
        let group = crate::kernel::kernel().pids.group(pgid).ok()?;
        let ours = session.is_some_and(|session| Arc::ptr_eq(&session, &group.session));
        ours.then_some(group)
    }

    /// `TIOCSPGRP`, of the number at `pgid`: a group's, or a process's that may come to lead one.
    pub fn set_foreground(&self, task: &TaskRef, pgid: UserPtr<i32>) -> Result<()> {
        match self.check_foreground(task, Signal::TTOU) {
            Err(Errno::EIO) => return Err(Errno::ENOTTY),
            outcome => outcome?,
        }
        let pgid = pgid.read()?;
        if pgid < 0 {
            return Err(Errno::EINVAL);
        }
        if !self.controls(task) {
            return Err(Errno::ENOTTY);
        }
        let pids = task.pids();
        let group = pids.group(pgid);
        let (number, of) = match &group {
            Ok(group) => (group.pgid, group.clone()),
            Err(_) => {
                let process = pids.process(pgid)?;
                (process.pid, process.group())
            }
        };
        if !Arc::ptr_eq(&of.session, &task.process().group().session) {
            return Err(Errno::EPERM);
        }
        let known = group.map_or(Weak::new(), |group| Arc::downgrade(&group));
        self.with(|s| s.foreground = (number, known));
        Ok(())
    }
}

impl ControllingTerminal for Pair {
    fn leader_exited(&self, session: &Arc<Session>) {
        self.disassociate(session, Loss::LeaderEnded);
    }

    fn hang_up(&self) {
        self.hang_up_slaves();
    }

    fn device(&self) -> DeviceId {
        self.inode.device()
    }

    fn foreground(&self) -> Pid {
        self.foreground_pgid()
    }

    fn open(self: Arc<Self>) -> Result<Arc<dyn File>> {
        Ok(Slave::new(self, None)?)
    }
}
