//! The address families there are.

use alloc::sync::Arc;

use super::{inet, netlink, socket::Socket, unix};
use crate::{
    TaskRef,
    errno::{Errno, Result},
};

/// Two sockets connected with each other.
type Pair = [Arc<dyn Socket>; 2];

/// How sockets of one family are made. `kind` and `protocol` are as the program gave them, without flags.
pub(super) struct Family {
    /// `AF_*`.
    pub number: i32,
    /// `socket`.
    pub create: fn(task: &TaskRef, kind: u32, protocol: i32) -> Result<Arc<dyn Socket>>,
    /// `socketpair`.
    pub pair: fn(task: &TaskRef, kind: u32, protocol: i32) -> Result<Pair>,
}

const FAMILIES: &[Family] = &[unix::FAMILY, inet::FAMILY4, inet::FAMILY6, netlink::FAMILY];

/// `AF_MAX` and `SOCK_MAX`: numbers of families and of types are below them.
const NUMBERS: i32 = 46;
const KINDS: u32 = 11;

/// The family `domain` for sockets of type `kind`. `EINVAL` for a type no family has, `EAFNOSUPPORT`.
pub(super) fn find(domain: i32, kind: u32) -> Result<&'static Family> {
    if (0..NUMBERS).contains(&domain) && kind >= KINDS {
        return Err(Errno::EINVAL);
    }
    FAMILIES.iter().find(|f| f.number == domain).ok_or(Errno::EAFNOSUPPORT)
}
