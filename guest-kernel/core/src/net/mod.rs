//! Sockets.
//!
//! There are sockets of one family as yet, AF_UNIX (unix(7)): `unix`. Asking for another one is
//! `EAFNOSUPPORT`, as on a kernel built without it.
//!
//! | module | holds |
//! |---|---|
//! | `unix` | the sockets: binding, connecting, queues of messages |
//! | `message` | `struct msghdr` and control messages, as user space has them |
//! | `sys`, `options` | the system calls |

mod message;
mod options;
mod sys;
mod unix;

pub use unix::show_sockets;

use crate::syscall::Syscall;

/// The system calls of this module.
pub const SYSCALLS: &[&[Syscall]] = &[sys::SYSCALLS, options::SYSCALLS];
