//! Scheduling policies, priorities and who may have them; barriers.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    policies: sched_setscheduler sched_getscheduler sched_getparam,
    parameters: sched_setparam sched_getparam,
    attributes: sched_setattr sched_getattr,
    deadlines: sched_setattr,
    attribute_sizes: sched_setattr sched_getattr,
    keep_flags: sched_setattr,
    inherited: sched_setscheduler,
    reset_on_fork: sched_setscheduler,
    unprivileged: sched_setscheduler sched_setattr setpriority,
    bounds: sched_get_priority_max sched_get_priority_min sched_rr_get_interval,
    fifo_goes_first: sched_setscheduler,
    fifo_preempts_at_once: sched_setscheduler,
    fifo_yields_to_equals: sched_setscheduler sched_yield,
    fifo_cannot_take_the_machine: sched_setscheduler,
    #[race]
    idle_policy_race: sched_setscheduler,
    inversion: futex,
    deadlock_of_locks: futex,
    membarrier: membarrier,
    realtime_limit: setrlimit,
];

const OTHER: i32 = 0;
const FIFO: i32 = 1;
const RR: i32 = 2;
const BATCH: i32 = 3;
const IDLE: i32 = 5;
const DEADLINE: i32 = 6;
const RESET: i32 = 0x4000_0000;

/// `struct sched_attr`.
#[repr(C)]
#[derive(Clone, Copy, Default, Debug)]
struct Attr {
    size: u32,
    policy: u32,
    flags: u64,
    nice: i32,
    priority: u32,
    times: [u64; 3],
    util: [u32; 2],
}

fn one_cpu() {
    let mut cpus = [0u64; 16];
    must!(sched_getaffinity, 0, 128, out(&mut cpus));
    must!(sched_setaffinity, 0, 8, p(&[cpus[0] & cpus[0].wrapping_neg()]));
}

fn now_is(t: &mut T) {
    let mut attr = Attr::default();
    must!(sched_getattr, 0, out(&mut attr), 48, 0);
    let mut priority = -1i32;
    must!(sched_getparam, 0, out(&mut priority));
    let policy = call!(sched_getscheduler, 0);
    say!(t, "  {policy:#x} {priority}; {} {} {} {}", attr.policy, attr.flags, attr.nice, attr.priority);
    let stat = content("/proc/self/stat");
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or("").split_whitespace().collect();
    say!(t, "  stat: {} {} {} {}", fields[15], fields[16], fields[37], fields[38]);
}

fn policies(t: &mut T) {
    now_is(t);
    for (policy, priority) in [
        (FIFO, 1),
        (FIFO, 99),
        (RR, 50),
        (BATCH, 0),
        (IDLE, 0),
        (OTHER, 0),
        (FIFO | RESET, 3),
        (OTHER, 0),
        (OTHER | RESET, 0),
        (OTHER, 0),
        (FIFO, 0),
        (FIFO, 100),
        (FIFO, -1),
        (OTHER, 1),
        (BATCH, 1),
        (IDLE, 5),
        (4, 0),
        (7, 0),
        (-1, 0),
        (DEADLINE, 0),
    ] {
        say!(t, "{policy:#x} {priority}: {}", result(call!(sched_setscheduler, 0, policy, p(&priority))));
        now_is(t);
    }
    show!(t, sched_setscheduler, 0, OTHER, 0);
    show!(t, sched_setscheduler, 0, OTHER, 8);
    show!(t, sched_setscheduler, -1, OTHER, p(&0i32));
    show!(t, sched_setscheduler, 999_999, OTHER, p(&0i32));
    show!(t, sched_getscheduler, -1);
    show!(t, sched_getscheduler, 999_999);
}

fn parameters(t: &mut T) {
    show!(t, sched_setparam, 0, p(&0i32));
    show!(t, sched_setparam, 0, p(&1i32));
    must!(sched_setscheduler, 0, RR, p(&10i32));
    show!(t, sched_setparam, 0, p(&20i32));
    show!(t, sched_setparam, 0, p(&0i32));
    show!(t, sched_setparam, 0, p(&100i32));
    now_is(t);
    show!(t, sched_setparam, 0, 0);
    show!(t, sched_setparam, -1, p(&20i32));
    show!(t, sched_setparam, 999_999, p(&20i32));
    show!(t, sched_getparam, 0, 0);
    show!(t, sched_getparam, 0, 8);
    show!(t, sched_getparam, -1, out(&mut 0i32));
    show!(t, sched_getparam, 999_999, out(&mut 0i32));
}

fn attributes(t: &mut T) {
    let set = |attr: Attr| result(call!(sched_setattr, 0, p(&attr), 0));
    let base = Attr { size: 48, ..Attr::default() };
    for (policy, priority, nice, flags) in [
        (OTHER, 0, 5, 0),
        (OTHER, 0, 100, 0),
        (BATCH, 0, -100, 0),
        (OTHER, 0, 0, 1),
        (OTHER, 0, 0, 0),
        (FIFO, 7, 3, 0),
        (RR, 8, 0, 1),
        (IDLE, 0, 0, 0),
        (OTHER, 0, 0, 0),
        (FIFO, 0, 0, 0),
        (OTHER, 5, 0, 0),
        (OTHER, 0, 0, 2),
        (OTHER, 0, 0, 4),
        (OTHER, 0, 0, 0x80),
        (-1, 0, 0, 0),
        (4, 0, 0, 0),
        (DEADLINE, 0, 0, 0),
    ] {
        let attr = Attr { policy: policy as u32, priority, nice, flags, ..base };
        say!(t, "{policy} {priority} {nice} {flags:#x}: {}", set(attr));
        now_is(t);
    }
    show!(t, sched_setattr, 0, 0, 0);
    show!(t, sched_setattr, 0, 8, 0);
    show!(t, sched_setattr, 0, p(&base), 1);
    show!(t, sched_setattr, -1, p(&base), 0);
    show!(t, sched_setattr, 999_999, p(&base), 0);
}

/// What Linux does not admit, either.
fn deadlines(t: &mut T) {
    const MS: u64 = 1_000_000;
    let top = 1u64 << 63;
    let set = |times: [u64; 3], flags: u64| {
        let attr = Attr { size: 48, policy: DEADLINE as u32, flags, times, ..Attr::default() };
        result(call!(sched_setattr, 0, p(&attr), 0))
    };
    let all = [
        [0, 0, 0], [0, 10 * MS, 0], [1023, 10 * MS, 0], [5 * MS, 0, 10 * MS], [11 * MS, 10 * MS, 0], [5 * MS, 11 * MS, 10 * MS],
        [1024, 2048, 0], [1024, 2048, 99_999], [top, top, 0], [MS, top | MS, 0], [MS, MS, top], [MS, MS, u64::MAX],
        [MS, MS, 4_194_304_001], [u64::MAX, u64::MAX, u64::MAX], [10 * MS, 10 * MS, 10 * MS], [10 * MS, 10 * MS, 0],
        [4_000 * MS, 4_000 * MS, 4_194_304_000], [200_000, 200_000, 0],
    ];
    for times in all {
        say!(t, "{times:?}: {} {}", set(times, 0), set(times, 6));
    }
    now_is(t);
    as_nobody(|| {
        let t = &mut T::default();
        for times in [[0, 0, 0], [MS, 10 * MS, 0], [10 * MS, 10 * MS, 0]] {
            say!(t, "nobody, {times:?}: {}", set(times, 0));
        }
    });
}

fn attribute_sizes(t: &mut T) {
    for size in [0u32, 1, 47, 48, 49, 56, 64, 4096, 4097] {
        let mut bytes = vec![0u8; 8192];
        bytes[..4].copy_from_slice(&size.to_ne_bytes());
        let got = call!(sched_setattr, 0, p(&bytes[..]), 0);
        let after = u32::from_ne_bytes(bytes[..4].try_into().expect("four"));
        say!(t, "set {size}: {} {after}", result(got));
        bytes[60] = 1;
        bytes[..4].copy_from_slice(&size.to_ne_bytes());
        say!(t, "  with more: {}", result(call!(sched_setattr, 0, p(&bytes[..]), 0)));
        let mut bytes = vec![0xeeu8; 8192];
        let got = call!(sched_getattr, 0, out(&mut bytes[..]), size, 0);
        let written = bytes.iter().rposition(|b| *b != 0xee).map_or(0, |i| i + 1);
        say!(t, "get {size}: {} {written} {:?}", result(got), &bytes[..4]);
    }
    show!(t, sched_getattr, 0, 0, 48, 0);
    show!(t, sched_getattr, 0, 8, 48, 0);
    show!(t, sched_getattr, 0, out(&mut Attr::default()), 48, 1);
    show!(t, sched_getattr, -1, out(&mut Attr::default()), 48, 0);
    show!(t, sched_getattr, 999_999, out(&mut Attr::default()), 48, 0);
}

fn keep_flags(t: &mut T) {
    must!(sched_setscheduler, 0, RR, p(&10i32));
    let base = Attr { size: 48, ..Attr::default() };
    show!(t, sched_setattr, 0, p(&Attr { flags: 8, priority: 30, ..base }), 0);
    now_is(t);
    show!(t, sched_setattr, 0, p(&Attr { flags: 0x18, ..base }), 0);
    now_is(t);
    show!(t, sched_setattr, 0, p(&Attr { flags: 0x10, policy: FIFO as u32, ..base }), 0);
    now_is(t);
    show!(t, sched_setattr, 0, p(&Attr { flags: 8, priority: 0, ..base }), 0);
    show!(t, sched_setattr, 0, p(&Attr { flags: 0x20, ..base }), 0);
    show!(t, sched_setattr, 0, p(&Attr { flags: 0x20, size: 56, util: [2000, 0], ..base }), 0);
}

fn inherited(t: &mut T) {
    must!(sched_setscheduler, 0, FIFO, p(&10i32));
    child(|| {
        now_is(t);
        0
    });
    must!(sched_setscheduler, 0, BATCH, p(&0i32));
    std::thread::scope(|scope| {
        scope.spawn(|| now_is(t));
    });
}

fn reset_on_fork(t: &mut T) {
    must!(sched_setscheduler, 0, FIFO | RESET, p(&10i32));
    child(|| {
        now_is(t);
        0
    });
    must!(sched_setscheduler, 0, OTHER | RESET, p(&0i32));
    must!(setpriority, 0, 0, -5);
    child(|| {
        now_is(t);
        0
    });
    must!(setpriority, 0, 0, 5);
    child(|| {
        now_is(t);
        0
    });
    now_is(t);
}

fn unprivileged(t: &mut T) {
    let attempts = |t: &mut T| {
        let base = Attr { size: 48, ..Attr::default() };
        show!(t, sched_setscheduler, 0, FIFO, p(&10i32));
        show!(t, sched_setscheduler, 0, FIFO, p(&30i32));
        now_is(t);
        show!(t, sched_setparam, 0, p(&5i32));
        show!(t, sched_setscheduler, 0, RR, p(&5i32));
        show!(t, sched_setscheduler, 0, OTHER, p(&0i32));
        show!(t, setpriority, 0, 0, -5);
        show!(t, setpriority, 0, 0, 5);
        show!(t, setpriority, 0, 0, 0);
        show!(t, sched_setattr, 0, p(&Attr { nice: -12, ..base }), 0);
        show!(t, sched_setattr, 0, p(&Attr { nice: 5, ..base }), 0);
        show!(t, sched_setscheduler, 0, IDLE, p(&0i32));
        show!(t, sched_setscheduler, 0, OTHER, p(&0i32));
        show!(t, sched_setscheduler, 0, OTHER | RESET, p(&0i32));
        show!(t, sched_setscheduler, 0, OTHER, p(&0i32));
        show!(t, sched_setattr, 0, p(&Attr { policy: 6, times: [1 << 20, 1 << 22, 1 << 22], ..base }), 0);
        now_is(t);
        show!(t, sched_setscheduler, 1, OTHER, p(&0i32));
        show!(t, setpriority, 0, 1, 10);
    };
    as_nobody(|| attempts(t));
    must!(setrlimit, libc::RLIMIT_RTPRIO, p(&[20u64, 20]));
    must!(setrlimit, libc::RLIMIT_NICE, p(&[26u64, 26]));
    as_nobody(|| attempts(t));
    must!(setrlimit, libc::RLIMIT_NICE, p(&[40u64, 40]));
    as_nobody(|| attempts(t));
}

fn bounds(t: &mut T) {
    for policy in -1..9 {
        say!(
            t,
            "{policy}: {} to {}",
            result(call!(sched_get_priority_min, policy)),
            result(call!(sched_get_priority_max, policy))
        );
    }
    let mut interval = [0i64; 2];
    must!(sched_rr_get_interval, 0, out(&mut interval));
    // Natively a share of a CPU that others want, too, can be less than a tick, and is said to be nothing.
    say!(t, "{}", interval[0] == 0 && interval[1] < 1_000_000_000);
    must!(sched_setscheduler, 0, RR, p(&1i32));
    show!(t, sched_rr_get_interval, 0, out(&mut interval));
    say!(t, "{interval:?}");
    must!(sched_setscheduler, 0, FIFO, p(&1i32));
    show!(t, sched_rr_get_interval, 0, out(&mut interval));
    say!(t, "{interval:?}");
    show!(t, sched_rr_get_interval, 0, 8);
    show!(t, sched_rr_get_interval, -1, out(&mut interval));
    show!(t, sched_rr_get_interval, 999_999, out(&mut interval));
}

static TURN: AtomicUsize = AtomicUsize::new(0);

fn spin(ms: u64) {
    let start = Instant::now();
    while start.elapsed() < Duration::from_millis(ms) {
        std::hint::spin_loop();
    }
}

/// Starts a thread of a policy on this CPU: it runs when this thread lets it.
fn of_policy(policy: i32, priority: i32, body: impl FnOnce() + Send + 'static) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        must!(sched_setscheduler, 0, policy, p(&priority));
        body();
    })
}

fn fifo_goes_first(t: &mut T) {
    one_cpu();
    must!(sched_setscheduler, 0, FIFO, p(&99i32));
    let mut order = [0usize; 4];
    let places: Vec<_> = [10, 40, 20, 30]
        .iter()
        .map(|priority| {
            let start = of_policy(FIFO, *priority, move || {
                // Waits for all, then they go by priority.
                while TURN.load(Ordering::Acquire) == 0 {
                    sleep_ms(5);
                }
                spin(20);
            });
            (*priority, start)
        })
        .collect();
    sleep_ms(50);
    let finished = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let joiners: Vec<_> = places
        .into_iter()
        .map(|(priority, thread)| {
            let finished = finished.clone();
            std::thread::spawn(move || {
                must!(sched_setscheduler, 0, FIFO, p(&98i32));
                thread.join().expect("a thread");
                finished.lock().expect("a list").push(priority);
            })
        })
        .collect();
    sleep_ms(20);
    TURN.store(1, Ordering::Release);
    joiners.into_iter().for_each(|j| j.join().expect("a thread"));
    for (place, priority) in order.iter_mut().zip(finished.lock().expect("a list").iter()) {
        *place = *priority as usize;
    }
    say!(t, "{order:?}");
}

fn fifo_preempts_at_once(t: &mut T) {
    one_cpu();
    let (reader, writer) = pipe(0);
    let urgent = of_policy(FIFO, 50, move || {
        let mut byte = [0u8; 1];
        for _ in 0..200 {
            must!(read, reader, out(&mut byte), 1);
            TURN.fetch_add(1, Ordering::SeqCst);
        }
    });
    sleep_ms(30);
    let mut late = 0;
    for i in 0..200 {
        must!(write, writer, p(&[0u8]), 1);
        late += usize::from(TURN.load(Ordering::SeqCst) != i + 1);
    }
    urgent.join().expect("a thread");
    say!(t, "late: {late}");
}

fn fifo_yields_to_equals(t: &mut T) {
    one_cpu();
    must!(sched_setscheduler, 0, FIFO, p(&20i32));
    static READY: AtomicUsize = AtomicUsize::new(0);
    let other = of_policy(FIFO, 20, || {
        // Not before we are there: who sleeps gives it all turns at once.
        while READY.load(Ordering::SeqCst) < 2 {
            READY.fetch_max(1, Ordering::SeqCst);
            call!(sched_yield);
        }
        for _ in 0..100 {
            TURN.fetch_add(1, Ordering::SeqCst);
            call!(sched_yield);
        }
    });
    while READY.load(Ordering::SeqCst) == 0 {
        sleep_ms(1);
    }
    READY.store(2, Ordering::SeqCst);
    call!(sched_yield);
    let mut in_turn = 0;
    for _ in 0..50 {
        let before = TURN.load(Ordering::SeqCst);
        call!(sched_yield);
        in_turn += usize::from(TURN.load(Ordering::SeqCst) == before + 1);
    }
    let before = TURN.load(Ordering::SeqCst);
    spin(60);
    say!(t, "took turns: {}, kept the CPU: {}", in_turn >= 48, TURN.load(Ordering::SeqCst) == before);
    must!(sched_setscheduler, 0, FIFO, p(&1i32));
    other.join().expect("a thread");
    // Nobody of the same priority: goes on at once.
    say!(t, "{}", result(call!(sched_yield)));
}

fn fifo_cannot_take_the_machine(t: &mut T) {
    one_cpu();
    let spinner = fork(|| {
        must!(sched_setscheduler, 0, FIFO, p(&99i32));
        spin(20_000);
        0
    });
    sleep_ms(20);
    let start = Instant::now();
    // An ordinary task gets the rest of each second.
    spin(10);
    let waited = start.elapsed();
    say!(t, "it waits, but not for ever: {}", waited < Duration::from_secs(6));
    show!(t, kill, spinner, libc::SIGKILL);
    say!(t, "{}", wait(spinner));
}

fn idle_policy_race(t: &mut T) {
    one_cpu();
    let idler = fork(|| {
        must!(sched_setscheduler, 0, IDLE, p(&0i32));
        spin(20_000);
        0
    });
    sleep_ms(30);
    let start = Instant::now();
    for _ in 0..50 {
        sleep_ms(1);
    }
    say!(t, "{}", start.elapsed() < Duration::from_secs(2));
    must!(kill, idler, libc::SIGKILL);
    say!(t, "{}", wait(idler));
}

static LOCK: AtomicU32 = AtomicU32::new(0);
static SECOND: AtomicU32 = AtomicU32::new(0);
const LOCK_PI: i32 = 6 | 128;
const UNLOCK_PI: i32 = 7 | 128;

/// Takes a lock as the C library does: alone if it is free.
fn lock(word: &'static AtomicU32) -> i64 {
    let me = call!(gettid) as u32;
    match word.compare_exchange(0, me, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => 0,
        Err(_) => call!(futex, word.as_ptr() as u64, LOCK_PI, 0, 0),
    }
}

fn unlock(word: &'static AtomicU32) {
    let me = call!(gettid) as u32;
    if word.compare_exchange(me, 0, Ordering::SeqCst, Ordering::SeqCst).is_err() {
        must!(futex, word.as_ptr() as u64, UNLOCK_PI);
    }
}

/// The priority the kernel gives a thread now: field 18 of its `stat`.
fn priority_of(tid: i64) -> String {
    let stat = content(&format!("/proc/self/task/{tid}/stat"));
    stat.rsplit(')').next().unwrap_or("").split_whitespace().nth(15).unwrap_or("").to_owned()
}

fn inversion(t: &mut T) {
    one_cpu();
    must!(sched_setscheduler, 0, FIFO, p(&90i32));
    // The owner has a low priority; one of middle priority would keep it from running.
    let (tell, told) = std::sync::mpsc::channel();
    let owner = of_policy(FIFO, 10, move || {
        lock(&LOCK);
        tell.send(call!(gettid)).expect("somebody listens");
        while TURN.load(Ordering::SeqCst) == 0 {
            spin(1);
        }
        unlock(&LOCK);
    });
    let tid = told.recv().expect("the owner");
    say!(t, "{}", priority_of(tid));
    let waiter = of_policy(FIFO, 60, || {
        lock(&LOCK);
        unlock(&LOCK);
    });
    sleep_ms(40);
    say!(t, "{}", priority_of(tid));
    let middle = of_policy(FIFO, 30, || spin(100));
    TURN.store(1, Ordering::SeqCst);
    waiter.join().expect("the lock comes");
    say!(t, "the waiter is done, the middle one is done: {}", middle.is_finished());
    middle.join().expect("a thread");
    owner.join().expect("a thread");
}

fn deadlock_of_locks(t: &mut T) {
    lock(&LOCK);
    say!(t, "{}", result(lock(&LOCK)));
    let other = std::thread::spawn(|| {
        lock(&SECOND);
        TURN.store(1, Ordering::SeqCst);
        let got = lock(&LOCK);
        let both = result(got);
        if got == 0 {
            unlock(&LOCK);
        }
        unlock(&SECOND);
        both
    });
    while TURN.load(Ordering::SeqCst) == 0 {
        sleep_ms(1);
    }
    sleep_ms(50);
    say!(t, "{}", result(lock(&SECOND)));
    unlock(&LOCK);
    say!(t, "{}", other.join().expect("a thread"));
}

fn membarrier(t: &mut T) {
    say!(t, "{:#x}", call!(membarrier, 0, 0, 0) & 0x1ff);
    for command in [1, 2, 8, 32, 128] {
        say!(t, "{command} unregistered: {}", result(call!(membarrier, command, 0, 0)));
    }
    for command in [4, 16, 64, 256] {
        say!(t, "{command}: {}", result(call!(membarrier, command, 0, 0)));
    }
    for command in [1, 2, 8, 32, 128] {
        say!(t, "{command} registered: {}", result(call!(membarrier, command, 0, 0)));
        let in_child = child(|| i32::from(call!(membarrier, command, 0, 0) != 0));
        say!(t, "  in a child: {in_child}");
    }
    show!(t, membarrier, 128, 1, 0);
    show!(t, membarrier, 128, 1, 4000);
    show!(t, membarrier, 128, 2, 0);
    show!(t, membarrier, 8, 1, 0);
    show!(t, membarrier, 3, 0, 0);
    show!(t, membarrier, -1, 0, 0);
    show!(t, membarrier, 0, 1, 0);
}

fn realtime_limit(t: &mut T) {
    let ended = child(|| {
        must!(setrlimit, libc::RLIMIT_RTTIME, p(&[100_000u64, 500_000]));
        must!(sched_setscheduler, 0, FIFO, p(&1i32));
        spin(3000);
        0
    });
    say!(t, "{ended}");
    let ended = child(|| {
        dispose(libc::SIGXCPU, 1);
        must!(setrlimit, libc::RLIMIT_RTTIME, p(&[100_000u64, 500_000]));
        must!(sched_setscheduler, 0, FIFO, p(&1i32));
        // Sleeping begins the count anew.
        for _ in 0..12 {
            spin(60);
            sleep_ms(1);
        }
        spin(3000);
        0
    });
    say!(t, "{ended}");
}
