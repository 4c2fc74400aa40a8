//! virtio-blk (virtio 1.2, section 5.2).
//!
//! A call moves any number of pages: it is cut into requests of at most [`MAX_PAGES`], as many of which are in flight as
//! the queue has room for, and the caller sleeps until the last is answered. Pages that lie next to each other in memory
//! share a descriptor; further merging is the page cache's, which asks for neighbours at once.
//!
//! A request holds references to its pages until the device has answered it, so a caller that is killed may go: what the
//! device still writes lands in pages nobody else has.

use alloc::{sync::Arc, vec::Vec};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use ringfence_hal as hal;
use ringfence_hal::{Frame, dma::DmaBuffer};
use smallvec::SmallVec;

use super::{
    InterruptHandler,
    virtio::{Buffer, Error, Transport, VirtQueue},
};
use crate::{
    TaskRef,
    block::{Erase, ID_LEN, SECTOR, SECTORS_PER_PAGE, Storage},
    errno::{Errno, Result},
    sync::{Interruptible, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
};

/// `VIRTIO_BLK_F_*`.
mod feature {
    pub const SIZE_MAX: u64 = 1 << 1;
    pub const SEG_MAX: u64 = 1 << 2;
    pub const RO: u64 = 1 << 5;
    pub const FLUSH: u64 = 1 << 9;
    pub const DISCARD: u64 = 1 << 13;
    pub const WRITE_ZEROES: u64 = 1 << 14;
}

/// `VIRTIO_BLK_T_*`.
mod kind {
    pub const IN: u32 = 0;
    pub const OUT: u32 = 1;
    pub const FLUSH: u32 = 4;
    pub const GET_ID: u32 = 8;
    pub const DISCARD: u32 = 11;
    pub const WRITE_ZEROES: u32 = 13;
}

const QUEUE_SIZE: u16 = 128;
/// Requests in flight.
const SLOTS: usize = 32;
/// Pages of a request: 128 KiB.
const MAX_PAGES: usize = 32;
/// Bytes of a slot in the buffer of headers: header, range, status.
const SLOT: usize = 64;
const RANGE_AT: usize = 16;
const RANGE_LEN: usize = 16;
const STATUS_AT: usize = 48;

const PAGE: usize = hal::PAGE_SIZE;

/// What a caller waits for: all requests it has made.
struct Batch {
    left: AtomicUsize,
    failed: AtomicBool,
    done: Queue,
}

struct Pending {
    /// Referred to until the device is done with them.
    _frames: SmallVec<[Frame; 8]>,
    batch: Arc<Batch>,
}

struct Inner {
    queue: VirtQueue,
    headers: DmaBuffer,
    slots: Vec<Option<Pending>>,
    /// The slot of the chain that begins at a descriptor.
    heads: Vec<u8>,
}

/// One request to be.
struct Request<'a> {
    kind: u32,
    sector: u64,
    frames: &'a [Frame],
    /// Bytes of the frames together.
    len: usize,
    /// Sectors and flags of a range (discarding, zeroing).
    range: Option<(u32, u32)>,
}

/// A disk.
pub struct Disk {
    transport: Transport,
    inner: SpinLock<Inner>,
    /// For room in the queue.
    room: Queue,
    features: u64,
    sectors: u64,
    max_pages: usize,
    max_segment: usize,
    max_discard: u32,
    max_zero: u32,
}

impl Disk {
    /// Starts the driver.
    pub fn start(transport: Transport) -> Result<Arc<Disk>, Error> {
        let wanted = feature::SIZE_MAX
            | feature::SEG_MAX
            | feature::RO
            | feature::FLUSH
            | feature::DISCARD
            | feature::WRITE_ZEROES;
        let features = transport.negotiate(0, wanted)?;
        let queue = transport.queue(0, QUEUE_SIZE, features)?;
        let headers = DmaBuffer::alloc(SLOTS * SLOT).map_err(|_| Error::OutOfMemory)?;
        let sectors = transport.config_u64(0);
        let limits = transport.config_u64(8);
        let (size_max, seg_max) = (limits as u32 as usize, (limits >> 32) as usize);
        let has = |bit: u64| features & bit != 0;
        // A segment is at least a page, or there can be no request at all.
        if has(feature::SIZE_MAX) && size_max < PAGE {
            return Err(Error::Features);
        }
        let max_pages = if has(feature::SEG_MAX) { seg_max.clamp(1, MAX_PAGES) } else { 1 };
        let max_discard = if has(feature::DISCARD) { transport.config_u64(36) as u32 } else { 0 };
        let max_zero = if has(feature::WRITE_ZEROES) { transport.config_u64(48) as u32 } else { 0 };
        let inner = Inner {
            queue,
            headers,
            slots: (0..SLOTS).map(|_| None).collect(),
            heads: alloc::vec![0; QUEUE_SIZE.into()],
        };
        let disk = Arc::new(Disk {
            transport,
            inner: SpinLock::new(inner),
            room: WaitQueue::new(),
            features,
            sectors,
            max_pages,
            max_segment: if has(feature::SIZE_MAX) { size_max } else { MAX_PAGES * PAGE },
            max_discard,
            max_zero,
        });
        super::register(disk.transport.gsi, disk.clone());
        disk.transport.start();
        Ok(disk)
    }

    /// Makes a request available; false if there is no room.
    fn push(&self, request: &Request<'_>, batch: &Arc<Batch>) -> bool {
        let mut guard = self.inner.lock();
        let inner = &mut *guard;
        let Some(slot) = inner.slots.iter().position(Option::is_none) else { return false };
        let at = slot * SLOT;
        let phys = inner.headers.phys() + at as u64;
        let mut header = [0; RANGE_AT];
        header[..4].copy_from_slice(&request.kind.to_le_bytes());
        header[8..].copy_from_slice(&request.sector.to_le_bytes());
        inner.headers.write(at, &header);
        inner.headers.write(at + STATUS_AT, &[0xff]);
        let mut buffers: SmallVec<[Buffer; 8]> = SmallVec::new();
        buffers.push(Buffer { phys, len: RANGE_AT as u32, writable: false });
        if let Some((sectors, flags)) = request.range {
            let mut range = [0; RANGE_LEN];
            range[..8].copy_from_slice(&request.sector.to_le_bytes());
            range[8..12].copy_from_slice(&sectors.to_le_bytes());
            range[12..].copy_from_slice(&flags.to_le_bytes());
            inner.headers.write(at + RANGE_AT, &range);
            buffers.push(Buffer { phys: phys + RANGE_AT as u64, len: RANGE_LEN as u32, writable: false });
        }
        let writable = matches!(request.kind, kind::IN | kind::GET_ID);
        let mut left = request.len;
        for frame in request.frames {
            let (at, len) = (frame.pfn() * PAGE as u64, left.min(PAGE));
            left -= len;
            // The header ends within a page, so it is no neighbour.
            let last = buffers.last_mut().filter(|b| b.writable == writable);
            match last.filter(|b| (b.len as usize).is_multiple_of(PAGE)) {
                Some(last)
                    if last.phys + u64::from(last.len) == at
                        && last.len as usize + len <= self.max_segment =>
                {
                    last.len += len as u32;
                }
                _ => buffers.push(Buffer { phys: at, len: len as u32, writable }),
            }
        }
        buffers.push(Buffer { phys: phys + STATUS_AT as u64, len: 1, writable: true });
        let Some(head) = inner.queue.push(&buffers) else { return false };
        batch.left.fetch_add(1, Ordering::Relaxed);
        let frames = request.frames.iter().cloned().collect();
        if let (Some(place), Some(known)) =
            (inner.slots.get_mut(slot), inner.heads.get_mut(usize::from(head)))
        {
            *place = Some(Pending { _frames: frames, batch: batch.clone() });
            *known = slot as u8;
        }
        true
    }

    /// Tells the device of what was pushed.
    fn kick(&self) {
        let mut inner = self.inner.lock();
        if inner.queue.needs_notify() {
            self.transport.notify(&inner.queue);
        }
    }

    /// Makes requests and waits for all of them. `EIO` if one failed; `EINTR`: killed, if that may end it.
    fn run<'a>(
        &self,
        task: &TaskRef,
        how: Interruptible,
        requests: impl Iterator<Item = Request<'a>>,
    ) -> Result<()> {
        let batch = Arc::new(Batch {
            left: AtomicUsize::new(0),
            failed: AtomicBool::new(false),
            done: WaitQueue::new(),
        });
        for request in requests {
            let push = || {
                let pushed = self.push(&request, &batch);
                if !pushed {
                    self.kick();
                }
                pushed.then_some(())
            };
            wait_event(task, &self.room, how, None, push).map_err(|_| Errno::EINTR)?;
        }
        self.kick();
        let answered = || (batch.left.load(Ordering::Acquire) == 0).then_some(());
        wait_event(task, &batch.done, how, None, answered).map_err(|_| Errno::EINTR)?;
        if batch.failed.load(Ordering::Acquire) { Err(Errno::EIO) } else { Ok(()) }
    }

    /// The requests that move `frames` to or from the pages from `index` on; what lies beyond the end is left out.
    fn pages<'a>(&self, kind: u32, index: u64, frames: &'a [Frame]) -> impl Iterator<Item = Request<'a>> {
        let end = self.sectors;
        let per_request = self.max_pages;
        frames.chunks(per_request).enumerate().filter_map(move |(i, frames)| {
            let sector = (index + (i * per_request) as u64).checked_mul(SECTORS_PER_PAGE)?;
            let room = end.saturating_sub(sector).saturating_mul(SECTOR);
            let len = ((frames.len() * PAGE) as u64).min(room) as usize;
            let frames = frames.get(..len.div_ceil(PAGE))?;
            (len > 0).then_some(Request { kind, sector, frames, len, range: None })
        })
    }

    /// Takes what the device has answered.
    fn complete(&self) {
        let mut ended: SmallVec<[Pending; SLOTS]> = SmallVec::new();
        {
            let mut guard = self.inner.lock();
            let inner = &mut *guard;
            while let Some((head, _)) = inner.queue.pop() {
                let Some(slot) = inner.heads.get(usize::from(head)).map(|s| usize::from(*s)) else {
                    continue;
                };
                let Some(pending) = inner.slots.get_mut(slot).and_then(Option::take) else { continue };
                let mut status = [0];
                inner.headers.read(slot * SLOT + STATUS_AT, &mut status);
                if status != [0] {
                    pending.batch.failed.store(true, Ordering::Release);
                }
                ended.push(pending);
            }
        }
        if ended.is_empty() {
            return;
        }
        for Pending { _frames, batch } in ended {
            drop(_frames);
            if batch.left.fetch_sub(1, Ordering::AcqRel) == 1 {
                batch.done.wake_all(PollEvents::empty());
            }
        }
        self.room.wake_all(PollEvents::empty());
    }
}

impl InterruptHandler for Disk {
    fn interrupt(&self) {
        self.transport.acknowledge();
        self.complete();
    }
}

impl Storage for Disk {
    fn sectors(&self) -> u64 {
        self.sectors
    }

    fn read_only(&self) -> bool {
        self.features & feature::RO != 0
    }

    fn read(&self, task: &TaskRef, index: u64, frames: &[Frame]) -> Result<()> {
        self.run(task, Interruptible::Killable, self.pages(kind::IN, index, frames))
    }

    fn write(&self, task: &TaskRef, runs: &[(u64, Vec<Frame>)]) -> Result<()> {
        let requests = runs.iter().flat_map(|(index, frames)| self.pages(kind::OUT, *index, frames));
        self.run(task, Interruptible::No, requests)
    }

    fn flush(&self, task: &TaskRef) -> Result<()> {
        if self.features & feature::FLUSH == 0 {
            return Ok(());
        }
        let flush = Request { kind: kind::FLUSH, sector: 0, frames: &[], len: 0, range: None };
        self.run(task, Interruptible::No, core::iter::once(flush))
    }

    fn erase(&self, task: &TaskRef, how: Erase, sector: u64, sectors: u64) -> Result<()> {
        let (kind, most, flags) = match how {
            Erase::Discard => (kind::DISCARD, self.max_discard, 0),
            Erase::Zero => (kind::WRITE_ZEROES, self.max_zero, 1),
        };
        if most == 0 {
            return Err(Errno::EOPNOTSUPP);
        }
        let end = sector.checked_add(sectors).filter(|end| *end <= self.sectors).ok_or(Errno::EINVAL)?;
        let starts = (sector..end).step_by(most as usize);
        self.run(
            task,
            Interruptible::Killable,
            starts.map(|sector| {
                let count = (end - sector).min(most.into()) as u32;
                Request { kind, sector, frames: &[], len: 0, range: Some((count, flags)) }
            }),
        )
    }

    fn identity(&self, task: &TaskRef) -> Result<[u8; ID_LEN]> {
        let frame = Frame::alloc_zeroed().map_err(|_| Errno::ENOMEM)?;
        let frames = core::slice::from_ref(&frame);
        let request = Request { kind: kind::GET_ID, sector: 0, frames, len: ID_LEN, range: None };
        self.run(task, Interruptible::Killable, core::iter::once(request))?;
        let mut id = [0; ID_LEN];
        frame.read(0, &mut id);
        Ok(id)
    }
}
