//! A bad pointer in each pointer argument of each system call: a test a call, made from the kernel's table.
//!
//! The other arguments are such that the call gets as far as the pointer. Not every case is EFAULT (a call may refuse
//! something else first, or never look at the pointer): it has to be what Linux says.

use crate::helpers::*;
use crate::kinds::{self, ArgKind, CALLS, Layout};
use crate::test::Test;

/// Calls that end, block or clone their caller whatever the pointers are, or change the machine.
const NOT_THESE: &[&str] = &[
    "clone",
    "fork",
    "vfork",
    "exit",
    "exit_group",
    "pause",
    "rt_sigreturn",
    "restart_syscall",
    "reboot",
    "init_module",
    "kexec_load",
    "sethostname",
    "setdomainname",
    "settimeofday",
    "clock_settime",
    "adjtimex",
    "clock_adjtime",
    "rseq",
    "set_robust_list",
    "brk",
    "syslog",
    "process_vm_readv",
    "process_vm_writev",
];

macro_rules! every_test {
    ($($number:literal $name:ident $(($($kind:expr),*))?;)*) => {
        &[$(Test { area: module_path!(), short: stringify!($name), calls: &[stringify!($name)], race: false, long: false,
            run: one::<$number> }),*]
    };
}

const EVERY: &[Test] = kinds::calls::every_call!(every_test);

/// The tests: of those calls that have pointers and that the sandbox's kernel has.
pub fn tests() -> impl Iterator<Item = &'static Test> {
    EVERY.iter().zip(CALLS).filter(|(_, call)| concerned(call)).map(|(test, _)| test)
}

fn concerned(call: &kinds::Call) -> bool {
    // The lab's Linux 6.1 has nothing newer to compare with.
    const NEWEST_THERE: u64 = 450;
    let pointers = call.args.is_some_and(|args| args.iter().any(|kind| is_pointer(*kind)));
    pointers && call.number <= NEWEST_THERE && !NOT_THESE.contains(&call.name) && kinds::is_there(call.name)
}

fn is_pointer(kind: ArgKind) -> bool {
    matches!(kind, ArgKind::Str | ArgKind::StrVec | ArgKind::In(..) | ArgKind::Out(..) | ArgKind::InOut(..))
}

fn one<const NUMBER: u64>(t: &mut T) {
    let call = CALLS.iter().find(|call| call.number == NUMBER).expect("a call");
    let args = call.args.expect("arguments");
    let bad = Bad::new();
    for (index, kind) in args.iter().enumerate().filter(|(_, kind)| is_pointer(**kind)) {
        for (name, address) in bad.of(*kind) {
            // Without a time these wait for ever.
            let waits =
                matches!(call.name, "ppoll" | "pselect6" | "select" | "rt_sigtimedwait" | "futex_waitv");
            if name == "null" && waits {
                continue;
            }
            // Each in a child: what it opens or changes is gone.
            let mut ended = String::new();
            let (r, w) = pipe(0);
            let pid = fork(|| {
                must!(setpgid, 0, 0);
                dispose(libc::SIGUSR1, 1);
                let mut raw = good(call.name, args);
                raw[index] = address;
                let result = crate::sys::call(call.number, raw);
                write(w, &ok_or_error(result));
                0
            });
            must!(close, w);
            ended += &read(r);
            must!(close, r);
            let how = wait(pid);
            if how != "exit 0" {
                ended += &format!(" ({how})");
            }
            say!(t, "argument {index} {name}: {ended}");
        }
    }
}

/// Bad addresses.
struct Bad {
    hole: u64,
    none: u64,
    read_only: u64,
}

impl Bad {
    fn new() -> Bad {
        let (none, read_only) = (pages(1), pages(1));
        must!(mprotect, none, 4096, libc::PROT_NONE);
        must!(mprotect, read_only, 4096, libc::PROT_READ);
        Bad { hole: hole(), none, read_only }
    }

    fn of(&self, kind: ArgKind) -> Vec<(&'static str, u64)> {
        let mut all = vec![
            ("unmapped", self.hole),
            ("inaccessible", self.none),
            ("kernel", 0xffff_8880_0000_0000),
            ("odd", u64::MAX - 7),
        ];
        let size = match kind {
            ArgKind::In(layout, _) | ArgKind::Out(layout, _) | ArgKind::InOut(layout, _) => {
                layout.size() as u64
            }
            _ => 1,
        };
        if size > 1 {
            all.push(("half mapped", self.hole - (size / 2).min(8)));
        }
        if matches!(kind, ArgKind::Out(..) | ArgKind::InOut(..)) {
            all.push(("read-only", self.read_only));
        }
        all.push(("null", 0));
        all
    }
}

/// Arguments with which the call gets far.
fn good(name: &str, args: &[ArgKind]) -> [u64; 6] {
    let mut raw = [0u64; 6];
    file("f", "some text in a file");
    for (i, kind) in args.iter().enumerate() {
        raw[i] = match *kind {
            ArgKind::Fd => descriptor(name, i) as u64,
            ArgKind::Str => {
                let at = pages(1);
                let text: &[u8] = if name.contains("xattr") && i > 0 { b"trusted.x" } else { b"f" };
                for (j, byte) in text.iter().enumerate() {
                    crate::sys::poke(at + j as u64, *byte);
                }
                at
            }
            ArgKind::StrVec => pages(1),
            ArgKind::In(layout, _) | ArgKind::Out(layout, _) | ArgKind::InOut(layout, _) => {
                let at = pages(1);
                match layout {
                    // _LINUX_CAPABILITY_VERSION_3
                    Layout::Opaque(8) if name.starts_with("cap") => {
                        for (j, byte) in 0x2008_0522u32.to_le_bytes().iter().enumerate() {
                            crate::sys::poke(at + j as u64, *byte);
                        }
                    }
                    Layout::SockAddr => crate::sys::poke(at, 1),
                    Layout::I32
                        if name.starts_with("get") || name.starts_with("accept") || name == "recvfrom" =>
                    {
                        crate::sys::poke(at, 100);
                    }
                    // A vector whose one element is eight good bytes.
                    Layout::IoVecIn | Layout::IoVecOut => {
                        let buffer = pages(1);
                        for (j, byte) in buffer.to_le_bytes().iter().enumerate() {
                            crate::sys::poke(at + j as u64, *byte);
                        }
                        crate::sys::poke(at + 8, 8);
                    }
                    _ => {}
                }
                at
            }
            ArgKind::Pid => call!(getpid) as u64,
            ArgKind::Signal => libc::SIGUSR1 as u64,
            ArgKind::Uint => 8,
            ArgKind::Choice(names) => names.values[0].0,
            _ => 0,
        };
    }
    for (call, index, value) in SPECIAL {
        if *call == name {
            raw[*index] = *value;
        }
    }
    raw
}

/// What the kinds do not say.
const SPECIAL: &[(&str, usize, u64)] = &[
    ("poll", 1, 1),
    ("ppoll", 1, 1),
    ("select", 0, 1),
    ("pselect6", 0, 1),
    ("readv", 2, 1),
    ("writev", 2, 1),
    ("preadv", 2, 1),
    ("pwritev", 2, 1),
    ("preadv2", 2, 1),
    ("pwritev2", 2, 1),
    ("vmsplice", 2, 1),
    ("getcwd", 1, 4096),
    ("getdents", 2, 4096),
    ("getdents64", 2, 4096),
    ("getgroups", 0, 8),
    ("setgroups", 0, 1),
    ("epoll_wait", 2, 1),
    ("epoll_pwait", 2, 1),
    ("epoll_pwait2", 2, 1),
    ("epoll_ctl", 2, 0),
    ("clone3", 1, 88),
    ("openat2", 3, 24),
    ("connect", 2, 16),
    ("bind", 2, 16),
    ("sendto", 5, 16),
    ("setsockopt", 2, 2),
    ("setsockopt", 4, 4),
    ("getsockopt", 2, 3),
    ("socketpair", 0, 1),
    ("socketpair", 1, 1),
    ("sched_getattr", 2, 48),
    ("prlimit64", 1, 7),
    ("getrlimit", 0, 7),
    ("setrlimit", 0, 7),
    ("waitid", 3, 4),
    ("rt_sigtimedwait", 3, 8),
    ("futex", 2, 1),
    ("futex_waitv", 1, 1),
    ("semop", 2, 1),
    ("semtimedop", 2, 1),
    ("mq_timedsend", 2, 1),
    ("mq_timedreceive", 2, 8192),
    ("name_to_handle_at", 0, 0xffff_ff9c),
    ("process_madvise", 2, 1),
    ("capget", 0, 0),
    ("personality", 0, 0),
    ("timer_settime", 0, 0),
];

/// A descriptor that suits the call.
fn descriptor(name: &str, index: usize) -> i64 {
    let nonblocking = libc::SOCK_NONBLOCK;
    let socket = |kind: i32| must!(socket, libc::AF_UNIX, kind | nonblocking, 0);
    let connected = || {
        let mut fds = [0i32; 2];
        must!(socketpair, libc::AF_UNIX, libc::SOCK_STREAM | nonblocking, 0, out(&mut fds));
        write(fds[1], "waiting to be read");
        i64::from(fds[0])
    };
    match name {
        _ if name.ends_with("at")
            || matches!(name, "openat2" | "renameat2" | "statx" | "faccessat2" | "fchmodat2") =>
        {
            i64::from(AT_FDCWD)
        }
        "epoll_ctl" if index == 0 => must!(epoll_create1, 0),
        "epoll_ctl" => connected(),
        _ if name.starts_with("epoll") => {
            let (poller, ready) = (must!(epoll_create1, 0), connected());
            must!(epoll_ctl, poller, libc::EPOLL_CTL_ADD, ready, p(&[1u8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]));
            poller
        }
        _ if name.starts_with("timerfd") => must!(timerfd_create, 1, 0),
        _ if name.starts_with("signalfd") => -1,
        _ if name.starts_with("inotify") => call!(inotify_init1, 0),
        _ if name.starts_with("pidfd") || name == "process_madvise" => must!(pidfd_open, call!(getpid), 0),
        _ if name.starts_with("getdents") => must!(openat, AT_FDCWD, c".", libc::O_DIRECTORY, 0),
        "accept" | "accept4" => {
            let listener = socket(libc::SOCK_STREAM);
            must!(bind, listener, p(b"\x01\0\0conformance"), 14);
            must!(listen, listener, 1);
            must!(connect, socket(libc::SOCK_STREAM), p(b"\x01\0\0conformance"), 14);
            listener
        }
        "bind" | "connect" => socket(libc::SOCK_STREAM),
        "sendto" => socket(libc::SOCK_DGRAM),
        _ if name.starts_with("recv")
            || name.starts_with("send")
            || name.contains("sock")
            || name.contains("peer") =>
        {
            connected()
        }
        "vmsplice" => pipe(libc::O_NONBLOCK).1.into(),
        "splice" | "tee" if index < 2 => {
            let (r, w) = pipe(libc::O_NONBLOCK);
            write(w, "in a pipe");
            r.into()
        }
        _ => open("f", O_RDWR),
    }
}
