//! Sending and receiving.

use core::sync::atomic::Ordering::Relaxed;

use super::{
    link::{Handle, Sent, Side, writable},
    socket::{Phase, TcpSocket},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    net::socket::{How, wait_error},
    sched,
    sync::{Interruptible, wait_event},
};

/// Whether a reader need not wait any longer.
fn ended(mine: &Side) -> bool {
    mine.done || mine.over || mine.read_shut || mine.error.is_some()
}

impl TcpSocket {
    /// The connection; waits until it is made. `None` if there is none.
    fn connection(&self, task: &TaskRef, nonblocking: bool, deadline: Option<u64>) -> Result<Option<Handle>> {
        let look = || {
            self.with(|s| match &s.phase {
                Phase::Connected(handle) => Some(Some(handle.clone())),
                Phase::Waiting(_) => None,
                _ => Some(None),
            })
        };
        match look() {
            Some(found) => Ok(found),
            None if nonblocking => Err(Errno::EAGAIN),
            None => wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                .map_err(wait_error(deadline)),
        }
    }

    /// Sends all of `source`.
    pub(super) fn send_bytes(&self, task: &TaskRef, source: &mut Source<'_>, how: How) -> Result {
        let deadline = self.common.send_deadline();
        let Some(handle) = self.connection(task, how.nonblocking, deadline)? else {
            return Err(self.with(|s| s.error.take()).unwrap_or(Errno::EPIPE));
        };
        let mut done = 0;
        loop {
            let sent = match handle.send(source, how.more) {
                Ok(Sent::Full) if how.nonblocking => Err(Errno::EAGAIN),
                Ok(Sent::Full) => {
                    let look = || {
                        handle.with(|mine, theirs| {
                            let decided = mine.error.is_some() || mine.fin || mine.over || theirs.closed;
                            let ready = decided || writable(mine, theirs);
                            mine.starved |= !ready;
                            ready.then_some(())
                        })
                    };
                    wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                        .map_err(wait_error(deadline))
                        .map(|()| 0)
                }
                Ok(Sent::Bytes(n)) => Ok(n),
                Err(e) => Err(e),
            };
            match sent {
                Ok(n) => done += n,
                Err(_) if done > 0 => return Ok(done),
                Err(e) => return Err(e),
            }
            if source.remaining() == 0 {
                return Ok(done);
            }
            sched::preempt_point(task);
        }
    }

    /// Receives into `sink`: what there is, or all that fits (`MSG_WAITALL`). How many bytes.
    pub(super) fn receive_bytes(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result {
        if how.errors {
            return Err(Errno::EAGAIN); // none is noted
        }
        let deadline = self.common.receive_deadline();
        let Some(handle) = self.connection(task, how.nonblocking, deadline)? else {
            return self.with(|s| match s.error.take() {
                Some(error) => Err(error),
                None if s.read_shut && !matches!(s.phase, Phase::Listening(_)) => Ok(0),
                None => Err(Errno::ENOTCONN),
            });
        };
        let wanted = sink.remaining();
        let low_water = self.common.receive_low_water.load(Relaxed).max(1) as usize;
        let target = if how.wait_all { wanted } else { low_water.min(wanted) }.max(1);
        let mut count = 0;
        loop {
            if how.peek {
                let enough = handle.with(|mine, _| {
                    mine.queued >= target || mine.queued > 0 && (ended(mine) || how.nonblocking)
                });
                if enough && how.truncate {
                    return Ok(handle.with(|mine, _| mine.queued).min(wanted));
                }
                if enough {
                    return handle.peek(sink);
                }
            } else {
                while handle.with(|mine, _| mine.queued > 0) {
                    match handle.receive(sink, how.truncate, wanted - count) {
                        Ok(0) => break, // another one took it, or nothing is wanted
                        Ok(n) => count += n,
                        Err(_) if count > 0 => return Ok(count),
                        Err(e) => return Err(e),
                    }
                    if count == wanted {
                        break;
                    }
                    sched::preempt_point(task);
                }
                if count >= target || wanted == 0 && handle.with(|mine, _| mine.queued > 0) {
                    return Ok(count);
                }
            }
            let needed = if how.peek { target } else { 1 };
            let over = handle.with(|mine, _| {
                if mine.queued >= needed || how.peek && mine.queued > 0 && ended(mine) {
                    return None; // it came between
                }
                Some(match () {
                    () if count > 0 && ended(mine) => Ok(count),
                    () if mine.done => Ok(0),
                    () => match mine.error.take() {
                        Some(error) => Err(error),
                        None if mine.over || mine.read_shut => Ok(0),
                        None if how.nonblocking && count > 0 => Ok(count),
                        None if how.nonblocking => Err(Errno::EAGAIN),
                        None => return None,
                    },
                })
            });
            if let Some(outcome) = over {
                return outcome;
            }
            let look = || handle.with(|mine, _| (mine.queued >= needed || ended(mine)).then_some(()));
            match wait_event(task, &self.queue, Interruptible::Yes, deadline, look) {
                Ok(()) => {}
                Err(_) if count > 0 => return Ok(count),
                Err(_) if how.peek && handle.with(|mine, _| mine.queued > 0) => return handle.peek(sink),
                Err(e) => return Err(wait_error(deadline)(e)),
            }
        }
    }
}
