//! TCP (tcp(7)) between sockets of one network namespace.
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
//! What is different, and why:
//!
//! * **TIME_WAIT does not exist.** It keeps the port of who closed first for a minute, so that stray packets of the old
//!   connection do not reach a new one with the same names. There are no packets. A server that is started again can bind its
//!   port at once without `SO_REUSEADDR`, where on Linux it gets `EADDRINUSE`. FIN_WAIT2 keeps the names of
//!   a connection as long as the other end is open, not just for a minute.
//! * A socket cannot connect to itself (simultaneous open of one port): `ECONNREFUSED`.
//! * A connection that waits for room in the backlog is made when there is some, not when a request is sent again.
//!   One that does not block waits for as long as it takes; one that does, 127 seconds, as Linux.
//! * No urgent data: `MSG_OOB` is `EOPNOTSUPP`.
//! * `SO_LINGER` with a time does not wait: what was sent has arrived. With zero it resets.
//! * Buffers do not grow by themselves.
//!
//! Locks: see `inet`.

mod connect;
mod info;
mod link;
mod report;
mod socket;
mod stream;
mod transfer;

pub(super) use socket::TcpSocket;
