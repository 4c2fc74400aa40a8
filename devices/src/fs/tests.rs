//! What is sent, and what becomes of a driver whose gofer is gone.

use std::io::Read;
use std::os::unix::net::UnixStream;

use super::*;
use crate::virtio::features::VERSION_1;
use crate::virtio::mock::*;
use crate::virtio::status;

fn driver() -> (MockDriver<Fs>, UnixStream) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    (MockDriver::running(Fs::new(ours).unwrap(), 64, 0), theirs)
}

#[test]
fn the_tag_and_the_queue_are_in_the_configuration() {
    let (driver, _gofer) = driver();
    let mut config = [0xff; 44];
    use crate::virtio::VirtioDevice;
    driver.device.lock().unwrap().read_config(0, &mut config);
    assert_eq!(&config[..10], b"ringfence\0");
    assert_eq!(config[36..], [1, 0, 0, 0, 0, 0, 0, 0]);
}

#[test]
fn a_gofer_that_is_gone_needs_a_reset() {
    let (driver, gofer) = driver();
    assert_eq!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    drop(gofer);
    driver.device.lock().unwrap().lose();
    assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
    assert!(driver.interrupted());
}

#[test]
fn guest_memory_and_two_rings_are_handed_over_by_guest_address() {
    let (driver, gofer) = driver();
    driver.device.lock().unwrap().introduce();
    driver.device.lock().unwrap().introduce();
    assert_eq!(driver.device.lock().unwrap().metrics().handovers.get(), 1);
    drop(driver);
    let mut sent = Vec::new();
    (&gofer).read_to_end(&mut sent).unwrap();
    let mut requests = Vec::new();
    let mut rest = &sent[..];
    while let Some((head, after)) = rest.split_first_chunk::<12>() {
        let word = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap());
        assert_eq!(word(4), 1);
        let (payload, after) = after.split_at(word(8) as usize);
        if word(0) == 5 {
            let field = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
            assert_eq!((field(0), field(8), field(24)), (2, 0, 0));
            assert_eq!(field(40), field(40 + 16));
        }
        requests.push(word(0));
        rest = after;
    }
    assert_eq!(requests, [3, 2, 5, 8, 10, 9, 13, 12, 8, 10, 9, 13, 12]);
}

#[test]
fn a_driver_that_leaves_takes_the_gofer_along() {
    let (mut driver, mut gofer) = driver();
    driver.write(0x70, 0);
    driver.device.lock().unwrap().introduce();
    assert_eq!(gofer.read(&mut [0; 16]).unwrap(), 0);
    driver.negotiate(VERSION_1);
    driver.set_up_queues(64);
    driver.write(0x70, 15);
    assert_ne!(driver.status() & status::DEVICE_NEEDS_RESET, 0);
}
