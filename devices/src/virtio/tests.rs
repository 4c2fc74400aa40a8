//! The transport and the rings under a hostile driver. The device behind them is the rng: one queue, and each
//! well-formed request answered at once.

use super::mock::*;
use super::*;
use crate::rng::Rng;
use vm_memory::{Bytes, GuestAddress};

fn driver() -> MockDriver<Rng> {
    MockDriver::running(Rng::new().unwrap(), 16, 0)
}

/// Serves the queue and says whether the device still runs.
fn survives(driver: &MockDriver<Rng>) -> bool {
    driver.device.lock().unwrap().process_requests();
    driver.status() & NEEDS_RESET == 0
}

/// After any damage a reset must bring a working device back.
fn works_after_reset(driver: &mut MockDriver<Rng>) {
    driver.write(reg::STATUS, 0);
    assert_eq!(driver.status(), 0);
    driver.negotiate(features::VERSION_1);
    driver.set_up_queues(16);
    driver.write(reg::STATUS, RUNNING);
    let head = driver.add(0, &[(BUFFERS, 32, true)]);
    assert!(survives(driver));
    assert_eq!(driver.take_used(0), Some((head.into(), 32)));
}

#[test]
fn registers_identify_a_modern_device() {
    let driver = MockDriver::new(Rng::new().unwrap());
    assert_eq!(driver.read(0x00), 0x7472_6976);
    assert_eq!(driver.read(0x04), 2);
    assert_eq!(driver.read(0x08), 4);
    // No shared memory: length and base all ones.
    for offset in [0xb0, 0xb4, 0xb8, 0xbc] {
        assert_eq!(driver.read(offset), u32::MAX);
    }
    // Only aligned words.
    let mut byte = [0xff];
    driver.transport.read(0, &mut byte);
    assert_eq!(byte, [0]);
    assert_eq!(driver.read(2), 0);
}

#[test]
fn features_need_version_1_and_nothing_that_was_not_offered() {
    for bad in [0, features::VERSION_1 | 1 << 28, features::VERSION_1 | 1 << 34] {
        let mut driver = MockDriver::new(Rng::new().unwrap());
        driver.negotiate(bad);
        assert_eq!(driver.status(), 3, "features {bad:#x} accepted");
    }
    let mut driver = MockDriver::new(Rng::new().unwrap());
    driver.write(reg::DEVICE_FEATURES_SEL, 1);
    assert_eq!(driver.read(reg::DEVICE_FEATURES) & 1, 1);
    driver.negotiate(features::VERSION_1);
    assert_eq!(driver.status(), 11);
    // Frozen from here: this write, were it taken, would add a feature that was not offered.
    driver.write(reg::DRIVER_FEATURES_SEL, 0);
    driver.write(reg::DRIVER_FEATURES, 1 << 28);
    assert_eq!(driver.transport.save().driver_features, features::VERSION_1);
}

#[test]
fn status_takes_no_shortcut() {
    let mut driver = MockDriver::new(Rng::new().unwrap());
    for bad in [2, 4, 8, 15, 11, 5] {
        driver.write(reg::STATUS, bad);
        assert_eq!(driver.status(), 0);
    }
    // The one that is allowed: our own guest's driver takes it.
    driver.write(reg::STATUS, 3);
    assert_eq!(driver.status(), 3);
    driver.write(reg::STATUS, 0);
    driver.write(reg::STATUS, 1);
    driver.write(reg::STATUS, 7);
    assert_eq!(driver.status(), 1);
    driver.write(reg::STATUS, 1 | 128);
    assert_eq!(driver.status(), 129);
    driver.write(reg::STATUS, 0);
    assert_eq!(driver.status(), 0);
}

#[test]
fn queue_registers_are_frozen_after_driver_ok_cve_2026_5747() {
    let mut driver = driver();
    let before = driver.transport.save();
    driver.write(reg::QUEUE_SEL, 0);
    for (offset, value) in [
        (reg::QUEUE_NUM, 64),
        (reg::QUEUE_READY, 0),
        (reg::QUEUE_DESC_LOW, 0xdead_0000),
        (reg::QUEUE_DESC_LOW + 4, 0xffff_ffff),
        (reg::QUEUE_DRIVER_LOW, 0xdead_0000),
        (reg::QUEUE_DEVICE_LOW, 0xdead_0000),
    ] {
        driver.write(offset, value);
    }
    assert_eq!(driver.transport.save().queues, before.queues);
    assert_eq!(driver.transport.metrics().refused_writes.get(), 6);
    // And the device goes on with the queue it has.
    let head = driver.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&driver));
    assert_eq!(driver.take_used(0), Some((head.into(), 8)));
}

#[test]
fn a_ready_queue_cannot_be_changed_and_sizes_are_checked() {
    let mut driver = MockDriver::new(Rng::new().unwrap());
    driver.write(reg::QUEUE_SEL, 0);
    // Before FEATURES_OK nothing is taken.
    driver.write(reg::QUEUE_DESC_LOW, 0x1000);
    assert_eq!(driver.transport.save().queues[0].desc, 0);
    driver.negotiate(features::VERSION_1);
    for bad in [0, 3, 128, 0x1_0010, u32::MAX] {
        driver.write(reg::QUEUE_NUM, bad);
        assert_eq!(driver.transport.save().queues[0].size, 64);
    }
    driver.write(reg::QUEUE_NUM, 32);
    driver.write(reg::QUEUE_READY, 1);
    driver.write(reg::QUEUE_NUM, 16);
    assert_eq!(driver.transport.save().queues[0].size, 32);
    // A queue that does not exist.
    driver.write(reg::QUEUE_SEL, 7);
    driver.write(reg::QUEUE_NUM, 16);
    assert_eq!(driver.read(0x34), 0);
}

#[test]
fn rings_outside_memory_or_misaligned_do_not_start() {
    for (offset, value) in [
        (reg::QUEUE_DESC_LOW, RAM_END as u32),
        (reg::QUEUE_DESC_LOW, RAM_END as u32 - 16),
        (reg::QUEUE_DESC_LOW, 0x1_0008),
        (reg::QUEUE_DRIVER_LOW, 0x1_4001),
        (reg::QUEUE_DEVICE_LOW, 0x1_8002),
        (reg::QUEUE_DEVICE_LOW, RAM_END as u32 - 8),
        (reg::QUEUE_DESC_LOW + 4, u32::MAX),
    ] {
        let mut driver = MockDriver::new(Rng::new().unwrap());
        driver.negotiate(features::VERSION_1);
        driver.set_up_queues(16);
        driver.write(reg::QUEUE_READY, 0);
        driver.write(offset, value);
        driver.write(reg::QUEUE_READY, 1);
        driver.write(reg::STATUS, RUNNING);
        assert_ne!(driver.status() & NEEDS_RESET, 0, "{offset:#x} = {value:#x} accepted");
        works_after_reset(&mut driver);
    }
}

#[test]
fn descriptor_loop() {
    let mut driver = driver();
    driver.describe(0, 0, BUFFERS, 16, DESC_WRITE | DESC_NEXT, 1);
    driver.describe(0, 1, BUFFERS, 16, DESC_WRITE | DESC_NEXT, 0);
    driver.offer(0, 0);
    assert!(!survives(&driver));
    assert!(driver.interrupted());
    assert_eq!(driver.take_used(0), None);
    works_after_reset(&mut driver);
}

#[test]
fn malformed_descriptors() {
    let end = RAM_END;
    let cases: &[(&str, u64, u32, u16, u16)] = &[
        ("beyond memory", end, 1, DESC_WRITE, 0),
        ("across the end", end - 8, 9, DESC_WRITE, 0),
        ("wraps", u64::MAX - 3, 8, DESC_WRITE, 0),
        ("far away", 1 << 60, 4096, DESC_WRITE, 0),
        ("next outside the table", BUFFERS, 8, DESC_WRITE | DESC_NEXT, 16),
        ("indirect, not offered", BUFFERS, 16, DESC_INDIRECT, 0),
    ];
    for &(name, addr, len, flags, next) in cases {
        let mut driver = driver();
        driver.describe(0, 0, addr, len, flags, next);
        driver.offer(0, 0);
        assert!(!survives(&driver), "{name}");
        works_after_reset(&mut driver);
    }
    let mut driver = driver();
    driver.offer(0, 16);
    assert!(!survives(&driver), "head outside the table");
    works_after_reset(&mut driver);
    // Readable after writable.
    driver.add(0, &[(BUFFERS, 8, true), (BUFFERS, 8, false)]);
    assert!(!survives(&driver));
}

#[test]
fn a_long_chain_of_overlapping_parts_is_answered_in_short() {
    let mut driver = MockDriver::running(Rng::new().unwrap(), 16, 0);
    // Legal ranges, absurd sum: 75 MiB asked for, one bounded buffer given.
    let part = (0, RAM_END as u32, true);
    driver.add(0, &[part; 15]);
    assert!(survives(&driver));
    assert_eq!(driver.take_used(0).map(|used| used.1), Some(crate::rng::MAX_REQUEST as u32));
}

#[test]
fn available_index_jump() {
    let mut driver = driver();
    driver.add(0, &[(BUFFERS, 8, true)]);
    driver.queues[0].next_avail = 16;
    driver.offer(0, 0);
    assert!(!survives(&driver));
    works_after_reset(&mut driver);
}

#[test]
fn zero_length_and_cross_region_buffers() {
    let mut driver = driver();
    let empty = driver.add(0, &[(u64::MAX, 0, true)]);
    let split = driver.add(0, &[(REGION_BREAK - 8, 16, true), (0, 0, true), (BUFFERS, 1, true)]);
    assert!(survives(&driver));
    assert_eq!(driver.take_used(0), Some((empty.into(), 0)));
    assert_eq!(driver.take_used(0), Some((split.into(), 17)));
    assert_ne!(driver.bytes(REGION_BREAK, 8), [0; 8]);
}

#[test]
fn interrupts_are_suppressed_as_the_driver_asks() {
    let mut driver = driver();
    driver.mem.write_obj(1u16, GuestAddress(driver.queues[0].avail)).unwrap();
    driver.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&driver));
    assert!(!driver.interrupted(), "VRING_AVAIL_F_NO_INTERRUPT");
    driver.mem.write_obj(0u16, GuestAddress(driver.queues[0].avail)).unwrap();
    driver.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&driver));
    assert!(driver.interrupted());
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 1);
    driver.write(reg::INTERRUPT_ACK, 1);
    assert_eq!(driver.read(reg::INTERRUPT_STATUS), 0);

    let mut driver = MockDriver::running(Rng::new().unwrap(), 16, features::RING_EVENT_IDX);
    let used_event = driver.queues[0].avail + 4 + 2 * 16;
    driver.mem.write_obj(1u16, GuestAddress(used_event)).unwrap();
    driver.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&driver));
    assert!(!driver.interrupted());
    driver.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&driver));
    assert!(driver.interrupted());
    // Kicks were asked for when the queue ran empty: avail_event is the next index.
    let avail_event = driver.queues[0].used + 4 + 8 * 16;
    assert_eq!(driver.mem.read_obj::<u16>(GuestAddress(avail_event)).unwrap(), 2);
}

#[test]
fn a_saved_transport_goes_on_where_it_was() {
    let mut old = driver();
    old.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&old));
    let state = old.transport.save();
    let json = serde_json::to_string(&state).unwrap();

    let mut new = MockDriver::new(Rng::new().unwrap());
    for queue in &old.queues {
        new.put(queue.desc, &old.bytes(queue.desc, 0xc000));
    }
    new.queues = std::mem::take(&mut old.queues);
    new.transport.restore(&serde_json::from_str(&json).unwrap()).unwrap();
    assert_eq!(new.status(), RUNNING);
    assert!(new.take_used(0).is_some());
    let head = new.add(0, &[(BUFFERS, 8, true)]);
    assert!(survives(&new));
    assert_eq!(new.take_used(0), Some((head.into(), 8)));

    let mut wrong = state.clone();
    wrong.version = 99;
    assert!(MockDriver::new(Rng::new().unwrap()).transport.restore(&wrong).is_err());
    let mut wrong = state;
    wrong.queues[0].desc = RAM_END;
    assert!(MockDriver::new(Rng::new().unwrap()).transport.restore(&wrong).is_err());
}

mod random {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Any descriptor table and any ring contents: never a panic, never more answers than the ring holds,
        /// and a reset always helps.
        #[test]
        fn any_ring(
            descs in prop::collection::vec((any::<u64>(), any::<u32>(), 0u16..8, 0u16..20), 16),
            near in prop::collection::vec(any::<bool>(), 16),
            heads in prop::collection::vec(0u16..18, 1..20),
        ) {
            let mut driver = driver();
            for (i, &(addr, len, flags, next)) in descs.iter().enumerate() {
                let (addr, len) = if near[i] { (addr % (RAM_END + 64), len % 8192) } else { (addr, len) };
                // Not over the rings themselves: the mock reads them back.
                let addr = if addr < BUFFERS { addr + BUFFERS } else { addr };
                driver.describe(0, i as u16, addr, len, flags, next);
            }
            for &head in &heads {
                driver.offer(0, head);
            }
            driver.device.lock().unwrap().process_requests();
            let mut used = 0;
            while driver.take_used(0).is_some() {
                used += 1;
            }
            prop_assert!(used <= heads.len());
            works_after_reset(&mut driver);
        }
    }
}
