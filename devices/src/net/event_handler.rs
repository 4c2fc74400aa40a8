//! Kicks, the host's descriptor, and the timers that resume a throttled direction.
//!
//! The host's descriptor is watched by edges: frames are read until there are no more, or until the guest has no room, and
//! then its kick is what goes on.

use std::os::fd::AsRawFd;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Net;

impl MutEventSubscriber for Net {
    fn init(&mut self, ops: &mut EventOps) {
        for kick in &self.kicks {
            ops.add(Events::new(kick, EventSet::IN)).expect("an eventfd can be polled");
        }
        for timer in [self.rx_limits.timer(), self.tx_limits.timer()].into_iter().flatten() {
            ops.add(Events::new(timer, EventSet::IN)).expect("a timerfd can be polled");
        }
        let edges = EventSet::IN | EventSet::OUT | EventSet::EDGE_TRIGGERED;
        ops.add(Events::new(&self.backend, edges)).expect("sockets and TAP interfaces can be polled");
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps) {
        let fd = events.fd();
        let is = |timer: Option<&vmm_sys_util::timerfd::TimerFd>| timer.is_some_and(|t| t.as_raw_fd() == fd);
        if fd == self.kicks[super::device::RX].as_raw_fd() {
            let _ = self.kicks[super::device::RX].read();
            self.process_rx();
        } else if fd == self.kicks[super::device::TX].as_raw_fd() {
            let _ = self.kicks[super::device::TX].read();
            self.process_tx();
        } else if is(self.rx_limits.timer()) {
            self.rx_limits.timer_mut().map(|timer| timer.wait());
            self.process_rx();
        } else if is(self.tx_limits.timer()) {
            self.tx_limits.timer_mut().map(|timer| timer.wait());
            self.process_tx();
        } else {
            self.process_rx();
            self.process_tx();
        }
    }
}
