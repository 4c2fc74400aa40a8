//! Tracing: stops, registers and what must not get into them, memory, events, both ends' death.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    errors: ptrace,
    access: ptrace process_vm_readv,
    signal_stop: ptrace wait4,
    syscall_stops: ptrace,
    skipped_call: ptrace,
    attack_registers: ptrace,
    attack_rip: ptrace,
    attack_xstate: ptrace,
    fpregs: ptrace,
    memory: ptrace,
    proc_mem: ptrace,
    steps: ptrace,
    attach: ptrace,
    seize: ptrace,
    group_stop: ptrace,
    listen: ptrace,
    fork_events: ptrace fork,
    exec_event: ptrace execve,
    exit_event: ptrace exit_group,
    tracer_dies: ptrace,
    exit_kill: ptrace,
    seccomp_event: ptrace seccomp,
];

const TRACEME: i32 = 0;
const PEEKDATA: i32 = 2;
const PEEKUSER: i32 = 3;
const POKEDATA: i32 = 5;
const POKEUSER: i32 = 6;
const CONT: i32 = 7;
const KILL: i32 = 8;
const STEP: i32 = 9;
const GETREGS: i32 = 12;
const SETREGS: i32 = 13;
const GETFPREGS: i32 = 14;
const SETFPREGS: i32 = 15;
const ATTACH: i32 = 16;
const DETACH: i32 = 17;
const SYSCALL: i32 = 24;
const SETOPTIONS: i32 = 0x4200;
const GETEVENTMSG: i32 = 0x4201;
const GETSIGINFO: i32 = 0x4202;
const SETSIGINFO: i32 = 0x4203;
const GETREGSET: i32 = 0x4204;
const SETREGSET: i32 = 0x4205;
const SEIZE: i32 = 0x4206;
const INTERRUPT: i32 = 0x4207;
const LISTEN: i32 = 0x4208;
const GETSIGMASK: i32 = 0x420a;
const SETSIGMASK: i32 = 0x420b;
const SYSCALL_INFO: i32 = 0x420e;

const SYSGOOD: i32 = 1;
const WALL: i32 = 0x4000_0000;
/// Words of `struct user_regs_struct`.
const RAX: usize = 10;
const ORIG_RAX: usize = 15;
const RIP: usize = 16;
const CS: usize = 17;
const FLAGS: usize = 18;
const SS: usize = 20;
const FS_BASE: usize = 21;
const GS_BASE: usize = 22;

/// A wait status with the event, if there is one.
fn status_of(status: i32) -> String {
    let event = status >> 16 & 0xff;
    let good = if status & 0xff == 0x7f && status >> 8 & 0x80 != 0 { "system call, " } else { "" };
    let plain = ending(status & !0x8000 & 0xffff);
    match event {
        0 => format!("{good}{plain}"),
        n => format!("event {n}, {plain}"),
    }
}

fn next(pid: i64) -> String {
    let mut status = 0i32;
    match call!(wait4, pid, out(&mut status), WALL, 0) {
        got if got == pid => status_of(status),
        other => format!("wait: {}", result(other)),
    }
}

/// A child that is traced from its start, stopped by a SIGSTOP, and then runs `body`.
fn tracee(body: impl FnOnce() -> i32) -> i64 {
    let pid = fork(|| {
        must!(ptrace, TRACEME, 0, 0, 0);
        call!(kill, call!(getpid), libc::SIGSTOP);
        body()
    });
    assert_eq!(next(pid), "stopped by SIGSTOP");
    pid
}

fn registers(pid: i64) -> [u64; 27] {
    let mut words = [0u64; 27];
    must!(ptrace, GETREGS, pid, 0, out(&mut words));
    words
}

fn end(pid: i64) {
    call!(kill, pid, libc::SIGKILL);
    call!(wait4, pid, 0, WALL, 0);
}

fn errors(t: &mut T) {
    show!(t, ptrace, CONT, 1, 0, 0);
    show!(t, ptrace, ATTACH, 999_999, 0, 0);
    show!(t, ptrace, ATTACH, call!(getpid), 0, 0);
    show!(t, ptrace, SEIZE, 1, 1, 0);
    show!(t, ptrace, SEIZE, 1, 0, 0x8000_0000u64);
    let pid = tracee(|| 0);
    show!(t, ptrace, 999, pid, 0, 0);
    show!(t, ptrace, ATTACH, pid, 0, 0);
    show!(t, ptrace, CONT, pid, 0, 65);
    show!(t, ptrace, CONT, pid, 0, -1);
    show!(t, ptrace, DETACH, pid, 0, 99);
    show!(t, ptrace, SETOPTIONS, pid, 0, 0x8000_0000u64);
    show!(t, ptrace, INTERRUPT, pid, 0, 0);
    show!(t, ptrace, LISTEN, pid, 0, 0);
    show!(t, ptrace, GETREGS, pid, 0, 8);
    show!(t, ptrace, SETREGS, pid, 0, 8);
    show!(t, ptrace, GETFPREGS, pid, 0, 8);
    show!(t, ptrace, GETSIGINFO, pid, 0, 8);
    show!(t, ptrace, GETEVENTMSG, pid, 0, 8);
    show!(t, ptrace, GETREGSET, pid, 1, 8);
    show!(t, ptrace, GETSIGMASK, pid, 4, 8);
    show!(t, ptrace, GETSIGMASK, pid, 8, 8);
    show!(t, ptrace, PEEKDATA, pid, 8, 8);
    let mut word = 0u64;
    show!(t, ptrace, PEEKDATA, pid, 8, out(&mut word));
    show!(t, ptrace, POKEDATA, pid, 8, 0);
    show!(t, ptrace, PEEKUSER, pid, 3, out(&mut word));
    show!(t, ptrace, PEEKUSER, pid, 920, out(&mut word));
    show!(t, ptrace, PEEKUSER, pid, 928, out(&mut word));
    show!(t, ptrace, POKEUSER, pid, 4096, 0);
    show!(t, ptrace, KILL, pid, 0, 0);
    say!(t, "{}", next(pid));
    show!(t, ptrace, CONT, pid, 0, 0);
}

fn access(t: &mut T) {
    let root = fork(|| {
        call!(pause);
        0
    });
    let ended = as_nobody(|| {
        show!(t, ptrace, ATTACH, root, 0, 0);
        show!(t, ptrace, SEIZE, root, 0, 0);
        let mut byte = 0u8;
        let (local, remote) = ([out(&mut byte), 1u64], [out(&mut byte), 1u64]);
        show!(t, process_vm_readv, root, p(&local), 1, p(&remote), 1, 0);
        say!(t, "{}", content(&format!("/proc/{root}/mem")));
        // One like itself, but for being dumpable.
        for dumpable in [1, 0] {
            let words = crate::sys::shared();
            let other = fork(|| {
                must!(prctl, 4, dumpable, 0, 0, 0);
                words[0].store(1, std::sync::atomic::Ordering::SeqCst);
                call!(pause);
                0
            });
            while words[0].load(std::sync::atomic::Ordering::SeqCst) == 0 {
                sleep_ms(1);
            }
            show!(t, ptrace, SEIZE, other, 0, 0);
            end(other);
        }
    });
    say!(t, "{ended}");
    end(root);
}

fn signal_stop(t: &mut T) {
    handle(libc::SIGUSR1, count, 0, 0);
    let pid = tracee(|| {
        for signal in [libc::SIGUSR1, libc::SIGUSR1, libc::SIGCHLD, libc::SIGTERM] {
            call!(kill, call!(getpid), signal);
        }
        COUNT.load(std::sync::atomic::Ordering::Relaxed) as i32
    });
    let mut info = Info::default();
    show!(t, ptrace, GETSIGINFO, pid, 0, out(&mut info));
    say!(t, "{} {} {}", info.signo, info.code, i64::from(info.rest[0]) == pid);
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
    must!(ptrace, CONT, pid, 0, 0); // the first is suppressed
    say!(t, "{}", next(pid));
    show!(t, ptrace, GETSIGINFO, pid, 0, out(&mut info));
    say!(t, "{} {}", info.signo, info.code);
    show!(t, ptrace, SETSIGINFO, pid, 0, p(&info));
    must!(ptrace, CONT, pid, 0, libc::SIGUSR1);
    say!(t, "{}", next(pid)); // even one that is ignored
    let mut mask = 0u64;
    show!(t, ptrace, GETSIGMASK, pid, 8, out(&mut mask));
    mask = bit(libc::SIGTERM) | bit(libc::SIGKILL);
    show!(t, ptrace, SETSIGMASK, pid, 8, p(&mask));
    show!(t, ptrace, GETSIGMASK, pid, 8, out(&mut mask));
    say!(t, "{mask:#x}");
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct CallInfo {
    op: u8,
    pad: [u8; 3],
    arch: u32,
    ip: u64,
    sp: u64,
    rest: [u64; 8],
}

fn tell_stop(t: &mut T, pid: i64) {
    let mut info = CallInfo::default();
    let len = call!(ptrace, SYSCALL_INFO, pid, 88, out(&mut info));
    let words = registers(pid);
    let mut message = 0u64;
    must!(ptrace, GETEVENTMSG, pid, 0, out(&mut message));
    let rest = match info.op {
        1 => format!("nr {} args {:?}", info.rest[0], &info.rest[1..4]),
        2 => format!("value {} error {}", result(info.rest[0] as i64), info.rest[1] & 0xff),
        3 => format!("nr {} value {}", info.rest[0], info.rest[7] as u32),
        _ => String::new(),
    };
    say!(t, "op {} of {len} arch {:#x} {rest}; rax {} orig {} message {message}", info.op, info.arch,
        result(words[RAX] as i64), words[ORIG_RAX] as i64);
}

fn syscall_stops(t: &mut T) {
    let pid = tracee(|| {
        call!(close, -1, 2, 3);
        call!(dup2, 77, 78, 9);
        5
    });
    must!(ptrace, SETOPTIONS, pid, 0, SYSGOOD);
    for _ in 0..7 {
        must!(ptrace, SYSCALL, pid, 0, 0);
        let what = next(pid);
        say!(t, "{what}");
        if !what.starts_with("system call") {
            return;
        }
        tell_stop(t, pid);
    }
    end(pid);
}

fn skipped_call(t: &mut T) {
    let pid = tracee(|| {
        let got = call!(getppid);
        let other = call!(getppid);
        say!(t, "{} {}", result(got), result(other));
        0
    });
    must!(ptrace, SETOPTIONS, pid, 0, SYSGOOD);
    for skip in [u64::MAX, 3] {
        must!(ptrace, SYSCALL, pid, 0, 0);
        let mut what = next(pid);
        while registers(pid)[ORIG_RAX] != 110 {
            must!(ptrace, SYSCALL, pid, 0, 0);
            what = next(pid);
        }
        say!(t, "{what}");
        must!(ptrace, POKEUSER, pid, ORIG_RAX * 8, skip);
        if skip == 3 {
            must!(ptrace, POKEUSER, pid, 14 * 8, 99); // close(99)
        }
        must!(ptrace, SYSCALL, pid, 0, 0);
        say!(t, "{}", next(pid));
        if skip != 3 {
            must!(ptrace, POKEUSER, pid, RAX * 8, 4711);
        }
    }
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}

fn attack_registers(t: &mut T) {
    let pid = tracee(|| 3);
    let good = registers(pid);
    const RF_NT: u64 = 1 << 16 | 1 << 14;
    for flags in [0, u64::MAX, 3 << 12, 1 << 14, 1 << 17, 1 << 9, 7 << 19] {
        say!(t, "flags {flags:#x}: {}", result(call!(ptrace, POKEUSER, pid, FLAGS * 8, flags)));
        // RF and NT apart: Linux takes them, we keep them out of user contexts (docs/architecture.md).
        say!(t, "{:#x}", registers(pid)[FLAGS] & !RF_NT);
    }
    for selector in [0u64, 0x10, 0x18, 0x30, 0x31, 0x32, 0xfff8] {
        say!(t, "cs {selector:#x}: {}", result(call!(ptrace, POKEUSER, pid, CS * 8, selector)));
        say!(t, "ss {selector:#x}: {}", result(call!(ptrace, POKEUSER, pid, SS * 8, selector)));
    }
    // Between 1 << 47 and 1 << 56 it depends on the size of page tables.
    for base in [0u64, 1 << 46, 1 << 56, 0xffff_8000_0000_0000, u64::MAX] {
        say!(t, "fs {base:#x}: {}", result(call!(ptrace, POKEUSER, pid, FS_BASE * 8, base)));
        say!(t, "gs {base:#x}: {}", result(call!(ptrace, POKEUSER, pid, GS_BASE * 8, base)));
    }
    must!(ptrace, SETREGS, pid, 0, p(&good));
    say!(t, "{}", registers(pid) == good);
    let mut bad = good;
    bad[CS] = 0x10;
    show!(t, ptrace, SETREGS, pid, 0, p(&bad));
    must!(ptrace, SETREGS, pid, 0, p(&good));
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}

fn attack_rip(t: &mut T) {
    for rip in [1u64 << 47, 0x8000_0000_0000_0000, 0xffff_ffff_8010_0000, 8] {
        let pid = tracee(|| 3);
        say!(t, "rip {rip:#x}: {}", result(call!(ptrace, POKEUSER, pid, RIP * 8, rip)));
        say!(t, "{:#x}", registers(pid)[RIP]);
        must!(ptrace, CONT, pid, 0, 0);
        say!(t, "{}", next(pid));
        end(pid);
    }
}

fn regset(pid: i64, request: i32, kind: u64, bytes: &mut [u8]) -> (i64, u64) {
    let mut iov = [out(bytes), bytes.len() as u64];
    let got = call!(ptrace, request, pid, kind, out(&mut iov));
    (got, iov[1])
}

fn attack_xstate(t: &mut T) {
    let pid = tracee(|| 3);
    let mut image = vec![0u8; 16384];
    let (got, len) = regset(pid, GETREGSET, 0x202, &mut image);
    say!(t, "{} {}", result(got), len > 576);
    image.truncate(len as usize);
    say!(t, "{}", result(regset(pid, SETREGSET, 0x202, &mut image).0));
    for (at, bit) in [(26, 1u8), (519, 0x40), (520, 1), (527, 0x80), (530, 1), (575, 1)] {
        let mut broken = image.clone();
        broken[at] |= bit;
        say!(t, "byte {at}: {}", result(regset(pid, SETREGSET, 0x202, &mut broken).0));
    }
    let less = image.len() - 8;
    say!(t, "short: {}", result(regset(pid, SETREGSET, 0x202, &mut image[..less]).0));
    say!(t, "odd: {}", result(regset(pid, GETREGSET, 1, &mut image[..7]).0));
    say!(t, "{:?}", regset(pid, GETREGSET, 1, &mut image));
    say!(t, "{:?}", regset(pid, GETREGSET, 1, &mut image[..16]));
    say!(t, "{:?}", regset(pid, GETREGSET, 2, &mut image));
    say!(t, "unknown: {}", result(regset(pid, GETREGSET, 0x7777, &mut image).0));
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}

fn fpregs(t: &mut T) {
    let pid = tracee(|| 3);
    let mut area = [0u8; 512];
    show!(t, ptrace, GETFPREGS, pid, 0, out(&mut area));
    say!(t, "{:x?}", &area[24..28]);
    area[160] = 0xab;
    show!(t, ptrace, SETFPREGS, pid, 0, p(&area));
    area[27] = 0xff;
    show!(t, ptrace, SETFPREGS, pid, 0, p(&area));
    show!(t, ptrace, GETFPREGS, pid, 0, out(&mut area));
    say!(t, "{:#x} {:x?}", area[160], &area[24..28]);
    end(pid);
}

#[inline(never)]
extern "C" fn answer() -> i32 {
    std::hint::black_box(41)
}

fn memory(t: &mut T) {
    let mut value = 17u64;
    let at = out(&mut value);
    let code = answer as *const () as u64;
    let pid = tracee(|| {
        answer();
        crate::sys::peek(at).into()
    });
    let mut word = 0u64;
    show!(t, ptrace, PEEKDATA, pid, at, out(&mut word));
    say!(t, "{word}");
    show!(t, ptrace, POKEDATA, pid, at, 23);
    // A breakpoint in code that the program itself cannot write.
    let mut original = 0u64;
    must!(ptrace, PEEKDATA, pid, code, out(&mut original));
    show!(t, ptrace, POKEDATA, pid, code, original & !0xff | 0xcc);
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
    let mut info = Info::default();
    must!(ptrace, GETSIGINFO, pid, 0, out(&mut info));
    say!(t, "code {:#x} at {}", info.code, registers(pid)[RIP] - code);
    must!(ptrace, POKEDATA, pid, code, original);
    must!(ptrace, POKEUSER, pid, RIP * 8, code);
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
    say!(t, "own {value} {}", answer());
}

fn proc_mem(t: &mut T) {
    let mut value = *b"original";
    let at = out(&mut value);
    let pid = tracee(|| crate::sys::peek(at).into());
    let fd = open(&format!("/proc/{pid}/mem"), O_RDWR);
    let mut bytes = [0u8; 8];
    show!(t, pread64, fd, out(&mut bytes), 8, at);
    say!(t, "{}", String::from_utf8_lossy(&bytes));
    show!(t, pwrite64, fd, p(b"!"), 1, at);
    show!(t, pread64, fd, out(&mut bytes), 8, 8);
    show!(t, pwrite64, fd, p(b"!"), 1, 8);
    let line = content(&format!("/proc/{pid}/status"));
    let line = |name: &str| line.lines().find(|l| l.starts_with(name)).unwrap_or("").to_owned();
    say!(t, "{} {}", line("State"), line("TracerPid") == format!("TracerPid:\t{}", call!(getpid)));
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
    show!(t, pread64, fd, out(&mut bytes), 8, at);
}

fn steps(t: &mut T) {
    handle(libc::SIGUSR1, count, 0, 0);
    let pid = tracee(|| {
        loop {
            call!(getppid);
        }
    });
    let mut info = Info::default();
    let mut last = registers(pid)[RIP];
    for _ in 0..20 {
        must!(ptrace, STEP, pid, 0, 0);
        let what = next(pid);
        must!(ptrace, GETSIGINFO, pid, 0, out(&mut info));
        let words = registers(pid);
        assert!(what == "stopped by SIGTRAP" && words[FLAGS] & 0x100 == 0, "{what}");
        assert!((info.code == 2 || info.code == 1) && words[RIP] != last, "code {}", info.code);
        last = words[RIP];
    }
    say!(t, "steps");
    // Into a handler.
    must!(ptrace, STEP, pid, 0, libc::SIGUSR1);
    say!(t, "{}", next(pid));
    end(pid);
}

fn attach(t: &mut T) {
    let pid = fork(|| {
        call!(pause);
        3
    });
    show!(t, ptrace, ATTACH, pid, 0, 0);
    say!(t, "{}", next(pid));
    show!(t, ptrace, DETACH, pid, 0, 0);
    show!(t, ptrace, DETACH, pid, 0, 0);
    show!(t, wait4, pid, 0, libc::WNOHANG, 0);
    show!(t, ptrace, ATTACH, pid, 0, 0);
    say!(t, "{}", next(pid));
    show!(t, ptrace, DETACH, pid, 0, libc::SIGTERM);
    say!(t, "{}", wait(pid));
}

fn seize(t: &mut T) {
    let pid = fork(|| {
        loop {
            call!(pause);
        }
    });
    show!(t, ptrace, SEIZE, pid, 0, SYSGOOD);
    show!(t, ptrace, GETREGS, pid, 0, 8);
    show!(t, wait4, pid, 0, libc::WNOHANG | WALL, 0);
    show!(t, ptrace, INTERRUPT, pid, 0, 0);
    say!(t, "{}", next(pid));
    let mut info = Info::default();
    show!(t, ptrace, GETSIGINFO, pid, 0, out(&mut info));
    say!(t, "{} {:#x}", info.signo, info.code);
    must!(ptrace, CONT, pid, 0, 0);
    must!(kill, pid, libc::SIGUSR1);
    say!(t, "{}", next(pid));
    end(pid);
}

fn group_stop(t: &mut T) {
    let pid = tracee(|| {
        call!(kill, call!(getpid), libc::SIGTSTP);
        call!(kill, call!(getpid), libc::SIGSTOP);
        3
    });
    let mut info = Info::default();
    must!(ptrace, CONT, pid, 0, 0);
    for _ in 0..2 {
        say!(t, "{}", next(pid));
        let signal = if call!(ptrace, GETSIGINFO, pid, 0, out(&mut info)) == 0 { info.signo } else { 0 };
        say!(t, "{signal}");
        must!(ptrace, CONT, pid, 0, if signal == libc::SIGTSTP { 0 } else { libc::SIGSTOP });
    }
    say!(t, "{}", next(pid));
    show!(t, ptrace, GETSIGINFO, pid, 0, out(&mut info));
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}

fn listen(t: &mut T) {
    let pid = fork(|| {
        loop {
            call!(pause);
        }
    });
    must!(ptrace, SEIZE, pid, 0, 0);
    must!(kill, pid, libc::SIGSTOP);
    say!(t, "{}", next(pid));
    show!(t, ptrace, LISTEN, pid, 0, 0);
    must!(ptrace, CONT, pid, 0, libc::SIGSTOP);
    say!(t, "{}", next(pid));
    show!(t, ptrace, LISTEN, pid, 0, 0);
    show!(t, ptrace, CONT, pid, 0, 0);
    show!(t, wait4, pid, 0, libc::WNOHANG | WALL, 0);
    must!(kill, pid, libc::SIGCONT);
    say!(t, "{}", next(pid));
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
    end(pid);
}

/// Lets everything go on until the first tracee has ended; says what each stop was.
fn follow(t: &mut T, first: i64, who: &mut Vec<i64>) {
    loop {
        let mut status = 0i32;
        let pid = call!(wait4, -1, out(&mut status), WALL, 0);
        if pid < 0 {
            say!(t, "{}", result(pid));
            return;
        }
        if !who.contains(&pid) {
            who.push(pid);
        }
        let index = who.iter().position(|p| *p == pid).unwrap_or(9);
        let mut message = 0u64;
        call!(ptrace, GETEVENTMSG, pid, 0, out(&mut message));
        let event = status >> 16;
        let message = match event {
            6 => format!("{message:#x}"),
            0 | 128 => String::new(),
            _ => format!("{}", who.contains(&(message as i64)) || message > 0),
        };
        say!(t, "{index}: {} {message}", status_of(status));
        if status & 0xff != 0x7f {
            if pid == first {
                return;
            }
            continue;
        }
        let signal = status >> 8 & 0xff;
        let signal = if event != 0 || signal == 5 || signal == 19 { 0 } else { signal };
        must!(ptrace, CONT, pid, 0, signal);
    }
}

fn fork_events(t: &mut T) {
    for options in [0, 0x2] {
        let pid = tracee(|| {
            let child = must!(fork);
            if child == 0 {
                call!(exit_group, 4);
            }
            call!(wait4, child, 0, 0, 0);
            5
        });
        must!(ptrace, SETOPTIONS, pid, 0, options);
        must!(ptrace, CONT, pid, 0, 0);
        say!(t, "options {options:#x}");
        let mut status = 0i32;
        // The child's and its maker's stops come in any order: the maker's are followed, the child is let go.
        loop {
            let got = call!(wait4, -1, out(&mut status), WALL, 0);
            if got < 0 {
                say!(t, "{}", result(got));
                break;
            }
            if got == pid {
                say!(t, "{}", status_of(status));
                if status & 0xff != 0x7f {
                    break;
                }
                let signal = status >> 8 & 0xff;
                let signal = if status >> 16 != 0 || signal == 5 { 0 } else { signal };
                must!(ptrace, CONT, pid, 0, signal);
            } else if status & 0xff == 0x7f {
                must!(ptrace, CONT, got, 0, 0);
            }
        }
    }
}

fn exec_event(t: &mut T) {
    for options in [0, 0x10] {
        let pid = tracee(|| {
            let path = c("/bin/true");
            let argv = [p(path.as_bytes_with_nul()), 0];
            let envp = [0u64];
            call!(execve, path.as_c_str(), p(&argv), p(&envp)) as i32
        });
        must!(ptrace, SETOPTIONS, pid, 0, options);
        must!(ptrace, CONT, pid, 0, 0);
        follow(t, pid, &mut vec![pid]);
    }
}

fn exit_event(t: &mut T) {
    for how in [0, libc::SIGTERM] {
        let pid = tracee(|| {
            if how != 0 {
                call!(kill, call!(getpid), how);
            }
            9
        });
        must!(ptrace, SETOPTIONS, pid, 0, 0x40);
        must!(ptrace, CONT, pid, 0, 0);
        follow(t, pid, &mut vec![pid]);
    }
}

fn tracer_dies(t: &mut T) {
    let words = crate::sys::shared();
    let pid = fork(|| {
        while words[0].load(std::sync::atomic::Ordering::SeqCst) == 0 {
            sleep_ms(1);
        }
        6
    });
    let ended = child(|| {
        must!(ptrace, SEIZE, pid, 0, 0);
        must!(ptrace, INTERRUPT, pid, 0, 0);
        say!(t, "{}", next(pid));
        0
    });
    say!(t, "{ended}");
    words[0].store(1, std::sync::atomic::Ordering::SeqCst);
    say!(t, "{}", wait(pid));
}

fn exit_kill(t: &mut T) {
    let pid = fork(|| {
        loop {
            call!(pause);
        }
    });
    let ended = child(|| {
        must!(ptrace, SEIZE, pid, 0, 1 << 20);
        0
    });
    say!(t, "{ended}");
    say!(t, "{}", wait(pid));
}

fn seccomp_event(t: &mut T) {
    let pid = tracee(|| {
        must!(prctl, 38, 1, 0, 0, 0);
        let ops = [0x20u64, 0x15 | 1 << 24 | 110 << 32, 0x6 | 0x7ff0_0007 << 32, 0x6 | 0x7fff_0000 << 32];
        let program = [4u64, p(&ops)];
        must!(seccomp, 1, 0, p(&program));
        let got = call!(getppid);
        say!(t, "{}", result(got));
        0
    });
    must!(ptrace, SETOPTIONS, pid, 0, SYSGOOD | 0x80);
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
    tell_stop(t, pid);
    must!(ptrace, POKEUSER, pid, ORIG_RAX * 8, -1);
    must!(ptrace, POKEUSER, pid, RAX * 8, 4711);
    must!(ptrace, SYSCALL, pid, 0, 0);
    say!(t, "{}", next(pid));
    tell_stop(t, pid);
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}
