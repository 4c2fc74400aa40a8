//! Attacks that the machine has to survive, and after which every device has to work.
//!
//! Each is named after what it tries. Those that others fell to name the CVE.

mod devices;
mod machine;
mod net;
mod queues;

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU32, Ordering};

use ringfence_hal::{console, cpu, time};

pub use queues::second_cpu;

use crate::device::{self, Device, ENTRIES, INDIRECT, NEXT, Verdict};
use crate::raw;

/// The machine's memory.
const MEMORY: u64 = 64 << 20;

type Attack = fn(&mut [Device]) -> Verdict;

const ATTACKS: &[(&str, Attack)] = &[
    ("queue registers are written after DRIVER_OK (CVE-2026-5747)", queues::move_active_queues),
    ("rings lie outside of memory, wrap around, are not aligned", queues::misplace_rings),
    ("status bits out of order, features that were not offered", queues::disorder_status),
    ("noise in all registers, in all widths", queues::noise),
    ("descriptor loop", |d| queues::chains(d, |_, _| (NEXT, 0))),
    ("next descriptor outside the table", |d| queues::chains(d, |_, _| (NEXT, ENTRIES))),
    ("indirect descriptor", |d| queues::chains(d, |_, direction| (direction | INDIRECT, 0))),
    ("chain begins outside the table", queues::head_outside),
    ("available index jumps", queues::index_jumps),
    ("buffer outside memory, across its end, wrapping around", queues::buffers_outside),
    ("device-readable descriptor after a device-writable one", queues::wrong_direction),
    ("empty and huge buffers", queues::odd_lengths),
    ("descriptors change while they are read", queues::descriptors_change),
    ("kicks of all queues, and of none, by the hundred", queues::kick_storm),
    ("writes to the read-only image (CVE-2026-24834)", devices::write_image),
    ("devices write to the read-only image (CVE-2026-46695)", devices::have_image_written),
    ("rng is asked for gigabytes", devices::rng_gigabytes),
    ("rng is asked without end", devices::rng_flood),
    ("balloon reports what is not memory", devices::balloon_reports_nonsense),
    ("balloon inflates what is not memory", devices::balloon_inflates_nonsense),
    ("balloon reports and fills the same memory again and again", devices::balloon_circles),
    ("block: sectors beyond the end, by overflow too; lengths that are none", devices::block_outside),
    ("block: unknown requests", devices::block_unknown),
    ("block: writes to a read-only disk", devices::block_read_only),
    ("net: frames of no length, headers that lie", net::nonsense),
    ("net: buffers that no frame fits in", net::small_buffers),
    ("net: both queues full while the host sends (CVE-2020-16843)", net::freeze),
    ("vsock: length beyond the descriptors (CVE-2019-18960)", devices::vsock_length),
    ("vsock: unknown operations, types, addresses", devices::vsock_nonsense),
    ("vsock: requests to every port", devices::vsock_ports),
    ("vsock: answers that nobody takes", devices::vsock_untaken),
    ("vsock: counters that lie", devices::vsock_counters),
    ("all ports, in all widths", machine::sweep_ports),
    ("addresses where nothing is", machine::sweep_holes),
    ("hypercalls", machine::hypercalls),
];

macro_rules! say {
    ($($text:tt)*) => { console::line(&format!($($text)*)) };
}

/// A port of vsock that the host listens on, and without which the sandbox goes on.
static PORT: AtomicU32 = AtomicU32::new(0);

/// Runs them all; `config` is the document the VMM gave us.
pub fn all(config: &str) -> ! {
    PORT.store(device::stdout_port(config).expect("a port for standard output"), Ordering::SeqCst);
    cpu::start_secondaries();
    let mut devices = device::find();
    let names: Vec<&str> = devices.iter().map(Device::name).collect();
    say!("hostile: {} devices: {}", devices.len(), names.join(", "));
    let (mut passed, mut failed) = (0, 0);
    for wanted in ["rng", "balloon", "vsock", "pmem", "block", "net"] {
        if !names.contains(&wanted) {
            say!("FAIL there is no {wanted}");
            failed += 1;
        }
    }
    for (name, attack) in ATTACKS {
        let before = time::now();
        let verdict = attack(&mut devices).and_then(|()| devices.iter_mut().try_for_each(Device::works));
        let ms = (time::now() - before) / 1_000_000;
        match verdict {
            Ok(()) => {
                say!("ok   {name} ({ms} ms)");
                passed += 1;
            }
            Err(why) => {
                say!("FAIL {name}: {why}");
                failed += 1;
            }
        }
    }
    say!("hostile: {passed} passed, {failed} failed");
    // The VMM shows what a kernel said that ends like this.
    raw::out32(machine::POWER_PORT, 1);
    raw::hang()
}

fn of(devices: &mut [Device], id: u32) -> Result<&mut Device, String> {
    devices.iter_mut().find(|device| device.id == id).ok_or_else(|| "no such device".into())
}
