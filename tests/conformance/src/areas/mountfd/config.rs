//! fsconfig: parameters, phases, what went wrong.

use super::*;

pub(super) fn config_errors(t: &mut T) {
    prepare();
    let f = must!(fsopen, c"tmpfs", 0);
    let value = p(c"1k".to_bytes_with_nul());
    let long = c(&"x".repeat(300));
    show!(t, fsconfig, -1, SET_FLAG, c"ro", 0, 0);
    show!(t, fsconfig, 99, SET_FLAG, c"ro", 0, 0);
    show!(t, fsconfig, open(".", O_RDONLY), SET_FLAG, c"ro", 0, 0);
    show!(t, fsconfig, f, 8, c"ro", 0, 0);
    show!(t, fsconfig, f, -1, 0, 0, 0);
    show!(t, fsconfig, f, SET_FLAG, 0, 0, 0);
    show!(t, fsconfig, f, SET_FLAG, c"ro", value, 0);
    show!(t, fsconfig, f, SET_FLAG, c"ro", 0, 1);
    show!(t, fsconfig, f, SET_FLAG, c"", 0, 0);
    show!(t, fsconfig, f, SET_STRING, c"size", 0, 0);
    show!(t, fsconfig, f, SET_STRING, c"size", value, 1);
    show!(t, fsconfig, f, SET_STRING, long.as_c_str(), value, 0);
    show!(t, fsconfig, f, SET_STRING, c"size", long.as_c_str(), 0);
    show!(t, fsconfig, f, SET_BINARY, c"size", value, 0);
    show!(t, fsconfig, f, SET_BINARY, c"size", value, -1);
    show!(t, fsconfig, f, SET_BINARY, c"size", value, (1 << 20) + 1);
    show!(t, fsconfig, f, SET_PATH, c"size", c".", -1);
    show!(t, fsconfig, f, SET_FD, c"size", value, 0);
    show!(t, fsconfig, f, SET_FD, c"size", 0, -1);
    show!(t, fsconfig, f, SET_FD, c"size", 0, 99);
    show!(t, fsconfig, f, CREATE, c"size", 0, 0);
    show!(t, fsconfig, f, CREATE, 0, 0, 1);
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    show!(t, fsconfig, f, SET_STRING, c"what", value, 0);
    show!(t, fsconfig, f, SET_STRING, c"size", c"x", 0);
    show!(t, fsconfig, f, SET_STRING, c"size", c"1k,mode=0", 0);
    // None of that spoilt it.
    show!(t, fsconfig, f, SET_STRING, c"size", value, 0);
    show!(t, fsconfig, f, CREATE, 0, 0, 0);
}

pub(super) fn config_phases(t: &mut T) {
    prepare();
    let f = must!(fsopen, c"tmpfs", 0);
    show!(t, fsmount, f, 0, 0);
    show!(t, fsconfig, f, CREATE, 0, 0, 0);
    show!(t, fsconfig, f, CREATE, 0, 0, 0);
    show!(t, fsconfig, f, SET_FLAG, c"ro", 0, 0);
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    let m = ok!(t, fsmount, f, 0, 0);
    show!(t, fsmount, f, 0, 0);
    show!(t, fsconfig, f, CREATE, 0, 0, 0);
    say!(t, "{}", put(m, "a"));
    // It goes on as if it had been picked.
    say!(t, "{}", config(f, SET_STRING, "size", "8k"));
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    say!(t, "{}", shown());
    say!(t, "{}", config(f, SET_STRING, "size", "12k"));
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    say!(t, "{}", shown());
    std::fs::write("a/f", [b'x'; 9000]).unwrap();
    say!(t, "{}", config(f, SET_STRING, "size", "4k"));
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    say!(t, "failed: {}", config(f, SET_STRING, "size", "16k"));
    show!(t, fsconfig, f, RECONFIGURE, 0, 0, 0);
    show!(t, fsmount, f, 0, 0);
}

/// Options that are not strings, for a file system that looks at each and for one that does not.
pub(super) fn config_types(t: &mut T) {
    prepare();
    for kind in [c"tmpfs", c"devpts"] {
        let f = must!(fsopen, kind, 0);
        say!(t, "{}", kind.to_str().unwrap());
        show!(t, fsconfig, f, SET_BINARY, c"mode", p(b"700"), 3);
        show!(t, fsconfig, f, SET_PATH, c"mode", c".", AT_FDCWD);
        show!(t, fsconfig, f, SET_PATH, c"mode", c"", AT_FDCWD);
        show!(t, fsconfig, f, SET_PATH_EMPTY, c"mode", c"", AT_FDCWD);
        show!(t, fsconfig, f, SET_FD, c"mode", 0, 0);
        show!(t, fsconfig, f, SET_FLAG, c"mode", 0, 0);
        show!(t, fsconfig, f, SET_STRING, c"source", c"x", 0);
        show!(t, fsconfig, f, SET_STRING, c"source", c"x", 0);
        show!(t, fsconfig, f, SET_STRING, c"ro", c"x", 0);
    }
    for key in ["ro", "rw", "sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "nosuid", "noatime"] {
        let f = must!(fsopen, c"tmpfs", 0);
        say!(t, "{key}: {}", config(f, SET_FLAG, key, ""));
        must!(close, f);
    }
}

pub(super) fn complaints(t: &mut T) {
    prepare();
    let f = must!(fsopen, c"tmpfs", 0);
    show!(t, read, f, out(&mut [0u8; 100]), 100);
    config(f, SET_STRING, "what", "1");
    show!(t, read, f, out(&mut [0u8; 4]), 4);
    say!(t, "{:?}", read(f));
    config(f, SET_STRING, "what", "1");
    config(f, SET_FLAG, "size", "");
    config(f, SET_STRING, "size", "x");
    config(f, SET_STRING, "uid", "x");
    config(f, SET_STRING, "source", "x");
    config(f, SET_STRING, "source", "x");
    config(f, SET_FLAG, "", "");
    for _ in 0..7 {
        say!(t, "{:?}", read(f));
    }
    for i in 0..12 {
        config(f, SET_STRING, &format!("what{i}"), "1");
    }
    say!(t, "{:?}", read(f));
    show!(t, write, f, p(b"x"), 1);
    show!(t, lseek, f, 0, 0);
}
