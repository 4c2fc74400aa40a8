use alloc::vec::Vec;

use super::*;
use crate::{
    fs::{AnonInode, FileType, OpenFlags},
    io::{Sink, Source},
};

/// A file that is ready for what it is told.
struct Switch {
    events: SpinLock<PollEvents>,
    queue: Queue,
}

impl Switch {
    fn set(&self, events: PollEvents) {
        *self.events.lock() = events;
        self.queue.wake_all(events);
    }
}

impl File for Switch {
    fn read(&self, _: &crate::fs::OpenFile, _: &TaskRef, _: &mut Sink<'_>) -> Result {
        Ok(0)
    }

    fn write(&self, _: &crate::fs::OpenFile, _: &TaskRef, _: &mut Source<'_>) -> Result {
        Ok(0)
    }

    fn poll(&self, table: Option<&mut PollTable>) -> PollEvents {
        if let Some(table) = table {
            table.register(&self.queue);
        }
        *self.events.lock()
    }
}

fn switch() -> (Arc<Switch>, FileRef) {
    let s = Arc::new(Switch { events: SpinLock::new(PollEvents::empty()), queue: WaitQueue::new() });
    let inode = AnonInode::new(FileType::Regular, 0o600, 0, 0);
    (s.clone(), inode.open(s, "switch", OpenFlags::RDWR))
}

fn open(epoll: &Arc<Epoll>) -> FileRef {
    AnonInode::new(FileType::Regular, 0o600, 0, 0).open(epoll.clone(), "epoll", OpenFlags::RDWR)
}

fn collect(e: &Epoll) -> Vec<(u32, u64)> {
    let mut all = Vec::new();
    e.collect(10, |_, events, data| {
        all.push((events.bits(), data));
        Ok(())
    })
    .unwrap();
    all
}

const IN: u32 = 1;
const OUT: u32 = 4;
const ONESHOT: u32 = 1 << 30;
const EDGE: u32 = 1 << 31;

#[test]
fn level_edge_and_oneshot() {
    for (flags, first, second, after_wake) in [(0, 1, 1, 1), (EDGE, 1, 0, 1), (ONESHOT, 1, 0, 0)] {
        let (s, file) = switch();
        let e = Epoll::new();
        e.add(3, &file, EventSpec { events: IN | flags, data: 7 }).unwrap();
        assert_eq!(collect(&e), []);
        s.set(PollEvents::OUT);
        assert_eq!(collect(&e), [], "not what was asked for");
        s.set(PollEvents::IN);
        s.set(PollEvents::IN);
        assert_eq!(collect(&e).len(), first);
        assert_eq!(collect(&e).len(), second);
        s.set(PollEvents::IN);
        assert_eq!(collect(&e).len(), after_wake);
        s.set(PollEvents::empty());
        assert_eq!(collect(&e), []);
    }
}

#[test]
fn a_oneshot_item_is_armed_again() {
    let (s, file) = switch();
    let e = Epoll::new();
    e.add(3, &file, EventSpec { events: IN | ONESHOT, data: 1 }).unwrap();
    s.set(PollEvents::IN | PollEvents::OUT);
    assert_eq!(collect(&e), [(IN, 1)]);
    e.modify(Key { fd: 3, file: file.id() }, &file, EventSpec { events: OUT, data: 2 }).unwrap();
    assert_eq!(collect(&e), [(OUT, 2)]);
}

#[test]
fn items_are_found_once_and_forgotten() {
    let (s, file) = switch();
    let e = Epoll::new();
    let spec = EventSpec { events: IN, data: 0 };
    s.set(PollEvents::IN);
    e.add(3, &file, spec).unwrap();
    assert_eq!(e.add(3, &file, spec), Err(Errno::EEXIST));
    e.add(4, &file, spec).unwrap();
    assert_eq!(collect(&e).len(), 2);
    e.remove(Key { fd: 3, file: file.id() }).unwrap();
    assert_eq!(e.remove(Key { fd: 3, file: file.id() }), Err(Errno::ENOENT));
    assert_eq!(collect(&e).len(), 1);
    drop(file);
    assert!(s.queue.is_empty() && e.items.lock().is_empty(), "the last close detaches");
    assert_eq!(collect(&e), []);
}

#[test]
fn the_end_of_an_instance_leaves_nothing_behind() {
    let (s, file) = switch();
    let e = Epoll::new();
    e.add(3, &file, EventSpec { events: IN, data: 0 }).unwrap();
    s.set(PollEvents::IN);
    let ready = Arc::downgrade(&e.ready);
    drop(e);
    assert!(s.queue.is_empty() && ready.upgrade().is_none());
}

#[test]
fn instances_nest_but_not_in_circles() {
    let (s, file) = switch();
    let chain: Vec<_> = (0..6).map(|_| Epoll::new()).collect();
    let files: Vec<_> = chain.iter().map(open).collect();
    let spec = EventSpec { events: IN, data: 5 };
    chain[0].add(3, &file, spec).unwrap();
    for i in 1..5 {
        chain[i].add(3, &files[i - 1], spec).unwrap();
    }
    assert_eq!(chain[5].add(3, &files[4], spec), Err(Errno::ELOOP), "too deep");
    assert_eq!(chain[0].add(4, &files[2], spec), Err(Errno::ELOOP), "a circle");
    s.set(PollEvents::IN);
    assert_eq!(collect(&chain[4]), [(IN, 5)]);
    s.set(PollEvents::empty());
    assert_eq!(collect(&chain[4]), []);
}
