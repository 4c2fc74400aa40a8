//! All streams: bytes between host descriptors and connections, and who may send next.
//!
//! A stream lives from the guest's REQUEST until both sides are done. One that the guest no longer knows (reset)
//! stays as long as bytes wait for its descriptor: it *lingers*, has no key any more, and is dropped with its
//! last byte.
//!
//! Readiness is edge-triggered in an epoll of our own (one descriptor in the VMM's event loop): an event sets a
//! flag, `WouldBlock` clears it. So a stream that is ready but has no credit costs nothing while it waits.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use rustix::net::Shutdown;
use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

use super::connection::{Connection, Key};
use super::endpoint::Endpoint;
use super::metrics::VsockMetrics;
use super::packet::{Header, SHUTDOWN_BOTH, SHUTDOWN_RCV, SHUTDOWN_SEND, TYPE_STREAM, op};
use super::stream::Stream;
use super::{HOST_CID, MAX_CONNECTIONS, MAX_ORPHAN_RESETS};
use crate::host_stream::HostStream;

/// Makes an endpoint for each connection to a port; an error refuses that connection.
pub type Listener = Box<dyn FnMut() -> io::Result<Endpoint> + Send>;

enum Port {
    /// One connection, then the port is closed again.
    Once(Endpoint),
    Many(Listener),
}

/// Direction bit of an epoll token; the rest is the stream's id, which is even.
const SINK: u64 = 1;

pub(super) struct Muxer {
    guest_cid: u64,
    ports: BTreeMap<u32, Port>,
    streams: BTreeMap<u64, Stream>,
    keys: BTreeMap<Key, u64>,
    next_id: u64,
    /// Streams with something to send, each once, served in turn.
    senders: VecDeque<u64>,
    orphan_resets: VecDeque<Header>,
    /// The first error of each port's sink that is more than a reader gone.
    errors: BTreeMap<u32, i32>,
    pub(super) epoll: Epoll,
    metrics: Arc<VsockMetrics>,
}

impl Muxer {
    pub fn new(guest_cid: u64, metrics: Arc<VsockMetrics>) -> io::Result<Self> {
        Ok(Self {
            guest_cid,
            ports: BTreeMap::new(),
            streams: BTreeMap::new(),
            keys: BTreeMap::new(),
            next_id: 2,
            senders: VecDeque::new(),
            orphan_resets: VecDeque::new(),
            errors: BTreeMap::new(),
            epoll: Epoll::new()?,
            metrics,
        })
    }

    pub fn guest_cid(&self) -> u64 {
        self.guest_cid
    }

    pub fn listen_once(&mut self, port: u32, endpoint: Endpoint) {
        self.ports.insert(port, Port::Once(endpoint));
    }

    pub fn listen(&mut self, port: u32, listener: Listener) {
        self.ports.insert(port, Port::Many(listener));
    }

    pub fn unlisten(&mut self, port: u32) {
        self.ports.remove(&port);
    }

    pub fn error(&self, port: u32) -> Option<io::Error> {
        self.errors.get(&port).map(|&errno| io::Error::from_raw_os_error(errno))
    }

    /// May packets be taken from the guest? Not while it does not take its resets.
    pub fn accepts_packets(&self) -> bool {
        self.orphan_resets.len() < MAX_ORPHAN_RESETS
    }

    /// Is there a packet for the guest?
    pub fn has_packets(&self) -> bool {
        !self.orphan_resets.is_empty() || !self.senders.is_empty()
    }

    /// Bytes accepted from the guest that descriptors outside this process have not taken.
    pub fn waiting_bytes(&self) -> usize {
        self.streams.values().filter(|s| !s.internal).map(|s| s.connection.waiting_len()).sum()
    }

    /// The most bytes waiting in any one connection.
    #[cfg(test)]
    pub fn largest_wait(&self) -> usize {
        self.streams.values().map(|s| s.connection.waiting_len()).max().unwrap_or(0)
    }

    /// Sinks outside this process that have bytes waiting.
    pub fn waiting_sinks(&self) -> impl Iterator<Item = &HostStream> {
        self.streams
            .values()
            .filter(|s| !s.internal && s.connection.waiting_len() > 0)
            .filter_map(|s| s.sink.as_ref())
    }

    /// A packet from the guest.
    pub fn receive(&mut self, packet: &Header, payload: &[u8]) {
        self.metrics.tx_packets.inc();
        self.metrics.tx_bytes.add(payload.len() as u64);
        if packet.src_cid != self.guest_cid {
            // Not its own address: nobody to answer to.
            return self.metrics.orphans.inc();
        }
        if packet.dst_cid != HOST_CID || packet.kind != TYPE_STREAM {
            return self.orphan(packet);
        }
        let key = (packet.src_port, packet.dst_port);
        let Some(&id) = self.keys.get(&key) else {
            return if packet.op == op::REQUEST { self.accept(packet) } else { self.orphan(packet) };
        };
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let connection = &mut stream.connection;
        connection.update_peer(packet);
        match packet.op {
            op::RW => self.receive_data(id, payload),
            op::CREDIT_UPDATE => {}
            op::CREDIT_REQUEST => connection.answer_credit_request(),
            op::SHUTDOWN => {
                if connection.guest_shutdown(packet.flags) & SHUTDOWN_RCV != 0 {
                    self.close_source(id);
                }
                self.finish_sink(id);
            }
            op::RST => self.forget(id),
            // A second REQUEST, a RESPONSE to nothing, or no operation at all.
            _ => self.violation(id),
        }
        self.wake(id);
    }

    fn orphan(&mut self, packet: &Header) {
        self.metrics.orphans.inc();
        if packet.op != op::RST && self.accepts_packets() {
            self.orphan_resets.push_back(Header::reset_of(packet));
        }
    }

    fn accept(&mut self, request: &Header) {
        if self.streams.len() >= MAX_CONNECTIONS {
            return self.orphan(request);
        }
        let endpoint = match self.ports.remove(&request.dst_port) {
            None => None,
            Some(Port::Once(endpoint)) => Some(endpoint),
            Some(Port::Many(mut listener)) => {
                let endpoint = listener().ok();
                self.ports.insert(request.dst_port, Port::Many(listener));
                endpoint
            }
        };
        let Some(Endpoint { mut source, mut sink, internal }) = endpoint else {
            return self.orphan(request);
        };
        let id = self.next_id;
        self.next_id += 2;
        self.metrics.connections.inc();
        let mut connection = Connection::accept(request);
        if source.is_none() && sink.is_none() {
            connection.host_shutdown(SHUTDOWN_BOTH);
        }
        self.watch(id, &mut source, EventSet::IN);
        self.watch(id | SINK, &mut sink, EventSet::OUT);
        let (readable, writable) = (source.is_some(), sink.is_some());
        let (queued, lingers) = (false, false);
        let stream = Stream { connection, source, sink, internal, readable, writable, queued, lingers };
        self.keys.insert(stream.connection.key, id);
        self.streams.insert(id, stream);
        self.wake(id);
    }

    fn watch(&self, token: u64, stream: &mut Option<HostStream>, events: EventSet) {
        let Some(stream) = stream.as_mut().filter(|s| !s.is_always_ready()) else { return };
        let event = EpollEvent::new(events | EventSet::EDGE_TRIGGERED, token);
        if self.epoll.ctl(ControlOperation::Add, stream.as_raw_fd(), event).is_err() {
            // EPERM: the file has no poll operation, so it never waits.
            stream.set_always_ready();
        }
    }

    fn unwatch(&self, stream: &HostStream) {
        if !stream.is_always_ready() {
            let _ = self.epoll.ctl(ControlOperation::Delete, stream.as_raw_fd(), EpollEvent::default());
        }
    }

    /// Puts a stream in the row of senders if it has something to send.
    fn wake(&mut self, id: u64) {
        if let Some(stream) = self.streams.get_mut(&id)
            && !stream.queued
            && stream.has_something_to_send()
        {
            stream.queued = true;
            self.senders.push_back(id);
        }
    }

    fn receive_data(&mut self, id: u64, payload: &[u8]) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.connection.check_receive(payload.len()).is_err() {
            return self.violation(id);
        }
        if stream.sink.is_none() {
            self.metrics.dropped_bytes.add(payload.len() as u64);
            return stream.connection.forwarded(payload.len());
        }
        let mut rest = payload;
        // Straight to the descriptor if nothing is in front of it.
        while stream.connection.waiting_len() == 0 && stream.writable && !rest.is_empty() {
            match stream.write(rest) {
                Ok(n) => {
                    stream.connection.forwarded(n);
                    rest = &rest[n..];
                }
                Err(Some(e)) => return self.fail_sink(id, &e),
                Err(None) => {}
            }
        }
        stream.connection.keep(rest);
    }

    /// Gives the descriptor what waits for it, as much as it takes.
    fn flush(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        while stream.writable && stream.connection.waiting_len() > 0 {
            match stream.write_waiting() {
                Ok(n) => stream.connection.took(n),
                Err(Some(e)) => return self.fail_sink(id, &e),
                Err(None) => {}
            }
        }
        self.finish_sink(id);
    }

    /// Closes the sink behind the last byte of a guest that will send no more, and ends a stream that is over.
    fn finish_sink(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        if stream.connection.waiting_len() > 0 {
            return;
        }
        let guest_shut = stream.connection.guest_shut();
        if stream.lingers {
            return self.remove(id);
        }
        if guest_shut & SHUTDOWN_SEND != 0 {
            self.close_sink(id);
        }
        if guest_shut == SHUTDOWN_BOTH
            && let Some(stream) = self.streams.get_mut(&id)
        {
            // Section 5.10.6.4: the answer to a full shutdown is RST. The stream goes when it is said.
            stream.connection.reset();
        }
    }

    /// Nobody takes the guest's bytes any more.
    fn fail_sink(&mut self, id: u64, error: &io::Error) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let gone = matches!(error.raw_os_error(), Some(libc::EPIPE | libc::ECONNRESET | libc::EIO) | None);
        if !gone && let Some(errno) = error.raw_os_error() {
            self.errors.entry(stream.connection.key.1).or_insert(errno);
        }
        self.metrics.dropped_bytes.add(stream.connection.waiting_len() as u64);
        stream.connection.discard_waiting();
        stream.connection.host_shutdown(SHUTDOWN_RCV);
        self.close_sink(id);
        self.finish_sink(id);
    }

    fn close_sink(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let internal = stream.internal;
        if let Some(sink) = stream.sink.take() {
            self.unwatch(&sink);
            if internal {
                sink.shutdown(Shutdown::Write);
            }
        }
    }

    fn close_source(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        let internal = stream.internal;
        if let Some(source) = stream.source.take() {
            self.unwatch(&source);
            if internal {
                source.shutdown(Shutdown::Read);
            }
        }
    }

    /// The guest broke the protocol: RST, and what it had sent before still arrives.
    fn violation(&mut self, id: u64) {
        self.metrics.violations.inc();
        let Some(stream) = self.streams.get(&id) else { return };
        let (guest_port, host_port) = stream.connection.key;
        self.forget(id);
        if self.accepts_packets() {
            self.orphan_resets.push_back(Header {
                src_cid: HOST_CID,
                dst_cid: self.guest_cid,
                src_port: host_port,
                dst_port: guest_port,
                kind: TYPE_STREAM,
                op: op::RST,
                ..Header::default()
            });
        }
    }

    /// The guest does not know the stream any more; it lingers until its last byte is taken.
    fn forget(&mut self, id: u64) {
        let Some(stream) = self.streams.get_mut(&id) else { return };
        self.keys.remove(&stream.connection.key);
        stream.lingers = true;
        self.close_source(id);
        self.finish_sink(id);
    }

    fn remove(&mut self, id: u64) {
        self.close_source(id);
        self.close_sink(id);
        if let Some(stream) = self.streams.remove(&id)
            && !stream.lingers
        {
            self.keys.remove(&stream.connection.key);
        }
    }

    /// The device was reset: the guest knows no stream any more.
    pub fn forget_all(&mut self) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        ids.into_iter().for_each(|id| self.forget(id));
        self.senders.clear();
        self.orphan_resets.clear();
        self.streams.values_mut().for_each(|s| s.queued = false);
    }

    /// Nobody will read them.
    pub fn forget_resets(&mut self) {
        self.orphan_resets.clear();
    }

    /// Takes events of the epoll, as many as fit.
    pub fn poll_hosts(&mut self) {
        let mut events = [EpollEvent::default(); 32];
        let n = self.epoll.wait(0, &mut events).unwrap_or(0);
        for event in &events[..n] {
            let id = event.data() & !SINK;
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            if event.data() & SINK == 0 {
                stream.readable = true;
            } else if event.event_set().intersects(EventSet::ERROR | EventSet::HANG_UP) {
                // For a pipe: the last reader closed. For a socket or a terminal: hung up.
                self.fail_sink(id, &io::Error::from_raw_os_error(libc::EPIPE));
            } else {
                stream.writable = true;
                self.flush(id);
            }
            self.wake(id);
        }
    }

    /// Tries every sink that has bytes waiting, whatever epoll has said.
    pub fn flush_all(&mut self) {
        let ids: Vec<u64> = self.streams.keys().copied().collect();
        for id in ids {
            if let Some(stream) = self.streams.get_mut(&id)
                && stream.connection.waiting_len() > 0
            {
                stream.writable = true;
                self.flush(id);
            }
        }
    }

    /// The next packet for the guest: its header, its payload at the front of `payload` (which has the room the
    /// guest's buffer has after the header).
    pub fn next_packet(&mut self, payload: &mut [u8]) -> Option<Header> {
        if let Some(reset) = self.orphan_resets.pop_front() {
            return Some(reset);
        }
        while let Some(id) = self.senders.pop_front() {
            let Some(stream) = self.streams.get_mut(&id) else { continue };
            stream.queued = false;
            let Some(packet) = stream.next_packet(payload) else {
                // It may still have data: no room in this buffer. Its turn comes with the next one.
                if stream.has_something_to_send() {
                    stream.queued = true;
                    self.senders.push_front(id);
                    return None;
                }
                continue;
            };
            if packet.op == op::RST {
                self.remove(id);
            }
            self.wake(id);
            self.metrics.rx_packets.inc();
            self.metrics.rx_bytes.add(u64::from(packet.len));
            return Some(packet);
        }
        None
    }
}
