//! Processes: fork, wait in all its variants, groups and sessions.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    text_busy: execve openat truncate,
    #[race]
    text_busy_race: execve openat,
    wait_status: wait4 exit_group,
    wait_nothing: wait4 waitid,
    wait_stopped: wait4 kill,
    waitid_fields: waitid,
    nowait_leaves_it: waitid,
    ignored_children: wait4 rt_sigaction,
    groups: setpgid getpgid getpgrp,
    sessions: setsid getsid,
    orphans: getppid prctl,
    title: prctl,
    how_many: fork prlimit64,
];

fn wait_status(t: &mut T) {
    say!(t, "{}", child(|| 0));
    say!(t, "{}", child(|| 300));
    say!(t, "{}", child(|| -1));
    for signal in [libc::SIGKILL, libc::SIGTERM, libc::SIGABRT, libc::SIGSEGV, libc::SIGUSR1, 34, 64] {
        let ended = child(|| {
            call!(kill, call!(getpid), signal);
            0
        });
        say!(t, "{signal}: {ended}");
    }
}

fn wait_nothing(t: &mut T) {
    show!(t, wait4, -1, 0, 0, 0);
    show!(t, wait4, 1, 0, 0, 0);
    show!(t, wait4, 0, 0, libc::WNOHANG, 0);
    show!(t, wait4, -1, 0, 0x40, 0);
    show!(t, wait4, i32::MIN, 0, 0, 0);
    show!(t, waitid, libc::P_ALL, 0, 0, libc::WEXITED, 0);
    show!(t, waitid, libc::P_ALL, 0, 0, 0, 0);
    show!(t, waitid, 9, 0, 0, libc::WEXITED, 0);
    show!(t, waitid, libc::P_PID, -1, 0, libc::WEXITED, 0);
    show!(t, waitid, libc::P_PID, 0, 0, libc::WEXITED, 0);
    show!(t, waitid, libc::P_PIDFD, 99, 0, libc::WEXITED, 0);
    let pid = fork(|| {
        call!(pause);
        0
    });
    show!(t, wait4, -1, 0, libc::WNOHANG, 0);
    let mut info = Info { signo: 7, code: 7, ..Info::default() };
    show!(t, waitid, libc::P_ALL, 0, out(&mut info), libc::WEXITED | libc::WNOHANG, 0);
    say!(t, "{} {}", info.signo, info.code);
    must!(kill, pid, libc::SIGKILL);
    say!(t, "{}", wait(pid));
}

fn wait_stopped(t: &mut T) {
    let pid = fork(|| {
        call!(kill, call!(getpid), libc::SIGSTOP);
        loop {
            call!(pause);
        }
    });
    let mut status = 0i32;
    must!(wait4, pid, out(&mut status), libc::WUNTRACED, 0);
    say!(t, "{}", ending(status));
    show!(t, wait4, pid, 0, libc::WUNTRACED | libc::WNOHANG, 0);
    must!(kill, pid, libc::SIGCONT);
    must!(wait4, pid, out(&mut status), libc::WCONTINUED | libc::WUNTRACED, 0);
    say!(t, "{}", ending(status));
    show!(t, wait4, pid, 0, libc::WCONTINUED | libc::WNOHANG, 0);
    must!(kill, pid, libc::SIGSTOP);
    must!(wait4, pid, out(&mut status), libc::WUNTRACED, 0);
    say!(t, "{}", ending(status));
    must!(kill, pid, libc::SIGKILL);
    say!(t, "{}", wait(pid));
}

fn waitid_fields(t: &mut T) {
    let own = call!(getuid);
    for signal in [0, libc::SIGKILL, libc::SIGSTOP] {
        let pid = fork(|| {
            if signal != 0 {
                call!(kill, call!(getpid), signal);
            }
            42
        });
        let mut info = Info::default();
        let options = libc::WEXITED | libc::WSTOPPED;
        let got = call!(waitid, libc::P_PID, pid, out(&mut info), options, 0);
        let [child, uid, status] = [info.rest[0], info.rest[1], info.rest[2]];
        say!(t, "{}: {} code {} pid {} uid {} status {status}", result(got), signal_name(info.signo), info.code,
            i64::from(child) == pid, i64::from(uid) == own);
        call!(kill, pid, libc::SIGKILL);
        call!(wait4, pid, 0, 0, 0);
    }
}

fn nowait_leaves_it(t: &mut T) {
    let pid = fork(|| 3);
    let mut info = Info::default();
    show!(t, waitid, libc::P_PID, pid, out(&mut info), libc::WEXITED | libc::WNOWAIT, 0);
    say!(t, "{} {}", info.code, info.rest[2]);
    show!(t, waitid, libc::P_PID, pid, out(&mut info), libc::WEXITED | libc::WNOWAIT, 0);
    say!(t, "{}", wait(pid));
    show!(t, waitid, libc::P_PID, pid, out(&mut info), libc::WEXITED, 0);
}

fn ignored_children(t: &mut T) {
    dispose(libc::SIGCHLD, 1);
    let pid = fork(|| 3);
    ok!(t, wait4, pid, 0, 0, 0);
    dispose(libc::SIGCHLD, 0);
    let action = SigAction { handler: 0, flags: libc::SA_NOCLDWAIT as u64, ..SigAction::default() };
    must!(rt_sigaction, libc::SIGCHLD, p(&action), 0, 8);
    fork(|| 3);
    show!(t, wait4, -1, 0, 0, 0);
}

fn groups(t: &mut T) {
    let own = call!(getpid);
    say!(t, "leader {}", call!(getpgrp) == own);
    let pid = fork(|| {
        call!(pause);
        0
    });
    say!(t, "inherited {}", call!(getpgid, pid) == own);
    show!(t, setpgid, pid, pid);
    say!(t, "own {}", call!(getpgid, pid) == pid);
    show!(t, setpgid, pid, own);
    show!(t, setpgid, pid, 999_999);
    show!(t, setpgid, 1, 0);
    show!(t, setpgid, 0, -1);
    show!(t, setpgid, -1, 0);
    show!(t, getpgid, 999_999);
    show!(t, getpgid, -1);
    must!(kill, pid, libc::SIGKILL);
    wait(pid);
    show!(t, getpgid, pid);
    show!(t, kill, -pid, 0);
}

fn sessions(t: &mut T) {
    show!(t, setsid);
    let ended = child(|| {
        let sid = call!(setsid);
        say!(t, "{} {}", sid == call!(getpid), call!(getsid, 0) == sid);
        show!(t, setsid);
        show!(t, setpgid, 0, 0);
        let pid = fork(|| {
            call!(setsid);
            call!(pause);
            0
        });
        while call!(getsid, pid) != pid {}
        show!(t, setpgid, pid, 0);
        must!(kill, pid, libc::SIGKILL);
        wait(pid);
        0
    });
    say!(t, "{ended}");
    show!(t, getsid, 999_999);
}

/// A program that says its arguments lie elsewhere shows those.
fn title(t: &mut T) {
    let of = |number: usize| {
        let stat = content("/proc/self/stat");
        let fields: Vec<u64> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(1).map(|f| f.parse().unwrap_or(0)).collect();
        fields[number - 4]
    };
    let (arg_start, arg_end) = (of(48), of(49));
    let text = b"a title\0that is long\0";
    let at = pages(1);
    for (address, byte) in (at..).zip(text) {
        crate::sys::poke(address, *byte);
    }
    let end = at + text.len() as u64;
    let (set, start_of, end_of) = (libc::PR_SET_MM, 8, 9);
    // Wherever the page is, one of the two has to move first.
    let (first, second) = if at < arg_start { ((start_of, at), (end_of, end)) } else { ((end_of, end), (start_of, at)) };
    say!(t, "{}", result(call!(prctl, set, first.0, first.1, 0, 0)));
    say!(t, "{}", result(call!(prctl, set, second.0, second.1, 0, 0)));
    say!(t, "{:?}", content("/proc/self/cmdline"));
    show!(t, prctl, set, start_of, end + 1, 0, 0);
    show!(t, prctl, set, end_of, at - 1, 0, 0);
    show!(t, prctl, set, end_of, end, 1, 0);
    show!(t, prctl, set, end_of, end, 0, 1);
    show!(t, prctl, set, 99, at, 0, 0);
    show!(t, prctl, set, 0, at, 0, 0);
    show!(t, prctl, set, 11, 4096, 0, 0);
    show!(t, prctl, set, 11, u64::MAX, 0, 0);
    show!(t, prctl, set, 11, (1u64 << 47) - 8192, 0, 0);
    show!(t, prctl, set, 5, arg_end, 0, 0);
    let ended = as_nobody(|| say!(t, "nobody: {}", result(call!(prctl, set, end_of, end, 0, 0))));
    say!(t, "{ended}");
}

fn orphans(t: &mut T) {
    let (r, w) = pipe(0);
    must!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1);
    let own = call!(getpid);
    let middle = fork(|| {
        let parent = call!(getpid);
        fork(|| {
            while call!(getppid) == parent {
                sleep_ms(1);
            }
            write(w, if call!(getppid) == own { "adopted" } else { "elsewhere" });
            9
        });
        0
    });
    say!(t, "{}", wait(middle));
    say!(t, "{}", read(r));
    let mut status = 0i32;
    must!(wait4, -1, out(&mut status), 0, 0);
    say!(t, "{}", ending(status));
}

/// How it ends, run with the argument `0` or, by `forever`, until it is killed.
fn run_program(path: &str, argument: &str) -> i64 {
    fork(|| {
        let (path, argument) = (c(path), c(argument));
        let argv = [path.as_ptr() as u64, argument.as_ptr() as u64, 0];
        let failed = call!(execve, path.as_c_str(), p(&argv), p(&[0u64]));
        i32::try_from(-failed).unwrap_or(-1)
    })
}

fn text_busy(t: &mut T) {
    std::fs::copy("/bin/sleep", "prog").expect("a program");
    must!(link, c"prog", c"other");
    std::fs::copy("/bin/sleep", "interpreter").expect("a program");
    file("script", "#!./interpreter\n");
    must!(chmod, c"script", 0o755);
    let ended = |path: &str| wait(run_program(path, "0"));
    say!(t, "{}", ended("./prog"));
    let w = open("prog", O_WRONLY);
    say!(t, "being written: {} {}", ended("./prog"), ended("./other"));
    must!(close, w);
    let w = open("prog", O_RDWR);
    let copy = must!(dup, w);
    must!(close, w);
    say!(t, "and read: {}", ended("./prog"));
    must!(close, copy);
    say!(t, "not any more: {}", ended("./prog"));
    for name in ["script", "interpreter"] {
        let w = open(name, O_WRONLY);
        say!(t, "{name}: {}", ended("./script") == format!("exit {}", libc::ETXTBSY));
        must!(close, w);
    }
    let pid = run_program("./prog", "1000");
    while content(&format!("/proc/{pid}/comm")) != "prog\n" {
        sleep_ms(2);
    }
    for (name, flags) in [
        ("read", O_RDONLY), ("write", O_WRONLY), ("both", O_RDWR), ("truncate", O_WRONLY | libc::O_TRUNC),
        ("read and truncate", libc::O_TRUNC), ("create", O_CREAT | O_WRONLY), ("path", libc::O_PATH), ("append", O_WRONLY | libc::O_APPEND),
    ] {
        let got = call!(openat, AT_FDCWD, c"other", flags, 0o600);
        say!(t, "{name}: {}", ok_or_error(got));
        if got >= 0 {
            must!(close, got);
        }
    }
    show!(t, truncate, c"prog", 100);
    show!(t, chmod, c"prog", 0o700);
    show!(t, utimensat, AT_FDCWD, c"prog", 0, 0);
    say!(t, "by its link: {}", ok_or_error(call!(openat, AT_FDCWD, c(&format!("/proc/{pid}/exe")).as_c_str(), O_WRONLY, 0)));
    show!(t, rename, c"interpreter", c"prog");
    say!(t, "another of the name: {}", ok_or_error(call!(openat, AT_FDCWD, c"prog", O_WRONLY, 0)));
    must!(kill, pid, libc::SIGKILL);
    wait(pid);
    show!(t, truncate, c"other", 100);
    // What a memfd was made with does not count.
    let m = must!(memfd_create, c"m", 0);
    std::fs::copy("/bin/sleep", format!("/proc/self/fd/{m}")).expect("a copy");
    say!(t, "memfd: {}", ended(&format!("/proc/self/fd/{m}")));
}

/// Either it runs and cannot be written, or it is written and cannot be run.
fn text_busy_race(t: &mut T) {
    std::fs::copy("/bin/sleep", "prog").expect("a program");
    let mut wrong = 0;
    for _ in 0..20 {
        let pid = run_program("./prog", "0");
        for _ in 0..20 {
            let got = call!(openat, AT_FDCWD, c"prog", O_WRONLY, 0);
            if got >= 0 {
                must!(close, got);
            } else if got != -i64::from(libc::ETXTBSY) {
                wrong += 1;
            }
        }
        let ended = wait(pid);
        if ended != "exit 0" && ended != format!("exit {}", libc::ETXTBSY) {
            wrong += 1;
        }
    }
    say!(t, "wrong: {wrong}");
    show!(t, truncate, c"prog", 0);
}

/// Tasks of one real user are counted, not those of others, and not those of root.
fn how_many(t: &mut T) {
    const USER: u32 = 54_321;
    let limit = [3u64, 3];
    let sleeper = || {
        call!(pause);
        0
    };
    let ended = child(|| {
        must!(prlimit64, 0, libc::RLIMIT_NPROC, p(&limit), 0);
        say!(t, "root: {}", child(|| 0));
        must!(setresgid, USER, USER, USER);
        must!(setresuid, USER, USER, USER);
        let (one, two) = (fork(sleeper), fork(sleeper));
        show!(t, fork);
        must!(kill, one, libc::SIGKILL);
        must!(waitid, libc::P_PID, one, 0, libc::WEXITED | libc::WNOWAIT, 0);
        say!(t, "beside a zombie");
        show!(t, fork);
        say!(t, "{}", wait(one));
        say!(t, "{}", child(|| 0));
        must!(kill, two, libc::SIGKILL);
        say!(t, "{}", wait(two));
        0
    });
    say!(t, "{ended}");
}
