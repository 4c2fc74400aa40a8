//! Kicks of the request queue, and the timer that resumes a throttled one.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Rng;

impl MutEventSubscriber for Rng {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(self.kick(), EventSet::IN)).expect("an eventfd can be polled");
        ops.add(Events::new(&self.refill, EventSet::IN)).expect("a timerfd can be polled");
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        if events.fd() == self.refill.as_raw_fd() {
            let _ = self.refill.wait();
        } else {
            let _ = self.kick().read();
        }
        self.process_requests();
    }
}
