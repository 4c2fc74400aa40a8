//! Pseudo-terminals: the line discipline, window sizes, sessions and their foreground, hanging up.

use std::sync::atomic::Ordering;

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    pairs: openat ioctl,
    attributes: ioctl,
    lines: read write,
    editing: read write,
    echoing: write,
    raw: read write,
    counts_and_times: read ioctl,
    signals_from_keys: write,
    typing_for_others: ioctl,
    output: write ioctl,
    input_flags: write ioctl,
    full: write poll,
    window: ioctl,
    flow: ioctl write,
    flushing: ioctl,
    packet_mode: ioctl read,
    polls: poll,
    sessions: setsid ioctl,
    foreground: ioctl,
    background: read write ioctl,
    slave_closed: read write close,
    master_closed: read write close,
    hangup_signals: close,
    leader_ends: setsid,
    vhangup_of_terminal: vhangup,
    exclusive: ioctl openat,
    dev_tty: openat,
    modes: fstat fchmod,
];

const NOCTTY: i32 = libc::O_NOCTTY;
const TCGETS: i32 = 0x5401;
const TCSETS: i32 = 0x5402;
const TCSETSW: i32 = 0x5403;
const TCSETSF: i32 = 0x5404;
const TIOCINQ: i32 = 0x541b;
const TIOCOUTQ: i32 = 0x5411;

/// The kernel's `struct termios`.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Debug)]
struct Termios {
    input: u32,
    output: u32,
    control: u32,
    local: u32,
    line: u8,
    keys: [u8; 19],
}

/// Master and slave of a new terminal, nobody's.
fn terminal() -> (i32, i32) {
    let master = open("/dev/ptmx", O_RDWR | NOCTTY | libc::O_NONBLOCK) as i32;
    must!(ioctl, master, libc::TIOCSPTLCK, p(&0i32));
    (master, slave(master))
}

fn slave(master: i32) -> i32 {
    must!(ioctl, master, libc::TIOCGPTPEER, O_RDWR | NOCTTY | libc::O_NONBLOCK) as i32
}

fn get(fd: i32) -> Termios {
    let mut termios = Termios::default();
    must!(ioctl, fd, TCGETS, out(&mut termios));
    termios
}

fn set(fd: i32, change: impl FnOnce(&mut Termios)) {
    let mut termios = get(fd);
    change(&mut termios);
    must!(ioctl, fd, TCSETS, p(&termios));
}

/// Writes, and lets it arrive: on Linux a worker of the kernel takes it to the other end.
fn write(fd: i32, text: &str) -> i64 {
    let result = crate::helpers::write(fd, text);
    sleep_ms(8);
    result
}

/// What can be read, with control characters visible.
fn seen(fd: i32) -> String {
    let text = read(fd);
    format!("{text:?}")
}

fn typed(master: i32, text: &str) -> String {
    result(write(master, text))
}

fn pairs(t: &mut T) {
    let master = open("/dev/ptmx", O_RDWR | NOCTTY) as i32;
    let mut number = -1i32;
    show!(t, ioctl, master, libc::TIOCGPTN, out(&mut number));
    let path = format!("/dev/pts/{number}");
    let mut locked = 7i32;
    must!(ioctl, master, libc::TIOCGPTLCK, out(&mut locked));
    say!(t, "locked {locked}: {}", ok_or_error(call!(openat, AT_FDCWD, c(&path).as_c_str(), O_RDWR | NOCTTY, 0)));
    must!(ioctl, master, libc::TIOCSPTLCK, p(&0i32));
    must!(ioctl, master, libc::TIOCGPTLCK, out(&mut locked));
    say!(t, "locked {locked}: {}", ok_or_error(call!(openat, AT_FDCWD, c(&path).as_c_str(), O_RDWR | NOCTTY, 0)));
    show!(t, ioctl, master, libc::TIOCSPTLCK, hole());
    show!(t, ioctl, master, libc::TIOCGPTN, hole());
    ok!(t, ioctl, master, libc::TIOCGPTPEER, O_RDWR | NOCTTY);
    let s = slave(master);
    show!(t, ioctl, s, libc::TIOCGPTN, out(&mut number));
    show!(t, ioctl, s, libc::TIOCSPTLCK, p(&1i32));
    show!(t, ioctl, s, libc::TIOCGPTPEER, O_RDWR);
    show!(t, ioctl, s, 0x5499, 0);
    show!(t, ioctl, master, 0x5499, 0);
    show!(t, lseek, s, 0, 0);
    show!(t, pread64, s, out(&mut [0u8; 4]), 4, 0);
    let kept = open("/dev/ptmx", O_RDWR | NOCTTY);
    let mut another = -1i32;
    must!(ioctl, kept, libc::TIOCGPTN, out(&mut another));
    say!(t, "another: {}", another != number);
    must!(close, master);
    ok!(t, openat, AT_FDCWD, c(&path).as_c_str(), O_RDWR | NOCTTY, 0);
    say!(t, "the same file: {}", content("/proc/self/mounts").contains("devpts"));
}

fn attributes(t: &mut T) {
    let (m, s) = terminal();
    let termios = get(s);
    say!(t, "{termios:x?}");
    say!(t, "one for both: {}", get(m) == termios);
    for command in [TCSETS, TCSETSW, TCSETSF] {
        let mut new = termios;
        new.local ^= libc::ECHO;
        new.keys[libc::VMIN] = 3;
        say!(t, "{command:x}: {}", result(call!(ioctl, s, command, p(&new))));
        say!(t, "{} {}", get(m) == new, get(s).keys[libc::VMIN]);
        must!(ioctl, m, command, p(&termios));
        say!(t, "{}", get(s) == termios);
    }
    show!(t, ioctl, s, TCGETS, hole());
    show!(t, ioctl, s, TCSETS, hole());
    let (r, _w) = pipe(0);
    show!(t, ioctl, r, TCGETS, out(&mut Termios::default()));
    // What a pseudo-terminal does not have cannot be set.
    let mut new = termios;
    new.control = 0;
    new.line = 9;
    must!(ioctl, s, TCSETS, p(&new));
    say!(t, "{:x} {}", get(s).control, get(s).line);
    let mut discipline = 7i32;
    show!(t, ioctl, s, libc::TIOCGETD, out(&mut discipline));
    say!(t, "{discipline}");
    // With speeds.
    let mut long = [0u32; 11];
    show!(t, ioctl, s, 0x802c_542a_u32, out(&mut long));
    say!(t, "{:x} {} {}", long[2], long[9], long[10]);
}

fn lines(t: &mut T) {
    let (m, s) = terminal();
    say!(t, "{} {}", seen(s), poll(s, 1, 0));
    say!(t, "{} {} {}", typed(m, "abc"), seen(s), poll(s, 1, 0));
    say!(t, "{} {} {}", typed(m, "\n"), poll(s, 1, 0), seen(s));
    typed(m, "one\ntwo\nthree");
    let mut waiting = 0i32;
    must!(ioctl, s, TIOCINQ, out(&mut waiting));
    say!(t, "{waiting} {} {} {}", seen(s), seen(s), seen(s));
    typed(m, "\nlong line\n");
    let mut small = [0u8; 4];
    seen(s);
    while let n @ 1.. = call!(read, s, out(&mut small), 4) {
        say!(t, "{:?}", String::from_utf8_lossy(&small[..n as usize]));
    }
    // An end of file in the middle of a line, and on its own.
    say!(t, "{}", typed(m, "half\x04"));
    say!(t, "{} {}", seen(s), seen(s));
    typed(m, "\x04");
    say!(t, "{} {}", seen(s), seen(s));
    typed(m, "\x04\x04a\n");
    say!(t, "{} {} {} {}", seen(s), seen(s), seen(s), seen(s));
    must!(ioctl, s, TIOCINQ, out(&mut waiting));
    say!(t, "{waiting}");
    set(s, |termios| termios.keys[libc::VEOL] = b';');
    typed(m, "a;b\n");
    say!(t, "{} {}", seen(s), seen(s));
    say!(t, "nothing to read: {}", result(call!(read, s, out(&mut small), 0)));
    typed(m, "zz\n");
    show!(t, read, s, hole(), 4);
}

fn editing(t: &mut T) {
    let (m, s) = terminal();
    for keys in [
        "abc\x7f\x7fX\n",
        "abc\x15def\n",
        "one two  \x17three\n",
        "\x7f\x7f\n",
        "a\x16\x7fb\n",
        "a\x16\x03b\n",
        "\u{e4}\x7fx\n",
        "tab\t\x7fx\n",
        "a\x12b\n",
        "x\x16\nrest\n",
        "a\x00b\n",
    ] {
        typed(m, keys);
        say!(t, "{keys:?}: {} {}", seen(s), seen(m));
        while !seen(s).contains("EAGAIN") {}
    }
    set(s, |termios| termios.input |= libc::IUTF8);
    typed(m, "\u{e4}\u{20ac}\x7fx\n");
    say!(t, "utf-8: {} {}", seen(s), seen(m));
    set(s, |termios| termios.local &= !libc::IEXTEN);
    typed(m, "one two\x17x\n");
    say!(t, "not extended: {} {}", seen(s), seen(m));
    set(s, |termios| termios.keys[libc::VERASE] = b'#');
    typed(m, "abc#\x7f\n");
    say!(t, "another key: {} {}", seen(s), seen(m));
}

fn echoing(t: &mut T) {
    let (m, s) = terminal();
    let keys = "ab\x01\x1b[\x7f\x7f\x15\x04c\n";
    for (name, on, off) in [
        ("usual", 0, 0),
        ("no ECHO", 0, libc::ECHO),
        ("no ECHO but ECHONL", libc::ECHONL, libc::ECHO),
        ("no ECHOCTL", 0, libc::ECHOCTL),
        ("no ECHOE", 0, libc::ECHOE),
        ("no ECHOK", 0, libc::ECHOK | libc::ECHOKE),
        ("no ECHOKE", 0, libc::ECHOKE),
        ("ECHOPRT", libc::ECHOPRT, 0),
    ] {
        set(s, |termios| termios.local = termios.local & !off | on);
        typed(m, keys);
        let (shown, got) = (seen(m), seen(s));
        say!(t, "{name}: {shown} {got} {}", seen(s));
        set(s, |termios| termios.local = termios.local & !on | off);
        must!(ioctl, s, libc::TCFLSH, 2);
        seen(m);
    }
}

fn raw(t: &mut T) {
    let (m, s) = terminal();
    set(s, |termios| {
        termios.local &= !(libc::ICANON | libc::ECHO | libc::ISIG | libc::IEXTEN);
        termios.input = 0;
        termios.output = 0;
    });
    say!(t, "{} {}", typed(m, "a\x03\x04\x7f\r\n\x11\x13\x00z"), seen(s));
    say!(t, "{} {}", seen(m), poll(s, 1, 0));
    say!(t, "{} {}", result(write(s, "x\ny\tz")), seen(m));
    // What was typed before the change.
    set(s, |termios| termios.local |= libc::ICANON);
    typed(m, "in a line");
    say!(t, "{}", seen(s));
    set(s, |termios| termios.local &= !libc::ICANON);
    say!(t, "{}", seen(s));
    typed(m, "raw\nlines");
    set(s, |termios| termios.local |= libc::ICANON);
    say!(t, "{} {}", seen(s), seen(s));
}

fn counts_and_times(t: &mut T) {
    let (m, s) = terminal();
    must!(fcntl, s, libc::F_SETFL, 0);
    for (min, time) in [(0, 0), (0, 1), (1, 0), (3, 0), (3, 1)] {
        set(s, |termios| {
            termios.local &= !(libc::ICANON | libc::ECHO);
            termios.keys[libc::VMIN] = min;
            termios.keys[libc::VTIME] = time;
        });
        if min == 0 {
            say!(t, "{min} {time}, nothing: {}", seen(s));
        }
        typed(m, "a");
        say!(t, "{min} {time}, poll: {}", poll(s, 1, 0));
        let pid = fork(|| {
            say!(t, "{min} {time}: {}", seen(s));
            0
        });
        if min > 1 {
            asleep(pid);
            if time == 0 {
                typed(m, "b");
                asleep(pid);
                typed(m, "cd");
            }
        }
        say!(t, "{}", wait(pid));
        must!(ioctl, s, libc::TCFLSH, 0);
    }
    must!(fcntl, s, libc::F_SETFL, libc::O_NONBLOCK);
    typed(m, "a");
    say!(t, "does not block: {} {}", seen(s), seen(s));
}

/// Makes the terminal that of a new session with us as its leader, in a child of its own.
fn in_session(body: impl FnOnce(i32, i32)) -> String {
    child(|| {
        must!(setsid);
        let (m, s) = terminal();
        must!(ioctl, s, libc::TIOCSCTTY, 0);
        body(m, s);
        0
    })
}

fn told() -> String {
    match COUNT.swap(0, Ordering::SeqCst) {
        0 => "nothing".to_owned(),
        n => format!("{n} x {}", signal_name(LAST.load(Ordering::SeqCst))),
    }
}

fn signals_from_keys(t: &mut T) {
    let ended = in_session(|m, s| {
        for signal in [libc::SIGINT, libc::SIGQUIT, libc::SIGTSTP] {
            handle(signal, count, 0, 0);
        }
        for key in ["\x03", "\x1c", "\x1a", "ab\x03c\n", "\x16\x03\n"] {
            typed(m, key);
            say!(t, "{key:?}: {} {} {}", told(), seen(s), seen(m));
        }
        set(s, |termios| termios.local |= libc::NOFLSH);
        typed(m, "ab\x03c\n");
        say!(t, "kept: {} {} {}", told(), seen(s), seen(m));
        set(s, |termios| termios.local &= !libc::ISIG);
        typed(m, "\x03\n");
        say!(t, "off: {} {}", told(), seen(s));
        set(s, |termios| {
            termios.local |= libc::ISIG;
            termios.keys[libc::VINTR] = 0;
        });
        typed(m, "\x03\n");
        say!(t, "no key: {} {}", told(), seen(s));
        show!(t, ioctl, m, libc::TIOCSIG, libc::SIGQUIT);
        say!(t, "by request: {}", told());
        show!(t, ioctl, m, libc::TIOCSIG, 99);
        set(s, |termios| termios.input |= libc::BRKINT);
        show!(t, ioctl, s, libc::TCSBRK, 0);
        show!(t, ioctl, m, libc::TCSBRK, 1);
    });
    say!(t, "{ended}");
}

/// Refused as on Linux from 6.2 on, unless it is told to allow it.
fn typing_for_others(t: &mut T) {
    let (_m, s) = terminal();
    show!(t, ioctl, s, libc::TIOCSTI, p(b"x"));
    say!(t, "{}", seen(s));
}

fn output(t: &mut T) {
    let (m, s) = terminal();
    for (name, flags) in [
        ("none", 0),
        ("OPOST", libc::OPOST),
        ("ONLCR", libc::OPOST | libc::ONLCR),
        ("OCRNL", libc::OPOST | libc::OCRNL),
        ("ONOCR", libc::OPOST | libc::ONOCR),
        ("ONLRET", libc::OPOST | libc::ONLRET),
        ("OLCUC", libc::OPOST | libc::OLCUC),
        ("tabs", libc::OPOST | libc::ONLCR | 0o14000),
        ("not post", libc::ONLCR),
    ] {
        set(s, |termios| termios.output = flags);
        write(s, "\r");
        seen(m);
        say!(t, "{name}: {} {}", result(write(s, "ab\ncd\r\n\re\tf\n")), seen(m));
    }
    let mut waiting = 7i32;
    write(s, "waits");
    show!(t, ioctl, s, TIOCOUTQ, out(&mut waiting));
    say!(t, "{waiting} {}", seen(m));
    show!(t, ioctl, m, TIOCOUTQ, out(&mut waiting));
}

fn input_flags(t: &mut T) {
    let (m, s) = terminal();
    set(s, |termios| termios.local &= !libc::ECHO);
    for (name, flags) in [
        ("none", 0),
        ("ICRNL", libc::ICRNL),
        ("INLCR", libc::INLCR),
        ("IGNCR", libc::IGNCR),
        ("ISTRIP", libc::ISTRIP),
        ("IUCLC", libc::IUCLC | libc::ICRNL),
    ] {
        set(s, |termios| termios.input = flags);
        must!(ioctl, s, libc::TCFLSH, 2);
        must!(write, m, p(b"aB\xc1\rc\nd\n"), 8);
        sleep_ms(8);
        say!(t, "{name}: {} {} {}", seen(s), seen(s), seen(s));
    }
}

fn full(t: &mut T) {
    let (m, s) = terminal();
    set(s, |termios| termios.local &= !libc::ECHO);
    // Of a line that is too long the rest is lost, its end is not.
    let long = vec![b'x'; 5000];
    let mut written = 0;
    while written < long.len() {
        match call!(write, m, p(&long[written..]), long.len() - written) {
            n if n > 0 => written += n as usize,
            error => {
                say!(t, "{}", result(error));
                break;
            }
        }
    }
    typed(m, "\n");
    let mut all = [0u8; 8192];
    show!(t, read, s, out(&mut all), 8192);
    say!(t, "{:?}", all[4095]);
    // Nobody reads the master.
    let mut total = 0;
    while let n @ 1.. = call!(write, s, p(&long[..1000]), 1000) {
        total += n;
    }
    say!(t, "{} {}", total >= 4096, poll(s, 4, 0));
    let mut got = 0;
    for _ in 0..20 {
        sleep_ms(2);
        got += call!(read, m, out(&mut all), 8192).max(0);
    }
    say!(t, "{} {}", got == total, poll(s, 4, 0));
}

fn window(t: &mut T) {
    let ended = in_session(|m, s| {
        handle(libc::SIGWINCH, count, 0, 0);
        let mut size = [7u16; 4];
        show!(t, ioctl, s, libc::TIOCGWINSZ, out(&mut size));
        say!(t, "{size:?}");
        show!(t, ioctl, m, libc::TIOCSWINSZ, p(&[25u16, 80, 3, 4]));
        say!(t, "{}", told());
        show!(t, ioctl, s, libc::TIOCGWINSZ, out(&mut size));
        say!(t, "{size:?}");
        show!(t, ioctl, s, libc::TIOCSWINSZ, p(&[25u16, 80, 3, 4]));
        say!(t, "the same: {}", told());
        show!(t, ioctl, s, libc::TIOCSWINSZ, p(&[26u16, 80, 3, 4]));
        say!(t, "another: {}", told());
        show!(t, ioctl, m, libc::TIOCGWINSZ, out(&mut size));
        say!(t, "{size:?}");
        show!(t, ioctl, m, libc::TIOCGWINSZ, hole());
        show!(t, ioctl, m, libc::TIOCSWINSZ, hole());
    });
    say!(t, "{ended}");
}

fn flow(t: &mut T) {
    let (m, s) = terminal();
    show!(t, ioctl, s, libc::TCXONC, libc::TCOOFF);
    say!(t, "off: {} {} {}", result(write(s, "x")), seen(m), poll(s, 4, 0));
    show!(t, ioctl, s, libc::TCXONC, libc::TCOON);
    say!(t, "on: {} {}", result(write(s, "y")), seen(m));
    show!(t, ioctl, s, libc::TCXONC, 9);
    // By keys.
    typed(m, "\x13");
    say!(t, "stopped: {} {}", result(write(s, "z")), poll(s, 4, 0));
    typed(m, "\x11");
    say!(t, "started: {} {}", result(write(s, "z")), seen(m));
    typed(m, "\x13");
    set(s, |termios| termios.input &= !libc::IXON);
    say!(t, "not any more: {}", result(write(s, "z")));
    seen(m);
    set(s, |termios| termios.input |= libc::IXON | libc::IXANY);
    typed(m, "\x13");
    say!(t, "{}", result(write(s, "z")));
    typed(m, "k");
    say!(t, "by any key: {} {}", result(write(s, "z")), seen(m));
}

fn flushing(t: &mut T) {
    let (m, s) = terminal();
    for (name, which, how) in [("slave", s, 0), ("slave", s, 1), ("slave", s, 2), ("slave", s, 3), ("master", m, 0), ("master", m, 1), ("master", m, 2)] {
        typed(m, "in\n");
        seen(m);
        write(s, "out");
        let got = call!(ioctl, which, libc::TCFLSH, how);
        say!(t, "{name} {how}: {} {} {}", result(got), seen(s), seen(m));
    }
    typed(m, "line\npart");
    must!(ioctl, s, TCSETSF, p(&get(s)));
    typed(m, "x\n");
    say!(t, "by TCSETSF: {}", seen(s));
}

fn packet_mode(t: &mut T) {
    let (m, s) = terminal();
    let mut on = 7i32;
    show!(t, ioctl, m, libc::TIOCPKT, p(&1i32));
    must!(ioctl, m, libc::TIOCGPKT, out(&mut on));
    say!(t, "{on} {}", seen(m));
    write(s, "ab");
    say!(t, "{} {}", seen(m), poll(m, 3, 0));
    must!(ioctl, s, libc::TCFLSH, 0);
    say!(t, "{} {} {}", poll(m, 3, 0), seen(m), seen(m));
    must!(ioctl, s, libc::TCFLSH, 1);
    say!(t, "{}", seen(m));
    must!(ioctl, s, libc::TCXONC, libc::TCOOFF);
    say!(t, "{}", seen(m));
    must!(ioctl, s, libc::TCXONC, libc::TCOON);
    say!(t, "{}", seen(m));
    set(s, |termios| termios.input &= !libc::IXON);
    say!(t, "{}", seen(m));
    set(s, |termios| termios.input |= libc::IXON);
    say!(t, "{}", seen(m));
    set(s, |termios| termios.local |= 0o200_000);
    say!(t, "external: {}", seen(m));
    must!(ioctl, m, libc::TIOCPKT, p(&0i32));
    write(s, "z");
    say!(t, "off: {}", seen(m));
    show!(t, ioctl, s, libc::TIOCPKT, p(&1i32));
}

fn polls(t: &mut T) {
    let (m, s) = terminal();
    say!(t, "{} {}", poll(m, 5, 0), poll(s, 5, 0));
    typed(m, "a");
    say!(t, "{} {}", poll(m, 5, 0), poll(s, 5, 0));
    typed(m, "\n");
    say!(t, "{} {}", poll(m, 5, 0), poll(s, 5, 0));
    must!(close, s);
    say!(t, "slave closed: {}", poll(m, 5, 0));
    let s = slave(m);
    say!(t, "and open again: {}", poll(m, 5, 0));
    must!(close, m);
    say!(t, "master closed: {}", poll(s, 5, 0));
}

fn sessions(t: &mut T) {
    let ended = child(|| {
        let (m, s) = terminal();
        must!(setpgid, 0, 0);
        show!(t, ioctl, s, libc::TIOCSCTTY, 0);
        show!(t, ioctl, s, libc::TIOCNOTTY, 0);
        let inner = child(|| {
            must!(setsid);
            let mut id = 7i32;
            show!(t, ioctl, s, libc::TIOCGSID, out(&mut id));
            show!(t, ioctl, s, libc::TIOCSCTTY, 0);
            show!(t, ioctl, s, libc::TIOCSCTTY, 0);
            must!(ioctl, s, libc::TIOCGSID, out(&mut id));
            say!(t, "ours: {}", i64::from(id) == must!(getpid));
            must!(ioctl, m, libc::TIOCGSID, out(&mut id));
            say!(t, "by the master: {}", i64::from(id) == must!(getpid));
            // A second one.
            let (_other, its) = terminal();
            show!(t, ioctl, its, libc::TIOCSCTTY, 0);
            let taken = child(|| {
                must!(setsid);
                show!(t, ioctl, s, libc::TIOCSCTTY, 0);
                must!(setresuid, NOBODY, NOBODY, NOBODY);
                show!(t, ioctl, s, libc::TIOCSCTTY, 1);
                0
            });
            say!(t, "{taken}");
            show!(t, ioctl, s, libc::TIOCNOTTY, 0);
            show!(t, ioctl, s, libc::TIOCGSID, out(&mut id));
            show!(t, ioctl, its, libc::TIOCSCTTY, 0);
            0
        });
        say!(t, "{inner}");
        0
    });
    say!(t, "{ended}");
    // Opening makes it the terminal of a leader that has none.
    let ended = child(|| {
        must!(setsid);
        let (m, _s) = terminal();
        let mut number = 0i32;
        must!(ioctl, m, libc::TIOCGPTN, out(&mut number));
        ok!(t, openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0);
        let s = open(&format!("/dev/pts/{number}"), O_RDWR) as i32;
        let mut id = 7i32;
        show!(t, ioctl, s, libc::TIOCGSID, out(&mut id));
        ok!(t, openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0);
        0
    });
    say!(t, "{ended}");
}

fn foreground(t: &mut T) {
    let ended = in_session(|m, s| {
        let mut group = 7i32;
        must!(ioctl, s, libc::TIOCGPGRP, out(&mut group));
        say!(t, "{}", i64::from(group) == must!(getpgid, 0));
        must!(ioctl, m, libc::TIOCGPGRP, out(&mut group));
        say!(t, "by the master: {}", i64::from(group) == must!(getpgid, 0));
        let other = fork(|| {
            loop {
                call!(pause);
            }
        });
        show!(t, ioctl, s, libc::TIOCSPGRP, p(&(other as i32)));
        must!(setpgid, other, 0);
        show!(t, ioctl, s, libc::TIOCSPGRP, p(&(other as i32)));
        must!(ioctl, s, libc::TIOCGPGRP, out(&mut group));
        say!(t, "{}", i64::from(group) == other);
        show!(t, ioctl, s, libc::TIOCSPGRP, p(&1i32));
        show!(t, ioctl, s, libc::TIOCSPGRP, p(&-1i32));
        show!(t, ioctl, s, libc::TIOCSPGRP, p(&99_999_999i32));
        show!(t, ioctl, s, libc::TIOCSPGRP, hole());
        typed(m, "\x03");
        say!(t, "its signal: {}", wait(other));
        must!(ioctl, s, libc::TIOCGPGRP, out(&mut group));
        say!(t, "gone: {}", i64::from(group) == other);
        let (_m2, s2) = terminal();
        show!(t, ioctl, s2, libc::TIOCGPGRP, out(&mut group));
        show!(t, ioctl, s2, libc::TIOCSPGRP, p(&(must!(getpid) as i32)));
    });
    say!(t, "{ended}");
}

fn background(t: &mut T) {
    let ended = in_session(|m, s| {
        must!(fcntl, s, libc::F_SETFL, 0);
        let mut run = |name: &str, how: u64, tostop: bool, body: &dyn Fn() -> i64| {
            set(m, |termios| {
                termios.local = if tostop { termios.local | libc::TOSTOP } else { termios.local & !libc::TOSTOP };
            });
            let (ready, go) = pipe(0);
            let pid = fork(|| {
                read(ready);
                for signal in [libc::SIGTTIN, libc::SIGTTOU] {
                    match how {
                        2 => drop(mask(libc::SIG_BLOCK, bit(signal))),
                        how => dispose(signal, how),
                    }
                }
                say!(t, "{name}: {}", result(body()));
                0
            });
            must!(setpgid, pid, pid);
            write(go, "x");
            let mut status = 0i32;
            must!(wait4, pid, out(&mut status), libc::WUNTRACED, 0);
            say!(t, "{name}: {}", ending(status));
            if status & 0xff == 0x7f {
                call!(kill, pid, libc::SIGKILL);
                wait(pid);
            }
        };
        let reading = || call!(read, s, out(&mut [0u8; 8]), 8);
        run("read", 0, false, &reading);
        run("read, ignored", 1, false, &reading);
        run("read, blocked", 2, false, &reading);
        let writing = || write(s, "x");
        run("write", 0, false, &writing);
        run("write, TOSTOP", 0, true, &writing);
        run("write, TOSTOP, ignored", 1, true, &writing);
        run("write, TOSTOP, blocked", 2, true, &writing);
        let setting = || call!(ioctl, s, TCSETS, p(&get(s)));
        run("set", 0, false, &setting);
        run("set, ignored", 1, false, &setting);
        let size = || call!(ioctl, s, libc::TIOCSWINSZ, p(&[1u16; 4]));
        run("window", 0, false, &size);
        let group = || call!(ioctl, s, libc::TIOCSPGRP, p(&(must!(getpgid, 0) as i32)));
        run("foreground", 0, false, &group);
        let flush = || call!(ioctl, s, libc::TCFLSH, 0);
        run("flush", 0, false, &flush);
        let get_it = || call!(ioctl, s, TCGETS, out(&mut Termios::default()));
        run("get", 0, false, &get_it);
    });
    say!(t, "{ended}");
}

fn slave_closed(t: &mut T) {
    let (m, s) = terminal();
    say!(t, "open: {}", seen(m));
    write(s, "left");
    must!(close, s);
    say!(t, "{} {} {}", poll(m, 5, 0), seen(m), seen(m));
    say!(t, "typed: {}", typed(m, "x\n"));
    let s = slave(m);
    say!(t, "again: {} {} {}", seen(m), seen(s), poll(m, 5, 0));
    // Never opened.
    let m = open("/dev/ptmx", O_RDWR | NOCTTY | libc::O_NONBLOCK) as i32;
    say!(t, "never: {} {} {}", seen(m), poll(m, 5, 0), typed(m, "x"));
}

fn master_closed(t: &mut T) {
    let (m, s) = terminal();
    let mut number = 0i32;
    must!(ioctl, m, libc::TIOCGPTN, out(&mut number));
    typed(m, "line\npart");
    write(s, "out");
    must!(close, m);
    say!(t, "{} {} {}", seen(s), seen(s), result(write(s, "x")));
    say!(t, "{}", poll(s, 5, 0));
    show!(t, ioctl, s, TCGETS, out(&mut Termios::default()));
    show!(t, ioctl, s, TIOCINQ, out(&mut 0i32));
    show!(t, ioctl, s, libc::TIOCGWINSZ, out(&mut [0u16; 4]));
    show!(t, ioctl, s, libc::TCFLSH, 2);
    say!(t, "gone: {}", std::path::Path::new(&format!("/dev/pts/{number}")).exists());
}

fn hangup_signals(t: &mut T) {
    let (told_by, tell) = pipe(0);
    let ended = in_session(|m, s| {
        handle(libc::SIGHUP, count, 0, 0);
        handle(libc::SIGCONT, count, 0, 0);
        let in_group = fork(|| {
            must!(close, m);
            dispose(libc::SIGHUP, 0);
            dispose(libc::SIGCONT, 0);
            loop {
                call!(pause);
            }
        });
        let stopped = fork(|| {
            must!(close, m);
            dispose(libc::SIGHUP, 0);
            dispose(libc::SIGCONT, 0);
            must!(setpgid, 0, 0);
            must!(kill, must!(getpid), libc::SIGSTOP);
            7
        });
        must!(wait4, stopped, 0, libc::WUNTRACED, 0);
        asleep(in_group);
        must!(close, m);
        say!(t, "leader: {}", COUNT.swap(0, Ordering::SeqCst));
        sleep_ms(20);
        say!(t, "others in the foreground: {}", call!(kill, in_group, libc::SIGKILL));
        say!(t, "{}", wait(in_group));
        say!(t, "not a terminal's any more: {}", ok_or_error(call!(openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0)));
        say!(t, "{}", seen(s));
        call!(kill, stopped, libc::SIGKILL);
        wait(stopped);
        write(tell, "x");
    });
    read(told_by);
    say!(t, "{ended}");
}

fn leader_ends(t: &mut T) {
    let (m, s) = terminal();
    let words = crate::sys::shared();
    let leader = fork(|| {
        must!(setsid);
        must!(ioctl, s, libc::TIOCSCTTY, 0);
        fork(|| {
            handle(libc::SIGHUP, count, 0, 0);
            handle(libc::SIGCONT, count, 0, 0);
            words[0].store(1, Ordering::SeqCst);
            let before = mask(libc::SIG_BLOCK, bit(libc::SIGHUP) | bit(libc::SIGCONT));
            while COUNT.load(Ordering::SeqCst) < 1 {
                call!(rt_sigsuspend, p(&before), 8);
            }
            words[1].store(COUNT.load(Ordering::SeqCst) as u32, Ordering::SeqCst);
            sleep_ms(50); // the signal comes first
            words[2].store(call!(openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0) as u32, Ordering::SeqCst);
            words[3].store(1, Ordering::SeqCst);
            0
        });
        while words[0].load(Ordering::SeqCst) == 0 {
            sleep_ms(1);
        }
        sleep_ms(10);
        0
    });
    wait(leader);
    for _ in 0..500 {
        if words[3].load(Ordering::SeqCst) == 1 {
            break;
        }
        sleep_ms(2);
    }
    say!(t, "the others: {}", words[1].load(Ordering::SeqCst) >= 1);
    say!(t, "{}", ok_or_error(i64::from(words[2].load(Ordering::SeqCst) as i32)));
    say!(t, "hung up: {} {}", seen(s), result(write(s, "x")));
    say!(t, "opened again: {}", {
        let again = slave(m);
        format!("{} {}", result(write(again, "y")), seen(m))
    });
}

fn vhangup_of_terminal(t: &mut T) {
    let (m, s) = terminal();
    let ended = child(|| {
        must!(setsid);
        must!(ioctl, s, libc::TIOCSCTTY, 0);
        handle(libc::SIGHUP, count, 0, 0);
        handle(libc::SIGCONT, count, 0, 0);
        show!(t, vhangup);
        say!(t, "{} {} {}", seen(s), result(write(s, "x")), COUNT.load(Ordering::SeqCst) > 0);
        0
    });
    say!(t, "{ended} {}", seen(m));
    let ended = as_nobody(|| {
        let t = &mut T::default();
        show!(t, vhangup);
    });
    say!(t, "{ended}");
}

fn exclusive(t: &mut T) {
    let (m, s) = terminal();
    let mut number = 0i32;
    must!(ioctl, m, libc::TIOCGPTN, out(&mut number));
    must!(fchmod, s, 0o666);
    show!(t, ioctl, s, libc::TIOCEXCL, 0);
    let mut on = 7i32;
    show!(t, ioctl, s, libc::TIOCGEXCL, out(&mut on));
    say!(t, "{on}");
    let open_it = || ok_or_error(call!(openat, AT_FDCWD, c(&format!("/dev/pts/{number}")).as_c_str(), O_RDWR | NOCTTY, 0));
    say!(t, "root: {}", open_it());
    as_nobody(|| T::default().line(format_args!("nobody: {}", open_it())));
    must!(ioctl, s, libc::TIOCNXCL, 0);
    as_nobody(|| T::default().line(format_args!("nobody: {}", open_it())));
}

fn dev_tty(t: &mut T) {
    let ended = child(|| {
        must!(setsid);
        show!(t, openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0);
        0
    });
    say!(t, "{ended}");
    let ended = in_session(|m, s| {
        let tty = open("/dev/tty", O_RDWR | libc::O_NONBLOCK) as i32;
        say!(t, "{} {}", result(write(tty, "by name")), seen(m));
        typed(m, "line\n");
        say!(t, "{}", seen(tty));
        set(tty, |termios| termios.keys[libc::VMIN] = 9);
        say!(t, "{}", get(s).keys[libc::VMIN]);
        show!(t, ioctl, tty, libc::TIOCNOTTY, 0);
        say!(t, "{} {}", ok_or_error(call!(openat, AT_FDCWD, c"/dev/tty", O_RDWR, 0)), result(write(tty, "still")));
    });
    say!(t, "{ended}");
}

fn modes(t: &mut T) {
    use std::os::unix::fs::{FileTypeExt, MetadataExt};
    let (m, s) = terminal();
    let of = |fd: i32| std::fs::metadata(format!("/proc/self/fd/{fd}")).expect("a terminal");
    say!(t, "{:o} {} {}", of(s).mode(), of(s).uid(), of(s).file_type().is_char_device());
    say!(t, "{:x} {:x}", of(s).rdev() >> 8, of(m).rdev());
    show!(t, fchmod, s, 0o622);
    say!(t, "{:o}", of(s).mode());
    show!(t, fchown, s, NOBODY, -1);
    say!(t, "{}", of(s).uid());
    let link = std::fs::read_link(format!("/proc/self/fd/{s}")).unwrap_or_default();
    say!(t, "{}", link.starts_with("/dev/pts/"));
}
