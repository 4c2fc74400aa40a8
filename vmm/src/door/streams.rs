//! Descriptors of a client become ports of the vsock device that the guest connects to.

use std::os::fd::OwnedFd;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ringfence_devices::vsock::{Endpoint, Vsock};
use ringfence_protocol::Streams;

/// The ports of a process.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Ports(Vec<u32>);

impl Ports {
    /// Closes those that the guest never connected to; connections are the guest's to end.
    pub fn close(&self, vsock: &mut Vsock) {
        self.0.iter().for_each(|port| vsock.unlisten(*port));
    }
}

pub(super) fn lock(vsock: &Mutex<Vsock>) -> MutexGuard<'_, Vsock> {
    vsock.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Listens for a process with `streams`, which get their ports here.
pub(super) fn listen(
    vsock: &mut Vsock,
    next_port: &mut u32,
    streams: &mut Streams,
    descriptors: Vec<OwnedFd>,
) -> Result<Ports, &'static str> {
    let mut ports = Vec::new();
    let mut add = |endpoint| {
        let port = *next_port;
        *next_port = port.checked_add(1).ok_or("there are no stream ports left")?;
        vsock.listen(port, endpoint);
        ports.push(port);
        Ok::<u32, &'static str>(port)
    };
    match (streams, <[OwnedFd; 3]>::try_from(descriptors)) {
        (Streams::Pipes { stdin, stdout, stderr }, descriptors) => {
            if stdin.is_some() || stdout.is_some() || stderr.is_some() {
                return Err("ports are not for clients to choose: leave them out and send descriptors");
            }
            match descriptors {
                Ok([input, output, error]) => {
                    *stdin = Some(add(Endpoint::foreign(Some(input), None))?);
                    *stdout = Some(add(Endpoint::foreign(None, Some(output)))?);
                    *stderr = Some(add(Endpoint::foreign(None, Some(error)))?);
                }
                Err(none) if none.is_empty() => {}
                Err(_) => return Err("standard streams are three descriptors or none"),
            }
        }
        (Streams::Tty { port, .. }, descriptors) => {
            let two = descriptors.err().and_then(|d| <[OwnedFd; 2]>::try_from(d).ok());
            let [input, output] = two.ok_or("a terminal is two descriptors: input and output")?;
            if *port != 0 {
                return Err("ports are not for clients to choose: leave them out and send descriptors");
            }
            *port = add(Endpoint::foreign(Some(input), Some(output)))?;
        }
    }
    Ok(Ports(ports))
}
