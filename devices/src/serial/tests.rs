//! The port as a kernel's driver uses it.

use std::io::Write;
use std::sync::{Arc, Mutex};

use event_manager::{EventManager, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;

const DATA: u8 = 0;
const IER: u8 = 1;
const LSR: u8 = 5;

fn irq() -> EventFd {
    EventFd::new(EFD_NONBLOCK).unwrap()
}

#[derive(Clone, Default)]
struct Copied(Arc<Mutex<Vec<u8>>>);

impl Write for Copied {
    fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(data);
        Ok(data.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[test]
fn only_the_end_of_the_output_is_kept() {
    let copied = Copied::default();
    let mut serial = Serial::new(irq(), Some(Box::new(copied.clone()))).unwrap();
    for i in 0..TAIL + 100 {
        serial.write(DATA, i as u8);
    }
    let tail = serial.tail();
    assert_eq!(tail.len(), TAIL);
    assert_eq!(tail[0], 100);
    assert_eq!(copied.0.lock().unwrap().len(), TAIL + 100);
    assert_eq!(serial.metrics().output_bytes.get(), (TAIL + 100) as u64);
    // Any register, any value: nothing to break.
    for offset in 0..=255 {
        serial.write(offset, 0xff);
        serial.read(offset);
    }
}

#[test]
fn a_copy_that_fails_is_only_counted() {
    let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
    let mut serial = Serial::new(irq(), Some(Box::new(full))).unwrap();
    serial.write(DATA, b'x');
    assert_eq!(serial.tail(), b"x");
    assert_eq!(serial.metrics().lost_bytes.get(), 1);
}

#[test]
fn input_flows_through_the_fifo() {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    let line = irq();
    let mut serial = Serial::new(line.try_clone().unwrap(), None).unwrap();
    serial.set_input(read);
    let serial = Arc::new(Mutex::new(serial));
    let mut events = EventManager::<Arc<Mutex<Serial>>>::new().unwrap();
    events.add_subscriber(serial.clone());
    serial.lock().unwrap().write(IER, 1);
    let text: Vec<u8> = (0..200).collect();
    std::fs::File::from(write).write_all(&text).unwrap();

    let mut got = Vec::new();
    while got.len() < text.len() {
        events.run_with_timeout(1000).unwrap();
        if line.read().is_err() {
            continue;
        }
        let mut serial = serial.lock().unwrap();
        while serial.read(LSR) & 1 != 0 {
            got.push(serial.read(DATA));
        }
    }
    assert_eq!(got, text);
    // The end of the input takes the descriptor out of the loop.
    events.run_with_timeout(100).unwrap();
    assert!(serial.lock().unwrap().input.is_none());
}

#[test]
fn a_saved_port_comes_back() {
    let mut serial = Serial::new(irq(), None).unwrap();
    serial.write(IER, 1);
    serial.write(7, 0x5a);
    let state = serial.save();
    let mut restored = Serial::restore(irq(), None, &state).unwrap().unwrap();
    assert_eq!(restored.read(7), 0x5a);
    assert_eq!(restored.save(), state);
    let wrong = SerialState { version: 2, ..state };
    assert!(Serial::restore(irq(), None, &wrong).unwrap().is_none());
}
