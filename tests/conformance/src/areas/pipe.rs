//! Pipes and fifos.

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    basics: pipe pipe2 read write,
    no_reader: write,
    capacity: write fcntl,
    nonblocking: pipe2 read write,
    polls: poll,
    #[race]
    atomic_writes_race: write,
    fifo_open: openat mknod,
    bad_flags: pipe2,
    ends: read write lseek ftruncate,
];

fn basics(t: &mut T) {
    let (r, w) = pipe(0);
    say!(t, "{} {:?}", write(w, "hello"), read(r));
    must!(close, w);
    say!(t, "{:?}", read(r));
    let mut fds = [0i32; 2];
    show!(t, pipe, out(&mut fds));
    show!(t, fcntl, fds[0], libc::F_GETFL);
    show!(t, fcntl, fds[1], libc::F_GETFL);
    let (r, w) = pipe(libc::O_CLOEXEC | libc::O_NONBLOCK);
    show!(t, fcntl, r, libc::F_GETFL);
    show!(t, fcntl, w, libc::F_GETFD);
    show!(t, write, w, 0, 0);
    show!(t, read, r, 0, 0);
}

fn no_reader(t: &mut T) {
    let (r, w) = pipe(0);
    must!(close, r);
    let ended = child(|| write(w, "x") as i32);
    say!(t, "{ended}");
    dispose(libc::SIGPIPE, 1);
    say!(t, "{}", result(write(w, "x")));
    say!(t, "empty: {}", result(write(w, "")));
}

fn capacity(t: &mut T) {
    let (r, w) = pipe(libc::O_NONBLOCK);
    show!(t, fcntl, w, libc::F_GETPIPE_SZ);
    let mut total = 0;
    while let count @ 1.. = call!(write, w, out(&mut [0u8; 4096]), 4096) {
        total += count;
    }
    say!(t, "holds {total}");
    show!(t, fcntl, w, libc::F_SETPIPE_SZ, 4096);
    show!(t, fcntl, w, libc::F_SETPIPE_SZ, 100_000);
    show!(t, fcntl, r, libc::F_GETPIPE_SZ);
    show!(t, fcntl, w, libc::F_SETPIPE_SZ, 0);
    show!(t, fcntl, w, libc::F_SETPIPE_SZ, 1 << 30);
    show!(t, fcntl, 0, libc::F_GETPIPE_SZ);
    let mut waiting = 0i32;
    show!(t, ioctl, r, libc::FIONREAD, out(&mut waiting));
    say!(t, "{waiting} waiting");
    show!(t, write, w, out(&mut [0u8; 100_000]), 100_000);
}

fn nonblocking(t: &mut T) {
    let (r, w) = pipe(libc::O_NONBLOCK);
    show!(t, read, r, out(&mut [0u8; 8]), 8);
    while call!(write, w, out(&mut [0u8; 4096]), 4096) > 0 {}
    show!(t, write, w, out(&mut [0u8; 1]), 1);
    let mut buffer = [0u8; 4096];
    must!(read, r, out(&mut buffer), 100);
    show!(t, write, w, out(&mut [0u8; 4096]), 4096);
    show!(t, write, w, out(&mut [0u8; 100]), 100);
    must!(read, r, out(&mut buffer), 4096);
    show!(t, write, w, out(&mut [0u8; 5000]), 5000);
}

fn polls(t: &mut T) {
    let (r, w) = pipe(libc::O_NONBLOCK);
    say!(t, "empty: {} {}", poll(r, 1, 0), poll(w, 4, 0));
    write(w, "x");
    say!(t, "one byte: {} {}", poll(r, 1, 0), poll(w, 4, 0));
    while call!(write, w, out(&mut [0u8; 4096]), 4096) > 0 {}
    say!(t, "full: {} {}", poll(r, 1, 0), poll(w, 4, 0));
    read(r);
    say!(t, "room: {} {}", poll(r, 1, 0), poll(w, 4, 0));
    must!(close, r);
    say!(t, "no reader: {}", poll(w, 4, 0));
    let (r, w) = pipe(0);
    write(w, "x");
    must!(close, w);
    say!(t, "no writer: {}", poll(r, 1, 0));
    read(r);
    say!(t, "no writer, empty: {}", poll(r, 1, 0));
    say!(t, "closed: {}", poll(99, 1, 0));
}

/// Writes of at most `PIPE_BUF` bytes are never torn, however many write.
fn atomic_writes_race(t: &mut T) {
    let (r, w) = pipe(0);
    let children: Vec<i64> = (0..4u8)
        .map(|i| {
            fork(|| {
                let block = [b'a' + i; 3000];
                for _ in 0..50 {
                    must!(write, w, p(&block), block.len());
                }
                0
            })
        })
        .collect();
    must!(close, w);
    let (mut torn, mut blocks) = (0, 0);
    loop {
        let mut block = [0u8; 3000];
        let mut have = 0;
        while have < block.len() {
            let count = must!(read, r, out(&mut block[have..]), block.len() - have);
            if count == 0 {
                break;
            }
            have += count as usize;
        }
        if have == 0 {
            break;
        }
        blocks += 1;
        torn += usize::from(block[..have].iter().any(|byte| *byte != block[0]));
    }
    say!(t, "{blocks} blocks, {torn} torn");
    for pid in children {
        say!(t, "{}", wait(pid));
    }
}

fn fifo_open(t: &mut T) {
    show!(t, mknod, c"f", libc::S_IFIFO | 0o644, 0);
    show!(t, openat, AT_FDCWD, c"f", O_WRONLY | libc::O_NONBLOCK, 0);
    let r = show!(t, openat, AT_FDCWD, c"f", O_RDONLY | libc::O_NONBLOCK, 0);
    say!(t, "no writer yet: {:?}", read(r));
    let w = show!(t, openat, AT_FDCWD, c"f", O_WRONLY | libc::O_NONBLOCK, 0);
    say!(t, "{:?}", read(r));
    say!(t, "{} {:?}", write(w, "text"), read(r));
    must!(close, w);
    say!(t, "{:?} {}", read(r), poll(r as i32, 1, 0));
    must!(close, r);
    let writer = fork(|| {
        let w = open("f", O_WRONLY);
        write(w, "met") as i32
    });
    let r = open("f", O_RDONLY);
    say!(t, "{:?} {}", read(r), wait(writer));
    show!(t, openat, AT_FDCWD, c"f", O_RDWR, 0);
    show!(t, lseek, r, 0, 0);
}

fn bad_flags(t: &mut T) {
    for flags in [1, 2, 0o100, libc::O_APPEND, libc::O_DIRECT, -1] {
        say!(t, "{flags:o}: {}", result(call!(pipe2, out(&mut [0i32; 2]), flags)));
    }
    show!(t, pipe2, 0, 0);
    show!(t, pipe2, hole(), 0);
    show!(t, pipe2, hole() - 4, 0);
    show!(t, dup, 0);
}

fn ends(t: &mut T) {
    let (r, w) = pipe(0);
    show!(t, read, w, out(&mut [0u8; 8]), 8);
    show!(t, write, r, out(&mut [0u8; 8]), 8);
    show!(t, lseek, r, 0, 0);
    show!(t, pread64, r, out(&mut [0u8; 8]), 8, 0);
    show!(t, pwrite64, w, out(&mut [0u8; 8]), 8, 0);
    show!(t, ftruncate, w, 0);
    show!(t, fsync, w);
    show!(t, mmap, 0, 4096, 1, libc::MAP_PRIVATE, r, 0);
    show!(t, fallocate, w, 0, 0, 4096);
    show!(t, getdents64, r, out(&mut [0u8; 100]), 100);
}
