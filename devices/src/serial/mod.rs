//! The serial port: a 16550A at COM1, `vm-superio`'s model.
//!
//! Our guest kernel only writes to it: its log, and the text of a panic. So the last [`TAIL`] bytes are kept and
//! nothing more, however much the guest prints; the VMM shows them when a sandbox ends badly. Output can be
//! copied somewhere as it comes (`--loglevel`, `ringfence boot`); that write is made on the vCPU's thread, so a
//! reader who stops stops the guest's console, as a slow terminal does.
//!
//! For a stock Linux ([`Serial::set_input`]) a descriptor of the host is read when the port's 64-byte FIFO has
//! room; no input is held anywhere but there.
//!
//! Legacy I/O is one byte an access: `offset` is 0 to 7 from the port's base.

mod device;
mod event_handler;
mod metrics;
mod persist;
#[cfg(test)]
mod tests;

pub use device::Serial;
pub use metrics::SerialMetrics;
pub use persist::SerialState;

/// I/O port of COM1's first register.
pub const COM1: u16 = 0x3f8;
/// Number of registers.
pub const REGISTERS: u16 = 8;
/// GSI of COM1.
pub const COM1_GSI: u32 = 4;
/// Bytes of output that are kept.
pub const TAIL: usize = 64 << 10;
