//! How an argument is printed: its kind says what it is. Memory that cannot be read is printed as its address.

use alloc::string::String;
use core::fmt::Write;

use crate::{
    errno::Errno,
    signal::Signal,
    syscall::{
        ArgKind, UserPtr, UserStr,
        kinds::{Count, Layout, Names, flags},
    },
};

/// Bytes of a string or a buffer that are printed.
const MAX_BYTES: usize = 64;
/// Elements of an array that are printed.
const MAX_ITEMS: usize = 8;

/// Prints an argument. `args` are all of the call, `result` what it returned, once it has.
pub fn argument(to: &mut String, kind: ArgKind, raw: u64, args: &[u64; 6], result: Option<usize>) {
    let _ = match kind {
        ArgKind::Int | ArgKind::Pid if raw == u64::from(raw as u32) => write!(to, "{}", raw as i32),
        ArgKind::Int | ArgKind::Pid => write!(to, "{}", raw as i64),
        ArgKind::Uint => write!(to, "{raw}"),
        ArgKind::Hex => write!(to, "{raw:#x}"),
        ArgKind::Fd if raw as i32 == -100 => write!(to, "AT_FDCWD"),
        ArgKind::Fd => write!(to, "{}", raw as i32),
        ArgKind::Pointer => return address(to, raw),
        ArgKind::Mode => write!(to, "0{:o}", raw as u32),
        ArgKind::Signal => return signal(to, raw as i32),
        ArgKind::Str => return string(to, raw),
        ArgKind::StrVec => return vector(to, raw),
        ArgKind::Flags(names) => return bits(to, names, u64::from(raw as u32)),
        ArgKind::Choice(names) => return choice(to, names, u64::from(raw as u32)),
        ArgKind::In(layout, count) | ArgKind::Out(layout, count) | ArgKind::InOut(layout, count) => {
            return memory(to, layout, raw, elements(layout, count, args, result));
        }
    };
}

/// Prints an address.
pub fn address(to: &mut String, raw: u64) {
    let _ = if raw == 0 { write!(to, "NULL") } else { write!(to, "{raw:#x}") };
}

/// How many elements there are to print.
fn elements(layout: Layout, count: Count, args: &[u64; 6], result: Option<usize>) -> usize {
    match count {
        Count::One => 1,
        Count::Fixed(n) => n,
        Count::Arg(i) => args.get(i).map_or(0, |n| *n as usize),
        Count::Result => result.unwrap_or(0),
        Count::At(i) => {
            let length = args.get(i).and_then(|at| UserPtr::<i32>::new(*at).read().ok()).unwrap_or(0);
            usize::try_from(length).unwrap_or(0).checked_div(layout.size()).unwrap_or(0)
        }
    }
}

fn bits(to: &mut String, names: &Names, value: u64) {
    let mut rest = value;
    let start = to.len();
    let word = |to: &mut String, text: &str| {
        if to.len() > start {
            to.push('|');
        }
        to.push_str(text);
    };
    for (bit, name) in names.values {
        if *bit == 0 && value & 3 == 0 || *bit != 0 && rest & bit == *bit {
            word(to, name);
            rest &= !bit;
        }
    }
    if rest != 0 || to.len() == start {
        let mut text = String::new();
        let _ = write!(text, "{rest:#x}");
        word(to, if rest == 0 { "0" } else { &text });
    }
}

fn choice(to: &mut String, names: &Names, value: u64) {
    match names.values.iter().find(|(known, _)| *known == value) {
        Some((_, name)) => to.push_str(name),
        None if value < 1024 => drop(write!(to, "{value}")),
        None => drop(write!(to, "{value:#x}")),
    }
}

fn signal(to: &mut String, number: i32) {
    let _ = match Signal::new(number) {
        Some(s) => write!(to, "SIG{}", s.name().trim_start_matches("SIG")),
        None => write!(to, "{number}"),
    };
}

fn string(to: &mut String, at: u64) {
    match UserStr(at).read(MAX_BYTES, Errno::ENAMETOOLONG) {
        Ok(s) => drop(write!(to, "\"{}\"", s.escape_ascii())),
        Err(Errno::ENAMETOOLONG) => bytes(to, at, MAX_BYTES + 1),
        Err(_) => address(to, at),
    }
}

fn vector(to: &mut String, at: u64) {
    to.push('[');
    for i in 0..=MAX_ITEMS {
        match UserPtr::<u64>::new(at).index(i).read() {
            Ok(0) | Err(_) => break,
            Ok(_) if i == MAX_ITEMS => to.push_str(", …"),
            Ok(item) => {
                if i > 0 {
                    to.push_str(", ");
                }
                string(to, item);
            }
        }
    }
    to.push(']');
}

fn bytes(to: &mut String, at: u64, length: usize) {
    let shown = length.min(MAX_BYTES);
    match UserPtr::<u8>::new(at).read_vec(shown) {
        Ok(text) => {
            let more = if length > shown { "…" } else { "" };
            let _ = write!(to, "\"{}\"{more}", text.escape_ascii());
        }
        Err(_) => address(to, at),
    }
}

fn memory(to: &mut String, layout: Layout, at: u64, count: usize) {
    if at == 0 {
        return to.push_str("NULL");
    }
    match layout {
        Layout::Bytes => return bytes(to, at, count),
        Layout::SockAddr => return socket_address(to, at, count),
        Layout::Opaque(_) => return address(to, at),
        _ => {}
    }
    let start = to.len();
    if count != 1 {
        to.push('[');
    }
    for i in 0..count.min(MAX_ITEMS) {
        if i > 0 {
            to.push_str(", ");
        }
        let element = at.wrapping_add((i as u64).wrapping_mul(layout.size() as u64));
        if one(to, layout, element).is_err() {
            to.truncate(start);
            return address(to, at);
        }
    }
    if count > MAX_ITEMS {
        to.push_str(", …");
    }
    if count != 1 {
        to.push(']');
    }
}

fn word(at: u64) -> Result<u64, Errno> {
    UserPtr::<u64>::new(at).read()
}

fn half(at: u64) -> Result<u32, Errno> {
    UserPtr::<u32>::new(at).read()
}

fn one(to: &mut String, layout: Layout, at: u64) -> Result<(), Errno> {
    let _ = match layout {
        Layout::I32 => write!(to, "{}", half(at)? as i32),
        Layout::U64 => write!(to, "{:#x}", word(at)?),
        Layout::TimeSpec => write!(to, "{{{}.{:09}}}", word(at)? as i64, word(at.wrapping_add(8))?),
        Layout::TimeVal => write!(to, "{{{}.{:06}}}", word(at)? as i64, word(at.wrapping_add(8))?),
        Layout::ItimerSpec | Layout::ItimerVal => {
            let unit = if layout == Layout::ItimerSpec { Layout::TimeSpec } else { Layout::TimeVal };
            to.push_str("{every ");
            one(to, unit, at)?;
            to.push_str(", next ");
            one(to, unit, at.wrapping_add(16))?;
            write!(to, "}}")
        }
        Layout::SigSet => return signal_set(to, word(at)?),
        Layout::SigAction => {
            match word(at)? {
                0 => to.push_str("{SIG_DFL, "),
                1 => to.push_str("{SIG_IGN, "),
                handler => drop(write!(to, "{{{handler:#x}, ")),
            }
            bits(to, &flags::SIGACTION, word(at.wrapping_add(8))?);
            to.push_str(", ");
            signal_set(to, word(at.wrapping_add(24))?)?;
            write!(to, "}}")
        }
        Layout::SigInfo => {
            to.push('{');
            signal(to, half(at)? as i32);
            write!(to, ", code={}}}", half(at.wrapping_add(8))? as i32)
        }
        Layout::IoVecIn => {
            bytes(to, word(at)?, word(at.wrapping_add(8))? as usize);
            Ok(())
        }
        Layout::IoVecOut => write!(to, "{{{:#x}, {}}}", word(at)?, word(at.wrapping_add(8))?),
        Layout::Message => {
            let (name, length) = (word(at)?, half(at.wrapping_add(8))?);
            to.push_str("{name=");
            socket_address(to, name, length as usize);
            to.push_str(", iov=");
            memory(to, Layout::IoVecIn, word(at.wrapping_add(16))?, word(at.wrapping_add(24))? as usize);
            let flags = half(at.wrapping_add(48))?;
            write!(to, ", controllen={}, flags={flags:#x}}}", word(at.wrapping_add(40))?)
        }
        Layout::Stat => {
            let (mode, size) = (half(at.wrapping_add(24))?, word(at.wrapping_add(48))?);
            write!(to, "{{mode=0{mode:o}, size={size}}}")
        }
        Layout::Statx => {
            let (mode, size) = (half(at.wrapping_add(28))? & 0xffff, word(at.wrapping_add(40))?);
            write!(to, "{{mode=0{mode:o}, size={size}}}")
        }
        Layout::PollFd => {
            let events = half(at.wrapping_add(4))?;
            let _ = write!(to, "{{{}, ", half(at)? as i32);
            bits(to, &flags::EPOLL, u64::from(events & 0xffff));
            if events >> 16 != 0 {
                to.push_str(": ");
                bits(to, &flags::EPOLL, u64::from(events >> 16));
            }
            write!(to, "}}")
        }
        Layout::EpollEvent => {
            to.push('{');
            bits(to, &flags::EPOLL, u64::from(half(at)?));
            let data = u64::from(half(at.wrapping_add(4))?) | u64::from(half(at.wrapping_add(8))?) << 32;
            write!(to, ", {data:#x}}}")
        }
        Layout::Limit => {
            to.push('{');
            limit(to, word(at)?);
            to.push_str(", ");
            limit(to, word(at.wrapping_add(8))?);
            write!(to, "}}")
        }
        Layout::Status => match half(at)? {
            status if status & 0x7f == 0 => write!(to, "[exit {}]", status >> 8 & 0xff),
            0xffff => write!(to, "[continued]"),
            status => {
                let stopped = status & 0xff == 0x7f;
                to.push_str(if stopped { "[stopped by " } else { "[killed by " });
                signal(to, if stopped { status >> 8 & 0xff } else { status & 0x7f } as i32);
                write!(to, "]")
            }
        },
        Layout::Bytes | Layout::SockAddr | Layout::Opaque(_) => Ok(()),
    };
    Ok(())
}

fn limit(to: &mut String, value: u64) {
    let _ = if value == u64::MAX { write!(to, "RLIM_INFINITY") } else { write!(to, "{value}") };
}

fn signal_set(to: &mut String, set: u64) -> Result<(), Errno> {
    // A set with most signals in it is told by those that are not.
    let inverted = set.count_ones() > 32;
    to.push_str(if inverted { "~[" } else { "[" });
    let told = if inverted { !set } else { set };
    let mut first = true;
    for number in (1..=64).filter(|n| told >> (n - 1) & 1 != 0) {
        if !first {
            to.push(' ');
        }
        first = false;
        match Signal::new(number) {
            Some(s) if number < 32 => to.push_str(s.name().trim_start_matches("SIG")),
            _ => drop(write!(to, "{number}")),
        }
    }
    to.push(']');
    Ok(())
}

fn socket_address(to: &mut String, at: u64, length: usize) {
    const AF_UNIX: u16 = 1;
    const AF_INET: u16 = 2;
    const LONGEST: usize = 110;
    if at == 0 {
        return to.push_str("NULL");
    }
    let Ok(raw) = UserPtr::<u8>::new(at).read_vec(length.min(LONGEST)) else { return address(to, at) };
    let (family, rest) = match raw.as_slice() {
        [low, high, rest @ ..] => (u16::from_le_bytes([*low, *high]), rest),
        _ => return to.push_str("{}"),
    };
    let _ = match (family, rest) {
        (AF_UNIX, []) => write!(to, "{{AF_UNIX}}"),
        (AF_UNIX, [0, name @ ..]) => write!(to, "{{AF_UNIX, @\"{}\"}}", name.escape_ascii()),
        (AF_UNIX, name) => {
            let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
            write!(to, "{{AF_UNIX, \"{}\"}}", name.get(..end).unwrap_or_default().escape_ascii())
        }
        (AF_INET, [p, q, a, b, c, d, ..]) => {
            write!(to, "{{AF_INET, {a}.{b}.{c}.{d}:{}}}", u16::from_be_bytes([*p, *q]))
        }
        _ => {
            to.push('{');
            choice(to, &flags::DOMAIN, family.into());
            write!(to, ", {length} bytes}}")
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(kind: ArgKind, raw: u64) -> String {
        let mut to = String::new();
        argument(&mut to, kind, raw, &[0; 6], None);
        to
    }

    #[test]
    fn flags_by_name() {
        let open = ArgKind::Flags(&flags::OPEN);
        assert_eq!(said(open, 0o101), "O_WRONLY|O_CREAT");
        assert_eq!(said(open, 0o100), "O_RDONLY|O_CREAT");
        assert_eq!(said(open, 1 << 31), "O_RDONLY|0x80000000");
        assert_eq!(said(ArgKind::Flags(&flags::PROT), 0), "0");
        assert_eq!(said(ArgKind::Flags(&flags::PROT), 0x81), "PROT_READ|0x80");
        assert_eq!(said(open, 0x410000 | 2), "O_TMPFILE|O_RDWR");
        assert_eq!(said(ArgKind::Choice(&flags::CLOCK), 1), "CLOCK_MONOTONIC");
        assert_eq!(said(ArgKind::Choice(&flags::CLOCK), 99), "99");
    }

    #[test]
    fn sets_of_signals() {
        let mut to = String::new();
        signal_set(&mut to, 0b110).unwrap();
        signal_set(&mut to, !1).unwrap();
        assert_eq!(to, "[INT QUIT]~[HUP]");
    }
}
