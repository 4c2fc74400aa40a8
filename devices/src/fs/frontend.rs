//! The messages of the vhost-user protocol that hand a device over (https://qemu-project.gitlab.io/qemu/interop/vhost-user.html).
//!
//! Those without an answer, and no protocol features: then rings are enabled as soon as they have a kick descriptor.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use vm_memory::{GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion};
use vmm_sys_util::eventfd::EventFd;

use crate::virtio::queue::QueueConfig;

const SET_FEATURES: u32 = 2;
const SET_OWNER: u32 = 3;
const SET_MEM_TABLE: u32 = 5;
const SET_VRING_NUM: u32 = 8;
const SET_VRING_ADDR: u32 = 9;
const SET_VRING_BASE: u32 = 10;
const SET_VRING_KICK: u32 = 12;
const SET_VRING_CALL: u32 = 13;
/// Version of the protocol, in the flags.
const VERSION: u32 = 1;
/// Regions of memory a message can have.
const MAX_REGIONS: usize = 8;

/// A queue to hand over.
pub struct Ring<'a> {
    /// Its number.
    pub index: u16,
    /// Its place.
    pub config: QueueConfig,
    /// Written by KVM when the driver kicks.
    pub kick: &'a EventFd,
}

/// Hands everything over. `call` raises the device's interrupt.
pub fn hand_over(
    socket: &UnixStream,
    features: u64,
    memory: &GuestMemoryMmap<()>,
    rings: &[Ring<'_>],
    call: &EventFd,
) -> io::Result<()> {
    message(socket, SET_OWNER, &[], &[])?;
    message(socket, SET_FEATURES, &features.to_le_bytes(), &[])?;
    send_memory(socket, memory)?;
    for ring in rings {
        let index = u32::from(ring.index);
        message(socket, SET_VRING_NUM, &words(&[index, ring.config.size.into()]), &[])?;
        message(socket, SET_VRING_BASE, &words(&[index, 0]), &[])?;
        let mut place = words(&[index, 0]);
        for address in [ring.config.desc, ring.config.used, ring.config.avail, 0] {
            place.extend_from_slice(&address.to_le_bytes());
        }
        message(socket, SET_VRING_ADDR, &place, &[])?;
        let number = u64::from(index).to_le_bytes();
        message(socket, SET_VRING_CALL, &number, &[borrow(call)])?;
        message(socket, SET_VRING_KICK, &number, &[borrow(ring.kick)])?;
    }
    Ok(())
}

fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    use std::os::fd::AsRawFd;
    // SAFETY: an EventFd owns its descriptor, and the borrow is no longer than that of the EventFd.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Guest memory, each region by its file. The "address in the frontend" is the guest's, which tells nothing.
fn send_memory(socket: &UnixStream, memory: &GuestMemoryMmap<()>) -> io::Result<()> {
    let (mut table, mut files) = (Vec::new(), Vec::new());
    for region in memory.iter() {
        let Some(part) = region.file_offset() else {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "guest memory that no file is behind"));
        };
        let start = region.start_addr().0;
        for field in [start, region.len(), start, part.start()] {
            table.extend_from_slice(&field.to_le_bytes());
        }
        files.push(part.file().as_fd());
    }
    if files.len() > MAX_REGIONS {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "guest memory in too many regions"));
    }
    let mut payload = words(&[files.len() as u32, 0]);
    payload.extend_from_slice(&table);
    message(socket, SET_MEM_TABLE, &payload, &files)
}

/// Sends one message. A socket of ours has room for all of them, so a short write means that nobody reads.
fn message(socket: &UnixStream, request: u32, payload: &[u8], files: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut bytes = words(&[request, VERSION, payload.len() as u32]);
    bytes.extend_from_slice(payload);
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_REGIONS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !files.is_empty() && !control.push(SendAncillaryMessage::ScmRights(files)) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let sent =
        sendmsg(socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?;
    if sent == bytes.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}
