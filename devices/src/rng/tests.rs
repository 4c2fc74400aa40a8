//! Requests of any length, and the rate.

use super::*;
use crate::virtio::mock::*;

fn driver() -> MockDriver<Rng> {
    MockDriver::running(Rng::new().unwrap(), 64, 0)
}

#[test]
fn fills_what_is_asked_for() {
    let mut driver = driver();
    driver.add(0, &[(BUFFERS, 20, true), (BUFFERS + 4096, 44, true)]);
    driver.device.lock().unwrap().process_requests();
    assert_eq!(driver.take_used(0), Some((0, 64)));
    assert_ne!(driver.bytes(BUFFERS, 20), [0; 20]);
    assert_ne!(driver.bytes(BUFFERS + 4096, 44), [0; 44]);
    assert!(driver.interrupted());
}

#[test]
fn a_huge_request_costs_the_host_one_small_buffer() {
    let mut driver = driver();
    driver.add(0, &[(0, RAM_END as u32, true)]);
    driver.put(BUFFERS, &[0xaa; 16]);
    driver.device.lock().unwrap().process_requests();
    assert_eq!(driver.take_used(0).map(|used| used.1), Some(MAX_REQUEST as u32));
    assert_eq!(driver.bytes(BUFFERS, 16), [0xaa; 16]);
}

#[test]
fn a_greedy_guest_waits_for_the_timer() {
    let mut driver = driver();
    // At a byte a second no time that this test takes is worth a request.
    driver.device.lock().unwrap().set_bandwidth(1);
    for _ in 0..3 {
        driver.add(0, &[(BUFFERS, MAX_REQUEST as u32, true)]);
    }
    driver.device.lock().unwrap().process_requests();
    assert_eq!(driver.take_used(0), Some((0, MAX_REQUEST as u32)));
    assert_eq!(driver.take_used(0), None);
    {
        let mut device = driver.device.lock().unwrap();
        assert_eq!(device.metrics().throttled.get(), 1);
        assert!(device.refill.is_armed().unwrap());
        // A full bucket again.
        device.set_bandwidth(BYTES_PER_SECOND);
        device.process_requests();
    }
    // The request that had to wait is the next one served.
    assert_eq!(driver.take_used(0), Some((1, MAX_REQUEST as u32)));
    assert_eq!(driver.take_used(0), Some((2, MAX_REQUEST as u32)));
}

#[test]
fn a_readable_request_is_answered_with_nothing() {
    let mut driver = driver();
    driver.add(0, &[(BUFFERS, 64, false)]);
    driver.device.lock().unwrap().process_requests();
    assert_eq!(driver.take_used(0), Some((0, 0)));
    assert_eq!(driver.status(), RUNNING);
}
