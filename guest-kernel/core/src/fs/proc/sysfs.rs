//! sysfs (sysfs(5)): only what programs ask to learn about processors and memory.

use alloc::sync::Arc;
use core::sync::atomic::Ordering;

use ringfence_hal as hal;

use super::{Entry, Instance, Node, Scope, Text, dir, file, inode, status, text::emit, who::Who, writable};
use crate::{
    block,
    errno::{Errno, Result},
    fs::{FileSystem, InodeRef, StatFs, filesystems, inode::alloc_anonymous_dev},
    mm::huge,
    ns::PidNamespace,
    sync::Once,
    task::Capabilities,
};

/// What the root directory has.
#[cfg(test)]
pub(super) fn entries() -> &'static [Entry] {
    match &ROOT.node {
        super::Node::Dir(entries) => entries,
        _ => &[],
    }
}

static ROOT: Entry = dir(
    "",
    &[
        disks("block", Node::Disks(None)),
        dir("bus", &[]),
        dir("class", &[disks("block", Node::Disks(Some("../../block/")))]),
        dir("dev", &[disks("block", Node::DiskNumbers("../../block/")), dir("char", &[])]),
        dir("devices", &[dir("system", &[dir("cpu", CPU), dir("node", NODE)])]),
        dir("fs", &[dir("cgroup", &[])]),
        dir("kernel", &[dir("mm", &[dir("transparent_hugepage", HUGE)])]),
    ],
);

const fn disks(name: &'static str, node: Node) -> Entry {
    Entry { name, mode: 0o555, private: false, node }
}

const CPU: &[Entry] = &[
    file("kernel_max", |_, out| {
        emit!(out, "{}\n", hal::cpu::MAX - 1);
        Ok(())
    }),
    file("online", |_, out| range(hal::cpu::online(), out)),
    file("possible", |_, out| range(hal::cpu::count(), out)),
    file("present", |_, out| range(hal::cpu::count(), out)),
];

const NODE: &[Entry] = &[file("online", |_, out| range(1, out)), file("possible", |_, out| range(1, out))];

/// The first `count` numbers as a list.
fn range(count: usize, out: &mut Text) -> Result<()> {
    status::list(if count >= 64 { u64::MAX } else { (1 << count) - 1 }, out);
    emit!(out, "\n");
    Ok(())
}

const HUGE: &[Entry] = &[
    writable("enabled", huge_pages, set_huge_pages),
    // A fault takes a block that is free and never waits for one to be made.
    file("defrag", |_, out| {
        emit!(out, "always defer defer+madvise madvise [never]\n");
        Ok(())
    }),
    file("shmem_enabled", |_, out| {
        emit!(out, "always within_size advise [never] deny force\n");
        Ok(())
    }),
    file("use_zero_page", |_, out| {
        emit!(out, "0\n");
        Ok(())
    }),
    // What allocators of run-times align to.
    file("hpage_pmd_size", |_, out| {
        emit!(out, "{}\n", huge::HUGE_SIZE);
        Ok(())
    }),
];

fn set_huge_pages(s: &Scope<'_>, bytes: &[u8]) -> Result<()> {
    if !s.viewer.credentials().capable(Capabilities::SYS_ADMIN) {
        return Err(Errno::EPERM);
    }
    let word = bytes.trim_ascii();
    let mode = huge::MODES.iter().position(|mode| mode.as_bytes() == word).ok_or(Errno::EINVAL)?;
    huge::MODE.store(mode as u64, Ordering::Relaxed);
    Ok(())
}

fn huge_pages(_: &Scope<'_>, out: &mut Text) -> Result<()> {
    let now = huge::MODE.load(Ordering::Relaxed) as usize;
    for (i, mode) in huge::MODES.iter().enumerate() {
        let separator = if i == 0 { "" } else { " " };
        if i == now {
            emit!(out, "{separator}[{mode}]");
        } else {
            emit!(out, "{separator}{mode}");
        }
    }
    emit!(out, "\n");
    Ok(())
}

/// A file of a disk.
macro_rules! of_disk {
    ($name:literal, |$disk:ident| $($text:tt)*) => {
        file($name, |s, out| {
            let Who::Disk(n) = s.who else { return Err(Errno::ENOENT) };
            let $disk = block::nth(n).ok_or(Errno::ENOENT)?;
            emit!(out, $($text)*);
            Ok(())
        })
    };
}

/// A directory of `/sys/block`.
pub(super) const DISK: &[Entry] = &[
    of_disk!("dev", |d| "{}:{}\n", d.id.major, d.id.minor),
    of_disk!("size", |d| "{}\n", block::report::sectors(&d)),
    of_disk!("ro", |d| "{}\n", u8::from(d.cache.read_only())),
    of_disk!("removable", |_d| "0\n"),
    of_disk!("hidden", |_d| "0\n"),
    of_disk!("range", |_d| "16\n"),
    of_disk!("ext_range", |_d| "256\n"),
    of_disk!("alignment_offset", |_d| "0\n"),
    of_disk!("discard_alignment", |_d| "0\n"),
    of_disk!("cache_type", |_d| "write back\n"),
    of_disk!("diskseq", |d| "{}\n", d.id.minor / 16 + 1),
    of_disk!("stat", |d| "{}", block::report::stat(&d)),
    of_disk!("uevent", |d| "MAJOR={}\nMINOR={}\nDEVNAME={}\nDEVTYPE=disk\n", d.id.major, d.id.minor, d.name),
    file("serial", |s, out| {
        let Who::Disk(n) = s.who else { return Err(Errno::ENOENT) };
        let id = block::nth(n).ok_or(Errno::ENOENT)?.cache.storage().identity(s.viewer)?;
        let text = id.split(|b| *b == 0).next().unwrap_or_default();
        out.0.extend_from_slice(text);
        Ok(())
    }),
    dir("holders", &[]),
    dir("slaves", &[]),
    dir("queue", QUEUE),
];

const QUEUE: &[Entry] = &[
    of_disk!("logical_block_size", |_d| "512\n"),
    of_disk!("physical_block_size", |_d| "512\n"),
    of_disk!("hw_sector_size", |_d| "512\n"),
    of_disk!("minimum_io_size", |_d| "512\n"),
    of_disk!("optimal_io_size", |_d| "0\n"),
    of_disk!("discard_granularity", |_d| "512\n"),
    of_disk!("discard_max_bytes", |d| "{}\n", if d.cache.storage().read_only() { 0 } else { 1u64 << 30 }),
    of_disk!("discard_zeroes_data", |_d| "0\n"),
    of_disk!("read_ahead_kb", |_d| "128\n"),
    of_disk!("rotational", |_d| "1\n"),
    of_disk!("scheduler", |_d| "[none]\n"),
    of_disk!("write_cache", |_d| "write back\n"),
    of_disk!("zoned", |_d| "none\n"),
];

struct Sysfs(Arc<Instance>);

/// Makes the type known.
pub(super) fn register() {
    static INSTANCE: Once<Arc<Sysfs>> = Once::new();
    filesystems::register("sysfs", |_options, _mounter| {
        Ok(INSTANCE
            .call_once(|| {
                let ns = PidNamespace::initial().clone();
                Arc::new(Sysfs(Arc::new(Instance { dev: alloc_anonymous_dev(), ns })))
            })
            .clone())
    });
}

impl FileSystem for Sysfs {
    fn name(&self) -> &'static str {
        "sysfs"
    }

    fn dev(&self) -> u64 {
        self.0.dev
    }

    fn root(&self) -> InodeRef {
        inode::table_root(self.0.clone(), &ROOT)
    }

    fn statfs(&self) -> StatFs {
        StatFs { magic: 0x6265_6572, block_size: 4096, name_max: 255, ..StatFs::default() }
    }
}
