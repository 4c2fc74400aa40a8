//! One queue: messages by priority, who waits, whom to notify.

use alloc::{collections::BTreeMap, collections::VecDeque, sync::Weak, vec::Vec};
use core::cmp::Reverse;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::{
    TaskRef,
    errno::{Errno, Result},
    signal::{
        self, SigInfo, Signal,
        types::{Fields, code},
    },
    sync::{self, Interruptible, PollEvents, SpinLock, WaitError, WaitQueue, wait_event},
    task::Process,
};

/// `struct mq_attr`.
#[derive(Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub struct Attributes {
    pub flags: i64,
    pub max_messages: i64,
    pub message_size: i64,
    pub messages: i64,
    pub reserved: [i64; 4],
}

/// What `mq_notify` asked for.
#[derive(Clone)]
pub struct Notify {
    pub process: Weak<Process>,
    pub pid: i32,
    /// `None`: nothing is sent (`SIGEV_NONE`).
    pub signal: Option<Signal>,
    pub value: u64,
}

#[derive(Default)]
struct State {
    messages: BTreeMap<Reverse<u32>, VecDeque<Vec<u8>>>,
    count: usize,
    bytes: usize,
    receivers: usize,
    notify: Option<Notify>,
}

impl State {
    fn push(&mut self, priority: u32, bytes: Vec<u8>) {
        self.bytes += bytes.len();
        self.count += 1;
        self.messages.entry(Reverse(priority)).or_default().push_back(bytes);
    }

    fn pop(&mut self) -> Option<(u32, Vec<u8>)> {
        let mut first = self.messages.first_entry()?;
        let priority = first.key().0;
        let bytes = first.get_mut().pop_front();
        if first.get().is_empty() {
            first.remove();
        }
        let bytes = bytes?;
        self.bytes -= bytes.len();
        self.count -= 1;
        Some((priority, bytes))
    }
}

/// A message queue.
pub struct MessageQueue {
    pub max_messages: usize,
    pub message_size: usize,
    state: SpinLock<State>,
    pub waiters: sync::Queue,
}

fn waited(e: WaitError) -> Errno {
    match e {
        WaitError::TimedOut => Errno::ETIMEDOUT,
        WaitError::Interrupted => Errno::ERESTARTSYS,
    }
}

impl MessageQueue {
    pub fn new(max_messages: usize, message_size: usize) -> MessageQueue {
        MessageQueue {
            max_messages,
            message_size,
            state: SpinLock::new(State::default()),
            waiters: WaitQueue::new(),
        }
    }

    pub fn count(&self) -> usize {
        self.state.lock().count
    }

    /// Bytes waiting, and whom to notify: the text of the file.
    pub fn status(&self) -> (usize, Option<Notify>) {
        let s = self.state.lock();
        (s.bytes, s.notify.clone())
    }

    fn wake(&self, events: PollEvents) {
        self.waiters.wake_all(events);
    }

    /// Adds a message; waits for room until `deadline` unless that is not wanted.
    pub fn send(
        &self,
        task: &TaskRef,
        priority: u32,
        bytes: Vec<u8>,
        nonblocking: bool,
        deadline: Option<u64>,
    ) -> Result<()> {
        let mut bytes = Some(bytes);
        let mut notify = None;
        let mut put = || {
            let mut s = self.state.lock();
            if s.count >= self.max_messages {
                return None;
            }
            if let Some(bytes) = bytes.take() {
                s.push(priority, bytes);
            }
            if s.count == 1 && s.receivers == 0 {
                notify = s.notify.take();
            }
            Some(())
        };
        match put() {
            Some(()) => {}
            None if nonblocking => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.waiters, Interruptible::Yes, deadline, put).map_err(waited)?,
        }
        self.wake(PollEvents::READABLE);
        if let Some(notify) = notify
            && let (Some(process), Some(signal)) = (notify.process.upgrade(), notify.signal)
        {
            let (pid, uid) = (task.process().pid, task.credentials().uid);
            let fields = Fields::Queued { pid, uid, value: notify.value };
            // A queue of signals that is full loses it, as on Linux.
            let _ = signal::send_to_process(&process, SigInfo { signal, code: code::SI_MESGQ, fields });
        }
        Ok(())
    }

    /// Takes the oldest message of the highest priority.
    pub fn receive(
        &self,
        task: &TaskRef,
        nonblocking: bool,
        deadline: Option<u64>,
    ) -> Result<(u32, Vec<u8>)> {
        let first = self.state.lock().pop();
        let message = match first {
            Some(message) => message,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => {
                self.state.lock().receivers += 1;
                let take = || self.state.lock().pop();
                let result = wait_event(task, &self.waiters, Interruptible::Yes, deadline, take);
                self.state.lock().receivers -= 1;
                result.map_err(waited)?
            }
        };
        self.wake(PollEvents::WRITABLE);
        Ok(message)
    }

    /// `mq_notify`: registers, or with `None` takes the caller's registration back. `EBUSY`.
    pub fn notify(&self, task: &TaskRef, new: Option<Notify>) -> Result<()> {
        let mut s = self.state.lock();
        let alive = |n: &Notify| n.process.upgrade().is_some_and(|p| !p.is_exiting());
        let mine = s.notify.as_ref().is_some_and(|n| n.pid == task.pid());
        match new {
            None if mine => s.notify = None,
            None => {}
            Some(_) if s.notify.as_ref().is_some_and(alive) => return Err(Errno::EBUSY),
            Some(new) => s.notify = Some(new),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_of_the_highest_priority_comes_first() {
        let mut s = State::default();
        for (priority, text) in [(1, "a"), (5, "b"), (1, "c"), (5, "d")] {
            s.push(priority, text.as_bytes().to_vec());
        }
        assert_eq!((s.count, s.bytes), (4, 4));
        let order: Vec<_> = core::iter::from_fn(|| s.pop()).map(|(p, b)| (p, b[0])).collect();
        assert_eq!(order, [(5, b'b'), (5, b'd'), (1, b'a'), (1, b'c')]);
        assert_eq!((s.count, s.bytes, s.messages.len()), (0, 0, 0));
    }
}
