//! A pseudo-terminal pair.

use alloc::sync::{Arc, Weak};

use bitflags::bitflags;

use super::{
    devpts::SlaveInode,
    discipline::{Discipline, Signals},
    job::Loss,
    termios::{Input, Local, Termios, WindowSize},
};
use crate::{
    signal::{self, SigInfo, Signal},
    sync::{PollEvents, PollTable, Queue, SpinLock, WaitQueue},
    task::{Pid, ProcessGroup, Session},
};

/// What the lock of a [`Pair`] guards.
pub(super) struct State {
    pub discipline: Discipline,
    pub window: WindowSize,
    /// The session it controls.
    pub session: Weak<Session>,
    /// The group in the foreground: its number, 0 for none, and itself once it was seen.
    pub foreground: (Pid, Weak<ProcessGroup>),
    /// Open slave files.
    pub slaves: usize,
    /// A slave has been open: the master is hung up when the last one goes.
    pub slave_seen: bool,
    /// The master is gone, or hung up: slaves are at their end.
    pub hung_up: bool,
    /// How often `vhangup` ended what was open: slaves opened before are at their end.
    pub hangups: u32,
    /// `TIOCPKT`: reads of the master begin with a byte that says what follows, or what happened at the slave.
    pub packet: Option<Packet>,
    /// `TIOCSPTLCK`: the slave cannot be opened.
    pub locked: bool,
    /// `TIOCEXCL`: no further opens, but by root.
    pub exclusive: bool,
}

bitflags! {
    /// `TIOCPKT_*`: what happened at the slave since the master was read last.
    #[derive(Clone, Copy, PartialEq, Eq, Default)]
    pub(super) struct Packet: u8 {
        const FLUSH_READ = 1;
        const FLUSH_WRITE = 2;
        const STOP = 4;
        const START = 8;
        const NO_STOP = 16;
        const DO_STOP = 32;
        const IOCTL = 64;
    }
}

impl State {
    /// Whether a slave opened when `hangups` was so is at its end.
    pub fn is_hung_up(&self, hangups: u32) -> bool {
        self.hung_up || self.hangups != hangups
    }

    /// Something the master wants to know in packet mode; what it takes back.
    pub fn tell(&mut self, happened: Packet, not_any_more: Packet) {
        if let Some(packet) = &mut self.packet {
            *packet = (*packet - not_any_more) | happened;
        }
    }

    /// Holds output or lets it go.
    pub fn stop(&mut self, stop: bool) {
        if self.discipline.is_stopped() != stop {
            self.discipline.set_stopped(stop);
            self.tell_stopped(stop);
        }
    }

    fn tell_stopped(&mut self, stopped: bool) {
        let (now, before) = (Packet::STOP, Packet::START);
        if stopped { self.tell(now, before) } else { self.tell(before, now) }
    }

    /// Changes the settings.
    pub fn set_termios(&mut self, new: Termios) {
        let old = *self.discipline.termios();
        let new = new.of_pty();
        self.discipline.set_termios(new);
        let (before, now) = (old.usual_flow_keys(), new.usual_flow_keys());
        if before != now {
            let (is, was) =
                if now { (Packet::DO_STOP, Packet::NO_STOP) } else { (Packet::NO_STOP, Packet::DO_STOP) };
            self.tell(is, was);
        }
        if old.local(Local::EXTPROC) || new.local(Local::EXTPROC) {
            self.tell(Packet::IOCTL, Packet::empty());
        }
    }
}

/// Both sides of a pseudo-terminal.
pub(super) struct Pair {
    /// Its number: the name in devpts.
    pub index: u32,
    pub inode: Arc<SlaveInode>,
    state: SpinLock<State>,
    /// Those who wait at the slave: readers for input, writers for room.
    pub slave_queue: Queue,
    /// Those who wait at the master.
    pub master_queue: Queue,
}

/// What a read at the slave found.
pub(super) enum Found {
    Bytes(usize),
    Nothing,
    HungUp,
}

impl Pair {
    pub fn new(index: u32, inode: Arc<SlaveInode>, termios: Termios, window: WindowSize) -> Arc<Pair> {
        let state = State {
            discipline: Discipline::new(termios),
            window,
            session: Weak::new(),
            foreground: (0, Weak::new()),
            slaves: 0,
            slave_seen: false,
            hung_up: false,
            hangups: 0,
            packet: None,
            locked: false,
            exclusive: false,
        };
        Arc::new(Pair {
            index,
            inode,
            state: SpinLock::new(state),
            slave_queue: WaitQueue::new(),
            master_queue: WaitQueue::new(),
        })
    }

    pub fn with<R>(&self, f: impl FnOnce(&mut State) -> R) -> R {
        f(&mut self.state.lock())
    }

    /// Wakes both sides after a change that may matter to either.
    pub fn wake_both(&self) {
        self.slave_queue.wake_all(PollEvents::empty());
        self.master_queue.wake_all(PollEvents::empty());
    }

    /// Types `bytes`; says how many there was room for.
    pub fn type_in(&self, bytes: &[u8]) -> usize {
        let mut signals = Signals::new();
        let (taken, ready, echoed) = self.with(|s| {
            let d = &mut s.discipline;
            let stopped = d.is_stopped();
            let mut taken = 0;
            d.begin();
            for byte in bytes {
                if d.room() == 0 {
                    break;
                }
                d.receive(*byte, &mut signals);
                taken += 1;
            }
            let (ready, echoed, now) = (d.is_ready(1), d.pending_output() > 0, d.is_stopped());
            if now != stopped {
                s.tell_stopped(now);
            }
            if !signals.is_empty() && !s.discipline.termios().local(Local::NOFLSH) {
                s.tell(Packet::FLUSH_READ | Packet::FLUSH_WRITE, Packet::empty());
            }
            (taken, ready, echoed || s.packet.is_some())
        });
        for signal in &signals {
            self.signal_foreground(*signal);
        }
        // Flow control may have let writers go on: they wait on the slave's queue, too.
        self.slave_queue.wake_all(if ready { PollEvents::empty() } else { PollEvents::WRITABLE });
        if echoed {
            self.master_queue.wake_all(PollEvents::READABLE);
        }
        taken
    }

    /// Bytes that can be typed now.
    pub fn type_room(&self) -> usize {
        self.with(|s| s.discipline.room())
    }

    /// In packet mode, if there is something to read: the byte it begins with.
    pub fn take_packet(&self) -> Option<Packet> {
        self.with(|s| {
            let output = s.discipline.pending_output() > 0;
            let happened = core::mem::take(s.packet.as_mut()?);
            (output || !happened.is_empty()).then_some(happened)
        })
    }

    /// Takes what the terminal is to show.
    pub fn take_output(&self, out: &mut [u8]) -> usize {
        let n = self.with(|s| s.discipline.take_output(out));
        if n > 0 {
            self.slave_queue.wake_all(PollEvents::WRITABLE);
        }
        n
    }

    /// A program reads.
    pub fn read(&self, out: &mut [u8], hangups: u32) -> Found {
        let found = self.with(|s| match s.hangups == hangups && s.discipline.is_ready(1) {
            true => s.discipline.read(out).map_or(Found::Nothing, Found::Bytes),
            false if s.is_hung_up(hangups) => Found::HungUp,
            false => Found::Nothing,
        });
        if let Found::Bytes(_) = found {
            self.master_queue.wake_all(PollEvents::WRITABLE);
        }
        found
    }

    /// Whether a slave read would not wait; `min` counts in raw mode.
    pub fn is_ready(&self, min: usize, hangups: u32) -> bool {
        self.with(|s| s.is_hung_up(hangups) || s.discipline.is_ready(min))
    }

    /// A program writes `bytes`, at most what [`Pair::write_room`] said.
    pub fn write(&self, bytes: &[u8]) {
        self.with(|s| s.discipline.write(bytes));
        self.master_queue.wake_all(PollEvents::READABLE);
    }

    /// Bytes a program can write now; `None` if it is hung up.
    pub fn write_room(&self, hangups: u32) -> Option<usize> {
        self.with(|s| (!s.is_hung_up(hangups)).then(|| s.discipline.write_room()))
    }

    pub fn poll_slave(&self, table: Option<&mut PollTable>, hangups: u32) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.slave_queue);
        }
        self.with(|s| {
            if s.is_hung_up(hangups) {
                return PollEvents::READABLE | PollEvents::WRITABLE | PollEvents::ERR | PollEvents::HUP;
            }
            let mut events = PollEvents::empty();
            events.set(PollEvents::READABLE, s.discipline.is_ready(poll_minimum(s.discipline.termios())));
            events.set(PollEvents::WRITABLE, s.discipline.write_room() > 0);
            events
        })
    }

    pub fn poll_master(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.master_queue);
        }
        self.with(|s| {
            let mut events = PollEvents::empty();
            events.set(PollEvents::READABLE, s.discipline.pending_output() > 0);
            if s.packet.is_some_and(|packet| !packet.is_empty()) {
                events |= PollEvents::READABLE | PollEvents::PRI;
            }
            events.set(PollEvents::WRITABLE, s.discipline.room() > 0);
            events.set(PollEvents::HUP, s.slave_seen && s.slaves == 0);
            events
        })
    }

    /// Changes the window; the foreground is told if it is another one.
    pub fn resize(&self, window: WindowSize) {
        let changed = self.with(|s| core::mem::replace(&mut s.window, window) != window);
        if changed {
            self.signal_foreground(Signal::WINCH);
        }
    }

    /// Sends to the group in the foreground, if there is one.
    pub fn signal_foreground(&self, signal: Signal) {
        if let Some(group) = self.foreground() {
            // A group whose members are all gone is no error here.
            let _ = signal::send_to_group(crate::kernel::kernel(), &group, SigInfo::kernel(signal));
        }
    }

    /// The master is gone: slaves see their end, the session is told. What was typed and not read is lost unless it is to be
    /// kept.
    pub fn hang_up(&self, keep_input: bool) {
        let (first, session) = self.with(|s| {
            let first = !core::mem::replace(&mut s.hung_up, true);
            if first && !keep_input {
                s.discipline.flush_input();
            }
            (first, s.session.upgrade())
        });
        if !first {
            return;
        }
        self.wake_both();
        if let Some(session) = session {
            self.disassociate(&session, Loss::HungUp);
        }
    }

    /// `vhangup`: the slaves that are open see their end, the session is told; it can be opened again.
    pub fn hang_up_slaves(&self) {
        let session = self.with(|s| {
            s.hangups = s.hangups.wrapping_add(1);
            s.discipline.reset();
            s.session.upgrade()
        });
        self.wake_both();
        if let Some(session) = session {
            self.disassociate(&session, Loss::HungUp);
        }
    }

    /// Whether erasing should know about UTF-8: what the host's terminal surely is.
    pub fn termios_of_host() -> Termios {
        Termios { iflag: Termios::STANDARD.iflag | Input::IUTF8.bits(), ..Termios::STANDARD }
    }
}

/// Bytes that make a raw slave readable for `poll`.
fn poll_minimum(t: &Termios) -> usize {
    use super::termios::Special;
    if t.special(Special::Time) == 0 { t.special(Special::Min).into() } else { 1 }
}
