//! One request: read once from its chain, checked, then carried out.

use super::{Disk, ID_BYTES, MAX_DISCARD_SECTORS, MAX_REQUEST, MAX_ZERO_SECTORS, SECTOR};
use crate::virtio::{Chain, ChainError};
use vm_memory::GuestMemoryMmap;

/// `VIRTIO_BLK_T_*`.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

/// The header's length: type, reserved, sector.
const HEADER: usize = 16;
/// `struct virtio_blk_discard_write_zeroes`.
const RANGE: usize = 16;
/// In its flags: storage may be given back.
const UNMAP: u32 = 1;

/// What the last byte of an answer says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// What is asked for, in bytes of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Request {
    Read {
        offset: u64,
        len: usize,
    },
    Write {
        offset: u64,
        len: usize,
    },
    Flush,
    Id,
    Discard {
        offset: u64,
        len: u64,
    },
    Zero {
        offset: u64,
        len: u64,
        unmap: bool,
    },
    /// It is answered with this status.
    Refused(Status),
}

impl Request {
    /// Reads the request of a chain. An error is one of the ring: there is no header, or no room for an answer.
    pub(super) fn parse(chain: &Chain, mem: &GuestMemoryMmap<()>, disk: &Disk) -> Result<Self, ChainError> {
        let mut reader = chain.reader(mem);
        let mut header = [0; HEADER];
        reader.read_exact(&mut header)?;
        let room = chain.writer(mem).remaining().checked_sub(1).ok_or(ChainError::TooShort)?;
        let word =
            |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let sector = u64::from(word(8)) | u64::from(word(12)) << 32;
        Ok(match word(0) {
            kind::IN => match range(disk, sector, room as u64) {
                Some(offset) => Self::Read { offset, len: room },
                None => Self::Refused(Status::IoError),
            },
            kind::OUT => match range(disk, sector, reader.remaining() as u64) {
                Some(offset) if !disk.read_only() => Self::Write { offset, len: reader.remaining() },
                _ => Self::Refused(Status::IoError),
            },
            kind::FLUSH => Self::Flush,
            kind::GET_ID if room >= ID_BYTES => Self::Id,
            kind::GET_ID => Self::Refused(Status::IoError),
            kind::DISCARD | kind::WRITE_ZEROES if disk.read_only() => Self::Refused(Status::IoError),
            // One range is all that was promised.
            kind::DISCARD | kind::WRITE_ZEROES if reader.remaining() != RANGE => {
                Self::Refused(Status::IoError)
            }
            zeroing @ (kind::DISCARD | kind::WRITE_ZEROES) => {
                let mut text = [0; RANGE];
                reader.read_exact(&mut text)?;
                Self::of_range(zeroing == kind::WRITE_ZEROES, &text, disk)
            }
            _ => Self::Refused(Status::Unsupported),
        })
    }

    fn of_range(zero: bool, text: &[u8; RANGE], disk: &Disk) -> Self {
        let word = |at: usize| u32::from_le_bytes([text[at], text[at + 1], text[at + 2], text[at + 3]]);
        let sector = u64::from(word(0)) | u64::from(word(4)) << 32;
        let (sectors, flags) = (word(8), word(12));
        let (most, known) = if zero { (MAX_ZERO_SECTORS, UNMAP) } else { (MAX_DISCARD_SECTORS, 0) };
        if flags & !known != 0 {
            return Self::Refused(Status::Unsupported);
        }
        let len = u64::from(sectors) * SECTOR;
        match inside(disk, sector, len) {
            Some(offset) if sectors <= most && zero => Self::Zero { offset, len, unmap: flags & UNMAP != 0 },
            Some(offset) if sectors <= most => Self::Discard { offset, len },
            _ => Self::Refused(Status::IoError),
        }
    }

    /// Bytes that count for a limit and for the length of a pass.
    pub(super) fn bytes(&self) -> u64 {
        match *self {
            Self::Read { len, .. } | Self::Write { len, .. } => len as u64,
            Self::Zero { len, unmap: false, .. } => len,
            _ => 0,
        }
    }
}

/// The byte that `sector` begins at, if `len` bytes from there on are a legal transfer.
fn range(disk: &Disk, sector: u64, len: u64) -> Option<u64> {
    if !len.is_multiple_of(SECTOR) || len > MAX_REQUEST { None } else { inside(disk, sector, len) }
}

/// The byte that `sector` begins at, if `len` bytes from there on are all below the capacity.
fn inside(disk: &Disk, sector: u64, len: u64) -> Option<u64> {
    let offset = sector.checked_mul(SECTOR)?;
    // A disk's size in bytes is a file's: it fits.
    (offset.checked_add(len)? <= disk.sectors() * SECTOR).then_some(offset)
}
