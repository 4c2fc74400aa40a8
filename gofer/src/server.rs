//! vhost-user, the virtqueues and the loop that serves them.
//!
//! The VMM sends, over a connected unix socket and once the guest's driver is ready: features, guest memory, then for each queue its
//! size, place and two eventfds. After that it says nothing, and the end of the socket is our end. `vhost` parses its messages.
//!
//! The queues are the guest's and hostile: `virtio-queue` follows no chain for longer than the queue is, and `vm-memory` checks each
//! range. A queue that is broken is not looked at again; the guest's requests in it get no answer, which harms nobody else.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};

use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FsCacheReqHandler, Reader, VirtioFsWriter, Writer};
use rustix::event::{PollFd, PollFlags, poll};
use vhost::vhost_user::message::{
    VhostTransferStateDirection, VhostTransferStatePhase, VhostUserConfigFlags, VhostUserInflight,
    VhostUserLog, VhostUserMemoryRegion, VhostUserProtocolFeatures, VhostUserSharedMsg,
    VhostUserSingleMemoryRegion, VhostUserVringAddrFlags, VhostUserVringState,
};
use vhost::vhost_user::{
    BackendReqHandler, Error as VhostError, GpuBackend, Result as VhostResult, VhostUserBackendReqHandlerMut,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address, GuestAddress, GuestAddressSpace, GuestMemory, GuestMemoryMmap, GuestRegionMmap};

use crate::fs::Gofer;

/// The hiprio queue (FORGET) and the request queue.
const QUEUES: usize = 2;
/// Largest size of a queue.
const QUEUE_SIZE: u16 = 1024;
/// `VIRTIO_F_VERSION_1` and `VIRTIO_RING_F_EVENT_IDX`.
const FEATURES: u64 = 1 << 32 | 1 << 29;
/// Requests of one queue served before the loop looks at everything else.
const BATCH: usize = 64;

pub(crate) type Memory = Arc<GuestMemoryMmap>;

/// One queue as the VMM has described it so far.
#[derive(Default)]
struct Ring {
    size: u16,
    /// Guest addresses of descriptor table, used ring, available ring.
    place: Option<(u64, u64, u64)>,
    base: u16,
    kick: Option<File>,
    call: Option<File>,
    /// Made when all of the above is there; `None` when it broke, too.
    queue: Option<Queue>,
}

/// What the VMM has told.
#[derive(Default)]
struct Backend {
    features: u64,
    /// Address of the VMM, guest address, length.
    mappings: Vec<(u64, u64, u64)>,
    memory: Option<Memory>,
    rings: [Ring; QUEUES],
}

fn refused<T>() -> VhostResult<T> {
    Err(VhostError::InvalidOperation("not offered"))
}

impl Backend {
    fn ring(&mut self, index: usize) -> VhostResult<&mut Ring> {
        self.rings.get_mut(index).ok_or(VhostError::InvalidParam)
    }

    fn guest_address(&self, theirs: u64) -> VhostResult<u64> {
        let found = self.mappings.iter().find_map(|(at, guest, len)| {
            let within = theirs.checked_sub(*at)?;
            (within < *len).then_some(guest + within)
        });
        found.ok_or(VhostError::InvalidParam)
    }

    /// Starts a queue of which everything is known.
    fn start(&mut self, index: usize) -> VhostResult<()> {
        let (features, memory) = (self.features, self.memory.clone());
        let ring = self.ring(index)?;
        let (Some((desc, used, avail)), Some(memory), Some(_)) = (ring.place, memory, &ring.kick) else {
            return Ok(());
        };
        let queue = || -> Result<Queue, virtio_queue::Error> {
            let mut queue = Queue::new(QUEUE_SIZE)?;
            queue.try_set_size(ring.size)?;
            queue.try_set_desc_table_address(GuestAddress(desc))?;
            queue.try_set_avail_ring_address(GuestAddress(avail))?;
            queue.try_set_used_ring_address(GuestAddress(used))?;
            queue.set_event_idx(features & 1 << 29 != 0);
            queue.set_next_avail(ring.base);
            queue.set_next_used(ring.base);
            queue.set_ready(true);
            Ok(queue)
        };
        let queue = queue().map_err(|_| VhostError::InvalidParam)?;
        if !queue.is_valid(&*memory) {
            return Err(VhostError::InvalidParam);
        }
        ring.queue = Some(queue);
        Ok(())
    }
}

impl VhostUserBackendReqHandlerMut for Backend {
    fn set_owner(&mut self) -> VhostResult<()> {
        Ok(())
    }

    fn reset_owner(&mut self) -> VhostResult<()> {
        *self = Backend::default();
        Ok(())
    }

    fn reset_device(&mut self) -> VhostResult<()> {
        *self = Backend::default();
        Ok(())
    }

    fn get_features(&mut self) -> VhostResult<u64> {
        Ok(FEATURES)
    }

    fn set_features(&mut self, features: u64) -> VhostResult<()> {
        if features & !FEATURES != 0 {
            return Err(VhostError::InvalidParam);
        }
        self.features = features;
        Ok(())
    }

    fn set_mem_table(&mut self, table: &[VhostUserMemoryRegion], files: Vec<File>) -> VhostResult<()> {
        let (mut regions, mut mappings) = (Vec::new(), Vec::new());
        for (region, file) in table.iter().zip(files) {
            // Copies: the structure is packed.
            let (guest, len, theirs) = (region.guest_phys_addr, region.memory_size, region.user_addr);
            if guest.checked_add(len).is_none() {
                return Err(VhostError::InvalidParam);
            }
            let mapped = GuestRegionMmap::new(region.mmap_region(file)?, GuestAddress(guest));
            regions.push(mapped.ok_or(VhostError::InvalidParam)?);
            mappings.push((theirs, guest, len));
        }
        let memory = GuestMemoryMmap::from_regions(regions).map_err(|_| VhostError::InvalidParam)?;
        self.memory = Some(Arc::new(memory));
        self.mappings = mappings;
        Ok(())
    }

    fn set_vring_num(&mut self, index: u32, size: u32) -> VhostResult<()> {
        let size = u16::try_from(size).ok().filter(|n| n.is_power_of_two() && *n <= QUEUE_SIZE);
        self.ring(index as usize)?.size = size.ok_or(VhostError::InvalidParam)?;
        Ok(())
    }

    fn set_vring_addr(
        &mut self,
        index: u32,
        _: VhostUserVringAddrFlags,
        descriptors: u64,
        used: u64,
        available: u64,
        _: u64,
    ) -> VhostResult<()> {
        let place =
            (self.guest_address(descriptors)?, self.guest_address(used)?, self.guest_address(available)?);
        self.ring(index as usize)?.place = Some(place);
        Ok(())
    }

    fn set_vring_base(&mut self, index: u32, base: u32) -> VhostResult<()> {
        self.ring(index as usize)?.base = base as u16;
        Ok(())
    }

    fn get_vring_base(&mut self, index: u32) -> VhostResult<VhostUserVringState> {
        let ring = self.ring(index as usize)?;
        let base = ring.queue.take().map_or(ring.base, |queue| queue.next_avail());
        *ring = Ring { base, ..Ring::default() };
        Ok(VhostUserVringState::new(index, base.into()))
    }

    fn set_vring_kick(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.ring(index.into())?.kick = fd;
        self.start(index.into())
    }

    fn set_vring_call(&mut self, index: u8, fd: Option<File>) -> VhostResult<()> {
        self.ring(index.into())?.call = fd;
        Ok(())
    }

    fn set_vring_err(&mut self, _: u8, _: Option<File>) -> VhostResult<()> {
        Ok(())
    }

    fn get_protocol_features(&mut self) -> VhostResult<VhostUserProtocolFeatures> {
        refused()
    }

    fn set_protocol_features(&mut self, _: u64) -> VhostResult<()> {
        refused()
    }

    fn get_queue_num(&mut self) -> VhostResult<u64> {
        Ok(QUEUES as u64)
    }

    fn set_vring_enable(&mut self, _: u32, _: bool) -> VhostResult<()> {
        refused()
    }

    fn get_config(&mut self, _: u32, _: u32, _: VhostUserConfigFlags) -> VhostResult<Vec<u8>> {
        refused()
    }

    fn set_config(&mut self, _: u32, _: &[u8], _: VhostUserConfigFlags) -> VhostResult<()> {
        refused()
    }

    fn set_gpu_socket(&mut self, _: GpuBackend) -> VhostResult<()> {
        refused()
    }

    fn get_shared_object(&mut self, _: VhostUserSharedMsg) -> VhostResult<File> {
        refused()
    }

    fn get_inflight_fd(&mut self, _: &VhostUserInflight) -> VhostResult<(VhostUserInflight, File)> {
        refused()
    }

    fn set_inflight_fd(&mut self, _: &VhostUserInflight, _: File) -> VhostResult<()> {
        refused()
    }

    fn get_max_mem_slots(&mut self) -> VhostResult<u64> {
        refused()
    }

    fn add_mem_region(&mut self, _: &VhostUserSingleMemoryRegion, _: File) -> VhostResult<()> {
        refused()
    }

    fn remove_mem_region(&mut self, _: &VhostUserSingleMemoryRegion) -> VhostResult<()> {
        refused()
    }

    fn set_device_state_fd(
        &mut self,
        _: VhostTransferStateDirection,
        _: VhostTransferStatePhase,
        _: File,
    ) -> VhostResult<Option<File>> {
        refused()
    }

    fn check_device_state(&mut self) -> VhostResult<()> {
        refused()
    }

    fn set_log_base(&mut self, _: &VhostUserLog, _: File) -> VhostResult<()> {
        refused()
    }
}

/// Serves until the VMM hangs up. An error is one of the VMM's messages or of this host.
pub fn serve(socket: UnixStream, gofer: Gofer) -> io::Result<()> {
    let backend = Arc::new(Mutex::new(Backend::default()));
    let mut messages = BackendReqHandler::from_stream(socket, backend.clone());
    let server = Server::new(gofer);
    // Whether a queue may have more than was taken.
    let mut busy = [false; QUEUES];
    loop {
        let (called, kicked) = {
            let backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
            // SAFETY: `messages` owns the descriptor and is not touched while this borrow lives.
            let socket = unsafe { BorrowedFd::borrow_raw(messages.as_raw_fd()) };
            let mut fds = vec![PollFd::new(&socket, PollFlags::IN)];
            let kicks = backend.rings.iter().filter(|ring| ring.queue.is_some());
            fds.extend(kicks.filter_map(|ring| Some(PollFd::new(ring.kick.as_ref()?, PollFlags::IN))));
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match poll(&mut fds, busy.contains(&true).then_some(&none)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(e) => return Err(e.into()),
            }
            let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
            let called = ready.next().unwrap_or(false);
            let mut kicked = busy;
            for (ring, kicked) in backend.rings.iter().zip(&mut kicked) {
                *kicked |= ring.queue.is_some() && ring.kick.is_some() && ready.next().unwrap_or(false);
            }
            (called, kicked)
        };
        if called {
            match messages.handle_request() {
                Ok(()) => {}
                Err(VhostError::Disconnected | VhostError::PartialMessage | VhostError::SocketBroken(_)) => {
                    return Ok(());
                }
                Err(e) => return Err(io::Error::other(e.to_string())),
            }
        }
        let mut backend = backend.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(memory) = backend.memory.clone() else { continue };
        busy = [false; QUEUES];
        for ((ring, kicked), busy) in backend.rings.iter_mut().zip(kicked).zip(&mut busy) {
            if kicked {
                *busy = ring.work(&memory, &server);
            }
        }
    }
}

impl Ring {
    /// Serves what is there; true if there may be more.
    fn work(&mut self, memory: &Memory, server: &Server<Gofer>) -> bool {
        if let Some(kick) = &self.kick {
            // Nonblocking or not: it is readable, or an earlier turn has read it and left requests.
            let ready = PollFd::new(kick, PollFlags::IN);
            let none = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            if poll(&mut [ready], Some(&none)) == Ok(1) {
                let _ = rustix::io::read(kick.as_fd(), &mut [0u8; 8]);
            }
        }
        let Some(queue) = &mut self.queue else { return false };
        match requests(queue, memory, server, self.call.as_ref()) {
            Ok(more) => more,
            Err(_) => {
                self.queue = None;
                false
            }
        }
    }
}

/// At most [`BATCH`] requests.
pub(crate) fn requests(
    queue: &mut Queue,
    memory: &Memory,
    server: &Server<Gofer>,
    call: Option<&File>,
) -> Result<bool, virtio_queue::Error> {
    for _ in 0..BATCH {
        let mut next = queue.pop_descriptor_chain(memory.memory());
        if next.is_none() && queue.enable_notification(&**memory)? {
            next = queue.pop_descriptor_chain(memory.memory());
        }
        let Some(chain) = next else { return Ok(false) };
        let head = chain.head_index();
        let written = answer(&chain, memory, server);
        queue.add_used(&**memory, head, written)?;
        if queue.needs_notification(&**memory)?
            && let Some(call) = call
        {
            // Full counter: an interrupt is pending.
            let _ = rustix::io::write(call.as_fd(), &1u64.to_ne_bytes());
        }
    }
    Ok(true)
}

/// Serves one request; how many bytes of the answer were written.
fn answer(chain: &virtio_queue::DescriptorChain<Memory>, memory: &Memory, server: &Server<Gofer>) -> u32 {
    // What cannot be had as one slice is no request: guest memory has few regions.
    let in_memory = chain.clone().all(|d| {
        d.addr().checked_add(u64::from(d.len())).is_some() && memory.check_range(d.addr(), d.len() as usize)
    });
    if !in_memory {
        return 0;
    }
    let Ok(reader) = Reader::from_descriptor_chain(&**memory, chain.clone()) else { return 0 };
    let Ok(writer) = VirtioFsWriter::new(&**memory, chain.clone()) else { return 0 };
    let nothing: Option<&mut dyn FsCacheReqHandler> = None;
    // An error is a message that makes no sense: it has no answer.
    let written = server.handle_message(reader, Writer::VirtioFs(writer), nothing, None);
    written.ok().and_then(|n| u32::try_from(n).ok()).unwrap_or(0)
}
