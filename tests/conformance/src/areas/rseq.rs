//! Restartable sequences. Critical sections are made of machine code in memory of the test's own.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    registration: rseq,
    fields: rseq getcpu,
    #[race]
    moved: rseq sched_setaffinity,
    aborted_by_signal: rseq,
    #[race]
    aborted_by_preemption: rseq sched_yield,
    #[race]
    aborted_by_barrier: rseq membarrier,
    not_in_section: rseq,
    broken_sections: rseq,
    of_children: rseq clone execve,
];

const SIGNATURE: u32 = 0x1234_5678;

/// `struct rseq` in a page of its own, where nothing else writes.
#[derive(Clone, Copy)]
struct Area(&'static [AtomicU64]);

impl Area {
    fn new() -> Area {
        Area(crate::sys::private_words())
    }

    fn address(self) -> u64 {
        self.0.as_ptr() as u64
    }

    /// Registers it. (The C library of this program, musl, does not use restartable sequences.)
    fn register(self) {
        must!(rseq, self.address(), 32, 0, SIGNATURE);
    }

    fn cpu_start(self) -> u32 {
        self.0[0].load(Ordering::SeqCst) as u32
    }

    fn cpu(self) -> u32 {
        (self.0[0].load(Ordering::SeqCst) >> 32) as u32
    }

    fn section(self) -> &'static AtomicU64 {
        &self.0[1]
    }

    fn flags(self) -> &'static AtomicU64 {
        &self.0[2]
    }
}

fn registration(t: &mut T) {
    let (a, b) = (Area::new(), Area::new());
    show!(t, rseq, 0, 32, 0, SIGNATURE);
    show!(t, rseq, a.address() + 16, 32, 0, SIGNATURE);
    show!(t, rseq, a.address(), 31, 0, SIGNATURE);
    show!(t, rseq, a.address(), 0, 0, SIGNATURE);
    show!(t, rseq, a.address(), 32, 2, SIGNATURE);
    show!(t, rseq, a.address(), 32, 1, SIGNATURE);
    show!(t, rseq, 0u64.wrapping_sub(64), 32, 0, SIGNATURE);
    show!(t, rseq, a.address(), 32, 0, SIGNATURE);
    show!(t, rseq, a.address(), 32, 0, SIGNATURE);
    show!(t, rseq, a.address(), 32, 0, SIGNATURE + 1);
    show!(t, rseq, b.address(), 32, 0, SIGNATURE);
    show!(t, rseq, a.address(), 64, 0, SIGNATURE);
    show!(t, rseq, b.address(), 32, 1, SIGNATURE);
    show!(t, rseq, a.address(), 64, 1, SIGNATURE);
    show!(t, rseq, a.address(), 32, 1, SIGNATURE + 1);
    show!(t, rseq, a.address(), 32, 3, SIGNATURE);
    show!(t, rseq, a.address(), 32, 1, SIGNATURE);
    say!(t, "{} {:#x}", a.cpu_start(), a.cpu());
    show!(t, rseq, a.address(), 32, 1, SIGNATURE);
    show!(t, rseq, b.address(), 32, 0, SIGNATURE);
    // Memory that is not there is noticed when it is written.
    say!(t, "{}", child(|| {
        must!(rseq, b.address(), 32, 1, SIGNATURE);
        must!(mprotect, b.address(), 4096, 1);
        call!(rseq, b.address(), 32, 0, SIGNATURE);
        sleep_ms(1);
        0
    }));
    say!(t, "{}", child(|| {
        must!(munmap, b.address(), 4096);
        for _ in 0..100 {
            call!(kill, call!(getpid), libc::SIGWINCH);
        }
        handle(libc::SIGUSR1, count, 0, 0);
        call!(kill, call!(getpid), libc::SIGUSR1);
        0
    }));
}

fn fields(t: &mut T) {
    let a = Area::new();
    a.register();
    let mut cpu = 0u32;
    must!(getcpu, out(&mut cpu), 0);
    let (start, now) = (a.cpu_start(), a.cpu());
    say!(t, "{} {} {}", start == now, now < 64, now == cpu);
    say!(t, "{}", a.flags().load(Ordering::SeqCst));
}

fn moved(t: &mut T) {
    let a = Area::new();
    a.register();
    let mut cpus = [0u64; 16];
    must!(sched_getaffinity, 0, 128, out(&mut cpus));
    let mut right = true;
    for _ in 0..50 {
        for cpu in (0..64).filter(|c| cpus[0] & 1 << c != 0) {
            must!(sched_setaffinity, 0, 8, p(&[1u64 << cpu]));
            // Affinity that takes effect at once, or at the next sleep.
            sleep_ms(1);
            right &= a.cpu() == cpu && a.cpu_start() == cpu;
        }
    }
    say!(t, "{right}");
}

/// `struct rseq_cs`.
#[derive(Clone, Copy, Default)]
struct Section {
    version: u32,
    flags: u32,
    start: u64,
    length: u64,
    abort: u64,
}

/// Machine code: points the area to the section, counts in the section until it is aborted, and returns how far it came; if
/// it is not aborted, with the top bit set.
struct Code {
    enter: u64,
    good: Section,
    /// Where the section's description lies.
    section: u64,
}

/// Rounds after which the section commits.
const ROUNDS: u32 = 0x0c00_0000;

fn put(at: u64, bytes: &[u8]) {
    (at..).zip(bytes).for_each(|(at, byte)| crate::sys::poke(at, *byte));
}

impl Code {
    fn new(area: Area) -> Code {
        let at = must!(mmap, 0, 4096, 7, 0x22, -1, 0) as u64;
        let section = at + 2048;
        let mut bytes: Vec<u8> = Vec::new();
        bytes.extend([0x48, 0xbf]); // mov rdi, area + 8
        bytes.extend((area.address() + 8).to_le_bytes());
        bytes.extend([0x48, 0xbe]); // mov rsi, section
        bytes.extend(section.to_le_bytes());
        bytes.extend([0x31, 0xc0]); // xor eax, eax
        bytes.extend([0x48, 0x89, 0x37]); // mov [rdi], rsi
        let start = bytes.len() as u64;
        bytes.extend([0xff, 0xc0]); // 1: inc eax
        bytes.push(0x3d); // cmp eax, ROUNDS
        bytes.extend(ROUNDS.to_le_bytes());
        bytes.extend([0x75, 0xf7]); // jne 1b
        let length = bytes.len() as u64 - start;
        bytes.extend([0x48, 0x0f, 0xba, 0xe8, 0x3f]); // bts rax, 63
        bytes.push(0xc3); // ret
        bytes.extend(SIGNATURE.to_le_bytes());
        let abort = bytes.len() as u64;
        bytes.push(0xc3); // ret
        put(at, &bytes);
        let good = Section { start: at + start, length, abort: at + abort, ..Section::default() };
        let code = Code { enter: at, good, section };
        code.describe(good);
        code
    }

    /// Writes the section's description.
    fn describe(&self, s: Section) {
        put(self.section, &s.version.to_ne_bytes());
        put(self.section + 4, &s.flags.to_ne_bytes());
        for (at, word) in (self.section + 8..).step_by(8).zip([s.start, s.length, s.abort]) {
            put(at, &word.to_ne_bytes());
        }
    }

    /// Whether it was aborted.
    fn run(&self) -> bool {
        crate::sys::jump(self.enter) >> 63 == 0
    }
}

fn aborted_by_signal(t: &mut T) {
    let a = Area::new();
    a.register();
    let code = Code::new(a);
    handle(libc::SIGALRM, count, 0, 0);
    must!(setitimer, 0, p(&[0i64, 0, 0, 50_000]), 0);
    // Losing the CPU aborts it, too: again until the signal has come.
    let mut aborted = true;
    while COUNT.load(Ordering::Relaxed) == 0 {
        aborted &= code.run();
    }
    say!(t, "aborted: {aborted} {:#x}", a.section().load(Ordering::Relaxed));
}

fn aborted_by_preemption(t: &mut T) {
    let mut cpus = [0u64; 16];
    must!(sched_getaffinity, 0, 128, out(&mut cpus));
    must!(sched_setaffinity, 0, 8, p(&[cpus[0] & cpus[0].wrapping_neg()]));
    let rival = fork(|| {
        loop {
            std::hint::spin_loop();
        }
    });
    let a = Area::new();
    a.register();
    let code = Code::new(a);
    for _ in 0..5 {
        say!(t, "aborted: {}", code.run());
        say!(t, "{:#x}", a.section().load(Ordering::Relaxed));
    }
    must!(kill, rival, libc::SIGKILL);
    wait(rival);
}

fn aborted_by_barrier(t: &mut T) {
    must!(membarrier, 256, 0, 0);
    let worker = std::thread::spawn(|| {
        let a = Area::new();
        a.register();
        let code = Code::new(a);
        let aborted = code.run();
        must!(rseq, a.address(), 32, 1, SIGNATURE);
        aborted
    });
    while !worker.is_finished() {
        sleep_ms(20);
        must!(membarrier, 128, 0, 0);
    }
    say!(t, "aborted: {}", worker.join().expect("a thread"));
}

fn not_in_section(t: &mut T) {
    let a = Area::new();
    a.register();
    let code = Code::new(a);
    // The pointer is cleared when the kernel comes by and finds the code elsewhere.
    a.section().store(code.section, Ordering::SeqCst);
    handle(libc::SIGUSR1, count, 0, 0);
    must!(kill, call!(getpid), libc::SIGUSR1);
    say!(t, "{:#x}", a.section().load(Ordering::SeqCst));
}

fn broken_sections(t: &mut T) {
    let a = Area::new();
    a.register();
    let code = Code::new(a);
    let good = code.good;
    handle(libc::SIGUSR1, count, 0, 0);
    let attempt = |t: &mut T, what: &str, section: Section, pointer: Option<u64>| {
        let ended = child(|| {
            code.describe(section);
            a.section().store(pointer.unwrap_or(code.section), Ordering::SeqCst);
            call!(kill, call!(getpid), libc::SIGUSR1);
            i32::from(a.section().load(Ordering::SeqCst) == 0)
        });
        say!(t, "{what}: {ended}");
    };
    attempt(t, "good", good, None);
    attempt(t, "no pointer", good, Some(0));
    attempt(t, "bad pointer", good, Some(8));
    attempt(t, "kernel pointer", good, Some(1 << 63));
    attempt(t, "version", Section { version: 1, ..good }, None);
    attempt(t, "abort inside", Section { abort: good.start + 1, ..good }, None);
    attempt(t, "abort in the kernel", Section { abort: 1 << 63, ..good }, None);
    attempt(t, "start in the kernel", Section { start: 1 << 63, ..good }, None);
    attempt(t, "too long", Section { length: u64::MAX, ..good }, None);
    attempt(t, "no signature", Section { abort: good.abort + 1, ..good }, None);
    attempt(t, "abort nowhere", Section { abort: 0x1000, ..good }, None);
}

fn of_children(t: &mut T) {
    let a = Area::new();
    a.register();
    // A child with its own memory is registered, too.
    say!(t, "{}", child(|| i32::from(call!(rseq, a.address(), 32, 0, SIGNATURE) == -i64::from(libc::EBUSY))));
    // A thread is not.
    let got = std::thread::spawn(|| {
        let b = Area::new();
        let got = call!(rseq, b.address(), 32, 0, SIGNATURE);
        call!(rseq, b.address(), 32, 1, SIGNATURE);
        got
    });
    say!(t, "{}", result(got.join().expect("a thread")));
}
