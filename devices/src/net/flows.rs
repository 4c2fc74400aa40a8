//! Who has reached the guest, where the egress policy would not let it send by itself.
//!
//! A published port is of no use if the policy drops the answers: who asks is a neighbour as often as not. So a frame **to**
//! the guest from an address and port that the guest may not send to is remembered, and frames to exactly these are sent, from
//! exactly the port that was reached. Only the host's side makes entries, so a guest opens nothing by itself.
//!
//! Of TCP and UDP only: an answer is known by its ports. A table has [`MAX`] entries, the oldest goes first, and nothing at all
//! before there is one.

use std::collections::{HashSet, VecDeque};
use std::net::IpAddr;

use super::Policy;
use super::frame::{Destination, Understood, understand};
use super::policy::Protocol;

/// Most entries.
pub const MAX: usize = 4096;

/// A peer that the guest may answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Flow {
    protocol: u8,
    peer: IpAddr,
    peer_port: u16,
    guest_port: u16,
}

/// Peers that have reached the guest.
#[derive(Debug, Default)]
pub struct Flows {
    known: HashSet<Flow>,
    order: VecDeque<Flow>,
}

impl Flows {
    /// A frame that begins with `head` goes to the guest.
    pub fn arrived(&mut self, policy: &Policy, head: &[u8]) {
        let Understood::To(it) = understand(head) else { return };
        let Some(flow) = flow((it.source, it.source_port), it.port, it.protocol) else { return };
        let answer = Destination {
            address: it.source,
            port: it.source_port,
            source: it.address,
            source_port: it.port,
            ..it
        };
        if policy.allows_understood(&answer) || !self.known.insert(flow) {
            return;
        }
        if self.order.len() == MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        self.order.push_back(flow);
    }

    /// Whether the frame from the guest that begins with `head` is an answer.
    pub fn is_answer(&self, head: &[u8]) -> bool {
        if self.known.is_empty() {
            return false;
        }
        let Understood::To(it) = understand(head) else { return false };
        flow((it.address, it.port), it.source_port, it.protocol)
            .is_some_and(|flow| self.known.contains(&flow))
    }

    /// Another driver has reached nobody.
    pub fn forget(&mut self) {
        // Not a new one: that would ask for random numbers on a vCPU's thread, whose filter knows no such call.
        self.known.clear();
        self.order.clear();
    }
}

fn flow(peer: (IpAddr, Option<u16>), guest_port: Option<u16>, protocol: Protocol) -> Option<Flow> {
    let known = matches!(protocol, Protocol::TCP | Protocol::UDP);
    known.then_some(Flow { protocol: protocol.0, peer: peer.0, peer_port: peer.1?, guest_port: guest_port? })
}
