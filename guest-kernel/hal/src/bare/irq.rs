//! Device interrupts: the I/O APIC.

use super::layout::window_ptr;
use super::paging::{self, Caching};
use super::{apic, cpu};
use crate::sync::SpinLock;

/// Physical address of the I/O APIC's registers.
const BASE: u64 = 0xfec0_0000;
/// Offsets: which register, and its value.
const SELECT: u64 = 0x00;
const VALUE: u64 = 0x10;
/// First redirection entry; two registers each.
const REDIRECTION: u32 = 0x10;

/// The select register is shared. True: the registers are mapped.
static IOAPIC: SpinLock<bool> = SpinLock::new(false);

/// Lets the interrupts of a global system interrupt through: edge-triggered, to this CPU, as
/// [`Interrupt::Device`](crate::Interrupt). A number the machine does not have is ignored.
pub fn enable(gsi: u32) {
    if gsi >= apic::GSIS.into() {
        return;
    }
    let mut mapped = IOAPIC.lock();
    if !*mapped {
        if paging::map_region(BASE..BASE + 0x1000, Caching::Device).is_err() {
            crate::log!(Error, "hal: the I/O APIC cannot be mapped");
            return;
        }
        *mapped = true;
    }
    let vector = u32::from(apic::DEVICE_VECTORS) + gsi;
    write(REDIRECTION + 2 * gsi + 1, (cpu::id() as u32) << 24);
    write(REDIRECTION + 2 * gsi, vector);
}

/// Under the lock, with the registers mapped.
fn write(register: u32, value: u32) {
    // SAFETY: device registers, which do not touch memory.
    unsafe {
        window_ptr::<u32>(BASE + SELECT).write_volatile(register);
        window_ptr::<u32>(BASE + VALUE).write_volatile(value);
    }
}
