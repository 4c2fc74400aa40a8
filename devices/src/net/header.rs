//! `struct virtio_net_hdr_v1` (virtio 1.2, section 5.1.6), and what of the guest's the host's kernel may see.

use super::device::feature;

/// Its length, with `num_buffers`.
pub const LENGTH: usize = 12;

const NEEDS_CSUM: u8 = 1;
const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// The header of a frame from the guest as the host's kernel gets it, if it is in order.
///
/// Linux checks these fields, too; what a guest has no use for is not left to that.
pub fn checked(header: &[u8; LENGTH], frame: usize, features: u64) -> Option<[u8; LENGTH]> {
    let &[flags, gso, ref rest @ ..] = header;
    let half = |at: usize| usize::from(u16::from_le_bytes([rest[at], rest[at + 1]]));
    let (header_length, segment, csum_start, csum_offset) = (half(0), half(2), half(4), half(6));
    let has = |bit: u64| features & bit != 0;
    let mut out = [0; LENGTH];
    // Other flags are the device's to set.
    if flags & NEEDS_CSUM != 0 {
        if !has(feature::CSUM) || csum_start + csum_offset + 2 > frame {
            return None;
        }
        out[0] = NEEDS_CSUM;
        out[6..10].copy_from_slice(&rest[4..8]);
    }
    let offered = match gso & !GSO_ECN {
        GSO_NONE => return (gso == GSO_NONE).then_some(out),
        GSO_TCPV4 => has(feature::HOST_TSO4),
        GSO_TCPV6 => has(feature::HOST_TSO6),
        _ => false,
    };
    let ecn = gso & GSO_ECN == 0 || has(feature::HOST_ECN);
    // Segments are made by cutting behind the headers; each gets a checksum of its own.
    let whole = out[0] == NEEDS_CSUM && segment > 0 && header_length <= frame && csum_start < frame;
    (offered && ecn && whole).then(|| {
        out[1] = gso;
        out[2..6].copy_from_slice(&rest[..4]);
        out
    })
}

/// What the host's kernel will write in a frame with this header, if anything: where the header that is checksummed starts and where in it the
/// checksum is; and whether the frame is cut.
pub fn will_write(checked: &[u8; LENGTH]) -> Option<((usize, usize), bool)> {
    let &[flags, gso, _, _, _, _, a, b, c, d, ..] = checked;
    let half = |low, high| usize::from(u16::from_le_bytes([low, high]));
    (flags & NEEDS_CSUM != 0).then(|| ((half(a, b), half(c, d)), gso != GSO_NONE))
}
