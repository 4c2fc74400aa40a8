//! The host's end of the control connection: frames of [`ringfence_protocol`] over a non-blocking socket.
//!
//! The guest is hostile: a frame longer than [`MAX_FRAME`], one that does not parse, one that comes before
//! `Hello` or a second `Hello` ends the connection with a [`ControlError`]. At most one frame is held at a time.

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;

use ringfence_protocol::{MAX_FRAME, ToGuest, ToHost, VERSION};

const PREFIX: usize = 4;
/// Bytes of messages that may wait because the guest does not read; what does not fit is refused.
const MAX_PENDING: usize = 4 << 20;

/// Why the connection is not to be trusted any more.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "the message is the documentation")]
pub enum ControlError {
    #[error("the guest sent a control message of {0} bytes")]
    TooLong(usize),
    #[error("the guest sent a control message that makes no sense: {0}")]
    Malformed(#[from] serde_json::Error),
    #[error("the guest kernel speaks version {0} of the control protocol, this command version {VERSION}")]
    Version(u32),
    #[error("the guest's first control message was not a greeting")]
    NoHello,
    #[error("the control connection failed: {0}")]
    Io(#[from] io::Error),
}

/// The connection.
pub struct Control {
    stream: UnixStream,
    input: Vec<u8>,
    output: Vec<u8>,
    greeted: bool,
    closed: bool,
}

impl Control {
    /// Takes the host's end of the socketpair and queues our `Hello`.
    pub fn new(stream: UnixStream) -> Result<Self, ControlError> {
        stream.set_nonblocking(true)?;
        let mut control =
            Self { stream, input: Vec::new(), output: Vec::new(), greeted: false, closed: false };
        control.send(&ToGuest::Hello { version: VERSION })?;
        Ok(control)
    }

    /// Whether the guest has said `Hello`.
    pub fn greeted(&self) -> bool {
        self.greeted
    }

    /// Queues a message and sends what the socket takes. False: it is too long, or too many wait, and it is dropped.
    pub fn send(&mut self, message: &ToGuest) -> Result<bool, ControlError> {
        let body = serde_json::to_vec(message)?;
        let fits = body.len() <= MAX_FRAME && self.output.len() + PREFIX + body.len() <= MAX_PENDING;
        if fits {
            self.output.extend_from_slice(&(body.len() as u32).to_le_bytes());
            self.output.extend_from_slice(&body);
        }
        self.flush()?;
        Ok(fits)
    }

    /// Whether something waits for the guest to read.
    pub fn is_waiting(&self) -> bool {
        !self.output.is_empty()
    }

    /// Sends what the socket takes.
    pub fn flush(&mut self) -> Result<(), ControlError> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(n) => drop(self.output.drain(..n)),
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                // The guest has closed its end; its exit is what counts.
                Err(_) => self.output.clear(),
            }
        }
        Ok(())
    }

    /// The next complete message, if there is one. `Hello` is dealt with here.
    pub fn receive(&mut self) -> Result<Option<ToHost>, ControlError> {
        loop {
            if let Some(message) = self.take_frame()? {
                match (message, self.greeted) {
                    (ToHost::Hello { version }, false) if version == VERSION => self.greeted = true,
                    (ToHost::Hello { version }, false) => return Err(ControlError::Version(version)),
                    (ToHost::Hello { .. }, true) | (_, false) => return Err(ControlError::NoHello),
                    (message, true) => return Ok(Some(message)),
                }
                continue;
            }
            let mut buffer = [0u8; 4096];
            // std's read of a socket is recvfrom, which is not among the event loop's calls.
            match rustix::io::read(&self.stream, &mut buffer).map_err(io::Error::from) {
                Ok(0) => {
                    self.closed = true;
                    return Ok(None);
                }
                Ok(n) => self.input.extend_from_slice(&buffer[..n]),
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(None),
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    /// Whether the guest has closed its end.
    pub fn closed(&self) -> bool {
        self.closed
    }

    fn take_frame(&mut self) -> Result<Option<ToHost>, ControlError> {
        let Some(&[a, b, c, d]) = self.input.get(..PREFIX) else { return Ok(None) };
        let len = u32::from_le_bytes([a, b, c, d]) as usize;
        if len > MAX_FRAME {
            return Err(ControlError::TooLong(len));
        }
        let Some(body) = self.input.get(PREFIX..PREFIX + len) else { return Ok(None) };
        let message = serde_json::from_slice(body)?;
        self.input.drain(..PREFIX + len);
        Ok(Some(message))
    }
}

impl AsRawFd for Control {
    fn as_raw_fd(&self) -> RawFd {
        self.stream.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn frame(json: &str) -> Vec<u8> {
        [&(json.len() as u32).to_le_bytes()[..], json.as_bytes()].concat()
    }

    fn pair() -> (Control, UnixStream) {
        let (ours, guest) = UnixStream::pair().unwrap();
        (Control::new(ours).unwrap(), guest)
    }

    #[test]
    fn frames_may_arrive_in_pieces() {
        let (mut control, mut guest) = pair();
        let bytes = [frame(r#"{"type":"hello","version":2}"#), frame(r#"{"type":"started"}"#)].concat();
        for (n, byte) in bytes.iter().enumerate() {
            guest.write_all(&[*byte]).unwrap();
            let message = control.receive().unwrap();
            assert_eq!(message.is_some(), n + 1 == bytes.len());
        }
        assert!(control.greeted());
        let mut greeting = [0; 64];
        let n = guest.read(&mut greeting).unwrap();
        assert_eq!(greeting[..n], frame(r#"{"type":"hello","version":2}"#));
    }

    #[test]
    fn a_hostile_guest_is_cut_off() {
        let check = |bytes: &[u8]| {
            let (mut control, mut guest) = pair();
            guest.write_all(bytes).unwrap();
            control.receive().unwrap_err()
        };
        assert!(matches!(check(&u32::MAX.to_le_bytes()), ControlError::TooLong(_)));
        assert!(matches!(check(&frame("{}")), ControlError::Malformed(_)));
        assert!(matches!(check(&frame(r#"{"type":"started"}"#)), ControlError::NoHello));
        assert!(matches!(check(&frame(r#"{"type":"hello","version":7}"#)), ControlError::Version(7)));
        assert!(matches!(check(&frame(r#"{"type":"hello","version":2,"x":1}"#)), ControlError::Malformed(_)));
    }
}
