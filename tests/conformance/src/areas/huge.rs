//! Large pages of anonymous memory, where they are asked for: whether there are some is a matter of the machine, so every
//! test asks by `madvise`.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::helpers::*;
use crate::sys::{peek, poke};
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    faulting: madvise,
    advice: madvise,
    in_part: madvise mprotect munmap,
    forked: fork,
    moved: mremap,
    collapse: madvise,
    collapse_errors: madvise,
    switched_off: prctl,
    copies_across: read write,
    locked: mlock munlock,
    #[race]
    parts_race: madvise fork mprotect,
];

const HUGE: u64 = 2 << 20;
const RW: i32 = libc::PROT_READ | libc::PROT_WRITE;
const PRIVATE: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS;

/// So many times 2 MiB, aligned to that, with nothing mapped behind them.
fn aligned(count: u64) -> u64 {
    let len = (count + 2) * HUGE;
    let at = must!(mmap, 0, len, RW, PRIVATE, -1, 0) as u64;
    let start = at.next_multiple_of(HUGE);
    must!(munmap, start + count * HUGE, at + len - start - count * HUGE);
    if start > at {
        must!(munmap, at, start - at);
    }
    start
}

/// The same, with large pages asked for and the first byte of each page written.
fn written(count: u64) -> u64 {
    let at = aligned(count);
    must!(madvise, at, count * HUGE, libc::MADV_HUGEPAGE);
    write_all(at, count * 512);
    at
}

/// Writes the first byte of each page: its number.
fn write_all(at: u64, pages: u64) {
    (0..pages).for_each(|i| poke(at + i * 4096, (i % 251) as u8));
}

/// Whether [`write_all`]'s bytes are there, and how many are not.
fn check(at: u64, pages: u64) -> String {
    match (0..pages).filter(|i| peek(at + i * 4096) != (i % 251) as u8).count() {
        0 => "as written".to_owned(),
        wrong => format!("{wrong} wrong"),
    }
}

/// A line of `/proc/self/smaps` about the mapping at the address: kilobytes.
fn smaps(at: u64, name: &str) -> String {
    let mut inside = false;
    for line in content("/proc/self/smaps").lines() {
        let range = line.split(' ').next().and_then(|word| word.split_once('-'));
        let number = |text| u64::from_str_radix(text, 16).ok();
        if let Some((Some(start), Some(end))) = range.map(|(a, b)| (number(a), number(b))) {
            inside = start <= at && at < end;
        } else if let Some(rest) = line.strip_prefix(name).filter(|_| inside) {
            return format!("{name}{}", rest.split_whitespace().collect::<Vec<_>>().join(" "));
        }
    }
    format!("no {name}")
}

fn large(at: u64) -> String {
    smaps(at, "AnonHugePages:")
}

fn faulting(t: &mut T) {
    let at = aligned(2);
    show!(t, madvise, at, 2 * HUGE, libc::MADV_HUGEPAGE);
    say!(t, "{} {}", large(at), smaps(at, "THPeligible:"));
    poke(at + 5 * 4096, 1);
    say!(t, "{} {} {}", large(at), smaps(at, "Rss:"), smaps(at, "Private_Dirty:"));
    let mut vector = [0u8; 1024];
    must!(mincore, at, 2 * HUGE, out(&mut vector));
    say!(t, "{} pages", vector.iter().filter(|v| **v & 1 != 0).count());
    say!(t, "{} {}", peek(at), peek(at + 5 * 4096));
    // The edges of a mapping that covers only a part of its 2 MiB.
    must!(munmap, at + HUGE, 4096);
    poke(at + HUGE + 4096, 1);
    say!(t, "{}", large(at + HUGE + 4096));
}

fn advice(t: &mut T) {
    let at = aligned(1);
    must!(madvise, at, HUGE, libc::MADV_NOHUGEPAGE);
    poke(at, 1);
    say!(t, "{} {}", large(at), smaps(at, "THPeligible:"));
    must!(madvise, at, HUGE, libc::MADV_HUGEPAGE);
    poke(at + 4096, 1);
    say!(t, "begun small: {}", large(at));
    let other = written(1);
    must!(madvise, other, HUGE, libc::MADV_NOHUGEPAGE);
    say!(t, "stays: {}", large(other));
    show!(t, madvise, at, 2 * HUGE, libc::MADV_HUGEPAGE);
    show!(t, madvise, at + 1, HUGE, libc::MADV_HUGEPAGE);
}

fn in_part(t: &mut T) {
    let at = written(3);
    say!(t, "{}", large(at));
    must!(mprotect, at + 7 * 4096, 4096, libc::PROT_READ);
    say!(t, "{} {}", large(at), check(at, 1536));
    say!(t, "{}", child(|| { poke(at + 7 * 4096, 1); 0 }));
    poke(at + 8 * 4096, 8);
    must!(munmap, at + HUGE + 9 * 4096, 8192);
    say!(t, "{} {}", check(at, 512 + 9), large(at + HUGE + 12 * 4096));
    must!(madvise, at + 2 * HUGE + 4096, 4096, libc::MADV_DONTNEED);
    say!(t, "{} {} {}", peek(at + 2 * HUGE), peek(at + 2 * HUGE + 4096), peek(at + 2 * HUGE + 8192));
    must!(madvise, at + 2 * HUGE, HUGE, libc::MADV_DONTNEED);
    say!(t, "{}", peek(at + 2 * HUGE + 8192));
    // All of it, and back.
    let whole = written(1);
    must!(mprotect, whole, HUGE, libc::PROT_NONE);
    must!(mprotect, whole, HUGE, libc::PROT_READ);
    say!(t, "{} {}", check(whole, 512), large(whole));
    must!(mprotect, whole, HUGE, RW);
    write_all(whole, 512);
    say!(t, "{} {}", check(whole, 512), large(whole));
}

fn forked(t: &mut T) {
    let at = written(2);
    let ended = child(|| {
        let before = check(at, 1024);
        poke(at + 9 * 4096, 99);
        let same = check(at + HUGE, 0) + &check(at, 9);
        i32::from(before != "as written" || peek(at + 9 * 4096) != 99 || same != "as writtenas written")
    });
    say!(t, "{ended} {} {}", check(at, 1024), large(at));
    write_all(at, 1024);
    say!(t, "the child is gone: {} {}", check(at, 1024), large(at));
    // The parent writes while the child lives.
    let (r, w) = pipe(0);
    let pid = fork(|| {
        must!(close, w);
        let mut byte = [0u8; 1];
        call!(read, r, out(&mut byte), 1);
        i32::from(check(at, 1024) != "as written")
    });
    (0..1024).for_each(|i| poke(at + i * 4096, 7));
    must!(close, w);
    say!(t, "{} {}", wait(pid), (0..1024).filter(|i| peek(at + i * 4096) != 7).count());
}

fn moved(t: &mut T) {
    let at = written(1);
    let target = aligned(3);
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    must!(mremap, at, HUGE, HUGE, flags, target + 4096);
    say!(t, "{}", check(target + 4096, 512));
    must!(mremap, target + 4096, HUGE, HUGE, flags, at);
    say!(t, "{}", check(at, 512));
    let whole = written(1);
    must!(mremap, whole, HUGE, HUGE, flags, target + HUGE);
    say!(t, "{}", check(target + HUGE, 512));
    must!(mremap, target + HUGE, HUGE, 4096, 0);
    say!(t, "{}", check(target + HUGE, 1));
    let kept = written(1);
    let new = must!(mremap, kept, HUGE, HUGE, libc::MREMAP_MAYMOVE | libc::MREMAP_DONTUNMAP) as u64;
    say!(t, "{} old {}", check(new, 512), peek(kept + 4096));
}

const MADV_COLLAPSE: i32 = 25;

fn collapse(t: &mut T) {
    let at = aligned(2);
    must!(madvise, at, 2 * HUGE, libc::MADV_NOHUGEPAGE);
    write_all(at, 1024);
    show!(t, madvise, at, HUGE, MADV_COLLAPSE);
    must!(madvise, at, 2 * HUGE, libc::MADV_HUGEPAGE);
    show!(t, madvise, at, HUGE, MADV_COLLAPSE);
    say!(t, "{} {}", large(at), check(at, 1024));
    show!(t, madvise, at, 2 * HUGE, MADV_COLLAPSE);
    say!(t, "{} {}", large(at), check(at, 1024));
    show!(t, madvise, at, 2 * HUGE, MADV_COLLAPSE);
    must!(madvise, at + 4096, 4096, libc::MADV_DONTNEED);
    say!(t, "{}", large(at));
    show!(t, madvise, at, HUGE, MADV_COLLAPSE);
    say!(t, "{} {} {}", large(at), peek(at + 4096), check(at + HUGE, 0));
}

fn collapse_errors(t: &mut T) {
    let at = aligned(2);
    show!(t, madvise, at, HUGE, MADV_COLLAPSE);
    write_all(at, 1);
    show!(t, madvise, at + 4096, 8192, MADV_COLLAPSE);
    show!(t, madvise, at + 1, HUGE, MADV_COLLAPSE);
    show!(t, madvise, at, 0, MADV_COLLAPSE);
    show!(t, madvise, at, 3 * HUGE, MADV_COLLAPSE);
    show!(t, madvise, pages(3), 8192, MADV_COLLAPSE);
}

fn switched_off(t: &mut T) {
    show!(t, prctl, libc::PR_GET_THP_DISABLE, 0, 0, 0, 0);
    show!(t, prctl, libc::PR_GET_THP_DISABLE, 1, 0, 0, 0);
    show!(t, prctl, libc::PR_SET_THP_DISABLE, 1, 1, 0, 0);
    show!(t, prctl, libc::PR_SET_THP_DISABLE, 1, 0, 0, 0);
    show!(t, prctl, libc::PR_GET_THP_DISABLE, 0, 0, 0, 0);
    let at = written(1);
    say!(t, "{} {}", large(at), smaps(at, "THPeligible:"));
    show!(t, madvise, at, HUGE, MADV_COLLAPSE);
    say!(t, "{}", child(|| call!(prctl, libc::PR_GET_THP_DISABLE, 0, 0, 0, 0) as i32));
    show!(t, prctl, libc::PR_SET_THP_DISABLE, 0, 0, 0, 0);
    show!(t, prctl, libc::PR_GET_THP_DISABLE, 0, 0, 0, 0);
    say!(t, "{}", large(written(1)));
}

fn copies_across(t: &mut T) {
    let at = aligned(2);
    must!(madvise, at, HUGE, libc::MADV_HUGEPAGE);
    must!(madvise, at + HUGE, HUGE, libc::MADV_NOHUGEPAGE);
    let (r, w) = pipe(libc::O_NONBLOCK);
    let text: Vec<u8> = (0..8192u32).map(|i| (i % 253) as u8).collect();
    let edge = at + HUGE - 4096;
    must!(write, w, p(&text[..]), 8192);
    show!(t, read, r, edge, 8192);
    say!(t, "{}", (0..8192).filter(|i| peek(edge + i) != text[*i as usize]).count());
    show!(t, write, w, edge, 8192);
    let mut back = vec![0u8; 8192];
    must!(read, r, out(&mut back[..]), 8192);
    say!(t, "{}", back == text);
    let end = at + 2 * HUGE - 10;
    show!(t, write, w, end, 20);
    must!(write, w, p(&text[..]), 10);
    show!(t, read, r, end, 20);
    show!(t, read, r, at + 2 * HUGE, 1);
}

fn locked(t: &mut T) {
    let at = aligned(2);
    must!(madvise, at, 2 * HUGE, libc::MADV_HUGEPAGE);
    show!(t, mlock, at, 2 * HUGE);
    say!(t, "{} {}", large(at), smaps(at, "Locked:"));
    show!(t, munlock, at + 4096, 4096);
    say!(t, "{} {}", smaps(at, "Locked:"), smaps(at + 8192, "Locked:"));
    show!(t, madvise, at, 4096, libc::MADV_DONTNEED);
    show!(t, madvise, at + 4096, 4096, libc::MADV_DONTNEED);
}

/// Threads that each have every third page of the same large pages, one of which takes its own away all the time, while
/// children come and go: nobody sees another's writes, or loses one of its own.
fn parts_race(t: &mut T) {
    const PAGES: u64 = 2 * 512;
    let at = written(2);
    let wrong = AtomicU32::new(0);
    let wrong = &wrong;
    let work = move |who: u64| {
        let mut expected = vec![0u8; PAGES as usize];
        (who..PAGES).step_by(3).for_each(|i| expected[i as usize] = (i % 251) as u8);
        for round in 0..6u64 {
            for i in (who..PAGES).step_by(3) {
                if peek(at + i * 4096) != expected[i as usize] {
                    wrong.fetch_add(1, Ordering::Relaxed);
                }
                expected[i as usize] = (round * 7 + i) as u8;
                poke(at + i * 4096, (round * 7 + i) as u8);
                match who {
                    1 if i % 16 == 1 => {
                        must!(madvise, at + i * 4096, 4096, libc::MADV_DONTNEED);
                        expected[i as usize] = 0;
                    }
                    2 if i % 32 == 2 => {
                        must!(mprotect, at + i * 4096, 4096, libc::PROT_READ);
                        must!(mprotect, at + i * 4096, 4096, RW);
                    }
                    _ => {}
                }
            }
            if who == 2 {
                call!(madvise, at, 2 * HUGE, MADV_COLLAPSE);
            }
        }
    };
    let mut ends = Vec::new();
    std::thread::scope(|scope| {
        (0..3).for_each(|who| drop(scope.spawn(move || work(who))));
        for _ in 0..4 {
            ends.push(child(|| {
                (0..PAGES).for_each(|i| poke(at + i * 4096, 255));
                (0..PAGES).filter(|i| peek(at + i * 4096) != 255).count() as i32
            }));
        }
    });
    say!(t, "{} wrong; {}", wrong.load(Ordering::Relaxed), ends.join(", "));
}
