//! What `--stats` prints: one report of everything counted during a run.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};

use ringfence_protocol::GuestStats;
use serde::{Deserialize, Serialize};

use crate::kvm_stats;
use crate::machine::Machine;
use crate::machine::vcpu;
use crate::timeline::{Mark, Timeline};

/// The statistics descriptors of a machine.
pub struct KvmStats {
    /// Of the VM.
    pub vm: Option<File>,
    /// Of each vCPU.
    pub vcpus: Vec<File>,
}

/// The report. Field names are the JSON schema.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Points of the start and the end, microseconds since the command was entered.
    pub phases: Vec<Mark>,
    /// Exits that reached the VMM, by reason.
    pub exits: Exits,
    /// KVM's counters, summed over vCPUs (`exits` is every exit, in-kernel ones included); empty before Linux 5.14.
    pub kvm: BTreeMap<String, u64>,
    /// Host memory.
    pub memory: Memory,
    /// The guest kernel's own counters.
    pub guest: Option<GuestStats>,
}

/// [`vcpu::Exits`], with their sum.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "as there")]
pub struct Exits {
    /// All of them.
    pub total: u64,
    pub io: u64,
    pub mmio_read: u64,
    pub mmio_write: u64,
    pub readonly_write: u64,
    pub unmapped: u64,
    pub interrupted: u64,
    pub other: u64,
}

impl From<&vcpu::Exits> for Exits {
    fn from(exits: &vcpu::Exits) -> Self {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Self {
            total: exits.total(),
            io: now(&exits.io),
            mmio_read: now(&exits.mmio_read),
            mmio_write: now(&exits.mmio_write),
            readonly_write: now(&exits.readonly_write),
            unmapped: now(&exits.unmapped),
            interrupted: now(&exits.interrupted),
            other: now(&exits.other),
        }
    }
}

/// Host memory in bytes.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Memory {
    /// Proportional set size of the command's processes without the guest's RAM and image.
    pub vmm_pss: u64,
    /// Guest RAM that has a host page behind it.
    pub guest_touched: u64,
    /// Proportional set size of the mapped image.
    pub image_pss: u64,
    /// Configured RAM.
    pub guest_size: u64,
    /// Guest RAM in the page tables of the processes measured.
    #[serde(skip)]
    pub guest_mapped: u64,
}

impl Report {
    /// Reads everything but what [`Memory::measure`] does. The vCPUs have stopped, the guest's RAM is still there.
    pub fn gather(
        machine: &Machine,
        kvm_stats: &KvmStats,
        timeline: &Timeline,
        guest: Option<GuestStats>,
    ) -> Self {
        let mut kvm = BTreeMap::new();
        for file in kvm_stats.vcpus.iter().chain(&kvm_stats.vm) {
            // Counters are a courtesy; a KVM that cannot tell them is no reason to fail.
            let _ = kvm_stats::add(file, &mut kvm);
        }
        let memory = Memory {
            guest_touched: machine.ram().touched(),
            guest_size: machine.ram().size(),
            ..Memory::default()
        };
        Self {
            phases: timeline.marks().to_vec(),
            exits: Exits::from(&machine.shared().exits),
            kvm,
            memory,
            guest,
        }
    }
}

impl Memory {
    /// Adds what `process` (a name in `/proc`) takes, with `image` at this address and of this length in it. A VMM in
    /// its jail has no procfs to see its own in.
    pub fn measure(&mut self, process: &str, image: Option<(u64, u64)>) {
        let smaps = std::fs::read_to_string(format!("/proc/{process}/smaps")).unwrap_or_default();
        add_smaps(self, &smaps, image);
    }
}

/// Sums the Pss lines of `/proc/PID/smaps`, apart for our own memory and for the image.
fn add_smaps(memory: &mut Memory, smaps: &str, image: Option<(u64, u64)>) {
    let (mut is_ram, mut is_image) = (false, false);
    let kib = |line: &str| line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0u64);
    for line in smaps.lines() {
        let first = line.split_whitespace().next().unwrap_or_default();
        if let Some((start, end)) = first.split_once('-')
            && let (Ok(start), Ok(_)) = (u64::from_str_radix(start, 16), u64::from_str_radix(end, 16))
        {
            is_ram = line.contains("memfd:ringfence-ram");
            is_image = image.is_some_and(|(at, len)| (at..at + len).contains(&start));
        } else if first == "Rss:" && is_ram {
            memory.guest_mapped += kib(line) << 10;
        } else if first == "Pss:" {
            match (is_ram, is_image) {
                (true, _) => {}
                (_, true) => memory.image_pss += kib(line) << 10,
                _ => memory.vmm_pss += kib(line) << 10,
            }
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "phases (µs):")?;
        for mark in &self.phases {
            writeln!(f, "  {:>10}  {}", mark.at_us, mark.name)?;
        }
        let exits = serde_json::to_value(&self.exits).map_err(|_| fmt::Error)?;
        write!(f, "exits to the VMM:")?;
        for (name, count) in exits.as_object().into_iter().flatten() {
            write!(f, " {name}={count}")?;
        }
        write!(f, "\nKVM:")?;
        for (name, count) in &self.kvm {
            write!(f, " {name}={count}")?;
        }
        let Memory { vmm_pss, guest_touched, image_pss, guest_size, .. } = self.memory;
        writeln!(
            f,
            "\nmemory (KiB): vmm_pss={} guest_touched={} image_pss={} guest_size={}",
            vmm_pss >> 10,
            guest_touched >> 10,
            image_pss >> 10,
            guest_size >> 10
        )?;
        let Some(guest) = &self.guest else { return writeln!(f, "guest: no counters") };
        writeln!(
            f,
            "guest frames (4 KiB): total={} free={} touched={} user={}; page faults={} context switches={}",
            guest.frames_total,
            guest.frames_free,
            guest.frames_touched,
            guest.frames_user,
            guest.page_faults,
            guest.context_switches
        )?;
        for phase in &guest.phases {
            writeln!(f, "  {:>10}  guest: {}", phase.at_ns / 1000, phase.name.escape_debug())?;
        }
        write!(f, "system calls:")?;
        for call in &guest.syscalls {
            write!(f, " {}={}", call.nr, call.count)?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn smaps_are_told_apart() {
        let smaps = "1000-2000 r-xp 0 0:0 1 /bin/ringfence\nRss: 9 kB\nPss: 4 kB\n\
                     5000-9000 rw-s 0 0:1 2 /memfd:ringfence-ram (deleted)\nPss: 100 kB\n\
                     a000-c000 r--s 0 0:1 3 /x.erofs\nPss: 8 kB\nd000-e000 rw-p 0 0:0 0 [heap]\nPss: 1 kB\n";
        let mut m = Memory::default();
        add_smaps(&mut m, smaps, Some((0xa000, 0x2000)));
        assert_eq!((m.vmm_pss, m.image_pss), (5 << 10, 8 << 10));
    }
}
