//! Arguments, from the kernel's table of what arguments are.

use super::Random;
use crate::kinds::{ArgKind, CALLS, Call, Layout, is_there};
use crate::sys::poke;

/// Paths of a worker's directory, and some that are everybody's.
const PATHS: &[&str] = &[
    "a",
    "b",
    "d",
    "d/e",
    "d/e/f",
    "l",
    "loop",
    "fifo",
    "sock",
    ".",
    "..",
    "",
    "/",
    "/dev/null",
    "/dev/zero",
    "/dev/ptmx",
    "/dev/tty",
    "/proc/self/maps",
    "/proc/self/mem",
    "/proc/self/fd/3",
    "/proc/self/status",
    "/proc/meminfo",
    "/proc/self/oom_score_adj",
    "/proc/self/comm",
    "/etc/passwd",
    "/bin/true",
    "d/../a",
    "user.x",
    "trusted.x",
    "tmpfs",
    "proc",
    "overlay",
    "size=1m",
    "none",
    "self",
    "/sys",
    "/tmp",
];

/// Numbers at the edges.
const ODD: &[u64] = &[
    0,
    1,
    2,
    3,
    4,
    7,
    8,
    16,
    63,
    64,
    127,
    128,
    255,
    256,
    511,
    512,
    1023,
    1024,
    4095,
    4096,
    4097,
    8192,
    65535,
    65536,
    1 << 20,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_ffff,
    1 << 32,
    1 << 40,
    1 << 47,
    1 << 62,
    i64::MAX as u64,
    i64::MIN as u64,
    u64::MAX,
    u64::MAX - 1,
    u64::MAX - 4095,
];

/// What a thread makes its calls with.
pub struct Generator {
    random: Random,
    /// Memory for what arguments point to: so many bytes from here.
    arena: u64,
    /// Memory that calls may unmap and protect.
    playground: u64,
    /// Processes it made.
    pids: Vec<i64>,
    own: i64,
    next: u64,
    calls: Vec<&'static Call>,
}

/// Bytes of the arena and the playground.
pub const ARENA: u64 = 64 << 10;
pub const PLAYGROUND: u64 = 1 << 20;

/// Never made: they end the machine.
const NEVER: &[&str] = &["reboot", "kexec_load", "kexec_file_load"];
/// Made rarely: they end or block their caller, make more of it, or leave it with less to do.
const RARELY: &[&str] = &[
    "exit",
    "exit_group",
    "fork",
    "vfork",
    "clone",
    "clone3",
    "rt_sigreturn",
    "pause",
    "rt_sigsuspend",
    "execve",
    "execveat",
    "seccomp",
    "close_range",
    "arch_prctl",
    "prctl",
    "set_robust_list",
    "munmap",
    "brk",
    "mseal",
    "setrlimit",
    "prlimit64",
    "setgid",
    "setgroups",
    "capset",
    "setuid",
    "setresuid",
    "setreuid",
    "unshare",
    "chroot",
    "pivot_root",
];

/// Signals that a worker has a handler for or that do nothing.
const HARMLESS: &[u64] = &[0, 10, 13, 14, 17, 18, 23, 28, 29, 40];

impl Generator {
    /// One for a thread.
    pub fn new(seed: u64, arena: u64, playground: u64, pids: Vec<i64>) -> Generator {
        let calls = CALLS.iter().filter(|call| !NEVER.contains(&call.name) && is_there(call.name)).collect();
        Generator { random: Random::new(seed), arena, playground, pids, own: call!(getpid), next: 0, calls }
    }

    /// A call: its number and arguments.
    pub fn call(&mut self) -> (u64, [u64; 6]) {
        if self.random.once_in(60) {
            let mut number = self.random.next() % 480;
            if CALLS.iter().any(|call| call.number == number && NEVER.contains(&call.name))
                || number == 60
                || number == 231
            {
                number = 39;
            }
            let mut arguments = [0; 6];
            arguments.fill_with(|| self.anything());
            return (number, arguments);
        }
        let mut call = self.random.pick(&self.calls);
        if RARELY.contains(&call.name) && !self.random.once_in(12) {
            call = self.random.pick(&self.calls);
        }
        self.next = 0;
        let mut arguments = [0; 6];
        for (i, to) in arguments.iter_mut().enumerate() {
            let kind = call.args.and_then(|args| args.get(i));
            *to = match kind {
                Some(kind) => self.argument(*kind),
                None => self.anything(),
            };
        }
        // Whom a signal goes to is not left to chance, nor is one that ends ourselves frequent.
        let of_kind = |wanted: fn(&ArgKind) -> bool| call.args.and_then(|args| args.iter().position(wanted));
        let whom = of_kind(|kind| matches!(kind, ArgKind::Pid));
        let signal = of_kind(|kind| matches!(kind, ArgKind::Signal));
        if let Some(i) = whom
            && (signal.is_some() || call.name == "ptrace" || call.name.starts_with("prlimit"))
        {
            arguments[i] = self.pid() as u64;
        }
        if let Some(i) = signal
            && (whom.is_some() || call.name == "pidfd_send_signal")
            && !whom.is_some_and(|whom| self.pids.contains(&(arguments[whom] as i64)))
            && !self.random.once_in(40)
        {
            arguments[i] = self.random.pick(HARMLESS);
        }
        (call.number, arguments)
    }

    fn argument(&mut self, kind: ArgKind) -> u64 {
        if self.random.once_in(25) {
            return self.anything();
        }
        match kind {
            ArgKind::Fd => self.descriptor(),
            ArgKind::Pid => self.pid() as u64,
            ArgKind::Signal => self.random.next() % 65,
            ArgKind::Mode => self.random.next() & 0o17_7777,
            ArgKind::Flags(names) => {
                let mut value = 0;
                for _ in 0..self.random.below(4) {
                    value |= self.random.pick(names.values).0;
                }
                value
            }
            ArgKind::Choice(names) => self.random.pick(names.values).0,
            ArgKind::Uint => match self.random.below(4) {
                0 => self.random.pick(ODD),
                1 => 8,
                2 => self.random.next() % 64,
                _ => 4096 * (self.random.next() % 16),
            },
            ArgKind::Int => match self.random.below(3) {
                0 => self.random.pick(ODD),
                _ => self.random.next() % 16,
            },
            ArgKind::Hex => match self.random.below(4) {
                0 => self.random.pick(ODD),
                1 => 0,
                _ => self.playground + 4096 * (self.random.next() % (PLAYGROUND / 4096)),
            },
            ArgKind::Pointer => self.pointer(Layout::Opaque(64)),
            ArgKind::Str => self.string(),
            ArgKind::StrVec => {
                let at = self.room(24);
                let strings = [self.string(), self.string(), 0];
                put(at, &strings);
                at
            }
            ArgKind::In(layout, _) | ArgKind::Out(layout, _) | ArgKind::InOut(layout, _) => {
                self.pointer(layout)
            }
        }
    }

    fn anything(&mut self) -> u64 {
        match self.random.below(7) {
            0 => self.pointer(Layout::Opaque(128)),
            1 => self.random.next(),
            2 => self.descriptor(),
            3 => self.playground + self.random.next() % PLAYGROUND,
            4 => 1 << self.random.below(64),
            5 => bad(&mut self.random),
            _ => self.random.pick(ODD),
        }
    }

    fn descriptor(&mut self) -> u64 {
        match self.random.below(20) {
            0 => libc::AT_FDCWD as i64 as u64,
            1 => self.random.pick(&[u64::MAX, 99, 1 << 31, 1023, 1024]),
            _ => 3 + self.random.next() % 40,
        }
    }

    /// Itself, a child, its group, or nobody; never process 1 or everybody.
    fn pid(&mut self) -> i64 {
        match self.random.below(6) {
            0 => 0,
            1 => 999_999,
            2 if !self.pids.is_empty() => -self.random.pick(&self.pids),
            3 | 4 if !self.pids.is_empty() => self.random.pick(&self.pids),
            _ => self.own,
        }
    }

    /// Room in the arena for so many bytes; sometimes at its very end, with nothing behind it.
    fn room(&mut self, size: u64) -> u64 {
        if self.random.once_in(30) {
            return self.arena + ARENA - size.min(ARENA);
        }
        if self.next + size + 64 > ARENA {
            self.next = 0;
        }
        let at = self.arena + self.next + if self.random.once_in(40) { 1 } else { 0 };
        self.next += size.next_multiple_of(8) + 8;
        at
    }

    fn string(&mut self) -> u64 {
        if self.random.once_in(30) {
            return bad(&mut self.random);
        }
        let text = self.random.pick(PATHS);
        let at = self.room(256);
        for (i, byte) in text.bytes().chain([0]).enumerate() {
            poke(at + i as u64, byte);
        }
        at
    }

    fn small_time(&mut self) -> [u64; 2] {
        match self.random.below(8) {
            0 => [self.random.pick(ODD), self.random.pick(ODD)],
            1 => [0, 0],
            _ => [0, self.random.next() % 2_000_000],
        }
    }

    fn pointer(&mut self, layout: Layout) -> u64 {
        if self.random.once_in(25) {
            return bad(&mut self.random);
        }
        if self.random.once_in(12) {
            return 0;
        }
        let at = self.room(512);
        let mut words = [0u64; 32];
        match layout {
            Layout::TimeSpec | Layout::TimeVal => words[..2].copy_from_slice(&self.small_time()),
            Layout::ItimerSpec | Layout::ItimerVal => {
                words[..2].copy_from_slice(&self.small_time());
                words[2..4].copy_from_slice(&self.small_time());
            }
            Layout::IoVecIn | Layout::IoVecOut => self.vector(&mut words),
            Layout::Message => {
                let (name, vector, control) = (self.pointer(Layout::SockAddr), self.room(512), self.room(64));
                let mut elements = [0u64; 32];
                self.vector(&mut elements);
                put(vector, &elements);
                // SCM_RIGHTS or SCM_CREDENTIALS, or not quite.
                let kind = self.random.pick(&[1u64, 2, 3]);
                put(
                    control,
                    &[
                        self.random.pick(&[20, 24, 28, 16, 0]),
                        1 | kind << 32,
                        self.descriptor() | self.descriptor() << 32,
                        0,
                    ],
                );
                let length = self.random.pick(&[0, 24, 32, 16, 200]);
                words[..7].copy_from_slice(&[
                    name,
                    self.random.pick(&[0, 2, 8, 110]),
                    vector,
                    self.random.next() % 5,
                    control,
                    length,
                    0,
                ]);
            }
            Layout::SockAddr => {
                let family = self.random.pick(&[1u64, 1, 1, 2, 10, 16, 0]);
                words[0] = family | self.random.pick(&[0u64, 0x6b63_6f73, 0x6100, 0x61]) << 16;
            }
            Layout::PollFd => {
                for word in &mut words[..8] {
                    *word = self.descriptor() & 0xffff_ffff | (self.random.next() & 0xff) << 32;
                }
            }
            Layout::EpollEvent => {
                words[0] = self.random.pick(&[1, 4, 5, 0x8000_0001, 0x4000_0001, 0x1000_0001]);
                words[0] |= self.random.next() << 32;
            }
            Layout::SigAction => {
                words[..4].copy_from_slice(&[
                    self.random.next() % 3,
                    self.random.next() & 0xd800_0007,
                    0,
                    self.random.next(),
                ]);
            }
            Layout::SigSet => words[0] = self.random.next() & self.random.next(),
            Layout::I32 | Layout::U64 => {
                for word in &mut words[..4] {
                    *word =
                        if self.random.once_in(3) { self.random.pick(ODD) } else { self.random.next() % 128 };
                }
            }
            Layout::Limit => {
                // A limit so low that nothing works any more finds nothing.
                words[..2].copy_from_slice(&[64 + self.random.next() % (1 << 30), u64::MAX]);
            }
            Layout::Bytes => words.fill_with(|| self.random.next()),
            _ => match self.random.below(4) {
                0 => words.fill_with(|| self.random.next()),
                1 => {}
                2 => words.fill_with(|| self.random.next() % 8),
                _ => words.fill_with(|| {
                    if self.random.once_in(2) {
                        self.arena + self.random.next() % ARENA
                    } else {
                        self.random.pick(ODD)
                    }
                }),
            },
        }
        put(at, &words);
        at
    }

    fn vector(&mut self, words: &mut [u64; 32]) {
        for pair in words.chunks_mut(2) {
            pair[0] = if self.random.once_in(10) {
                bad(&mut self.random)
            } else {
                self.arena + self.random.next() % ARENA
            };
            pair[1] = if self.random.once_in(10) { self.random.pick(ODD) } else { self.random.next() % 5000 };
        }
    }
}

fn bad(random: &mut Random) -> u64 {
    let base = random.pick(&[
        8,
        0x7fff_ffff_f000,
        0x7fff_ffff_efff,
        0x8000_0000_0000,
        0xffff_8000_0000_0000,
        0xffff_ffff_8010_0000,
        u64::MAX - 8,
        0xffff_8880_0010_0000,
        0x1000,
    ]);
    base.wrapping_add(random.next() % 16)
}

/// Writes words, as far as the arena goes.
fn put(at: u64, words: &[u64]) {
    for (i, byte) in words.iter().flat_map(|word| word.to_le_bytes()).enumerate() {
        let to = at + i as u64;
        // The page behind the arena is not there.
        if to & (ARENA - 1) == 0 && i > 0 {
            return;
        }
        poke(to, byte);
    }
}
