//! `clone`, `vfork` and `clone3`: what is shared, and the flags that do not go together.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::helpers::*;
use crate::sys::clone_on;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    shares_memory: clone,
    shares_files: clone,
    thread_ids: clone set_tid_address,
    bad_flags: clone,
    bad_clone3: clone3,
    clone3_forks: clone3,
    exit_signal: clone wait4,
    getfd: pidfd_getfd,
];

static SEEN: AtomicU32 = AtomicU32::new(0);

fn stack() -> Vec<u8> {
    vec![0; 64 << 10]
}

fn shares_memory(t: &mut T) {
    extern "C" fn entry(value: u64) -> i32 {
        SEEN.store(value as u32, Ordering::SeqCst);
        3
    }
    for (name, flags) in [("copied", 0), ("shared", libc::CLONE_VM), ("vfork", libc::CLONE_VM | libc::CLONE_VFORK)] {
        SEEN.store(1, Ordering::SeqCst);
        let pid = clone_on(flags as u64 | libc::SIGCHLD as u64, &mut stack(), [0; 2], entry, 77);
        let early = SEEN.load(Ordering::SeqCst);
        say!(t, "{name}: {}, {}", wait(pid), SEEN.load(Ordering::SeqCst));
        if flags & libc::CLONE_VFORK != 0 {
            say!(t, "before the wait: {early}");
        }
    }
}

fn shares_files(t: &mut T) {
    extern "C" fn entry(_: u64) -> i32 {
        call!(dup2, 0, 20);
        call!(chdir, c"/");
        call!(umask, 0o77);
        0
    }
    for (name, flags) in [("copied", 0), ("files", libc::CLONE_FILES), ("fs", libc::CLONE_FS)] {
        let pid = clone_on(flags as u64 | libc::SIGCHLD as u64, &mut stack(), [0; 2], entry, 0);
        wait(pid);
        let mut cwd = [0u8; 100];
        must!(getcwd, out(&mut cwd), 100);
        let mask = must!(umask, 0o22);
        say!(t, "{name}: descriptor {}, at root {}, umask {mask:o}", result(call!(fcntl, 20, 1)), cwd[1] == 0);
    }
}

fn thread_ids(t: &mut T) {
    extern "C" fn entry(_: u64) -> i32 {
        let own = TIDS[1].load(Ordering::SeqCst);
        SEEN.store(u32::from(i64::from(own) == call!(gettid)), Ordering::SeqCst);
        SEEN.fetch_add(10 * u32::from(call!(gettid) != call!(getpid)), Ordering::SeqCst);
        0
    }
    static TIDS: [AtomicU32; 2] = [const { AtomicU32::new(u32::MAX) }; 2];
    let flags = libc::CLONE_VM | libc::CLONE_FS | libc::CLONE_FILES | libc::CLONE_SIGHAND | libc::CLONE_THREAD
        | libc::CLONE_SYSVSEM | libc::CLONE_PARENT_SETTID | libc::CLONE_CHILD_CLEARTID | libc::CLONE_CHILD_SETTID;
    let mut stack = stack();
    let tid = clone_on(flags as u64, &mut stack, [p(&TIDS[0]), p(&TIDS[1])], entry, 0);
    say!(t, "parent told {}", i64::from(TIDS[0].load(Ordering::SeqCst)) == tid);
    // The kernel clears the word and wakes whoever waits for that.
    loop {
        let word = TIDS[1].load(Ordering::SeqCst);
        if word == 0 {
            break;
        }
        call!(futex, p(&TIDS[1]), libc::FUTEX_WAIT, word, 0, 0, 0);
    }
    say!(t, "child told {:02}, cleared", SEEN.load(Ordering::SeqCst));
    show!(t, wait4, tid, 0, 0, 0);
    say!(t, "{}", call!(set_tid_address, p(&TIDS[0])) == call!(gettid));
}

fn bad_flags(t: &mut T) {
    use libc::*;
    for flags in [CLONE_THREAD, CLONE_SIGHAND, CLONE_THREAD | CLONE_SIGHAND, CLONE_FS | CLONE_NEWNS,
        CLONE_THREAD | CLONE_SIGHAND | CLONE_VM | CLONE_NEWPID]
    {
        say!(t, "{flags:x}: {}", result(call!(clone, flags, 0, 0, 0, 0)));
    }
    let both = CLONE_PIDFD | CLONE_PARENT_SETTID;
    say!(t, "pidfd and tid: {}", result(call!(clone, both, 0, out(&mut [0u32; 2]), 0, 0)));
}

fn bad_clone3(t: &mut T) {
    let mut arguments = [0u64; 12];
    show!(t, clone3, p(&arguments), 0);
    show!(t, clone3, p(&arguments), 63);
    show!(t, clone3, p(&arguments), 5000);
    show!(t, clone3, 8, 88);
    arguments[11] = 1;
    show!(t, clone3, p(&arguments), 96);
    for (index, value) in [(0, 17), (0, 1 << 40), (4, 65), (5, 4096), (6, 4096), (0, 0x10000), (8, 1), (9, 1)] {
        let mut arguments = [0u64; 11];
        arguments[index] = value;
        say!(t, "{index} = {value}: {}", result(call!(clone3, p(&arguments), 88)));
    }
}

fn clone3_forks(t: &mut T) {
    let mut pidfd = -1i32;
    let mut arguments = [0u64; 11];
    arguments[0] = libc::CLONE_PIDFD as u64;
    arguments[1] = out(&mut pidfd);
    arguments[4] = libc::SIGCHLD as u64;
    let pid = call!(clone3, p(&arguments), 88);
    if pid == 0 {
        call!(exit_group, 6);
    }
    let mut info = Info::default();
    show!(t, waitid, libc::P_PIDFD, pidfd, out(&mut info), libc::WEXITED, 0);
    say!(t, "{} {} {}", pidfd, info.rest[2], i64::from(info.rest[0]) == pid);
    show!(t, fcntl, pidfd, libc::F_GETFD);
    show!(t, pidfd_send_signal, pidfd, 0, 0, 0);
}

fn exit_signal(t: &mut T) {
    extern "C" fn entry(_: u64) -> i32 {
        4
    }
    handle(libc::SIGUSR1, count, 0, 0);
    for signal in [libc::SIGUSR1, 0] {
        let pid = clone_on(signal as u64, &mut stack(), [0; 2], entry, 0);
        show!(t, wait4, pid, 0, 0, 0);
        let mut status = 0i32;
        let got = call!(wait4, pid, out(&mut status), libc::__WCLONE, 0);
        say!(t, "clone children: {} {}", ok_or_error(got), ending(status));
    }
    say!(t, "told {} times", COUNT.load(Ordering::Relaxed));
}

fn getfd(t: &mut T) {
    let (from, to) = pipe(0);
    let child = fork(|| {
        call!(dup2, from, 50);
        call!(pause);
        0
    });
    let pidfd = must!(pidfd_open, child, 0);
    while call!(pidfd_getfd, pidfd, 50, 0) < 0 {
        call!(sched_yield);
    }
    let copy = must!(pidfd_getfd, pidfd, 50, 0);
    show!(t, fcntl, copy, libc::F_GETFD);
    write(to, "x");
    say!(t, "{}", read(copy));
    show!(t, pidfd_getfd, pidfd, 999, 0);
    show!(t, pidfd_getfd, pidfd, 50, 1);
    show!(t, pidfd_getfd, from, 50, 0);
    show!(t, kill, child, libc::SIGKILL);
    say!(t, "{}", wait(child));
    show!(t, pidfd_getfd, pidfd, 50, 0);
}
