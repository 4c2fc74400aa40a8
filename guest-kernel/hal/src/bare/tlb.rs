//! Keeping other CPUs' TLBs in step with the page tables.
//!
//! Each [`AddressSpace`] knows which CPUs have it in CR3. Whoever changes an entry that a TLB may hold calls
//! [`flush`] before it releases the frame. For each other CPU of the space that posts a request in the CPU's
//! block, sends an interrupt, and waits for the answer. The target answers in the interrupt (it was in user
//! mode or asleep), or while it spins on anything: every waiting loop of the kernel calls [`serve`], so two CPUs that
//! flush each other, or one that waits for a lock the other holds, cannot deadlock.
//!
//! **Lazy CPUs.** A CPU that runs a kernel thread or idles keeps the last user space in CR3 and says so in
//! `lazy`. It does not touch user memory, so it gets no interrupt: the space's generation is higher when
//! it wants to use the space again, and it flushes then. Between the two sides: the flusher raises the
//! generation, then reads `lazy`; the target clears `lazy`, then reads the generation, all sequentially
//! consistent, so one of them sees the other. Only when page tables themselves are freed are lazy CPUs
//! interrupted too, because the processor may walk them on its own at any time.

use super::local::{self, Local, local};
use super::space::AddressSpace;
use super::{apic, paging, steal};
use crate::PAGE_SIZE;
use core::ops::Range;
use core::ptr::null;
use core::sync::atomic::Ordering::{Acquire, Release, SeqCst};

/// Rounds of waiting after which a CPU that does not answer is offered our time.
const PATIENCE: u32 = 64;
/// Longer ranges flush everything.
const SINGLE_PAGES: u64 = 32;

/// Answers requests posted to this CPU, if there are any.
#[inline]
pub fn serve() {
    let l = local();
    if l.flush_wanted.load(Acquire) != l.flush_done.load(Acquire) {
        answer(l);
    }
}

#[cold]
fn answer(l: &Local) {
    let wanted = l.flush_wanted.load(SeqCst);
    let space = l.space.get();
    if l.flush_kernel.swap(false, SeqCst) {
        paging::flush_all();
    }
    if l.leave_space.swap(false, SeqCst) && l.lazy.load(SeqCst) {
        // The space is about to be freed.
        load_kernel_root(l);
    } else if !space.is_null() {
        // SAFETY: a space in CR3 is not freed before this CPU has left it (`evict`).
        l.space_seen.set(unsafe { &*space }.generation.load(SeqCst));
        paging::flush_user();
    }
    l.flush_done.store(wanted, Release);
}

/// After entries of `space` in `range` were removed or lost permissions: returns when no CPU uses them any more.
/// `tables`: page tables were unlinked, too.
pub fn flush(space: &AddressSpace, range: Range<u64>, tables: bool) {
    let generation = space.generation.fetch_add(1, SeqCst) + 1;
    let l = local();
    if core::ptr::eq(l.space.get(), space) {
        let pages = (range.end - range.start) / PAGE_SIZE as u64;
        if pages <= SINGLE_PAGES && !tables && l.space_seen.get() + 1 == generation {
            for va in range.step_by(PAGE_SIZE) {
                paging::flush_page(va);
            }
        } else {
            paging::flush_user();
        }
        l.space_seen.set(generation);
    }
    let others = space.cpus.load(SeqCst) & !(1 << l.id.get());
    if others != 0 {
        let running =
            |id, target: &Local| (tables || !target.lazy.load(SeqCst)) && !steal::flush_when_it_runs(id);
        request(others, running, |_| {}, steal::flush_when_it_runs);
    }
}

/// Before `space` is freed: makes every CPU that keeps it lazily leave it.
pub fn evict(space: &AddressSpace) {
    let l = local();
    if core::ptr::eq(l.space.get(), space) {
        load_kernel_root(l);
    }
    let others = space.cpus.load(SeqCst);
    if others != 0 {
        request(others, |_, _| true, |target| target.leave_space.store(true, SeqCst), |_| false);
    }
    // The last reference is gone, so no thread of the space runs or will: whoever had it was lazy.
    assert!(space.cpus.load(SeqCst) == 0, "address space in use while it is freed");
}

/// After mappings of the kernel half were removed: returns when no CPU uses them any more.
pub fn flush_kernel() {
    paging::flush_all();
    let others = !(1 << local().id.get());
    request(others, |_, _| true, |target| target.flush_kernel.store(true, SeqCst), |_| false);
}

/// Posts a request to the CPUs in the mask that pass the filter, and waits for the answers, or until `settled` says that
/// the answer of one does not matter any more.
fn request(
    cpus: u64,
    filter: impl Fn(usize, &Local) -> bool,
    post: impl Fn(&Local),
    settled: impl Fn(usize) -> bool,
) {
    let mut waiting = [0u64; crate::cpu::MAX];
    let mut asked = 0u64;
    for (id, ticket) in waiting.iter_mut().enumerate() {
        if cpus >> id & 1 == 0 {
            continue;
        }
        let Some(target) = local::of(id).filter(|t| filter(id, t)) else { continue };
        post(target);
        *ticket = target.flush_wanted.fetch_add(1, SeqCst) + 1;
        asked |= 1 << id;
        apic::send(id, apic::FLUSH_VECTOR);
    }
    for (id, ticket) in waiting.iter().enumerate() {
        if asked >> id & 1 == 0 {
            continue;
        }
        let Some(target) = local::of(id) else { continue };
        let mut rounds = 0u32;
        while target.flush_done.load(Acquire) < *ticket && !settled(id) {
            serve();
            core::hint::spin_loop();
            rounds = rounds.wrapping_add(1);
            if rounds.is_multiple_of(PATIENCE) {
                steal::yield_to(id);
            }
        }
    }
}

fn load_kernel_root(l: &Local) {
    leave(l);
    l.space.set(null());
    // SAFETY: the kernel's root maps the kernel half, and nothing of a user half is in use here.
    unsafe { super::asm::set_cr3(paging::kernel_root()) };
}

/// Takes this CPU out of the mask of the space in CR3. The caller loads another root at once.
fn leave(l: &Local) {
    let old = l.space.get();
    if !old.is_null() {
        // SAFETY: as in `answer`.
        unsafe { &*old }.cpus.fetch_and(!(1 << l.id.get()), SeqCst);
    }
}

/// Makes `space` the one in CR3, for a thread of that space which stays current.
pub fn activate(space: &AddressSpace) {
    let l = local();
    l.space_active.set(true);
    if core::ptr::eq(l.space.get(), space) {
        if l.lazy.swap(false, SeqCst) {
            let generation = space.generation.load(SeqCst);
            if l.space_seen.get() != generation {
                l.space_seen.set(generation);
                paging::flush_user();
            }
        }
        return;
    }
    // In the new mask before CR3 (a flush after this is sent to us, one before it is in the tables we load);
    // out of the old one only after it.
    space.cpus.fetch_or(1 << l.id.get(), SeqCst);
    l.lazy.store(false, SeqCst);
    l.space_seen.set(space.generation.load(SeqCst));
    // SAFETY: the space's root maps the kernel half, and it stays until this CPU has left it.
    unsafe { super::asm::set_cr3(space.root()) };
    leave(l);
    l.space.set(space);
}

/// The current thread has no address space: keep the last one, unused.
pub fn deactivate() {
    let l = local();
    l.space_active.set(false);
    if !l.space.get().is_null() {
        l.lazy.store(true, SeqCst);
    }
}
