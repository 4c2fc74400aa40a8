//! Debug registers, and what else a debugger uses of `ptrace` that areas/ptrace.rs has not.

use std::hint::black_box;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    watchpoint: ptrace,
    read_watchpoint: ptrace,
    breakpoint: ptrace,
    attack_registers: ptrace,
    by_the_kernel: ptrace read,
    of_children: ptrace fork,
    switched_lazily: ptrace,
    attack_deferred: ptrace,
    emulated_calls: ptrace,
];

const TRACEME: i32 = 0;
const PEEKUSER: i32 = 3;
const POKEUSER: i32 = 6;
const CONT: i32 = 7;
const GETREGS: i32 = 12;
const SETREGS: i32 = 13;
const SYSCALL: i32 = 24;
const SYSEMU: i32 = 31;
const GETSIGINFO: i32 = 0x4202;
const WALL: i32 = 0x4000_0000;

/// `offsetof(struct user, u_debugreg[n])`.
const fn register(n: u64) -> u64 {
    848 + 8 * n
}

/// What is watched.
static WATCHED: AtomicU64 = AtomicU64::new(0);
static OTHER: AtomicU64 = AtomicU64::new(0);

fn address() -> u64 {
    WATCHED.as_ptr() as u64
}

/// DR7: the first breakpoint on writes or on reads and writes of so many bytes (as a code), or on an instruction.
const WRITE_8: u64 = 0b1001 << 16 | 1;
const ACCESS_8: u64 = 0b1011 << 16 | 1;
const EXECUTE: u64 = 1;

fn next(pid: i64) -> String {
    let mut status = 0i32;
    must!(wait4, pid, out(&mut status), WALL, 0);
    ending(status)
}

fn tracee(body: impl FnOnce() -> i32) -> i64 {
    let pid = fork(|| {
        must!(ptrace, TRACEME, 0, 0, 0);
        call!(kill, call!(getpid), libc::SIGSTOP);
        body()
    });
    assert_eq!(next(pid), "stopped by SIGSTOP");
    pid
}

fn set(pid: i64, n: u64, value: u64) -> String {
    result(call!(ptrace, POKEUSER, pid, register(n), value))
}

fn get(pid: i64, n: u64) -> u64 {
    let mut value = 0u64;
    must!(ptrace, PEEKUSER, pid, register(n), out(&mut value));
    value
}

/// Lets it go on, and says how it stops and why.
fn go(t: &mut T, pid: i64) -> String {
    must!(ptrace, CONT, pid, 0, 0);
    let stop = next(pid);
    if stop.starts_with("stopped") {
        let mut info = Info::default();
        must!(ptrace, GETSIGINFO, pid, 0, out(&mut info));
        say!(t, "{stop}: code {}, status {:#x}", info.code, get(pid, 6));
    } else {
        say!(t, "{stop}");
    }
    stop
}

fn write(value: u64) {
    WATCHED.store(black_box(value), Ordering::SeqCst);
}

fn watchpoint(t: &mut T) {
    let pid = tracee(|| {
        for i in 0..3 {
            OTHER.store(i, Ordering::SeqCst);
            write(i);
        }
        OTHER.store(WATCHED.load(Ordering::SeqCst), Ordering::SeqCst);
        5
    });
    say!(t, "{:#x} {:#x}", get(pid, 6), get(pid, 7));
    say!(t, "{} {}", set(pid, 0, address()), set(pid, 7, WRITE_8));
    say!(t, "{} {:#x}", get(pid, 0) == address(), get(pid, 7));
    go(t, pid);
    say!(t, "{}", set(pid, 6, 0));
    say!(t, "{:#x}", get(pid, 6));
    go(t, pid);
    say!(t, "{}", set(pid, 7, 0));
    go(t, pid);
}

fn read_watchpoint(t: &mut T) {
    let pid = tracee(|| {
        OTHER.store(7, Ordering::SeqCst);
        let value = WATCHED.load(Ordering::SeqCst);
        write(value + 1);
        6
    });
    // The fourth register, in the upper half of DR7.
    say!(t, "{} {}", set(pid, 3, address()), set(pid, 7, (ACCESS_8 & 0xff_0000) << 12 | 1 << 6));
    go(t, pid);
    go(t, pid);
    go(t, pid);
}

extern "C" fn target(x: u64) -> u64 {
    black_box(x) + 1
}

fn breakpoint(t: &mut T) {
    let function: extern "C" fn(u64) -> u64 = target;
    let pid = tracee(move || {
        let mut x = 0;
        for _ in 0..3 {
            x = black_box(function)(x);
        }
        x as i32
    });
    say!(t, "{} {}", set(pid, 1, function as *const () as u64), set(pid, 7, EXECUTE << 2));
    for _ in 0..3 {
        go(t, pid);
        let mut registers = [0u64; 27];
        must!(ptrace, GETREGS, pid, 0, out(&mut registers));
        say!(t, "there: {}", registers[16] == function as *const () as u64);
        // Setting all registers does not make it stop at the same place again.
        must!(ptrace, SETREGS, pid, 0, p(&registers));
    }
    go(t, pid);
}

fn attack_registers(t: &mut T) {
    let pid = tracee(|| {
        write(1);
        0
    });
    for bad in [0xffff_8000_0000_0000, u64::MAX] {
        say!(t, "address {bad:#x}: {} {:#x}", set(pid, 0, bad), get(pid, 0));
    }
    say!(t, "{} {}", set(pid, 4, 0), set(pid, 5, 0));
    say!(t, "{:#x} {:#x}", get(pid, 4), get(pid, 5));
    must!(ptrace, POKEUSER, pid, register(0), address());
    // General detect and reserved bits; I/O; an instruction of two bytes; what is not aligned.
    say!(t, "{} {:#x}", set(pid, 7, 1 << 13 | 1 << 10 | 1 << 40), get(pid, 7));
    say!(t, "{} {:#x}", set(pid, 7, 0b0010 << 16 | 1), get(pid, 7));
    say!(t, "{} {:#x}", set(pid, 7, 0b0100 << 16 | 1), get(pid, 7));
    must!(ptrace, POKEUSER, pid, register(0), address() + 1);
    say!(t, "{} {:#x}", set(pid, 7, WRITE_8), get(pid, 7));
    show!(t, ptrace, POKEUSER, pid, register(0) + 1, 0);
    show!(t, ptrace, POKEUSER, pid, register(8), 0);
    go(t, pid);
}

fn by_the_kernel(t: &mut T) {
    let (r, w) = pipe(0);
    let pid = tracee(move || {
        // The kernel writes there for us: nobody is told.
        must!(read, r, address(), 8);
        i32::from(WATCHED.load(Ordering::SeqCst) == 0x0101_0101_0101_0101)
    });
    must!(write, w, p(&[1u8; 8]), 8);
    set(pid, 0, address());
    set(pid, 7, WRITE_8);
    go(t, pid);
}

fn of_children(t: &mut T) {
    let pid = tracee(|| {
        let ended = child(|| {
            write(1);
            4
        });
        i32::from(ended == "exit 4")
    });
    set(pid, 0, address());
    set(pid, 7, WRITE_8);
    let mut stop = go(t, pid);
    while stop.starts_with("stopped") {
        stop = go(t, pid);
    }
}

fn switched_lazily(t: &mut T) {
    // Others that write to the same address, on the same CPU, are not disturbed; the tracee is.
    let mut cpus = [0u64; 16];
    must!(sched_getaffinity, 0, 128, out(&mut cpus));
    must!(sched_setaffinity, 0, 8, p(&[cpus[0] & cpus[0].wrapping_neg()]));
    let pid = tracee(|| {
        for _ in 0..20 {
            call!(sched_yield);
            sleep_ms(1);
        }
        write(1);
        0
    });
    set(pid, 0, address());
    set(pid, 7, WRITE_8);
    let others: Vec<i64> = (0..3)
        .map(|_| {
            fork(|| {
                for i in 0..100 {
                    write(i);
                    call!(sched_yield);
                }
                9
            })
        })
        .collect();
    go(t, pid);
    others.into_iter().for_each(|other| say!(t, "{}", wait(other)));
    go(t, pid);
}

fn attack_deferred(t: &mut T) {
    // `mov ss` from a watched word puts the trap off until after the next instruction; if that is SYSCALL, it comes
    // in the kernel, before that has a stack (CVE-2018-8897).
    let code = must!(mmap, 0, 4096, 7, 0x22, -1, 0) as u64;
    let mut bytes = vec![0x48u8, 0xb9]; // mov rcx, address
    bytes.extend(address().to_le_bytes());
    bytes.extend([0xb8, 39, 0, 0, 0]); // mov eax, getpid
    bytes.extend([0x8e, 0x11]); // mov ss, [rcx]
    bytes.extend([0x0f, 0x05, 0xc3]); // syscall; ret
    (code..).zip(&bytes).for_each(|(at, byte)| crate::sys::poke(at, *byte));
    let pid = tracee(move || {
        WATCHED.store(0x2b, Ordering::SeqCst);
        for _ in 0..5 {
            if crate::sys::jump(code) as i64 != call!(getpid) {
                return 1;
            }
        }
        8
    });
    set(pid, 0, address());
    set(pid, 7, ACCESS_8);
    // Whether the program is told of accesses the trap of which is put off differs between processors: it survives.
    let mut stops = 0;
    let end = loop {
        must!(ptrace, CONT, pid, 0, 0);
        let stop = next(pid);
        if !stop.starts_with("stopped by SIGTRAP") || stops > 50 {
            break stop;
        }
        stops += 1;
    };
    say!(t, "{end}");
}

fn emulated_calls(t: &mut T) {
    let pid = tracee(|| {
        let got = call!(getppid);
        call!(kill, call!(getpid), libc::SIGTERM);
        got as i32
    });
    let mut registers = [0u64; 27];
    for answer in [77u64, 0, 0] {
        must!(ptrace, SYSEMU, pid, 0, 0);
        let stop = next(pid);
        must!(ptrace, GETREGS, pid, 0, out(&mut registers));
        say!(t, "{stop}: call {}, rax {}", registers[15], registers[10] as i64);
        registers[10] = answer;
        must!(ptrace, SETREGS, pid, 0, p(&registers));
    }
    // The next is only stopped at, and made.
    must!(ptrace, SYSCALL, pid, 0, 0);
    let stop = next(pid);
    must!(ptrace, GETREGS, pid, 0, out(&mut registers));
    say!(t, "{stop}: call {}", registers[15]);
    must!(ptrace, CONT, pid, 0, 0);
    say!(t, "{}", next(pid));
}
