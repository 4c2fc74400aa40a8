//! The device.

use std::io;
use std::sync::Arc;

use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::request::{Request, Status};
use super::{
    BlockMetrics, Disk, ID_BYTES, Limits, MAX_DISCARD_SECTORS, MAX_SEGMENT, MAX_SEGMENTS, MAX_ZERO_SECTORS,
    PASS_BYTES,
};
use crate::virtio::device::read_config_from;
use crate::virtio::queue::QueuePosition;
use crate::virtio::{
    ActivateError, Activation, Chain, ChainError, Interrupt, QueueError, VirtioDevice, Virtqueue, features,
};

/// `VIRTIO_ID_BLOCK`.
const DEVICE_ID: u32 = 2;
/// Header and status besides the segments.
const QUEUE_SIZES: [u16; 1] = [MAX_SEGMENTS as u16 + 2];

/// `VIRTIO_BLK_F_*`.
mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const BLK_SIZE: u64 = 1 << 6;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

#[derive(Debug)]
struct Active {
    requests: Virtqueue,
    interrupt: Arc<Interrupt>,
    /// The driver does not flush: every write has to be durable when it is answered.
    write_through: bool,
}

/// The virtio-blk device.
pub struct Block {
    pub(super) disk: Disk,
    pub(super) id: String,
    pub(super) limits: Limits,
    kicks: [EventFd; 1],
    active: Option<Active>,
    metrics: Arc<BlockMetrics>,
}

impl Block {
    /// A device for `disk`. Of `id`, [`ID_BYTES`] bytes are told.
    pub fn new(disk: Disk, id: String, limits: Limits) -> io::Result<Self> {
        let kicks = [EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?];
        Ok(Self { disk, id, limits, kicks, active: None, metrics: Arc::default() })
    }

    /// Sets other limits: `bandwidth` in bytes a second, `requests` a second; none of them 0.
    pub fn set_limits(&mut self, bandwidth: Option<u64>, requests: Option<u64>) {
        self.limits.set(bandwidth, requests);
        // What waits for the old one's timer may not have to any more.
        let _ = self.kicks[0].write(1);
    }

    /// Counters.
    pub fn metrics(&self) -> Arc<BlockMetrics> {
        self.metrics.clone()
    }

    pub(super) fn kick(&self) -> &EventFd {
        &self.kicks[0]
    }

    /// Serves requests, at most one queue's worth and [`PASS_BYTES`].
    pub(crate) fn process_requests(&mut self) {
        match self.serve() {
            Ok(false) => {}
            // The rest after the other devices had their turn.
            Ok(true) => drop(self.kicks[0].write(1)),
            Err(_) => {
                self.metrics.protocol_errors.inc();
                if let Some(active) = self.active.take() {
                    active.interrupt.signal_needs_reset();
                }
                self.limits.forget();
            }
        }
    }

    /// Returns whether some may be left that need not wait.
    fn serve(&mut self) -> Result<bool, QueueError> {
        let Some(active) = &mut self.active else { return Ok(false) };
        let queue = &mut active.requests;
        let mut more = true;
        let mut bytes = 0;
        for _ in 0..queue.size() {
            let Some(chain) = queue.pop()? else {
                more = false;
                break;
            };
            let request = Request::parse(&chain, queue.memory(), &self.disk)?;
            if !self.limits.pay(request.bytes()) {
                self.metrics.throttled.inc();
                queue.unpop();
                more = false;
                break;
            }
            bytes += request.bytes();
            let mut done = carry_out(&request, &chain, queue.memory(), &self.disk, &self.id)?;
            if active.write_through
                && matches!(request, Request::Write { .. } | Request::Zero { .. })
                && self.disk.flush().is_err()
            {
                done = Status::IoError;
            }
            self.metrics.requests.inc();
            count(&request, done, &self.metrics);
            let written = answer(&request, &chain, queue.memory(), done)?;
            queue.push(chain.head(), written)?;
            if bytes >= PASS_BYTES {
                break;
            }
        }
        queue.notify()?;
        Ok(more)
    }
}

/// Does what is asked for. An error of the host is a status, an error here is one of the ring.
fn carry_out(
    request: &Request,
    chain: &Chain,
    mem: &GuestMemoryMmap<()>,
    disk: &Disk,
    id: &str,
) -> Result<Status, ChainError> {
    let result = match *request {
        Request::Read { offset, len } => disk.read(offset, &chain.writer(mem).slices(len)?),
        Request::Write { offset, len } => {
            let mut reader = chain.reader(mem);
            reader.read_exact(&mut [0; 16])?;
            disk.write(offset, &reader.slices(len)?)
        }
        Request::Flush if disk.read_only() => Ok(()),
        Request::Flush => disk.flush(),
        Request::Id => {
            let mut text = [0; ID_BYTES];
            let n = id.len().min(ID_BYTES);
            text[..n].copy_from_slice(&id.as_bytes()[..n]);
            chain.writer(mem).write_all(&text)?;
            Ok(())
        }
        Request::Discard { offset, len } if len > 0 => disk.discard(offset, len),
        Request::Zero { offset, len, unmap } if len > 0 => disk.zero(offset, len, unmap),
        Request::Discard { .. } | Request::Zero { .. } => Ok(()),
        Request::Refused(status) => return Ok(status),
    };
    Ok(if result.is_ok() { Status::Ok } else { Status::IoError })
}

/// Writes the status into the last byte; returns how many bytes from the first one on are sure to be written.
fn answer(
    request: &Request,
    chain: &Chain,
    mem: &GuestMemoryMmap<()>,
    status: Status,
) -> Result<u32, ChainError> {
    let mut writer = chain.writer(mem);
    let data = writer.remaining().checked_sub(1).ok_or(ChainError::TooShort)?;
    writer.slices(data)?;
    writer.write_all(&[status as u8])?;
    Ok(match request {
        Request::Read { .. } if status == Status::Ok => writer.written(),
        Request::Id if data == ID_BYTES => writer.written(),
        _ if data == 0 => 1,
        _ => 0,
    })
}

fn count(request: &Request, status: Status, metrics: &BlockMetrics) {
    match (request, status) {
        (Request::Refused(_), _) => metrics.refused.inc(),
        (_, Status::IoError) => metrics.host_errors.inc(),
        (Request::Read { len, .. }, _) => metrics.read_bytes.add(*len as u64),
        (Request::Write { len, .. }, _) => metrics.written_bytes.add(*len as u64),
        (Request::Flush, _) => metrics.flushes.inc(),
        _ => {}
    }
}

impl VirtioDevice for Block {
    fn device_id(&self) -> u32 {
        DEVICE_ID
    }

    fn features(&self) -> u64 {
        let always = features::RING_EVENT_IDX
            | feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::BLK_SIZE
            | feature::FLUSH;
        let kind = if self.disk.read_only() { feature::RO } else { feature::DISCARD | feature::WRITE_ZEROES };
        always | kind
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn queue_eventfds(&self) -> &[EventFd] {
        &self.kicks
    }

    /// `struct virtio_blk_config`; what belongs to features that are not offered is zero.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut config = [0; 60];
        config[..8].copy_from_slice(&self.disk.sectors().to_le_bytes());
        let words = [(8, MAX_SEGMENT), (12, MAX_SEGMENTS), (20, 512)];
        // Discard: sectors, ranges, alignment; zeroing: sectors, ranges, storage may be given back.
        let ranges = [(36, MAX_DISCARD_SECTORS), (40, 1), (44, 8), (48, MAX_ZERO_SECTORS), (52, 1), (56, 1)];
        let ranges = if self.disk.read_only() { &[][..] } else { &ranges[..] };
        for (at, word) in words.iter().chain(ranges) {
            config[*at..at + 4].copy_from_slice(&word.to_le_bytes());
        }
        read_config_from(&config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let requests = activation.take_queue(0)?;
        let write_through = activation.features & feature::FLUSH == 0;
        self.active = Some(Active { requests, interrupt: activation.interrupt, write_through });
        Ok(())
    }

    fn reset(&mut self) {
        self.active = None;
        self.limits.forget();
    }

    fn queue_positions(&self) -> Vec<Option<QueuePosition>> {
        vec![self.active.as_ref().map(|a| a.requests.position())]
    }
}
