//! Input: the host's descriptor becomes readable, or the guest has emptied the FIFO. A port without input asks
//! for no events.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Serial;

impl MutEventSubscriber for Serial {
    fn init(&mut self, ops: &mut EventOps) {
        let Some(input) = &mut self.input else { return };
        ops.add(Events::new(&*self.room, EventSet::IN)).expect("an eventfd can be polled");
        if ops.add(Events::new(input, EventSet::IN | EventSet::EDGE_TRIGGERED)).is_err() {
            // A regular file: always readable; it is pumped whenever the FIFO is empty.
            input.set_always_ready();
            let _ = self.room.write(1);
        }
    }

    fn process(&mut self, events: Events, ops: &mut EventOps) {
        if events.fd() == self.room.as_raw_fd() {
            let _ = self.room.read();
        }
        if !self.pump_input()
            && let Some(input) = self.input.take()
            && !input.is_always_ready()
        {
            let _ = ops.remove(Events::empty(&input));
        }
    }
}
