//! A guest's side of vsock, legal and hostile, against real host descriptors.

use std::fs::File;
use std::io::{Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use super::device::{RX, TX};
use super::packet::*;
use super::*;
use crate::virtio::mock::*;

const CID: u64 = 3;
const PORT: u32 = 2048;
const GUEST_PORT: u32 = 777;
/// Buffers in guest memory.
const RX_BUFFERS: u64 = 0x20_0000;
const RX_SIZE: u32 = 4096 + HEADER_SIZE as u32;
const TX_BUFFER: u64 = 0x30_0000;

struct Guest {
    driver: MockDriver<Vsock>,
    rx_next: u64,
}

impl Guest {
    fn new() -> Self {
        Self { driver: MockDriver::running(Vsock::new(CID).unwrap(), 128, 0), rx_next: 0 }
    }

    /// A guest whose connection to `endpoint` is established.
    fn connected(endpoint: Endpoint) -> Self {
        let mut guest = Self::new();
        guest.listen(PORT, endpoint);
        guest.give_buffers(32);
        guest.send(guest.header(op::REQUEST), &[]);
        let response = guest.receive().expect("an answer").0;
        assert_eq!((response.op, response.buf_alloc), (op::RESPONSE, BUF_ALLOC));
        assert_eq!((response.src_port, response.dst_port), (PORT, GUEST_PORT));
        assert_eq!((response.src_cid, response.dst_cid), (HOST_CID, CID));
        guest
    }

    fn listen(&self, port: u32, endpoint: Endpoint) {
        self.driver.device.lock().unwrap().listen(port, endpoint);
    }

    fn header(&self, op: u16) -> Header {
        Header {
            src_cid: CID,
            dst_cid: HOST_CID,
            src_port: GUEST_PORT,
            dst_port: PORT,
            kind: TYPE_STREAM,
            op,
            buf_alloc: 1 << 20,
            ..Header::default()
        }
    }

    fn process(&self) {
        let mut device = self.driver.device.lock().unwrap();
        // As the event loop would: until the device does not ask for another turn.
        loop {
            device.process_hosts();
            device.process_queues();
            if device.again.read().is_err() {
                break;
            }
        }
    }

    fn give_buffers(&mut self, count: usize) {
        for _ in 0..count {
            let addr = RX_BUFFERS + (self.rx_next % 64) * 0x2000;
            self.rx_next += 1;
            self.driver.add(RX, &[(addr, RX_SIZE, true)]);
        }
    }

    fn queue(&mut self, mut header: Header, payload: &[u8]) {
        header.len = payload.len() as u32;
        self.driver.put(TX_BUFFER, &header.encode());
        self.driver.put(TX_BUFFER + 0x1000, payload);
        let mut parts = vec![(TX_BUFFER, HEADER_SIZE as u32, false)];
        if !payload.is_empty() {
            parts.push((TX_BUFFER + 0x1000, payload.len() as u32, false));
        }
        self.driver.add(TX, &parts);
    }

    fn send(&mut self, header: Header, payload: &[u8]) {
        self.queue(header, payload);
        self.process();
        assert!(self.driver.take_used(TX).is_some());
    }

    fn data(&mut self, payload: &[u8]) {
        self.send(self.header(op::RW), payload);
    }

    fn receive(&mut self) -> Option<(Header, Vec<u8>)> {
        self.process();
        let (head, len) = self.driver.take_used(RX)?;
        let at = self.driver.queues[RX].desc + u64::from(head) * 16;
        let addr = u64::from_le_bytes(self.driver.bytes(at, 8).try_into().unwrap());
        let bytes = self.driver.bytes(addr, len as usize);
        let header = Header::decode(bytes[..HEADER_SIZE].try_into().unwrap());
        assert_eq!(header.len as usize, bytes.len() - HEADER_SIZE);
        self.give_buffers(1);
        Some((header, bytes[HEADER_SIZE..].to_vec()))
    }

    /// Like `receive`, for descriptors whose data comes in its own time (the kernel's terminals).
    fn receive_soon(&mut self) -> (Header, Vec<u8>) {
        let start = Instant::now();
        loop {
            if let Some(packet) = self.receive() {
                return packet;
            }
            assert!(start.elapsed() < Duration::from_secs(10), "no packet came");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn expect(&mut self, op: u16) -> Header {
        let header = self.receive().expect("a packet").0;
        assert_eq!(header.op, op);
        header
    }

    fn broken(&self) -> bool {
        self.driver.status() & NEEDS_RESET != 0
    }
}

fn pipe() -> (File, File) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write.into())
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 7 + i / 251) as u8).collect()
}

#[test]
fn standard_output_is_byte_exact_and_ends() {
    let (mut read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    guest.data(b"hello ");
    guest.data(b"world");
    guest.send(Header { flags: SHUTDOWN_SEND, ..guest.header(op::SHUTDOWN) }, &[]);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    assert_eq!(text, "hello world");
    assert!(guest.receive().is_none(), "half closed, not over");
    guest.send(Header { flags: SHUTDOWN_BOTH, ..guest.header(op::SHUTDOWN) }, &[]);
    guest.expect(op::RST);
    // The port took one connection.
    guest.send(guest.header(op::REQUEST), &[]);
    guest.expect(op::RST);
}

#[test]
fn a_pipe_larger_than_its_room_flows_by_credit() {
    let (mut read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all)
    });
    let all = pattern(3 << 20);
    let (mut sent, mut forwarded) = (0usize, 0usize);
    while sent < all.len() {
        let n = 4000.min(all.len() - sent).min(BUF_ALLOC as usize - (sent - forwarded));
        if n > 0 {
            guest.data(&all[sent..sent + n]);
            sent += n;
        }
        while let Some((header, _)) = guest.receive() {
            assert_eq!(header.op, op::CREDIT_UPDATE);
            forwarded = header.fwd_cnt as usize;
        }
    }
    assert_eq!(guest.driver.device.lock().unwrap().drain(None), Drained::Complete);
    assert!(reader.join().unwrap().unwrap() == all);
}

#[test]
fn credit_overflow_loses_the_connection_but_no_accepted_byte() {
    let (mut read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    let all = pattern(1 << 20);
    let mut accepted = 0;
    let reset = loop {
        guest.data(&all[accepted..accepted + 4096]);
        match guest.receive() {
            Some((header, _)) if header.op == op::RST => break header,
            Some(_) => {}
            None => {}
        }
        accepted += 4096;
        assert!(accepted <= (BUF_ALLOC + (64 << 10)) as usize, "never stopped");
    };
    assert_eq!(reset.dst_port, GUEST_PORT);
    assert_eq!(guest.driver.device.lock().unwrap().metrics().violations.get(), 1);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all)
    });
    assert_eq!(guest.driver.device.lock().unwrap().drain(None), Drained::Complete);
    assert!(reader.join().unwrap().unwrap() == all[..accepted]);
}

#[test]
fn standard_input_arrives_in_order_and_ends() {
    let (read, mut write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(Some(read.into()), None));
    assert!(guest.receive().is_none());
    let all = pattern(50_000);
    write.write_all(&all).unwrap();
    drop(write);
    let mut got = Vec::new();
    let end = loop {
        let (header, payload) = guest.receive().expect("more");
        match header.op {
            op::RW => got.extend(payload),
            _ => break header,
        }
    };
    assert!(got == all);
    assert_eq!((end.op, end.flags), (op::SHUTDOWN, SHUTDOWN_SEND));
    assert!(guest.receive().is_none());
}

#[test]
fn the_guests_credit_is_respected_and_asked_for() {
    let (read, mut write) = pipe();
    let mut guest = Guest::new();
    guest.listen(PORT, Endpoint::stdio(Some(read.into()), None));
    guest.give_buffers(16);
    guest.send(Header { buf_alloc: 100, ..guest.header(op::REQUEST) }, &[]);
    guest.expect(op::RESPONSE);
    write.write_all(&pattern(250)).unwrap();
    assert_eq!(guest.expect(op::RW).len, 100);
    guest.expect(op::CREDIT_REQUEST);
    assert!(guest.receive().is_none());
    let update = Header { buf_alloc: 100, fwd_cnt: 60, ..guest.header(op::CREDIT_UPDATE) };
    guest.send(update, &[]);
    assert_eq!(guest.expect(op::RW).len, 60);
    guest.expect(op::CREDIT_REQUEST);
    // A lie: more forwarded than was sent. No credit, no arithmetic accident.
    guest.send(Header { fwd_cnt: 5000, ..update }, &[]);
    assert!(guest.receive().is_none());
    guest.send(Header { fwd_cnt: 160, ..update }, &[]);
    assert_eq!(guest.expect(op::RW).len, 90);
}

#[test]
fn an_older_count_that_comes_late_takes_no_credit_back() {
    let (read, mut write) = pipe();
    let mut guest = Guest::new();
    guest.listen(PORT, Endpoint::stdio(Some(read.into()), None));
    guest.give_buffers(16);
    guest.send(Header { buf_alloc: 100, ..guest.header(op::REQUEST) }, &[]);
    guest.expect(op::RESPONSE);
    write.write_all(&pattern(100)).unwrap();
    assert_eq!(guest.expect(op::RW).len, 100);
    guest.expect(op::CREDIT_REQUEST);
    // The reader tells what it took while another CPU answers the request with what it saw before.
    for fwd_cnt in [100, 0] {
        guest.send(Header { buf_alloc: 100, fwd_cnt, ..guest.header(op::CREDIT_UPDATE) }, &[]);
    }
    write.write_all(&pattern(80)).unwrap();
    assert_eq!(guest.expect(op::RW).len, 80);
}

#[test]
fn any_kind_of_input_descriptor() {
    let mut file = File::from(rustix::fs::memfd_create("input", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.write_all(&pattern(10_000)).unwrap();
    file.rewind().unwrap();
    let null = File::open("/dev/null").unwrap();
    let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
    theirs.write_all(&pattern(10_000)).unwrap();
    drop(theirs);
    let inputs: [(OwnedFd, usize); 3] = [(file.into(), 10_000), (null.into(), 0), (ours.into(), 10_000)];
    for (fd, len) in inputs {
        let mut guest = Guest::connected(Endpoint::stdio(Some(fd), None));
        let mut got = Vec::new();
        loop {
            let (header, payload) = guest.receive().expect("data or an end");
            got.extend(payload);
            if header.op == op::SHUTDOWN {
                break;
            }
        }
        assert!(got == pattern(len));
    }
    // None at all: an end at once.
    let mut guest = Guest::connected(Endpoint::stdio(None, None));
    assert_eq!(guest.expect(op::SHUTDOWN).flags, SHUTDOWN_BOTH);
}

#[test]
fn an_endless_input_leaves_the_loop_to_others() {
    let zero = File::open("/dev/zero").unwrap();
    let mut guest = Guest::connected(Endpoint::stdio(Some(zero.into()), None));
    for _ in 0..100 {
        assert_eq!(guest.expect(op::RW).len, 4096);
    }
}

#[test]
fn descriptors_shared_with_others_keep_their_flags() {
    let (read, write) = pipe();
    let (shared_read, shared_write) = (read.try_clone().unwrap(), write.try_clone().unwrap());
    let _guest = Guest::connected(Endpoint::stdio(Some(read.into()), Some(write.into())));
    for shared in [shared_read.as_fd(), shared_write.as_fd()] {
        let flags = rustix::fs::fcntl_getfl(shared).unwrap();
        assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    }
}

#[test]
fn a_terminal_is_relayed_and_only_opened_anew_as_itself() {
    use crate::host_stream::{own_reader, own_writer};
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = File::options().read(true).write(true).open(name.to_str().unwrap()).unwrap();
    let mut user = File::from(master.try_clone().unwrap());
    let (input, output) = (slave.try_clone().unwrap(), slave.try_clone().unwrap());
    let (input, output) = (own_reader(input.into()), own_writer(output.into()));
    let mut guest = Guest::connected(Endpoint::stdio(Some(input), Some(output)));
    user.write_all(b"typed\n").unwrap();
    assert_eq!(guest.receive_soon().1, b"typed\n");
    guest.data(b"shown");
    // The echo, then the output.
    let mut shown = [0; 12];
    user.read_exact(&mut shown).unwrap();
    assert_eq!(&shown, b"typed\r\nshown");
    let flags = rustix::fs::fcntl_getfl(&slave).unwrap();
    assert!(!flags.contains(rustix::fs::OFlags::NONBLOCK));
    // The master's own end is another file than its path; it must not become a new terminal.
    let mut guest = Guest::connected(Endpoint::stdio(Some(own_reader(master)), None));
    (&slave).write_all(b"from the slave").unwrap();
    assert_eq!(guest.receive_soon().1, b"from the slave");
}

#[test]
fn a_reader_that_goes_away_is_a_broken_pipe() {
    let (read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    guest.data(b"one");
    drop(read);
    // Noticed without a write.
    assert_eq!(guest.expect(op::SHUTDOWN).flags, SHUTDOWN_RCV);
    guest.data(b"two");
    assert!(guest.receive().is_none());
    assert!(guest.driver.device.lock().unwrap().stream_error(PORT).is_none());
    // Gone before the guest connected.
    let (read, write) = pipe();
    drop(read);
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    assert_eq!(guest.expect(op::SHUTDOWN).flags, SHUTDOWN_RCV);
}

#[test]
fn a_full_disk_is_reported() {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(full.into())));
    guest.data(b"text");
    assert_eq!(guest.expect(op::SHUTDOWN).flags, SHUTDOWN_RCV);
    let error = guest.driver.device.lock().unwrap().stream_error(PORT).unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_control_stream_is_a_plain_socket() {
    let (endpoint, mut vmm) = Endpoint::socketpair().unwrap();
    let mut guest = Guest::connected(endpoint);
    guest.data(b"hello");
    let mut buf = [0; 5];
    vmm.read_exact(&mut buf).unwrap();
    assert_eq!(&buf, b"hello");
    vmm.write_all(b"to you").unwrap();
    let (header, payload) = guest.receive().unwrap();
    assert_eq!((header.op, payload.as_slice()), (op::RW, b"to you".as_slice()));
    // A half-close by the guest is one for us, and the other direction goes on.
    guest.send(Header { flags: SHUTDOWN_SEND, ..guest.header(op::SHUTDOWN) }, &[]);
    assert_eq!(vmm.read(&mut buf).unwrap(), 0);
    vmm.write_all(b"still").unwrap();
    assert_eq!(guest.expect(op::RW).len, 5);
    drop(vmm);
    assert_eq!(guest.expect(op::SHUTDOWN).flags & SHUTDOWN_SEND, SHUTDOWN_SEND);
}

#[test]
fn bounds_of_a_packet_cve_2019_18960() {
    // The header claims more than the chain holds, or more than any packet may have; or is cut short.
    for (claim, payload, header_len) in
        [(100, 10, HEADER_SIZE), (u32::MAX, 10, HEADER_SIZE), (65_537, 0, HEADER_SIZE), (0, 0, 43)]
    {
        let (_read, write) = pipe();
        let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
        let header = Header { len: claim, ..guest.header(op::RW) };
        guest.driver.put(TX_BUFFER, &header.encode());
        let mut parts = vec![(TX_BUFFER, header_len as u32, false)];
        if payload > 0 {
            parts.push((TX_BUFFER + 0x1000, payload, false));
        }
        guest.driver.add(TX, &parts);
        guest.process();
        assert!(guest.broken(), "len {claim} over {payload}");
        guest.driver.write(reg::STATUS, 0);
        assert_eq!(guest.driver.status(), 0);
    }
    // An RX buffer without room for a header.
    let mut guest = Guest::new();
    guest.driver.add(RX, &[(RX_BUFFERS, 43, true)]);
    guest.send(guest.header(op::REQUEST), &[]);
    assert!(guest.broken());
}

#[test]
fn replies_are_bounded_when_the_guest_gives_no_buffers() {
    let mut guest = Guest::new();
    for _ in 0..100 {
        guest.queue(guest.header(op::RW), &[]);
    }
    guest.process();
    let taken = std::iter::from_fn(|| guest.driver.take_used(TX)).count();
    assert_eq!(taken, MAX_ORPHAN_RESETS);
    // With buffers everything goes on.
    guest.give_buffers(64);
    let mut resets = 0;
    while let Some((header, _)) = guest.receive() {
        assert_eq!(header.op, op::RST);
        resets += 1;
    }
    assert_eq!(resets, 100);
}

#[test]
fn foreign_addresses_reach_nothing() {
    let (mut read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    guest.send(Header { src_cid: 4, ..guest.header(op::RW) }, b"as another guest");
    assert!(guest.receive().is_none());
    guest.send(Header { dst_cid: 1, ..guest.header(op::RW) }, b"to another host");
    guest.expect(op::RST);
    guest.send(Header { kind: 2, ..guest.header(op::RW) }, b"seqpacket");
    guest.expect(op::RST);
    guest.data(b"fine");
    let mut buf = [0; 32];
    assert_eq!(read.read(&mut buf).unwrap(), 4);
}

#[test]
fn a_device_reset_delivers_what_was_accepted_and_forgets_the_rest() {
    let (mut read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    let all = pattern(100_000);
    for part in all.chunks(4000) {
        guest.data(part);
    }
    guest.driver.write(reg::STATUS, 0);
    let reader = std::thread::spawn(move || {
        let mut all = Vec::new();
        read.read_to_end(&mut all).map(|_| all)
    });
    // Ready again as the reader reads; the event loop calls.
    let start = Instant::now();
    while guest.driver.device.lock().unwrap().muxer.waiting_bytes() > 0 {
        assert!(start.elapsed() < Duration::from_secs(10));
        guest.process();
    }
    assert!(reader.join().unwrap().unwrap() == all);
}

#[test]
fn drain_takes_the_queue_and_waits_for_the_reader_up_to_its_deadline() {
    let (mut read, write) = pipe();
    let mut guest = Guest::connected(Endpoint::stdio(None, Some(write.into())));
    // In the queue only: the virtual machine stopped right after its last kick.
    for _ in 0..30 {
        guest.queue(guest.header(op::RW), &[b'x'; 4096]);
    }
    let deadline = Instant::now() + Duration::from_millis(50);
    let lost = match guest.driver.device.lock().unwrap().drain(Some(deadline)) {
        Drained::TimedOut { lost } => lost,
        Drained::Complete => panic!("nobody reads"),
    };
    let mut all = Vec::new();
    drop(guest);
    read.read_to_end(&mut all).unwrap();
    assert_eq!(all.len() + lost, 30 * 4096);
}

#[test]
fn a_restored_guest_is_told_that_its_connections_are_gone() {
    let mut device = Vsock::new(CID).unwrap();
    let state = Vsock::new(CID).unwrap().save();
    assert!(device.restore(&state));
    assert!(!device.restore(&VsockState { guest_cid: 9, ..state }));
    let mut guest = Guest { driver: MockDriver::running(device, 16, 0), rx_next: 0 };
    guest.driver.add(super::device::EVENT, &[(BUFFERS, 4, true)]);
    guest.driver.put(BUFFERS, &[0xff; 4]);
    guest.process();
    assert_eq!(guest.driver.take_used(super::device::EVENT).map(|u| u.1), Some(4));
    assert_eq!(guest.driver.bytes(BUFFERS, 4), [0; 4]);
}

mod random {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, Clone)]
    enum Step {
        Packet { op: u16, ports: (u32, u32), flags: u32, buf_alloc: u32, fwd_cnt: u32, len: usize },
        HostWrites(usize),
        HostReads(usize),
        Buffers(usize),
        Reset,
    }

    fn step() -> impl Strategy<Value = Step> {
        let packet = (
            0u16..9,
            (0u32..3, PORT..PORT + 3),
            0u32..5,
            prop_oneof![Just(0), Just(4096), any::<u32>()],
            prop_oneof![Just(0), any::<u32>()],
            0usize..3000,
        )
            .prop_map(|(op, ports, flags, buf_alloc, fwd_cnt, len)| Step::Packet {
                op,
                ports,
                flags,
                buf_alloc,
                fwd_cnt,
                len,
            });
        prop_oneof![
            8 => packet,
            2 => (1usize..5000).prop_map(Step::HostWrites),
            2 => (1usize..5000).prop_map(Step::HostReads),
            2 => (1usize..20).prop_map(Step::Buffers),
            1 => Just(Step::Reset),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 200, max_shrink_iters: 500, ..ProptestConfig::default() })]

        /// Whatever the guest sends and the host does: no panic, no more than the credit buffered for a
        /// connection, no data beyond the guest's credit, nothing the device would call its own mistake.
        #[test]
        fn any_conversation(steps in prop::collection::vec(step(), 1..80)) {
            let mut guest = Guest::new();
            let mut hosts = Vec::new();
            // What the rings hold: the test's driver keeps to their size, other tests do not.
            let (mut tx, mut rx) = (0, 0);
            for port in PORT..PORT + 2 {
                let (endpoint, vmm) = Endpoint::socketpair().unwrap();
                vmm.set_nonblocking(true).unwrap();
                hosts.push(vmm);
                guest.listen(port, endpoint);
            }
            for step in steps {
                match step {
                    Step::Packet { .. } if tx == 64 => {}
                    Step::Packet { op, ports, flags, buf_alloc, fwd_cnt, len } => {
                        tx += 1;
                        let header = Header {
                            src_port: ports.0, dst_port: ports.1, flags, buf_alloc, fwd_cnt, ..guest.header(op)
                        };
                        guest.queue(header, &vec![op as u8; len]);
                    }
                    Step::HostWrites(n) => hosts.iter_mut().for_each(|h| { let _ = h.write(&pattern(n)); }),
                    Step::HostReads(n) => hosts.iter_mut().for_each(|h| { let _ = h.read(&mut vec![0; n]); }),
                    Step::Buffers(n) => {
                        let n = n.min(60 - rx);
                        rx += n;
                        guest.give_buffers(n);
                    }
                    Step::Reset => {
                        guest.driver.write(reg::STATUS, 0);
                        guest.driver.negotiate(crate::virtio::features::VERSION_1);
                        guest.driver.set_up_queues(128);
                        guest.driver.write(reg::STATUS, RUNNING);
                        (tx, rx) = (0, 0);
                    }
                }
                guest.process();
                prop_assert!(!guest.broken());
                prop_assert!(guest.driver.device.lock().unwrap().muxer.largest_wait() <= BUF_ALLOC as usize);
                while guest.driver.take_used(TX).is_some() { tx -= 1; }
                while guest.driver.take_used(RX).is_some() { rx -= 1; }
            }
        }

        #[test]
        fn headers_round_trip(bytes in any::<[u8; 32]>(), rest in any::<[u8; 12]>()) {
            let mut raw = [0; HEADER_SIZE];
            raw[..32].copy_from_slice(&bytes);
            raw[32..].copy_from_slice(&rest);
            prop_assert_eq!(Header::decode(&raw).encode(), raw);
        }
    }
}
