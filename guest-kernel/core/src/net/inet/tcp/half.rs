//! Connections that were asked for and not yet agreed on, and segments that are for no connection.
//!
//! What Linux does: a SYN for a listener makes a request socket and is answered; the answer to that makes the connection, which
//! goes into the listener's queue if there is room, else the other host asks again. A SYN for nobody is answered with a
//! reset.
//!
//! What we do: the same. Requests are [`HALF_MAX`] at most; a flood pushes the oldest out, so that the honest, whose answer comes
//! within a round trip, still get through for the most part; Linux would send SYN cookies.

use alloc::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::sync::atomic::Ordering::Relaxed;

use ringfence_hal as hal;
use smoltcp::{
    phy::ChecksumCapabilities,
    wire::{TcpControl, TcpPacket, TcpRepr, TcpSeqNumber, TcpTimestampRepr},
};

use super::{
    machine::{Answer, Machine, Opening, Outgoing, SCALE},
    remote::{Names, Remote},
    socket::{Phase, TcpSocket},
};
use crate::{
    errno::Errno,
    net::inet::{
        address::Endpoint,
        options::Opt,
        packet::{Due, Meta, Nic, Way},
        stack::Stack,
    },
    random,
};

const HALF_MAX: usize = 1024;
/// How often a request is answered (`tcp_synack_retries`).
const TRIES: u32 = 5;
const SECOND: u64 = 1_000_000_000;

/// A request.
pub(in super::super) struct Half {
    pub opening: Opening,
    pub way: Way,
    /// The largest segment there is room for on the way.
    pub segment: u16,
    listener: Weak<TcpSocket>,
    /// What our answer says of our window.
    window: u16,
    since: u64,
    next_try: u64,
    tries: u32,
}

impl Half {
    /// Answers the request.
    fn answer(&self, names: Names) {
        let (local, remote) = names;
        let opening = &self.opening;
        let header = TcpRepr {
            src_port: local.port,
            dst_port: remote.port,
            control: TcpControl::Syn,
            seq_number: TcpSeqNumber(opening.iss as i32),
            ack_number: Some(TcpSeqNumber(opening.irs.wrapping_add(1) as i32)),
            window_len: self.window,
            window_scale: opening.scale.map(|_| SCALE),
            max_seg_size: Some(self.segment),
            sack_permitted: opening.sack,
            sack_ranges: [None; 3],
            timestamp: opening
                .timestamp
                .map(|theirs| TcpTimestampRepr::new((hal::time::now() / 1_000_000) as u32, theirs)),
            payload: &[],
        };
        self.way.send_segment(Outgoing { header, parts: Default::default(), len: 0, cut: None });
        self.way.nic.device.flush();
    }
}

/// Takes what is in a packet of TCP, whose checksum is right.
pub(in super::super) fn input(nic: &Nic, stack: &Stack, meta: &Meta<'_>, bytes: &[u8]) {
    let Ok(packet) = TcpPacket::new_checked(bytes) else { return };
    let caps = ChecksumCapabilities::ignored();
    let Ok(segment) = TcpRepr::parse(&packet, &meta.from.into(), &meta.to.into(), &caps) else { return };
    let local = Endpoint { ip: meta.to, port: segment.dst_port };
    let remote = Endpoint { ip: meta.from, port: segment.src_port };
    let names = (local, remote);
    if let Some(link) = stack.remotes.find(names)
        && !link.on_segment(&segment)
    {
        return;
    }
    match (segment.control, segment.ack_number) {
        (TcpControl::Rst, _) => on_reset(stack, names, &segment),
        (TcpControl::Syn, None) => on_request(nic, stack, names, &segment),
        _ => on_agreement(stack, names, &segment),
    }
}

fn refuse(stack: &Stack, names: Names, segment: &TcpRepr<'_>) {
    let (local, remote) = names;
    if let (Some(way), Answer::Reset(header)) =
        (stack.way(remote.ip, Some(local.ip), None, 0), Machine::refusal(segment))
    {
        way.send_segment(Outgoing { header, parts: Default::default(), len: 0, cut: None });
    }
}

fn on_reset(stack: &Stack, names: Names, segment: &TcpRepr<'_>) {
    let mut all = stack.remotes.half_open.lock();
    let ours = all.get(&names).is_some_and(|h| segment.seq_number.0 as u32 == h.opening.irs.wrapping_add(1));
    let gone = if ours { all.remove(&names) } else { None };
    drop(all);
    drop(gone);
}

/// Somebody asks for a connection.
fn on_request(nic: &Nic, stack: &Stack, names: Names, segment: &TcpRepr<'_>) {
    let (local, remote) = names;
    {
        // Our answer may have been lost.
        let mut all = stack.remotes.half_open.lock();
        if let Some(half) = all.get(&names) {
            if half.opening.irs == segment.seq_number.0 as u32 {
                return half.answer(names);
            }
            let old = all.remove(&names);
            drop(all);
            drop(old);
        }
    }
    let candidates = {
        let ports = stack.tcp.lock();
        ports.best(local.port, |bound, s| if s.listens.load(Relaxed) { bound.fits(local.ip) } else { None })
    };
    let spread =
        (u64::from(remote.port) << 16 | u64::from(local.port)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    let at = (spread as usize).checked_rem(candidates.len()).unwrap_or(0);
    let Some(listener) = candidates.get(at) else { return refuse(stack, names, segment) };
    let room = listener.with(|s| match &s.phase {
        Phase::Listening(b) => b.ready.len() <= b.limit,
        _ => false,
    });
    let hops = match local.ip.is_ipv4() {
        true => listener.options.get(Opt::Ttl),
        false => listener.options.get(Opt::UnicastHops),
    };
    let Some(way) = stack.way(remote.ip, Some(local.ip), u8::try_from(hops).ok(), 0) else { return };
    if !room {
        return; // it will ask again
    }
    let now = hal::time::now();
    let buffer = listener.common.receive_buffer.load(Relaxed);
    let half = Half {
        opening: Opening::of(now as u32 ^ random::next_u64() as u32, segment),
        segment: Remote::segment_of(&way),
        way,
        listener: Arc::downgrade(listener),
        window: buffer.min(0xffff) as u16,
        since: now,
        next_try: now + SECOND,
        tries: 0,
    };
    half.answer(names);
    let mut all = stack.remotes.half_open.lock();
    let pushed_out = if all.len() >= HALF_MAX {
        let oldest = all.iter().min_by_key(|(_, h)| h.since).map(|(names, _)| *names);
        oldest.and_then(|names| all.remove(&names))
    } else {
        None
    };
    all.insert(names, half);
    drop(all);
    drop(pushed_out);
    nic.at(now + SECOND, Due::Tidy);
}

/// The answer to our answer, or something that belongs to nothing.
fn on_agreement(stack: &Stack, names: Names, segment: &TcpRepr<'_>) {
    let half = {
        let mut all = stack.remotes.half_open.lock();
        let fits = all.get(&names).is_some_and(|h| {
            let ack = segment.ack_number.map(|ack| ack.0 as u32);
            let distance = (segment.seq_number.0 as u32).wrapping_sub(h.opening.irs.wrapping_add(1));
            ack == Some(h.opening.iss.wrapping_add(1)) && distance <= 0xffff
        });
        if fits { all.remove(&names) } else { None }
    };
    let Some(half) = half else { return refuse(stack, names, segment) };
    let admitted = match half.listener.upgrade() {
        Some(listener) => listener.admit_remote(&half, names),
        None => Err(Errno::ECONNREFUSED),
    };
    match admitted {
        Ok(link) => {
            link.on_segment(segment);
        }
        // There is no room: it will say so again.
        Err(Errno::EAGAIN) => {
            stack.remotes.half_open.lock().insert(names, half);
        }
        Err(_) => refuse(stack, names, segment),
    }
}

/// Answers requests again, and forgets those that nobody pursues; whether there are others.
pub(in super::super) fn tidy(stack: &Stack, now: u64) -> bool {
    let mut all = stack.remotes.half_open.lock();
    let mut again: Vec<Names> = Vec::new();
    let mut gone: BTreeMap<Names, Half> = BTreeMap::new();
    let old: Vec<Names> = all.iter().filter(|(_, h)| h.next_try <= now).map(|(names, _)| *names).collect();
    for names in old {
        let Some(half) = all.get_mut(&names) else { continue };
        half.tries += 1;
        half.next_try = now + (SECOND << half.tries.min(10));
        if half.tries > TRIES {
            if let Some(half) = all.remove(&names) {
                gone.insert(names, half);
            }
        } else {
            again.push(names);
        }
    }
    for names in &again {
        if let Some(half) = all.get(names) {
            half.answer(*names);
        }
    }
    let left = !all.is_empty();
    drop(all);
    drop(gone);
    left
}
