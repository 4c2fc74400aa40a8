//! The device.

use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use smallvec::SmallVec;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{
    Backend, Limits, MAX_FRAME, MIN_FRAME, NetMetrics, PASS_BYTES, Policy, flows::Flows, frame, header, tap,
};
use crate::virtio::device::read_config_from;
use crate::virtio::queue::QueuePosition;
use crate::virtio::{
    ActivateError, Activation, Chain, Interrupt, QueueError, VirtioDevice, Virtqueue, features,
};

/// `VIRTIO_ID_NET`.
const DEVICE_ID: u32 = 1;
const QUEUE_SIZES: [u16; 2] = [256, 256];
/// The queue of frames to the guest.
pub(super) const RX: usize = 0;
/// The queue of frames from it.
pub(super) const TX: usize = 1;

/// `VIRTIO_NET_F_*`.
pub(super) mod feature {
    pub const CSUM: u64 = 1 << 0;
    pub const GUEST_CSUM: u64 = 1 << 1;
    pub const MTU: u64 = 1 << 3;
    pub const MAC: u64 = 1 << 5;
    pub const GUEST_TSO4: u64 = 1 << 7;
    pub const GUEST_TSO6: u64 = 1 << 8;
    pub const GUEST_ECN: u64 = 1 << 9;
    pub const HOST_TSO4: u64 = 1 << 11;
    pub const HOST_TSO6: u64 = 1 << 12;
    pub const HOST_ECN: u64 = 1 << 13;
    pub const MRG_RXBUF: u64 = 1 << 15;
    pub const STATUS: u64 = 1 << 16;
}

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// An address of Ethernet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Not an address that a host can have.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no MAC address of a host: write six bytes like 02:00:00:00:00:01, the first of them even")]
pub struct MacError(String);

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let mut bytes = [0; 6];
        let mut parts = text.split(':');
        let all = bytes.iter_mut().all(|byte| {
            let part =
                parts.next().filter(|part| part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit()));
            part.and_then(|part| u8::from_str_radix(part, 16).ok()).map(|value| *byte = value).is_some()
        });
        let good = all && parts.next().is_none() && bytes != [0; 6] && bytes[0] & 1 == 0;
        if good { Ok(Self(bytes)) } else { Err(MacError(text.to_owned())) }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

/// What a device is made with, besides its backend and limits.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// The guest's address.
    pub mac: Mac,
    /// The largest packet, without the Ethernet header: 68 at least (virtio 1.2, section 5.1.4.1).
    pub mtu: u16,
    /// Where the guest may send; everywhere without one.
    pub egress: Option<Policy>,
}

#[derive(Debug)]
struct Active {
    rx: Virtqueue,
    tx: Virtqueue,
    interrupt: Arc<Interrupt>,
    features: u64,
    /// The backend does not know them yet.
    offloads_pending: bool,
}

/// The virtio-net device.
pub struct Net {
    pub(super) config: NetConfig,
    pub(super) backend: Backend,
    pub(super) kicks: [EventFd; 2],
    pub(super) rx_limits: Limits,
    pub(super) tx_limits: Limits,
    /// Who may be answered, whatever the policy says.
    flows: Flows,
    link_is_up: bool,
    active: Option<Active>,
    metrics: Arc<NetMetrics>,
}

/// The guest's for one frame.
type Buffers = SmallVec<[Chain; 4]>;

/// Why a pass over a queue ended.
enum Pass {
    /// Something else has to happen first.
    Waits,
    /// It was long enough; the other devices have their turn.
    Unfinished,
    /// The backend is gone.
    LinkLost,
}

impl Net {
    /// A device that sends and receives by `backend`; `rx_limits` are for what goes to the guest.
    pub fn new(
        config: NetConfig,
        backend: Backend,
        rx_limits: Limits,
        tx_limits: Limits,
    ) -> io::Result<Self> {
        let kick = || EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC);
        let kicks = [kick()?, kick()?];
        let metrics = Arc::default();
        let (flows, link_is_up) = (Flows::default(), true);
        Ok(Self { config, backend, kicks, rx_limits, tx_limits, flows, link_is_up, active: None, metrics })
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<NetMetrics> {
        self.metrics.clone()
    }

    /// Gives frames to the guest.
    pub(crate) fn process_rx(&mut self) {
        let result = self.receive();
        self.end_pass(RX, result);
    }

    /// Takes frames from the guest.
    pub(crate) fn process_tx(&mut self) {
        let result = self.send();
        self.end_pass(TX, result);
    }

    fn end_pass(&mut self, queue: usize, result: Result<Pass, QueueError>) {
        match result {
            Ok(Pass::Waits) => {}
            Ok(Pass::Unfinished) => drop(self.kicks[queue].write(1)),
            Ok(Pass::LinkLost) => {
                self.link_is_up = false;
                if let Some(active) = &self.active {
                    active.interrupt.signal_config();
                }
                // What is in the queue is dropped by the next pass.
                let _ = self.kicks[TX].write(1);
            }
            Err(_) => {
                self.metrics.protocol_errors.inc();
                if let Some(active) = self.active.take() {
                    active.interrupt.signal_needs_reset();
                }
                self.forget();
            }
        }
    }

    fn forget(&mut self) {
        self.active = None;
        self.rx_limits.forget();
        self.tx_limits.forget();
        self.flows.forget();
    }

    fn receive(&mut self) -> Result<Pass, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Pass::Waits) };
        if !self.link_is_up {
            return Ok(Pass::Waits);
        }
        if std::mem::take(&mut active.offloads_pending) {
            self.backend.set_offload(offload(active.features));
        }
        let queue = &mut active.rx;
        let merges = active.features & feature::MRG_RXBUF != 0;
        let (mut buffers, mut bytes, mut pass) = (Buffers::new(), 0, Pass::Unfinished);
        for _ in 0..queue.size() {
            let received = match self.backend.peek() {
                Ok(Some(received)) => received,
                Ok(None) => {
                    pass = Pass::Waits;
                    break;
                }
                Err(_) => {
                    pass = Pass::LinkLost;
                    break;
                }
            };
            let length = received.frame.len();
            match gather(queue, header::LENGTH + length, merges, &mut buffers)? {
                Gathered::Enough => {}
                Gathered::TooSmall(head) => {
                    self.metrics.rx_dropped.inc();
                    self.backend.take();
                    queue.push(head, 0)?;
                    continue;
                }
                Gathered::TooFew => {
                    pass = Pass::Waits;
                    break;
                }
            }
            if !self.rx_limits.pay(length as u64) {
                self.metrics.rx_throttled.inc();
                buffers.iter().for_each(|_| queue.unpop());
                pass = Pass::Waits;
                break;
            }
            if let Some(policy) = &self.config.egress {
                self.flows.arrived(policy, &received.frame[..length.min(frame::HEAD)]);
            }
            deliver(queue, &buffers, received.header, received.frame)?;
            self.backend.take();
            self.metrics.rx_frames.inc();
            self.metrics.rx_bytes.add(length as u64);
            bytes += length;
            if bytes >= PASS_BYTES {
                break;
            }
        }
        queue.notify()?;
        Ok(pass)
    }

    fn send(&mut self) -> Result<Pass, QueueError> {
        let Some(active) = &mut self.active else { return Ok(Pass::Waits) };
        let queue = &mut active.tx;
        let (mut bytes, mut pass) = (0, Pass::Unfinished);
        for _ in 0..queue.size() {
            if self.link_is_up {
                match self.backend.flush() {
                    Ok(true) => {}
                    Ok(false) => {
                        pass = Pass::Waits;
                        break;
                    }
                    Err(_) => {
                        pass = Pass::LinkLost;
                        break;
                    }
                }
            }
            let Some(chain) = queue.pop()? else {
                pass = Pass::Waits;
                break;
            };
            let mut reader = chain.reader(queue.memory());
            let length = reader.remaining().wrapping_sub(header::LENGTH);
            if !(MIN_FRAME..=MAX_FRAME).contains(&length) {
                self.metrics.tx_malformed.inc();
                queue.push(chain.head(), 0)?;
                continue;
            }
            if !self.link_is_up {
                self.metrics.tx_dropped.inc();
                queue.push(chain.head(), 0)?;
                continue;
            }
            if !self.tx_limits.pay(length as u64) {
                self.metrics.tx_throttled.inc();
                queue.unpop();
                pass = Pass::Waits;
                break;
            }
            let mut asked = [0; header::LENGTH];
            reader.read_exact(&mut asked)?;
            // From here on everything is looked at in this copy.
            let room = self.backend.room(length);
            reader.read_exact(room)?;
            bytes += length;
            let head = &room[..length.min(frame::HEAD)];
            let denies = |policy: &Policy| !policy.allows(head) && !self.flows.is_answer(head);
            if self.config.egress.as_ref().is_some_and(denies) {
                self.metrics.tx_denied.inc();
                queue.push(chain.head(), 0)?;
                continue;
            }
            let in_order = |header: &[u8; header::LENGTH]| match header::will_write(header) {
                // The host's kernel writes into the frame, and the policy has to be true of what leaves.
                Some((checksum, cut)) if self.config.egress.is_some() => {
                    frame::keeps_its_meaning(head, checksum, cut)
                }
                _ => true,
            };
            let Some(header) = header::checked(&asked, length, active.features).filter(in_order) else {
                self.metrics.tx_malformed.inc();
                queue.push(chain.head(), 0)?;
                continue;
            };
            match self.backend.send(&header, length) {
                Ok(true) => {
                    self.metrics.tx_frames.inc();
                    self.metrics.tx_bytes.add(length as u64);
                }
                Ok(false) => {
                    queue.unpop();
                    pass = Pass::Waits;
                    break;
                }
                // A TAP interface that is down, a frame that the host's kernel does not like.
                Err(_) if self.backend.has_offloads() => self.metrics.tx_dropped.inc(),
                Err(_) => {
                    self.metrics.tx_dropped.inc();
                    queue.push(chain.head(), 0)?;
                    pass = Pass::LinkLost;
                    break;
                }
            }
            queue.push(chain.head(), 0)?;
            if bytes >= PASS_BYTES {
                break;
            }
        }
        queue.notify()?;
        Ok(pass)
    }
}

enum Gathered {
    Enough,
    /// The one buffer with this head, and they are not merged.
    TooSmall(u16),
    TooFew,
}

/// Takes buffers for `length` bytes: one, or with `merges` as many as it takes.
fn gather(
    queue: &mut Virtqueue,
    length: usize,
    merges: bool,
    buffers: &mut Buffers,
) -> Result<Gathered, QueueError> {
    buffers.clear();
    let mut room = 0;
    while room < length {
        // No more than the queue has: it would be a driver that offers a buffer twice.
        let next = if buffers.len() < usize::from(queue.size()) { queue.pop()? } else { None };
        let Some(chain) = next else {
            buffers.iter().for_each(|_| queue.unpop());
            return Ok(Gathered::TooFew);
        };
        room += chain.writer(queue.memory()).remaining();
        if !merges && room < length {
            return Ok(Gathered::TooSmall(chain.head()));
        }
        buffers.push(chain);
    }
    Ok(Gathered::Enough)
}

/// Writes a frame behind its header into buffers that are large enough, and gives them back.
fn deliver(
    queue: &mut Virtqueue,
    buffers: &[Chain],
    mut header: [u8; header::LENGTH],
    frame: &[u8],
) -> Result<(), QueueError> {
    header[10..].copy_from_slice(&(buffers.len() as u16).to_le_bytes());
    let mut answers = SmallVec::<[(u16, u32); 4]>::new();
    let mut parts = [&header[..], frame];
    for buffer in buffers {
        let mut writer = buffer.writer(queue.memory());
        for part in &mut parts {
            let n = writer.write(part)?;
            *part = &part[n..];
        }
        answers.push((buffer.head(), writer.written()));
    }
    queue.push_together(&answers)
}

/// What the guest takes unfinished, in the words of TAP interfaces.
fn offload(features: u64) -> u32 {
    let table = [
        (feature::GUEST_CSUM, tap::offload::CSUM),
        (feature::GUEST_TSO4, tap::offload::TSO4),
        (feature::GUEST_TSO6, tap::offload::TSO6),
        (feature::GUEST_ECN, tap::offload::TSO_ECN),
    ];
    table.iter().filter(|(bit, _)| features & bit != 0).fold(0, |all, (_, bit)| all | bit)
}

impl VirtioDevice for Net {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        let always =
            features::RING_EVENT_IDX | feature::MTU | feature::MAC | feature::MRG_RXBUF | feature::STATUS;
        let guest = feature::GUEST_CSUM | feature::GUEST_TSO4 | feature::GUEST_TSO6 | feature::GUEST_ECN;
        let host = feature::CSUM | feature::HOST_TSO4 | feature::HOST_TSO6 | feature::HOST_ECN;
        if self.backend.has_offloads() { always | guest | host } else { always }
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_eventfds(&self) -> &[EventFd] {
        &self.kicks
    }

    /// `struct virtio_net_config`: address, status, pairs of queues (not offered), MTU.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 12];
        config[..6].copy_from_slice(&self.config.mac.0);
        config[6..8].copy_from_slice(&if self.link_is_up { LINK_UP } else { 0 }.to_le_bytes());
        config[10..].copy_from_slice(&self.config.mtu.to_le_bytes());
        read_config_from(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let (rx, tx) = (activation.take_queue(RX)?, activation.take_queue(TX)?);
        let (interrupt, features) = (activation.interrupt, activation.features);
        self.active = Some(Active { rx, tx, interrupt, features, offloads_pending: true });
        // On the event loop's thread: the host's side may have something already.
        let _ = self.kicks[RX].write(1);
        Ok(())
    }

    fn reset(&mut self) {
        self.forget();
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        let active = self.active.as_ref();
        vec![active.map(|a| a.rx.position()), active.map(|a| a.tx.position())]
    }
}
