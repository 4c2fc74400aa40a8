//! AF_NETLINK (netlink(7)), protocol NETLINK_ROUTE (rtnetlink(7)): questions to the kernel about interfaces, addresses and
//! routes, as `getifaddrs`, `if_nameindex` and `ip` ask them.
//!
//! What Linux does: a program sends a datagram of requests to the kernel (port 0) and receives datagrams of answers; the
//! answer to a dump is many messages and ends with `NLMSG_DONE`. Members of groups are told of changes.
//!
//! What we do: requests are answered while they are sent ([`route`]); the answers wait in the socket's mailbox. What can be
//! changed is what the loopback of a new namespace needs: setting interfaces up and down, and their addresses.
//! Groups can be joined, but nobody is told of changes yet. There are no other protocols (`EPROTONOSUPPORT`), and no messages
//! between programs (`ECONNREFUSED`).

mod message;
mod route;
mod socket;

use alloc::sync::Arc;

use socket::NetlinkSocket;

use super::{
    family::Family,
    socket::{Kind, Socket},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
};

const AF_NETLINK: u16 = 16;
const NETLINK_ROUTE: i32 = 0;

/// How they are made.
pub(super) const FAMILY: Family = Family {
    number: AF_NETLINK as i32,
    create,
    pair: |task, kind, protocol| create(task, kind, protocol).and(Err(Errno::EOPNOTSUPP)),
};

fn create(task: &TaskRef, kind: u32, protocol: i32) -> Result<Arc<dyn Socket>> {
    let kind = match kind {
        2 => Kind::Datagram,
        3 => Kind::Raw,
        _ => return Err(Errno::ESOCKTNOSUPPORT),
    };
    match protocol {
        NETLINK_ROUTE => Ok(Arc::new(NetlinkSocket::new(task, kind))),
        _ => Err(Errno::EPROTONOSUPPORT),
    }
}
