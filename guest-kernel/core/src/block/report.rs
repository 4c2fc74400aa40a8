//! What procfs and sysfs tell of disks.

use alloc::string::String;
use core::fmt::Write;
use core::sync::atomic::Ordering;

use super::{BlockDevice, SECTOR};

/// `/proc/partitions`.
pub fn partitions() -> String {
    let mut out = String::from("major minor  #blocks  name\n\n");
    for device in super::all() {
        let (id, kib) = (device.id, device.cache.bytes() / 1024);
        let _ = writeln!(out, "{:4}  {:7} {kib:10} {}", id.major, id.minor, device.name);
    }
    out
}

/// `/proc/diskstats`. Times are not measured.
pub fn diskstats() -> String {
    let mut out = String::new();
    for device in super::all() {
        let (id, name) = (device.id, &device.name);
        let _ = write!(out, "{:4} {:7} {name} {}", id.major, id.minor, stat(&device));
    }
    out
}

/// `/sys/block/NAME/stat`.
pub fn stat(device: &BlockDevice) -> String {
    let counts = &device.cache.counts;
    let [reads, read] = counts.reads.each_ref().map(|n| n.load(Ordering::Relaxed));
    let [writes, written] = counts.writes.each_ref().map(|n| n.load(Ordering::Relaxed));
    alloc::format!("{reads} 0 {read} 0 {writes} 0 {written} 0 0 0 0 0 0 0 0 0 0 0\n")
}

/// `/sys/block/NAME/size`: always in units of 512 bytes.
pub fn sectors(device: &BlockDevice) -> u64 {
    device.cache.bytes() / SECTOR
}
