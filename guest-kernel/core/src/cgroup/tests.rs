//! The rules of the hierarchy.

use super::*;
use crate::errno::Errno;

fn tree() -> Arc<Cgroup> {
    Cgroup::new(None, b"", Attributes { uid: 0, gid: 0, mode: 0o555 })
}

fn child(of: &Arc<Cgroup>, name: &str) -> Arc<Cgroup> {
    of.make_child(name.as_bytes(), 0, 0, 0o755).expect("a group")
}

#[test]
fn groups_are_made_and_removed() {
    let root = tree();
    let a = child(&root, "a");
    let b = child(&a, "b");
    assert_eq!(a.make_child(b"b", 0, 0, 0o755).err(), Some(Errno::EEXIST));
    assert_eq!(a.make_child(b"b\nc", 0, 0, 0o755).err(), Some(Errno::EINVAL));
    assert_eq!((root.subtree_count(), a.subtree_count()), (3, 2));
    assert_eq!(a.remove(), Err(Errno::EBUSY), "it has a child");
    assert_eq!(b.remove(), Ok(()));
    assert_eq!(b.remove(), Err(Errno::ENOENT));
    assert_eq!(b.make_child(b"c", 0, 0, 0o755).err(), Some(Errno::ENOENT));
    assert_eq!(root.dying.load(Ordering::Relaxed), 1);
    drop(b);
    assert_eq!(root.dying.load(Ordering::Relaxed), 0);
    assert_eq!(a.remove(), Ok(()));
    assert_eq!(root.remove(), Err(Errno::EBUSY));
}

#[test]
fn paths_are_relative_to_the_root_one_sees() {
    let root = tree();
    let a = child(&root, "a");
    let b = child(&a, "b");
    let c = child(&root, "c");
    let path = |group: &Cgroup, from: &Cgroup| String::from_utf8(group.path_from(from)).expect("text");
    assert_eq!(path(&root, &root), "/");
    assert_eq!(path(&b, &root), "/a/b");
    assert_eq!(path(&b, &a), "/b");
    assert_eq!(path(&a, &a), "/");
    assert_eq!(path(&root, &a), "/..");
    assert_eq!(path(&c, &b), "/../../c");
}

#[test]
fn depth_and_number_are_limited() {
    let root = tree();
    let a = child(&root, "a");
    a.max_depth.store(1, Ordering::Relaxed);
    let b = child(&a, "b");
    assert_eq!(b.make_child(b"c", 0, 0, 0o755).err(), Some(Errno::EAGAIN));
    a.max_descendants.store(2, Ordering::Relaxed);
    child(&a, "c");
    assert_eq!(a.make_child(b"d", 0, 0, 0o755).err(), Some(Errno::EAGAIN));
}

#[test]
fn controllers_come_from_above() {
    let root = tree();
    let a = child(&root, "a");
    let b = child(&a, "b");
    assert_eq!(a.controllers(), Controllers::empty());
    assert_eq!(a.control("+pids"), Err(Errno::ENOENT), "it does not have it itself");
    assert_eq!(root.control("+pids +io"), Err(Errno::EINVAL));
    assert_eq!(root.control("pids"), Err(Errno::EINVAL));
    assert_eq!(root.subtree_control(), Controllers::empty(), "nothing is done by half");
    assert_eq!(root.control("+pids +cpu -cpu +cpu"), Ok(()));
    assert_eq!(a.controllers(), Controllers::PIDS | Controllers::CPU);
    assert_eq!(a.control("+pids"), Ok(()));
    assert_eq!(b.controllers(), Controllers::PIDS);
    assert_eq!(root.control("-pids"), Err(Errno::EBUSY), "a child has it enabled");
    assert_eq!(root.control("-cpu -memory"), Ok(()));
    assert_eq!(a.control("-pids"), Ok(()));
    assert_eq!(root.control("-pids"), Ok(()));
}

#[test]
fn no_processes_beside_controllers() {
    let root = tree();
    let a = child(&root, "a");
    root.enter(1, 1);
    assert_eq!(root.control("+pids"), Ok(()), "the root may have both");
    a.enter(1, 2);
    assert_eq!(a.control("+pids"), Err(Errno::EBUSY));
    assert_eq!(a.remove(), Err(Errno::EBUSY), "populated");
    a.leave(1, 2);
    assert_eq!(a.control("+pids"), Ok(()));
    assert_eq!(a.check_accepts_processes(), Err(Errno::EBUSY));
    assert_eq!(root.check_accepts_processes(), Ok(()));
}

#[test]
fn populated_is_told_up_to_where_it_changes() {
    let root = tree();
    let a = child(&root, "a");
    let (b, c) = (child(&a, "b"), child(&a, "c"));
    assert_eq!(b.enter(1, 1), 2);
    assert_eq!(c.enter(1, 1), 1, "a was populated before");
    assert_eq!(b.enter(0, 1), 0, "another thread");
    assert_eq!(c.leave(1, 1), 1);
    assert!(a.is_populated() && !c.is_populated());
    assert_eq!(b.leave(1, 2), 2);
    assert!(!a.is_populated());
}

#[test]
fn tasks_are_counted_in_all_groups_above() {
    let root = tree();
    let a = child(&root, "a");
    let (b, c) = (child(&a, "b"), child(&a, "c"));
    root.control("+pids").expect("enabled");
    a.pids.max.store(2, Ordering::Relaxed);
    b.pids.max.store(1, Ordering::Relaxed);
    assert!(b.charge_task().is_ok() && c.charge_task().is_ok());
    let now = |group: &Cgroup| group.pids.current.load(Ordering::Relaxed);
    // b's own limit does not count: a has not enabled the controller.
    assert_eq!(b.charge_task().err().map(|g| g.id), Some(a.id));
    assert_eq!((now(&a), now(&b), now(&c)), (2, 1, 1), "the refused one is not counted");
    c.charge_tasks_anyway(3);
    assert_eq!((now(&a), a.pids.peak.load(Ordering::Relaxed)), (5, 5));
    c.uncharge_tasks(4);
    a.control("+pids").expect("enabled");
    assert_eq!(b.charge_task().err().map(|g| g.id), Some(b.id));
    assert_eq!(now(&a), 1);
}

#[test]
fn an_empty_group_freezes_at_once_and_with_it_those_below() {
    let root = tree();
    let a = child(&root, "a");
    let b = child(&a, "b");
    let frozen = |group: &Cgroup| group.freezer.frozen.load(Ordering::Relaxed);
    freezer::set_wanted(&a, true);
    assert!(frozen(&a) && frozen(&b));
    let c = child(&b, "c");
    assert!(frozen(&c) && frozen(&a));
    c.enter(1, 1);
    freezer::update(&c);
    assert!(!frozen(&c) && !frozen(&a), "a thread has not gone to sleep yet");
    c.leave(1, 1);
    freezer::update(&c);
    assert!(frozen(&a));
    freezer::set_wanted(&a, false);
    assert!(!frozen(&a) && !frozen(&c));
}

use alloc::string::String;
