//! One connection.

use alloc::{collections::VecDeque, sync::Arc, vec::Vec};

use super::{
    device::{MAX_PAYLOAD, Vsock},
    packet::{Header, SHUTDOWN_RECEIVE, SHUTDOWN_SEND, op},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    io::{Sink, Source},
    sync::{Interruptible, PollEvents, PollTable, Queue, SpinLock, WaitError, WaitQueue, wait_event},
};

/// What we buffer of what the host sends, and tell it as credit.
const BUFFER: u32 = 64 << 10;
/// Bytes copied in one go between user memory and a packet.
const CHUNK: usize = 4096;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Phase {
    /// Connects when the program first looks for data.
    Idle,
    Connecting,
    Up,
    /// Reset, or refused.
    Closed,
}

struct State {
    phase: Phase,
    received: VecDeque<u8>,
    /// Bytes the program has taken, modulo 2^32.
    forwarded: u32,
    /// `forwarded` as last told to the host.
    told: u32,
    sent: u32,
    peer_buffer: u32,
    peer_forwarded: u32,
    /// The host will send nothing more.
    peer_finished: bool,
    /// The host will take nothing more.
    peer_deaf: bool,
    /// We have said that we send nothing more.
    finished: bool,
}

impl State {
    fn credit(&self) -> usize {
        self.peer_buffer.saturating_sub(self.sent.wrapping_sub(self.peer_forwarded)) as usize
    }
}

/// A stream to the host.
pub struct Stream {
    vsock: Arc<Vsock>,
    local: u32,
    peer: u32,
    state: SpinLock<State>,
    queue: Queue,
}

impl Stream {
    /// A stream that connects when it is first read or polled: until then the host takes nothing from where its data
    /// comes from, which others may be reading, too (`while read x; do ringfence run …; done < list`).
    pub(super) fn new(vsock: Arc<Vsock>, local: u32, peer: u32) -> Arc<Stream> {
        Arc::new(Stream {
            vsock,
            local,
            peer,
            state: SpinLock::new(State {
                phase: Phase::Idle,
                received: VecDeque::new(),
                forwarded: 0,
                told: 0,
                sent: 0,
                peer_buffer: 0,
                peer_forwarded: 0,
                peer_finished: false,
                peer_deaf: false,
                finished: false,
            }),
            queue: WaitQueue::new(),
        })
    }

    /// Connects, if that has not been begun. Does not wait.
    pub(super) fn open(&self) {
        let mut s = self.state.lock();
        if s.phase == Phase::Idle {
            s.phase = Phase::Connecting;
            drop(s);
            self.vsock.send_control(self.header(op::REQUEST, 0, 0));
        }
    }

    pub(super) fn peer(&self) -> u32 {
        self.peer
    }

    pub(super) fn header(&self, op: u16, len: u32, flags: u32) -> Header {
        let mut s = self.state.lock();
        s.told = s.forwarded;
        Header { local: self.local, peer: self.peer, len, op, flags, buf_alloc: BUFFER, fwd_cnt: s.forwarded }
    }

    /// A packet from the host.
    pub(super) fn handle(&self, header: &Header, payload: &[u8]) {
        let mut overflow = false;
        {
            let mut s = self.state.lock();
            s.peer_buffer = header.buf_alloc;
            s.peer_forwarded = header.fwd_cnt;
            match header.op {
                op::RESPONSE if s.phase == Phase::Connecting => s.phase = Phase::Up,
                op::RW => {
                    overflow = s.received.len() + payload.len() > BUFFER as usize;
                    if !overflow {
                        s.received.extend(payload);
                    }
                }
                op::RST => {
                    s.phase = Phase::Closed;
                    s.peer_finished = true;
                    s.peer_deaf = true;
                }
                op::SHUTDOWN => {
                    s.peer_deaf |= header.flags & SHUTDOWN_RECEIVE != 0;
                    s.peer_finished |= header.flags & SHUTDOWN_SEND != 0;
                }
                _ => {}
            }
        }
        if header.op == op::CREDIT_REQUEST {
            self.vsock.send_control(self.header(op::CREDIT_UPDATE, 0, 0));
        }
        if overflow {
            // The host ignored its credit: nothing it sends can be trusted to be in order any more.
            self.reset();
        }
        self.queue.wake_all(PollEvents::empty());
    }

    fn reset(&self) {
        {
            let mut s = self.state.lock();
            s.phase = Phase::Closed;
            s.peer_finished = true;
            s.peer_deaf = true;
        }
        self.vsock.send_control(self.header(op::RST, 0, 0));
    }

    /// Takes what is there, at most `max` bytes; `None` at the end, empty if there is nothing yet.
    fn take(&self, max: usize) -> Option<Vec<u8>> {
        let mut s = self.state.lock();
        let n = s.received.len().min(max);
        if n == 0 {
            return (!s.peer_finished).then(Vec::new);
        }
        let bytes: Vec<u8> = s.received.drain(..n).collect();
        s.forwarded = s.forwarded.wrapping_add(n as u32);
        let tell = s.forwarded.wrapping_sub(s.told) >= BUFFER / 2;
        drop(s);
        if tell {
            self.vsock.send_control(self.header(op::CREDIT_UPDATE, 0, 0));
        }
        Some(bytes)
    }

    /// Reads into `sink`: blocks while there is nothing unless `nonblocking`; 0 is the end.
    pub fn read(&self, task: &TaskRef, nonblocking: bool, sink: &mut Sink<'_>) -> Result {
        if sink.remaining() == 0 {
            return Ok(0);
        }
        self.open();
        if nonblocking && !self.readable() {
            return Err(Errno::EAGAIN);
        }
        wait_event(task, &self.queue, Interruptible::Yes, None, || self.readable().then_some(()))?;
        let mut total = 0;
        while sink.remaining() > 0 {
            match self.take(sink.remaining().min(CHUNK)) {
                Some(bytes) if !bytes.is_empty() => {
                    // What a fault swallows here is lost, as with any stream whose reader passes a bad buffer.
                    if let Err(e) = sink.put(&bytes) {
                        return if total > 0 { Ok(total) } else { Err(e) };
                    }
                    total += bytes.len();
                }
                _ => break,
            }
        }
        Ok(total)
    }

    fn readable(&self) -> bool {
        let s = self.state.lock();
        !s.received.is_empty() || s.peer_finished
    }

    /// Whether a write would make progress or fail, rather than wait for the host.
    fn writable(&self) -> bool {
        let s = self.state.lock();
        s.peer_deaf || s.finished || (s.phase == Phase::Up && s.credit() > 0)
    }

    /// Writes all of `source`, blocking while the host has no room unless `nonblocking`. `EPIPE` once the
    /// host takes nothing more; the caller raises SIGPIPE.
    pub fn write(&self, task: &TaskRef, nonblocking: bool, source: &mut Source<'_>) -> Result {
        let start = source.remaining();
        let short = |source: &Source<'_>, e: Errno| match start - source.remaining() {
            0 => Err(e),
            n => Ok(n),
        };
        while source.remaining() > 0 {
            if !self.writable() {
                if nonblocking {
                    return short(source, Errno::EAGAIN);
                }
                let wait =
                    wait_event(task, &self.queue, Interruptible::Yes, None, || self.writable().then_some(()));
                if let Err(e) = wait {
                    return short(source, e.into());
                }
            }
            let room = {
                let s = self.state.lock();
                if s.peer_deaf || s.finished {
                    return short(source, Errno::EPIPE);
                }
                s.credit()
            };
            if let Err(e) = self.send(task, nonblocking, source, room) {
                return short(source, e);
            }
        }
        Ok(start)
    }

    /// Sends one packet of at most `room` bytes.
    fn send(&self, task: &TaskRef, nonblocking: bool, source: &mut Source<'_>, room: usize) -> Result<()> {
        let len = source.remaining().min(room).min(MAX_PAYLOAD);
        if len == 0 {
            return Ok(());
        }
        let slot = match self.vsock.take_slot() {
            Some(slot) => slot,
            None if nonblocking => return Err(Errno::EAGAIN),
            None => wait_event(task, &self.vsock.room, Interruptible::Yes, None, || self.vsock.take_slot())?,
        };
        let mut chunk = Vec::new();
        chunk.try_reserve_exact(len.min(CHUNK)).map_err(|_| Errno::ENOMEM)?;
        let mut filled = 0;
        while filled < len {
            chunk.clear();
            chunk.resize((len - filled).min(CHUNK), 0);
            source.take(&mut chunk)?;
            slot.write(filled, &chunk)?;
            filled += chunk.len();
        }
        {
            let mut s = self.state.lock();
            s.sent = s.sent.wrapping_add(len as u32);
        }
        slot.send(self.header(op::RW, len as u32, 0));
        Ok(())
    }

    /// Sends nothing more: the host sees the end after what was written.
    pub fn finish(&self) {
        let first = !core::mem::replace(&mut self.state.lock().finished, true);
        if first {
            self.vsock.send_control(self.header(op::SHUTDOWN, 0, SHUTDOWN_SEND));
        }
    }

    /// Ends it both ways, for all who hold it: readers see its end, writers `EPIPE`.
    pub fn close(&self) {
        self.finish();
        let open = {
            let mut s = self.state.lock();
            let open = !matches!(s.phase, Phase::Idle | Phase::Closed);
            s.phase = Phase::Closed;
            s.peer_finished = true;
            s.peer_deaf = true;
            open
        };
        if open {
            self.vsock.send_control(self.header(op::SHUTDOWN, 0, SHUTDOWN_SEND | SHUTDOWN_RECEIVE));
        }
        self.queue.wake_all(PollEvents::empty());
    }

    /// Readiness, as `poll` tells it of a pipe.
    pub fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        self.open();
        let s = self.state.lock();
        let mut events = PollEvents::empty();
        if !s.received.is_empty() {
            events |= PollEvents::READABLE;
        }
        if s.peer_finished {
            events |= PollEvents::HUP;
        }
        if s.peer_deaf {
            events |= PollEvents::ERR;
        }
        if s.peer_deaf || (s.phase == Phase::Up && s.credit() > 0) {
            events |= PollEvents::WRITABLE;
        }
        events
    }

    /// Bytes that can be read at once (`FIONREAD`).
    pub fn available(&self) -> usize {
        self.open();
        self.state.lock().received.len()
    }

    /// Writes all of `bytes` from the kernel.
    pub fn write_all(&self, task: &TaskRef, bytes: &[u8]) -> Result<()> {
        let n = self.write(task, false, &mut Source::kernel(bytes))?;
        if n == bytes.len() { Ok(()) } else { Err(Errno::EINTR) }
    }

    /// Fills all of `buf` from the kernel; `EPIPE` at the end of the stream.
    pub fn read_exact(&self, task: &TaskRef, buf: &mut [u8]) -> Result<()> {
        let mut sink = Sink::kernel(buf);
        while sink.remaining() > 0 {
            if self.read(task, false, &mut sink)? == 0 {
                return Err(Errno::EPIPE);
            }
        }
        Ok(())
    }

    /// Waits until the stream is up; the error of a refused connection otherwise.
    pub fn connected(&self, task: &TaskRef) -> Result<()> {
        let up = || match self.state.lock().phase {
            Phase::Idle | Phase::Connecting => None,
            Phase::Up => Some(Ok(())),
            Phase::Closed => Some(Err(Errno::ECONNREFUSED)),
        };
        match wait_event(task, &self.queue, Interruptible::No, None, up) {
            Ok(result) => result,
            Err(WaitError::Interrupted | WaitError::TimedOut) => Err(Errno::EINTR),
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        let open = !matches!(self.state.lock().phase, Phase::Idle | Phase::Closed);
        self.vsock.forget(self.local);
        if open {
            self.finish();
            self.vsock.send_control(self.header(op::SHUTDOWN, 0, SHUTDOWN_SEND | SHUTDOWN_RECEIVE));
        }
    }
}
