//! Signals: delivery, masks, what is queued, what `siginfo` says, interrupted calls.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    delivery: kill rt_sigaction,
    masks: rt_sigprocmask rt_sigpending,
    queue: rt_sigqueueinfo rt_sigtimedwait,
    as_many_as_the_user_may: rt_sigqueueinfo rt_tgsigqueueinfo kill tgkill timer_create,
    of_all_processes_of_the_user: rt_sigqueueinfo,
    standard_once: kill rt_sigpending,
    info_of_kill: kill tkill rt_sigqueueinfo,
    info_of_fault: rt_sigaction,
    nested_masks: rt_sigaction,
    bad_numbers: rt_sigaction kill rt_sigprocmask,
    restart: read rt_sigaction,
    permissions: kill,
    reset_hand: rt_sigaction,
];

fn own() -> i64 {
    call!(getpid)
}

fn delivery(t: &mut T) {
    handle(libc::SIGUSR1, count, 0, 0);
    show!(t, kill, own(), libc::SIGUSR1);
    say!(t, "{} {}", COUNT.load(Ordering::Relaxed), LAST.load(Ordering::Relaxed));
    dispose(libc::SIGUSR1, 1);
    show!(t, kill, own(), libc::SIGUSR1);
    say!(t, "ignored {}", COUNT.load(Ordering::Relaxed));
    let mut old = SigAction::default();
    handle(libc::SIGUSR2, count, libc::SA_RESTART | libc::SA_NODEFER, bit(5));
    show!(t, rt_sigaction, libc::SIGUSR2, 0, out(&mut old), 8);
    say!(t, "flags {:x} mask {:x}", old.flags, old.mask);
}

fn masks(t: &mut T) {
    handle(libc::SIGUSR1, count, 0, 0);
    say!(t, "{:x}", mask(libc::SIG_BLOCK, bit(libc::SIGUSR1) | bit(libc::SIGKILL) | bit(libc::SIGSTOP)));
    must!(kill, own(), libc::SIGUSR1);
    say!(t, "pending {:x}, ran {}", pending(), COUNT.load(Ordering::Relaxed));
    say!(t, "{:x}", mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1)));
    say!(t, "pending {:x}, ran {}", pending(), COUNT.load(Ordering::Relaxed));
    say!(t, "{:x}", mask(libc::SIG_SETMASK, u64::MAX));
    say!(t, "{:x}", mask(libc::SIG_SETMASK, 0));
    show!(t, rt_sigprocmask, 7, p(&0u64), 0, 8);
    show!(t, rt_sigprocmask, 7, 0, 0, 8);
    show!(t, rt_sigprocmask, 0, 0, 0, 4);
    show!(t, rt_sigprocmask, 0, 0, 0, 16);
}

fn queue(t: &mut T) {
    mask(libc::SIG_BLOCK, bit(34) | bit(35) | bit(libc::SIGUSR1));
    for (signal, value) in [(35, 1), (34, 2), (34, 3), (libc::SIGUSR1, 4), (libc::SIGUSR1, 5)] {
        let info = Info { signo: signal, code: -1, rest: value_of(value), ..Info::default() };
        say!(t, "{}", result(call!(rt_sigqueueinfo, own(), signal, p(&info))));
    }
    let set = bit(34) | bit(35) | bit(libc::SIGUSR1);
    for _ in 0..5 {
        let mut info = Info::default();
        let got = call!(rt_sigtimedwait, p(&set), out(&mut info), out(&mut [0u64; 2]), 8);
        say!(t, "{} code {} value {}", result(got), info.code, info.value());
    }
    show!(t, rt_sigtimedwait, p(&set), 0, out(&mut [0u64, 2_000_000_000]), 8);
    show!(t, rt_sigtimedwait, p(&set), 0, out(&mut [0u64, 0]), 4);
}

/// Becomes a user that has nothing queued, and may have `limit` signals.
fn somebody_with(limit: u64) {
    must!(setresuid, 54_321, 54_321, 54_321);
    must!(setrlimit, libc::RLIMIT_SIGPENDING, p(&[limit, limit]));
    mask(libc::SIG_BLOCK, bit(34) | bit(35) | bit(libc::SIGUSR1) | bit(libc::SIGUSR2));
}

fn queue_to(pid: i64, signal: i32, value: i32) -> String {
    let info = Info { signo: signal, code: -1, rest: value_of(value), ..Info::default() };
    result(call!(rt_sigqueueinfo, pid, signal, p(&info)))
}

fn taken(signal: i32) -> String {
    let mut info = Info::default();
    let got = call!(rt_sigtimedwait, p(&bit(signal)), out(&mut info), p(&[0u64; 2]), 8);
    format!("{} code {} value {}", result(got), info.code, info.value())
}

/// How many the user has queued, and may.
fn queued() -> String {
    let status = content("/proc/self/status");
    status.lines().find(|line| line.starts_with("SigQ")).unwrap_or_default().replace('\t', " ")
}

/// What is too much is refused only if it is a real-time signal that does not come from `kill`; else it comes without details.
fn as_many_as_the_user_may(t: &mut T) {
    let ended = child(|| {
        somebody_with(3);
        say!(t, "{}", queued());
        for value in 1..5 {
            say!(t, "{}, {}", queue_to(own(), 34, value), queued());
        }
        let info = Info { signo: 34, code: -1, ..Info::default() };
        show!(t, rt_tgsigqueueinfo, own(), own(), 34, p(&info));
        show!(t, tgkill, own(), own(), 34);
        show!(t, tgkill, own(), own(), libc::SIGUSR2);
        show!(t, kill, own(), 35);
        say!(t, "standard: {}", queue_to(own(), libc::SIGUSR1, 9));
        show!(t, timer_create, 1, 0, out(&mut 0i32));
        say!(t, "{}, pending {:x}", queued(), pending());
        for signal in [35, libc::SIGUSR1, libc::SIGUSR2, 34] {
            say!(t, "{}, {}", taken(signal), queued());
        }
        say!(t, "{}", queue_to(own(), 34, 5));
        say!(t, "{}", taken(34));
        show!(t, timer_create, 1, 0, out(&mut 0i32));
        say!(t, "{}, {}", queue_to(own(), 34, 6), queued());
        show!(t, timer_delete, 0);
        say!(t, "{}", queue_to(own(), 34, 7));
        must!(setrlimit, libc::RLIMIT_SIGPENDING, p(&[0u64, 0]));
        say!(t, "none: {}", queue_to(own(), 35, 8));
        dispose(35, 1);
        say!(t, "ignored and blocked: {}", queue_to(own(), 35, 8));
        mask(libc::SIG_UNBLOCK, bit(35));
        say!(t, "ignored: {}", queue_to(own(), 35, 8));
        0
    });
    say!(t, "{ended}");
}

/// The user's signals count wherever they are queued; the limit is the receiver's.
fn of_all_processes_of_the_user(t: &mut T) {
    let ended = child(|| {
        somebody_with(4);
        let (tell, told) = (pipe(0), pipe(0));
        let other = fork(|| {
            must!(setrlimit, libc::RLIMIT_SIGPENDING, p(&[2u64, 4]));
            write(told.1, "x");
            must!(read, tell.0, out(&mut [0u8; 1]), 1);
            0
        });
        must!(read, told.0, out(&mut [0u8; 1]), 1);
        say!(t, "{} {}", queue_to(other, 34, 1), queue_to(own(), 34, 2));
        say!(t, "{} {}", queue_to(other, 34, 3), queue_to(own(), 34, 4));
        say!(t, "{} {}", queue_to(other, 34, 5), queue_to(own(), 34, 6));
        say!(t, "{} {}", queue_to(own(), 34, 7), queued());
        write(tell.1, "x");
        say!(t, "{}", wait(other));
        say!(t, "{} {} {}", queued(), queue_to(own(), 34, 8), queue_to(own(), 34, 9));
        0
    });
    say!(t, "{ended}");
}

fn value_of(value: i32) -> [i32; 28] {
    let mut rest = [0; 28];
    rest[2] = value;
    rest
}

fn standard_once(t: &mut T) {
    mask(libc::SIG_BLOCK, bit(libc::SIGUSR1) | bit(40));
    handle(libc::SIGUSR1, count, 0, 0);
    handle(40, count, 0, 0);
    for _ in 0..3 {
        must!(kill, own(), libc::SIGUSR1);
    }
    mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR1));
    say!(t, "standard: {}", COUNT.swap(0, Ordering::Relaxed));
    for _ in 0..3 {
        must!(kill, own(), 40);
    }
    mask(libc::SIG_UNBLOCK, bit(40));
    say!(t, "real-time: {}", COUNT.load(Ordering::Relaxed));
}

static CODE: AtomicU32 = AtomicU32::new(0);
static WORD: AtomicU32 = AtomicU32::new(0);
static ADDRESS: AtomicU64 = AtomicU64::new(0);
static TRAP: AtomicU64 = AtomicU64::new(0);

extern "C" fn keep(_: i32, info: &mut Info, context: &mut libc::ucontext_t) {
    CODE.store(info.code as u32, Ordering::Relaxed);
    WORD.store(info.rest[0] as u32, Ordering::Relaxed);
    ADDRESS.store(info.address(), Ordering::Relaxed);
    let registers = &context.uc_mcontext.gregs;
    let trap = registers[libc::REG_TRAPNO as usize] << 8 | registers[libc::REG_ERR as usize] & 0xff;
    TRAP.store(trap as u64, Ordering::Relaxed);
}

fn info_of_kill(t: &mut T) {
    handle(libc::SIGUSR1, keep, 0, 0);
    let from_us = || i64::from(WORD.load(Ordering::Relaxed)) == own();
    must!(kill, own(), libc::SIGUSR1);
    say!(t, "kill: code {} from us {}", CODE.load(Ordering::Relaxed) as i32, from_us());
    must!(tkill, call!(gettid), libc::SIGUSR1);
    say!(t, "tkill: code {} from us {}", CODE.load(Ordering::Relaxed) as i32, from_us());
    must!(tgkill, own(), call!(gettid), libc::SIGUSR1);
    say!(t, "tgkill: code {}", CODE.load(Ordering::Relaxed) as i32);
    for code in [0, -6, 1, -1, -2, -60] {
        let info = Info { signo: libc::SIGUSR1, code, ..Info::default() };
        let to_us = result(call!(rt_sigqueueinfo, own(), libc::SIGUSR1, p(&info)));
        let to_other = result(call!(rt_sigqueueinfo, call!(getppid), 0, p(&info)));
        say!(t, "queue code {code}: {to_us} {}, to another {to_other}", CODE.load(Ordering::Relaxed) as i32);
    }
}

fn info_of_fault(t: &mut T) {
    // Each in a child, which ends in the handler.
    extern "C" fn told(signal: i32, info: &mut Info, context: &mut libc::ucontext_t) {
        keep(signal, info, context);
        let base = BASE.load(Ordering::Relaxed);
        let offset = info.address().wrapping_sub(base);
        let offset = if offset < 0x10000 { format!("base+{offset:#x}") } else { format!("{:#x}", info.address()) };
        let (code, trap) = (info.code, TRAP.load(Ordering::Relaxed));
        say!(T::default(), "{} code {code} at {offset} trap {trap:x}", signal_name(signal));
        call!(exit_group, 0);
    }
    static BASE: AtomicU64 = AtomicU64::new(0);
    let base = pages(8);
    BASE.store(base, Ordering::Relaxed);
    crate::sys::poke(base, 0xc3);
    must!(mprotect, base + 4096, 4096, 0);
    must!(mprotect, base + 2 * 4096, 4096, libc::PROT_READ);
    must!(munmap, base + 3 * 4096, 4096);
    file("short", "x");
    let fd = open("short", O_RDWR);
    must!(mmap, base + 4 * 4096, 8192, 3, libc::MAP_SHARED | libc::MAP_FIXED, fd, 0);
    for (i, byte) in [0x0f, 0x0b].into_iter().enumerate() {
        crate::sys::poke(base + 6 * 4096 + i as u64, byte);
    }
    crate::sys::poke(base + 7 * 4096, 0xcc);
    must!(mprotect, base + 6 * 4096, 8192, libc::PROT_READ | libc::PROT_EXEC);
    type Case = (&'static str, fn(u64));
    let cases: [Case; 9] = [
        ("read none", |base| _ = crate::sys::peek(base + 4096 + 5)),
        ("write read-only", |base| crate::sys::poke(base + 2 * 4096 + 7, 1)),
        ("read unmapped", |base| _ = crate::sys::peek(base + 3 * 4096 + 9)),
        ("read null", |_| _ = crate::sys::peek(8)),
        ("read behind a file", |base| _ = crate::sys::peek(base + 5 * 4096 + 1)),
        ("execute data", |base| _ = crate::sys::jump(base)),
        ("undefined instruction", |base| _ = crate::sys::jump(base + 6 * 4096)),
        ("breakpoint", |base| _ = crate::sys::jump(base + 7 * 4096)),
        ("read a kernel address", |_| _ = crate::sys::peek(0xffff_8000_0000_0000)),
    ];
    for (name, case) in cases {
        let ended = child(|| {
            for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGILL, libc::SIGTRAP, libc::SIGFPE] {
                handle(signal, told, 0, 0);
            }
            say!(t, "{name}:");
            case(base);
            1
        });
        say!(t, "  {ended}");
    }
}

fn nested_masks(t: &mut T) {
    extern "C" fn outer(signal: i32, _: &mut Info, _: &mut libc::ucontext_t) {
        let now = mask(libc::SIG_BLOCK, 0);
        say!(T::default(), "in {}: mask {now:x}", signal_name(signal));
        if signal == libc::SIGUSR1 {
            call!(kill, own(), libc::SIGUSR1);
            call!(kill, own(), libc::SIGUSR2);
            say!(T::default(), "back in USR1, pending {:x}", pending());
        }
    }
    for (flags, also) in [(0, 0), (0, bit(libc::SIGUSR2)), (libc::SA_NODEFER | libc::SA_RESETHAND, 0)] {
        handle(libc::SIGUSR1, outer, flags, also);
        handle(libc::SIGUSR2, outer, 0, 0);
        if flags != 0 {
            dispose(libc::SIGUSR2, 1);
            let ended = child(|| {
                call!(kill, own(), libc::SIGUSR1);
                0
            });
            say!(t, "{ended}");
        } else {
            mask(libc::SIG_BLOCK, bit(libc::SIGUSR2));
            mask(libc::SIG_UNBLOCK, bit(libc::SIGUSR2));
            let once = fork(|| {
                handle(libc::SIGUSR1, once_only, flags, also);
                call!(kill, own(), libc::SIGUSR1);
                0
            });
            say!(t, "{}", wait(once));
        }
    }
    extern "C" fn once_only(signal: i32, info: &mut Info, context: &mut libc::ucontext_t) {
        if COUNT.fetch_add(1, Ordering::Relaxed) == 0 {
            outer(signal, info, context);
        } else {
            say!(T::default(), "again {}", signal_name(signal));
        }
    }
    say!(t, "mask after {:x}", mask(libc::SIG_BLOCK, 0));
}

fn bad_numbers(t: &mut T) {
    let action = SigAction { handler: 1, ..SigAction::default() };
    for signal in [0, 65, -1, libc::SIGKILL, libc::SIGSTOP, 64, 32] {
        let set = result(call!(rt_sigaction, signal, p(&action), 0, 8));
        let asked = result(call!(rt_sigaction, signal, 0, out(&mut [0u64; 4]), 8));
        say!(t, "{signal}: {set} {asked}");
    }
    show!(t, rt_sigaction, libc::SIGUSR1, p(&action), 0, 4);
    for signal in [-1, 0, 65, 1000] {
        say!(t, "kill {signal}: {}", result(call!(kill, own(), signal)));
    }
    show!(t, kill, 999_999, 0);
    show!(t, kill, i32::MIN, 0);
    show!(t, kill, -999_999, 9);
    show!(t, tgkill, own(), 999_999, 0);
    show!(t, tgkill, 0, 1, 0);
    show!(t, tgkill, 1, -1, 0);
    show!(t, tkill, 0, 0);
    show!(t, tkill, -5, 0);
}

fn restart(t: &mut T) {
    for flags in [0, libc::SA_RESTART] {
        let (r, w) = pipe(0);
        handle(libc::SIGUSR1, count, flags, 0);
        let parent = own();
        let helper = fork(|| {
            sleep_ms(30);
            call!(kill, parent, libc::SIGUSR1);
            sleep_ms(30);
            write(w, "late") as i32
        });
        say!(t, "flags {flags:x}: {:?}", read(r));
        wait(helper);
    }
    say!(t, "handled {}", COUNT.load(Ordering::Relaxed));
}

fn permissions(t: &mut T) {
    let root = own();
    let ended = as_nobody(|| {
        say!(t, "root's: {}", result(call!(kill, root, 0)));
        say!(t, "own: {}", result(call!(kill, own(), 0)));
        let child = fork(|| {
            call!(pause);
            0
        });
        say!(t, "a child: {}", result(call!(kill, child, libc::SIGTERM)));
        say!(t, "{}", wait(child));
        say!(t, "root's SIGCONT: {}", result(call!(kill, root, libc::SIGCONT)));
    });
    say!(t, "{ended}");
}

fn reset_hand(t: &mut T) {
    handle(libc::SIGUSR1, count, libc::SA_RESETHAND, 0);
    must!(kill, own(), libc::SIGUSR1);
    let mut now = SigAction::default();
    must!(rt_sigaction, libc::SIGUSR1, 0, out(&mut now), 8);
    say!(t, "ran {}, handler now {}", COUNT.load(Ordering::Relaxed), now.handler);
}
