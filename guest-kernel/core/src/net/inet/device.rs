//! What a network device has to offer: the seam between this stack and packets.
//!
//! # How it is to be driven
//! Destinations that are not local are for `smoltcp` (0.12, `no_std` with `alloc`, medium Ethernet): its `Interface` makes
//! and takes packets, answers ARP and neighbour discovery, and holds the state machines of TCP. It has one lock, and
//! must not become the lock of all sockets. So:
//!
//! * One `smoltcp::iface::Interface` and one `SocketSet` for each interface of a namespace, behind one lock that only the
//!   *poll task* of that interface takes for long. It is a kernel task that sleeps on [`Device::queue`] (frames have
//!   arrived) and on a queue of its own (a socket has something to send), with the deadline that `poll_at` says.
//! * A TCP socket that is connected through a device has the same two byte streams as a local one (`tcp::stream`), with the
//!   poll task in the place of the other end: it moves bytes between streams and smoltcp's own buffers. A
//!   program that sends takes its stream's lock, as it does locally, and wakes the poll task if that sleeps.
//!   Nothing above `tcp::link` can tell the two apart.
//! * Datagrams go through the receivers' queues (`datagram`) in the same way; the UDP, ICMP and raw sockets of smoltcp are not
//!   used, only its IP layer, so that the port tables here are the only ones.
//! * Ports are those of `ports`: a connection from outside is matched there, and only then gets a smoltcp socket.

use alloc::vec::Vec;

use crate::{errno::Result, sync::Queue};

/// A network device: what takes and gives Ethernet frames.
#[allow(dead_code)] // there is none yet
pub(crate) trait Device: Send + Sync {
    /// Its hardware address.
    fn mac(&self) -> [u8; 6];

    /// Bytes of one packet at most, without the Ethernet header.
    fn mtu(&self) -> u32;

    /// Takes a frame over. `ENOBUFS` when the ring is full: the queue is woken when there is room.
    fn transmit(&self, frame: &[u8]) -> Result<()>;

    /// The next frame that has arrived, if one has, in `frame`, whose memory is used again.
    fn receive(&self, frame: &mut Vec<u8>) -> bool;

    /// Woken when frames have arrived or there is room again.
    fn queue(&self) -> &Queue;
}
