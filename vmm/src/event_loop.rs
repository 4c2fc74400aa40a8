//! The event loop of a running sandbox.
//!
//! One thread waits for everything: the devices' queues and descriptors, the control connection, signals, the
//! time-out, and the machine's own end. The loop ends with an [`Ending`]; a program's `Exited` message does
//! not end it yet, because the guest delivers the last output before it powers off.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{
    EventManager, EventOps, EventSet, Events, MutEventSubscriber, SubscriberId, SubscriberOps,
};
use ringfence_protocol::{ExitStatus, FIRST_CONTAINER, GuestStats, INIT_PROCESS, Request, ToGuest, ToHost};
use rustix::event::{PollFd, PollFlags, poll};
use rustix::time::{Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec};

use crate::cli::Failure;
use crate::control::{Control, ControlError};
use crate::door::{Door, Told, Wish};
use crate::machine::Machine;
use crate::machine::vcpu::{Shared, Stop};
use crate::signals::Signals;
use crate::terminal;
use crate::timeline::Timeline;

/// Events taken from epoll at a time.
const BATCH: usize = 32;

/// Why the sandbox is over.
#[derive(Debug)]
pub enum Ending {
    /// The program ended.
    Exited(ExitStatus),
    /// The program never ran.
    StartFailed {
        /// Linux errno.
        errno: u32,
        /// One sentence.
        message: String,
    },
    /// The machine ended and nobody said why.
    Stopped(Stop),
    /// A signal came before there was a program to forward it to, or the supervisor asked for the end (SIGKILL).
    Signalled(libc::c_int),
    /// `--timeout`.
    TimedOut,
    /// The guest broke the control protocol.
    Broken(ControlError),
}

/// The loop.
pub struct EventLoop {
    events: EventManager<Box<dyn MutEventSubscriber>>,
    state: Rc<RefCell<State>>,
    /// Its number as a subscriber.
    own: SubscriberId,
}

struct State {
    shared: Arc<Shared>,
    control: Control,
    door: Option<Door>,
    signals: Signals,
    /// Whose size the program's terminal has.
    terminal: Option<OwnedFd>,
    timer: Option<OwnedFd>,
    /// The guest does not take our messages as fast as we send.
    control_blocked: bool,
    started: bool,
    /// What the guest said about its program's end.
    said: Option<Ending>,
    stats: Option<GuestStats>,
    ending: Option<Ending>,
}

impl EventLoop {
    /// Collects everything there is to wait for.
    pub fn new(
        machine: &mut Machine,
        control: UnixStream,
        door: Option<Door>,
        signals: Signals,
        terminal: Option<OwnedFd>,
        timeout: Option<Duration>,
    ) -> Result<Self, Failure> {
        let no_loop = |e| Failure::setup(format!("cannot make an event loop: {e:?}"));
        let mut events: EventManager<Box<dyn MutEventSubscriber>> =
            EventManager::new_with_capacity(BATCH).map_err(no_loop)?;
        for subscriber in machine.take_subscribers() {
            events.add_subscriber(subscriber);
        }
        let timer = timeout.map(timer).transpose().map_err(|e| Failure::setup(format!("no timer: {e}")))?;
        let state = Rc::new(RefCell::new(State {
            shared: machine.shared().clone(),
            control: Control::new(control).map_err(Failure::setup)?,
            door,
            signals,
            terminal,
            timer,
            control_blocked: false,
            started: false,
            said: None,
            stats: None,
            ending: None,
        }));
        let own = events.add_subscriber(Box::new(state.clone()));
        Ok(Self { events, state, own })
    }

    /// Waits until the sandbox is over.
    pub fn run(&mut self, machine: &Machine, timeline: &mut Timeline) -> Result<Ending, Failure> {
        let mut started = false;
        loop {
            self.events.run().map_err(|e| Failure {
                code: crate::exit::MACHINE_FAILED,
                message: format!("epoll: {e:?}"),
            })?;
            let mut state = self.state.borrow_mut();
            if state.started && !started {
                started = true;
                timeline.mark("program_started");
            }
            if let Some(ending) = state.ending.take() {
                return Ok(ending);
            }
            let wish = state.door.as_mut().and_then(|door| door.wish.take());
            drop(state);
            if let Some(ending) = wish.and_then(|(wish, id)| self.grant(wish, id, machine)) {
                return Ok(ending);
            }
        }
    }

    /// Pauses the machine, until it is to go on or ends.
    fn grant(&mut self, wish: Wish, id: u64, machine: &Machine) -> Option<Ending> {
        let done = wish == Wish::Resume || machine.pause();
        let told = if done {
            Told::Done
        } else {
            Told::failed(libc::EAGAIN, "a vCPU does not stand still; try again")
        };
        self.answer(id, told);
        if wish == Wish::Pause && done { self.stand(machine) } else { None }
    }

    fn answer(&mut self, id: u64, told: Told) {
        let mut state = self.state.borrow_mut();
        if let Some(door) = &mut state.door {
            door.answer(id, told);
        }
        if let Ok(mut ops) = self.events.event_ops(self.own) {
            state.watch_control(&mut ops);
        }
    }

    /// While the vCPUs stand still the devices do so, too, because nothing is waited for but the supervisor, signals, the
    /// time-out and the machine's end. What happens to queues and streams meanwhile is still there when the loop goes on.
    fn stand(&mut self, machine: &Machine) -> Option<Ending> {
        loop {
            let mut state = self.state.borrow_mut();
            let fds = state.poll();
            let Ok(mut ops) = self.events.event_ops(self.own) else { return None };
            for (fd, set) in fds {
                state.process(Events::with_data_raw(fd, 0, set), &mut ops);
            }
            if let Some(ending) = state.ending.take() {
                return Some(ending);
            }
            let door = state.door.as_mut()?;
            let wish = door.wish.take();
            let alone = door.is_over();
            drop(state);
            match wish {
                Some((Wish::Resume, id)) => {
                    machine.resume();
                    self.answer(id, Told::Done);
                    return None;
                }
                Some((Wish::Pause, id)) => self.answer(id, Told::Done),
                // Nobody could ever let it go on.
                None if alone => {
                    machine.resume();
                    return None;
                }
                None => {}
            }
        }
    }

    /// After the drain: the last control messages decide. Returns the guest's counters.
    pub fn finish(&mut self, ending: &mut Ending) -> Option<GuestStats> {
        let mut state = self.state.borrow_mut();
        if matches!(ending, Ending::Stopped(_)) {
            let result = state.read_control();
            match (state.said.take(), result) {
                // A panic or crash while powering off is no news for the user, the program had ended.
                (Some(said), _) => *ending = said,
                (None, Err(e)) => *ending = Ending::Broken(e),
                (None, Ok(())) => {}
            }
        }
        state.stats.take()
    }
}

impl State {
    /// Waits for those descriptors that count while the machine is paused; returns what has happened to which.
    fn poll(&self) -> Vec<(RawFd, EventSet)> {
        // SAFETY: the eventfd is `self.shared`'s, which is borrowed for longer than this function runs.
        let stopped = unsafe { BorrowedFd::borrow_raw(self.shared.stopped().as_raw_fd()) };
        let mut fds =
            vec![PollFd::from_borrowed_fd(stopped, PollFlags::IN), PollFd::new(&self.signals, PollFlags::IN)];
        fds.extend(self.timer.as_ref().map(|timer| PollFd::new(timer, PollFlags::IN)));
        fds.extend(self.door.as_ref().map(|door| PollFd::new(door, door.waits_for())));
        let _ = poll(&mut fds, None); // an interruption is only another look
        let set = |flags: PollFlags| {
            let mut set = EventSet::empty();
            set.set(EventSet::IN, flags.contains(PollFlags::IN));
            set.set(EventSet::OUT, flags.contains(PollFlags::OUT));
            set.set(EventSet::HANG_UP, flags.intersects(PollFlags::HUP | PollFlags::ERR));
            set
        };
        let ready = fds.iter().filter(|fd| !fd.revents().is_empty());
        ready.map(|fd| (fd.as_fd().as_raw_fd(), set(fd.revents()))).collect()
    }

    fn read_control(&mut self) -> Result<(), ControlError> {
        while let Some(message) = self.control.receive()? {
            match message {
                // `receive` deals with greetings.
                ToHost::Hello { .. } => {}
                ToHost::Started => self.started = true,
                ToHost::StartFailed { errno, message } => {
                    self.said = Some(Ending::StartFailed { errno, message: printable(&message) });
                }
                ToHost::Exited { status, stats } => {
                    self.said = Some(Ending::Exited(status));
                    self.stats = stats.or(self.stats.take());
                }
                ToHost::Stats { stats } => {
                    if let Some(door) = &mut self.door {
                        door.stats(&stats);
                    }
                    self.stats = Some(stats);
                }
                ToHost::Reply { id, reply } => {
                    if let Some(door) = &mut self.door {
                        door.reply(id, reply, &mut self.control)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// Waits for the guest to take what is queued for it, if there is something, and for the supervisor likewise.
    fn watch_control(&mut self, ops: &mut EventOps) {
        let wants = self.control.is_waiting() && !self.control.closed();
        if wants != self.control_blocked {
            self.control_blocked = wants;
            let set = if wants { EventSet::IN | EventSet::OUT } else { EventSet::IN };
            let _ = ops.modify(Events::new(&self.control, set));
        }
        if let Some(door) = &mut self.door {
            door.update(ops);
        }
    }

    fn on_control(&mut self, ops: &mut EventOps) -> Result<(), ControlError> {
        self.control.flush()?;
        self.read_control()?;
        if self.control.closed() {
            let _ = ops.remove(Events::new(&self.control, EventSet::IN));
        }
        Ok(())
    }

    /// Asks something about the first process; nobody waits for the answer.
    fn tell_first(&mut self, request: Request) -> Result<(), ControlError> {
        self.control.send(&ToGuest::Request { id: 0, request: Box::new(request) }).map(|_| ())
    }

    fn on_signals(&mut self) -> Result<(), ControlError> {
        while let Some(signal) = self.signals.take() {
            if signal == libc::SIGWINCH {
                let terminal = self.terminal.as_ref();
                if let Some((rows, cols)) = terminal.and_then(|terminal| terminal::size_of(terminal.as_fd()))
                {
                    let container = FIRST_CONTAINER.to_owned();
                    self.tell_first(Request::Resize { container, process: INIT_PROCESS, rows, cols })?;
                }
            } else if self.control.greeted() {
                let (container, signal) = (FIRST_CONTAINER.to_owned(), signal as u32);
                self.tell_first(Request::Signal { container, process: INIT_PROCESS, signal })?;
            } else if signal != libc::SIGCONT {
                self.ending = Some(Ending::Signalled(signal));
            }
        }
        Ok(())
    }
}

impl MutEventSubscriber for State {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(self.shared.stopped(), EventSet::IN)).expect("an eventfd can be polled");
        ops.add(Events::new(&self.signals, EventSet::IN)).expect("a signalfd can be polled");
        ops.add(Events::new(&self.control, EventSet::IN)).expect("a socket can be polled");
        if let Some(door) = &self.door {
            door.watch(ops);
        }
        if let Some(timer) = &self.timer {
            ops.add(Events::new(timer, EventSet::IN)).expect("a timerfd can be polled");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        let fd = events.fd();
        let result = if fd == self.shared.stopped().as_raw_fd() {
            self.ending = self.shared.stop_reason().map(Ending::Stopped);
            Ok(())
        } else if fd == self.control.as_raw_fd() {
            self.on_control(ops)
        } else if fd == self.signals.as_raw_fd() {
            self.on_signals()
        } else if self.timer.as_ref().is_some_and(|timer| fd == timer.as_raw_fd()) {
            self.ending = Some(Ending::TimedOut);
            Ok(())
        } else {
            match &mut self.door {
                Some(door) if fd == door.as_raw_fd() => door.process(events, &mut self.control),
                _ => Ok(()),
            }
        };
        self.watch_control(ops);
        if self.door.as_ref().is_some_and(|door| door.ends) {
            self.ending.get_or_insert(Ending::Signalled(libc::SIGKILL));
        }
        if let Err(e) = result {
            self.ending.get_or_insert(Ending::Broken(e));
        }
    }
}

fn timer(after: Duration) -> rustix::io::Result<OwnedFd> {
    let fd = rustix::time::timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC)?;
    let never = Timespec { tv_sec: 0, tv_nsec: 0 };
    let it_value = Timespec::try_from(after).map_err(|_| rustix::io::Errno::INVAL)?;
    let once = Itimerspec { it_interval: never, it_value };
    rustix::time::timerfd_settime(&fd, TimerfdTimerFlags::empty(), &once)?;
    Ok(fd)
}

/// The words of others must not drive the user's terminal.
pub fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(4096).collect()
}
