//! Against what is not a device: ports, addresses, the hypervisor.

use ringfence_hal::cpu;

use super::{MEMORY, of};
use crate::device::{self, Device, PMEM, Verdict};
use crate::raw;

/// The port that ends the machine.
pub const POWER_PORT: u16 = 0x600;
/// The keyboard controller, whose reset line does.
const KEYBOARD_PORT: u16 = 0x64;

pub fn sweep_ports(_: &mut [Device]) -> Verdict {
    for port in 0..=u16::MAX {
        let ends = (POWER_PORT - 3..POWER_PORT + 4).contains(&port)
            || (KEYBOARD_PORT - 3..=KEYBOARD_PORT).contains(&port);
        // Each access is an exit: where nothing is, a sample.
        if ends || (port > 0x480 && !port.is_multiple_of(64)) {
            continue;
        }
        let serial = (0x3f0..0x400).contains(&port); // its text is ours to read
        if port.is_multiple_of(3) || port < 0x500 {
            raw::read_port(port);
        }
        if !serial {
            raw::out8(port, 0xff);
            if port.is_multiple_of(3) {
                raw::out16(port, 0xffff);
                raw::out32(port, 0xffff_fff0);
            }
        }
    }
    raw::out_string(0x604, &[0xff; 4096]);
    raw::out_string(0x80, &[0; 4096]);
    Ok(())
}

pub fn sweep_holes(devices: &mut [Device]) -> Verdict {
    let (image, len) = of(devices, PMEM)?.region();
    let beyond = image + len;
    let last = devices.iter().map(|device| device.phys).max().unwrap_or(0);
    for hole in [
        MEMORY,
        0xc000_0000,
        last + 0x1000,
        last + 0x10_0000,
        beyond,
        0xfff0_0000,
        0xffff_f000,
        0x70_0000_0000,
    ] {
        let page = device::map(hole, 0x1000);
        for offset in [0, 1, 0x50, 0x7f8, 0xff8] {
            let at = page.wrapping_add(offset);
            for width in [1, 2, 4, 8] {
                raw::access(at, width, Some(u64::MAX));
                raw::access(at, width, None);
            }
        }
    }
    Ok(())
}

pub fn hypercalls(_: &mut [Device]) -> Verdict {
    let amd = cpu::vendor() == "AuthenticAMD";
    for number in (0..32).chain([0x4000_0000, u64::MAX]) {
        for argument in [0, MEMORY, u64::MAX] {
            raw::hypercall(amd, number, argument);
        }
    }
    Ok(())
}
