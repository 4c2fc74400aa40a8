//! Requests of a driver that follows the rules, and of one that does not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::virtio::mock::*;

const SECTORS: u64 = 64;
/// `VIRTIO_BLK_F_FLUSH`.
const FLUSH: u64 = 1 << 9;
const HEADER: u64 = BUFFERS;
const DATA: u64 = BUFFERS + 0x1000;
const STATUS: u64 = BUFFERS + 0x800;

const OK: u8 = 0;
const IO_ERROR: u8 = 1;
const UNSUPPORTED: u8 = 2;

fn file(sectors: u64) -> File {
    let file = File::from(rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC).unwrap());
    file.set_len(sectors * SECTOR).unwrap();
    file
}

struct Rig {
    driver: MockDriver<Block>,
    file: File,
}

impl Rig {
    fn new(read_only: bool, limits: Limits) -> Self {
        let file = file(SECTORS);
        let disk = Disk::new(file.try_clone().unwrap(), Path::new("disk"), read_only).unwrap();
        let block = Block::new(disk, "the-disk".into(), limits).unwrap();
        Self { driver: MockDriver::running(block, 128, FLUSH), file }
    }

    fn writable() -> Self {
        Self::new(false, Limits::default())
    }

    fn header(&self, kind: u32, sector: u64) {
        self.driver.put(HEADER, &kind.to_le_bytes());
        self.driver.put(HEADER + 4, &0u32.to_le_bytes());
        self.driver.put(HEADER + 8, &sector.to_le_bytes());
        self.driver.put(STATUS, &[0xee]);
    }

    fn process(&self) {
        self.driver.device.lock().unwrap().process_requests();
    }

    /// Sends a request with one data buffer; the status, or `None` if the device does not answer.
    fn request(&mut self, kind: u32, sector: u64, len: u32, writable: bool) -> Option<u8> {
        self.header(kind, sector);
        self.driver.add(0, &[(HEADER, 16, false), (DATA, len, writable), (STATUS, 1, true)]);
        self.process();
        self.driver.take_used(0)?;
        Some(self.driver.bytes(STATUS, 1)[0])
    }

    fn range(&mut self, kind: u32, sector: u64, sectors: u32, flags: u32) -> Option<u8> {
        self.driver.put(DATA, &sector.to_le_bytes());
        self.driver.put(DATA + 8, &sectors.to_le_bytes());
        self.driver.put(DATA + 12, &flags.to_le_bytes());
        self.request(kind, 0, 16, false)
    }

    fn content(&self) -> Vec<u8> {
        let mut bytes = vec![0; (SECTORS * SECTOR) as usize];
        self.file.read_exact_at(&mut bytes, 0).unwrap();
        bytes
    }
}

#[test]
fn reads_and_writes_what_is_asked_for() {
    let mut rig = Rig::writable();
    rig.driver.put(DATA, &[7; 1024]);
    assert_eq!(rig.request(1, 3, 1024, false), Some(OK));
    assert_eq!(rig.content()[3 * 512..5 * 512], [7; 1024]);
    assert_eq!(rig.content()[5 * 512], 0);
    rig.driver.put(DATA, &[0; 1024]);
    rig.header(0, 4);
    // Data in three pieces, one of them across the border of two regions of RAM.
    let pieces = [(DATA, 100, true), (REGION_BREAK - 20, 40, true), (DATA + 0x1000, 884, true)];
    let mut parts = vec![(HEADER, 16, false)];
    parts.extend(pieces);
    parts.push((STATUS, 1, true));
    rig.driver.add(0, &parts);
    rig.process();
    assert_eq!(rig.driver.take_used(0).map(|used| used.1), Some(1025));
    assert_eq!(rig.driver.bytes(STATUS, 1), [OK]);
    assert_eq!(rig.driver.bytes(DATA, 100), [7; 100]);
    assert_eq!(rig.driver.bytes(REGION_BREAK - 20, 40), [7; 40]);
    assert_eq!(rig.driver.bytes(DATA + 0x1000, 372), [7; 372]);
    assert_eq!(rig.driver.bytes(DATA + 0x1000 + 372, 512), [0; 512]);
    assert!(rig.driver.interrupted());
}

#[test]
fn header_and_status_may_share_buffers_with_data() {
    let mut rig = Rig::writable();
    rig.header(1, 0);
    rig.driver.put(HEADER + 16, &[9; 512]);
    rig.driver.add(0, &[(HEADER, 528, false), (STATUS, 1, true)]);
    rig.process();
    assert_eq!(rig.driver.bytes(STATUS, 1), [OK]);
    assert_eq!(rig.content()[..512], [9; 512]);
    rig.header(0, 0);
    rig.driver.add(0, &[(HEADER, 16, false), (DATA, 513, true)]);
    rig.process();
    assert_eq!(rig.driver.bytes(DATA, 512), [9; 512]);
    assert_eq!(rig.driver.bytes(DATA + 512, 1), [OK]);
}

#[test]
fn identity_flush_discard_and_zeroing() {
    let mut rig = Rig::writable();
    assert_eq!(rig.request(8, 0, 20, true), Some(OK));
    assert_eq!(rig.driver.bytes(DATA, 9), *b"the-disk\0");
    assert_eq!(rig.request(8, 0, 19, true), Some(IO_ERROR));
    rig.header(4, 0);
    rig.driver.add(0, &[(HEADER, 16, false), (STATUS, 1, true)]);
    rig.process();
    assert_eq!(rig.driver.bytes(STATUS, 1), [OK]);
    assert_eq!(rig.driver.device.lock().unwrap().metrics().flushes.get(), 1);
    rig.file.write_all_at(&[5; (SECTORS * SECTOR) as usize], 0).unwrap();
    for (kind, sector, flags) in [(11, 0, 0), (13, 16, 0), (13, 32, 1)] {
        assert_eq!(rig.range(kind, sector, 8, flags), Some(OK));
        let at = sector as usize * 512;
        assert_eq!(rig.content()[at..at + 4096], [0; 4096], "{kind}");
        assert_eq!(rig.content()[at + 4096], 5);
    }
}

#[test]
fn beyond_the_capacity_nothing_is_moved() {
    let mut rig = Rig::writable();
    rig.file.write_all_at(&[5; (SECTORS * SECTOR) as usize], 0).unwrap();
    let before = rig.content();
    rig.driver.put(DATA, &[0xaa; 4096]);
    let last = SECTORS - 1;
    let sectors =
        [SECTORS, last, u64::MAX, u64::MAX / 512, u64::MAX / 512 + 1, 1 << 55, i64::MAX as u64 / 512];
    for sector in sectors {
        assert_eq!(rig.request(0, sector, 1024, true), Some(IO_ERROR), "{sector}");
        assert_eq!(rig.request(1, sector, 1024, false), Some(IO_ERROR), "{sector}");
        assert_eq!(rig.range(11, sector, 2, 0), Some(IO_ERROR), "{sector}");
        assert_eq!(rig.range(13, sector, 2, 0), Some(IO_ERROR), "{sector}");
    }
    assert_eq!(rig.range(13, 0, u32::MAX, 0), Some(IO_ERROR));
    assert_eq!(rig.range(11, 0, u32::MAX, 0), Some(IO_ERROR));
    assert_eq!(rig.driver.bytes(DATA + 16, 1008), [0xaa; 1008]);
    assert!(rig.content() == before && rig.file.metadata().unwrap().len() == SECTORS * SECTOR);
    assert_eq!(rig.driver.status(), RUNNING);
}

#[test]
fn a_read_only_disk_is_not_written() {
    let mut rig = Rig::new(true, Limits::default());
    rig.driver.put(DATA, &[1; 512]);
    assert_eq!(rig.request(1, 0, 512, false), Some(IO_ERROR));
    assert_eq!(rig.range(11, 0, 1, 0), Some(IO_ERROR));
    assert_eq!(rig.range(13, 0, 1, 1), Some(IO_ERROR));
    assert_eq!(rig.content(), vec![0; (SECTORS * SECTOR) as usize]);
    assert_eq!(rig.request(0, 0, 512, true), Some(OK));
    rig.header(4, 0);
    rig.driver.add(0, &[(HEADER, 16, false), (STATUS, 1, true)]);
    rig.process();
    assert_eq!(rig.driver.bytes(STATUS, 1), [OK]);
}

#[test]
fn a_read_only_disk_s_descriptor_cannot_write() {
    let dir = std::env::temp_dir().join(format!("ringfence-disk-{}", std::process::id()));
    std::fs::write(&dir, [0; 512]).unwrap();
    let file = Disk::open_file(&dir, true).unwrap();
    assert!(file.write_at(b"x", 0).is_err());
    // Shared by readers, and by nobody else.
    let again = Disk::open_file(&dir, true).unwrap();
    assert!(matches!(Disk::open_file(&dir, false), Err(DiskError::InUse { .. })));
    drop((file, again));
    let writer = Disk::open_file(&dir, false).unwrap();
    assert!(matches!(Disk::open_file(&dir, false), Err(DiskError::InUse { .. })));
    assert!(matches!(Disk::open_file(&dir, true), Err(DiskError::InUse { .. })));
    // Another process that has the descriptor still has the lock.
    let inherited = writer.try_clone().unwrap();
    drop(writer);
    assert!(matches!(Disk::open_file(&dir, false), Err(DiskError::InUse { .. })));
    drop(inherited);
    std::fs::write(&dir, [0; 513]).unwrap();
    assert!(matches!(Disk::open_file(&dir, true), Err(DiskError::Size { size: 513, .. })));
    std::fs::write(&dir, []).unwrap();
    assert!(matches!(Disk::open_file(&dir, true), Err(DiskError::Empty { .. })));
    std::fs::remove_file(&dir).unwrap();
    assert!(matches!(Disk::open_file(Path::new("/dev/null"), true), Err(DiskError::NotAFile { .. })));
    assert!(matches!(Disk::open_file(&dir, true), Err(DiskError::Open { .. })));
}

#[test]
fn a_truncated_file_is_an_error_of_the_request() {
    let mut rig = Rig::writable();
    rig.file.set_len(5 * 512).unwrap();
    assert_eq!(rig.request(0, 0, 2048, true), Some(OK));
    assert_eq!(rig.request(0, 4, 1024, true), Some(IO_ERROR));
    assert_eq!(rig.request(0, 60, 512, true), Some(IO_ERROR));
    assert_eq!(rig.driver.device.lock().unwrap().metrics().host_errors.get(), 2);
}

#[test]
fn requests_that_are_no_whole_sectors_or_too_long_are_refused() {
    let mut rig = Rig::writable();
    for len in [1, 511, 513] {
        assert_eq!(rig.request(0, 0, len, true), Some(IO_ERROR));
        assert_eq!(rig.request(1, 0, len, false), Some(IO_ERROR));
    }
    assert_eq!(rig.range(11, 0, 1, 1), Some(UNSUPPORTED));
    assert_eq!(rig.range(13, 0, 1, 2), Some(UNSUPPORTED));
    assert_eq!(rig.request(11, 0, 32, false), Some(IO_ERROR));
    assert_eq!(rig.request(99, 0, 512, true), Some(UNSUPPORTED));
    // As long as all descriptors together, over a disk that is large enough.
    let disk = Disk::new(file(1 << 30), Path::new("disk"), false).unwrap();
    let block = Block::new(disk, String::new(), Limits::default()).unwrap();
    let mut driver = MockDriver::running(block, 128, FLUSH);
    driver.put(HEADER, &[0; 16]);
    let mut parts = vec![(HEADER, 16, false)];
    parts.extend([(2 << 20, 2 << 20, true); 60]);
    parts.push((STATUS, 1, true));
    driver.add(0, &parts);
    driver.device.lock().unwrap().process_requests();
    assert_eq!(driver.bytes(STATUS, 1), [IO_ERROR]);
}

#[test]
fn a_chain_without_room_for_a_status_breaks_the_ring() {
    for parts in
        [&[(HEADER, 16, false), (DATA, 512, false)][..], &[(HEADER, 15, false), (STATUS, 1, true)][..]]
    {
        let mut rig = Rig::writable();
        rig.header(0, 0);
        rig.driver.add(0, parts);
        rig.process();
        assert_eq!(rig.driver.take_used(0), None);
        assert_eq!(rig.driver.status(), RUNNING | NEEDS_RESET);
    }
}

#[test]
fn the_request_is_read_once() {
    // A buffer that is header and data at once: what the read puts there is not obeyed.
    let mut rig = Rig::writable();
    let mut sector = [0xff; 512];
    sector[..4].copy_from_slice(&1u32.to_le_bytes());
    rig.file.write_all_at(&sector, 0).unwrap();
    rig.header(0, 0);
    rig.driver.add(0, &[(HEADER, 16, false), (HEADER, 512, true), (STATUS, 1, true)]);
    rig.process();
    assert_eq!(rig.driver.bytes(STATUS, 1), [OK]);
    assert_eq!(rig.driver.bytes(HEADER, 512), sector);
    assert_eq!(rig.content()[..512], sector);
}

#[test]
fn a_pass_is_bounded_and_the_rest_comes_later() {
    let disk = Disk::new(file(1 << 20), Path::new("disk"), false).unwrap();
    let block = Block::new(disk, String::new(), Limits::default()).unwrap();
    let mut driver = MockDriver::running(block, 128, FLUSH);
    driver.put(HEADER, &[0; 16]);
    for _ in 0..10 {
        driver.add(0, &[(HEADER, 16, false), (2 << 20, 1 << 20, true), (STATUS, 1, true)]);
    }
    let mut passes = vec![];
    for _ in 0..4 {
        driver.device.lock().unwrap().process_requests();
        passes.push(std::iter::from_fn(|| driver.take_used(0)).count());
    }
    assert_eq!(passes, [4, 4, 2, 0]);
}

#[test]
fn a_limit_delays_and_loses_nothing() {
    let mut rig = Rig::new(false, Limits::new(None, Some(3)).unwrap());
    for _ in 0..5 {
        rig.header(0, 0);
        rig.driver.add(0, &[(HEADER, 16, false), (DATA, 512, true), (STATUS, 1, true)]);
    }
    rig.process();
    assert_eq!(std::iter::from_fn(|| rig.driver.take_used(0)).count(), 3);
    for _ in 0..2 {
        let mut device = rig.driver.device.lock().unwrap();
        assert!(device.metrics().throttled.get() > 0);
        device.limits.timer_mut().unwrap().wait().unwrap();
        device.process_requests();
        drop(device);
        assert_eq!(std::iter::from_fn(|| rig.driver.take_used(0)).count(), 1);
    }
}

#[test]
fn configuration_says_what_is_there() {
    let rig = Rig::writable();
    let word = |at: u64| rig.driver.read(0x100 + at);
    assert_eq!((word(0), word(4), word(8), word(12), word(20)), (64, 0, MAX_SEGMENT, MAX_SEGMENTS, 512));
    assert_eq!((word(36), word(48), word(60)), (MAX_DISCARD_SECTORS, MAX_ZERO_SECTORS, 0));
    let mut device = rig.driver.device.lock().unwrap();
    let state = device.save();
    assert!(device.accepts(&state) && state.sectors == SECTORS && !state.read_only);
    device.id.push('x');
    assert!(!device.accepts(&state));
}

#[derive(Debug, Clone)]
enum Step {
    Read(u64, u32),
    Write(u64, u32, u8),
    Zero(u64, u32, bool),
    Flush,
}

fn step() -> impl Strategy<Value = Step> {
    let place = || (0..SECTORS + 4, 0u32..12);
    prop_oneof![
        place().prop_map(|(at, n)| Step::Read(at, n)),
        (place(), any::<u8>()).prop_map(|((at, n), byte)| Step::Write(at, n, byte)),
        (place(), any::<bool>()).prop_map(|((at, n), unmap)| Step::Zero(at, n, unmap)),
        Just(Step::Flush),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any sequence of requests does to the file what it does to an array of bytes.
    #[test]
    fn is_an_array_of_bytes(steps in prop::collection::vec(step(), 1..60)) {
        let mut rig = Rig::writable();
        let mut model = vec![0u8; (SECTORS * SECTOR) as usize];
        for step in steps {
            let (at, n) = match step {
                Step::Read(at, n) | Step::Write(at, n, _) | Step::Zero(at, n, _) => (at, n),
                Step::Flush => (0, 0),
            };
            let part = (at as usize * 512)..(at as usize * 512 + n as usize * 512);
            let legal = at + u64::from(n) <= SECTORS;
            let status = match step {
                Step::Read(..) => {
                    rig.driver.put(DATA, &vec![0xcc; n as usize * 512]);
                    let status = rig.request(0, at, n * 512, true);
                    if legal {
                        prop_assert_eq!(&rig.driver.bytes(DATA, n as usize * 512), &model[part]);
                    }
                    status
                }
                Step::Write(_, _, byte) => {
                    rig.driver.put(DATA, &vec![byte; n as usize * 512]);
                    if legal {
                        model[part].fill(byte);
                    }
                    rig.request(1, at, n * 512, false)
                }
                Step::Zero(_, _, unmap) => {
                    if legal {
                        model[part].fill(0);
                    }
                    rig.range(13, at, n, unmap.into())
                }
                Step::Flush => rig.request(4, 0, 0, false),
            };
            prop_assert_eq!(status, Some(if legal { OK } else { IO_ERROR }));
            prop_assert_eq!(&rig.content(), &model);
        }
    }
}
