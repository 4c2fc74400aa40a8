//! Ways for the machine to end.

use super::asm::{halt_forever, outb, outl};
use super::console;

/// The power port of `ringfence_protocol::power`: a 32-bit write ends the machine.
const PORT: u16 = 0x600;
const OFF: u32 = 0;
const PANIC: u32 = 1;
const BOOT_FAILED: u32 = 2;

/// Orderly power-off.
pub fn off() -> ! {
    end(OFF)
}

/// The guest cannot boot; the text goes to the serial port.
pub fn boot_failed(msg: &str) -> ! {
    console::write("ringfence: boot failed: ");
    console::write(msg);
    console::write("\n");
    end(BOOT_FAILED)
}

/// After the panic text is out.
pub(super) fn panicked() -> ! {
    end(PANIC)
}

fn end(code: u32) -> ! {
    // SAFETY: the port only tells the VMM; what follows is for machines without one (QEMU): the keyboard
    // controller's reset line.
    unsafe {
        outl(PORT, code);
        outb(0x64, 0xfe);
    }
    halt_forever()
}
