//! The control connection: frames of a little-endian `u32` length and that much JSON.

use alloc::{sync::Arc, vec::Vec};

use ringfence_protocol::{MAX_FRAME, ToGuest, ToHost};

use crate::{
    TaskRef,
    drivers::vsock::Stream,
    errno::{Errno, Result},
    sync::Mutex,
};

/// The connection. One task receives; any may send.
pub struct Channel {
    stream: Arc<Stream>,
    sending: Mutex<()>,
}

impl Channel {
    pub fn new(stream: Arc<Stream>) -> Channel {
        Channel { stream, sending: Mutex::new(()) }
    }

    /// Sends one message whole.
    pub fn send(&self, task: &TaskRef, message: &ToHost) -> Result<()> {
        let body = serde_json::to_vec(message).map_err(|_| Errno::EINVAL)?;
        let mut frame = Vec::with_capacity(4 + body.len());
        frame.extend_from_slice(&(body.len() as u32).to_le_bytes());
        frame.extend_from_slice(&body);
        let _one = self.sending.lock();
        self.stream.write_all(task, &frame)
    }

    /// Waits for the next message. Any error is the end of the channel.
    pub fn receive(&self, task: &TaskRef) -> Result<ToGuest> {
        let mut len = [0; 4];
        self.stream.read_exact(task, &mut len)?;
        let len = u32::from_le_bytes(len) as usize;
        if len > MAX_FRAME {
            return Err(Errno::EMSGSIZE);
        }
        let mut body = Vec::new();
        body.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        body.resize(len, 0);
        self.stream.read_exact(task, &mut body)?;
        serde_json::from_slice(&body).map_err(|_| Errno::EINVAL)
    }
}
