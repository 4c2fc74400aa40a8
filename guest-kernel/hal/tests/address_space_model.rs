//! Random sequences of page-table operations on a family of two address spaces, compared with a model that
//! knows nothing of frames: each process has, for each page, a protection and a cell of bytes; private cells
//! are copied at the fork, shared ones are not.
//!
//! The fault handler is the smallest correct one: it fills private pages on demand and breaks copy-on-write.
#![allow(missing_docs)]

use proptest::prelude::*;
use ringfence_hal::host::{World, with_address_space};
use ringfence_hal::{Access, AddressSpace, ForkMode, Frame, PAGE_SIZE, PageFault, Prot, user};
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

const PAGES: u64 = 12;
/// Pages from here on are shared between the processes at a fork.
const FIRST_SHARED: u64 = 8;
const PAGE: u64 = PAGE_SIZE as u64;
/// Straddles page-table pages of several levels, so that the bare implementation can run the same test.
const BASE: u64 = 0x7ff_ffff_a000;
const RW: Prot = Prot::READ.union(Prot::WRITE);

#[derive(Debug, Clone)]
enum Op {
    /// `mmap` of a page: it becomes readable and writable on demand.
    Allow {
        process: bool,
        page: u64,
    },
    Unmap {
        process: bool,
        first: u64,
        count: u64,
    },
    /// `mprotect` to read-only or back.
    Protect {
        process: bool,
        first: u64,
        count: u64,
        writable: bool,
    },
    Write {
        process: bool,
        at: u64,
        len: u64,
        value: u8,
    },
    Read {
        process: bool,
        at: u64,
        len: u64,
    },
    /// `mremap` between private pages.
    Move {
        process: bool,
        from: u64,
        to: u64,
        count: u64,
    },
    /// The second process ends, and is forked from the first.
    Fork,
}

fn op() -> impl Strategy<Value = Op> {
    let range = (any::<bool>(), 0..PAGES, 1..PAGES);
    let bytes = (any::<bool>(), 0..PAGES * PAGE, 1..3 * PAGE);
    prop_oneof![
        4 => (any::<bool>(), 0..PAGES).prop_map(|(process, page)| Op::Allow { process, page }),
        1 => range.clone().prop_map(|(process, first, count)| Op::Unmap { process, first, count }),
        2 => (range, any::<bool>()).prop_map(|((process, first, count), writable)| Op::Protect {
            process,
            first,
            count,
            writable
        }),
        6 => (bytes.clone(), any::<u8>()).prop_map(|((process, at, len), value)| Op::Write {
            process,
            at,
            len,
            value
        }),
        4 => bytes.prop_map(|(process, at, len)| Op::Read { process, at, len }),
        1 => (any::<bool>(), 0..FIRST_SHARED, 0..FIRST_SHARED, 1..4u64)
            .prop_map(|(process, from, to, count)| Op::Move { process, from, to, count }),
        2 => Just(Op::Fork),
    ]
}

type Cell = Rc<RefCell<[u8; PAGE_SIZE]>>;

/// What a page is meant to be: the model, and at once the "vma" the fault handler asks.
#[derive(Clone)]
struct Vma {
    writable: bool,
    cell: Cell,
}

#[derive(Default)]
struct Process {
    vmas: RefCell<BTreeMap<u64, Vma>>,
}

struct Family {
    spaces: [Arc<AddressSpace>; 2],
    models: [Process; 2],
    /// What shared pages are backed by, as a page cache would.
    shared: RefCell<BTreeMap<u64, (Frame, Cell)>>,
}

impl Family {
    fn handle(&self, process: usize, fault: PageFault) -> bool {
        let page = (fault.addr - BASE) / PAGE;
        let va = BASE + page * PAGE;
        let vmas = self.models[process].vmas.borrow();
        let Some(vma) = vmas.get(&page) else { return false };
        if fault.access == Access::Write && !vma.writable {
            return false;
        }
        let space = &self.spaces[process];
        let prot = if vma.writable { RW } else { Prot::READ };
        match space.get(va) {
            None => {
                assert!(!fault.present);
                let frame = match page {
                    FIRST_SHARED.. => self.shared.borrow()[&page].0.clone(),
                    _ => Frame::alloc_zeroed().unwrap(),
                };
                space.map_new(va, frame, prot).unwrap();
            }
            Some(m) => {
                assert!(fault.present, "a fault on a mapped page says so");
                // One reference is the page table's, one is ours.
                let frame = match page < FIRST_SHARED && m.frame.ref_count() > 2 {
                    true => Frame::alloc_copy(&m.frame).unwrap(),
                    false => m.frame.clone(),
                };
                assert!(!space.replace(va, m.frame.pfn() + 1, frame.clone(), prot), "another frame expected");
                assert!(space.replace(va, m.frame.pfn(), frame, prot));
            }
        }
        true
    }

    fn in_process<R>(&self, process: usize, f: impl FnOnce() -> R) -> R {
        with_address_space(&self.spaces[process], &|fault| self.handle(process, fault), f)
    }

    /// How many of `len` bytes from `at` may be accessed.
    fn accessible(&self, process: usize, at: u64, len: u64, write: bool) -> u64 {
        let vmas = self.models[process].vmas.borrow();
        let ok = |page: u64| vmas.get(&page).is_some_and(|v| !write || v.writable);
        (0..len).take_while(|i| ok((at + i) / PAGE)).count() as u64
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Allow { process, page } => {
                let p = usize::from(process);
                let cell = match page {
                    FIRST_SHARED.. => self
                        .shared
                        .borrow_mut()
                        .entry(page)
                        .or_insert_with(|| (Frame::alloc_zeroed().unwrap(), new_cell()))
                        .1
                        .clone(),
                    _ => new_cell(),
                };
                self.models[p].vmas.borrow_mut().entry(page).or_insert(Vma { writable: true, cell });
            }
            Op::Unmap { process, first, count } => {
                let p = usize::from(process);
                let pages = first..PAGES.min(first + count);
                self.spaces[p].unmap(BASE + pages.start * PAGE..BASE + pages.end * PAGE);
                self.models[p].vmas.borrow_mut().retain(|page, _| !pages.contains(page));
            }
            Op::Protect { process, first, count, writable } => {
                let p = usize::from(process);
                let pages = first..PAGES.min(first + count);
                let prot = if writable { RW } else { Prot::READ };
                self.spaces[p].protect(BASE + pages.start * PAGE..BASE + pages.end * PAGE, prot);
                for (_, vma) in self.models[p].vmas.borrow_mut().range_mut(pages) {
                    vma.writable = writable;
                }
            }
            Op::Write { process, at, len, value } => {
                let p = usize::from(process);
                let expected = self.accessible(p, at, len, true);
                let bytes = vec![value; len as usize];
                let copied = match self.in_process(p, || user::copy_out(BASE + at, &bytes)) {
                    Ok(()) => len,
                    Err(e) => e.copied as u64,
                };
                assert_eq!(copied, expected);
                let vmas = self.models[p].vmas.borrow();
                for i in at..at + copied {
                    vmas[&(i / PAGE)].cell.borrow_mut()[(i % PAGE) as usize] = value;
                }
            }
            Op::Read { process, at, len } => self.check_read(usize::from(process), at, len),
            Op::Move { process, from, to, count } => {
                let p = usize::from(process);
                let mut vmas = self.models[p].vmas.borrow_mut();
                let apart = from + count <= to || to + count <= from;
                if !apart || from.max(to) + count > FIRST_SHARED {
                    return;
                }
                self.spaces[p].unmap(BASE + to * PAGE..BASE + (to + count) * PAGE);
                self.spaces[p].move_range(BASE + from * PAGE, BASE + to * PAGE, count * PAGE).unwrap();
                for i in 0..count {
                    vmas.remove(&(to + i));
                    if let Some(vma) = vmas.remove(&(from + i)) {
                        vmas.insert(to + i, vma);
                    }
                }
            }
            Op::Fork => {
                let child = AddressSpace::new().unwrap();
                let shared = BASE + FIRST_SHARED * PAGE;
                self.spaces[0].fork_range(&child, BASE..shared, ForkMode::CopyOnWrite).unwrap();
                self.spaces[0].fork_range(&child, shared..BASE + PAGES * PAGE, ForkMode::Share).unwrap();
                self.spaces[0].flush_all();
                assert_eq!(child.resident(), self.spaces[0].resident());
                self.spaces[1] = child;
                let mut vmas = self.models[0].vmas.borrow().clone();
                for (_, vma) in vmas.range_mut(..FIRST_SHARED) {
                    let copy = *vma.cell.borrow();
                    vma.cell = Rc::new(RefCell::new(copy));
                }
                *self.models[1].vmas.borrow_mut() = vmas;
            }
        }
    }

    fn check_read(&self, p: usize, at: u64, len: u64) {
        let expected = self.accessible(p, at, len, false);
        let mut bytes = vec![0; len as usize];
        let copied = match self.in_process(p, || user::copy_in(&mut bytes, BASE + at)) {
            Ok(()) => len,
            Err(e) => e.copied as u64,
        };
        assert_eq!(copied, expected);
        let vmas = self.models[p].vmas.borrow();
        for i in 0..copied {
            let (page, off) = ((at + i) / PAGE, (at + i) % PAGE);
            assert_eq!(
                bytes[i as usize],
                vmas[&page].cell.borrow()[off as usize],
                "process {p}, {page}+{off}"
            );
        }
    }

    fn check_tables(&self) {
        for (space, model) in self.spaces.iter().zip(&self.models) {
            let vmas = model.vmas.borrow();
            let mut resident = 0;
            for page in 0..PAGES {
                if let Some(m) = space.get(BASE + page * PAGE) {
                    resident += 1;
                    let vma = vmas.get(&page).expect("a page is mapped only where the process has one");
                    assert!(vma.writable || !m.prot.contains(Prot::WRITE), "writable against the vma");
                }
            }
            assert_eq!(space.resident(), resident);
        }
    }
}

fn new_cell() -> Cell {
    Rc::new(RefCell::new([0; PAGE_SIZE]))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn two_processes_see_what_the_model_says(ops in proptest::collection::vec(op(), 1..60)) {
        let world = World::new(4096);
        world.enter(|| {
            let spaces = [AddressSpace::new().unwrap(), AddressSpace::new().unwrap()];
            let mut family = Family { spaces, models: Default::default(), shared: RefCell::default() };
            for op in ops {
                family.apply(op);
                family.check_tables();
            }
            for p in 0..2 {
                for page in 0..PAGES {
                    family.check_read(p, page * PAGE, PAGE);
                }
            }
        });
        prop_assert_eq!(world.frames_in_use(), 0, "frames leaked");
    }
}
