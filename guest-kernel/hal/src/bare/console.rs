//! The console: what the kernel says to its developers, and the text of a panic.
//!
//! A line of the log is handed to the VMM as a whole, by its address (`ringfence_protocol::console`): one exit. The
//! bytes of a panic go to the serial port, COM1, one exit each: that needs no lock and no memory, and works on machines
//! whose VMM does not know the console port.

use super::asm::{inb, inl, outb, outl};
use super::layout::KERNEL_BASE;
use crate::sync::SpinLock;
use core::sync::atomic::{AtomicU8, Ordering};

const COM1: u16 = 0x3f8;
const LINE_STATUS: u16 = COM1 + 5;
const TRANSMITTER_EMPTY: u8 = 1 << 5;

/// The console port of `ringfence_protocol::console`.
const PORT: u16 = 0x604;
const MAGIC: u32 = 0x4e4c_4652;
const MAX: usize = 1024;

/// What the VMM reads: a length, and that many bytes.
#[repr(C)]
struct Line {
    len: u32,
    text: [u8; MAX],
}

static LINE: SpinLock<Line> = SpinLock::new(Line { len: 0, text: [0; MAX] });

/// Whether there is a console port; not asked yet, no, yes.
static PRESENT: AtomicU8 = AtomicU8::new(UNKNOWN);
const UNKNOWN: u8 = 0;
const NO: u8 = 1;
const YES: u8 = 2;

/// Writes text, `\n` as `\r\n`. Takes no lock, so it works in a panic.
pub fn write(s: &str) {
    for b in s.bytes() {
        if b == b'\n' {
            put(b'\r');
        }
        put(b);
    }
}

/// Writes a line of the log; what is beyond [`MAX`] bytes is cut off.
pub fn line(s: &str) {
    if !has_port() {
        write(s);
        write("\n");
        return;
    }
    let mut line = LINE.lock();
    let n = s.len().min(MAX - 2);
    line.text[..n].copy_from_slice(&s.as_bytes()[..n]);
    line.text[n..n + 2].copy_from_slice(b"\r\n");
    line.len = n as u32 + 2;
    let phys = (&raw const *line).addr() as u64 - KERNEL_BASE;
    // The VMM reads it before the instruction is over: what was written must be in memory by then, for the compiler, too.
    core::sync::atomic::fence(Ordering::SeqCst);
    // SAFETY: the VMM only reads memory. The image lies below 4 GiB.
    unsafe { outl(PORT, phys as u32) };
}

fn has_port() -> bool {
    if PRESENT.load(Ordering::Relaxed) == UNKNOWN {
        // SAFETY: a port that is not there reads as all ones.
        let magic = unsafe { inl(PORT) };
        PRESENT.store(if magic == MAGIC { YES } else { NO }, Ordering::Relaxed);
    }
    PRESENT.load(Ordering::Relaxed) == YES
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
