//! Kicks of the request queue.

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Pmem;

impl MutEventSubscriber for Pmem {
    fn init(&mut self, ops: &mut EventOps) {
        ops.add(Events::new(self.kick(), EventSet::IN)).expect("an eventfd can be polled");
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps) {
        let _ = self.kick().read();
        self.process_requests();
    }
}
