//! The queue of events of one instance.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use super::Events;
use crate::{
    errno::{Errno, Result},
    io::Sink,
};

/// Bytes of `struct inotify_event` without a name.
const HEADER: usize = 16;

/// One event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub wd: i32,
    pub mask: Events,
    pub cookie: u32,
    pub name: Option<Arc<[u8]>>,
}

impl Event {
    /// Bytes of the name as user space gets it: with a NUL, filled up to whole headers.
    fn name_len(&self) -> usize {
        self.name.as_ref().map_or(0, |n| (n.len() + 1).next_multiple_of(HEADER))
    }

    fn size(&self) -> usize {
        HEADER + self.name_len()
    }

    fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(self.size());
        out.extend_from_slice(&self.wd.to_ne_bytes());
        out.extend_from_slice(&self.mask.bits().to_ne_bytes());
        out.extend_from_slice(&self.cookie.to_ne_bytes());
        out.extend_from_slice(&(self.name_len() as u32).to_ne_bytes());
        out.extend_from_slice(self.name.as_deref().unwrap_or_default());
        out.resize(self.size(), 0);
        out
    }
}

/// Events that were not read yet.
#[derive(Default)]
pub(super) struct EventQueue {
    events: VecDeque<Event>,
}

impl EventQueue {
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Bytes of all events (`FIONREAD`).
    pub fn bytes(&self) -> usize {
        self.events.iter().map(Event::size).sum()
    }

    /// Adds an event unless it equals the last one. Beyond `max` events there is one overflow mark.
    pub fn push(&mut self, event: Event, max: usize) -> bool {
        let event = if self.events.len() < max {
            event
        } else {
            Event { wd: -1, mask: Events::Q_OVERFLOW, cookie: 0, name: None }
        };
        if self.events.back() == Some(&event) && event.mask != Events::IGNORED {
            return false;
        }
        if self.events.try_reserve(1).is_err() {
            return false;
        }
        self.events.push_back(event);
        true
    }

    /// Takes the first event that fits into `room` bytes; `EINVAL` if the first one does not.
    pub fn pop(&mut self, room: usize) -> Option<Result<Event>> {
        let first = self.events.front()?;
        if first.size() > room {
            return Some(Err(Errno::EINVAL));
        }
        self.events.pop_front().map(Ok)
    }
}

/// Puts an event into a reader's buffer.
pub(super) fn put(event: &Event, sink: &mut Sink<'_>) -> Result<()> {
    sink.put(&event.encode())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(mask: Events, name: Option<&[u8]>) -> Event {
        Event { wd: 1, mask, cookie: 0, name: name.map(Arc::from) }
    }

    #[test]
    fn events_are_padded_joined_and_bounded() {
        let mut q = EventQueue::default();
        assert!(q.push(event(Events::OPEN, None), 3));
        assert!(!q.push(event(Events::OPEN, None), 3), "the same again");
        assert!(q.push(event(Events::CREATE, Some(b"fifteen bytes..")), 3));
        assert!(q.push(event(Events::CREATE, Some(b"sixteen bytes...")), 3));
        assert!(q.push(event(Events::CLOSE_WRITE, None), 3), "the overflow mark");
        assert!(!q.push(event(Events::ATTRIB, None), 3), "one of them");
        assert_eq!(q.bytes(), 16 + 32 + 48 + 16);
        assert_eq!(q.pop(15), Some(Err(Errno::EINVAL)));
        assert_eq!(q.pop(16).unwrap().unwrap().mask, Events::OPEN);
        assert_eq!(q.pop(100).unwrap().unwrap().encode().len(), 32);
        assert_eq!(q.pop(100).unwrap().unwrap().encode().len(), 48);
        assert_eq!(q.pop(100).unwrap().unwrap().mask, Events::Q_OVERFLOW);
        assert!(q.is_empty());
    }
}
