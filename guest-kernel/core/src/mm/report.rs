//! What procfs shows of an address space.

use core::sync::atomic::Ordering;

use ringfence_hal as hal;
use ringfence_hal::Prot;

use super::{Backing, Layout, Mm, PAGE_SIZE, VmFlags, Vma};
use crate::fs::FileRef;

/// What a mapping is called in `/proc/PID/maps`.
#[derive(Clone)]
pub enum VmaName {
    /// Nothing.
    None,
    /// `[heap]`, `[stack]`, `[vdso]`, `/dev/zero (deleted)` …
    Label(&'static str),
    /// A file: its path, device and inode number are the columns.
    File(FileRef),
}

/// One line of `/proc/PID/maps`.
#[derive(Clone)]
pub struct VmaInfo {
    /// First address.
    pub start: u64,
    /// First address after it.
    pub end: u64,
    /// Protection.
    pub prot: Prot,
    /// Flags.
    pub flags: VmFlags,
    /// Byte offset in the file; 0 for anonymous memory.
    pub offset: u64,
    /// Its name; also gives device and inode number.
    pub name: VmaName,
    /// Whether it is plain anonymous memory.
    pub anonymous: bool,
    /// Whether it has, or has had, pages of its own.
    pub has_private: bool,
}

impl VmaInfo {
    /// The four letters of `/proc/PID/maps`, such as `r-xp`.
    pub fn permissions(&self) -> [u8; 4] {
        let letter = |set, yes| if set { yes } else { b'-' };
        [
            letter(self.prot.contains(Prot::READ), b'r'),
            letter(self.prot.contains(Prot::WRITE), b'w'),
            letter(self.prot.contains(Prot::EXEC), b'x'),
            if self.flags.contains(VmFlags::SHARED) { b's' } else { b'p' },
        ]
    }
}

/// Resident pages of a mapping, in bytes, as `/proc/PID/smaps` counts them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SmapsCounts {
    /// In the page tables.
    pub rss: u64,
    /// Referred to by others too, and not written here.
    pub shared_clean: u64,
    /// Referred to by others too, and written here.
    pub shared_dirty: u64,
    /// Only here, not written.
    pub private_clean: u64,
    /// Only here, and written.
    pub private_dirty: u64,
    /// Accessed since mapped.
    pub referenced: u64,
    /// Not an object's, copies of its pages included.
    pub anonymous: u64,
    /// In large pages.
    pub huge: u64,
    /// `rss` with each page divided by the number of its users, where we know it.
    pub pss: u64,
}

/// Sizes of an address space, in pages: `/proc/PID/statm`, `stat` and `status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MmStats {
    /// All mappings (VmSize).
    pub size: u64,
    /// The largest `size` so far (VmPeak).
    pub peak: u64,
    /// In the page tables (VmRSS).
    pub resident: u64,
    /// The largest `resident` so far (VmHWM).
    pub peak_resident: u64,
    /// Resident anonymous memory (RssAnon).
    pub anonymous: u64,
    /// Resident pages of objects (RssFile and RssShmem).
    pub object: u64,
    /// Private writable mappings (VmData).
    pub data: u64,
    /// Stacks (VmStk).
    pub stack: u64,
    /// Executable mappings (VmExe and VmLib).
    pub exec: u64,
    /// The program's own code (VmExe).
    pub text: u64,
    /// In large pages.
    pub huge: u64,
    /// Page tables (VmPTE).
    pub tables: u64,
    /// Locked (VmLck).
    pub locked: u64,
    /// Number of mappings.
    pub mappings: usize,
}

impl Mm {
    /// The first mapping that ends after `addr`. Iterating by the last one's `end` visits every mapping once, even
    /// while they change.
    pub fn vma_after(&self, addr: u64) -> Option<VmaInfo> {
        let layout = self.layout.read();
        layout.vmas.find_at_or_after(addr).map(|vma| describe(&layout, vma))
    }

    /// All mappings, at most `super::MAX_MAP_COUNT`.
    pub fn vmas(&self) -> impl Iterator<Item = VmaInfo> {
        let mut at = 0;
        core::iter::from_fn(move || {
            let info = self.vma_after(at)?;
            at = info.end;
            Some(info)
        })
    }

    /// Counts the resident pages of a mapping found by [`vma_after`](Self::vma_after).
    pub fn smaps(&self, info: &VmaInfo) -> SmapsCounts {
        let mut counts = SmapsCounts::default();
        let zero = super::fault::zero_frame().map(|f| f.pfn());
        let mut at = info.start;
        while at < info.end
            && let Some(page) = self.space.next_mapped(at..info.end)
        {
            at = page + PAGE_SIZE;
            if let Some(mapping) = self.space.get(page)
                && Some(mapping.frame.pfn()) != zero
            {
                counts.rss += PAGE_SIZE;
                // One reference is the entry's, one is ours.
                let users = mapping.frame.ref_count().saturating_sub(1).max(1) as u64;
                let shared = users > 1 || mapping.frame.is_static();
                counts.pss += PAGE_SIZE / users;
                let kind = match (shared, mapping.dirty) {
                    (true, false) => &mut counts.shared_clean,
                    (true, true) => &mut counts.shared_dirty,
                    (false, false) => &mut counts.private_clean,
                    (false, true) => &mut counts.private_dirty,
                };
                *kind += PAGE_SIZE;
                if mapping.accessed {
                    counts.referenced += PAGE_SIZE;
                }
                if mapping.huge {
                    counts.huge += PAGE_SIZE;
                }
                // A private mapping has an object's page as it is, which the object refers to, too, or a copy of its own.
                let private = !info.flags.contains(VmFlags::SHARED);
                if info.anonymous || (private && (mapping.dirty || !shared)) {
                    counts.anonymous += PAGE_SIZE;
                }
            }
        }
        counts
    }

    /// Start of the heap (`start_brk` of `/proc/PID/stat`).
    pub fn heap_start(&self) -> u64 {
        self.layout.read().brk_start
    }

    /// Sizes.
    pub fn stats(&self) -> MmStats {
        let layout = self.layout.read();
        let totals = layout.vmas.totals();
        let count = |n: i64| u64::try_from(n).unwrap_or(0);
        let image = &layout.image;
        MmStats {
            size: totals.all,
            peak: layout.peak_pages.max(totals.all),
            resident: self.space.resident() as u64,
            peak_resident: self.peak_resident.load(Ordering::Relaxed),
            anonymous: count(self.anon_pages.load(Ordering::Relaxed)),
            object: count(self.object_pages.load(Ordering::Relaxed)),
            data: totals.data,
            stack: totals.stack,
            exec: totals.exec,
            text: image.end_code.saturating_sub(image.start_code).div_ceil(PAGE_SIZE),
            huge: self.space.huge_pages() as u64 * hal::HUGE_PAGES as u64,
            tables: self.space.tables() as u64,
            locked: totals.locked,
            mappings: layout.vmas.count(),
        }
    }
}

fn describe(layout: &Layout, vma: &Vma) -> VmaInfo {
    let (name, offset) = match &vma.backing {
        Backing::Object { file: Some(file), offset, .. } => (VmaName::File(file.clone()), *offset),
        Backing::Object { object, offset, .. } => {
            (object.label().map_or(VmaName::None, VmaName::Label), *offset)
        }
        Backing::Anonymous => (anonymous_name(layout, vma), 0),
    };
    let anonymous = vma.is_anonymous();
    let (has_private, flags) = (vma.has_private_pages(), vma.flags);
    VmaInfo { start: vma.start, end: vma.end, prot: vma.prot, flags, offset, name, anonymous, has_private }
}

fn anonymous_name(layout: &Layout, vma: &Vma) -> VmaName {
    let stack = layout.image.start_stack;
    if vma.start <= stack && stack < vma.end {
        VmaName::Label("[stack]")
    } else if layout.brk > layout.brk_start && vma.start < layout.brk && layout.brk_start < vma.end {
        VmaName::Label("[heap]")
    } else {
        VmaName::None
    }
}
