//! Calls that wait, interrupted: by a signal whose handler asks for a restart and by one whose handler does not, and by
//! being stopped and continued.

use std::sync::atomic::Ordering;

use crate::helpers::*;
use crate::sys::shared;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    read_pipe: read,
    write_pipe: write,
    readv_pipe: readv,
    read_eventfd: read eventfd2,
    read_timerfd: read timerfd_create,
    read_timerless_socket: read recvfrom,
    read_socket_with_timeout: recvfrom setsockopt,
    receive_message: recvmsg,
    send_stream: sendto,
    accept_connection: accept4,
    open_fifo: openat,
    sleep: nanosleep,
    clock_sleep: clock_nanosleep,
    clock_sleep_until: clock_nanosleep,
    poll_pipe: poll,
    ppoll_pipe: ppoll,
    select_pipe: select,
    pselect_pipe: pselect6,
    epoll: epoll_wait,
    epoll_masked: epoll_pwait,
    child: wait4,
    child_by_id: waitid,
    futex_wait: futex,
    futex_wait_timed: futex,
    pauses: pause,
    suspends: rt_sigsuspend,
    waits_for_signal: rt_sigtimedwait,
    file_lock: flock,
    record_lock: fcntl,
    open_record_lock: fcntl,
    read_terminal: read,
    read_signalfd: read signalfd4,
    read_inotify: read inotify_init1,
    semaphore: semop,
    message_receive: msgrcv,
    queue_receive: mq_timedreceive,
];

/// Runs `block` in children and interrupts them.
fn interrupt(t: &mut T, block: impl Fn() -> i64) {
    for (name, flags) in [("handler", 0), ("restarting handler", libc::SA_RESTART), ("stop", -1), ("ignored", -2)] {
        let words = shared();
        let pid = fork(|| {
            match flags {
                -2 => dispose(libc::SIGUSR1, 1),
                -1 => {}
                _ => {
                    handle(libc::SIGUSR1, count, flags, 0);
                    handle(libc::SIGUSR2, count, flags, 0);
                }
            }
            let result = block();
            words[1].store(result as u32, Ordering::SeqCst);
            words[0].store(1, Ordering::SeqCst);
            0
        });
        asleep(pid);
        if flags == -1 {
            must!(kill, pid, libc::SIGSTOP);
            must!(wait4, pid, 0, libc::WUNTRACED, 0);
            must!(kill, pid, libc::SIGCONT);
        } else {
            must!(kill, pid, libc::SIGUSR1);
        }
        let mut said = "goes on".to_owned();
        for _ in 0..30 {
            if words[0].load(Ordering::SeqCst) == 1 {
                said = result(i64::from(words[1].load(Ordering::SeqCst) as i32));
                break;
            }
            sleep_ms(2);
        }
        say!(t, "{name}: {said}");
        call!(kill, pid, libc::SIGKILL);
        wait(pid);
    }
}

fn read_pipe(t: &mut T) {
    let (r, _w) = pipe(0);
    interrupt(t, || call!(read, r, out(&mut [0u8; 8]), 8));
}

fn write_pipe(t: &mut T) {
    let (_r, w) = pipe(libc::O_NONBLOCK);
    while call!(write, w, p(&[0u8; 4096]), 4096) > 0 {}
    must!(fcntl, w, libc::F_SETFL, 0);
    interrupt(t, || call!(write, w, p(&[0u8; 8]), 8));
    let (r, w) = pipe(0);
    say!(t, "partly:");
    interrupt(t, || call!(write, w, p(&[0u8; 100_000]), 100_000));
    must!(close, r);
}

fn readv_pipe(t: &mut T) {
    let (r, _w) = pipe(0);
    interrupt(t, || {
        let mut buffer = [0u8; 8];
        call!(readv, r, p(&[out(&mut buffer), 8]), 1)
    });
}

fn read_eventfd(t: &mut T) {
    let fd = must!(eventfd2, 0, 0);
    interrupt(t, || call!(read, fd, out(&mut [0u64; 1]), 8));
}

fn read_timerfd(t: &mut T) {
    let fd = must!(timerfd_create, 1, 0);
    interrupt(t, || call!(read, fd, out(&mut [0u64; 1]), 8));
}

fn sockets(kind: i32) -> [i32; 2] {
    let mut fds = [0i32; 2];
    must!(socketpair, libc::AF_UNIX, kind, 0, out(&mut fds));
    fds
}

fn read_timerless_socket(t: &mut T) {
    let [a, _b] = sockets(libc::SOCK_STREAM);
    interrupt(t, || call!(read, a, out(&mut [0u8; 8]), 8));
}

fn read_socket_with_timeout(t: &mut T) {
    let [a, _b] = sockets(libc::SOCK_STREAM);
    must!(setsockopt, a, libc::SOL_SOCKET, libc::SO_RCVTIMEO, p(&[10u64, 0]), 16);
    interrupt(t, || call!(recvfrom, a, out(&mut [0u8; 8]), 8, 0, 0, 0));
}

fn receive_message(t: &mut T) {
    let [a, _b] = sockets(libc::SOCK_DGRAM);
    interrupt(t, || {
        let mut buffer = [0u8; 8];
        let vector = [out(&mut buffer), 8];
        let mut message = [0, 0, p(&vector), 1, 0, 0, 0];
        call!(recvmsg, a, out(&mut message), 0)
    });
}

fn send_stream(t: &mut T) {
    let [a, _b] = sockets(libc::SOCK_STREAM);
    while call!(sendto, a, p(&[0u8; 4096]), 4096, libc::MSG_DONTWAIT, 0, 0) > 0 {}
    while call!(sendto, a, p(&[0u8; 16]), 16, libc::MSG_DONTWAIT, 0, 0) > 0 {}
    interrupt(t, || call!(sendto, a, p(&[0u8; 4096]), 4096, 0, 0, 0));
}

fn accept_connection(t: &mut T) {
    let listener = must!(socket, libc::AF_UNIX, libc::SOCK_STREAM, 0);
    must!(bind, listener, p(b"\x01\0s\0"), 4);
    must!(listen, listener, 1);
    interrupt(t, || call!(accept4, listener, 0, 0, 0));
}

fn open_fifo(t: &mut T) {
    must!(mknod, c"f", libc::S_IFIFO | 0o644, 0);
    interrupt(t, || call!(openat, AT_FDCWD, c"f", O_RDONLY, 0));
}

fn sleep(t: &mut T) {
    interrupt(t, || call!(nanosleep, p(&[10u64, 0]), 0));
}

fn clock_sleep(t: &mut T) {
    interrupt(t, || call!(clock_nanosleep, 1, 0, p(&[10u64, 0]), out(&mut [0u64; 2])));
}

fn clock_sleep_until(t: &mut T) {
    interrupt(t, || call!(clock_nanosleep, 1, 1, p(&[1u64 << 33, 0]), 0));
}

fn poll_pipe(t: &mut T) {
    let (r, _w) = pipe(0);
    interrupt(t, || call!(poll, out(&mut [r, 1]), 1, -1));
    interrupt(t, || call!(poll, out(&mut [r, 1]), 1, 10_000));
}

fn ppoll_pipe(t: &mut T) {
    let (r, _w) = pipe(0);
    interrupt(t, || call!(ppoll, out(&mut [r, 1]), 1, 0, p(&bit(libc::SIGUSR2)), 8));
}

fn select_pipe(t: &mut T) {
    let (r, _w) = pipe(0);
    interrupt(t, || call!(select, r + 1, out(&mut [1u64 << r; 16]), 0, 0, 0));
    interrupt(t, || call!(select, r + 1, out(&mut [1u64 << r; 16]), 0, 0, out(&mut [10u64, 0])));
}

fn pselect_pipe(t: &mut T) {
    let (r, _w) = pipe(0);
    interrupt(t, || call!(pselect6, r + 1, out(&mut [1u64 << r; 16]), 0, 0, 0, 0));
}

fn epoll(t: &mut T) {
    let fd = must!(epoll_create1, 0);
    interrupt(t, || call!(epoll_wait, fd, out(&mut [0u64; 8]), 4, -1));
    interrupt(t, || call!(epoll_wait, fd, out(&mut [0u64; 8]), 4, 10_000));
}

fn epoll_masked(t: &mut T) {
    let fd = must!(epoll_create1, 0);
    interrupt(t, || call!(epoll_pwait, fd, out(&mut [0u64; 8]), 4, -1, p(&bit(libc::SIGUSR1)), 8));
}

fn sleeper() -> i64 {
    fork(|| {
        sleep_ms(3000);
        0
    })
}

fn child(t: &mut T) {
    interrupt(t, || {
        let pid = sleeper();
        let result = call!(wait4, pid, 0, 0, 0);
        call!(kill, pid, libc::SIGKILL);
        result
    });
}

fn child_by_id(t: &mut T) {
    interrupt(t, || {
        let pid = sleeper();
        let result = call!(waitid, libc::P_ALL, 0, 0, libc::WEXITED, 0);
        call!(kill, pid, libc::SIGKILL);
        result
    });
}

fn futex_wait(t: &mut T) {
    let word = 7u32;
    interrupt(t, || call!(futex, p(&word), 0, 7, 0));
    say!(t, "until:");
    interrupt(t, || call!(futex, p(&word), 9, 7, p(&[1u64 << 33, 0]), 0, -1));
}

fn futex_wait_timed(t: &mut T) {
    let word = 7u32;
    interrupt(t, || call!(futex, p(&word), 0, 7, p(&[10u64, 0])));
}

fn pauses(t: &mut T) {
    interrupt(t, || call!(pause));
}

fn suspends(t: &mut T) {
    interrupt(t, || call!(rt_sigsuspend, p(&0u64), 8));
    interrupt(t, || call!(rt_sigsuspend, p(&bit(libc::SIGUSR1)), 8));
}

fn waits_for_signal(t: &mut T) {
    interrupt(t, || call!(rt_sigtimedwait, p(&bit(libc::SIGUSR2)), 0, 0, 8));
}

fn file_lock(t: &mut T) {
    must!(flock, open("f", O_CREAT | O_RDWR), libc::LOCK_EX);
    interrupt(t, || call!(flock, open("f", O_RDWR), libc::LOCK_EX));
}

/// `struct flock` for the whole file.
fn whole(kind: i16) -> [u64; 4] {
    [kind as u64, 0, 0, 0]
}

fn record_lock(t: &mut T) {
    must!(fcntl, open("f", O_CREAT | O_RDWR), libc::F_SETLK, p(&whole(1)));
    interrupt(t, || call!(fcntl, open("f", O_RDWR), libc::F_SETLKW, p(&whole(1))));
}

fn open_record_lock(t: &mut T) {
    must!(fcntl, open("f", O_CREAT | O_RDWR), libc::F_OFD_SETLK, p(&whole(1)));
    interrupt(t, || call!(fcntl, open("f", O_RDWR), libc::F_OFD_SETLKW, p(&whole(1))));
}

fn read_terminal(t: &mut T) {
    let master = open("/dev/ptmx", O_RDWR | libc::O_NOCTTY);
    interrupt(t, || call!(read, master, out(&mut [0u8; 8]), 8));
}

fn read_signalfd(t: &mut T) {
    let fd = must!(signalfd4, -1, p(&bit(libc::SIGWINCH)), 8, 0);
    interrupt(t, || call!(read, fd, out(&mut [0u8; 128]), 128));
}

fn read_inotify(t: &mut T) {
    let fd = must!(inotify_init1, 0);
    interrupt(t, || call!(read, fd, out(&mut [0u8; 128]), 128));
}

fn semaphore(t: &mut T) {
    let id = must!(semget, 0, 1, 0o600);
    interrupt(t, || call!(semop, id, p(&[0u16, 0xffff, 0]), 1));
    must!(semctl, id, 0, 0, 0);
}

fn message_receive(t: &mut T) {
    let id = must!(msgget, 0, 0o600);
    interrupt(t, || call!(msgrcv, id, out(&mut [0u64; 8]), 8, 0, 0));
    must!(msgctl, id, 0, 0);
}

fn queue_receive(t: &mut T) {
    let attributes = [0u64, 4, 64, 0, 0, 0, 0, 0];
    let queue = must!(mq_open, c"conformance", O_CREAT | O_RDWR, 0o600, p(&attributes));
    must!(mq_unlink, c"conformance");
    interrupt(t, || call!(mq_timedreceive, queue, out(&mut [0u8; 64]), 64, 0, 0));
}
