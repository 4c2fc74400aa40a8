//! System-call filters: what is admitted, what each answer does, who decides, who inherits.

use crate::helpers::*;
use crate::test::Test;
use std::sync::atomic::Ordering;

pub const TESTS: &[Test] = tests![
    errors: seccomp prctl,
    needs_no_new_privs: seccomp prctl,
    strict: seccomp prctl,
    programs: seccomp,
    answers: seccomp,
    trap: seccomp,
    pile: seccomp,
    arguments: seccomp,
    inherited: seccomp fork execve,
    threads: seccomp,
    supervisor: seccomp,
    supervisor_gone: seccomp,
];

const STRICT: u32 = 0;
const FILTER: u32 = 1;
const NO_NEW_PRIVS: i32 = 38;
const GETPPID: u32 = 110;
const KILL_PROCESS: u32 = 0x8000_0000;
const KILL_THREAD: u32 = 0;
const TRAP: u32 = 0x0003_0000;
const ERRNO: u32 = 0x0005_0000;
const USER_NOTIF: u32 = 0x7fc0_0000;
const TRACE: u32 = 0x7ff0_0000;
const LOG: u32 = 0x7ffc_0000;
const ALLOW: u32 = 0x7fff_0000;
const RECV: u32 = 0xc050_2100;
const SEND: u32 = 0xc018_2101;
const ID_VALID: u32 = 0x4008_2102;
const ADDFD: u32 = 0x4018_2103;

#[repr(C)]
#[derive(Clone, Copy)]
struct Op {
    code: u16,
    jt: u8,
    jf: u8,
    k: u32,
}

#[repr(C)]
struct Program {
    len: u16,
    ops: u64,
}

const fn op(code: u16, k: u32) -> Op {
    Op { code, jt: 0, jf: 0, k }
}

const fn unless_equal(k: u32, jf: u8) -> Op {
    Op { code: 0x15, jt: 0, jf, k }
}

fn install(flags: u32, ops: &[Op]) -> i64 {
    let program = Program { len: ops.len() as u16, ops: p(ops) };
    call!(seccomp, FILTER, flags, p(&program))
}

/// Answers `answer` for getppid, and allows all else.
fn for_getppid(answer: u32) -> [Op; 4] {
    [op(0x20, 0), unless_equal(GETPPID, 1), op(6, answer), op(6, ALLOW)]
}

fn locked() {
    must!(prctl, NO_NEW_PRIVS, 1, 0, 0, 0);
}

fn errors(t: &mut T) {
    show!(t, seccomp, 9, 0, 0);
    show!(t, seccomp, STRICT, 1, 0);
    show!(t, seccomp, STRICT, 0, 1);
    show!(t, seccomp, FILTER, 0, 0);
    show!(t, seccomp, FILTER, 0x8000, 0);
    show!(t, seccomp, FILTER, 9, 0);
    show!(t, seccomp, FILTER, 32, 0);
    show!(t, seccomp, 2, 1, 0);
    show!(t, seccomp, 2, 0, 8);
    for action in [KILL_PROCESS, KILL_THREAD, TRAP, ERRNO, USER_NOTIF, TRACE, LOG, ALLOW, 0x1234_0000] {
        show!(t, seccomp, 2, 0, p(&action));
    }
    let mut sizes = [0u16; 3];
    show!(t, seccomp, 3, 0, out(&mut sizes));
    say!(t, "{sizes:?}");
    show!(t, seccomp, 3, 0, 8);
    show!(t, prctl, 22, 3, 0, 0, 0);
    show!(t, prctl, 22, 2, 8, 0, 0);
    show!(t, prctl, 21, 0, 0, 0, 0);
    let ops = [op(6, ALLOW)];
    show!(t, seccomp, FILTER, 0, p(&Program { len: 0, ops: p(&ops) }));
    show!(t, seccomp, FILTER, 0, p(&Program { len: 1, ops: 8 }));
    show!(t, seccomp, FILTER, 0, p(&Program { len: 4097, ops: p(&ops) }));
}

fn needs_no_new_privs(t: &mut T) {
    let ended = as_nobody(|| {
        say!(t, "{}", result(install(0, &[op(6, ALLOW)])));
        locked();
        say!(t, "{}", result(install(0, &[op(6, ALLOW)])));
        show!(t, prctl, 21, 0, 0, 0, 0);
        let status = content("/proc/self/status");
        for line in status.lines().filter(|l| l.starts_with("Seccomp") || l.starts_with("NoNewPrivs")) {
            say!(t, "{line}");
        }
        show!(t, seccomp, STRICT, 0, 0);
    });
    say!(t, "{ended}");
}

fn strict(t: &mut T) {
    let ended = child(|| {
        must!(seccomp, STRICT, 0, 0);
        call!(write, 1, p(b"in strict mode\n"), 15);
        call!(exit, 7);
        0
    });
    say!(t, "{ended}");
    let ended = child(|| {
        must!(prctl, 22, 1, 0, 0, 0);
        call!(getppid);
        0
    });
    say!(t, "{ended}");
}

fn programs(t: &mut T) {
    locked();
    let programs: &[(&str, &[Op])] = &[
        ("no return", &[op(0, 0)]),
        ("jump past the end", &[op(5, 0)]),
        ("jump back", &[op(5, u32::MAX), op(6, ALLOW)]),
        ("beyond the data", &[op(0x20, 64), op(6, ALLOW)]),
        ("not aligned", &[op(0x20, 2), op(6, ALLOW)]),
        ("half words", &[op(0x28, 0), op(6, ALLOW)]),
        ("bytes", &[op(0x30, 0), op(6, ALLOW)]),
        ("indirect", &[op(0x40, 0), op(6, ALLOW)]),
        ("header length", &[op(0xb1, 0), op(6, ALLOW)]),
        ("division by zero", &[op(0x34, 0), op(6, ALLOW)]),
        ("modulo", &[op(0x94, 3), op(6, ALLOW)]),
        ("shift too far", &[op(0x64, 32), op(6, ALLOW)]),
        ("scratch too far", &[op(2, 16), op(6, ALLOW)]),
        ("scratch not written", &[op(0x60, 3), op(6, ALLOW)]),
        ("unknown", &[op(0xffff, 0), op(6, ALLOW)]),
        ("fine", &[op(0x80, 0), op(2, 3), op(0x61, 3), op(0x0c, 0), op(7, 0), op(0x87, 0), op(6, ALLOW)]),
    ];
    for (name, ops) in programs {
        say!(t, "{name}: {}", result(install(0, ops)));
    }
}

fn answers(t: &mut T) {
    locked();
    let answers = [ALLOW, LOG, TRACE | 5, USER_NOTIF, ERRNO, ERRNO | 1, ERRNO | 4095, ERRNO | 0xffff, TRAP | 7, KILL_THREAD,
        KILL_PROCESS, 0x1234_0000, 0x9000_0000];
    for answer in answers {
        let ended = child(|| {
            must!(seccomp, FILTER, 0, p(&Program { len: 4, ops: p(&for_getppid(answer)) }));
            let got = call!(getppid);
            say!(t, "{answer:#x}: {}", if got > 0 { "allowed".to_owned() } else { result(got) });
            0
        });
        say!(t, "{answer:#x}: {ended}");
    }
}

extern "C" fn on_sys(_: i32, info: &mut Info, context: &mut libc::ucontext_t) {
    let words = shared_trap();
    words[0].store(info.code as u32, Ordering::Relaxed);
    words[1].store(info.errno as u32, Ordering::Relaxed);
    words[2].store(info.rest[2] as u32, Ordering::Relaxed);
    words[3].store(info.rest[3] as u32, Ordering::Relaxed);
    words[4].store(context.uc_mcontext.gregs[libc::REG_RAX as usize] as u32, Ordering::Relaxed);
    let same = info.address() == context.uc_mcontext.gregs[libc::REG_RIP as usize] as u64;
    words[5].store(same.into(), Ordering::Relaxed);
    context.uc_mcontext.gregs[libc::REG_RAX as usize] = 4711;
}

fn shared_trap() -> &'static [std::sync::atomic::AtomicU32] {
    static WORDS: [std::sync::atomic::AtomicU32; 6] = [const { std::sync::atomic::AtomicU32::new(0) }; 6];
    &WORDS
}

fn trap(t: &mut T) {
    locked();
    handle(libc::SIGSYS, on_sys, 0, 0);
    say!(t, "{}", result(install(0, &for_getppid(TRAP | 42))));
    show!(t, getppid);
    for word in shared_trap() {
        say!(t, "{:#x}", word.load(Ordering::Relaxed));
    }
}

fn pile(t: &mut T) {
    locked();
    for pair in [[ERRNO | 1, ERRNO | 2], [ERRNO | 3, ALLOW], [ALLOW, ERRNO | 4], [TRACE, ERRNO | 5], [LOG, TRACE]] {
        let ended = child(|| {
            for answer in pair {
                must!(seccomp, FILTER, 0, p(&Program { len: 4, ops: p(&for_getppid(answer)) }));
            }
            let got = call!(getppid);
            say!(t, "{pair:x?}: {}", if got > 0 { "allowed".to_owned() } else { result(got) });
            0
        });
        say!(t, "{ended}");
    }
    let ended = child(|| {
        let mut count = 0;
        let error = loop {
            match install(0, &[op(0, 0); 4095].iter().copied().chain([op(6, ALLOW)]).collect::<Vec<_>>()) {
                0 => count += 1,
                error => break error,
            }
        };
        say!(t, "{count} filters of 4096: {}", result(error));
        0
    });
    say!(t, "{ended}");
}

fn arguments(t: &mut T) {
    locked();
    // getpriority(0, 7) is refused with what the high half of its third argument says.
    let ops = [
        op(0x20, 0),
        unless_equal(140, 5),
        op(0x20, 24),
        unless_equal(7, 3),
        op(0x20, 36),
        op(0x44, ERRNO),
        op(0x16, 0),
        op(6, ALLOW),
    ];
    say!(t, "{}", result(install(0, &ops)));
    show!(t, getpriority, 0, 0);
    show!(t, getpriority, 0, 7u64, 9u64 << 32);
    show!(t, getpriority, 0, 7u64 | 1 << 32, 11u64 << 32);
}

fn inherited(t: &mut T) {
    locked();
    must!(seccomp, FILTER, 0, p(&Program { len: 4, ops: p(&for_getppid(ERRNO | 77)) }));
    let ended = child(|| {
        show!(t, getppid);
        child(|| {
            show!(t, getppid);
            0
        });
        show!(t, prctl, 21, 0, 0, 0, 0);
        0
    });
    say!(t, "{ended}");
}

fn threads(t: &mut T) {
    locked();
    let words = crate::sys::shared();
    let thread = std::thread::spawn(move || {
        words[0].store(1, Ordering::SeqCst);
        while words[1].load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        call!(getppid)
    });
    while words[0].load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    say!(t, "{}", result(install(1, &for_getppid(ERRNO | 13))));
    words[1].store(1, Ordering::SeqCst);
    say!(t, "other thread: {}", result(thread.join().unwrap_or(0)));
    // A thread that has a filter of its own is in the way.
    words[2].store(0, Ordering::SeqCst);
    let thread = std::thread::spawn(move || {
        install(0, &[op(6, ALLOW)]);
        words[2].store(1, Ordering::SeqCst);
        while words[3].load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
    });
    while words[2].load(Ordering::SeqCst) == 0 {
        std::thread::yield_now();
    }
    let got = install(1, &[op(6, ALLOW)]);
    say!(t, "in the way: {}", got > 0 && got != call!(getpid));
    say!(t, "with ESRCH: {}", result(install(17, &[op(6, ALLOW)])));
    words[3].store(1, Ordering::SeqCst);
    let _ = thread.join();
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Notice {
    id: u64,
    pid: u32,
    flags: u32,
    nr: i32,
    arch: u32,
    ip: u64,
    args: [u64; 6],
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Answer {
    id: u64,
    value: i64,
    error: i32,
    flags: u32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct AddFd {
    id: u64,
    flags: u32,
    source: u32,
    new: u32,
    new_flags: u32,
}

fn supervisor(t: &mut T) {
    locked();
    let fd = install(8, &for_getppid(USER_NOTIF)) as i32;
    say!(t, "listener: {}", fd > 2);
    say!(t, "second: {}", result(install(8, &for_getppid(USER_NOTIF))));
    say!(t, "{}", poll(fd, 0x5, 0));
    let mut notice = Notice::default();
    show!(t, ioctl, fd, RECV, 8);
    notice.flags = 1;
    show!(t, ioctl, fd, RECV, out(&mut notice));
    show!(t, ioctl, fd, SEND, p(&Answer { id: 99, ..Answer::default() }));
    show!(t, ioctl, fd, SEND, p(&Answer { id: 99, flags: 2, ..Answer::default() }));
    show!(t, ioctl, fd, ID_VALID, p(&99u64));
    show!(t, ioctl, fd, ADDFD, p(&AddFd { id: 99, ..AddFd::default() }));
    show!(t, ioctl, fd, 0x2199, 0);
    let parent = call!(getpid);
    let pid = fork(|| {
        let first = call!(getppid);
        let second = call!(getppid);
        let third = call!(getppid);
        let fourth = call!(getppid);
        say!(t, "{} {} {} {}", result(first), result(second), third == parent, fourth > 2);
        0
    });
    let answers = [
        Answer { value: 4711, ..Answer::default() },
        Answer { error: -libc::EXDEV, ..Answer::default() },
        Answer { flags: 1, ..Answer::default() },
    ];
    for answer in answers {
        say!(t, "{}", poll(fd, 0x5, 1000));
        notice = Notice::default();
        show!(t, ioctl, fd, RECV, out(&mut notice));
        say!(t, "{} {} {:#x} {}", notice.nr, i64::from(notice.pid) == pid, notice.arch, notice.flags);
        say!(t, "{}", poll(fd, 0x5, 0));
        show!(t, ioctl, fd, ID_VALID, p(&notice.id));
        show!(t, ioctl, fd, SEND, p(&Answer { id: notice.id, ..answer }));
    }
    notice = Notice::default();
    show!(t, ioctl, fd, RECV, out(&mut notice));
    let bad = AddFd { id: notice.id, source: 99, ..AddFd::default() };
    show!(t, ioctl, fd, ADDFD, p(&bad));
    let bad = AddFd { id: notice.id, new: 7, ..AddFd::default() };
    show!(t, ioctl, fd, ADDFD, p(&bad));
    let add = AddFd { id: notice.id, flags: 2, source: 1, ..AddFd::default() };
    let added = call!(ioctl, fd, ADDFD, p(&add)); // the child prints when it has its answer
    say!(t, "{}", wait(pid));
    say!(t, "added: {}", ok_or_error(added));
}

fn supervisor_gone(t: &mut T) {
    locked();
    let fd = install(8, &for_getppid(USER_NOTIF)) as i32;
    let pid = fork(|| {
        must!(close, fd);
        let got = call!(getppid);
        say!(t, "{}", result(got));
        0
    });
    let mut notice = Notice::default();
    show!(t, ioctl, fd, RECV, out(&mut notice));
    must!(close, fd);
    say!(t, "{}", wait(pid));
    show!(t, getppid);
}
