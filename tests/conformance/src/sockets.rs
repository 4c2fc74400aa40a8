//! What tests of sockets need all the time, of whatever family.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::helpers::*;

pub const STREAM: i32 = libc::SOCK_STREAM;
pub const DGRAM: i32 = libc::SOCK_DGRAM;
pub const DONTWAIT: i32 = libc::MSG_DONTWAIT;
pub const SOL: i32 = libc::SOL_SOCKET;

/// `struct msghdr`.
#[repr(C)]
#[derive(Default)]
pub struct Header {
    pub name: u64,
    pub name_len: u64,
    pub vector: u64,
    pub count: u64,
    pub control: u64,
    pub control_len: u64,
    pub flags: u64,
}

/// `struct mmsghdr`.
#[repr(C)]
#[derive(Default)]
pub struct Many {
    pub header: Header,
    pub len: u32,
    pub pad: u32,
}

/// A name as text, and how long it was said to be.
pub fn show_address(bytes: &[u8], len: i32) -> String {
    if len == 0 {
        return "nobody".to_owned();
    }
    let port = match u16::from_be_bytes([bytes[2], bytes[3]]) {
        // One that was not chosen differs.
        30_001.. => "some".to_owned(),
        port => port.to_string(),
    };
    match i32::from(u16::from_ne_bytes([bytes[0], bytes[1]])) {
        libc::AF_INET => {
            let ip: [u8; 4] = bytes[4..8].try_into().expect("4 bytes");
            format!("{}:{port} ({len})", Ipv4Addr::from(ip))
        }
        libc::AF_INET6 => {
            let ip: [u8; 16] = bytes[8..24].try_into().expect("16 bytes");
            format!("[{}]:{port} ({len})", Ipv6Addr::from(ip))
        }
        libc::AF_UNIX => {
            let name = &bytes[2.min(len as usize)..(len as usize).min(bytes.len())];
            let text: String = name.iter().map(|b| if *b == 0 { '@' } else { *b as char }).collect();
            format!("{len} {text}")
        }
        other => format!("family {other} ({len})"),
    }
}

pub fn name_of(fd: i32) -> String {
    let (mut bytes, mut len) = ([0u8; 128], 128i32);
    match call!(getsockname, fd, out(&mut bytes), out(&mut len)) {
        0 => show_address(&bytes, len),
        error => result(error),
    }
}

pub fn peer_of(fd: i32) -> String {
    let (mut bytes, mut len) = ([0u8; 128], 128i32);
    match call!(getpeername, fd, out(&mut bytes), out(&mut len)) {
        0 => show_address(&bytes, len),
        error => result(error),
    }
}

pub fn send(fd: i32, text: &str, flags: i32) -> String {
    result(call!(sendto, fd, p(text.as_bytes()), text.len(), flags, 0, 0))
}

pub fn recv(fd: i32, max: usize, flags: i32) -> String {
    let mut buffer = [0u8; 8192];
    match call!(recvfrom, fd, out(&mut buffer), max, flags, 0, 0) {
        n if n >= 0 => format!("{n} {:?}", String::from_utf8_lossy(&buffer[..(n as usize).min(max)])),
        error => result(error),
    }
}

/// Receives, and says who it is from.
pub fn recv_from(fd: i32) -> String {
    let (mut buffer, mut bytes, mut len) = ([0u8; 64], [0u8; 128], 128i32);
    match call!(recvfrom, fd, out(&mut buffer), 64, DONTWAIT, out(&mut bytes), out(&mut len)) {
        n if n >= 0 => {
            format!("{:?} from {}", String::from_utf8_lossy(&buffer[..n as usize]), show_address(&bytes, len))
        }
        error => result(error),
    }
}

pub fn get_of(fd: i32, level: i32, name: i32) -> String {
    let (mut value, mut len) = ([0u8; 64], 64i32);
    match call!(getsockopt, fd, level, name, out(&mut value), out(&mut len)) {
        0 if len == 4 => i32::from_ne_bytes([value[0], value[1], value[2], value[3]]).to_string(),
        0 => format!("{len} {}", value[..len as usize].escape_ascii()),
        error => result(error),
    }
}

pub fn get(fd: i32, name: i32) -> String {
    get_of(fd, SOL, name)
}

pub fn set_of(fd: i32, level: i32, name: i32, value: i32) -> String {
    result(call!(setsockopt, fd, level, name, p(&value), 4))
}

pub fn set(fd: i32, name: i32, value: i32) -> String {
    set_of(fd, SOL, name, value)
}

/// A control message as it is sent (cmsg(3)).
pub fn control(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
    let mut bytes = (16 + data.len()).to_ne_bytes().to_vec();
    bytes.extend(level.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(8), 0);
    bytes
}

/// A control message that was received.
pub struct Control {
    pub level: i32,
    pub kind: i32,
    /// What it says of its length.
    pub len: usize,
    /// What there is of it.
    pub data: Vec<u8>,
}

/// The control messages in `bytes`.
pub fn controls(mut bytes: &[u8]) -> Vec<Control> {
    let number = |bytes: &[u8]| i32::from_ne_bytes(bytes.try_into().expect("4 bytes"));
    let mut found = Vec::new();
    while bytes.len() >= 16 {
        let len = u64::from_ne_bytes(bytes[..8].try_into().expect("8 bytes")) as usize;
        let data = bytes[16..len.clamp(16, bytes.len())].to_vec();
        found.push(Control { level: number(&bytes[8..12]), kind: number(&bytes[12..16]), len, data });
        bytes = &bytes[len.next_multiple_of(8).clamp(16, bytes.len())..];
    }
    found
}
