//! Kicks of the request queue, and the timer that resumes a throttled one.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Block;

impl MutEventSubscriber for Block {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(self.kick(), EventSet::IN)).expect("an eventfd can be polled");
        if let Some(timer) = self.limits.timer() {
            ops.add(Events::new(timer, EventSet::IN)).expect("a timerfd can be polled");
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        match self.limits.timer_mut() {
            Some(timer) if timer.as_raw_fd() == events.fd() => drop(timer.wait()),
            _ => drop(self.kick().read()),
        }
        self.process_requests();
    }
}
