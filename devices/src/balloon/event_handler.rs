//! Kicks of the three queues.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Balloon;

impl MutEventSubscriber for Balloon {
    fn init(&mut self, ops: &mut EventOps) {
        for kick in &self.kicks {
            ops.add(Events::new(kick, EventSet::IN)).expect("an eventfd can be polled");
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let Some(index) = self.kicks.iter().position(|k| k.as_raw_fd() == events.fd()) else { return };
        let _ = self.kicks[index].read();
        if self.process_queue(index) {
            // The rest after the other devices had their turn.
            let _ = self.kicks[index].write(1);
        }
    }
}
