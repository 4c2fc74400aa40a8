//! Core dumps: when there is one, what it is called, what is in it.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    signals: wait4 setrlimit,
    limits: setrlimit wait4,
    dumpable: prctl wait4,
    existing_files: wait4,
    names: wait4,
    content_of_one: wait4,
    content_of_threads: wait4,
    filters: wait4 madvise,
    of_nobody: wait4,
    #[race]
    siblings_race: wait4,
];

/// Runs `body` in a child that may dump; whether it did, and the file's name.
fn dump(limit: u64, body: impl FnOnce()) -> String {
    let pid = fork(|| {
        must!(setrlimit, libc::RLIMIT_CORE, p(&[limit, u64::MAX]));
        body();
        0
    });
    let mut status = 0i32;
    must!(wait4, pid, out(&mut status), 0, 0);
    let dumped = if status & 0x80 != 0 { ", core dumped" } else { "" };
    format!("{}{dumped}", ending(status))
}

fn die(signal: i32) {
    call!(kill, call!(getpid), signal);
}

fn size(path: &str) -> Option<u64> {
    fs::metadata(path).ok().map(|m| m.len())
}

fn signals(t: &mut T) {
    for signal in 1..32 {
        if matches!(signal, 17..=23 | 28) {
            continue; // stops and what is ignored
        }
        let ended = dump(u64::MAX, || die(signal));
        say!(t, "{ended}: {}", fs::remove_file("core").is_ok());
    }
    let ended = dump(u64::MAX, || {
        crate::sys::peek(8);
    });
    say!(t, "{ended}: {}", fs::remove_file("core").is_ok());
}

fn limits(t: &mut T) {
    for limit in [0, 1, 4095, 4096, 20_000, 1 << 30] {
        let ended = dump(limit, || die(libc::SIGABRT));
        say!(t, "{limit}: {ended}: {:?}", size("core").map(|size| size <= limit));
        let _ = fs::remove_file("core");
    }
    let ended = dump(u64::MAX, || {
        must!(setrlimit, libc::RLIMIT_CORE, p(&[0u64, 0]));
        die(libc::SIGABRT);
    });
    say!(t, "{ended}: {:?}", size("core").is_some());
}

fn dumpable(t: &mut T) {
    let ended = dump(u64::MAX, || {
        must!(prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        die(libc::SIGABRT);
    });
    say!(t, "{ended}: {:?}", size("core").is_some());
    let ended = dump(u64::MAX, || {
        must!(prctl, libc::PR_SET_DUMPABLE, 0, 0, 0, 0);
        must!(prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
        die(libc::SIGABRT);
    });
    say!(t, "{ended}: {:?}", size("core").is_some());
}

fn existing_files(t: &mut T) {
    let attempt = |t: &mut T, what: &str| {
        let ended = dump(u64::MAX, || die(libc::SIGABRT));
        say!(t, "{what}: {ended}: {:?}", size("core").map(|size| size > 10_000));
    };
    file("core", "short");
    attempt(t, "a file");
    file("core", &"long".repeat(10_000_000));
    attempt(t, "a long file");
    say!(t, "{}", size("core").is_some_and(|size| size < 30_000_000));
    fs::remove_file("core").expect("there");
    file("victim", "precious");
    std::os::unix::fs::symlink("victim", "core").expect("a link");
    attempt(t, "a symbolic link");
    say!(t, "{}", content("victim"));
    fs::remove_file("core").expect("there");
    fs::hard_link("victim", "core").expect("a link");
    attempt(t, "a hard link");
    say!(t, "{}", content("victim"));
    fs::remove_file("core").expect("there");
    fs::create_dir("core").expect("a directory");
    attempt(t, "a directory");
    fs::remove_dir("core").expect("there");
    file("core", "");
    must!(chown, c"core", 1, 1);
    attempt(t, "another's file");
    say!(t, "{:?}", size("core").is_some_and(|size| size > 10_000));
}

/// Has a pattern hold while `body` runs. The tests run one after the other.
fn with_pattern(pattern: &str, body: impl FnOnce()) {
    const FILE: &str = "/proc/sys/kernel/core_pattern";
    let before = content(FILE);
    fs::write(FILE, pattern).expect("a pattern");
    body();
    fs::write(FILE, before).expect("a pattern");
}

fn names(t: &mut T) {
    must!(prctl, libc::PR_SET_NAME, c"a/name", 0, 0, 0);
    for pattern in ["%%-%e-%s", "c.%u.%g.%d", "sub/x", "missing/x", "plain", "%z%"] {
        fs::create_dir_all("sub").expect("a directory");
        with_pattern(pattern, || {
            let ended = dump(u64::MAX, || die(libc::SIGABRT));
            say!(t, "{pattern}: {ended}");
        });
        say!(t, "{} / {}", names_here("."), names_here("sub"));
        for entry in fs::read_dir(".").expect("here").flatten() {
            let _ = fs::remove_file(entry.path());
        }
        let _ = fs::remove_dir_all("sub");
    }
    let here = std::env::current_dir().expect("here");
    with_pattern(&format!("{}/absolute.%p", here.display()), || {
        let pid = fork(|| {
            must!(setrlimit, libc::RLIMIT_CORE, p(&[u64::MAX, u64::MAX]));
            must!(chdir, c"/");
            die(libc::SIGABRT);
            0
        });
        wait(pid);
        say!(t, "{}", size(&format!("absolute.{pid}")).is_some());
    });
    say!(t, "{}", content("/proc/sys/kernel/core_uses_pid").trim());
}

fn names_here(path: &str) -> String {
    fs::read_dir(path).map_or("-".to_owned(), |_| crate::helpers::names(path))
}

/// An ELF core file.
struct Core {
    bytes: Vec<u8>,
    /// Type, flags, offset, address, size in the file, size in memory.
    segments: Vec<(u32, u32, u64, u64, u64, u64)>,
    notes: Vec<(String, u32, Vec<u8>)>,
}

fn word(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].try_into().map_or(0, u64::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> u32 {
    bytes[at..at + 4].try_into().map_or(0, u32::from_le_bytes)
}

impl Core {
    fn read(path: &str) -> Core {
        let bytes = fs::read(path).expect("a core");
        let count = (half(&bytes, 56) & 0xffff) as usize;
        let segments: Vec<_> = (0..count)
            .map(|i| {
                let at = 64 + 56 * i;
                let [offset, address, size, memory] = [8, 16, 32, 40].map(|field| word(&bytes, at + field));
                (half(&bytes, at), half(&bytes, at + 4), offset, address, size, memory)
            })
            .collect();
        let mut notes = Vec::new();
        let (_, _, offset, _, size, _) = segments[0];
        let mut at = offset as usize;
        while at < (offset + size) as usize {
            let [name, length, kind] = [0, 4, 8].map(|field| half(&bytes, at + field) as usize);
            let text = String::from_utf8_lossy(&bytes[at + 12..at + 11 + name]).into_owned();
            let start = at + 12 + name.next_multiple_of(4);
            notes.push((text, kind as u32, bytes[start..start + length].to_vec()));
            at = start + length.next_multiple_of(4);
        }
        Core { bytes, segments, notes }
    }

    fn note(&self, kind: u32) -> &[u8] {
        &self.notes.iter().find(|note| note.1 == kind).expect("the note").2
    }

    /// Memory at an address; `None`: not in the file.
    fn memory(&self, address: u64) -> Option<u64> {
        let inside = |s: &&(u32, u32, u64, u64, u64, u64)| s.0 == 1 && (s.3..s.3 + s.4).contains(&address);
        let s = self.segments.iter().find(inside)?;
        Some(word(&self.bytes, (s.2 + address - s.3) as usize))
    }
}

static MARK: AtomicU64 = AtomicU64::new(0);

fn content_of_one(t: &mut T) {
    let mut pid = 0;
    let ended = dump(u64::MAX, || {
        MARK.store(0x1122_3344_5566_7788, Ordering::SeqCst);
        crate::sys::peek(8);
    });
    say!(t, "{ended}");
    let core = Core::read("core");
    say!(t, "{:?}", &core.bytes[..18]);
    for (name, kind, content) in &core.notes {
        let size = if matches!(kind, 1 | 3 | 2 | 0x5349_4749) { content.len() } else { 0 };
        say!(t, "{name} {kind:#x} {size}");
    }
    let status = core.note(1);
    pid += half(status, 32);
    say!(t, "signal {} {}", half(status, 0), half(status, 12) & 0xffff);
    say!(t, "a pid {}, parent {}", pid > 1, i64::from(half(status, 36)) == call!(getpid));
    // Registers: cs, ss, and an instruction pointer in the program.
    say!(t, "{:#x} {:#x}", word(status, 112 + 17 * 8), word(status, 112 + 20 * 8));
    let ip = word(status, 112 + 16 * 8);
    let code = core.segments.iter().any(|s| s.0 == 1 && s.1 & 1 != 0 && (s.3..s.3 + s.5).contains(&ip));
    say!(t, "in code: {code}, FPU: {}", half(status, 328));
    let info = core.note(0x5349_4749);
    say!(t, "info {} {} {:#x}", half(info, 0), half(info, 8), word(info, 16));
    let process = core.note(3);
    say!(t, "{:?} {} {}", &process[..4], half(process, 16), half(process, 24) == pid);
    let auxv = core.note(6);
    let keys: BTreeMap<u64, u64> = auxv.chunks(16).map(|pair| (word(pair, 0), word(pair, 8))).collect();
    say!(t, "page size {:?}, entry {}", keys.get(&6), keys.get(&9).is_some_and(|entry| *entry > 0));
    let files = core.note(0x4649_4c45);
    let count = word(files, 0) as usize;
    let names = String::from_utf8_lossy(&files[16 + 24 * count..]).into_owned();
    let exe = fs::read_link("/proc/self/exe").expect("a link");
    say!(t, "files {}, {}", count > 0, names.split('\0').any(|name| name == exe.to_string_lossy()));
    say!(t, "memory {:#x?}", core.memory(MARK.as_ptr() as u64));
    // The vDSO and the first page of the program are in it.
    let vdso = keys.get(&33).and_then(|at| core.memory(*at));
    say!(t, "vdso {:?}", vdso.map(|word| word as u32));
    let aligned = core.segments.iter().filter(|s| s.0 == 1).all(|s| s.2 % 4096 == 0 && s.3 % 4096 == 0);
    say!(t, "aligned {aligned}");
    let end = core.segments.iter().map(|s| s.2 + s.4).max();
    say!(t, "length {}", end == Some(core.bytes.len() as u64));
}

fn content_of_threads(t: &mut T) {
    let ended = dump(u64::MAX, || {
        for i in 0..3 {
            std::thread::spawn(move || {
                if i == 0 {
                    loop {
                        std::hint::spin_loop();
                    }
                }
                loop {
                    call!(pause);
                }
            });
        }
        sleep_ms(30);
        die(libc::SIGABRT);
    });
    say!(t, "{ended}");
    let core = Core::read("core");
    let statuses: Vec<_> = core.notes.iter().filter(|note| note.1 == 1).collect();
    let tids: std::collections::BTreeSet<u32> = statuses.iter().map(|note| half(&note.2, 32)).collect();
    let stacks: std::collections::BTreeSet<u64> = statuses.iter().map(|note| word(&note.2, 112 + 19 * 8)).collect();
    say!(t, "{} threads, {} numbers, {} stacks", statuses.len(), tids.len(), stacks.len());
    let on_stack = stacks.iter().all(|sp| core.memory(*sp & !7).is_some());
    say!(t, "stacks are there: {on_stack}");
    let kinds: Vec<u32> = core.notes.iter().map(|note| note.1).filter(|kind| *kind == 2 || *kind == 0x202).collect();
    say!(t, "{kinds:x?}");
}

fn filters(t: &mut T) {
    say!(t, "{}", content("/proc/self/coredump_filter").trim());
    for (filter, name) in [("0", "nothing"), ("0x1", "private"), ("2", "shared"), ("0x10", "headers"), ("3", "both")] {
        let words = crate::sys::shared();
        let [private, shared, secret] = [0x22, 0x21, 0x22].map(|flags| must!(mmap, 0, 4096, 3, flags, -1, 0) as u64);
        let exe = crate::sys::shared().as_ptr() as u64;
        let ended = dump(u64::MAX, || {
            fs::write("/proc/self/coredump_filter", filter).expect("a filter");
            for at in [private, shared, secret] {
                crate::sys::poke(at, 9);
            }
            must!(madvise, secret, 4096, libc::MADV_DONTDUMP);
            words[0].store(1, Ordering::SeqCst);
            // Inherited.
            let inner = fork(|| {
                die(libc::SIGABRT);
                0
            });
            wait(inner);
        });
        let core = Core::read("core");
        let of = |at| core.memory(at).map(|word| word & 0xff);
        say!(t, "{name}: {ended}: {:?} {:?} {:?} {}", of(private), of(shared), of(secret), of(exe).is_some());
        fs::remove_file("core").expect("there");
    }
    for bad in ["x", "", "-"] {
        say!(t, "{bad:?}: {:?}", fs::write("/proc/self/coredump_filter", bad).is_ok());
    }
}

fn of_nobody(t: &mut T) {
    // Somebody who may not write here, and in a directory of his own.
    fs::create_dir("own").expect("a directory");
    must!(chown, c"own", NOBODY, NOBODY);
    for place in [c".", c"own"] {
        let pid = fork(|| {
            must!(setrlimit, libc::RLIMIT_CORE, p(&[u64::MAX, u64::MAX]));
            must!(chdir, place);
            must!(setgroups, 0, 0);
            must!(setresgid, NOBODY, NOBODY, NOBODY);
            must!(setresuid, NOBODY, NOBODY, NOBODY);
            must!(prctl, libc::PR_SET_DUMPABLE, 1, 0, 0, 0);
            die(libc::SIGABRT);
            0
        });
        let mut status = 0i32;
        must!(wait4, pid, out(&mut status), 0, 0);
        say!(t, "{} {}", ending(status), status & 0x80 != 0);
    }
    say!(t, "{:?} {:?}", size("core").is_some(), size("own/core").is_some());
    use std::os::unix::fs::MetadataExt;
    say!(t, "{:?}", fs::metadata("own/core").map(|m| (m.uid(), m.mode() & 0o777)).ok());
}

fn siblings_race(t: &mut T) {
    // Several threads die at once: one dump, of all.
    for _ in 0..10 {
        let ended = dump(u64::MAX, || {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    std::thread::spawn(|| {
                        sleep_ms(3);
                        crate::sys::peek(16);
                    })
                })
                .collect();
            threads.into_iter().for_each(|thread| {
                let _ = thread.join();
            });
        });
        say!(t, "{ended} {}", size("core").is_some());
        fs::remove_file("core").expect("there");
    }
}
