//! Packets: what leaves by a device and what arrives there.
//!
//! What Linux does: interrupts, NAPI, `ip_rcv`, `ip_local_deliver`, `ip_queue_xmit`, the neighbour table, ICMP. What we do:
//!
//! * **Out**: whoever sends makes the packet and puts it into the device's ring itself, with the locks of his connection at most. Where it
//!   goes was decided upon when the connection was made or the datagram sent ([`Way`]): the interface, and the neighbour, whose
//!   hardware address is one atomic number once it is known ([`neighbor`]).
//! * **In**: one kernel task for each device (`run`) takes frames until there are none, and hands what is in them to connections
//!   ([`super::tcp`]), to the queues of datagram sockets ([`super::datagram`]), or answers itself ([`icmp`]).
//!   It never waits for anything but frames, so no program can hold it up.
//! * **Time**: connections, neighbours and what else waits is in one ordered map of the device ([`Nic::at`]), with one timer for the
//!   nearest. Deadlines that move away stay where they are and are found to be early.
//!
//! The host is nobody's router: what is not for one of this machine's addresses is dropped.
//!
//! Bounds: frames that arrive are handled one after the other and wait in the device's ring only; neighbours, fragments, half-open
//! connections and packets that wait for a neighbour's address are counted, and the oldest go.
//!
//! | file | holds |
//! |---|---|
//! | `neighbor` | hardware addresses (ARP, neighbour discovery) |
//! | `header` | the headers of packets that leave |
//! | `input` | what arrives |
//! | `fragments` | packets that arrive in parts |
//! | `icmp` | echoes and errors |
//! | `start` | from the boot configuration to interfaces |

mod exercise;
mod fragments;
mod header;
mod icmp;
mod input;
mod neighbor;
mod start;
#[cfg(test)]
mod tests;

use alloc::{
    boxed::Box,
    collections::BTreeMap,
    sync::{Arc, Weak},
    vec::Vec,
};
use core::{fmt, net::IpAddr, sync::atomic::AtomicU64};

use ringfence_hal as hal;

pub use self::exercise::exercise;
pub(crate) use self::start::start;
use self::{fragments::Fragments, neighbor::Neighbors};
pub(super) use self::{
    header::{Transport, checksum_of, pseudo_header},
    input::Meta,
    neighbor::Neighbor,
};
use super::{
    device::{Device, Packet},
    stack::Stack,
    tcp::Link,
};
use crate::{
    TaskRef,
    errno::Result,
    ns::NetNamespace,
    sched::{self, Timer, TimerTarget},
    sync::{Interruptible, PollEvents, Queue, SpinLock, wait_event},
};

/// Frames taken before others have their turn.
const BATCH: usize = 32;
pub(super) const SECOND: u64 = 1_000_000_000;
/// A ring that was full has room by then.
const FULL: u64 = 5_000_000;

/// What something waits for.
pub(super) enum Due {
    Connection(Weak<Link>),
    Neighbor(Arc<Neighbor>),
    /// Half-open connections and fragments are looked through.
    Tidy,
}

#[derive(Default)]
struct Agenda {
    entries: BTreeMap<(u64, u64), Due>,
    number: u64,
    /// Set to the first of them.
    timer: Option<(u64, Timer)>,
    /// There is an entry to tidy up.
    tidies: bool,
}

/// An interface with a device.
pub(crate) struct Nic {
    pub device: Arc<dyn Device>,
    pub index: u32,
    net: Weak<NetNamespace>,
    neighbors: Neighbors,
    agenda: SpinLock<Agenda>,
    /// Connections that found the ring full.
    blocked: SpinLock<Vec<Weak<Link>>>,
    fragments: SpinLock<Fragments>,
    /// ICMP errors that may be sent in this second, and which it is.
    errors: AtomicU64,
    /// Of the IPv4 headers that are fragments.
    identification: AtomicU64,
    wake: Queue,
    pub(super) me: Weak<Nic>,
}

impl fmt::Debug for Nic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nic({})", self.index)
    }
}

impl PartialEq for Nic {
    fn eq(&self, other: &Nic) -> bool {
        core::ptr::eq(self, other)
    }
}

impl Eq for Nic {}

impl TimerTarget for Nic {
    fn expired(self: Arc<Self>) {
        self.wake.wake_all(PollEvents::empty());
    }
}

/// How a packet gets to an address.
#[derive(Clone)]
pub(crate) struct Way {
    pub nic: Arc<Nic>,
    pub neighbor: Arc<Neighbor>,
    pub from: IpAddr,
    pub to: IpAddr,
    pub hops: u8,
    pub class: u8,
}

impl Nic {
    pub fn new(device: Arc<dyn Device>, index: u32, net: &Arc<NetNamespace>) -> Arc<Nic> {
        Arc::new_cyclic(|me| Nic {
            wake: device.queue().clone(),
            device,
            index,
            net: Arc::downgrade(net),
            neighbors: Neighbors::default(),
            agenda: SpinLock::new(Agenda::default()),
            blocked: SpinLock::new(Vec::new()),
            fragments: SpinLock::new(Fragments::default()),
            errors: AtomicU64::new(0),
            identification: AtomicU64::new(0),
            me: me.clone(),
        })
    }

    /// The namespace it is in.
    pub fn namespace(&self) -> Option<Arc<NetNamespace>> {
        self.net.upgrade()
    }

    fn with_stack<R>(&self, f: impl FnOnce(&Stack) -> R) -> Option<R> {
        self.net.upgrade().map(|net| f(net.stack()))
    }

    /// Sends a packet to a neighbour, or has it wait until the address is known. False if the ring is full.
    pub(super) fn transmit(&self, neighbor: &Arc<Neighbor>, mut packet: Packet) -> bool {
        match neighbor.mac() {
            Some(mac) => {
                if neighbor.is_due(hal::time::now()) {
                    self.resolve(neighbor, None);
                }
                if let Some(place) = packet.head.get_mut(..6) {
                    place.copy_from_slice(&mac);
                }
                self.device.transmit(&packet)
            }
            None => {
                self.resolve(neighbor, Some(packet));
                true
            }
        }
    }

    /// Has something done at `deadline`.
    pub(super) fn at(&self, deadline: u64, due: Due) {
        let Some(me) = self.me.upgrade() else { return };
        let mut guard = self.agenda.lock();
        let agenda = &mut *guard;
        if matches!(due, Due::Tidy) && core::mem::replace(&mut agenda.tidies, true) {
            return;
        }
        agenda.number += 1;
        agenda.entries.insert((deadline, agenda.number), due);
        let old = match &agenda.timer {
            Some((at, _)) if *at <= deadline => None,
            _ => agenda.timer.replace((deadline, Timer::start(deadline, me))),
        };
        drop(guard);
        drop(old);
    }

    /// What is due by now.
    fn due(&self, now: u64) -> Option<Due> {
        let mut agenda = self.agenda.lock();
        let entry = agenda.entries.first_entry()?;
        if entry.key().0 > now {
            return None;
        }
        let due = entry.remove();
        if matches!(due, Due::Tidy) {
            agenda.tidies = false;
        }
        Some(due)
    }

    /// Sets the timer anew after it has run out.
    fn rearm(&self) {
        let Some(me) = self.me.upgrade() else { return };
        let mut agenda = self.agenda.lock();
        let first = agenda.entries.first_key_value().map(|(key, _)| key.0);
        let old = match (first, &agenda.timer) {
            (Some(first), Some((at, _))) if *at == first => None,
            (Some(first), _) => agenda.timer.replace((first, Timer::start(first, me))),
            (None, _) => agenda.timer.take(),
        };
        drop(agenda);
        drop(old);
    }

    fn is_due(&self) -> bool {
        let agenda = self.agenda.lock();
        agenda.entries.first_key_value().is_some_and(|(key, _)| key.0 <= hal::time::now())
    }

    /// A connection found the ring full; it goes on when there is room.
    pub(super) fn block(&self, link: &Arc<Link>) {
        {
            let mut blocked = self.blocked.lock();
            if blocked.iter().any(|b| b.as_ptr() == Arc::as_ptr(link)) {
                return;
            }
            blocked.push(Arc::downgrade(link));
        }
        // The room may have come before it was in the list.
        self.at(hal::time::now() + FULL, Due::Connection(Arc::downgrade(link)));
    }

    /// Takes what has arrived and does what is due; whether there was anything.
    pub(super) fn poll(&self, frame: &mut Vec<u8>) -> bool {
        let mut busy = false;
        for _ in 0..BATCH {
            let Some(checked) = self.device.receive(frame) else { break };
            busy = true;
            self.input(frame, checked);
        }
        let now = hal::time::now();
        let mut any = false;
        while let Some(due) = self.due(now) {
            any = true;
            match due {
                Due::Connection(link) => {
                    if let Some(link) = link.upgrade() {
                        link.on_timer(now);
                    }
                }
                Due::Neighbor(neighbor) => self.retry(&neighbor, now),
                Due::Tidy => self.tidy(now),
            }
        }
        if any {
            self.rearm();
        }
        let blocked = core::mem::take(&mut *self.blocked.lock());
        for link in blocked.iter().filter_map(Weak::upgrade) {
            link.go_on();
        }
        self.device.flush();
        busy
    }

    /// For the fuzz target: nothing is waited for any more.
    fn forget(&self) {
        let agenda = core::mem::take(&mut *self.agenda.lock());
        drop(agenda);
    }

    /// Looks through what may have become old.
    fn tidy(&self, now: u64) {
        let fragments = self.fragments.lock().tidy(now);
        let half_open = self.with_stack(|stack| super::tcp::tidy(stack, now)).unwrap_or(false);
        if fragments || half_open {
            self.at(now + SECOND / 2, Due::Tidy);
        }
    }
}

/// The task of a device.
fn run(task: &TaskRef, nic: &Arc<Nic>) {
    let mut frame = Vec::new();
    loop {
        if nic.poll(&mut frame) {
            sched::preempt_point(task);
            continue;
        }
        let look = || (nic.device.rest() || nic.is_due()).then_some(());
        // It waits for ever, and nothing interrupts it.
        let _ = wait_event(task, &nic.wake, Interruptible::No, None, look);
    }
}

/// Starts the task.
pub(super) fn serve(nic: Arc<Nic>) -> Result<()> {
    let main = Box::new(move |task: &TaskRef| run(task, &nic));
    crate::task::spawn_kernel_task(b"net", main)?;
    Ok(())
}
