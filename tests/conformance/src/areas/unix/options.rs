//! Options of all sockets.

use super::*;

pub(super) fn options(t: &mut T) {
    let s = pair(STREAM);
    for name in [1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 14, 15, 16, 18, 19, 29, 30, 34, 35, 36, 38, 39, 40, 42, 43, 45] {
        say!(t, "{name}: {} set {} {}", get(s[0], name), set(s[0], name, 1), get(s[0], name));
    }
    for name in [7, 8, 32, 33] {
        say!(t, "{name}: {} {} {}", get(s[0], name), set(s[0], name, 20_000), get(s[0], name));
        say!(t, "{name}: {} {} {}", set(s[0], name, 0), set(s[0], name, -1), get(s[0], 7));
    }
    say!(t, "{}", get(s[0], libc::SO_LINGER));
    show!(t, setsockopt, s[0], SOL, libc::SO_LINGER, p(&[1i32, 5]), 8);
    say!(t, "{}", get(s[0], libc::SO_LINGER));
    for name in [20, 21, 66, 67] {
        say!(t, "{}", get(s[0], name));
        show!(t, setsockopt, s[0], SOL, name, p(&[3u64, 4000]), 16);
        say!(t, "{}", get(s[0], name));
        show!(t, setsockopt, s[0], SOL, name, p(&[0u64, 1_000_000]), 16);
        show!(t, setsockopt, s[0], SOL, name, p(&[0u64, 0]), 8);
    }
    // One of the two.
    say!(t, "{} {} {}", set(s[0], 29, 1), set(s[0], 35, 1), get(s[0], 29));
}

pub(super) fn option_errors(t: &mut T) {
    let s = pair(STREAM);
    show!(t, setsockopt, s[0], SOL, libc::SO_REUSEADDR, p(&1i32), 3);
    show!(t, setsockopt, s[0], SOL, libc::SO_REUSEADDR, p(&1i32), -1);
    show!(t, setsockopt, s[0], SOL, libc::SO_REUSEADDR, 8, 4);
    show!(t, setsockopt, s[0], SOL, 999, p(&1i32), 4);
    show!(t, setsockopt, s[0], SOL, 999, 8, 4);
    show!(t, setsockopt, s[0], SOL, libc::SO_LINGER, p(&1i32), 4);
    show!(t, setsockopt, s[0], 6, 1, p(&1i32), 4);
    let (mut value, mut len) = (0u64, 2i32);
    show!(t, getsockopt, s[0], SOL, libc::SO_TYPE, out(&mut value), out(&mut len));
    say!(t, "{value} {len}");
    len = -1;
    show!(t, getsockopt, s[0], SOL, libc::SO_TYPE, out(&mut value), out(&mut len));
    len = 8;
    show!(t, getsockopt, s[0], SOL, 999, out(&mut value), out(&mut len));
    show!(t, getsockopt, s[0], 6, 1, out(&mut value), out(&mut len));
    show!(t, getsockopt, s[0], SOL, libc::SO_TYPE, 8, out(&mut len));
    show!(t, getsockopt, 0, SOL, libc::SO_TYPE, out(&mut value), out(&mut len));
    let ended = as_nobody(|| {
        let t = &mut T::default();
        say!(t, "{} {}", set(s[0], libc::SO_DEBUG, 1), set(s[0], libc::SO_DEBUG, 0));
        say!(t, "{} {} {}", set(s[0], 12, 6), set(s[0], 12, 7), set(s[0], 12, -1));
        say!(t, "{} {} {}", set(s[0], 36, 1), set(s[0], 32, 1), set(s[0], 33, 1));
    });
    say!(t, "{ended}");
}
