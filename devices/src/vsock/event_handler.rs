//! Kicks, readiness of host descriptors (one nested epoll), and the device's own reminder.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Vsock;

impl MutEventSubscriber for Vsock {
    fn init(&mut self, ops: &mut EventOps) {
        for eventfd in self.kicks.iter().chain([&self.again]) {
            ops.add(Events::new(eventfd, EventSet::IN)).expect("an eventfd can be polled");
        }
        ops.add(Events::new(&self.muxer.epoll, EventSet::IN)).expect("an epoll can be polled");
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let eventfd = self.kicks.iter().chain([&self.again]).find(|e| e.as_raw_fd() == events.fd());
        match eventfd {
            Some(eventfd) => drop(eventfd.read()),
            None => self.process_hosts(),
        }
        self.process_queues();
    }
}
