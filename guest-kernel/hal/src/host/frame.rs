//! Page frames: heap pages with a limit and leak accounting.

use super::pmem::Region;
use super::user;
use super::world::world;
use crate::{HUGE_PAGES, OutOfMemory, PAGE_SHIFT, PAGE_SIZE, UserFault};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::Range;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock, Weak};

/// Frame numbers start here, as on a machine whose low megabyte is not ours.
const FIRST_PFN: u64 = 0x100;

static UNCHARGE_HOOK: OnceLock<fn(u32, usize)> = OnceLock::new();

pub(super) type Page = [u8; PAGE_SIZE];

/// The frames of a world.
pub(super) struct Pool {
    state: Mutex<PoolState>,
    /// Page-table pages that may still be made. Counted apart: the kernel's own memory has a reserve.
    tables: Mutex<usize>,
}

struct PoolState {
    limit: usize,
    /// Frames ever allocated are `FIRST_PFN .. FIRST_PFN + fresh`.
    fresh: usize,
    /// Allocated before and free now.
    free: BTreeSet<u64>,
    /// Free and reported to the host, which may have taken the memory back.
    reported: BTreeSet<u64>,
    live: BTreeMap<u64, Weak<Ram>>,
}

impl Pool {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(PoolState {
                limit,
                fresh: 0,
                free: BTreeSet::new(),
                reported: BTreeSet::new(),
                live: BTreeMap::new(),
            }),
            tables: Mutex::new(usize::MAX / 2),
        }
    }

    pub(super) fn take_table(&self) -> Result<(), OutOfMemory> {
        let mut tables = self.tables.lock().unwrap();
        *tables = tables.checked_sub(1).ok_or(OutOfMemory)?;
        Ok(())
    }

    pub(super) fn return_tables(&self, n: usize) {
        *self.tables.lock().unwrap_or_else(|e| e.into_inner()) += n;
    }

    pub(super) fn set_tables(&self, n: usize) {
        *self.tables.lock().unwrap() = n;
    }

    fn alloc(self: &Arc<Self>, data: Option<Box<Page>>) -> Result<Frame, OutOfMemory> {
        let mut s = self.state.lock().unwrap();
        if s.live.len() >= s.limit {
            return Err(OutOfMemory);
        }
        let pfn = match s.free.pop_last().or_else(|| s.reported.pop_last()) {
            Some(pfn) => pfn,
            None => {
                s.fresh += 1;
                FIRST_PFN + s.fresh as u64 - 1
            }
        };
        let ram = Arc::new(Ram { pfn, data: Mutex::new(data), owner: AtomicU32::new(0), pool: self.clone() });
        s.live.insert(pfn, Arc::downgrade(&ram));
        Ok(Frame(Kind::Ram(ram)))
    }

    /// A large page is there if there is room for it: blocks of frames are not modelled.
    fn alloc_huge(self: &Arc<Self>) -> Result<HugeFrame, OutOfMemory> {
        let room = {
            let s = self.state.lock().unwrap();
            s.limit.saturating_sub(s.live.len())
        };
        if room < HUGE_PAGES {
            return Err(OutOfMemory);
        }
        let frames: Result<Vec<Frame>, OutOfMemory> = (0..HUGE_PAGES).map(|_| self.alloc(None)).collect();
        frames.map(HugeFrame)
    }

    pub(super) fn in_use(&self) -> usize {
        self.state.lock().unwrap().live.len()
    }

    pub(super) fn set_limit(&self, limit: usize) {
        self.state.lock().unwrap().limit = limit;
    }

    /// The allocated frame with this number.
    pub(super) fn find(&self, pfn: u64) -> Option<Frame> {
        let s = self.state.lock().unwrap();
        s.live.get(&pfn)?.upgrade().map(|ram| Frame(Kind::Ram(ram)))
    }
}

/// A page of RAM. Its number goes back to the pool when the last reference is dropped.
struct Ram {
    pfn: u64,
    /// `None` while the page is all zero.
    data: Mutex<Option<Box<Page>>>,
    /// Who is charged for it.
    owner: AtomicU32,
    pool: Arc<Pool>,
}

impl Drop for Ram {
    fn drop(&mut self) {
        let mut s = self.pool.state.lock().unwrap_or_else(|e| e.into_inner());
        s.live.remove(&self.pfn);
        s.free.insert(self.pfn);
        drop(s);
        let owner = self.owner.load(Ordering::Relaxed);
        if owner != 0
            && let Some(hook) = UNCHARGE_HOOK.get()
        {
            hook(owner, 1);
        }
    }
}

#[derive(Clone)]
enum Kind {
    Ram(Arc<Ram>),
    Static(Arc<Region>, usize),
}

/// One reference to a 4 KiB page: of RAM, counted, or of a static physical region, not counted.
///
/// Offsets and lengths lie within the page; anything else is a bug in the caller and panics.
#[derive(Clone)]
pub struct Frame(Kind);

impl Frame {
    /// A new page, all zero.
    pub fn alloc_zeroed() -> Result<Self, OutOfMemory> {
        world().pool.alloc(None)
    }

    /// A new page with the content of `from`.
    pub fn alloc_copy(from: &Frame) -> Result<Self, OutOfMemory> {
        let mut data = Box::new([0; PAGE_SIZE]);
        from.read(0, &mut *data);
        world().pool.alloc(Some(data))
    }

    pub(super) fn of_region(region: Arc<Region>, page: usize) -> Self {
        Self(Kind::Static(region, page))
    }

    /// The physical page number.
    pub fn pfn(&self) -> u64 {
        match &self.0 {
            Kind::Ram(ram) => ram.pfn,
            Kind::Static(region, page) => (region.phys >> PAGE_SHIFT) + *page as u64,
        }
    }

    /// References to the page, page tables included. 1 means that the caller's is the only one. A page of a
    /// static region is never exclusive: `usize::MAX`.
    pub fn ref_count(&self) -> usize {
        match &self.0 {
            Kind::Ram(ram) => Arc::strong_count(ram),
            Kind::Static(..) => usize::MAX,
        }
    }

    /// Notes who is charged for the page, 0 for nobody: what the hook of [`frames::on_uncharge`] is told when the
    /// last reference goes. Only for a page of RAM that nobody else knows yet.
    pub fn set_owner(&self, owner: u32) {
        match &self.0 {
            Kind::Ram(ram) => ram.owner.store(owner, Ordering::Relaxed),
            Kind::Static(..) => panic!("a static page belongs to nobody"),
        }
    }

    /// Who is charged for the page; 0 for nobody.
    pub fn owner(&self) -> u32 {
        match &self.0 {
            Kind::Ram(ram) => ram.owner.load(Ordering::Relaxed),
            Kind::Static(..) => 0,
        }
    }

    /// A page of a static region: read-only and not counted.
    pub fn is_static(&self) -> bool {
        matches!(self.0, Kind::Static(..))
    }

    /// Copies out of the page.
    pub fn read(&self, off: usize, buf: &mut [u8]) {
        let range = in_page(off, buf.len());
        match &self.0 {
            Kind::Ram(ram) => match &*ram.data.lock().unwrap() {
                Some(data) => buf.copy_from_slice(&data[range]),
                None => buf.fill(0),
            },
            Kind::Static(region, page) => region.read(page * PAGE_SIZE + off, buf),
        }
    }

    /// Copies into the page.
    pub fn write(&self, off: usize, buf: &[u8]) {
        let range = in_page(off, buf.len());
        self.modify(|data| data[range].copy_from_slice(buf));
    }

    /// Clears part of the page.
    pub fn zero(&self, range: Range<usize>) {
        let range = in_page(range.start, range.end.checked_sub(range.start).expect("range"));
        self.modify(|data| data[range].fill(0));
    }

    /// Copies from the page to memory of the current address space.
    pub fn copy_to_user(&self, off: usize, dst: u64, len: usize) -> Result<(), UserFault> {
        let mut buf = vec![0; in_page(off, len).len()];
        self.read(off, &mut buf);
        user::copy_out(dst, &buf)
    }

    /// Copies memory of the current address space into the page. What was copied before a fault stays.
    pub fn copy_from_user(&self, off: usize, src: u64, len: usize) -> Result<(), UserFault> {
        let mut buf = vec![0; in_page(off, len).len()];
        let result = user::copy_in(&mut buf, src);
        let copied = result.map_or_else(|e| e.copied, |()| len);
        self.write(off, &buf[..copied]);
        result
    }

    /// Loads a word; `off` is a multiple of 4.
    pub fn load_u32(&self, off: usize) -> u32 {
        assert!(off.is_multiple_of(4), "unaligned");
        let mut b = [0; 4];
        self.read(off, &mut b);
        u32::from_ne_bytes(b)
    }

    /// Atomic compare-and-exchange of a word; `off` is a multiple of 4. The old value either way.
    pub fn cmpxchg_u32(&self, off: usize, old: u32, new: u32) -> Result<u32, u32> {
        assert!(off.is_multiple_of(4), "unaligned");
        let range = in_page(off, 4);
        self.modify(|data| {
            let mut word = [0; 4];
            word.copy_from_slice(&data[range.clone()]);
            let found = u32::from_ne_bytes(word);
            if found != old {
                return Err(found);
            }
            data[range].copy_from_slice(&new.to_ne_bytes());
            Ok(found)
        })
    }

    /// Runs `f` on the page's bytes, atomically for everybody else.
    pub(super) fn modify<R>(&self, f: impl FnOnce(&mut Page) -> R) -> R {
        match &self.0 {
            Kind::Ram(ram) => f(ram.data.lock().unwrap().get_or_insert_with(|| Box::new([0; PAGE_SIZE]))),
            Kind::Static(..) => panic!("a write to a page of a static, read-only region"),
        }
    }
}

/// 2 MiB of memory, as pages.
#[derive(Debug)]
pub struct HugeFrame(pub(super) Vec<Frame>);

impl HugeFrame {
    /// New memory, all zero, if there is enough.
    pub fn alloc_zeroed() -> Result<Self, OutOfMemory> {
        world().pool.alloc_huge()
    }

    /// As [`Frame::set_owner`], for all pages.
    pub fn set_owner(&self, owner: u32) {
        self.0.iter().for_each(|frame| frame.set_owner(owner));
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Frame({:#x})", self.pfn())
    }
}

fn in_page(off: usize, len: usize) -> Range<usize> {
    let end = off.checked_add(len).filter(|&end| end <= PAGE_SIZE);
    off..end.expect("an access beyond the end of a page")
}

/// Counts of frames, and giving free ones back to the host.
pub mod frames {
    use super::*;
    pub use crate::types::FrameStats as Stats;

    /// Counts of frames now.
    pub fn stats() -> Stats {
        let pool = world().pool.clone();
        let s = pool.state.lock().unwrap();
        let used = s.live.len();
        Stats {
            total: s.limit,
            free: s.limit.saturating_sub(used),
            touched: s.fresh - s.reported.len(),
            user: used,
        }
    }

    /// Page frames there are.
    pub fn total() -> usize {
        stats().total
    }

    /// Has `hook` called when the kernel's own allocations use up the reserve. Here they are not counted: never.
    pub fn on_low(_hook: fn()) {}

    /// Has `hook(owner, frames)` called when frames with an owner ([`Frame::set_owner`]) are freed. It is called
    /// with any lock held, so it takes none but leaves of its own.
    pub fn on_uncharge(hook: fn(u32, usize)) {
        let _ = UNCHARGE_HOOK.set(hook);
    }

    /// Whether the kernel's own allocations live on the reserve.
    pub fn is_low() -> bool {
        false
    }

    /// Frames that nobody uses. Here a block is one frame.
    #[derive(Debug)]
    pub struct Held(Frame);

    impl Held {
        /// Takes at most `frames` frames, a power of two of them. `None` if fewer than `keep` frames would be left.
        pub fn take(frames: usize, keep: usize) -> Option<Held> {
            let spare = stats().free.checked_sub(keep).filter(|spare| *spare > 0);
            spare.filter(|_| frames > 0)?;
            Frame::alloc_zeroed().ok().map(Held)
        }

        /// The host has taken their memory.
        pub fn set_given(&self) {}

        /// Number of the first.
        pub fn pfn(&self) -> u64 {
            self.0.pfn()
        }

        /// How many.
        pub fn frames(&self) -> usize {
            1
        }
    }

    /// Free page reporting: takes up to `max` free blocks of at least `2^min_order` pages that were used and
    /// not reported since out of reach, calls `f(physical address, bytes)` for each, and gives them back as
    /// reported if it returned `true`. Stops at the first `false`. Returns how many blocks were reported.
    pub fn report_free(min_order: u32, max: usize, mut f: impl FnMut(u64, usize) -> bool) -> usize {
        let pool = world().pool.clone();
        let block = 1u64 << min_order;
        let mut done = 0;
        let mut at = 0;
        while done < max {
            let mut s = pool.state.lock().unwrap();
            let starts: Vec<u64> =
                s.free.range(at..).copied().filter(|pfn| pfn.is_multiple_of(block)).collect();
            let whole = |first: &u64| (*first..first + block).all(|pfn| s.free.contains(&pfn));
            let Some(first) = starts.into_iter().find(whole) else { break };
            let pages = first..first + block;
            s.free.retain(|pfn| !pages.contains(pfn));
            drop(s);
            let reported = f(first << PAGE_SHIFT, (block as usize) << PAGE_SHIFT);
            let mut s = pool.state.lock().unwrap();
            if reported {
                s.reported.extend(pages)
            } else {
                s.free.extend(pages)
            }
            if !reported {
                break;
            }
            done += 1;
            at = first + block;
        }
        done
    }
}
