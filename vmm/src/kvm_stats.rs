//! KVM's own counters, by the binary statistics interface (`Documentation/virt/kvm/api.rst`, 4.133).
//!
//! A statistics descriptor outlives the vCPU's own: it is opened before the vCPU goes to its thread and read
//! after the thread has ended.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd};
use std::os::unix::fs::FileExt;

use vmm_sys_util::ioctl::ioctl;

#[allow(missing_docs, reason = "a constant of the kernel")]
mod request {
    use vmm_sys_util::ioctl_io_nr;

    ioctl_io_nr!(KVM_GET_STATS_FD, kvm_bindings::KVMIO, 0xce);
}
use request::KVM_GET_STATS_FD;

const HEADER: usize = 24;
const DESCRIPTOR: usize = 16;
/// More than any KVM has; bounds what we read.
const MAX_TABLE: usize = 1 << 20;

/// Opens the statistics of a VM or vCPU.
pub fn open(fd: &impl AsRawFd) -> io::Result<File> {
    // SAFETY: the ioctl takes no argument and returns a new descriptor or -1.
    let stats = unsafe { ioctl(fd, KVM_GET_STATS_FD()) };
    if stats < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and belongs to nobody else.
    Ok(unsafe { File::from_raw_fd(stats) })
}

/// Adds the scalar counters of `file` to `totals`, leaving out zeroes.
pub fn add(file: &File, totals: &mut BTreeMap<String, u64>) -> io::Result<()> {
    let mut header = [0u8; HEADER];
    file.read_exact_at(&mut header, 0)?;
    let field = |n: usize| u32_at(&header, n * 4) as usize;
    let (name_size, count, descriptors, data) = (field(1), field(2), field(4), field(5));
    let table = count.saturating_mul(DESCRIPTOR + name_size);
    if table > MAX_TABLE {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut table = vec![0u8; table];
    file.read_exact_at(&mut table, descriptors as u64)?;
    for descriptor in table.chunks_exact(DESCRIPTOR + name_size) {
        let values = u16::from_le_bytes([descriptor[6], descriptor[7]]);
        if values != 1 {
            continue; // a histogram
        }
        let offset = u32_at(descriptor, 8) as usize;
        let name = descriptor[DESCRIPTOR..].split(|&b| b == 0).next().unwrap_or_default();
        let mut value = [0u8; 8];
        file.read_exact_at(&mut value, (data + offset) as u64)?;
        let value = u64::from_le_bytes(value);
        if value != 0 {
            *totals.entry(String::from_utf8_lossy(name).into_owned()).or_default() += value;
        }
    }
    Ok(())
}

fn u32_at(b: &[u8], at: usize) -> u32 {
    u32::from_le_bytes([b[at], b[at + 1], b[at + 2], b[at + 3]])
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn scalars_are_added_and_histograms_left_out() {
        let mut b = Vec::new();
        for n in [0u32, 8, 2, 24, 24, 72] {
            b.extend(n.to_le_bytes());
        }
        for (values, offset, name) in [(1u16, 0u32, b"exits\0\0\0"), (3, 8, b"halt_his")] {
            b.extend([0; 6]);
            b.extend(values.to_le_bytes());
            b.extend(offset.to_le_bytes());
            b.extend([0; 4]);
            b.extend(name);
        }
        b.extend(7u64.to_le_bytes());
        b.extend([9; 24]);
        let fd = rustix::fs::memfd_create("stats", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let mut file = File::from(fd);
        file.write_all(&b).unwrap();
        let mut totals = BTreeMap::new();
        add(&file, &mut totals).unwrap();
        add(&file, &mut totals).unwrap();
        assert_eq!(totals.into_iter().collect::<Vec<_>>(), [("exits".to_owned(), 14)]);
    }
}
