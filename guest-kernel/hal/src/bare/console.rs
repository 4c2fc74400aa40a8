//! The serial port, COM1: early log and panic text only. Every byte is a VM exit, so nobody prints on a hot path.

use super::asm::{inb, outb};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// Writes text, `\n` as `\r\n`. Takes no lock, so it works in a panic; [`log!`](crate::log!) keeps lines whole.
pub fn write(s: &str) {
    for b in s.bytes() {
        if b == b'\n' {
            put(b'\r');
        }
        put(b);
    }
}

fn put(b: u8) {
    // A port that is not there reads as all ones; one that is stuck does not stop us.
    for _ in 0..10_000 {
        // SAFETY: the UART does not touch memory.
        if unsafe { inb(LINE_STATUS) } & TRANSMITTER_EMPTY != 0 {
            break;
        }
    }
    // SAFETY: as above.
    unsafe { outb(COM1, b) };
}
