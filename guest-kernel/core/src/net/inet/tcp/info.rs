//! Options of a TCP socket that are no numbers.

use alloc::vec::Vec;

use ringfence_hal as hal;
use zerocopy::{Immutable, IntoBytes};

use super::{
    super::options::{Opt, SOL_TCP},
    remote::Remote,
    socket::TcpSocket,
};
use crate::{
    errno::{Errno, Result},
    net::{
        inet::address::Version,
        socket::{Kind, Socket as _},
    },
};

const TCP_MAXSEG: i32 = 2;
const TCP_INFO: i32 = 11;
const TCP_CONGESTION: i32 = 13;
const TCP_ULP: i32 = 31;

/// `TCP_CA_NAME_MAX`.
const CONGESTION_NAME: usize = 16;

/// What Linux begins with on `lo`: half of a window.
const SEGMENT4: u32 = 32_741;
const SEGMENT6: u32 = 32_732;

/// `struct tcp_info` of Linux 6.1. What it says of packets is what it says of a connection where nothing was ever lost or late.
#[derive(Default, IntoBytes, Immutable)]
#[repr(C)]
struct Info {
    state: u8,
    /// `ca_state`, `retransmits`, `probes`, `backoff`, `options`, window scales, flags.
    bytes: [u8; 7],
    /// In microseconds.
    rto: u32,
    ato: u32,
    snd_mss: u32,
    rcv_mss: u32,
    unacked: u32,
    /// `sacked`, `lost`, `retrans`, `fackets`, `last_data_sent`, `last_ack_sent`, `last_data_recv`, `last_ack_recv`.
    none1: [u32; 8],
    pmtu: u32,
    rcv_ssthresh: u32,
    rtt: u32,
    rttvar: u32,
    snd_ssthresh: u32,
    snd_cwnd: u32,
    advmss: u32,
    reordering: u32,
    rcv_rtt: u32,
    rcv_space: u32,
    total_retrans: u32,
    pacing_rate: u64,
    max_pacing_rate: u64,
    /// `bytes_acked`, `bytes_received`.
    none2: [u64; 2],
    /// `segs_out`, `segs_in`.
    none3: [u32; 2],
    notsent_bytes: u32,
    /// `min_rtt`, `data_segs_in`, `data_segs_out`.
    none4: [u32; 3],
    /// `delivery_rate` .. `sndbuf_limited`, `delivered` and `delivered_ce`, `bytes_sent`, `bytes_retrans`.
    none5: [u64; 7],
    /// `dsack_dups`, `reord_seen`, `rcv_ooopack`.
    none6: [u32; 3],
    snd_wnd: u32,
}

fn segment(socket: &TcpSocket) -> u32 {
    if socket.version == Version::V4 { SEGMENT4 } else { SEGMENT6 }
}

/// Of a connection with another host.
fn remote_info(socket: &TcpSocket, remote: &Remote) -> Info {
    let state = socket.state_number();
    let micro = |ns: u64| (ns / 1000).min(u32::MAX.into()) as u32;
    remote.look(|m| {
        let speed = m.speeds();
        let mss = m.mss() as u32;
        Info {
            state,
            rto: micro(speed.rto),
            ato: 40_000,
            snd_mss: mss,
            rcv_mss: mss,
            unacked: (m.under_way() / m.mss().max(1)) as u32,
            pmtu: remote.way.nic.device.mtu(),
            rcv_ssthresh: m.receive_buffer as u32,
            rtt: micro(speed.rtt),
            rttvar: micro(speed.deviation),
            snd_ssthresh: (speed.threshold / m.mss().max(1)).min(0x7fff_ffff) as u32,
            snd_cwnd: (speed.window / m.mss().max(1)) as u32,
            advmss: mss,
            reordering: 3,
            rcv_space: m.receive_buffer as u32,
            max_pacing_rate: u64::MAX,
            notsent_bytes: m.unsent() as u32,
            snd_wnd: m.peer_window() as u32,
            ..Info::default()
        }
    })
}

fn info(socket: &TcpSocket) -> Info {
    if let Some(handle) = socket.handle()
        && let Some(remote) = &handle.link.remote
    {
        return remote_info(socket, remote);
    }
    let connection = socket.handle().map(|h| h.with(|mine, theirs| (theirs.queued, mine.receive_buffer)));
    let (unread, receive_buffer) = connection.unwrap_or_default();
    let (mss, window, rto) = match connection {
        Some(_) => (segment(socket), 65_536, 200_000),
        None => (536, 0, 1_000_000),
    };
    Info {
        state: socket.state_number(),
        rto,
        ato: 40_000,
        snd_mss: mss,
        rcv_mss: 536,
        pmtu: 65_535,
        rcv_ssthresh: window,
        rtt: 10,
        rttvar: 5,
        snd_ssthresh: 0x7fff_ffff,
        snd_cwnd: 10,
        advmss: segment(socket),
        reordering: 3,
        rcv_space: receive_buffer as u32,
        max_pacing_rate: u64::MAX,
        notsent_bytes: unread as u32,
        snd_wnd: window,
        ..Info::default()
    }
}

/// getsockopt below the level of sockets.
pub(super) fn option(socket: &TcpSocket, level: i32, name: i32) -> Result<Vec<u8>> {
    match (level, name) {
        (SOL_TCP, TCP_INFO) => Ok(info(socket).as_bytes().to_vec()),
        (SOL_TCP, TCP_CONGESTION) => {
            let text = if socket.options.is_on(Opt::Congestion) { "reno" } else { "cubic" };
            let mut out = text.as_bytes().to_vec();
            out.resize(CONGESTION_NAME, 0);
            Ok(out)
        }
        (SOL_TCP, TCP_MAXSEG) if socket.handle().is_some() => {
            let handle = socket.handle();
            let remote = handle.as_ref().and_then(|h| h.link.remote.as_ref());
            let size = remote.map_or(segment(socket), |remote| remote.look(|m| m.mss() as u32));
            Ok(size.to_ne_bytes().to_vec())
        }
        _ => {
            let connected = socket.peer_name().is_ok();
            socket.options.value(socket.version, Kind::Stream, connected, level, name)
        }
    }
}

/// setsockopt below the level of sockets.
pub(super) fn set_option(socket: &TcpSocket, level: i32, name: i32, value: u64, len: usize) -> Result<()> {
    if level == SOL_TCP && matches!(name, TCP_CONGESTION | TCP_ULP) {
        if len == 0 {
            return Err(Errno::EINVAL);
        }
        let mut text = [0; CONGESTION_NAME];
        let n = len.min(CONGESTION_NAME - 1);
        hal::user::copy_in(text.get_mut(..n).unwrap_or_default(), value)?;
        let text = text.split(|b| *b == 0).next().unwrap_or_default();
        let reno = match text {
            b"cubic" => false,
            b"reno" => true,
            // No module can be loaded.
            _ => return Err(Errno::ENOENT),
        };
        if name == TCP_ULP {
            return Err(Errno::ENOENT);
        }
        socket.options.store(Opt::Congestion, reno.into());
        return Ok(());
    }
    let bound = socket.with(|s| s.ticket.is_some());
    socket.options.change(socket.version, Kind::Stream, bound, (level, name), (value, len))?;
    socket.tell_machine();
    Ok(())
}
