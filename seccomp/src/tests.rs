//! The profile against the budgets of the design, and the two things a rule must never be: without a reason, or
//! wider than its reason. Then the filters themselves, each in a process of its own.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::os::fd::{AsRawFd, FromRawFd};

use serde_json::Value;

use super::*;

const PROFILE: &str = include_str!("../../resources/seccomp/x86_64.json");
/// Distinct calls of the VMM, over all of its threads.
const VMM_BUDGET: usize = 25;

fn profile() -> Value {
    serde_json::from_str(PROFILE).unwrap()
}

fn rules(thread: Thread) -> Vec<Value> {
    profile()[thread.name()]["filter"].as_array().unwrap().clone()
}

fn calls(threads: &[Thread]) -> Vec<String> {
    let rules = threads.iter().flat_map(|t| rules(*t));
    let mut calls: Vec<_> = rules.map(|rule| rule["syscall"].as_str().unwrap().to_owned()).collect();
    calls.sort();
    calls.dedup();
    calls
}

/// The value that argument `index` must have.
fn pinned(rule: &Value, index: u64) -> Option<u64> {
    let args = rule["args"].as_array().map_or(&[][..], Vec::as_slice);
    args.iter().find(|arg| arg["index"] == index && arg["op"] == "eq").and_then(|arg| arg["val"].as_u64())
}

/// Whether the filter looks at argument `index`.
fn looked_at(rule: &Value, index: u64) -> bool {
    rule["args"].as_array().is_some_and(|args| args.iter().any(|arg| arg["index"] == index))
}

#[test]
fn budgets() {
    let profile = profile();
    let mut processes: BTreeMap<String, Vec<Thread>> = BTreeMap::new();
    for &thread in Thread::ALL {
        let about = &profile[thread.name()];
        let (calls, budget) = (calls(&[thread]), about["budget"].as_u64().expect("a budget") as usize);
        println!("system calls allowed to {}: {} (budget {budget})", thread.name(), calls.len());
        assert!(calls.len() <= budget, "{calls:?}");
        processes.entry(about["process"].as_str().expect("a process").to_owned()).or_default().push(thread);
    }
    for (process, threads) in processes {
        let calls = calls(&threads);
        let budget = if process == "vmm" { VMM_BUDGET } else { usize::MAX };
        println!("system calls allowed in the process {process}: {}", calls.len());
        assert!(calls.len() <= budget, "{calls:?}");
    }
}

/// Of threads that run beside or behind a guest. A gofer opens files for its guest: its own tests say how.
fn of_vmm() -> Vec<Thread> {
    let profile = profile();
    Thread::ALL.iter().copied().filter(|thread| profile[thread.name()]["process"] == "vmm").collect()
}

#[test]
fn nothing_that_reaches_further() {
    let forbidden = [
        "open",
        "openat",
        "openat2",
        "open_by_handle_at",
        "creat",
        "socket",
        "socketpair",
        "connect",
        "bind",
        "execve",
        "execveat",
        "fork",
        "vfork",
        "clone",
        "clone3",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "mount",
        "unshare",
        "setns",
        "bpf",
        "io_uring_setup",
        "userfaultfd",
        "kill",
        "prctl",
        "seccomp",
        "memfd_create",
        "mprotect",
        "mremap",
        "shmat",
        "remap_file_pages",
        "pidfd_getfd",
    ];
    let allowed = calls(&of_vmm());
    for call in forbidden {
        assert!(!allowed.iter().any(|c| c == call), "{call}");
    }
}

#[test]
fn every_rule_has_a_reason_and_is_pinned() {
    for &thread in Thread::ALL {
        for rule in rules(thread) {
            let call = rule["syscall"].as_str().unwrap();
            assert!(rule["comment"].as_str().is_some_and(|c| c.len() > 10), "{call} has no comment");
            match call {
                "fallocate" => assert!(looked_at(&rule, 1), "any mode: {rule}"),
                "ioctl" | "fcntl" | "futex" => {
                    assert!(pinned(&rule, 1).is_some(), "any request: {rule}");
                }
                // By the number of the gofer's own descriptors.
                "openat" | "fchmodat" | "utimensat" | "linkat" => {
                    assert_eq!(pinned(&rule, 0), Some(4), "any directory: {rule}");
                }
                "mknodat" => assert!(looked_at(&rule, 2), "devices: {rule}"),
                // Bit 2 is PROT_EXEC; private and anonymous memory: no file, nobody else's.
                "mmap" => {
                    assert!(pinned(&rule, 2).is_some_and(|prot| prot & 4 == 0), "executable memory: {rule}");
                    // Guest memory is handed to a gofer by descriptor.
                    let kinds: &[u64] = if thread == Thread::Gofer { &[0x22, 0x4001] } else { &[0x22] };
                    assert!(
                        pinned(&rule, 3).is_some_and(|flags| kinds.contains(&flags)),
                        "memory of a file: {rule}"
                    );
                }
                "tgkill" => assert!(pinned(&rule, 2).is_some(), "any signal: {rule}"),
                "sendto" => assert_eq!(pinned(&rule, 4), Some(0), "any address: {rule}"),
                _ => {}
            }
        }
    }
}

/// So that a word with a typing error is not one that is ignored.
#[test]
fn only_known_words() {
    let known = |value: &Value, words: &[&str]| {
        for key in value.as_object().unwrap().keys() {
            assert!(words.contains(&key.as_str()), "{key}");
        }
    };
    for &thread in Thread::ALL {
        let about = &profile()[thread.name()];
        known(
            about,
            &["comment", "process", "thread_name", "budget", "mismatch_action", "match_action", "filter"],
        );
        assert!(about["thread_name"].as_str().is_some_and(|name| name.len() < 16), "{}", thread.name());
        for rule in rules(thread) {
            known(&rule, &["syscall", "comment", "unseen", "args"]);
            for argument in rule["args"].as_array().map_or(&[][..], Vec::as_slice) {
                known(argument, &["index", "type", "op", "val", "comment"]);
            }
        }
    }
}

#[test]
fn the_default_is_a_trap() {
    let profile = profile();
    for thread in Thread::ALL {
        assert_eq!(profile[thread.name()]["mismatch_action"], "trap");
        assert_eq!(profile[thread.name()]["match_action"], "allow");
    }
}

#[test]
fn a_violation_is_named() {
    let sentence = |number| {
        let mut line = Line::default();
        line.violation("event_loop", number, [1, 2, 3, u64::MAX]).unwrap();
        String::from_utf8(line.text[..line.len].to_vec()).unwrap()
    };
    assert_eq!(
        sentence(257),
        "ringfence: the event_loop thread made the system call openat (257), which its filter forbids; \
         arguments 0x1 0x2 0x3 0xffffffffffffffff\n"
    );
    assert!(sentence(i32::MIN).contains("unknown (-2147483648)"));
    assert!(sentence(1 << 30 | 1).contains("unknown"));
}

/// What the kernel would do with the filter: a call of x86-64 with these arguments.
fn verdict(thread: Thread, number: u32, arguments: [u64; 6]) -> u32 {
    let (program, mut at, mut a) = (thread.filter(), 0, 0);
    let data: Vec<u32> = [u64::from(number) | 0xc000_003e << 32, 0x1234]
        .iter()
        .chain(&arguments)
        .flat_map(|word| [*word as u32, (word >> 32) as u32])
        .collect();
    loop {
        let i = &program[at];
        at += 1;
        match i.code {
            0x20 => a = data[i.k as usize / 4],
            0x54 => a &= i.k,
            0x15 => at += usize::from(if a == i.k { i.jt } else { i.jf }),
            0x06 => return i.k,
            other => panic!("instruction {other:#x}"),
        }
    }
}

const ALLOW: u32 = 0x7fff_0000;
const TRAP: u32 = 0x0003_0000;

/// The arguments that a rule asks for; what it does not look at is something unlikely.
fn wanted(rule: &Value) -> [u64; 6] {
    let mut arguments = [0xdead_beef_dead_beef; 6];
    for argument in rule["args"].as_array().map_or(&[][..], Vec::as_slice) {
        let value = argument["val"].as_u64().unwrap();
        // Nobody looks at the upper half of a dword, neither filter nor call.
        let high = if argument["type"] == "dword" { 0xbad << 32 } else { 0 };
        arguments[argument["index"].as_u64().unwrap() as usize] = value | high;
    }
    arguments
}

#[test]
fn the_filters_are_what_the_profile_says() {
    for &thread in Thread::ALL {
        let (rules, mut allowed) = (rules(thread), Vec::new());
        for rule in &rules {
            let name = rule["syscall"].as_str().unwrap();
            let number = name.parse::<Sysno>().unwrap().id() as u32;
            allowed.push(number);
            assert_eq!(verdict(thread, number, wanted(rule)), ALLOW, "{rule}");
            for argument in rule["args"].as_array().map_or(&[][..], Vec::as_slice) {
                for bit in 0..if argument["type"] == "dword" { 32 } else { 64 } {
                    let mut other = wanted(rule);
                    other[argument["index"].as_u64().unwrap() as usize] ^= 1 << bit;
                    let meant = rules.iter().any(|rule| rule["syscall"] == name && fits(rule, &other));
                    assert_eq!(
                        verdict(thread, number, other),
                        if meant { ALLOW } else { TRAP },
                        "{rule} {bit}"
                    );
                }
            }
            // The numbers of the x32 ABI.
            assert_eq!(verdict(thread, number | 0x4000_0000, wanted(rule)), TRAP, "{rule}");
        }
        for number in (0..1000).filter(|number| !allowed.contains(number)) {
            assert_eq!(verdict(thread, number, [0; 6]), TRAP, "{} {number}", thread.name());
        }
    }
}

/// Whether arguments are such as a rule asks for.
fn fits(rule: &Value, arguments: &[u64; 6]) -> bool {
    rule["args"].as_array().is_none_or(|args| {
        args.iter().all(|argument| {
            let mask = argument["op"]["masked_eq"].as_u64().unwrap_or(u64::MAX);
            let mask = if argument["type"] == "dword" { mask & u64::from(u32::MAX) } else { mask };
            let value = arguments[argument["index"].as_u64().unwrap() as usize];
            value & mask == argument["val"].as_u64().unwrap() & mask
        })
    })
}

/// The exit code and standard error of a process that confines itself as `thread` and then makes the call.
fn confined(thread: Thread, number: libc::c_long, args: [u64; 6]) -> (i32, String) {
    let mut pipe = [0; 2];
    // SAFETY: the array has room for the two descriptors.
    assert_eq!(unsafe { libc::pipe2(pipe.as_mut_ptr(), libc::O_CLOEXEC) }, 0);
    // SAFETY: the descriptors are new and nobody else's.
    let [mut read, write] = pipe.map(|fd| unsafe { File::from_raw_fd(fd) });
    // SAFETY: the child makes system calls only; it takes no lock, allocates nothing that its filter could end
    // badly, and leaves by _exit.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: descriptors are ours; the call's arguments are numbers that no test points at live memory with.
        unsafe {
            libc::dup2(write.as_raw_fd(), libc::STDERR_FILENO);
            let ready = end_with(VIOLATED).and_then(|()| confine(thread)).is_ok();
            if !ready {
                libc::_exit(1);
            }
            let [a, b, c, d, e, f] = args;
            libc::syscall(number, a, b, c, d, e, f);
            libc::_exit(0)
        }
    }
    drop(write);
    let mut text = String::new();
    read.read_to_string(&mut text).unwrap();
    let mut status = 0;
    // SAFETY: the child is ours and was not waited for.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFEXITED(status), "status {status:#x}: {text}");
    (libc::WEXITSTATUS(status), text)
}

const NOBODY: u64 = u64::MAX; // no descriptor has this number

#[test]
fn what_is_allowed_works() {
    for thread in of_vmm() {
        let none = [NOBODY, 0, 0, 0, 0, 0];
        assert_eq!(confined(thread, libc::SYS_write, none), (0, String::new()));
        assert_eq!(confined(thread, libc::SYS_mmap, [0, 4096, 3, 0x22, NOBODY, 0]), (0, String::new()));
    }
    // The request is what the filter looks at, not the descriptor.
    assert_eq!(confined(Thread::Vcpu, libc::SYS_ioctl, [NOBODY, 0xae80, 0, 0, 0, 0]).0, 0);
    assert_eq!(confined(Thread::EventLoop, libc::SYS_ioctl, [NOBODY, 0x5413, 0, 0, 0, 0]).0, 0);
    assert_eq!(confined(Thread::EventLoop, libc::SYS_fallocate, [NOBODY, 3, 0, 4096, 0, 0]).0, 0);
}

#[test]
fn a_violation_ends_the_process_with_its_code() {
    let check = |thread: Thread, name: &str, number, args| {
        let (code, text) = confined(thread, number, args);
        assert_eq!(code, i32::from(VIOLATED), "{name}: {text}");
        let who = format!("ringfence: the {} thread made the system call {name} (", thread.name());
        assert!(text.starts_with(&who), "{text}");
    };
    for thread in of_vmm() {
        check(thread, "openat", libc::SYS_openat, [NOBODY, 0, 0, 0, 0, 0]);
        check(thread, "socket", libc::SYS_socket, [1, 1, 0, 0, 0, 0]);
        check(thread, "execve", libc::SYS_execve, [0, 0, 0, 0, 0, 0]);
        // Executable; of a file; shared.
        check(thread, "mmap", libc::SYS_mmap, [0, 4096, 7, 0x22, NOBODY, 0]);
        check(thread, "mmap", libc::SYS_mmap, [0, 4096, 3, 2, 0, 0]);
        check(thread, "mmap", libc::SYS_mmap, [0, 4096, 3, 0x21, NOBODY, 0]);
        check(thread, "mprotect", libc::SYS_mprotect, [0, 0, 5, 0, 0, 0]);
        // KVM_SET_USER_MEMORY_REGION, KVM_CREATE_VM, TIOCSTI.
        for request in [0x4020_ae46, 0xae01, 0x5412] {
            check(thread, "ioctl", libc::SYS_ioctl, [NOBODY, request, 0, 0, 0, 0]);
        }
    }
    // What a gofer opens again is its own, it makes no devices, maps no file but memory, and starts nothing.
    check(Thread::Gofer, "openat", libc::SYS_openat, [libc::AT_FDCWD as u64, 0, 0, 0, 0, 0]);
    check(Thread::Gofer, "openat", libc::SYS_openat, [4, 0, libc::O_CREAT as u64, 0, 0, 0]);
    check(Thread::Gofer, "mknodat", libc::SYS_mknodat, [NOBODY, 0, 0o020_666, 0, 0, 0]);
    check(Thread::Gofer, "mmap", libc::SYS_mmap, [0, 4096, 7, 0x4001, NOBODY, 0]);
    check(Thread::Gofer, "mmap", libc::SYS_mmap, [0, 4096, 3, 2, 0, 0]);
    for (name, call) in [
        ("socket", libc::SYS_socket),
        ("execve", libc::SYS_execve),
        ("clone", libc::SYS_clone),
        ("mount", libc::SYS_mount),
        ("open_tree", libc::SYS_open_tree),
        ("name_to_handle_at", libc::SYS_name_to_handle_at),
        ("ioctl", libc::SYS_ioctl),
        ("sendmsg", libc::SYS_sendmsg),
    ] {
        check(Thread::Gofer, name, call, [NOBODY, 0, 0, 0, 0, 0]);
    }
    // Each thread its own.
    check(Thread::Vcpu, "read", libc::SYS_read, [NOBODY, 0, 0, 0, 0, 0]);
    check(Thread::EventLoop, "ioctl", libc::SYS_ioctl, [NOBODY, 0xae80, 0, 0, 0, 0]);
    check(Thread::EventLoop, "tgkill", libc::SYS_tgkill, [1, 1, 9, 0, 0, 0]);
    check(Thread::EventLoop, "sendto", libc::SYS_sendto, [NOBODY, 0, 0, 0, 0x1000, 16]);
}

#[test]
fn a_blocked_signal_helps_nobody() {
    // SAFETY: the child makes system calls only and leaves by _exit or by a signal.
    let child = unsafe { libc::fork() };
    if child == 0 {
        // SAFETY: sigset_t is plain data, initialised by sigfillset.
        unsafe {
            let mut set: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut set);
            libc::pthread_sigmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
            if end_with(VIOLATED).and_then(|()| confine(Thread::Vcpu)).is_ok() {
                libc::syscall(libc::SYS_socket, 1, 1, 0);
            }
            libc::_exit(0)
        }
    }
    let mut status = 0;
    // SAFETY: the child is ours and was not waited for.
    assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
    assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSYS, "status {status:#x}");
}
