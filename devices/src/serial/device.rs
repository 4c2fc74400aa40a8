//! The port.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use vm_superio::Trigger;
use vm_superio::serial::SerialEvents;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::TAIL;
use super::metrics::SerialMetrics;
use super::persist::SerialState;
use crate::host_stream::HostStream;

/// The port's interrupt line: an irqfd.
pub(super) struct Irq(EventFd);

impl Trigger for Irq {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// What the port's model reports.
pub(super) struct PortEvents {
    metrics: Arc<SerialMetrics>,
    /// Written when the guest has emptied the FIFO: room for input.
    room: Arc<EventFd>,
}

impl SerialEvents for PortEvents {
    fn buffer_read(&self) {}

    fn out_byte(&self) {
        self.metrics.output_bytes.inc();
    }

    fn tx_lost_byte(&self) {
        self.metrics.lost_bytes.inc();
    }

    fn in_buffer_empty(&self) {
        let _ = self.room.write(1);
    }
}

/// The output: its last bytes, and a copy as it comes.
pub(super) struct Output {
    tail: VecDeque<u8>,
    copy: Option<Box<dyn Write + Send>>,
}

impl Write for Output {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        for &byte in data {
            if self.tail.len() == TAIL {
                self.tail.pop_front();
            }
            self.tail.push_back(byte);
        }
        match &mut self.copy {
            Some(copy) => copy.write_all(data).map(|()| data.len()),
            None => Ok(data.len()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.copy.as_mut().map_or(Ok(()), |copy| copy.flush())
    }
}

type Port = vm_superio::Serial<Irq, PortEvents, Output>;

/// The serial port.
pub struct Serial {
    pub(super) port: Port,
    pub(super) room: Arc<EventFd>,
    pub(super) input: Option<HostStream>,
    /// Read from the input but not yet in the FIFO (the guest tests the port in loop-back mode): at most a FIFO.
    pending: Vec<u8>,
    metrics: Arc<SerialMetrics>,
}

impl Serial {
    /// A port without input. `irq` is the eventfd registered as its irqfd; `copy` receives the output as it
    /// comes, besides the tail that is kept.
    pub fn new(irq: EventFd, copy: Option<Box<dyn Write + Send>>) -> io::Result<Self> {
        let room = Arc::new(EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?);
        let metrics = Arc::<SerialMetrics>::default();
        let events = PortEvents { metrics: metrics.clone(), room: room.clone() };
        let output = Output { tail: VecDeque::new(), copy };
        let port = Port::with_events(Irq(irq), events, output);
        Ok(Self { port, room, input: None, pending: Vec::new(), metrics })
    }

    /// A port with saved registers. `None`: the state is of another version or no port's.
    pub fn restore(
        irq: EventFd,
        copy: Option<Box<dyn Write + Send>>,
        state: &SerialState,
    ) -> io::Result<Option<Self>> {
        let Some(registers) = state.registers() else { return Ok(None) };
        let mut serial = Self::new(irq.try_clone()?, copy)?;
        let events = PortEvents { metrics: serial.metrics.clone(), room: serial.room.clone() };
        let output = Output { tail: VecDeque::new(), copy: serial.port.writer_mut().copy.take() };
        match Port::from_state(&registers, Irq(irq), events, output) {
            Ok(port) => serial.port = port,
            Err(_) => return Ok(None),
        }
        Ok(Some(serial))
    }

    /// Feeds the port from `fd`. Call it before the port is given to the event loop.
    pub fn set_input(&mut self, fd: OwnedFd) {
        self.input = Some(HostStream::new(fd));
    }

    /// The guest reads register `offset`.
    pub fn read(&mut self, offset: u8) -> u8 {
        self.port.read(offset)
    }

    /// The guest writes register `offset`.
    pub fn write(&mut self, offset: u8, value: u8) {
        // Errors are counted as lost bytes; a port has no way to tell the guest.
        let _ = self.port.write(offset, value);
    }

    /// Output that did not come through the port's registers.
    pub fn print(&mut self, text: &[u8]) {
        match self.port.writer_mut().write_all(text) {
            Ok(()) => self.metrics.output_bytes.add(text.len() as u64),
            Err(_) => self.metrics.lost_bytes.add(text.len() as u64),
        }
    }

    /// The last [`TAIL`] bytes of output.
    pub fn tail(&self) -> Vec<u8> {
        self.port.writer().tail.iter().copied().collect()
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<SerialMetrics> {
        self.metrics.clone()
    }

    /// Moves input into the FIFO, as much as there is and fits. `false`: the input has ended.
    pub(super) fn pump_input(&mut self) -> bool {
        loop {
            if !self.pending.is_empty() {
                match self.port.enqueue_raw_bytes(&self.pending) {
                    Ok(n) if n > 0 => drop(self.pending.drain(..n)),
                    // Full, or in loop-back mode: the guest's next read of the FIFO tells.
                    _ => return true,
                }
                continue;
            }
            let room = self.port.fifo_capacity();
            let Some(input) = &self.input else { return false };
            if room == 0 {
                return true;
            }
            let mut buf = vec![0; room];
            match input.read(&mut buf) {
                Ok(0) => return false,
                Ok(n) => {
                    self.metrics.input_bytes.add(n as u64);
                    buf.truncate(n);
                    self.pending = buf;
                }
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return e.kind() == io::ErrorKind::WouldBlock,
            }
        }
    }
}
