//! Memory really goes back, and only guest memory does.

use super::device::{INFLATE, REPORTING};
use super::*;
use crate::virtio::mock::*;

/// Blocks (512 bytes) of the file behind guest RAM.
fn blocks(driver: &MockDriver<Balloon>) -> u64 {
    use std::os::unix::fs::MetadataExt;
    use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};
    driver.mem.iter().next().unwrap().file_offset().unwrap().file().metadata().unwrap().blocks()
}

fn driver() -> MockDriver<Balloon> {
    MockDriver::running(Balloon::new().unwrap(), 64, 0)
}

fn serve(driver: &MockDriver<Balloon>, queue: usize) {
    driver.device.lock().unwrap().process_queue(queue);
}

#[test]
fn a_reported_block_is_freed_and_reads_as_zero() {
    let mut driver = driver();
    driver.put(BUFFERS, &vec![0xaa; 1 << 20]);
    driver.add(REPORTING, &[(BUFFERS, 512 << 10, true), (BUFFERS + (768 << 10), 4096, true)]);
    let before = blocks(&driver);
    serve(&driver, REPORTING);
    assert_eq!(driver.take_used(REPORTING), Some((0, 0)));
    assert_eq!((before - blocks(&driver)) * 512, (512 << 10) + 4096);
    assert_eq!(driver.device.lock().unwrap().metrics().released_bytes.get(), (512 << 10) + 4096);
    assert_eq!(driver.bytes(BUFFERS, 4096), [0; 4096]);
    assert_eq!(driver.bytes(BUFFERS + (512 << 10), 8), [0xaa; 8]);
    // The second region's pages lie at the right place of the file.
    driver.put(REGION_BREAK, &[0xbb; 8192]);
    driver.add(REPORTING, &[(REGION_BREAK, 4096, true)]);
    serve(&driver, REPORTING);
    assert_eq!(driver.bytes(REGION_BREAK, 4096), [0; 4096]);
    assert_eq!(driver.bytes(REGION_BREAK + 4096, 4096), [0xbb; 4096]);
    assert_eq!(driver.bytes(BUFFERS + (512 << 10), 8), [0xaa; 8]);
}

#[test]
fn a_partial_page_is_kept() {
    let mut driver = driver();
    driver.put(BUFFERS, &[0xaa; 16384]);
    driver.add(REPORTING, &[(BUFFERS + 1, 8190, true)]);
    serve(&driver, REPORTING);
    assert_eq!(driver.bytes(BUFFERS, 16384), [0xaa; 16384]);
    driver.add(REPORTING, &[(BUFFERS + 1, 8192 + 4095, true)]);
    serve(&driver, REPORTING);
    let mut expected = [0xaa; 16384];
    expected[4096..12288].fill(0);
    assert_eq!(driver.bytes(BUFFERS, 16384), expected);
}

#[test]
fn a_report_outside_memory_stops_the_device() {
    for addr in [RAM_END, RAM_END - 4096, 1 << 32, u64::MAX - 4095] {
        let mut driver = driver();
        driver.put(BUFFERS, &[0xaa; 4096]);
        driver.add(REPORTING, &[(addr, 8192, true)]);
        serve(&driver, REPORTING);
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{addr:#x}");
        assert_eq!(driver.device.lock().unwrap().metrics().released_bytes.get(), 0);
    }
    // Across two regions: both are memory, but one release does not span them. Nothing is lost but the saving.
    let mut driver = driver();
    driver.add(REPORTING, &[(REGION_BREAK - 4096, 8192, true)]);
    serve(&driver, REPORTING);
    assert_eq!(driver.status(), RUNNING);
    assert_eq!(driver.device.lock().unwrap().metrics().refused_ranges.get(), 1);
}

#[test]
fn device_readable_memory_is_never_freed() {
    let mut driver = driver();
    driver.put(BUFFERS, &[0xaa; 4096]);
    driver.add(REPORTING, &[(BUFFERS, 4096, false)]);
    serve(&driver, REPORTING);
    assert_eq!(driver.bytes(BUFFERS, 4096), [0xaa; 4096]);
}

#[test]
fn inflation_by_page_frame_numbers() {
    let mut driver = driver();
    let data = 2 << 20;
    driver.put(data, &[0xaa; 8 * 4096]);
    let first = (data / PAGE_SIZE) as u32;
    // A run of three, one apart, one outside of memory, the largest there is.
    let pfns = [first, first + 1, first + 2, first + 6, (RAM_END / PAGE_SIZE) as u32, u32::MAX];
    let bytes: Vec<u8> = pfns.iter().flat_map(|pfn| pfn.to_le_bytes()).collect();
    driver.put(BUFFERS, &bytes);
    driver.add(INFLATE, &[(BUFFERS, bytes.len() as u32, false)]);
    serve(&driver, INFLATE);
    assert_eq!(driver.take_used(INFLATE), Some((0, 0)));
    let mut expected = [0xaa; 8 * 4096];
    expected[..3 * 4096].fill(0);
    expected[6 * 4096..7 * 4096].fill(0);
    assert_eq!(driver.bytes(data, 8 * 4096), expected);
    let metrics = driver.device.lock().unwrap().metrics();
    assert_eq!((metrics.released_bytes.get(), metrics.refused_ranges.get()), (4 * 4096, 2));
    assert_eq!(driver.status(), RUNNING);
}

#[test]
fn the_target_is_configuration() {
    let mut driver = driver();
    let generation = driver.read(0xfc);
    driver.device.lock().unwrap().set_target(256);
    assert!(driver.interrupted());
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 2);
    assert_ne!(driver.read(0xfc), generation);
    assert_eq!(driver.read(0x100), 256);
    driver.write(0x104, 77);
    assert_eq!(driver.read(0x104), 77);
    assert_eq!(driver.device.lock().unwrap().actual(), 77);
    // The other fields are the device's.
    driver.write(0x100, 5);
    assert_eq!(driver.read(0x100), 256);
    // Linux counts on these numbers: reporting is queue 2, with 32 descriptors at least.
    driver.write(reg::QUEUE_SEL, 2);
    assert!(driver.read(0x34) >= 32);
    driver.write(reg::QUEUE_SEL, 3);
    assert_eq!(driver.read(0x34), 0);
    let state = driver.device.lock().unwrap().save();
    let mut other = Balloon::new().unwrap();
    assert!(other.restore(&state));
    assert_eq!(other.save(), state);
}
