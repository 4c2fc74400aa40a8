//! The slave: what programs have as their terminal.

use alloc::{sync::Arc, vec::Vec};

use super::{
    ioctl,
    pair::{Found, Pair},
    termios::{Local, Special},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    fs::{File, OpenFile},
    io::{Sink, Source},
    signal::Signal,
    sync::{Interruptible, PollEvents, PollTable, Queue, WaitError, wait_event},
    task::Capabilities,
    time::deadline_after,
};

/// Bytes moved at a time.
const CHUNK: usize = 1024;

/// An open slave.
pub(super) struct Slave {
    pub pair: Arc<Pair>,
    /// [`super::pair::State::hangups`] when it was opened.
    pub hangups: u32,
}

impl Slave {
    /// Opens it. `EIO` while it is locked or hung up, `EBUSY` if somebody has it for himself, except for root.
    pub fn new(pair: Arc<Pair>, task: Option<&TaskRef>) -> Result<Arc<Slave>> {
        let privileged = task.is_none_or(|task| task.credentials().capable(Capabilities::SYS_ADMIN));
        let hangups = pair.with(|s| {
            if s.locked || s.hung_up {
                return Err(Errno::EIO);
            }
            if s.exclusive && s.slaves > 0 && !privileged {
                return Err(Errno::EBUSY);
            }
            s.slaves += 1;
            s.slave_seen = true;
            Ok(s.hangups)
        })?;
        pair.master_queue.wake_all(PollEvents::empty());
        Ok(Arc::new(Slave { pair, hangups }))
    }

    /// `VMIN` and `VTIME` in nanoseconds; `None` in canonical mode.
    fn raw_parameters(&self) -> Option<(usize, u64)> {
        self.pair.with(|s| {
            let t = s.discipline.termios();
            let parameters =
                (t.special(Special::Min).into(), u64::from(t.special(Special::Time)) * 100_000_000);
            (!t.local(Local::ICANON)).then_some(parameters)
        })
    }

    /// Waits for input: for `min` bytes in raw mode. False if the time was up.
    fn wait_readable(&self, task: &TaskRef, min: usize, deadline: Option<u64>) -> Result<bool> {
        let ready = || self.pair.is_ready(min, self.hangups).then_some(());
        match wait_event(task, &self.pair.slave_queue, Interruptible::Yes, deadline, ready) {
            Ok(()) => Ok(true),
            Err(WaitError::TimedOut) => Ok(false),
            Err(WaitError::Interrupted) => Err(Errno::ERESTARTSYS),
        }
    }
}

impl Drop for Slave {
    fn drop(&mut self) {
        self.pair.with(|s| s.slaves -= 1);
        self.pair.master_queue.wake_all(PollEvents::empty());
    }
}

impl File for Slave {
    fn read(&self, file: &OpenFile, task: &TaskRef, sink: &mut Sink<'_>) -> Result {
        self.pair.check_foreground(task, Signal::TTIN)?;
        let mut buf = [0u8; CHUNK];
        let mut done = 0;
        loop {
            let want = sink.remaining().min(CHUNK);
            let found = self.pair.read(buf.get_mut(..want).unwrap_or_default(), self.hangups);
            match found {
                Found::Bytes(n) => {
                    sink.put(buf.get(..n).unwrap_or_default())?;
                    done += n;
                    let Some((min, time)) = self.raw_parameters() else {
                        // A line ends a read; what is left of a long one goes on filling the buffer.
                        let whole = n < want || buf.get(n.wrapping_sub(1)) == Some(&b'\n');
                        if whole || sink.remaining() == 0 {
                            return Ok(done);
                        }
                        if !self.pair.is_ready(1, self.hangups) {
                            return Ok(done);
                        }
                        continue;
                    };
                    let enough = done >= min || sink.remaining() == 0 || file.nonblocking();
                    if enough && (n < want || sink.remaining() == 0) {
                        return Ok(done);
                    }
                    let between = (time > 0).then(|| deadline_after(time));
                    if !enough && !self.wait_readable(task, 1, between).unwrap_or(false) {
                        return Ok(done);
                    }
                    if enough && !self.pair.is_ready(1, self.hangups) {
                        return Ok(done);
                    }
                }
                Found::HungUp => return Ok(done),
                Found::Nothing if done > 0 || want == 0 => return Ok(done),
                Found::Nothing => {
                    let raw = self.raw_parameters();
                    if let Some((0, 0)) = raw {
                        return Ok(0);
                    }
                    if file.nonblocking() {
                        return Err(Errno::EAGAIN);
                    }
                    let deadline = match raw {
                        Some((0, time)) => Some(deadline_after(time)),
                        _ => None,
                    };
                    if !self.wait_readable(task, 1, deadline)? {
                        return Ok(0);
                    }
                    // While it waited, its job may have gone to the background.
                    self.pair.check_foreground(task, Signal::TTIN)?;
                }
            }
        }
    }

    fn write(&self, file: &OpenFile, task: &TaskRef, source: &mut Source<'_>) -> Result {
        if self.pair.with(|s| s.discipline.termios().local(Local::TOSTOP)) {
            self.pair.check_foreground(task, Signal::TTOU)?;
        }
        let mut buf = [0u8; CHUNK];
        let mut done = 0;
        while source.remaining() > 0 {
            let room = self.pair.write_room(self.hangups);
            let outcome = match room {
                None => Err(Errno::EIO),
                Some(0) if file.nonblocking() => Err(Errno::EAGAIN),
                Some(0) => {
                    let room = || (self.pair.write_room(self.hangups) != Some(0)).then_some(0);
                    wait_event(task, &self.pair.slave_queue, Interruptible::Yes, None, room)
                        .map_err(Errno::from)
                }
                Some(room) => {
                    let n = room.min(CHUNK).min(source.remaining());
                    let chunk = buf.get_mut(..n).unwrap_or_default();
                    source.take(chunk).map(|()| {
                        self.pair.write(chunk);
                        n
                    })
                }
            };
            match outcome {
                Ok(n) => done += n,
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        self.pair.poll_slave(table, self.hangups)
    }

    fn async_queues(&self) -> Option<Vec<(Queue, PollEvents)>> {
        Some(alloc::vec![(self.pair.slave_queue.clone(), PollEvents::READABLE)])
    }

    fn ioctl(&self, _file: &OpenFile, task: &TaskRef, command: u32, arg: u64) -> Result {
        ioctl::slave(self, task, command, arg)
    }
}
