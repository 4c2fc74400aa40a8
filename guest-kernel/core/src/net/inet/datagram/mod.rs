//! Datagram sockets: UDP (udp(7)) and ping (icmp(7)).
//!
//! What Linux does: a datagram goes to the socket that fits best: connected with the sender, bound to the address, bound
//! to any; of those that share a port by `SO_REUSEPORT` to one, chosen by a hash of the names. If nobody has the
//! port an ICMP error comes back, which a connected sender is told at its next call, and one with `IP_RECVERR` finds in
//! its queue of errors. A datagram for a receiver whose queue is full is lost.
//!
//! We do the same. What is for another host is made into packets ([`super::packet`]); what comes from one, and errors about what was
//! sent to one, is in [`remote`]. For receivers of this namespace [`send`] finds the receiver and puts the bytes into its mailbox; where a packet would carry an error
//! back, the error is noted at the sender. What headers carry (hops, type of service, the destination) is kept with the bytes,
//! for receivers who want to know.
//!
//! A ping socket is one whose ports are identifiers and which sends echo requests only; the answer is the kernel's, so it
//! is put at once into the mailbox of who has the identifier.
//!
//! Locks: a port table or a socket's state; never both.

mod control;
mod receive;
mod remote;
mod send;
mod socket;

pub(super) use remote::{about, arrived, echo_failed, echoed, failed};
pub(super) use socket::DatagramSocket;
