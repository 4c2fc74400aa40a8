//! The kernel heap.
//!
//! Small objects (up to 2 KiB) come from slabs: one-page arrays of objects of one size class, whose state is in
//! the frame's metadata ([`Slab`]). In front of them each CPU has a magazine, a short list of free objects of
//! each class, so that most allocations take no lock. A slab whose last object comes home gives its page
//! back. Anything larger is a block of 2^n contiguous frames.
//!
//! The heap may use the frames that user allocations leave in reserve. When even those are gone the allocation
//! fails, and Rust's answer to that is a panic: what programs can make the kernel allocate must be bounded above.
//!
//! Lock order: a class, then the frame allocator.

use super::frames::meta::{Meta, meta};
use super::frames::{self, MAX_ORDER};
use super::layout::{WINDOW_BASE, window_ptr};
use super::local::local;
use crate::sync::SpinLock;
use core::alloc::{GlobalAlloc, Layout};
use core::ptr::null_mut;
use core::sync::atomic::Ordering::Relaxed;

const SIZES: [u16; 13] = [16, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048];
const CLASSES: usize = SIZES.len();
const LARGEST: usize = SIZES[CLASSES - 1] as usize;

/// Smallest class for each size, in steps of 16 bytes.
const CLASS_OF: [u8; LARGEST / 16 + 1] = {
    let mut table = [0; LARGEST / 16 + 1];
    let (mut i, mut class) = (0, 0);
    while i < table.len() {
        if i * 16 > SIZES[class] as usize {
            class += 1;
        }
        table[i] = class as u8;
        i += 1;
    }
    table
};

/// Objects a magazine holds at most: about a page's worth, between 4 and 32.
const fn capacity(class: usize) -> usize {
    let n = 4096 / SIZES[class] as usize;
    if n > 32 {
        32
    } else if n < 4 {
        4
    } else {
        n
    }
}

/// A free object: the next one is stored in it.
type Object = *mut u8;

/// One CPU's free objects.
pub struct Magazines([Magazine; CLASSES]);

struct Magazine {
    head: Object,
    len: usize,
}

impl Magazines {
    pub(super) const fn new() -> Self {
        Self([const { Magazine { head: null_mut(), len: 0 } }; CLASSES])
    }
}

impl Magazine {
    /// # Safety
    /// `o` is a free object of this class.
    #[inline]
    unsafe fn push(&mut self, o: Object) {
        // SAFETY: objects are at least 16 bytes, 16-aligned, and this one is free.
        unsafe { o.cast::<Object>().write(self.head) };
        self.head = o;
        self.len += 1;
    }

    #[inline]
    fn pop(&mut self) -> Option<Object> {
        let o = self.head;
        if o.is_null() {
            return None;
        }
        // SAFETY: `push` stored the next one there.
        self.head = unsafe { o.cast::<Object>().read() };
        self.len -= 1;
        Some(o)
    }
}

/// The slabs of one class that have a free object, linked through their metadata; 0 is none.
struct Class {
    partial: u32,
}

static CENTRAL: [SpinLock<Class>; CLASSES] = [const { SpinLock::new(Class { partial: 0 }) }; CLASSES];

/// The state of a slab, kept in [`Meta::refs`]: objects in use, and 1 + index of the first free one (0: full).
/// A free object's first two bytes hold the same for the next one.
#[derive(Clone, Copy)]
struct Slab {
    used: u16,
    free: u16,
}

impl Slab {
    fn load(m: &Meta) -> Self {
        let v = m.refs.load(Relaxed);
        Self { used: v as u16, free: (v >> 16) as u16 }
    }
    fn store(self, m: &Meta) {
        m.refs.store(u32::from(self.used) | u32::from(self.free) << 16, Relaxed);
    }
}

impl Class {
    fn link(&mut self, pfn: u32) {
        let m = meta(pfn.into());
        m.next.store(self.partial, Relaxed);
        m.prev.store(0, Relaxed);
        if self.partial != 0 {
            meta(self.partial.into()).prev.store(pfn, Relaxed);
        }
        self.partial = pfn;
    }

    fn unlink(&mut self, pfn: u32) {
        let m = meta(pfn.into());
        let (next, prev) = (m.next.load(Relaxed), m.prev.load(Relaxed));
        match prev {
            0 => self.partial = next,
            p => meta(p.into()).next.store(next, Relaxed),
        }
        if next != 0 {
            meta(next.into()).prev.store(prev, Relaxed);
        }
    }

    /// Makes a slab of one new page.
    fn grow(&mut self, size: usize) -> Option<()> {
        let phys = frames::alloc_page(false)?;
        let count = 4096 / size;
        for i in 0..count {
            let next = if i + 1 < count { i as u16 + 2 } else { 0 };
            // SAFETY: inside the page, which is ours.
            unsafe { window_ptr::<u8>(phys).add(i * size).cast::<u16>().write(next) };
        }
        Slab { used: 0, free: 1 }.store(meta(phys >> 12));
        self.link((phys >> 12) as u32);
        Some(())
    }

    fn alloc(&mut self, size: usize) -> Option<Object> {
        if self.partial == 0 {
            self.grow(size)?;
        }
        let pfn = self.partial;
        let m = meta(pfn.into());
        let mut slab = Slab::load(m);
        let o = window_ptr::<u8>(u64::from(pfn) << 12).wrapping_add((usize::from(slab.free) - 1) * size);
        // SAFETY: a free object of this slab; its first bytes name the next.
        slab.free = unsafe { o.cast::<u16>().read() };
        slab.used += 1;
        slab.store(m);
        if slab.free == 0 {
            self.unlink(pfn);
        }
        Some(o)
    }

    /// # Safety
    /// `o` is an object of this class that nobody uses.
    unsafe fn free(&mut self, o: Object, size: usize) {
        let offset = o.addr() as u64 - WINDOW_BASE;
        let pfn = (offset >> 12) as u32;
        let m = meta(pfn.into());
        let mut slab = Slab::load(m);
        assert!(slab.used != 0, "heap object freed twice");
        if slab.free == 0 {
            self.link(pfn);
        }
        // SAFETY: by the caller.
        unsafe { o.cast::<u16>().write(slab.free) };
        slab.free = ((offset & 4095) as usize / size) as u16 + 1;
        slab.used -= 1;
        slab.store(m);
        // The only partial slab stays, so that one object going back and forth does not move pages.
        if slab.used == 0 && (m.next.load(Relaxed) != 0 || m.prev.load(Relaxed) != 0) {
            self.unlink(pfn);
            m.refs.store(0, Relaxed);
            frames::free_page(u64::from(pfn) << 12);
        }
    }
}

/// Where an allocation comes from.
enum Source {
    Class(usize),
    /// 2^order pages; more than [`MAX_ORDER`] is refused later.
    Pages(usize),
}

#[inline]
fn source(layout: Layout) -> Source {
    let (size, align) = (layout.size(), layout.align());
    if size <= LARGEST && align <= LARGEST {
        let class = usize::from(CLASS_OF[size.div_ceil(16)]);
        if align <= 16 {
            return Source::Class(class);
        }
        // Objects are aligned to what divides their size, because slabs are.
        if let Some(c) = (class..CLASSES).find(|c| usize::from(SIZES[*c]).is_multiple_of(align)) {
            return Source::Class(c);
        }
    }
    Source::Pages(size.max(align).div_ceil(4096).next_power_of_two().ilog2() as usize)
}

/// The global allocator.
pub struct Heap;

#[global_allocator]
static HEAP: Heap = Heap;

/// This CPU's magazine of a class.
fn with_magazine<R>(class: usize, f: impl FnOnce(&mut Magazine) -> R) -> R {
    // SAFETY: only the owning CPU touches it, interrupts are off, and `f` does not allocate.
    f(unsafe { &mut (*local().heap.get()).0[class] })
}

#[cold]
fn refill(m: &mut Magazine, class: usize) {
    let mut central = CENTRAL[class].lock();
    for _ in 0..capacity(class) / 2 {
        let Some(o) = central.alloc(SIZES[class].into()) else { return };
        // SAFETY: just taken from the slabs of this class.
        unsafe { m.push(o) };
    }
}

#[cold]
fn spill(m: &mut Magazine, class: usize) {
    let mut central = CENTRAL[class].lock();
    for _ in 0..capacity(class) / 2 {
        let Some(o) = m.pop() else { return };
        // SAFETY: an object of this class that was in the magazine, so free.
        unsafe { central.free(o, SIZES[class].into()) };
    }
}

// SAFETY: objects of a class and blocks of frames are handed out once until they come back, are as large and
// aligned as the layout asks, and stay mapped.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        match source(layout) {
            Source::Class(class) => with_magazine(class, |m| {
                if m.head.is_null() {
                    refill(m, class);
                }
                m.pop().unwrap_or(null_mut())
            }),
            Source::Pages(order) if order <= MAX_ORDER => {
                frames::alloc_block(order, false, false).map_or(null_mut(), window_ptr)
            }
            Source::Pages(_) => null_mut(),
        }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        match source(layout) {
            Source::Class(class) => with_magazine(class, |m| {
                if m.len >= capacity(class) {
                    spill(m, class);
                }
                // SAFETY: by the caller `ptr` came from `alloc` with this layout, so from this class.
                unsafe { m.push(ptr) };
            }),
            Source::Pages(order) => frames::free_block(ptr.addr() as u64 - WINDOW_BASE, order),
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if let Source::Pages(order @ ..=MAX_ORDER) = source(layout) {
            return frames::alloc_block(order, true, false).map_or(null_mut(), window_ptr);
        }
        // SAFETY: by the caller; the block has `layout.size()` bytes.
        unsafe {
            let p = self.alloc(layout);
            if !p.is_null() {
                p.write_bytes(0, layout.size());
            }
            p
        }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: by the caller the new size does not overflow when rounded up.
        let new = unsafe { Layout::from_size_align_unchecked(new_size, layout.align()) };
        match (source(layout), source(new)) {
            (Source::Class(a), Source::Class(b)) if a == b => return ptr,
            (Source::Pages(a), Source::Pages(b)) if a == b => return ptr,
            _ => {}
        }
        // SAFETY: by the caller; both blocks have the bytes that are copied.
        unsafe {
            let p = self.alloc(new);
            if !p.is_null() {
                core::ptr::copy_nonoverlapping(ptr, p, layout.size().min(new_size));
                self.dealloc(ptr, layout);
            }
            p
        }
    }
}
