//! virtio-balloon (virtio 1.2, section 5.5): memory that the guest does not need goes back to the host.
//!
//! Two roads, one kernel task. *Free page reporting*: the task sleeps until something big has been freed
//! ([`memory_freed`]), lets it settle for [`PERIOD_NS`], takes free blocks the host does not know about off the
//! allocator, hands them to the device, and gives them back when the host has taken their memory. The *balloon*
//! ([`inflate`]): the host wants a number of pages for itself until it says otherwise.
//!
//! The device is set up when there is something to report, or when the host says that it wants something
//! ([`target_changed`], over the control channel; a driver that is not there hears no interrupt). An idle guest frees
//! nothing and arms no timer.

mod inflate;

use alloc::sync::Arc;
use core::sync::atomic::{AtomicBool, Ordering};

use ringfence_hal as hal;

use super::{
    InterruptHandler,
    virtio::{Buffer, CONFIG_CHANGED, Error, Transport, VirtQueue},
};
use crate::{
    TaskRef, sched,
    sync::{Interruptible, Once, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
};

pub use inflate::give_back;

/// VIRTIO_BALLOON_F_DEFLATE_ON_OOM.
const DEFLATE_ON_OOM: u64 = 1 << 2;
/// VIRTIO_BALLOON_F_REPORTING.
const REPORTING: u64 = 1 << 5;
/// Numbers of the queues while neither statistics nor hints are negotiated.
const INFLATE_QUEUE: u16 = 0;
const DEFLATE_QUEUE: u16 = 1;
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
    inflate: SpinLock<VirtQueue>,
    reporting: SpinLock<VirtQueue>,
    done: Queue,
}

static FREED: AtomicBool = AtomicBool::new(false);
static CHANGED: AtomicBool = AtomicBool::new(false);
/// Where the task waits for either.
static NEWS: Once<Queue> = Once::new();
static BALLOON: Once<Arc<Balloon>> = Once::new();

/// Somebody freed enough memory to be worth a report: a process ended, a large mapping went.
pub fn memory_freed() {
    if !FREED.swap(true, Ordering::AcqRel) {
        wake();
    }
}

/// The host wants another number of pages.
pub fn target_changed() {
    CHANGED.store(true, Ordering::Release);
    wake();
}

fn wake() {
    if let Some(queue) = NEWS.get() {
        queue.wake_all(PollEvents::empty());
    }
}

/// What the driver's task does, for ever: sets the device up when there is something to do, then does it.
pub fn run(task: &TaskRef, transport: Transport) -> Result<(), Error> {
    let news = NEWS.call_once(WaitQueue::new);
    wait_for_news(task, news, None);
    let balloon = start(transport)?;
    loop {
        if CHANGED.swap(false, Ordering::AcqRel) {
            balloon.follow_target(task, true);
        }
        if FREED.swap(false, Ordering::AcqRel) {
            balloon.report_all(task, news);
            balloon.follow_target(task, false);
        }
        wait_for_news(task, news, None);
    }
}

/// Sleeps until there is something to do; `until`: or then, and what was freed can wait for it.
fn wait_for_news(task: &TaskRef, news: &Queue, until: Option<u64>) {
    let freed = || until.is_none() && FREED.load(Ordering::Acquire);
    let woken = || (CHANGED.load(Ordering::Acquire) || freed()).then_some(());
    let _ = wait_event(task, news, Interruptible::No, until, woken); // the time has come, if nothing else
}

fn start(transport: Transport) -> Result<Arc<Balloon>, Error> {
    let features = transport.negotiate(REPORTING, DEFLATE_ON_OOM)?;
    let inflate = transport.queue(INFLATE_QUEUE, QUEUE_SIZE, features)?;
    let deflate = transport.queue(DEFLATE_QUEUE, QUEUE_SIZE, features)?;
    let reporting = transport.queue(REPORTING_QUEUE, QUEUE_SIZE, features)?;
    // The device may look at it as long as it lives, which is for ever.
    core::mem::forget(deflate);
    let gsi = transport.gsi;
    let balloon = Arc::new(Balloon {
        transport,
        inflate: SpinLock::new(inflate),
        reporting: SpinLock::new(reporting),
        done: WaitQueue::new(),
    });
    BALLOON.call_once(|| balloon.clone());
    super::register(gsi, balloon.clone());
    balloon.transport.start();
    Ok(balloon)
}

impl InterruptHandler for Balloon {
    fn interrupt(&self) {
        if self.transport.acknowledge() & CONFIG_CHANGED != 0 {
            target_changed();
        }
        self.done.wake_all(PollEvents::empty());
    }
}

impl Balloon {
    /// Reports what is free, in rounds, with a pause before each.
    fn report_all(&self, task: &TaskRef, news: &Queue) {
        let mut pause = PERIOD_NS;
        loop {
            wait_for_news(task, news, Some(hal::time::now().saturating_add(pause)));
            if CHANGED.swap(false, Ordering::AcqRel) {
                self.follow_target(task, true);
            }
            if !self.report(task) {
                return;
            }
            pause = PAUSE_NS;
        }
    }

    /// Reports one round of blocks; true if there may be more.
    fn report(&self, task: &TaskRef) -> bool {
        let reported = hal::frames::report_free(MIN_ORDER, BLOCKS_PER_ROUND, |phys, len| {
            sched::preempt_point(task);
            let buffer = Buffer { phys, len: len.min(u32::MAX as usize) as u32, writable: true };
            self.hand_over(task, &self.reporting, buffer)
        });
        reported == BLOCKS_PER_ROUND
    }

    /// Gives the device a buffer and waits until it is done with it.
    fn hand_over(&self, task: &TaskRef, queue: &SpinLock<VirtQueue>, buffer: Buffer) -> bool {
        let Some(_) = queue.lock().push(&[buffer]) else { return false };
        let notify = queue.lock().needs_notify();
        if notify {
            self.transport.notify(&queue.lock());
        }
        let answered = || queue.lock().pop();
        wait_event(task, &self.done, Interruptible::No, None, answered).is_ok()
    }
}
