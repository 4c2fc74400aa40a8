//! The packet header (virtio 1.2, section 5.10.6).

use ringfence_protocol::ports;

/// Bytes of a header.
pub(super) const HEADER: usize = 44;

/// Operations.
pub(super) mod op {
    pub const REQUEST: u16 = 1;
    pub const RESPONSE: u16 = 2;
    pub const RST: u16 = 3;
    pub const SHUTDOWN: u16 = 4;
    pub const RW: u16 = 5;
    pub const CREDIT_UPDATE: u16 = 6;
    pub const CREDIT_REQUEST: u16 = 7;
}

/// Flags of `SHUTDOWN`: the sender will receive nothing more.
pub(super) const SHUTDOWN_RECEIVE: u32 = 1;
/// The sender will send nothing more.
pub(super) const SHUTDOWN_SEND: u32 = 2;

const TYPE_STREAM: u16 = 1;

/// The fields that vary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub local: u32,
    pub peer: u32,
    pub len: u32,
    pub op: u16,
    pub flags: u32,
    pub buf_alloc: u32,
    pub fwd_cnt: u32,
}

impl Header {
    /// As the guest sends it.
    pub fn to_bytes(self) -> [u8; HEADER] {
        let mut out = [0u8; HEADER];
        let mut at = 0;
        let mut put = |bytes: &[u8]| {
            if let Some(to) = out.get_mut(at..at + bytes.len()) {
                to.copy_from_slice(bytes);
            }
            at += bytes.len();
        };
        put(&ports::GUEST_CID.to_le_bytes());
        put(&ports::HOST_CID.to_le_bytes());
        put(&self.local.to_le_bytes());
        put(&self.peer.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&TYPE_STREAM.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        out
    }

    /// As the guest receives it; `None` for what is no stream packet from the host to us.
    pub fn from_bytes(bytes: &[u8; HEADER]) -> Option<Header> {
        let u64_at = |at: usize| Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?));
        let u32_at = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
        let u16_at = |at: usize| Some(u16::from_le_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        if u64_at(0)? != ports::HOST_CID || u64_at(8)? != ports::GUEST_CID || u16_at(28)? != TYPE_STREAM {
            return None;
        }
        Some(Header {
            peer: u32_at(16)?,
            local: u32_at(20)?,
            len: u32_at(24)?,
            op: u16_at(30)?,
            flags: u32_at(32)?,
            buf_alloc: u32_at(36)?,
            fwd_cnt: u32_at(40)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_sent_reads_back_with_the_ends_swapped() {
        let sent =
            Header { local: 1024, peer: 2048, len: 9, op: op::RW, flags: 3, buf_alloc: 65536, fwd_cnt: 77 };
        let mut bytes = sent.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), None, "not addressed to us");
        bytes[..16].rotate_left(8);
        bytes[16..24].rotate_left(4);
        assert_eq!(Header::from_bytes(&bytes), Some(sent));
    }
}
