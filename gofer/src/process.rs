//! `ringfence gofer`: the process. The supervisor starts it, in a jail of its own; it is no command for people.
//!
//! It has a socket to the VMM as descriptor 3, its own `/proc/self/fd` as 4 and the volumes from 5 on; what they are is a JSON
//! argument.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use ringfence_seccomp::{Thread, VIOLATED, confine, end_with};

use crate::fs::Gofer;
use crate::server;
use crate::volume::Volume;

/// The word on the command line.
pub const COMMAND: &str = "gofer";
/// The socket.
const SOCKET: i32 = 3;
/// `/proc/self/fd`; the filter of system calls knows the number.
const PROC: i32 = 4;
/// The number of the first volume's descriptor.
pub const FIRST_VOLUME: i32 = 5;

/// Serves until the VMM hangs up. `order` is a list of volumes whose descriptors are numbers. From here on the process can
/// make only the calls that the profile gives to a gofer.
///
/// # Safety
/// Descriptors 3 and 4 and those of the order are open, each named once, and nobody else uses them.
pub unsafe fn run(order: Vec<Volume<i32>>) -> io::Result<()> {
    // SAFETY: the caller's.
    let own = |fd| unsafe { OwnedFd::from_raw_fd(fd) };
    let (socket, proc) = (UnixStream::from(own(SOCKET)), own(PROC));
    let volumes = order.into_iter().map(|volume| volume.with(own)).collect();
    // The names of our own descriptors are relative to it.
    rustix::process::fchdir(&proc)?;
    rustix::process::umask(rustix::fs::Mode::empty());
    let gofer = Gofer::new(volumes, proc)?;
    let confined = end_with(VIOLATED).and_then(|()| confine(Thread::Gofer));
    confined.map_err(|e| io::Error::other(e.to_string()))?;
    server::serve(socket, gofer)
}
