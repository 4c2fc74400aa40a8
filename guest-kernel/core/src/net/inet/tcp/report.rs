//! What a TCP socket says of itself: its state, and its line in `/proc/net/tcp`.

use super::{
    super::address::{Endpoint, Version},
    link::Handle,
    remote::number_of,
    socket::{Phase, TcpSocket},
};

/// What `/proc/net/tcp` shows.
pub(in super::super) struct Report {
    pub version: Version,
    pub local: Endpoint,
    pub remote: Endpoint,
    pub state: u8,
    pub send_queue: usize,
    pub receive_queue: usize,
    pub uid: u32,
    pub ino: u64,
}

impl TcpSocket {
    /// `TCP_*` of linux/tcp_states.h.
    pub(super) fn state_number(&self) -> u8 {
        match self.with(|s| match &s.phase {
            Phase::Idle => Err(7),
            Phase::Waiting(_) => Err(2),
            Phase::Listening(_) => Err(10),
            Phase::Connected(handle) => Ok(handle.clone()),
        }) {
            Err(number) => number,
            Ok(Handle { link, .. }) if link.remote.is_some() => {
                link.remote.as_ref().map_or(7, |remote| remote.look(|m| number_of(m.state)))
            }
            Ok(handle) => handle.with(|mine, _| match (mine.over, mine.fin, mine.done) {
                (true, ..) => 7,
                (_, true, _) => 5,
                (_, _, true) => 8,
                _ => 1,
            }),
        }
    }

    pub(in super::super) fn report(&self) -> Report {
        let state = self.state_number();
        let none = Endpoint::none(self.version);
        let (local, remote, queues) = self.with(|s| match &s.phase {
            Phase::Connected(h) => {
                let queues =
                    h.with(|mine, theirs| (theirs.queued.saturating_sub(theirs.receive_buffer), mine.queued));
                (s.local, h.names().1, queues)
            }
            Phase::Listening(b) => (s.local, none, (0, b.ready.len())),
            Phase::Waiting(to) => (s.local, *to, (0, 0)),
            Phase::Idle => (s.local, none, (0, 0)),
        });
        Report {
            version: self.version,
            local,
            remote,
            state,
            send_queue: queues.0,
            receive_queue: queues.1,
            uid: self.uid,
            ino: self.common.ino(),
        }
    }
}
