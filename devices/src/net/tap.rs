//! TAP interfaces (Linux's Documentation/networking/tuntap.rst). Opened by whoever may; the device gets the descriptor.

use std::ffi::{c_int, c_short, c_ulong};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::OpenOptionsExt;

use super::header;

/// `_IOW('T', 202, int)` and so on, from `linux/if_tun.h`.
const TUNSETIFF: libc::Ioctl = 0x4004_54ca;
const TUNGETIFF: libc::Ioctl = 0x8004_54d2_u32 as libc::Ioctl;
const TUNSETOFFLOAD: libc::Ioctl = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::Ioctl = 0x4004_54d8;
const TUNSETVNETLE: libc::Ioctl = 0x4004_54dc;

const IFF_TAP: c_short = 0x2;
const IFF_NO_PI: c_short = 0x1000;
const IFF_VNET_HDR: c_short = 0x4000;

/// `TUN_F_*`: frames that the interface may hand out unfinished.
pub mod offload {
    /// Without checksum; the others need it.
    pub const CSUM: u32 = 1;
    /// Not cut into segments, IPv4.
    pub const TSO4: u32 = 2;
    /// Not cut into segments, IPv6.
    pub const TSO6: u32 = 4;
    /// The same with congestion notification.
    pub const TSO_ECN: u32 = 8;
}

/// Longest name of an interface (`IFNAMSIZ` with its zero).
const NAME_MAX: usize = 15;

#[repr(C)]
struct InterfaceRequest {
    name: [u8; NAME_MAX + 1],
    flags: c_short,
    rest: [u8; 22],
}

/// Why there is no such interface for us.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not the name of an interface.
    #[error("{0:?} is no name of a network interface: 1 to 15 characters, no slash and no space")]
    Name(String),
    /// `/dev/net/tun` cannot be opened.
    #[error(
        "cannot open /dev/net/tun: {0}; load the module (modprobe tun), or run as a user who may open it"
    )]
    Open(io::Error),
    /// The interface cannot be had.
    #[error("cannot use the TAP interface {0}: {1}{2}")]
    Attach(String, io::Error, &'static str),
    /// A descriptor of something else.
    #[error("descriptor {0} is no TAP interface with IFF_TAP, IFF_NO_PI and IFF_VNET_HDR: {1}")]
    Given(RawFd, io::Error),
}

/// Attaches to the TAP interface `name` of this network namespace; it is made, down, if there is none and the caller may.
pub fn open(name: &str) -> Result<OwnedFd, TapError> {
    let bytes = name.as_bytes();
    let fits =
        (1..=NAME_MAX).contains(&bytes.len()) && bytes.iter().all(|b| b.is_ascii_graphic() && *b != b'/');
    if !fits || name == "." || name == ".." || name.contains('%') {
        return Err(TapError::Name(name.to_owned()));
    }
    let mut options = File::options();
    options.read(true).write(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC);
    let file = options.open("/dev/net/tun").map_err(TapError::Open)?;
    let mut request = InterfaceRequest {
        name: [0; NAME_MAX + 1],
        flags: IFF_TAP | IFF_NO_PI | IFF_VNET_HDR,
        rest: [0; 22],
    };
    request.name[..bytes.len()].copy_from_slice(bytes);
    // SAFETY: TUNSETIFF reads and writes a `struct ifreq`, 40 bytes, which `request` is for the time of the call.
    let attached = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF, &raw mut request) };
    let failed = |e: io::Error| {
        let advice = match e.raw_os_error() {
            Some(libc::EBUSY) => "; another program uses it",
            Some(libc::EPERM) => {
                "; make it for this user first: ip tuntap add NAME mode tap user USER, and set it up"
            }
            Some(libc::EINVAL) => "; it is another kind of interface, or has several queues",
            _ => "",
        };
        TapError::Attach(name.to_owned(), e, advice)
    };
    checked(attached).map_err(failed)?;
    set_up(file.as_raw_fd()).map_err(failed)?;
    Ok(file.into())
}

/// A TAP interface that the caller was given as descriptor `number`: a copy of that.
pub fn given(number: RawFd) -> Result<OwnedFd, TapError> {
    let failed = |e| TapError::Given(number, e);
    // SAFETY: F_DUPFD_CLOEXEC makes a new descriptor and touches no memory.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3) };
    checked(copy).map_err(failed)?;
    // SAFETY: it was made above.
    let copy = unsafe { OwnedFd::from_raw_fd(copy) };
    let mut request = InterfaceRequest { name: [0; NAME_MAX + 1], flags: 0, rest: [0; 22] };
    // SAFETY: TUNGETIFF writes a `struct ifreq`, 40 bytes, which `request` is for the time of the call. The same number of something that
    // is no TAP interface is refused.
    checked(unsafe { libc::ioctl(copy.as_raw_fd(), TUNGETIFF, &raw mut request) }).map_err(failed)?;
    let needed = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if request.flags & needed != needed {
        return Err(failed(io::ErrorKind::InvalidInput.into()));
    }
    rustix::io::ioctl_fionbio(&copy, true).map_err(|e| failed(e.into()))?;
    set_up(copy.as_raw_fd()).map_err(failed)?;
    Ok(copy)
}

/// Every frame has a header of ours, and is finished.
fn set_up(fd: RawFd) -> io::Result<()> {
    for (what, value) in [(TUNSETVNETHDRSZ, header::LENGTH as c_int), (TUNSETVNETLE, 1)] {
        // SAFETY: these read an `int`, which lives for the time of the call.
        checked(unsafe { libc::ioctl(fd, what, &raw const value) })?;
    }
    set_offload(fd, 0)
}

/// Which frames may come unfinished ([`offload`]).
pub(super) fn set_offload(fd: RawFd, offload: u32) -> io::Result<()> {
    // SAFETY: TUNSETOFFLOAD takes its argument by value and touches no memory of ours.
    checked(unsafe { libc::ioctl(fd, TUNSETOFFLOAD, c_ulong::from(offload)) })
}

fn checked(result: c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
