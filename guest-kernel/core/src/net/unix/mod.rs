//! AF_UNIX sockets.
//!
//! Each socket has an inbox: a queue of messages with their bytes, files and the sender's credentials. Sending
//! puts a message into the inbox of the peer; a stream joins small ones and splits large ones. Connecting
//! makes the second socket of the pair at once and queues it at the listener, so a client can send before it
//! is accepted.
//!
//! All waiting concerning an inbox is on the wait queue of the socket it belongs to: readers for messages,
//! senders for room, connecting clients for a place in the backlog.
//!
//! Two sockets refer to each other weakly; an open file, or a backlog, keeps one alive. Deviation: files that
//! are in flight in sockets which only refer to each other are not collected, as Linux does; they go with the
//! sandbox. What can be in flight is bounded by the inboxes.
//!
//! Lock order: no two sockets' locks at once; a wait queue is woken after the lock is released.

mod address;
mod inbox;
mod socket;

pub(crate) use address::Address;
pub(crate) use inbox::Credentials;
pub(super) use socket::{How, Kind, Received, SocketFile, UnixSocket, credentials_of};
