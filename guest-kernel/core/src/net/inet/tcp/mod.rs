//! TCP (tcp(7)): between sockets of one network namespace, and with other hosts.
//!
//! What Linux does: a connection is made by packets through `lo`; each end has a receive queue, a send queue, windows,
//! timers. Programs see the states through `poll`, errors and ends of file.
//!
//! What we do: connecting looks the listener up and makes the connection and its second socket at once, which is
//! queued at the listener ([`connect`]). The connection is an object both ends refer to ([`link`]): two byte streams
//! ([`stream`]), bounded by the sender's and the receiver's buffer together, and what is known of each end. What
//! programs see follows Linux's `tcp.c`, in particular: a close with unread bytes is a reset; sending to who has closed
//! succeeds once, and is reset; what arrived before a reset can still be read; both halves shut down is the end of the
//! connection for `poll` and `getpeername`.
//!
//! With another host the same object has that host in the place of the other end: a state machine that makes and takes segments
//! ([`machine`], [`remote`]), and for listeners what was asked for and not yet agreed on ([`half`]). Programs see Linux's TCP, with
//! TIME_WAIT, retransmission, windows that grow, keepalive and what else there is.
//!
//! What is different of connections within a namespace, and why:
//!
//! * **TIME_WAIT does not exist.** It keeps the port of who closed first for a minute, so that stray packets of the old
//!   connection do not reach a new one with the same names. There are no packets. A server that is started again can bind its
//!   port at once without `SO_REUSEADDR`, where on Linux it gets `EADDRINUSE`. FIN_WAIT2 keeps the names of
//!   a connection as long as the other end is open, not just for a minute.
//! * A socket cannot connect to itself (simultaneous open of one port): `ECONNREFUSED`.
//! * A connection that waits for room in the backlog is made when there is some, not when a request is sent again.
//!   One that does not block waits for as long as it takes; one that does, 127 seconds, as Linux.
//! * No urgent data: `MSG_OOB` is `EOPNOTSUPP`, and a segment's urgent pointer is ignored.
//! * `SO_LINGER` with a time does not wait: what was sent has arrived. With zero it resets.
//! * Buffers do not grow by themselves.
//!
//! With other hosts: the port of a connection in TIME_WAIT can be bound at once, as above; `SO_LINGER` with a time does not wait; who
//! asks a namespace with more than a thousand half-open connections pushes the oldest out, where Linux would send SYN cookies.
//!
//! Locks: see `inet`.

mod connect;
mod half;
mod info;
mod link;
mod machine;
mod remote;
mod report;
mod socket;
mod stream;
mod transfer;

pub(super) use half::{input, tidy};
pub(super) use link::Link;
pub(super) use machine::Outgoing;
pub(super) use remote::{Remotes, on_error};
pub(super) use socket::TcpSocket;
pub(crate) use stream::Part;
