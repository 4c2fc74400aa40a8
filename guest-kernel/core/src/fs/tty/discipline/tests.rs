use alloc::{string::String, vec, vec::Vec};

use super::*;

fn type_in(d: &mut Discipline, text: &[u8]) -> Signals {
    let mut signals = Signals::new();
    d.begin();
    text.iter().for_each(|c| d.receive(*c, &mut signals));
    signals
}

fn shown(d: &mut Discipline) -> String {
    let mut buf = vec![0; 1 << 16];
    let n = d.take_output(&mut buf);
    String::from_utf8(buf[..n].to_vec()).unwrap()
}

fn lines(d: &mut Discipline) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    let mut buf = [0; 5000];
    while d.is_ready(1) {
        let n = d.read(&mut buf).unwrap();
        all.push(buf[..n].to_vec());
    }
    all
}

/// What is typed → the lines programs read, what the terminal shows.
#[test]
fn editing() {
    type Row<'a> = (&'a [u8], &'a [&'a [u8]], &'a str);
    let table: &[Row<'_>] = &[
        (b"ls\r", &[b"ls\n"], "ls\r\n"),
        (b"lx\x7fs\n", &[b"ls\n"], "lx\x08 \x08s\r\n"),
        (b"\x7f\x7fa\n", &[b"a\n"], "a\r\n"),
        (b"one two\x17x\n", &[b"one x\n"], "one two\x08 \x08\x08 \x08\x08 \x08x\r\n"),
        (b"abc\x15d\n", &[b"d\n"], "abc\x08 \x08\x08 \x08\x08 \x08d\r\n"),
        (b"a\x01\x7f\n", &[b"a\n"], "a^A\x08 \x08\x08 \x08\r\n"),
        (b"a\t\x7fb\n", &[b"ab\n"], "a\t\x08\x08\x08\x08\x08\x08\x08b\r\n"),
        (b"\x16\x03\n", &[b"\x03\n"], "^\x08^C\r\n"),
        (b"ab\x12\n", &[b"ab\n"], "ab^R\r\nab\r\n"),
        (b"x\x04y\n\x04", &[b"x", b"y\n", b""], "xy\r\n"),
        ("\u{e4}\u{20ac}\x7f\x7fz\n".as_bytes(), &[b"z\n"], "ä€\x08 \x08\x08 \x08z\r\n"),
    ];
    for (typed, want, show) in table {
        let mut termios = Termios::STANDARD;
        termios.iflag |= Input::IUTF8.bits();
        let mut d = Discipline::new(termios);
        assert!(type_in(&mut d, typed).is_empty());
        assert_eq!(lines(&mut d), want.iter().map(|l| l.to_vec()).collect::<Vec<_>>(), "{typed:?}");
        assert_eq!(shown(&mut d), *show, "{typed:?}");
    }
}

#[test]
fn signals_flush_and_echo() {
    let mut d = Discipline::new(Termios::STANDARD);
    d.write(b"output has come");
    let signals = type_in(&mut d, b"half\x03\x1a\x1c");
    assert_eq!(signals.as_slice(), [Signal::INT, Signal::TSTP, Signal::QUIT]);
    // Each one flushes what was typed and echoed; output that has come to the master stays there.
    assert_eq!(shown(&mut d), "output has come^\\");
    type_in(&mut d, b"\n");
    assert_eq!(lines(&mut d), [b"\n"]);
}

#[test]
fn raw_mode_passes_everything() {
    let raw = Termios { iflag: 0, oflag: 0, lflag: 0, ..Termios::STANDARD };
    let mut d = Discipline::new(Termios::STANDARD);
    type_in(&mut d, b"begun");
    assert_eq!(d.readable(), 0);
    d.set_termios(raw);
    assert!(type_in(&mut d, b"\x03\x7f\r").is_empty());
    assert!(d.is_ready(8) && !d.is_ready(9));
    assert_eq!(lines(&mut d), [b"begun\x03\x7f\r"]);
    d.write(b"a\nb");
    assert_eq!(shown(&mut d), "beguna\nb");
    type_in(&mut d, b"left");
    d.set_termios(Termios::STANDARD);
    assert_eq!(lines(&mut d), [b"left"], "becomes a line");
}

#[test]
fn a_full_line_can_still_be_ended() {
    let mut d = Discipline::new(Termios::STANDARD);
    for _ in 0..5000 {
        assert!(d.room() > 0);
        type_in(&mut d, b"x");
    }
    type_in(&mut d, b"\n");
    assert_eq!(d.room(), 0);
    let line = lines(&mut d).pop().unwrap();
    assert_eq!((line.len(), line.last()), (4096, Some(&b'\n')));
}

#[test]
fn a_line_longer_than_the_buffer_is_read_in_parts() {
    let mut d = Discipline::new(Termios::STANDARD);
    type_in(&mut d, b"abcdef\ng\n");
    let mut buf = [0; 4];
    assert_eq!((d.read(&mut buf), &buf), (Some(4), b"abcd"));
    assert_eq!((d.read(&mut buf), &buf[..3]), (Some(3), &b"ef\n"[..]));
    assert_eq!(d.read(&mut buf), Some(2));
    assert_eq!(d.read(&mut buf), None);
}

#[test]
fn flow_control_holds_output() {
    let mut d = Discipline::new(Termios::STANDARD);
    type_in(&mut d, b"\x13");
    assert_eq!(d.write_room(), 0);
    type_in(&mut d, b"\x11");
    assert!(d.write_room() > 0);
    assert!(lines(&mut d).is_empty() && shown(&mut d).is_empty());
}
