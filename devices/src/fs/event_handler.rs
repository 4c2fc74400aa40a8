//! The driver that has become ready, and the gofer that has gone.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Fs;

impl MutEventSubscriber for Fs {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(&self.ready, EventSet::IN)).expect("an eventfd can be polled");
        if let Some(socket) = &self.socket {
            ops.add(Events::new(socket, EventSet::IN)).expect("a socket can be polled");
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.ready.as_raw_fd() {
            let _ = self.ready.read();
            self.introduce();
        } else if let Some(socket) = &self.socket {
            let _ = ops.remove(Events::new(socket, EventSet::IN));
            self.lose();
        }
    }
}
