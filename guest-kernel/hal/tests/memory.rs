//! Frames, page tables, user copies and locks of the host implementation, without a simulated machine.
#![allow(missing_docs)]

use ringfence_hal::host::{World, phys_region, with_address_space};
use ringfence_hal::sync::{RwSpinLock, SpinLock};
use ringfence_hal::{
    Access, AddressSpace, ForkMode, Frame, HugeFrame, MapError, OutOfMemory, PageFault, Prot, USER_END,
    UserFault, dma, frames, user,
};
use std::cell::RefCell;
use std::sync::Arc;

const PAGE: u64 = 4096;
const RW: Prot = Prot::READ.union(Prot::WRITE);

/// Runs `f` in a world with so many frames, and checks that all come back.
fn with_frames(n: usize, f: impl FnOnce(&Arc<World>)) {
    let world = World::new(n);
    world.enter(|| f(&world));
    assert_eq!(world.frames_in_use(), 0, "frames leaked");
}

#[test]
fn frames_are_counted_and_limited() {
    with_frames(2, |_| {
        let a = Frame::alloc_zeroed().unwrap();
        let b = Frame::alloc_copy(&a).unwrap();
        assert_ne!(a.pfn(), b.pfn());
        assert_eq!(Frame::alloc_zeroed().map(|_| ()), Err(OutOfMemory));
        assert_eq!((a.ref_count(), a.clone().ref_count()), (1, 2));
        a.write(4090, b"sixsix");
        drop(b);
        let c = Frame::alloc_copy(&a).unwrap();
        let mut buf = [0; 6];
        c.read(4090, &mut buf);
        assert_eq!(&buf, b"sixsix");
        c.zero(4092..4096);
        assert_eq!(c.load_u32(4092), 0);
        assert_eq!(c.cmpxchg_u32(4092, 0, 9), Ok(0));
        assert_eq!(c.cmpxchg_u32(4092, 0, 9), Err(9));
        let stats = frames::stats();
        assert_eq!((stats.total, stats.free, stats.touched, stats.user), (2, 0, 2, 2));
    });
}

#[test]
fn a_reused_frame_is_zero() {
    with_frames(1, |_| {
        let a = Frame::alloc_zeroed().unwrap();
        let pfn = a.pfn();
        a.write(0, &[0xff; 4096]);
        drop(a);
        let b = Frame::alloc_zeroed().unwrap();
        assert_eq!((b.pfn(), b.load_u32(0)), (pfn, 0));
    });
}

#[test]
fn free_blocks_are_reported_once() {
    with_frames(64, |_| {
        let held: Vec<Frame> = (0..32).map(|_| Frame::alloc_zeroed().unwrap()).collect();
        let blocks = RefCell::new(Vec::new());
        let report = |accept: bool| {
            frames::report_free(2, 100, |phys, len| {
                blocks.borrow_mut().push((phys, len));
                accept
            })
        };
        assert_eq!(report(true), 0, "nothing is free");
        drop(held);
        assert_eq!(report(false), 0, "refused");
        assert_eq!(frames::stats().touched, 32);
        blocks.borrow_mut().clear();
        assert_eq!(report(true), 8);
        assert!(blocks.borrow().iter().all(|&(phys, len)| phys % len as u64 == 0 && len == 4 * 4096));
        assert_eq!(report(true), 0, "all reported");
        assert_eq!(frames::stats().touched, 0);
        assert_eq!(frames::stats().free, 64);
        // Reported frames can be used again.
        let again: Vec<_> = (0..64).map(|_| Frame::alloc_zeroed()).collect();
        assert!(again.iter().all(Result::is_ok));
    });
}

#[test]
fn user_copies_fault_pages_in_and_report_how_far_they_came() {
    with_frames(8, |_| {
        let space = AddressSpace::new().unwrap();
        let faults = RefCell::new(Vec::new());
        let limit = 0x12000;
        let handler = |f: PageFault| {
            faults.borrow_mut().push(f);
            let page = f.addr & !(PAGE - 1);
            f.addr < limit && space.map_new(page, Frame::alloc_zeroed().unwrap(), RW).is_ok()
        };
        with_address_space(&space, &handler, || {
            user::copy_out(0x10ffe, b"abcd").unwrap();
            assert_eq!(user::load_u32(0x10ffe), Ok(u32::from_ne_bytes(*b"abcd")), "across pages");
            let write = |addr| PageFault { addr, access: Access::Write, present: false };
            assert_eq!(*faults.borrow(), [write(0x10ffe), write(0x11000)]);
            assert_eq!(user::zero(0x11ffd, 100), Err(UserFault { copied: 3 }));
            let mut buf = [0; 8];
            assert_eq!(user::copy_in(&mut buf, 0x11ff8 + 4), Err(UserFault { copied: 4 }));
            // Strings.
            user::store_u8(0x11000 + 1, 0).unwrap();
            assert_eq!(user::copy_in_str(&mut buf, 0x10ffe), Ok(3));
            assert_eq!(&buf[..3], b"abc");
            assert_eq!(user::copy_in_str(&mut buf[..2], 0x10ffe), Ok(2), "no NUL in the buffer");
            user::copy_out(0x11ffe, b"zz").unwrap();
            assert_eq!(user::copy_in_str(&mut buf, 0x11ffe), Err(UserFault { copied: 2 }));
            // Words.
            assert_eq!(user::cmpxchg_u32(0x11000, 1, 2), Ok(Err(u32::from_ne_bytes(*b"c\0\0\0"))));
            assert!(user::cmpxchg_u32(0x11002, 0, 0).is_err(), "unaligned");
            // Never a fault outside the user half, and none at all from the try variants.
            faults.borrow_mut().clear();
            let none = Err(UserFault { copied: 0 });
            assert_eq!(user::copy_out(USER_END - 1, b"ab"), none);
            assert_eq!(user::copy_out(u64::MAX - 1, b"abcd"), none);
            assert_eq!(user::copy_in(&mut [0], 0xffff_8880_0000_0000), none);
            assert_eq!(user::copy_in(&mut [], u64::MAX), Ok(()));
            assert_eq!(user::try_load_u32(0x20000), Err(UserFault { copied: 0 }));
            assert!(user::try_cmpxchg_u32(0x20000, 0, 1).is_err());
            assert!(faults.borrow().is_empty());
        });
        assert!(user::load_u8(0x11000).is_err(), "no address space outside");
    });
}

#[test]
fn a_frame_reaches_user_memory() {
    with_frames(4, |_| {
        let space = AddressSpace::new().unwrap();
        let frame = Frame::alloc_zeroed().unwrap();
        space.map_new(0x1000, frame.clone(), RW).unwrap();
        with_address_space(&space, &|_| false, || {
            let other = Frame::alloc_zeroed().unwrap();
            other.write(10, b"hello");
            other.copy_to_user(10, 0x1ffd, 3).unwrap();
            assert_eq!(other.copy_to_user(10, 0x1ffd, 5), Err(UserFault { copied: 3 }));
            assert_eq!(other.copy_from_user(100, 0x1ffd, 5), Err(UserFault { copied: 3 }));
            let mut buf = [0; 5];
            other.read(100, &mut buf);
            assert_eq!(&buf, b"hel\0\0");
            // From a page to itself.
            frame.copy_to_user(0xffd, 0x1000, 3).unwrap();
            frame.read(0, &mut buf[..3]);
            assert_eq!(&buf[..3], b"hel");
        });
    });
}

#[test]
fn static_frames_are_read_only_and_not_counted() {
    with_frames(1, |_| {
        let region = phys_region(b"image".repeat(1000));
        assert_eq!(region.len(), 8192);
        let frame = region.frame(1);
        assert!(frame.is_static());
        assert_eq!(frame.pfn(), region.frame(0).pfn() + 1);
        let space = AddressSpace::new().unwrap();
        space.map_new(0x1000, frame, Prot::READ).unwrap();
        assert_eq!(frames::stats().user, 0);
        with_address_space(&space, &|f| !f.present && unreachable!(), || {
            assert_eq!(user::load_u8(0x1000), Ok(b"image"[4096 % 5]));
            assert_eq!(user::copy_out(0x1000, b"x"), Err(UserFault { copied: 0 }));
            assert_eq!(region.copy_to_user(0, 0x1000, 1), Err(UserFault { copied: 0 }));
        });
        let copy = Frame::alloc_copy(&region.frame(0)).unwrap();
        assert!(space.replace(0x1000, region.frame(1).pfn(), copy, RW), "copy on write from the image");
    });
}

#[test]
fn protection_only_ever_loses_write() {
    with_frames(4, |_| {
        let space = AddressSpace::new().unwrap();
        space.map_new(0x1000, Frame::alloc_zeroed().unwrap(), RW).unwrap();
        let again = space.map_new(0x1000, Frame::alloc_zeroed().unwrap(), RW);
        assert_eq!(again, Err(MapError::Present));
        let prot = || space.get(0x1000).unwrap().prot;
        space.protect(0..0x10000, RW | Prot::EXEC);
        assert_eq!(prot(), RW | Prot::EXEC);
        space.protect(0..0x10000, Prot::READ);
        space.protect(0..0x10000, RW);
        assert_eq!(prot(), Prot::READ);
        space.protect(0..0x10000, Prot::empty());
        assert_eq!(prot(), Prot::empty());
        let fault = RefCell::new(None);
        let handler = |f| {
            fault.replace(Some(f));
            false
        };
        with_address_space(&space, &handler, || assert!(user::load_u8(0x1234).is_err()));
        assert_eq!(fault.take(), Some(PageFault { addr: 0x1234, access: Access::Read, present: true }));
        assert_eq!(space.unmap(0..USER_END), 1);
    });
}

#[test]
fn page_tables_can_run_out_of_memory() {
    with_frames(4, |world| {
        let space = AddressSpace::new().unwrap();
        let frame = Frame::alloc_zeroed().unwrap();
        let far = 0x4000_0000;
        world.set_page_table_limit(1);
        space.map_new(0x1000, frame.clone(), RW).unwrap();
        space.map_new(0x2000, frame.clone(), RW).unwrap();
        assert_eq!(space.map_new(far, frame.clone(), RW), Err(MapError::OutOfMemory));
        assert_eq!(space.move_range(0, far, 0x10000), Err(OutOfMemory));
        assert_eq!(space.resident(), 2, "nothing has moved");
        let child = AddressSpace::new().unwrap();
        assert_eq!(space.fork_range(&child, 0..0x10000, ForkMode::CopyOnWrite), Err(OutOfMemory));
        space.flush_all();
        drop((space, child));
        let space = AddressSpace::new().unwrap();
        space.map_new(far, frame, RW).expect("the table came back");
    });
}

#[test]
fn accesses_leave_their_marks() {
    with_frames(4, |_| {
        let space = AddressSpace::new().unwrap();
        space.map_new(0, Frame::alloc_zeroed().unwrap(), RW).unwrap();
        let marks = || space.get(0).map(|m| (m.accessed, m.dirty)).unwrap();
        with_address_space(&space, &|_| false, || {
            assert_eq!(marks(), (false, false));
            user::load_u8(0).unwrap();
            assert_eq!(marks(), (true, false));
            user::store_u8(0, 1).unwrap();
            assert_eq!(marks(), (true, true));
        });
        let child = AddressSpace::new().unwrap();
        space.fork_range(&child, 0..PAGE, ForkMode::Share).unwrap();
        let m = child.get(0).unwrap();
        assert_eq!((m.accessed, m.dirty, m.prot), (false, false, RW));
    });
}

#[test]
fn a_device_reaches_dma_buffers_and_frames() {
    with_frames(4, |world| {
        let buffer = dma::DmaBuffer::alloc(8192).unwrap();
        assert_eq!(buffer.phys() % PAGE, 0);
        buffer.store_u32(4096, 0x1234_5678);
        let mut seen = [0; 4];
        assert!(world.phys_read(buffer.phys() + 4096, &mut seen));
        assert_eq!(u32::from_le_bytes(seen), 0x1234_5678);
        assert!(world.phys_write(buffer.phys() + 8190, &[1, 2]));
        assert_eq!(buffer.load_u16(8190), 0x201);
        assert!(!world.phys_write(buffer.phys() + 8190, &[1, 2, 3]), "beyond the end");
        let frame = Frame::alloc_zeroed().unwrap();
        assert!(world.phys_write(frame.pfn() << 12, &[7]));
        assert_eq!(frame.load_u32(0), 7);
        assert!(!world.phys_read(0, &mut seen));
    });
}

#[test]
#[should_panic(expected = "holds already")]
fn locking_twice_is_found() {
    let lock = SpinLock::new(1);
    let _guard = lock.lock();
    drop(lock.lock());
}

#[test]
#[should_panic(expected = "with 1 spin locks held")]
fn a_user_copy_under_a_lock_is_found() {
    let lock = RwSpinLock::new(1);
    let _first = lock.read();
    assert_eq!(user::try_load_u32(0), Err(UserFault { copied: 0 }), "allowed");
    let _ = user::load_u32(0);
}

#[test]
#[should_panic(expected = "makes no progress")]
fn a_handler_without_progress_is_found() {
    let space = AddressSpace::new().unwrap();
    let _ = with_address_space(&space, &|_| true, || user::load_u8(0));
}

#[test]
fn locks_exclude() {
    let lock = Arc::new(SpinLock::new(0));
    let rw = Arc::new(RwSpinLock::new((0, 0)));
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let (lock, rw) = (lock.clone(), rw.clone());
            std::thread::spawn(move || {
                for _ in 0..100 {
                    *lock.lock() += 1;
                    {
                        let mut pair = rw.write();
                        pair.0 += 1;
                        pair.1 += 1;
                    }
                    let (first, second) = (rw.read(), rw.read());
                    assert_eq!(first.0, second.1);
                }
            })
        })
        .collect();
    threads.into_iter().for_each(|t| t.join().unwrap());
    assert_eq!((*lock.lock(), rw.read().0), (400, 400));
    let guard = lock.lock();
    assert!(lock.try_lock().is_none());
    drop(guard);
    assert!(lock.try_lock().is_some());
}

#[test]
fn large_pages_come_apart_where_they_are_touched_in_part() {
    const HUGE: u64 = 512 * PAGE;
    let world = World::new(3 * 512);
    world.enter(|| {
        let space = AddressSpace::new().unwrap();
        let rw = Prot::READ | Prot::WRITE;
        assert!(space.can_map_huge(HUGE + 5 * 4096));
        space.map_huge(HUGE, HugeFrame::alloc_zeroed().unwrap(), rw).unwrap();
        assert!(!space.can_map_huge(HUGE));
        assert_eq!(space.map_huge(HUGE, HugeFrame::alloc_zeroed().unwrap(), rw), Err(MapError::Present));
        assert_eq!((space.resident(), space.huge_pages()), (512, 1));
        let page = space.get(HUGE + 4096).unwrap();
        assert!(page.huge && page.prot == rw);
        drop(page);
        let child = AddressSpace::new().unwrap();
        space.fork_range(&child, HUGE..2 * HUGE, ForkMode::CopyOnWrite).unwrap();
        space.flush_all();
        assert!(!space.own_huge(HUGE, rw), "the child has it, too");
        assert_eq!((child.resident(), child.huge_pages()), (512, 1));
        drop(child);
        assert!(space.own_huge(HUGE, rw));
        assert_eq!(space.unmap(HUGE..HUGE + 4096), 1);
        assert_eq!((space.resident(), space.huge_pages()), (511, 0));
        assert!(space.get(HUGE + 8192).is_some_and(|page| !page.huge && page.prot == rw));
        assert_eq!(space.unmap(0..USER_END), 511);
    });
    assert_eq!(world.frames_in_use(), 0);
}
