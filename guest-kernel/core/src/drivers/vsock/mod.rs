//! virtio-vsock (virtio 1.2, section 5.10): streams between guest and host.
//!
//! One [`Vsock`] per machine holds the queues and the connections. The guest always connects out; the host's
//! end is the VMM. Flow control is credit: each side tells how much it can buffer and how much it has
//! forwarded, and the other never has more in flight.
//!
//! | module | holds |
//! |---|---|
//! | `packet` | the header |
//! | `device` | queues, interrupts, the table of connections |
//! | `stream` | one connection: buffers, credit, shutdown |
//! | `file` | a stream as the program's standard input or output |
//!
//! Lock order: a stream's state → the device's queues.

mod device;
mod file;
mod packet;
mod stream;

pub use device::Vsock;
pub use file::StreamFile;
pub use stream::Stream;
