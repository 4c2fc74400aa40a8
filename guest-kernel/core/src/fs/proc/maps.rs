//! `maps` and `smaps`.

use ringfence_hal::Prot;

use super::{Scope, Text, text::emit};
use crate::{
    errno::Result,
    fs::{DeviceId, Path},
    mm::{SmapsCounts, VmFlags, VmaInfo, VmaName},
};

/// Column at which names begin.
const NAME_COLUMN: usize = 73;

/// One line: what `show_map_vma` writes.
fn line(out: &mut Text, vma: &VmaInfo, root: &Path) {
    let start = out.0.len();
    emit!(out, "{:08x}-{:08x} ", vma.start, vma.end);
    out.bytes(&vma.permissions());
    let (dev, ino) = match &vma.name {
        VmaName::File(file) => {
            let m = file.metadata();
            (DeviceId::decode(m.dev), m.ino)
        }
        _ => (DeviceId::NONE, 0),
    };
    emit!(out, " {:08x} {:02x}:{:02x} {ino} ", vma.offset, dev.major, dev.minor);
    match &vma.name {
        VmaName::None => {}
        VmaName::Label(label) => {
            out.pad(start, NAME_COLUMN);
            emit!(out, "{label}");
        }
        VmaName::File(file) => {
            out.pad(start, NAME_COLUMN);
            out.escaped(&file.path().text(root).marked(), b"\n");
        }
    }
    emit!(out, "\n");
}

pub(super) fn maps(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let root = s.viewer.fs()?.root();
    if let Some(mm) = s.target()?.mm() {
        mm.vmas().for_each(|vma| line(out, &vma, &root));
    }
    Ok(())
}

fn counts(out: &mut Text, c: &SmapsCounts) {
    let dirty = c.shared_dirty + c.private_dirty;
    let lines = [
        ("Rss:", c.rss),
        ("Pss:", c.pss),
        ("Pss_Dirty:", dirty.min(c.pss)),
        ("Shared_Clean:", c.shared_clean),
        ("Shared_Dirty:", c.shared_dirty),
        ("Private_Clean:", c.private_clean),
        ("Private_Dirty:", c.private_dirty),
        ("Referenced:", c.referenced),
        ("Anonymous:", c.anonymous),
        ("LazyFree:", 0),
        ("AnonHugePages:", c.huge),
        ("ShmemPmdMapped:", 0),
        ("FilePmdMapped:", 0),
        ("Shared_Hugetlb:", 0),
        ("Private_Hugetlb:", 0),
        ("Swap:", 0),
        ("SwapPss:", 0),
    ];
    lines.iter().for_each(|(name, bytes)| kilobytes(out, name, *bytes));
}

fn kilobytes(out: &mut Text, name: &str, bytes: u64) {
    emit!(out, "{name:<16}{:>8} kB\n", bytes / 1024);
}

pub(super) fn smaps(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let root = s.viewer.fs()?.root();
    let Some(mm) = s.target()?.mm() else { return Ok(()) };
    for vma in mm.vmas() {
        line(out, &vma, &root);
        let c = mm.smaps(&vma);
        kilobytes(out, "Size:", vma.end - vma.start);
        kilobytes(out, "KernelPageSize:", 4096);
        kilobytes(out, "MMUPageSize:", 4096);
        counts(out, &c);
        kilobytes(out, "Locked:", if vma.flags.contains(VmFlags::LOCKED) { c.rss } else { 0 });
        emit!(out, "THPeligible:    {}\nVmFlags:", u8::from(mm.huge_eligible(&vma)));
        flags(&vma).for_each(|f| emit!(out, " {f}"));
        emit!(out, " \n");
    }
    Ok(())
}

fn flags(vma: &VmaInfo) -> impl Iterator<Item = &'static str> {
    let p = |x| vma.prot.contains(x);
    let f = |x| vma.flags.contains(x);
    [
        (p(Prot::READ), "rd"),
        (p(Prot::WRITE), "wr"),
        (p(Prot::EXEC), "ex"),
        (f(VmFlags::SHARED), "sh"),
        (true, "mr"),
        (f(VmFlags::MAYWRITE), "mw"),
        (f(VmFlags::MAYEXEC), "me"),
        (f(VmFlags::GROWSDOWN), "gd"),
        (f(VmFlags::LOCKED), "lo"),
        (f(VmFlags::DONTFORK), "dc"),
        (f(VmFlags::ACCOUNT), "ac"),
        (f(VmFlags::NORESERVE), "nr"),
        (f(VmFlags::WIPEONFORK), "wf"),
        (f(VmFlags::DONTDUMP), "dd"),
        (f(VmFlags::HUGEPAGE), "hg"),
        (f(VmFlags::NOHUGEPAGE), "nh"),
        (f(VmFlags::SEALED), "sl"),
    ]
    .into_iter()
    .filter(|(set, _)| *set)
    .map(|(_, name)| name)
}

pub(super) fn rollup(s: &Scope<'_>, out: &mut Text) -> Result<()> {
    let Some(mm) = s.target()?.mm() else { return Ok(()) };
    let mut sum = SmapsCounts::default();
    let (mut start, mut end, mut locked) = (None, 0, 0);
    for vma in mm.vmas() {
        let c = mm.smaps(&vma);
        start.get_or_insert(vma.start);
        end = vma.end;
        locked += if vma.flags.contains(VmFlags::LOCKED) { c.rss } else { 0 };
        sum.rss += c.rss;
        sum.pss += c.pss;
        sum.shared_clean += c.shared_clean;
        sum.shared_dirty += c.shared_dirty;
        sum.private_clean += c.private_clean;
        sum.private_dirty += c.private_dirty;
        sum.referenced += c.referenced;
        sum.anonymous += c.anonymous;
        sum.huge += c.huge;
    }
    let at = out.0.len();
    emit!(out, "{:08x}-{end:08x} ---p 00000000 00:00 0 ", start.unwrap_or(0));
    out.pad(at, NAME_COLUMN);
    emit!(out, "[rollup]\n");
    counts(out, &sum);
    kilobytes(out, "Locked:", locked);
    Ok(())
}
