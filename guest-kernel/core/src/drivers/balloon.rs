//! virtio-balloon (virtio 1.2, section 5.5), of which we use one thing: free page reporting.
//!
//! A kernel task sleeps until something big has been freed ([`memory_freed`]), lets it settle for
//! [`PERIOD_NS`], takes free blocks the host does not know about off the allocator, hands them to the device,
//! and gives them back when the host has taken their memory. An idle guest frees nothing and arms no timer.

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use ringfence_hal as hal;

use super::{
    InterruptHandler,
    virtio::{Buffer, Error, Transport, VirtQueue},
};
use crate::{
    TaskRef, sched,
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
};

/// VIRTIO_BALLOON_F_REPORTING.
const REPORTING: u64 = 1 << 5;
/// The reporting queue's number while neither statistics nor hints are negotiated.
const REPORTING_QUEUE: u16 = 2;
const QUEUE_SIZE: u16 = 16;
/// Blocks of 64 KiB and up: smaller ones cost more in requests than they give back.
const MIN_ORDER: u32 = 4;
/// Blocks reported in one round; what is left waits for the next, which then comes by itself.
const BLOCKS_PER_ROUND: usize = 256;
/// How often a busy guest reports, in nanoseconds.
const PERIOD_NS: u64 = 500_000_000;
/// The pause between rounds of one report: memory in many small pieces is back within seconds, and others get to work.
const PAUSE_NS: u64 = 20_000_000;

struct Balloon {
    transport: Transport,
    queue: SpinLock<VirtQueue>,
    done: Queue,
}

static FREED: AtomicBool = AtomicBool::new(false);
static FREED_QUEUE: Once<Queue> = Once::new();

/// Somebody freed enough memory to be worth a report: a process ended, a large mapping went.
pub fn memory_freed() {
    if !FREED.swap(true, Ordering::AcqRel)
        && let Some(queue) = FREED_QUEUE.get()
    {
        queue.wake_all(PollEvents::empty());
    }
}

/// What the driver's task does, for ever: sets the device up when there is something to report, then reports.
pub fn run(task: &TaskRef, transport: Transport) -> Result<(), Error> {
    let freed = FREED_QUEUE.call_once(WaitQueue::new);
    wait_for_freed(task, freed);
    let balloon = start(transport)?;
    loop {
        let mut pause = PERIOD_NS;
        loop {
            sched::sleep_ns(task, pause);
            if !balloon.report(task) {
                break;
            }
            pause = PAUSE_NS;
        }
        wait_for_freed(task, freed);
    }
}

fn wait_for_freed(task: &TaskRef, freed: &Queue) {
    let woken = || FREED.swap(false, Ordering::AcqRel).then_some(());
    let _ = wait_event(task, freed, Interruptible::No, None, woken); // it always comes
}

fn start(transport: Transport) -> Result<Arc<Balloon>, Error> {
    let features = transport.negotiate(REPORTING, 0)?;
    let inflate = transport.queue(0, QUEUE_SIZE, features)?;
    let deflate = transport.queue(1, QUEUE_SIZE, features)?;
    let queue = transport.queue(REPORTING_QUEUE, QUEUE_SIZE, features)?;
    // The device may look at them as long as it lives, which is for ever.
    core::mem::forget((inflate, deflate));
    let gsi = transport.gsi;
    let balloon = Arc::new(Balloon { transport, queue: SpinLock::new(queue), done: WaitQueue::new() });
    super::register(gsi, balloon.clone());
    balloon.transport.start();
    Ok(balloon)
}

impl InterruptHandler for Balloon {
    fn interrupt(&self) {
        self.transport.acknowledge();
        self.done.wake_all(PollEvents::empty());
    }
}

impl Balloon {
    /// Reports one round of blocks; true if there may be more.
    fn report(&self, task: &TaskRef) -> bool {
        let reported = hal::frames::report_free(MIN_ORDER, BLOCKS_PER_ROUND, |phys, len| {
            sched::preempt_point(task);
            let buffer = Buffer { phys, len: len.min(u32::MAX as usize) as u32, writable: true };
            let Some(_) = self.queue.lock().push(&[buffer]) else { return false };
            let notify = self.queue.lock().needs_notify();
            if notify {
                self.transport.notify(&self.queue.lock());
            }
            let answered = || self.queue.lock().pop();
            wait_event(task, &self.done, Interruptible::No, None, answered).is_ok()
        });
        reported == BLOCKS_PER_ROUND
    }
}
