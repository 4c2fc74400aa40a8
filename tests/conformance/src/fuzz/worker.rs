//! A worker: a process with a few threads, which has something of everything and makes calls.

use std::sync::atomic::{AtomicU32, Ordering};

use super::generate::{ARENA, Generator, PLAYGROUND};
use super::{LOG, LOG_COUNT, LOG_TID, THREADS};
use crate::helpers::*;
use crate::sys::Argument;

/// Makes calls until it ends itself or is killed; `log` has room for each thread, `kinds` a word for each call number.
pub fn run(seed: u64, process: usize, log: &'static [AtomicU32], kinds: &'static [AtomicU32]) -> i32 {
    must!(setsid);
    // What it mounts is its own affair, if the kernel can do that.
    call!(unshare, libc::CLONE_NEWNS);
    let directory = format!("/tmp/fuzz-{process}");
    call!(mkdir, c(&directory).as_c_str(), 0o755);
    call!(chdir, c(&directory).as_c_str());
    for fd in 0..3 {
        call!(close, fd);
        call!(openat, AT_FDCWD, c"/dev/null", O_RDWR, 0);
    }
    mask(libc::SIG_SETMASK, 0);
    for signal in [libc::SIGALRM, libc::SIGUSR1, libc::SIGPIPE, libc::SIGIO, 40] {
        handle(signal, count, 0, 0);
    }
    open_everything();
    let pids = (0..3).map(|_| fork(sleeper)).collect::<Vec<_>>();
    let seed = seed.wrapping_mul(1_000_003).wrapping_add(process as u64 * 64);
    let thread = |number: usize| {
        let (arena, playground) = (arena(), pages(PLAYGROUND as usize / 4096));
        let mut generator = Generator::new(seed + number as u64, arena, playground, pids.clone());
        make_calls(&mut generator, &log[number * LOG..][..LOG], kinds);
    };
    std::thread::scope(|scope| {
        for number in 1..THREADS {
            let thread = &thread;
            // Without room for a stack there is one thread less.
            let _ =
                std::thread::Builder::new().stack_size(64 << 10).spawn_scoped(scope, move || thread(number));
        }
        thread(0);
    });
    0
}

/// A child that others may do things to.
fn sleeper() -> i32 {
    loop {
        call!(nanosleep, p(&[1u64, 0]), 0);
    }
}

/// Memory whose next page is not there, at a multiple of its size.
fn arena() -> u64 {
    let at = pages(3 * ARENA as usize / 4096).next_multiple_of(ARENA);
    must!(munmap, at + ARENA, 4096);
    at
}

fn make_calls(generator: &mut Generator, log: &[AtomicU32], kinds: &[AtomicU32]) {
    // Descriptors are closed, memory is unmapped: after so many calls a fresh worker finds more.
    const CALLS: u32 = 5_000;
    let own = call!(getpid);
    log[LOG_TID].store(call!(gettid) as u32, Ordering::Relaxed);
    for _ in 0..CALLS {
        let (number, arguments) = generator.call();
        log[0].store(number as u32, Ordering::Relaxed);
        for (i, argument) in arguments.iter().enumerate() {
            log[1 + 2 * i].store(*argument as u32, Ordering::Relaxed);
            log[2 + 2 * i].store((*argument >> 32) as u32, Ordering::Relaxed);
        }
        log[LOG_COUNT].fetch_add(1, Ordering::Relaxed);
        if let Some(kind) = kinds.get(number as usize) {
            kind.store(1, Ordering::Relaxed);
        }
        // What interrupts a call that waits must get through.
        mask(libc::SIG_SETMASK, 0);
        crate::sys::call(number, arguments);
        if call!(getpid) != own {
            call!(exit_group, 0);
        }
    }
    call!(exit_group, 0);
}

/// A descriptor of every kind there is.
fn open_everything() {
    let keep = |_: i64| ();
    let open = |path: &str, flags: i32| call!(openat, AT_FDCWD, c(path).as_c_str(), flags, 0o644);
    call!(mkdir, c"d", 0o755);
    call!(mkdir, c"d/e", 0o755);
    call!(symlink, c"a", c"l");
    call!(symlink, c"loop", c"loop");
    call!(mknod, c"fifo", libc::S_IFIFO | 0o644, 0);
    let file = open("a", O_CREAT | O_RDWR);
    write(file, "some text in a file");
    for (path, flags) in [
        ("b", O_CREAT | O_RDWR | libc::O_APPEND),
        (".", libc::O_DIRECTORY),
        ("d", libc::O_PATH),
        ("fifo", O_RDWR | libc::O_NONBLOCK),
        ("/dev/zero", O_RDWR),
        ("/dev/ptmx", O_RDWR | libc::O_NOCTTY),
        ("/proc/self/maps", O_RDONLY),
        ("/proc/self/mem", O_RDWR),
        ("/proc", O_RDONLY),
        ("/bin/true", O_RDONLY),
    ] {
        keep(open(path, flags));
    }
    let mut pair = [0i32; 2];
    for flags in [0, libc::O_NONBLOCK, libc::O_DIRECT] {
        call!(pipe2, out(&mut pair), flags);
        write(pair[1], "in a pipe");
    }
    for kind in [libc::SOCK_STREAM, libc::SOCK_DGRAM, libc::SOCK_SEQPACKET] {
        call!(socketpair, libc::AF_UNIX, kind, 0, out(&mut pair));
        write(pair[1], "in a socket");
        let listener = call!(socket, libc::AF_UNIX, kind, 0);
        call!(bind, listener, p(b"\x01\0sock\0"), 7);
        call!(listen, listener, 4);
        keep(call!(socket, libc::AF_UNIX, kind | libc::SOCK_NONBLOCK, 0));
    }
    keep(call!(eventfd2, 1, 0));
    let poller = call!(epoll_create1, 0);
    call!(epoll_ctl, poller, libc::EPOLL_CTL_ADD, pair[0], p(&[1u64, 0]));
    keep(call!(timerfd_create, 1, 0));
    keep(call!(signalfd4, -1, p(&bit(libc::SIGUSR2)), 8, libc::O_NONBLOCK));
    let memory = call!(memfd_create, c"m", libc::MFD_ALLOW_SEALING);
    call!(ftruncate, memory, 65536);
    keep(call!(inotify_init1, libc::O_NONBLOCK));
    keep(call!(pidfd_open, call!(getpid).raw(), 0));
}
