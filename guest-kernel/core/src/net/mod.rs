//! Sockets.
//!
//! What Linux does: a socket is a file whose behaviour comes from an address family (`struct proto_ops`); the
//! system calls copy addresses, messages and options in and out and know nothing of families, and what
//! `SOL_SOCKET` options say is kept in a part that all families have (`struct sock`).
//!
//! We do the same. A family implements [`Socket`]; `family` lists the families there are. Between the two, in one
//! place each: reading and writing of `struct sockaddr` (a [`Name`] is one, as user space has it), of message
//! headers and control messages, the options of `SOL_SOCKET`, SIGPIPE, and the file operations. A new family adds
//! a folder and a line in `family::FAMILIES`.
//!
//! Asking for a family that is not there is `EAFNOSUPPORT`, as on a kernel built without it.
//!
//! | module | holds |
//! |---|---|
//! | `socket` | what a family implements, and the file of a socket |
//! | `family` | the list of families |
//! | `common` | what all sockets keep: the options of `SOL_SOCKET` |
//! | `message` | `struct msghdr`, control messages and addresses, as user space has them |
//! | `sys`, `transfer`, `options` | the system calls: names and connections, messages, options |
//! | `mailbox` | a queue of messages |
//! | `unix` | AF_UNIX |
//! | `inet` | AF_INET and AF_INET6, and what a network namespace has |
//! | `netlink` | AF_NETLINK: questions about interfaces, addresses and routes |

mod common;
mod family;
mod inet;
mod mailbox;
mod message;
mod netlink;
mod options;
mod socket;
mod sys;
mod transfer;
mod unix;

pub use inet::{Stack, exercise};
pub(crate) use inet::{device, proc, start as start_devices};
pub(crate) use socket::SocketFile;
pub use unix::show_sockets;

use crate::syscall::Syscall;

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[sys::SYSCALLS, transfer::SYSCALLS, options::SYSCALLS];
