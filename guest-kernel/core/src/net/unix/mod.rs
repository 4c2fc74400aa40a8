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
//! Two sockets refer to each other weakly; an open file, or a backlog, keeps one alive. Sockets that are in flight
//! and can be received by nobody are collected (`flight`).
//!
//! Lock order: no two sockets' locks at once; a wait queue is woken after the lock is released.

mod address;
mod flight;
mod inbox;
mod registry;
mod socket;

pub(crate) use address::Address;
pub(in crate::net) use flight::InFlight;
pub(crate) use inbox::Credentials;
pub use registry::show as show_sockets;
pub(super) use socket::{How, Kind, Received, SocketFile, UnixSocket, credentials_of};
