//! AF_UNIX sockets (unix(7)).
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
//! Lock order: a socket's reading lock (sleeping; streams only); no two sockets' states at once; a wait queue is
//! woken after the state is released.

mod address;
mod connect;
mod flight;
mod inbox;
mod receive;
mod registry;
mod send;
mod socket;

use alloc::sync::Arc;

pub use registry::show as show_sockets;
use socket::UnixSocket;

use super::{
    family::Family,
    socket::{Kind, Peer, Socket},
};
use crate::errno::{Errno, Result};

const AF_UNIX: u16 = 1;

/// How they are made.
pub(super) const FAMILY: Family = Family {
    number: AF_UNIX as i32,
    create: |task, kind, protocol| {
        let socket: Arc<dyn Socket> = UnixSocket::new(kind_of(kind, protocol)?, task.namespaces().net.id());
        Ok(socket)
    },
    pair: |task, kind, protocol| {
        let pair = UnixSocket::pair(kind_of(kind, protocol)?, task.namespaces().net.id(), &Peer::of(task));
        Ok(pair.map(|s| s as Arc<dyn Socket>))
    },
};

fn kind_of(kind: u32, protocol: i32) -> Result<Kind> {
    if !matches!(protocol, 0 | 1) {
        return Err(Errno::EPROTONOSUPPORT);
    }
    match kind {
        1 => Ok(Kind::Stream),
        // Linux gives a datagram socket for SOCK_RAW.
        2 | 3 => Ok(Kind::Datagram),
        5 => Ok(Kind::SeqPacket),
        _ => Err(Errno::ESOCKTNOSUPPORT),
    }
}
