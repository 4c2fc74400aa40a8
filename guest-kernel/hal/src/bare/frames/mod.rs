//! Page frames: who owns which 4 KiB of RAM.
//!
//! Three layers: the buddy allocator ([`buddy`]) under a spin lock; a small cache of single frames for each
//! CPU, so that most page faults take no lock; and [`Frame`], a counted reference for user pages and page
//! cache. Page tables, kernel stacks and the heap take frames without that count.
//!
//! * **User allocations leave a reserve.** [`Frame`]s, page tables and stacks fail while fewer than
//!   [`reserve`] frames are free; the heap, which cannot fail without ending the sandbox, may use them.
//! * **Zero is known.** RAM arrives zeroed, and a frame that was never used is not cleared again ([`meta`]), nor is a page
//!   table that was given back empty.
//! * Lock order: page tables, then the allocator; nothing is locked inside it.

mod buddy;
mod frame;
mod held;
pub(super) mod huge;
pub(super) mod meta;

use super::boot::MemoryMap;
use super::layout::window_ptr;
use super::local::{self, local};
use super::{mem, power};
use crate::sync::{Once, SpinLock};
use buddy::Buddy;
use core::ops::Range;
use core::sync::atomic::{AtomicUsize, Ordering};
use meta::{flag, state};

pub use crate::types::FrameStats as Stats;
pub use buddy::MAX_ORDER;
pub use frame::Frame;
pub use held::Held;
pub use huge::HugeFrame;

static BUDDY: SpinLock<Buddy> = SpinLock::new(Buddy::new());
static TOTAL: AtomicUsize = AtomicUsize::new(0);
static RESERVE: AtomicUsize = AtomicUsize::new(0);
static TOUCHED: AtomicUsize = AtomicUsize::new(0);
static LOW_HOOK: Once<fn()> = Once::new();
static UNCHARGE_HOOK: Once<fn(u32, usize)> = Once::new();

/// Free frames of one CPU.
pub struct Cache {
    len: usize,
    pfns: [u32; CACHE],
}

const CACHE: usize = 64;
/// Frames moved between a cache and the allocator at once.
const BATCH: usize = 16;

impl Cache {
    pub(super) const fn new() -> Self {
        Self { len: 0, pfns: [0; CACHE] }
    }
}

/// This CPU's cache.
fn with_cache<R>(f: impl FnOnce(&mut Cache) -> R) -> R {
    // SAFETY: only the owning CPU touches it, interrupts are off, and `f` does not come back here.
    f(unsafe { &mut *local().frames.get() })
}

/// Takes over the free ranges (bytes, page-aligned). The metadata is put into the first that has room.
pub(super) fn init(map: &MemoryMap, free: &[Range<u64>]) {
    let end = map.ram().map(|r| r.end).max().unwrap_or(0).min(super::layout::WINDOW_LIMIT);
    let count = end >> 12;
    let bytes = (count * 16 + 4095) & !4095;
    let mut buddy = BUDDY.lock();
    let mut home = None;
    for r in free {
        let mut start = r.start;
        if home.is_none() && r.end - r.start > bytes {
            home = Some(start);
            start += bytes;
            meta::set(r.start, count);
        }
        buddy.add_untouched(start >> 12, r.end.min(super::layout::WINDOW_LIMIT) >> 12);
    }
    if home.is_none() {
        power::boot_failed("not enough memory");
    }
    let total = buddy.free_count();
    TOTAL.store(total, Ordering::Relaxed);
    // 1/64 of memory, at least 1 MiB, at most 32 MiB.
    RESERVE.store((total / 64).clamp(256, 8192), Ordering::Relaxed);
    if total < 1024 {
        power::boot_failed("not enough memory");
    }
}

/// Frames that user allocations leave free.
pub(super) fn reserve() -> usize {
    RESERVE.load(Ordering::Relaxed)
}

/// Has `hook` called whenever the heap has used up a quarter of the reserve. It is called with the allocator's lock
/// held, so it must do no more than set a flag.
pub fn on_low(hook: fn()) {
    LOW_HOOK.call_once(|| hook);
}

/// Has `hook(owner, frames)` called when frames with an owner ([`Frame::set_owner`]) are freed. It is called with
/// any lock held, so it takes none but leaves of its own.
pub fn on_uncharge(hook: fn(u32, usize)) {
    UNCHARGE_HOOK.call_once(|| hook);
}

#[cold]
fn uncharge(owner: u32, frames: usize) {
    if let Some(hook) = UNCHARGE_HOOK.get() {
        hook(owner, frames);
    }
}

/// Whether the heap lives on the reserve.
pub fn is_low() -> bool {
    BUDDY.lock().free_count() < reserve()
}

/// Tells the kernel when a kernel allocation leaves little.
fn check_low(buddy: &Buddy) {
    if buddy.free_count() < reserve() - reserve() / 4
        && let Some(hook) = LOW_HOOK.get()
    {
        hook();
    }
}

/// Takes one frame: its number, and whether its content may be other than zero. `user`: leave the reserve.
#[inline]
fn take(user: bool) -> Option<(u64, bool)> {
    let pfn = with_cache(|c| {
        if c.len == 0 {
            refill(c, user);
        }
        c.len = c.len.checked_sub(1)?;
        Some(u64::from(c.pfns[c.len]))
    })?;
    let m = meta::meta(pfn);
    let dirty = m.has(flag::DIRTY);
    if !m.has(flag::TOUCHED) {
        TOUCHED.fetch_add(1, Ordering::Relaxed);
    }
    m.change(flag::DIRTY | flag::TOUCHED, 0);
    m.set_state(state::USED);
    m.order.store(0, Ordering::Relaxed);
    Some((pfn, dirty))
}

#[cold]
fn refill(c: &mut Cache, user: bool) {
    let mut buddy = BUDDY.lock();
    if user && buddy.free_count() < reserve() + BATCH {
        return;
    }
    if !user {
        check_low(&buddy);
    }
    // The last one taken is handed out first: fill downwards, so that frames come out in address order.
    let mut got = [0u32; BATCH];
    let mut n = 0;
    while n < BATCH {
        let Some(pfn) = buddy.alloc(0) else { break };
        meta::meta(pfn).set_state(state::CACHED);
        got[n] = pfn as u32;
        n += 1;
    }
    for (slot, pfn) in c.pfns.iter_mut().zip(got[..n].iter().rev()) {
        *slot = *pfn;
    }
    c.len = n;
}

/// A frame with any content; its physical address.
pub(super) fn alloc_page(user: bool) -> Option<u64> {
    take(user).map(|(pfn, _)| pfn << 12)
}

/// A zeroed frame with `refs` 0; its physical address.
pub(super) fn alloc_page_zeroed(user: bool) -> Option<u64> {
    let (pfn, dirty) = take(user)?;
    meta::meta(pfn).refs.store(0, Ordering::Relaxed);
    if dirty {
        // SAFETY: the frame is ours, and the window maps it.
        unsafe { mem::clear_pages(window_ptr(pfn << 12), 4096) };
    }
    Some(pfn << 12)
}

/// Gives a single frame back.
pub(super) fn free_page(phys: u64) {
    let pfn = phys >> 12;
    let m = meta::meta(pfn);
    assert!(m.state() == state::USED && m.order() == 0, "frame {pfn:#x} freed twice");
    m.set_state(state::CACHED);
    with_cache(|c| {
        if c.len == CACHE {
            let mut buddy = BUDDY.lock();
            // The oldest go.
            for pfn in &c.pfns[..BATCH] {
                buddy.free(u64::from(*pfn), 0);
            }
            c.pfns.copy_within(BATCH.., 0);
            c.len -= BATCH;
        }
        c.pfns[c.len] = pfn as u32;
        c.len += 1;
    });
}

/// Gives a single frame back that is all zero again.
pub(super) fn free_zeroed_page(phys: u64) {
    meta::meta(phys >> 12).change(0, flag::DIRTY);
    free_page(phys);
}

/// 2^order contiguous frames, zeroed if asked for; the physical address.
pub(super) fn alloc_block(order: usize, zeroed: bool, user: bool) -> Option<u64> {
    if order == 0 {
        return if zeroed { alloc_page_zeroed(user) } else { alloc_page(user) };
    }
    let pfn = {
        let mut buddy = BUDDY.lock();
        if user && buddy.free_count() < reserve() + (1 << order) {
            return None;
        }
        if !user {
            check_low(&buddy);
        }
        buddy.alloc(order)?
    };
    let mut touched = 0;
    for p in pfn..pfn + (1 << order) {
        let m = meta::meta(p);
        if zeroed && m.has(flag::DIRTY) {
            // SAFETY: as in `alloc_page_zeroed`.
            unsafe { mem::clear_pages(window_ptr(p << 12), 4096) };
        }
        touched += usize::from(!m.has(flag::TOUCHED));
        m.change(flag::DIRTY | flag::TOUCHED, 0);
    }
    TOUCHED.fetch_add(touched, Ordering::Relaxed);
    Some(pfn << 12)
}

/// Gives back what [`alloc_block`] handed out.
pub(super) fn free_block(phys: u64, order: usize) {
    if order == 0 {
        return free_page(phys);
    }
    let m = meta::meta(phys >> 12);
    assert!(m.state() == state::USED && m.order() == order, "block {phys:#x} freed wrongly");
    BUDDY.lock().free(phys >> 12, order);
}

/// Page frames there are.
pub fn total() -> usize {
    TOTAL.load(Ordering::Relaxed)
}

/// Counts of page frames now.
pub fn stats() -> Stats {
    let mut free = BUDDY.lock().free_count();
    let mut user = 0;
    for cpu in local::all() {
        // SAFETY: a racy read of a length that the owner may be changing: a plain aligned word.
        free += unsafe { (&raw const (*cpu.frames.get()).len).read_volatile() };
        user += cpu.user_pages.load(Ordering::Relaxed);
    }
    Stats {
        total: total(),
        free,
        touched: TOUCHED.load(Ordering::Relaxed),
        user: usize::try_from(user).unwrap_or(0),
    }
}

/// Free page reporting: up to `max` times takes a free block of at least `2^min_order` pages the host was not
/// told about, and calls `f` with its physical address and length in bytes. Nobody can allocate the block
/// meanwhile. If `f` says true the host has it, and it is not reported again before it was used; if it says
/// false we stop. Returns how many blocks were reported.
pub fn report_free(min_order: u32, max: usize, mut f: impl FnMut(u64, usize) -> bool) -> usize {
    for reported in 0..max {
        let Some((pfn, order)) = BUDDY.lock().isolate_unreported(min_order as usize) else { return reported };
        let done = f(pfn << 12, 4096 << order);
        if done {
            untouch(pfn, order);
        }
        BUDDY.lock().put_back(pfn, order, done);
        if !done {
            return reported;
        }
    }
    max
}

/// The host has the memory of a block: it is not touched any more.
fn untouch(pfn: u64, order: usize) {
    let mut given = 0;
    for p in pfn..pfn + (1 << order) {
        let m = meta::meta(p);
        given += usize::from(m.has(flag::TOUCHED));
        m.change(0, flag::TOUCHED);
    }
    TOUCHED.fetch_sub(given, Ordering::Relaxed);
}
