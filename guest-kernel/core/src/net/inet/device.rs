//! What a network device has to offer: the seam between this stack and drivers.
//!
//! # How packets are made and taken
//! `smoltcp` reads and writes the headers (its `wire` module: bounds, checksums, options, with fuzzers of its own upstream). Its
//! `Interface` and its sockets are not used, because
//!
//! * an `Interface` owns its sockets behind one `&mut`: one lock for all that goes through a device, which this stack is not
//!   to have; and it finds the socket of each packet by asking one after the other, so ten thousand connections
//!   make every packet ten thousand questions;
//! * what it does not know it answers itself (a port nobody has in *its* set is refused), and there is no way to hand UDP,
//!   ICMP and raw payload out but sockets with rings of fixed size;
//! * its TCP is not what Linux's peers deserve (see `tcp::machine`).
//!
//! So IP, ARP, neighbour discovery, ICMP and UDP are in [`packet`](super::packet), on the port tables everything here shares, and TCP is
//! `tcp::machine`: one for each connection, behind that connection's own lock. What all senders share is the device's ring.

use alloc::vec::Vec;

use smallvec::SmallVec;

use super::tcp::Part;
use crate::sync::Queue;

/// Bytes of headers of a packet, or all of a small one.
pub(crate) type Head = SmallVec<[u8; 128]>;

/// The largest head a device takes.
pub(crate) const HEAD_MAX: usize = 240;

/// A frame to send: what its headers are, and where the rest lies.
pub(crate) struct Packet {
    /// From the Ethernet header on; at most [`HEAD_MAX`].
    pub head: Head,
    /// What follows, in pages that the device reads from.
    pub parts: SmallVec<[Part; 2]>,
    /// The device is to put a checksum of everything from the first offset on at the second one behind it, onto the
    /// pseudo header's that is there.
    pub checksum: Option<(u16, u16)>,
    /// The device is to cut what follows the head into segments of so many bytes; TCP in IPv6?
    pub cut: Option<(u16, bool)>,
}

/// What a device can do instead of us.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Offloads {
    pub checksum: bool,
    /// Cutting of TCP over IPv4, and over IPv6.
    pub cut: [bool; 2],
}

/// What was counted.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Counts {
    pub received: [u64; 2],
    pub sent: [u64; 2],
    pub receive_dropped: u64,
    pub send_dropped: u64,
}

/// A network device: what takes and gives Ethernet frames.
pub(crate) trait Device: Send + Sync {
    /// Its hardware address.
    fn mac(&self) -> [u8; 6];

    /// Bytes of one packet at most, without the Ethernet header.
    fn mtu(&self) -> u32;

    fn offloads(&self) -> Offloads;

    /// Takes a frame over. False when the ring is full: the queue is woken when there is room.
    fn transmit(&self, packet: &Packet) -> bool;

    /// What was taken is to be sent now.
    fn flush(&self);

    /// The next frame that has arrived, if one has, in `frame`, whose memory is used again; whether its checksums are known to be
    /// right.
    fn receive(&self, frame: &mut Vec<u8>) -> Option<bool>;

    /// Nobody looks any more until the queue is woken; whether there is something already: frames, or room where there was none.
    fn rest(&self) -> bool;

    /// Woken when frames have arrived or there is room again.
    fn queue(&self) -> &Queue;

    fn counts(&self) -> Counts;
}
