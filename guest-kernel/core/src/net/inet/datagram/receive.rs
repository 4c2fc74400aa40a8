//! Receiving, and asking for errors.

use super::{
    super::address::{Endpoint, encode},
    control,
    socket::DatagramSocket,
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::Sink,
    net::socket::{How, Received, wait_error},
    sync::{Interruptible, wait_event},
    time,
};

impl DatagramSocket {
    /// Takes one datagram.
    pub(super) fn receive_message(&self, task: &TaskRef, sink: &mut Sink<'_>, how: How) -> Result<Received> {
        let look = || {
            self.with(|s| match s.error.take() {
                Some(error) => Some(Err(error)),
                None => match s.inbox.take(how.peek) {
                    Some(letter) => Some(Ok(Some(letter))),
                    None if s.read_shut && !how.nonblocking => Some(Ok(None)),
                    None => None,
                },
            })
        };
        let taken = match look() {
            Some(taken) => taken?,
            None if how.nonblocking => return Err(Errno::EAGAIN),
            None => {
                let deadline = self.common.receive_deadline();
                wait_event(task, &self.queue, Interruptible::Yes, deadline, look)
                    .map_err(wait_error(deadline))??
            }
        };
        let Some(letter) = taken else { return Ok(Received::default()) };
        let count = sink.put_some(&letter.bytes)?;
        let about = &letter.about;
        let at = match self.common.wants_time() {
            true if about.at == 0 => time::realtime(),
            _ => about.at,
        };
        Ok(Received {
            count,
            length: letter.bytes.len(),
            from: Some(encode(self.version, about.from)),
            at,
            control: control::tell(self.version, &self.options, about),
            ..Received::default()
        })
    }

    /// Takes one error that came back, with the datagram it is about (`MSG_ERRQUEUE`). `EAGAIN`.
    pub(super) fn receive_error(&self, sink: &mut Sink<'_>) -> Result<Received> {
        let noted = self.with(|s| {
            let noted = s.errors.pop_front();
            if noted.is_some() {
                s.error = s.errors.front().map(|next| next.errno);
            }
            noted
        });
        let noted = noted.ok_or(Errno::EAGAIN)?;
        let count = sink.put_some(&noted.bytes)?;
        Ok(Received {
            count,
            length: noted.bytes.len(),
            from: Some(encode(self.version, noted.to)),
            // Who said so: the machine the datagram was sent to.
            control: control::tell_error(
                self.version,
                noted.errno,
                noted.what,
                noted.info,
                Endpoint { port: 0, ..noted.to },
            ),
            errors: true,
            ..Received::default()
        })
    }
}
