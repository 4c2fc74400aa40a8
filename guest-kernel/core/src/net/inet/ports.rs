//! Who has which port: one table for each protocol of a network namespace.
//!
//! What Linux does: a bound socket is in the bucket of its port (`inet_bind_bucket`). Whether one more may be in it is asked
//! of each that is (`inet_csk_bind_conflict`, `udp_lib_lport_inuse`): those whose addresses overlap conflict, unless both
//! have `SO_REUSEADDR` and the other does not listen, or both have `SO_REUSEPORT` and belong to the same user. Listening is
//! asked again, so of several that share a port by `SO_REUSEADDR` one listens. Accepted connections are in the bucket of
//! their listener's port and have its flags.
//!
//! We do the same. The options are read when the question is asked, since programs may change them after binding. A
//! socket gives its claim up when it is closed; the table never keeps one alive.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{net::IpAddr, ops::RangeInclusive};

use smallvec::SmallVec;

use super::address::Endpoint;
use crate::{
    errno::{Errno, Result},
    random,
};

/// What the table has to know of a socket.
pub(super) trait Holder {
    /// `SO_REUSEADDR`.
    fn reuses_address(&self) -> bool;
    /// `SO_REUSEPORT`.
    fn reuses_port(&self) -> bool;
    /// Whether it listens.
    fn is_listening(&self) -> bool;
    /// Whose it is.
    fn uid(&self) -> u32;
}

/// The address a socket is bound to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Bound {
    /// An unspecified one is all of its family; that of IPv6 all of IPv4, too, unless ..
    pub ip: IpAddr,
    /// .. `IPV6_V6ONLY`.
    pub only6: bool,
    /// Who alone is heard: the peer of a connected datagram socket.
    pub remote: Option<Endpoint>,
}

impl Bound {
    /// Whether something could be meant for both (`inet_rcv_saddr_equal`).
    fn overlaps(&self, other: &Bound) -> bool {
        match (self.ip, other.ip) {
            (IpAddr::V4(a), IpAddr::V4(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            (IpAddr::V6(a), IpAddr::V6(b)) => a == b || a.is_unspecified() || b.is_unspecified(),
            (IpAddr::V6(six), IpAddr::V4(_)) => six.is_unspecified() && !self.only6,
            (IpAddr::V4(_), IpAddr::V6(six)) => six.is_unspecified() && !other.only6,
        }
    }

    /// How well what comes for `to` fits; `None` if it is not meant.
    pub fn fits(&self, to: IpAddr) -> Option<u32> {
        match (self.ip, to) {
            (own, to) if own == to => Some(3),
            (IpAddr::V4(own), IpAddr::V4(_)) if own.is_unspecified() => Some(2),
            (IpAddr::V6(own), IpAddr::V6(_)) if own.is_unspecified() => Some(2),
            (IpAddr::V6(own), IpAddr::V4(_)) if own.is_unspecified() && !self.only6 => Some(1),
            _ => None,
        }
    }

    /// The same for what comes from somebody: a socket connected with him is meant before others.
    pub fn hears(&self, to: IpAddr, from: Endpoint) -> Option<u32> {
        match self.remote {
            None => self.fits(to),
            Some(remote) if remote == from => self.fits(to).map(|points| points + 4),
            Some(_) => None,
        }
    }
}

/// One socket's place in the table.
struct Claim<S> {
    bound: Bound,
    holder: Weak<S>,
    /// Taken by a connection that did not ask for it: it may share the port with others that go elsewhere.
    implicit: bool,
}

/// Those who have one port.
struct Bucket<S> {
    /// Those who took it, by the numbers of their tickets.
    bound: BTreeMap<u64, Claim<S>>,
    /// Connections that were accepted at it, which may be thousands: nobody looks for them by the port.
    accepted: BTreeMap<u64, Claim<S>>,
}

impl<S> Bucket<S> {
    fn all(&self) -> impl Iterator<Item = &Claim<S>> {
        self.bound.values().chain(self.accepted.values())
    }
}

/// What a socket has of the table. It has to be given back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub port: u16,
    number: u64,
}

/// Sockets that share a port; one is the rule.
pub(super) type Best<S> = SmallVec<[Arc<S>; 1]>;

/// The table.
pub(super) struct Ports<S> {
    buckets: BTreeMap<u16, Bucket<S>>,
    next: u64,
}

impl<S> Default for Ports<S> {
    fn default() -> Self {
        Ports { buckets: BTreeMap::new(), next: 1 }
    }
}

impl<S: Holder> Ports<S> {
    fn bucket(&mut self, port: u16) -> (u64, &mut Bucket<S>) {
        let number = self.next;
        self.next += 1;
        let empty = || Bucket { bound: BTreeMap::new(), accepted: BTreeMap::new() };
        (number, self.buckets.entry(port).or_insert_with(empty))
    }

    fn insert(&mut self, port: u16, bound: Bound, holder: &Arc<S>, implicit: bool) -> Ticket {
        let (number, bucket) = self.bucket(port);
        bucket.bound.insert(number, Claim { bound, holder: Arc::downgrade(holder), implicit });
        Ticket { port, number }
    }

    /// Whether `holder` may not have `port` as it is now. `any`: whoever has it is in the way, whatever his options.
    fn conflicts(&self, port: u16, bound: &Bound, holder: &S, any: bool) -> bool {
        let others = self.buckets.get(&port).into_iter().flat_map(|b| b.all());
        others.filter(|c| c.bound.overlaps(bound)).any(|c| {
            let Some(other) = c.holder.upgrade() else { return false };
            if core::ptr::eq(&*other, holder) {
                return false;
            }
            let by_address = holder.reuses_address() && other.reuses_address() && !other.is_listening();
            let by_port = holder.reuses_port() && other.reuses_port() && holder.uid() == other.uid();
            any || !(by_address || by_port)
        })
    }

    /// Gives `holder` a port it asks for. `EADDRINUSE`.
    pub fn claim(&mut self, port: u16, bound: Bound, holder: &Arc<S>) -> Result<Ticket> {
        if self.conflicts(port, &bound, holder, false) {
            return Err(Errno::EADDRINUSE);
        }
        Ok(self.insert(port, bound, holder, false))
    }

    /// Gives `holder` the port `port`, or for 0 any that nobody has. `EADDRINUSE`.
    pub fn take(
        &mut self,
        port: u16,
        range: RangeInclusive<u16>,
        bound: Bound,
        holder: &Arc<S>,
    ) -> Result<Ticket> {
        match port {
            0 => self.claim_free(range, random::next_u64(), bound, holder),
            port => self.claim(port, bound, holder),
        }
    }

    /// Gives `holder` a port nobody has, beginning the search `at` somewhere. `EADDRINUSE` if there is none.
    pub fn claim_free(
        &mut self,
        range: RangeInclusive<u16>,
        at: u64,
        bound: Bound,
        holder: &Arc<S>,
    ) -> Result<Ticket> {
        // As on Linux those of the other parity than the first are for bind, the others for connect.
        let port = search(range, at, 1)
            .find(|port| !self.conflicts(*port, &bound, holder, true))
            .ok_or(Errno::EADDRINUSE)?;
        Ok(self.insert(port, bound, holder, false))
    }

    /// Gives `holder` a port for a connection: one nobody has, or only connections for which `free` says that they go
    /// elsewhere. `EADDRNOTAVAIL` if there is none.
    pub fn claim_for_connection(
        &mut self,
        range: RangeInclusive<u16>,
        at: u64,
        bound: Bound,
        holder: &Arc<S>,
        mut free: impl FnMut(u16) -> bool,
    ) -> Result<Ticket> {
        let buckets = &self.buckets;
        let shared = |port| buckets.get(&port).is_none_or(|b| b.all().all(|c| c.implicit));
        let port = search(range, at, 0).find(|p| shared(*p) && free(*p)).ok_or(Errno::EADDRNOTAVAIL)?;
        Ok(self.insert(port, bound, holder, true))
    }

    /// Puts an accepted connection beside its listener.
    pub fn inherit(&mut self, port: u16, bound: Bound, holder: &Arc<S>) -> Ticket {
        let (number, bucket) = self.bucket(port);
        bucket.accepted.insert(number, Claim { bound, holder: Arc::downgrade(holder), implicit: false });
        Ticket { port, number }
    }

    /// Whether `holder`, who has `ticket`, may listen now. `EADDRINUSE`.
    pub fn may_listen(&self, ticket: Ticket, holder: &S) -> Result<()> {
        let bucket = self.buckets.get(&ticket.port);
        let bound = bucket.and_then(|b| b.bound.get(&ticket.number)).map(|c| c.bound);
        match bound {
            Some(bound) if self.conflicts(ticket.port, &bound, holder, false) => Err(Errno::EADDRINUSE),
            _ => Ok(()),
        }
    }

    /// Changes the address of a claim: connecting a datagram socket gives it one.
    pub fn rebind(&mut self, ticket: Ticket, bound: Bound) {
        let bucket = self.buckets.get_mut(&ticket.port);
        if let Some(claim) = bucket.and_then(|b| b.bound.get_mut(&ticket.number)) {
            claim.bound = bound;
        }
    }

    /// Takes a claim back.
    pub fn release(&mut self, ticket: Ticket) {
        if let Some(bucket) = self.buckets.get_mut(&ticket.port) {
            if bucket.bound.remove(&ticket.number).is_none() {
                bucket.accepted.remove(&ticket.number);
            }
            if bucket.bound.is_empty() && bucket.accepted.is_empty() {
                self.buckets.remove(&ticket.port);
            }
        }
    }

    /// Those at `port` of whom `score` says how well they fit: the best, several if they share the port (`SO_REUSEPORT`),
    /// the last one bound first.
    pub fn best(&self, port: u16, mut score: impl FnMut(&Bound, &S) -> Option<u32>) -> Best<S> {
        let mut best: (u32, Best<S>) = (0, Best::new());
        for claim in self.buckets.get(&port).into_iter().flat_map(|b| b.bound.values().rev()) {
            let Some(holder) = claim.holder.upgrade() else { continue };
            let Some(points) = score(&claim.bound, &holder) else { continue };
            if points > best.0 || best.1.is_empty() {
                best.0 = points;
                best.1.clear();
                best.1.push(holder);
            } else if points == best.0 {
                best.1.push(holder);
            }
        }
        best.1
    }

    /// All at `port` of whom `meant` says so.
    pub fn at(&self, port: u16, mut meant: impl FnMut(&Bound) -> bool) -> Vec<Arc<S>> {
        let bucket = self.buckets.get(&port).into_iter().flat_map(|b| b.bound.values());
        bucket.filter(|c| meant(&c.bound)).filter_map(|c| c.holder.upgrade()).collect()
    }

    /// All sockets there are.
    pub fn all(&self) -> Vec<Arc<S>> {
        self.buckets.values().flat_map(|b| b.all()).filter_map(|c| c.holder.upgrade()).collect()
    }
}

/// The ports of `range`, each once, beginning anywhere: first those whose distance to the first has `parity`.
fn search(range: RangeInclusive<u16>, at: u64, parity: u64) -> impl Iterator<Item = u16> {
    let (first, count) = (*range.start(), range.len() as u64);
    let half = move |parity: u64| {
        let size = (count + 1 - parity) / 2;
        let begin = if size == 0 { 0 } else { at % size };
        (0..size).map(move |i| first.wrapping_add((((begin + i) % size) * 2 + parity) as u16))
    };
    half(parity).chain(half(1 - parity))
}

#[cfg(test)]
#[path = "ports_tests.rs"]
mod tests;
