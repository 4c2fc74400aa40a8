//! What a program sees: reads, writes, faults and forks through the host's address space.

use alloc::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use ringfence_hal as hal;
use ringfence_hal::{Access, Frame, PageFault, Prot, host};

use super::*;
use crate::errno::Errno;

const RW: Prot = Prot::READ.union(Prot::WRITE);

fn mm() -> Arc<Mm> {
    Mm::new(0x7000_0000_0000).unwrap()
}

/// Runs `f` as the program whose memory is `mm`.
fn inside<R>(mm: &Arc<Mm>, f: impl FnOnce() -> R) -> R {
    host::with_address_space(
        mm.space(),
        &|fault| mm.fault(fault, || Limits::NONE) == FaultResult::Resolved,
        f,
    )
}

fn read(mm: &Arc<Mm>, at: u64) -> Option<u8> {
    let mut b = [0];
    inside(mm, || hal::user::copy_in(&mut b, at)).ok().map(|()| b[0])
}

fn write(mm: &Arc<Mm>, at: u64, value: u8) -> bool {
    inside(mm, || hal::user::copy_out(at, &[value])).is_ok()
}

fn map(mm: &Arc<Mm>, pages: u64, placement: Placement, prot: Prot, flags: VmFlags) -> u64 {
    let request = MapRequest { len: pages * PAGE_SIZE, placement, prot, flags, file: None };
    mm.map(request, &Limits::NONE).unwrap()
}

/// A file of `len` bytes whose page `i` begins with `i + 1`.
struct TestFile {
    pages: PageTree,
    len: AtomicU64,
    mappers: Mappers,
}

impl TestFile {
    fn new(len: u64) -> Arc<Self> {
        Arc::new(TestFile { pages: PageTree::new(), len: AtomicU64::new(len), mappers: Mappers::new() })
    }

    fn truncate(&self, len: u64) {
        self.len.store(len, Ordering::SeqCst);
        let first = len.div_ceil(PAGE_SIZE);
        self.pages.remove(first..u64::MAX);
        self.mappers.drop_pages(self, first);
    }
}

impl Mappable for TestFile {
    fn page(&self, index: u64, _write: bool) -> Result<Frame> {
        self.pages.get_or_insert_with(index, || {
            let frame = Frame::alloc_zeroed()?;
            frame.write(0, &[index as u8 + 1]);
            Ok(frame)
        })
    }
    fn cached_page(&self, index: u64) -> Option<Frame> {
        self.pages.get(index)
    }
    fn len(&self) -> u64 {
        self.len.load(Ordering::SeqCst)
    }
    fn mappers(&self) -> Option<&Mappers> {
        Some(&self.mappers)
    }
}

fn map_file(
    mm: &Arc<Mm>,
    file: &Arc<TestFile>,
    pages: u64,
    prot: Prot,
    flags: VmFlags,
    may_write: bool,
) -> Result<u64> {
    let mapping = FileMapping { object: file.clone(), file: None, may_write, may_exec: true };
    let request = MapRequest {
        len: pages * PAGE_SIZE,
        placement: Placement::Any,
        prot,
        flags,
        file: Some((mapping, 0)),
    };
    mm.map(request, &Limits::NONE)
}

#[test]
fn anonymous_memory_is_zero_then_keeps_what_is_written() {
    let mm = mm();
    let at = map(&mm, 4, Placement::Any, RW, VmFlags::empty());
    assert_eq!(read(&mm, at), Some(0));
    assert!(write(&mm, at + 5, 7));
    assert_eq!(read(&mm, at + 5), Some(7));
    assert_eq!(mm.space().resident(), 1);
    mm.unmap(at..at + PAGE_SIZE).unwrap();
    assert_eq!(read(&mm, at), None);
    assert_eq!(mm.space().resident(), 0);
}

#[test]
fn faults_say_why() {
    let mm = mm();
    let file = TestFile::new(PAGE_SIZE + 1);
    let ro = map(&mm, 1, Placement::Any, Prot::READ, VmFlags::empty());
    let shared = map_file(&mm, &file, 4, RW, VmFlags::SHARED, true).unwrap();
    let fault = |addr, access| mm.fault(PageFault { addr, access, present: false }, || Limits::NONE);
    assert_eq!(fault(0x1000, Access::Read), FaultResult::NotMapped);
    assert_eq!(fault(u64::MAX, Access::Read), FaultResult::NotMapped);
    assert_eq!(fault(ro, Access::Write), FaultResult::NotPermitted);
    assert_eq!(fault(ro, Access::Exec), FaultResult::NotPermitted);
    assert_eq!(fault(shared + PAGE_SIZE, Access::Write), FaultResult::Resolved);
    assert_eq!(fault(shared + 2 * PAGE_SIZE, Access::Read), FaultResult::NoPage);
}

#[test]
fn fork_copies_on_write_both_ways_and_takes_over_the_last_reference() {
    let parent = mm();
    let at = map(&parent, 2, Placement::Any, RW, VmFlags::empty());
    write(&parent, at, 1);
    let pfn = parent.space().get(at).unwrap().frame.pfn();
    let child = parent.fork().unwrap();
    assert_eq!(read(&child, at), Some(1));
    assert!(write(&parent, at, 2));
    assert_eq!((read(&parent, at), read(&child, at)), (Some(2), Some(1)));
    assert!(write(&child, at, 3));
    assert_eq!((read(&parent, at), read(&child, at)), (Some(2), Some(3)));
    // The child was the last user of the first frame: no copy.
    assert_eq!(child.space().get(at).unwrap().frame.pfn(), pfn);
}

#[test]
fn fork_honours_dontfork_wipeonfork_and_shared() {
    let parent = mm();
    let a = map(&parent, 1, Placement::Fixed(0x100000), RW, VmFlags::empty());
    let b = map(&parent, 1, Placement::Fixed(0x200000), RW, VmFlags::empty());
    let s = map(&parent, 1, Placement::Fixed(0x300000), RW, VmFlags::SHARED);
    for at in [a, b, s] {
        write(&parent, at, 9);
    }
    let flags = |raw| advise::Advice::from_raw(raw).unwrap();
    parent.advise(a..a + PAGE_SIZE, flags(10), &mut || true).unwrap();
    parent.advise(b..b + PAGE_SIZE, flags(18), &mut || true).unwrap();
    let child = parent.fork().unwrap();
    assert_eq!(read(&child, a), None);
    assert_eq!(read(&child, b), Some(0));
    assert_eq!(read(&child, s), Some(9));
    write(&child, s, 10);
    assert_eq!(read(&parent, s), Some(10));
    assert!(matches!(parent.word_key(s).unwrap(), WordKey::Shared { offset: 0, .. }));
}

#[test]
fn private_file_pages_are_shared_until_written() {
    let mm = mm();
    let file = TestFile::new(40 * PAGE_SIZE);
    for i in 0..8 {
        file.page(i, false).unwrap();
    }
    let at = map_file(&mm, &file, 40, RW, VmFlags::empty(), false).unwrap();
    assert_eq!(read(&mm, at + PAGE_SIZE), Some(2));
    // The cached neighbours came along.
    assert!(mm.space().resident() >= 4);
    assert!(write(&mm, at + PAGE_SIZE, 77));
    assert_eq!(read(&mm, at + PAGE_SIZE), Some(77));
    let mut b = [0];
    file.page(1, false).unwrap().read(0, &mut b);
    assert_eq!(b[0], 2);
    // The child sees the written page although file pages are not copied.
    let child = mm.fork().unwrap();
    assert_eq!(read(&child, at + PAGE_SIZE), Some(77));
    assert_eq!(read(&child, at + 2 * PAGE_SIZE), Some(3));
    // DONTNEED goes back to the file.
    mm.advise(at..at + 2 * PAGE_SIZE, advise::Advice::DontNeed, &mut || true).unwrap();
    assert_eq!(read(&mm, at + PAGE_SIZE), Some(2));
}

#[test]
fn shared_mappings_of_a_read_only_file_cannot_be_made_writable() {
    let mm = mm();
    let file = TestFile::new(PAGE_SIZE);
    assert_eq!(map_file(&mm, &file, 1, RW, VmFlags::SHARED, false), Err(Errno::EACCES));
    let at = map_file(&mm, &file, 1, Prot::READ, VmFlags::SHARED, false).unwrap();
    assert_eq!(mm.protect(at..at + PAGE_SIZE, RW, false, &Limits::NONE), Err(Errno::EACCES));
}

#[test]
fn truncation_reaches_every_mapping() {
    let mm = mm();
    let file = TestFile::new(4 * PAGE_SIZE);
    let shared = map_file(&mm, &file, 4, RW, VmFlags::SHARED, true).unwrap();
    let private = map_file(&mm, &file, 4, RW, VmFlags::empty(), true).unwrap();
    let child = mm.fork().unwrap();
    for m in [&mm, &child] {
        for i in 0..4 {
            assert!(write(m, shared + i * PAGE_SIZE, 50) && write(m, private + i * PAGE_SIZE, 51));
        }
    }
    file.truncate(PAGE_SIZE + 10);
    for m in [&mm, &child] {
        assert_eq!(read(m, shared + PAGE_SIZE), Some(50));
        assert_eq!(read(m, shared + 2 * PAGE_SIZE), None);
        assert_eq!(read(m, private + 3 * PAGE_SIZE), None);
    }
    file.truncate(4 * PAGE_SIZE);
    assert_eq!(read(&child, shared + 2 * PAGE_SIZE), Some(3));
}

#[test]
fn protection_none_keeps_the_contents() {
    let mm = mm();
    let at = map(&mm, 3, Placement::Any, RW, VmFlags::empty());
    write(&mm, at + PAGE_SIZE, 5);
    let middle = at + PAGE_SIZE..at + 2 * PAGE_SIZE;
    mm.protect(middle.clone(), Prot::empty(), false, &Limits::NONE).unwrap();
    assert_eq!(read(&mm, middle.start), None);
    assert_eq!(mm.stats().mappings, 3);
    mm.protect(middle.clone(), RW, false, &Limits::NONE).unwrap();
    assert_eq!(mm.stats().mappings, 1);
    assert_eq!(read(&mm, middle.start), Some(5));
    assert!(write(&mm, middle.start, 6));
    let hole = mm.protect(at..at + 5 * PAGE_SIZE, Prot::READ, false, &Limits::NONE);
    assert_eq!(hole, Err(Errno::ENOMEM));
    assert!(!write(&mm, at, 1));
}

#[test]
fn stacks_grow_to_their_limit_and_not_into_neighbours() {
    let mm = mm();
    let top = 0x6000_0000;
    map(&mm, 1, Placement::Fixed(top - PAGE_SIZE), RW, VmFlags::GROWSDOWN);
    assert!(write(&mm, top - 10 * PAGE_SIZE, 1));
    assert_eq!(mm.stats().stack, 10);
    let limits = Limits { stack: 20 * PAGE_SIZE, ..Limits::NONE };
    let fault = |page: u64| {
        mm.fault(PageFault { addr: top - page * PAGE_SIZE, access: Access::Write, present: false }, || limits)
    };
    assert_eq!(fault(20), FaultResult::Resolved);
    assert_eq!(fault(21), FaultResult::NotMapped);
    map(&mm, 1, Placement::Fixed(top - 400 * PAGE_SIZE), RW, VmFlags::empty());
    assert!(write(&mm, top - 143 * PAGE_SIZE, 1));
    assert!(!write(&mm, top - 144 * PAGE_SIZE, 1));
}

#[test]
fn brk_grows_shrinks_and_stops_at_a_neighbour() {
    let mm = mm();
    mm.set_brk_start(0x50_0000);
    assert_eq!(mm.brk(0, &Limits::NONE), 0x50_0000);
    assert_eq!(mm.brk(0x50_1234, &Limits::NONE), 0x50_1234);
    assert!(write(&mm, 0x50_1000, 3));
    assert_eq!(mm.brk(0x50_0800, &Limits::NONE), 0x50_0800);
    assert_eq!(read(&mm, 0x50_1000), None);
    assert_eq!(mm.brk(0x50_2000, &Limits::NONE), 0x50_2000);
    assert_eq!(read(&mm, 0x50_1000), Some(0));
    map(&mm, 1, Placement::Fixed(0x51_0000), RW, VmFlags::empty());
    assert_eq!(mm.brk(0x51_2000, &Limits::NONE), 0x50_2000);
    let limits = Limits { data: 0x3000, data_mappings: 0x3000, ..Limits::NONE };
    assert_eq!(mm.brk(0x50_4000, &limits), 0x50_2000);
}

#[test]
fn remap_moves_pages_with_their_contents() {
    let mm = mm();
    let request = |old, old_len, new_len, may_move| RemapRequest {
        old,
        old_len: old_len * PAGE_SIZE,
        new_len: new_len * PAGE_SIZE,
        may_move,
        fixed: None,
        keep_old: false,
    };
    let at = map(&mm, 2, Placement::Fixed(0x40_0000), RW, VmFlags::empty());
    write(&mm, at + PAGE_SIZE, 4);
    // In place while there is room, elsewhere when not.
    assert_eq!(mm.remap(&request(at, 2, 4, false), &Limits::NONE), Ok(at));
    map(&mm, 1, Placement::Fixed(at + 4 * PAGE_SIZE), Prot::READ, VmFlags::empty());
    assert_eq!(mm.remap(&request(at, 4, 5, false), &Limits::NONE), Err(Errno::ENOMEM));
    let moved = mm.remap(&request(at, 4, 8, true), &Limits::NONE).unwrap();
    assert_ne!(moved, at);
    assert_eq!(read(&mm, moved + PAGE_SIZE), Some(4));
    assert_eq!(read(&mm, at), None);
    assert!(write(&mm, moved + 7 * PAGE_SIZE, 1));
    // Shrinking drops the tail.
    assert_eq!(mm.remap(&request(moved, 8, 2, false), &Limits::NONE), Ok(moved));
    assert_eq!(read(&mm, moved + 2 * PAGE_SIZE), None);
    assert_eq!(mm.remap(&request(0x1000, 1, 2, true), &Limits::NONE), Err(Errno::EFAULT));
    let keep = RemapRequest { keep_old: true, ..request(moved, 2, 2, true) };
    let other = mm.remap(&keep, &Limits::NONE).unwrap();
    assert_eq!((read(&mm, moved + PAGE_SIZE), read(&mm, other + PAGE_SIZE)), (Some(0), Some(4)));
}

#[test]
fn limits_and_placement_are_kept() {
    let mm = mm();
    let limits = Limits { address_space: 10 * PAGE_SIZE, ..Limits::NONE };
    let request =
        |len, placement| MapRequest { len, placement, prot: RW, flags: VmFlags::empty(), file: None };
    assert_eq!(mm.map(request(11 * PAGE_SIZE, Placement::Any), &limits), Err(Errno::ENOMEM));
    let at = mm.map(request(10 * PAGE_SIZE, Placement::Any), &limits).unwrap();
    // Replacing does not count twice.
    assert_eq!(mm.map(request(10 * PAGE_SIZE, Placement::Fixed(at)), &limits), Ok(at));
    assert_eq!(mm.map(request(1, Placement::FixedNoReplace(at)), &Limits::NONE), Err(Errno::EEXIST));
    assert_eq!(mm.map(request(1, Placement::Fixed(0)), &Limits::NONE), Err(Errno::EPERM));
    assert_eq!(mm.map(request(u64::MAX, Placement::Any), &Limits::NONE), Err(Errno::ENOMEM));
    let low = mm.map(request(1, Placement::Low), &Limits::NONE).unwrap();
    assert!(low < 1 << 31);
}

#[test]
fn remote_access_reaches_what_the_program_may_not() {
    let mm = mm();
    let at = map(&mm, 2, Placement::Any, Prot::READ, VmFlags::empty());
    assert_eq!(mm.write_remote(at, b"x", false), Err(Errno::EFAULT));
    assert_eq!(mm.write_remote(at + PAGE_SIZE - 1, b"xy", true), Ok(2));
    assert_eq!(read(&mm, at + PAGE_SIZE), Some(b'y'));
    assert!(!write(&mm, at + PAGE_SIZE, 1));
    let mut buf = [0; 4];
    assert_eq!(mm.read_remote(at + 2 * PAGE_SIZE - 2, &mut buf, false), Ok(2));
}

#[test]
fn threads_faulting_on_the_same_pages_lose_no_write() {
    // A fork child keeps every page shared, so each first write is a race to copy.
    let world = host::World::new(4096);
    let mm = world.enter(mm);
    let at = world.enter(|| map(&mm, 64, Placement::Any, RW, VmFlags::empty()));
    world.enter(|| {
        for i in 0..64 {
            write(&mm, at + i * PAGE_SIZE, 1);
        }
    });
    let _child = world.enter(|| mm.fork().unwrap());
    std::thread::scope(|s| {
        for t in 0..4u64 {
            let (mm, world) = (&mm, &world);
            s.spawn(move || {
                world.enter(|| {
                    for i in 0..64 {
                        assert!(write(mm, at + i * PAGE_SIZE + 8 + t, t as u8 + 1));
                    }
                })
            });
        }
    });
    world.enter(|| {
        for i in 0..64 {
            for t in 0..4 {
                assert_eq!(read(&mm, at + i * PAGE_SIZE + 8 + t), Some(t as u8 + 1));
            }
        }
    });
}

#[test]
fn no_memory_is_reported_and_all_of_it_comes_back() {
    let world = host::World::new(8);
    world.enter(|| {
        let mm = mm();
        let at = map(&mm, 8, Placement::Any, RW, VmFlags::empty());
        let request = MapRequest {
            len: 9 * PAGE_SIZE,
            placement: Placement::Any,
            prot: RW,
            flags: VmFlags::empty(),
            file: None,
        };
        assert_eq!(mm.map(request, &Limits::NONE), Err(Errno::ENOMEM));
        for i in 0..8 {
            assert!(write(&mm, at + i * PAGE_SIZE, 1));
        }
        let more = map(&mm, 1, Placement::Any, RW, VmFlags::empty());
        let fault = PageFault { addr: more, access: Access::Write, present: false };
        assert_eq!(mm.fault(fault, || Limits::NONE), FaultResult::OutOfMemory);
        drop(mm);
        assert_eq!(hal::frames::stats().free, 8);
    });
}

#[test]
fn the_reaper_takes_what_is_private() {
    host::World::new(64).enter(|| {
        let mm = mm();
        let private = map(&mm, 3, Placement::Any, RW, VmFlags::empty());
        let shared = map(&mm, 1, Placement::Any, RW, VmFlags::SHARED);
        for page in 0..3 {
            assert!(write(&mm, private + page * PAGE_SIZE, 1));
        }
        assert!(write(&mm, shared, 2));
        let mut pauses = 0;
        mm.reap(&mut || pauses += 1);
        assert_eq!((read(&mm, private), read(&mm, shared)), (None, Some(2)));
        assert_eq!((mm.stats().anonymous, mm.stats().mappings, pauses), (0, 1, 1));
    });
}
