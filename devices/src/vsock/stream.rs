//! One stream: a connection and the descriptors it is connected to.

use std::io;

use super::connection::Connection;
use super::packet::{Header, SHUTDOWN_SEND};
use crate::host_stream::HostStream;

/// One stream: a connection and what it is connected to.
pub(super) struct Stream {
    pub connection: Connection,
    pub source: Option<HostStream>,
    pub sink: Option<HostStream>,
    pub internal: bool,
    pub readable: bool,
    pub writable: bool,
    /// In `Muxer::senders`.
    pub queued: bool,
    /// The guest has forgotten it.
    pub lingers: bool,
}

impl Stream {
    /// Is there a packet for the guest?
    pub fn has_something_to_send(&self) -> bool {
        !self.lingers && (self.connection.has_due() || self.has_data_to_send())
    }

    fn has_data_to_send(&self) -> bool {
        self.readable && self.source.is_some() && self.connection.host_sends() && self.connection.credit() > 0
    }

    /// The next packet for the guest, its payload at the front of `payload`.
    pub fn next_packet(&mut self, payload: &mut [u8]) -> Option<Header> {
        if self.lingers {
            return None;
        }
        if let Some(packet) = self.connection.next_control() {
            return Some(packet);
        }
        let source = self.source.as_ref()?;
        if !self.readable || !self.connection.host_sends() {
            return None;
        }
        let room = payload.len().min(self.connection.credit());
        if room == 0 {
            return None;
        }
        let read = loop {
            match source.read(&mut payload[..room]) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                other => break other,
            }
        };
        match read {
            Ok(n) if n > 0 => {
                let packet = self.connection.next_data(n);
                if self.connection.credit() == 0 {
                    self.connection.want_credit();
                }
                Some(packet)
            }
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.readable = source.is_always_ready();
                None
            }
            // The end, or an error that ends it: a terminal that hung up (EIO), a connection reset.
            _ => {
                self.readable = false;
                self.connection.host_shutdown(SHUTDOWN_SEND);
                self.connection.next_control()
            }
        }
    }

    /// Writes; `Err(None)`: the descriptor takes nothing now.
    pub fn write(&mut self, data: &[u8]) -> Result<usize, Option<io::Error>> {
        let Some(sink) = &self.sink else { return Err(Some(io::Error::from_raw_os_error(libc::EPIPE))) };
        let result = write_to(sink, data);
        self.note(result)
    }

    /// Writes bytes that waited; the caller reports them to the connection.
    pub fn write_waiting(&mut self) -> Result<usize, Option<io::Error>> {
        let Some(sink) = &self.sink else { return Err(Some(io::Error::from_raw_os_error(libc::EPIPE))) };
        let result = write_to(sink, self.connection.waiting());
        self.note(result)
    }

    fn note(&mut self, result: io::Result<usize>) -> Result<usize, Option<io::Error>> {
        match result {
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                self.writable = false;
                Err(None)
            }
            Err(e) => Err(Some(e)),
            Ok(0) => Err(Some(io::Error::from_raw_os_error(libc::EIO))),
            Ok(n) => Ok(n),
        }
    }
}

fn write_to(sink: &HostStream, data: &[u8]) -> io::Result<usize> {
    loop {
        match sink.write(data) {
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            other => return other,
        }
    }
}
