//! CPU time: how it is counted and divided, timers on it, its limits.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    user_and_system: getrusage times,
    of_children: getrusage wait4,
    faults_and_memory: getrusage,
    switches: getrusage sched_yield,
    clocks: clock_gettime clock_getres clock_settime,
    clocks_of_others: clock_gettime clock_getres,
    interval_timers: setitimer getitimer,
    interval_timer_repeats: setitimer,
    timer_of_process: timer_create timer_settime timer_gettime,
    timer_of_thread: timer_create timer_settime,
    sleep_on_clock: clock_nanosleep,
    limit: setrlimit,
    limit_kills: setrlimit,
    load: sysinfo,
];

const SELF: i32 = libc::RUSAGE_SELF;
const PROCESS_CLOCK: i32 = libc::CLOCK_PROCESS_CPUTIME_ID;
const THREAD_CLOCK: i32 = libc::CLOCK_THREAD_CPUTIME_ID;

fn clock(id: i32) -> u64 {
    let mut now = [0i64; 2];
    must!(clock_gettime, id, out(&mut now));
    now[0] as u64 * 1_000_000_000 + now[1] as u64
}

/// `struct rusage` as words: user and system time in microseconds, then the rest.
fn usage(who: i32) -> (u64, u64, [i64; 18]) {
    let mut r = [0i64; 18];
    must!(getrusage, who, out(&mut r));
    ((r[0] * 1_000_000 + r[1]) as u64, (r[2] * 1_000_000 + r[3]) as u64, r)
}

/// Computes for so much CPU time of this thread.
fn compute(ms: u64) {
    let until = clock(THREAD_CLOCK) + ms * 1_000_000;
    let mut x = 1u64;
    while clock(THREAD_CLOCK) < until {
        for i in 0..200_000u64 {
            x = std::hint::black_box(x.wrapping_mul(i | 1));
        }
    }
}

/// Lets the kernel work for so much CPU time of this thread.
fn have_kernel_work(ms: u64) {
    let zero = open("/dev/zero", O_RDONLY);
    let mut buffer = vec![0u8; 1 << 20];
    let until = clock(THREAD_CLOCK) + ms * 1_000_000;
    while clock(THREAD_CLOCK) < until {
        must!(read, zero, out(&mut buffer[..]), 1 << 20);
    }
    must!(close, zero);
}

/// Whether `work` is mostly of the kind that `ratio` says it is, of user and system time. Time that the host takes away counts
/// as what was running, so one of three attempts is enough.
fn is_mostly(work: impl Fn(), ratio: impl Fn(u64, u64) -> bool) -> bool {
    (0..3).any(|_| {
        let (user, system, _) = usage(SELF);
        work();
        let (user2, system2, _) = usage(SELF);
        ratio(user2 - user, system2 - system)
    })
}

fn user_and_system(t: &mut T) {
    let computing = is_mostly(|| compute(300), |user, system| user > 8 * system);
    say!(t, "computing is user time: {computing}");
    let reading = is_mostly(|| have_kernel_work(300), |user, system| system > 2 * user);
    say!(t, "reading is system time: {reading}");
    let mut ticks = [0i64; 4];
    must!(times, out(&mut ticks));
    say!(t, "times agree: {}", ticks[0] >= 25 && ticks[1] >= 15 && ticks[2] == 0 && ticks[3] == 0);
    let all = clock(PROCESS_CLOCK) / 1000;
    let (user, system, _) = usage(SELF);
    say!(t, "the sum is the clock: {}", (user + system).abs_diff(all) < 20_000);
    let stat = content("/proc/self/stat");
    let fields: Vec<i64> =
        stat.rsplit(')').next().unwrap_or("").split(' ').filter_map(|f| f.parse().ok()).collect();
    // State is no number; the 14th and 15th field are user and system time.
    say!(t, "stat agrees: {}", fields[10] >= 25 && fields[11] >= 15);
    let mut last = (0, 0);
    for _ in 0..200 {
        let (user, system, _) = usage(SELF);
        assert!(user >= last.0 && system >= last.1, "time went back");
        last = (user, system);
    }
    show!(t, getrusage, 2, out(&mut [0i64; 18]));
    show!(t, getrusage, -2, out(&mut [0i64; 18]));
    show!(t, getrusage, 0, 8);
    show!(t, times, 8);
}

fn of_children(t: &mut T) {
    say!(t, "{}", usage(libc::RUSAGE_CHILDREN).0 + usage(libc::RUSAGE_CHILDREN).1);
    let pid = fork(|| {
        compute(100);
        0
    });
    let (mut status, mut r) = (0i32, [0i64; 18]);
    let mut info = Info::default();
    must!(waitid, libc::P_PID, pid, out(&mut info), libc::WEXITED | libc::WNOWAIT, 0);
    let (user, _, _) = usage(libc::RUSAGE_CHILDREN);
    say!(t, "not waited for: {user}");
    must!(wait4, pid, out(&mut status), 0, out(&mut r));
    say!(t, "its own: {}", (r[0] * 1_000_000 + r[1]) >= 60_000);
    let (user, _, _) = usage(libc::RUSAGE_CHILDREN);
    say!(t, "waited for: {}", user >= 60_000);
    let mut ticks = [0i64; 4];
    must!(times, out(&mut ticks));
    say!(t, "times: {}", ticks[2] >= 6);
    // Grandchildren count once their parent has waited for them and was waited for.
    let before = usage(libc::RUSAGE_CHILDREN);
    let ended = child(|| {
        child(|| {
            compute(100);
            0
        });
        0
    });
    let after = usage(libc::RUSAGE_CHILDREN);
    say!(t, "{ended} {}", after.0 + after.1 - before.0 - before.1 >= 90_000);
}

fn faults_and_memory(t: &mut T) {
    const PAGES: usize = 5000;
    let before = usage(SELF).2;
    let memory = must!(mmap, 0, PAGES * 4096, 3, 0x22, -1, 0);
    must!(madvise, memory, PAGES * 4096, libc::MADV_NOHUGEPAGE);
    for page in 0..PAGES {
        must!(getrandom, memory as u64 + page as u64 * 4096, 1, 0);
    }
    let after = usage(SELF).2;
    say!(t, "faults: {}", (after[6] - before[6]) as usize >= PAGES);
    say!(t, "resident: {}", (after[4] - before[4]) * 1024 >= (PAGES as i64 - 300) * 4096);
    must!(munmap, memory, PAGES * 4096);
    say!(t, "the most so far: {}", usage(SELF).2[4] >= after[4]);
    say!(t, "of the thread: {}", usage(libc::RUSAGE_THREAD).2[4] == usage(SELF).2[4]);
    let ended = child(|| {
        let mine = usage(SELF).2;
        i32::from(mine[4] >= after[4])
    });
    say!(t, "a child begins anew: {ended}");
    say!(t, "of children: {}", usage(libc::RUSAGE_CHILDREN).2[4] > 0);
}

fn switches(t: &mut T) {
    let before = usage(SELF).2;
    for _ in 0..20 {
        sleep_ms(1);
    }
    let after = usage(SELF).2;
    say!(t, "sleeping is voluntary: {}", after[16] - before[16] >= 20 && after[16] - before[16] < 60);
    // Another one that wants the same CPU.
    let mut cpus = [0u64; 16];
    must!(sched_getaffinity, 0, 128, out(&mut cpus));
    let one = [cpus[0] & cpus[0].wrapping_neg()];
    must!(sched_setaffinity, 0, 8, p(&one));
    let rival = fork(|| {
        compute(10_000);
        0
    });
    let before = usage(SELF).2;
    compute(100);
    let after = usage(SELF).2;
    say!(t, "giving way is involuntary: {}", after[17] - before[17] >= 3 && after[16] - before[16] < 10);
    must!(kill, rival, libc::SIGKILL);
    wait(rival);
}

fn clocks(t: &mut T) {
    for id in [PROCESS_CLOCK, THREAD_CLOCK] {
        let mut resolution = [0i64; 2];
        show!(t, clock_getres, id, out(&mut resolution));
        say!(t, "{resolution:?}");
        show!(t, clock_settime, id, p(&[0i64; 2]));
        let before = clock(id);
        sleep_ms(50);
        let slept = clock(id) - before;
        compute(50);
        let computed = clock(id) - before;
        say!(t, "stands still: {}, runs: {}", slept < 20_000_000, computed >= 50_000_000);
    }
    show!(t, clock_gettime, PROCESS_CLOCK, 8);
    // The clocks of one's own process by number: all, user and scheduler's time, of process and thread.
    for id in [!0i32 << 3, !0 << 3 | 1, !0 << 3 | 2, !0 << 3 | 3, !0 << 3 | 4, !0 << 3 | 6, !0 << 3 | 7] {
        let mut now = [0i64; 2];
        ok!(t, clock_gettime, id, out(&mut now));
        ok!(t, clock_getres, id, out(&mut now));
        show!(t, clock_settime, id, p(&[0i64; 2]));
    }
}

fn clocks_of_others(t: &mut T) {
    let pid = fork(|| {
        compute(60);
        loop {
            call!(pause);
        }
    });
    let of = |number: i64, kind: i32| (!(number as i32)) << 3 | kind;
    let start = Instant::now();
    let mut now = [0i64; 2];
    while start.elapsed() < Duration::from_secs(5) && now[1] < 60_000_000 {
        must!(clock_gettime, of(pid, 2), out(&mut now));
        sleep_ms(5);
    }
    say!(t, "reached: {}", now[1] >= 60_000_000);
    ok!(t, clock_getres, of(pid, 2), out(&mut now));
    show!(t, clock_gettime, of(pid, 6), out(&mut now));
    show!(t, clock_settime, of(pid, 2), p(&now));
    must!(kill, pid, libc::SIGKILL);
    wait(pid);
    show!(t, clock_gettime, of(pid, 2), out(&mut now));
    show!(t, clock_getres, of(pid, 2), out(&mut now));
    show!(t, clock_gettime, of(999_999, 6), out(&mut now));
    let tid = call!(gettid);
    ok!(t, clock_gettime, of(tid, 6), out(&mut now));
    ok!(t, clock_gettime, of(call!(getpid), 2), out(&mut now));
}

fn interval_timers(t: &mut T) {
    handle(libc::SIGVTALRM, count, 0, 0);
    handle(libc::SIGPROF, count, 0, 0);
    for (which, name) in [(1, "virtual"), (2, "prof")] {
        COUNT.store(0, Ordering::Relaxed);
        let mut old = [7i64; 4];
        show!(t, setitimer, which, p(&[0i64, 0, 0, 80_000]), out(&mut old));
        say!(t, "{name} {old:?}");
        must!(getitimer, which, out(&mut old));
        say!(t, "{:?} {}", &old[..3], (1..=84_000).contains(&old[3]));
        sleep_ms(150);
        say!(t, "sleeping does not count: {}", COUNT.load(Ordering::Relaxed));
        let before = clock(THREAD_CLOCK);
        let start = Instant::now();
        while COUNT.load(Ordering::Relaxed) == 0 && start.elapsed() < Duration::from_secs(8) {
            compute(1);
        }
        let used = clock(THREAD_CLOCK) - before;
        say!(t, "{} after {}", signal_name(LAST.load(Ordering::Relaxed)), (50_000_000..400_000_000).contains(&used));
        must!(getitimer, which, out(&mut old));
        say!(t, "over: {old:?}");
        must!(setitimer, which, p(&[0i64, 30_000, 5, 0]), 0);
        must!(setitimer, which, 0, out(&mut old));
        say!(t, "{:?} {}", &old[..2], old[2] == 4 || (old[2], old[3]) == (5, 0) || old[2] == 5);
        show!(t, setitimer, which, p(&[0i64, 0, 0, 1_000_000]), 0);
        show!(t, setitimer, which, p(&[0i64, 0, -1, 0]), 0);
        show!(t, setitimer, which, p(&[0i64, -1, 0, 0]), 0);
        show!(t, setitimer, which, 8, 0);
        show!(t, getitimer, which, 8);
    }
    show!(t, setitimer, 3, p(&[0i64; 4]), 0);
    show!(t, setitimer, -1, p(&[0i64; 4]), 0);
    show!(t, getitimer, 3, out(&mut [0i64; 4]));
    // They go on after execve and are not inherited by fork.
    must!(setitimer, 2, p(&[0i64, 0, 100, 0]), 0);
    let ended = child(|| {
        let mut mine = [7i64; 4];
        must!(getitimer, 2, out(&mut mine));
        mine.iter().sum::<i64>() as i32
    });
    say!(t, "{ended}");
}

fn interval_timer_repeats(t: &mut T) {
    handle(libc::SIGPROF, count, 0, 0);
    must!(setitimer, 2, p(&[0i64, 20_000, 0, 20_000]), 0);
    compute(400);
    must!(setitimer, 2, 0, 0);
    let times = COUNT.load(Ordering::Relaxed);
    say!(t, "about twenty times: {}", (12..=21).contains(&times));
    // System time counts for this one.
    COUNT.store(0, Ordering::Relaxed);
    must!(setitimer, 2, p(&[0i64, 20_000, 0, 20_000]), 0);
    have_kernel_work(400);
    must!(setitimer, 2, 0, 0);
    let times = COUNT.load(Ordering::Relaxed);
    say!(t, "about twenty times: {}", (10..=21).contains(&times));
    // Hardly for this one.
    handle(libc::SIGVTALRM, count, 0, 0);
    COUNT.store(0, Ordering::Relaxed);
    must!(setitimer, 1, p(&[0i64, 20_000, 0, 20_000]), 0);
    have_kernel_work(400);
    must!(setitimer, 1, 0, 0);
    let times = COUNT.load(Ordering::Relaxed);
    say!(t, "hardly: {}", times <= 8);
}

fn timer_of_process(t: &mut T) {
    handle(libc::SIGUSR1, count, 0, 0);
    let mut id = 0i32;
    // A sigevent: value, signal, how.
    let event = [42u64, libc::SIGUSR1 as u64, 0, 0, 0, 0, 0, 0];
    must!(timer_create, PROCESS_CLOCK, p(&event), out(&mut id));
    show!(t, timer_settime, id, 0, p(&[0i64, 0, 0, 60_000_000]), 0);
    let mut left = [0i64; 4];
    must!(timer_gettime, id, out(&mut left));
    say!(t, "{:?} {}", &left[..3], (1..=64_000_000).contains(&left[3]));
    sleep_ms(120);
    say!(t, "{}", COUNT.load(Ordering::Relaxed));
    let before = clock(PROCESS_CLOCK);
    // Threads' time counts together.
    let workers: Vec<_> = (0..2).map(|_| std::thread::spawn(|| compute(50))).collect();
    workers.into_iter().for_each(|worker| worker.join().expect("a thread"));
    compute(5);
    say!(t, "{} {}", COUNT.load(Ordering::Relaxed), clock(PROCESS_CLOCK) - before >= 60_000_000);
    must!(timer_gettime, id, out(&mut left));
    say!(t, "{left:?}");
    // Absolute, and in the past: at once.
    must!(timer_settime, id, 1, p(&[0i64, 0, 0, 1]), 0);
    compute(30);
    say!(t, "{}", COUNT.load(Ordering::Relaxed));
    // Repeating.
    must!(timer_settime, id, 0, p(&[0i64, 20_000_000, 0, 20_000_000]), 0);
    compute(200);
    say!(t, "{}", (6..=12).contains(&COUNT.load(Ordering::Relaxed)));
    show!(t, timer_settime, id, 0, p(&[0i64; 4]), 0);
    show!(t, timer_delete, id);
    show!(t, timer_create, -1, 0, out(&mut id));
    show!(t, timer_create, !999_999 << 3 | 2, 0, out(&mut id));
}

fn timer_of_thread(t: &mut T) {
    handle(libc::SIGALRM, count, 0, 0);
    let mut id = 0i32;
    must!(timer_create, THREAD_CLOCK, 0, out(&mut id));
    must!(timer_settime, id, 0, p(&[0i64, 0, 0, 60_000_000]), 0);
    // Another thread's time does not count.
    std::thread::spawn(|| compute(120)).join().expect("a thread");
    say!(t, "{}", COUNT.load(Ordering::Relaxed));
    compute(90);
    say!(t, "{}", COUNT.load(Ordering::Relaxed));
    must!(timer_delete, id);
}

fn sleep_on_clock(t: &mut T) {
    show!(t, clock_nanosleep, THREAD_CLOCK, 0, p(&[0i64, 1]), 0);
    show!(t, clock_nanosleep, !0 << 3 | 6, 0, p(&[0i64, 1]), 0);
    show!(t, clock_nanosleep, PROCESS_CLOCK, 0, p(&[0i64, -1]), 0);
    show!(t, clock_nanosleep, PROCESS_CLOCK, 1, p(&[0i64, 1]), 0);
    // While a thread computes the process's clock runs.
    let worker = std::thread::spawn(|| compute(200));
    let before = clock(PROCESS_CLOCK);
    show!(t, clock_nanosleep, PROCESS_CLOCK, 0, p(&[0i64, 80_000_000]), 0);
    let slept = clock(PROCESS_CLOCK) - before;
    say!(t, "{}", (80_000_000..300_000_000).contains(&slept));
    worker.join().expect("a thread");
    // Of another process.
    let pid = fork(|| {
        compute(120);
        loop {
            call!(pause);
        }
    });
    show!(t, clock_nanosleep, !(pid as i32) << 3 | 2, 1, p(&[0i64, 100_000_000]), 0);
    must!(kill, pid, libc::SIGKILL);
    wait(pid);
    show!(t, clock_nanosleep, !(pid as i32) << 3 | 2, 1, p(&[0i64, 100_000_000]), 0);
    // Nobody computes: a signal ends it, with the rest of the time.
    handle(libc::SIGALRM, count, 0, 0);
    must!(setitimer, 0, p(&[0i64, 0, 0, 30_000]), 0);
    let mut rest = [0i64; 2];
    show!(t, clock_nanosleep, PROCESS_CLOCK, 0, p(&[5i64, 0]), out(&mut rest));
    say!(t, "{}", rest[0] == 4 && rest[1] > 0);
    must!(setitimer, 0, p(&[0i64, 0, 0, 30_000]), 0);
    show!(t, clock_nanosleep, PROCESS_CLOCK, 1, p(&[50i64, 0]), out(&mut rest));
}

fn limit(t: &mut T) {
    handle(libc::SIGXCPU, count, 0, 0);
    show!(t, setrlimit, libc::RLIMIT_CPU, p(&[1u64, u64::MAX]));
    let start = Instant::now();
    while COUNT.load(Ordering::Relaxed) < 1 && start.elapsed() < Duration::from_secs(15) {
        compute(5);
    }
    let first = clock(PROCESS_CLOCK);
    say!(t, "{}", (500_000_000..2_000_000_000).contains(&first));
    let mut now = [0u64; 2];
    must!(getrlimit, libc::RLIMIT_CPU, out(&mut now));
    say!(t, "the next second: {}", now[0]);
    while COUNT.load(Ordering::Relaxed) < 2 && start.elapsed() < Duration::from_secs(15) {
        compute(5);
    }
    say!(t, "{}", (1_500_000_000..3_000_000_000).contains(&clock(PROCESS_CLOCK)));
}

fn limit_kills(t: &mut T) {
    // The default action of SIGXCPU.
    let ended = child(|| {
        must!(setrlimit, libc::RLIMIT_CPU, p(&[1u64, 3]));
        compute(5000);
        0
    });
    say!(t, "{ended}");
    // Ignored; inherited by a child, whose time begins at 0.
    let ended = child(|| {
        dispose(libc::SIGXCPU, 1);
        must!(setrlimit, libc::RLIMIT_CPU, p(&[0u64, 1]));
        let pid = fork(|| {
            compute(5000);
            0
        });
        i32::from(wait(pid) == "killed by SIGKILL")
    });
    say!(t, "{ended}");
}

fn load(t: &mut T) {
    let mut info = [0u64; 14];
    must!(sysinfo, out(&mut info));
    say!(t, "{}", info[1..4].iter().all(|load| *load < 100 << 16));
    let text = content("/proc/loadavg");
    let loads: Vec<f64> = text.split(' ').take(3).filter_map(|load| load.parse().ok()).collect();
    say!(t, "{}", loads.iter().zip(&info[1..4]).all(|(a, b)| (a - *b as f64 / 65536.0).abs() < 0.6));
}
