//! What a stream is connected to on the host.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::host_stream::{HostStream, Job};

/// What the host side of a connection is.
#[derive(Debug)]
pub struct Endpoint {
    pub(super) source: Option<HostStream>,
    pub(super) sink: Option<HostStream>,
    /// The other end is in this process: its half-closes are ours to make, and [`super::Vsock::drain`] does not
    /// wait for it.
    pub(super) internal: bool,
}

impl Endpoint {
    /// Inherited descriptors: `read` is relayed to the guest, the guest's bytes to `write`. They are duplicates
    /// the caller gives away; the caller should close (or replace by /dev/null) its own copies, or the other
    /// side will not see an end before the process exits, and open pipes and terminals anew first
    /// ([`crate::host_stream::own_reader`]).
    pub fn stdio(read: Option<OwnedFd>, write: Option<OwnedFd>) -> Self {
        Self { source: read.map(HostStream::new), sink: write.map(HostStream::new), internal: false }
    }

    /// Reads only while `job` is in the foreground of the terminal.
    pub fn read_for(mut self, job: Option<Job>) -> Self {
        if let (Some(source), Some(job)) = (&mut self.source, job) {
            source.set_job(job);
        }
        self
    }

    /// The same with descriptors that came from somebody else while the sandbox runs.
    pub fn foreign(read: Option<OwnedFd>, write: Option<OwnedFd>) -> Self {
        Self { source: read.map(HostStream::foreign), sink: write.map(HostStream::foreign), internal: false }
    }

    /// A stream whose other end is returned, a unix stream socket that does not block. That end sees the stream's end when
    /// both directions have ended: `shutdown` is not among the calls that the VMM may make.
    pub fn channel() -> io::Result<(Self, UnixStream)> {
        let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
        let (ours, theirs) = socketpair(AddressFamily::UNIX, kind, flags, None)?;
        let endpoint = Self {
            source: Some(HostStream::channel(ours.try_clone()?)),
            sink: Some(HostStream::channel(ours)),
            internal: true,
        };
        Ok((endpoint, theirs.into()))
    }

    /// A stream whose other end is returned, a blocking unix stream socket for a thread of this process.
    pub fn socketpair() -> io::Result<(Self, UnixStream)> {
        let (ours, theirs) = UnixStream::pair()?;
        let endpoint = Self {
            source: Some(HostStream::socket(ours.try_clone()?.into())),
            sink: Some(HostStream::socket(ours.into())),
            internal: true,
        };
        Ok((endpoint, theirs))
    }
}
