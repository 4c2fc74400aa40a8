//! The serial port: a 16550 at COM1 for early log and panic text, and the console of stock Linux.
//!
//! Output goes to a writer the command chooses. With [`SerialPort::connect`] its interrupt is an irqfd;
//! our guest kernel only writes and polls, so it gets none.

use std::io::{self, Write};

use vm_superio::Trigger;
use vm_superio::serial::{NoEvents, Serial};
use vmm_sys_util::eventfd::EventFd;

/// COM1's interrupt line.
pub const COM1_GSI: u32 = 4;

struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;
    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// The emulated UART.
pub struct SerialPort {
    uart: Serial<Irq, NoEvents, Box<dyn Write + Send>>,
    irq: EventFd,
}

impl SerialPort {
    /// A port whose output goes to `out`.
    pub fn new(out: Box<dyn Write + Send>) -> io::Result<Self> {
        let irq = EventFd::new(libc::EFD_CLOEXEC | libc::EFD_NONBLOCK)?;
        Ok(Self { uart: Serial::new(Irq(irq.try_clone()?), out), irq })
    }

    /// The eventfd to register as irqfd for [`COM1_GSI`].
    pub fn irq(&self) -> &EventFd {
        &self.irq
    }

    /// The guest reads register `offset`.
    pub fn read(&mut self, offset: u16) -> u8 {
        self.uart.read(offset as u8)
    }

    /// The guest writes register `offset`. What the outside does not take is lost.
    pub fn write(&mut self, offset: u16, value: u8) {
        let _ = self.uart.write(offset as u8, value);
    }

    /// Gives the guest input; returns how much fitted.
    pub fn input(&mut self, bytes: &[u8]) -> usize {
        let room = self.uart.fifo_capacity().min(bytes.len());
        self.uart.enqueue_raw_bytes(&bytes[..room]).unwrap_or(0)
    }

    /// Bytes of input that fit now.
    pub fn room(&self) -> usize {
        self.uart.fifo_capacity()
    }
}
