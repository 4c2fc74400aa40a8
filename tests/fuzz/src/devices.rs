//! Every virtio device, behind its registers, with a hostile driver: the bytes are what the driver does.
//!
//! Most bytes that are chosen blindly stop at the first check, so there are actions for what a driver does to get further: bring
//! a device up, post a chain that is nearly right.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use ringfence_devices::balloon::Balloon;
use ringfence_devices::block::{Block, Disk, Limits};
use ringfence_devices::net::{Backend, Mac, Net, NetConfig, Policy};
use ringfence_devices::pmem::Pmem;
use ringfence_devices::rng::Rng;
use ringfence_devices::virtio::{MmioTransport, VirtioDevice};
use ringfence_devices::vsock::{Endpoint, Vsock};
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};
use vm_memory::{Bytes, FileOffset, GuestAddress, GuestMemoryMmap};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Two regions without a gap, as the VMM makes them.
const BREAK: u64 = 128 << 10;
const END: u64 = 256 << 10;
/// Where the image would be.
const IMAGE: u64 = 1 << 32;
const SIZE: u16 = 16;
const QUEUE_NOTIFY: u64 = 0x50;
const STATUS: u64 = 0x70;
/// Actions of one run.
const MOST: usize = 500;

type Subscriber = Arc<Mutex<dyn MutEventSubscriber>>;

struct Machine {
    memory: Arc<GuestMemoryMmap>,
    transports: Vec<MmioTransport>,
    events: EventManager<Subscriber>,
    /// How many chains were posted in each queue of each device.
    posted: [[u16; 3]; DEVICES],
    /// The host's ends of the networks.
    networks: Vec<OwnedFd>,
    /// Something has come from there, which may be answered.
    spoken: bool,
    policy: Policy,
}

const DEVICES: usize = 8;
/// The features that a driver takes, besides `VERSION_1`.
const FEATURES: [u32; DEVICES] = [
    0,
    0,
    0,
    0,
    // Read-only of a disk.
    1 << 5,
    // The balloon's free page reporting.
    1 << 5,
    // Of the network whose host has offloads: checksums and segments both ways, merged buffers.
    1 | 1 << 1 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 12 | 1 << 15,
    1 << 15,
];

/// Does what `data` says.
pub fn run(data: &[u8]) {
    let mut input = Input(data);
    let mut machine = Machine::new();
    for _ in 0..MOST {
        let Some(action) = input.byte() else { break };
        machine.act(action, &mut input);
    }
    machine.serve();
    // Whatever was done: each device is as new after a reset.
    for (number, transport) in machine.transports.iter_mut().enumerate() {
        write(transport, STATUS, 0);
        bring_up(transport, number);
        let mut status = [0; 4];
        transport.read(STATUS, &mut status);
        assert_eq!(u32::from_le_bytes(status) & !64, 15, "device {number} does not start again");
    }
}

struct Input<'a>(&'a [u8]);

impl Input<'_> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn word(&mut self) -> u32 {
        u32::from_le_bytes([(); 4].map(|()| self.byte().unwrap_or(0)))
    }

    fn half(&mut self) -> u16 {
        self.word() as u16
    }

    /// A guest physical address: mostly in memory.
    fn address(&mut self) -> u64 {
        match self.byte().unwrap_or(0) {
            kind @ 0..200 => (u64::from(kind) << 10) + u64::from(self.byte().unwrap_or(0)),
            200..220 => END - u64::from(self.byte().unwrap_or(0)),
            220..230 => u64::MAX - u64::from(self.byte().unwrap_or(0)),
            230..240 => IMAGE,
            _ => u64::from(self.word()) << 32 | u64::from(self.word()),
        }
    }
}

/// A file without a name.
fn memory_file(len: u64) -> File {
    let fd = rustix::fs::memfd_create("fuzz", rustix::fs::MemfdFlags::CLOEXEC).expect("a memfd");
    let file = File::from(fd);
    file.set_len(len).expect("a length");
    file
}

fn write(transport: &mut MmioTransport, offset: u64, value: u32) {
    transport.write(offset, &value.to_le_bytes());
}

/// Where queue `queue` of device `number` has its rings.
fn rings(number: usize, queue: usize) -> u64 {
    0x1_0000 + (number * 3 + queue) as u64 * 0x1000
}

/// As a driver does it.
fn bring_up(transport: &mut MmioTransport, number: usize) {
    for (register, value) in
        [(STATUS, 0), (STATUS, 1), (STATUS, 3), (0x24, 0), (0x20, 1 << 5), (0x24, 1), (0x20, 1), (STATUS, 11)]
    {
        let value = if register == 0x20 && value == 1 << 5 { FEATURES[number] } else { value };
        write(transport, register, value);
    }
    for queue in 0..3 {
        let at = rings(number, queue) as u32;
        let settings = [
            (0x30, queue as u32),
            (0x38, SIZE.into()),
            (0x80, at),
            (0x84, 0),
            (0x90, at + 0x400),
            (0x94, 0),
            (0xa0, at + 0x800),
            (0xa4, 0),
            (0x44, 1),
        ];
        for (register, value) in settings {
            write(transport, register, value);
        }
    }
    write(transport, STATUS, 15);
}

impl Machine {
    fn new() -> Machine {
        let file = Arc::new(memory_file(END));
        let ranges = [(0, BREAK), (BREAK, END - BREAK)]
            .map(|(at, len)| (GuestAddress(at), len as usize, Some(FileOffset::from_arc(file.clone(), at))));
        let memory = Arc::new(GuestMemoryMmap::from_ranges_with_files(&ranges).expect("memory"));
        let events = EventManager::new_with_capacity(32).expect("an event loop");
        let policy = Policy::public(&[], &[]);
        let mut machine = Machine {
            memory,
            transports: Vec::new(),
            events,
            posted: [[0; 3]; DEVICES],
            networks: Vec::new(),
            spoken: false,
            policy,
        };
        let mut vsock = Vsock::new(3).expect("a device");
        let (endpoint, mut host) = Endpoint::socketpair().expect("a socket pair");
        host.write_all(b"from the host").expect("room");
        vsock.listen(1024, endpoint);
        machine.add(vsock);
        machine.add(Rng::new().expect("a device"));
        machine.add(Pmem::new(IMAGE, 2 << 20).expect("a device"));
        for read_only in [false, true] {
            let mut file = memory_file(64 << 10);
            file.seek(SeekFrom::Start(0)).expect("a file");
            let disk = Disk::new(file, Path::new("fuzz"), read_only).expect("a disk");
            machine.add(
                Block::new(disk, "fuzz".into(), Limits::new(None, None).expect("a timer")).expect("a device"),
            );
        }
        machine.add(Balloon::new().expect("a device"));
        for (kind, backend) in
            [(SocketType::SEQPACKET, Backend::tap as fn(_) -> _), (SocketType::STREAM, Backend::stream)]
        {
            let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
            let (ours, host) = socketpair(AddressFamily::UNIX, kind, flags, None).expect("a socket pair");
            machine.networks.push(host);
            let egress = Some(machine.policy.clone());
            let config = NetConfig { mac: Mac([2, 0, 0, 0, 0, 1]), mtu: 1500, egress };
            let limits = || Limits::new(None, None).expect("a timer");
            machine.add(Net::new(config, backend(ours), limits(), limits()).expect("a device"));
        }
        machine
    }

    fn add(&mut self, device: impl VirtioDevice + MutEventSubscriber + 'static) {
        let device = Arc::new(Mutex::new(device));
        let irq = EventFd::new(EFD_NONBLOCK).expect("an eventfd");
        self.transports
            .push(MmioTransport::new(self.memory.clone(), device.clone(), irq).expect("a transport"));
        self.events.add_subscriber(device);
    }

    /// What the event loop does with what has happened.
    fn serve(&mut self) {
        self.run_events();
        self.look_at_what_was_sent();
    }

    /// Whatever the guest does, nothing leaves by a TAP interface that the policy denies.
    fn look_at_what_was_sent(&mut self) {
        let mut buffer = [0; 4096];
        for (number, host) in self.networks.iter().enumerate() {
            while let Ok((_, n @ 1..)) = recv(host, &mut buffer, RecvFlags::DONTWAIT) {
                let frame = buffer[..n].get(12..).unwrap_or_default();
                let head = &frame[..frame.len().min(256)];
                assert!(number > 0 || self.spoken || self.policy.allows(head), "it was sent: {head:?}");
            }
        }
    }

    /// A frame, or any bytes, from the host.
    fn speak(&mut self, number: usize, bytes: &[u8]) {
        self.spoken = true;
        let prefix = match number {
            0 => vec![0; 12],
            _ => (bytes.len() as u32).to_be_bytes().to_vec(),
        };
        // Once in a while without what is in front of a frame.
        let whole = if bytes.first().is_some_and(|b| *b == 0xee) {
            bytes.to_vec()
        } else {
            [&prefix, bytes].concat()
        };
        let _ = send(&self.networks[number], &whole, SendFlags::NOSIGNAL | SendFlags::DONTWAIT);
    }

    fn run_events(&mut self) {
        for _ in 0..3 {
            if self.events.run_with_timeout(0).is_ok_and(|events| events == 0) {
                break;
            }
        }
    }

    fn act(&mut self, action: u8, input: &mut Input) {
        let number = usize::from(action >> 4) % self.transports.len();
        let queue = usize::from(input.byte().unwrap_or(0)) % 3;
        let at = rings(number, queue);
        let transport = &mut self.transports[number];
        match action & 15 {
            0 => bring_up(transport, number),
            1 => {
                let (offset, width) = (u64::from(input.half() % 0x180), 1 << (input.byte().unwrap_or(0) & 3));
                let mut data = [0; 8];
                data[..4].copy_from_slice(&input.word().to_le_bytes());
                transport.write(offset, &data[..width]);
            }
            2 => transport.read(u64::from(input.half() % 0x180), &mut [0; 8][..1 << (queue & 3)]),
            3 | 4 => {
                let index = u64::from(input.byte().unwrap_or(0) % 20);
                let address = input.address();
                let len = if action & 15 == 3 { u32::from(input.half()) } else { input.word() };
                let (flags, next) =
                    (u16::from(input.byte().unwrap_or(0) & 7), u16::from(input.byte().unwrap_or(0) % 20));
                let entry = [
                    &address.to_le_bytes()[..],
                    &len.to_le_bytes(),
                    &flags.to_le_bytes(),
                    &next.to_le_bytes(),
                ]
                .concat();
                self.put(at + index * 16, &entry);
            }
            5 | 6 => {
                // A header, as it is for a disk or a socket, where descriptors may point.
                let address = input.address();
                let bytes: Vec<u8> =
                    (0..input.byte().unwrap_or(0) % 64).map_while(|_| input.byte()).collect();
                self.put(address, &bytes);
            }
            7 => {
                let (value, offset) = (input.half(), u64::from(input.byte().unwrap_or(0)));
                self.put(at + 0x400 + offset, &value.to_le_bytes());
            }
            8..12 => {
                let slot = &mut self.posted[number][queue];
                let entry = at + 0x404 + u64::from(*slot % SIZE) * 2;
                *slot = slot.wrapping_add(1);
                let index = *slot;
                let head = u16::from(input.byte().unwrap_or(0) % 20);
                self.put(entry, &head.to_le_bytes());
                self.put(at + 0x402, &index.to_le_bytes());
                write(&mut self.transports[number], QUEUE_NOTIFY, queue as u32);
                self.serve();
            }
            12 => {
                write(transport, STATUS, 0);
                self.posted[number] = [0; 3];
                self.put(rings(number, 0), &[0; 0x3000]);
            }
            13 => {
                let bytes: Vec<u8> = (0..input.byte().unwrap_or(0)).map_while(|_| input.byte()).collect();
                self.speak(number & 1, &bytes);
                self.serve();
            }
            _ => self.serve(),
        }
    }

    fn put(&self, address: u64, bytes: &[u8]) {
        // What is not memory cannot be written by a guest, either.
        let _ = self.memory.write_slice(bytes, GuestAddress(address));
    }
}
