//! The format of a core file: ELF of type `ET_CORE`, as gdb and its kin read it and Linux writes it.
//!
//! The ELF header and the program headers; notes: of the thread that was hit its registers, then of the process who it was, the
//! signal, the auxiliary vector and the mapped files, then the thread's FPU state, then the other threads; then,
//! page-aligned, the memory of each mapping that is wanted (`/proc/PID/coredump_filter`), with holes for pages that
//! were never touched.

use alloc::{vec, vec::Vec};
use core::sync::atomic::Ordering;

use ringfence_hal::Prot;

use super::{
    SigInfo,
    core_dump::{Output, Thread},
};
use crate::{
    TaskRef,
    errno::{Errno, Result},
    mm::{Mm, PAGE_SIZE, VmFlags, VmaInfo, VmaName},
    sched,
    task::limits::UsageSum,
};

const NT_PRSTATUS: u32 = 1;
const NT_FPREGSET: u32 = 2;
const NT_PRPSINFO: u32 = 3;
const NT_AUXV: u32 = 6;
const NT_X86_XSTATE: u32 = 0x202;
const NT_SIGINFO: u32 = 0x5349_4749;
const NT_FILE: u32 = 0x4649_4c45;

const EHDR: u64 = 64;
const PHDR: u64 = 56;
const PT_LOAD: u32 = 1;
const PT_NOTE: u32 = 4;

/// Bits of `coredump_filter`.
mod filter {
    pub const ANONYMOUS_PRIVATE: u32 = 1 << 0;
    pub const ANONYMOUS_SHARED: u32 = 1 << 1;
    pub const FILE_PRIVATE: u32 = 1 << 2;
    pub const FILE_SHARED: u32 = 1 << 3;
    pub const ELF_HEADERS: u32 = 1 << 4;
}

/// What Linux begins with: anonymous memory, ELF headers, private large pages.
pub const FILTER_DEFAULT: u32 = 0x33;

/// Bytes with numbers in them.
#[derive(Default)]
struct Bytes(Vec<u8>);

impl Bytes {
    fn u16(&mut self, v: u16) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    fn u32(&mut self, v: u32) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    fn u64(&mut self, v: u64) -> &mut Self {
        self.0.extend_from_slice(&v.to_le_bytes());
        self
    }

    /// Text in a field of `len` bytes.
    fn text(&mut self, text: &[u8], len: usize) -> &mut Self {
        let end = self.0.len() + len;
        self.0.extend_from_slice(text.get(..text.len().min(len)).unwrap_or_default());
        self.0.resize(end, 0);
        self
    }

    fn align(&mut self, to: usize) {
        self.0.resize(self.0.len().next_multiple_of(to), 0);
    }

    fn note(&mut self, name: &[u8], kind: u32, content: &[u8]) {
        self.u32(name.len() as u32 + 1).u32(content.len() as u32).u32(kind);
        self.text(name, name.len() + 1).align(4);
        self.0.extend_from_slice(content);
        self.align(4);
    }
}

/// Seconds and microseconds.
fn time(b: &mut Bytes, ns: u64) {
    b.u64(ns / 1_000_000_000).u64(ns % 1_000_000_000 / 1000);
}

/// `pr_pid`, `pr_ppid`, `pr_pgrp`, `pr_sid`.
fn numbers(b: &mut Bytes, task: &TaskRef, own: i32) {
    let process = task.process();
    let group = process.group();
    let show = |global| task.pids().show(global) as u32;
    b.u32(own as u32).u32(show(process.parent_pid())).u32(show(group.pgid)).u32(show(group.session.sid));
}

/// `struct elf_prstatus`.
fn status(thread: &Thread, info: &SigInfo) -> Vec<u8> {
    let task = &thread.task;
    let mut b = Bytes::default();
    let signal = u32::from(info.signal.number());
    b.u32(signal).u32(0).u32(0).u32(signal);
    b.u64(task.signals.pending.set().0).u64(task.signals.mask().0);
    numbers(&mut b, task, task.tid());
    let own = UsageSum::of_task(task);
    let children = UsageSum::of_dead(&task.process().dead_children);
    [own.user, own.system, children.user, children.system].into_iter().for_each(|ns| time(&mut b, ns));
    thread.context.words().into_iter().for_each(|word| {
        b.u64(word);
    });
    b.u32(1).u32(0); // there are FPU registers
    b.0
}

/// `struct elf_prpsinfo`.
fn process_info(task: &TaskRef, mm: &Mm) -> Vec<u8> {
    const ARGUMENTS: usize = 80;
    let mut b = Bytes::default();
    b.0.extend_from_slice(&[0, b'R', 0, task.sched.nice() as u8]);
    b.u32(0).u64(0);
    let c = task.credentials();
    b.u32(c.user_ns.show_uid(c.uid)).u32(c.user_ns.show_gid(c.gid));
    numbers(&mut b, task, task.pid());
    b.text(&task.comm(), 16);
    let image = mm.image();
    let len = image.arg_end.saturating_sub(image.arg_start).min(ARGUMENTS as u64 - 1) as usize;
    let mut arguments = vec![0; len];
    let read = mm.read_remote(image.arg_start, &mut arguments, true).unwrap_or(0);
    arguments.truncate(read);
    arguments.iter_mut().filter(|b| **b == 0).for_each(|b| *b = b' ');
    b.text(&arguments, ARGUMENTS);
    b.0
}

/// `NT_FILE`: which parts of which files were mapped where.
fn files(task: &TaskRef, vmas: &[VmaInfo]) -> Vec<u8> {
    let Ok(fs) = task.fs() else { return Vec::new() };
    let root = fs.root();
    let mut names = Vec::new();
    let mut ranges = Bytes::default();
    let mut count = 0;
    for vma in vmas {
        if let VmaName::File(file) = &vma.name {
            ranges.u64(vma.start).u64(vma.end).u64(vma.offset / PAGE_SIZE);
            names.extend_from_slice(&file.path().text(&root).marked());
            names.push(0);
            count += 1;
        }
    }
    let mut b = Bytes::default();
    b.u64(count).u64(PAGE_SIZE);
    b.0.extend_from_slice(&ranges.0);
    b.0.extend_from_slice(&names);
    b.0
}

fn notes(task: &TaskRef, mm: &Mm, info: &SigInfo, threads: &[Thread], vmas: &[VmaInfo]) -> Vec<u8> {
    let mut b = Bytes::default();
    for (i, thread) in threads.iter().enumerate() {
        b.note(b"CORE", NT_PRSTATUS, &status(thread, info));
        if i == 0 {
            b.note(b"CORE", NT_PRPSINFO, &process_info(task, mm));
            b.note(b"CORE", NT_SIGINFO, &info.to_bytes());
            let mut auxv = Bytes::default();
            mm.image().auxv.iter().for_each(|(key, value)| {
                auxv.u64(*key).u64(*value);
            });
            b.note(b"CORE", NT_AUXV, &auxv.0);
            b.note(b"CORE", NT_FILE, &files(task, vmas));
        }
        if !thread.context.fpu.is_empty() {
            b.note(b"CORE", NT_FPREGSET, &thread.context.legacy());
            b.note(b"LINUX", NT_X86_XSTATE, &thread.context.xstate());
        }
    }
    b.0
}

/// How many bytes of a mapping are wanted.
fn wanted(mm: &Mm, vma: &VmaInfo, filter: u32) -> u64 {
    let all = vma.end - vma.start;
    let file = matches!(vma.name, VmaName::File(_));
    let on = |bit| filter & bit != 0;
    if vma.flags.contains(VmFlags::SPECIAL) {
        return all; // the vDSO
    }
    if vma.flags.contains(VmFlags::DONTDUMP) {
        return 0;
    }
    if vma.flags.contains(VmFlags::SHARED) {
        let bit = if file { filter::FILE_SHARED } else { filter::ANONYMOUS_SHARED };
        return if on(bit) { all } else { 0 };
    }
    if (vma.anonymous || vma.has_private) && on(filter::ANONYMOUS_PRIVATE) {
        return all;
    }
    if !file {
        return 0;
    }
    if on(filter::FILE_PRIVATE) {
        return all;
    }
    let mut magic = [0; 4];
    let starts = vma.offset == 0 && vma.prot.contains(Prot::READ) && on(filter::ELF_HEADERS);
    let elf = starts && mm.read_remote(vma.start, &mut magic, true) == Ok(4) && magic == *b"\x7fELF";
    if elf { PAGE_SIZE } else { 0 }
}

fn elf_header(b: &mut Bytes, headers: usize) {
    const ET_CORE: u16 = 4;
    const EM_X86_64: u16 = 62;
    b.0.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    b.u16(ET_CORE).u16(EM_X86_64).u32(1).u64(0).u64(EHDR).u64(0).u32(0);
    b.u16(EHDR as u16).u16(PHDR as u16).u16(headers as u16).u16(0).u16(0).u16(0);
}

fn program_header(
    b: &mut Bytes,
    kind: u32,
    flags: u32,
    offset: u64,
    address: u64,
    sizes: (u64, u64),
    align: u64,
) {
    b.u32(kind).u32(flags).u64(offset).u64(address).u64(0).u64(sizes.0).u64(sizes.1).u64(align);
}

/// Writes the file. What did not fit any more is missing; that is no error.
pub(super) fn write(out: &mut Output<'_>, info: &SigInfo, threads: &[Thread]) -> Result<()> {
    let task = out.task;
    let mm = task.mm()?;
    let vmas: Vec<VmaInfo> = mm.vmas().collect();
    let filter = task.process().coredump_filter.load(Ordering::Relaxed);
    let notes = notes(task, &mm, info, threads, &vmas);
    let headers = vmas.len() + 1;
    let notes_at = EHDR + PHDR * headers as u64;
    let data_at = (notes_at + notes.len() as u64).next_multiple_of(PAGE_SIZE);

    let mut b = Bytes::default();
    elf_header(&mut b, headers);
    program_header(&mut b, PT_NOTE, 0, notes_at, 0, (notes.len() as u64, 0), 4);
    let mut at = data_at;
    let mut segments = Vec::new();
    for vma in &vmas {
        let size = wanted(&mm, vma, filter);
        let right = |prot, bit| if vma.prot.contains(prot) { bit } else { 0 };
        let flags = right(Prot::READ, 4) | right(Prot::WRITE, 2) | right(Prot::EXEC, 1);
        program_header(&mut b, PT_LOAD, flags, at, vma.start, (size, vma.end - vma.start), PAGE_SIZE);
        segments.push((at, size));
        at += size;
    }
    b.0.extend_from_slice(&notes);
    out.put(&b.0)?;
    let rest = vmas.iter().zip(segments).try_for_each(|(vma, (at, size))| memory(out, &mm, vma, at, size));
    if rest == Err(Errno::EFBIG) {
        return Ok(());
    }
    rest?;
    out.skip_to(at);
    out.finish()
}

/// The pages of a mapping that there are.
fn memory(out: &mut Output<'_>, mm: &Mm, vma: &VmaInfo, at: u64, size: u64) -> Result<()> {
    let mut page = vec![0; PAGE_SIZE as usize];
    let end = vma.start + size;
    let mut address = vma.start;
    while address < end {
        if vma.anonymous {
            match mm.space().next_mapped(address..end) {
                Some(next) => address = next,
                None => break,
            }
        }
        if mm.read_remote(address, &mut page, true) == Ok(page.len()) && page.iter().any(|b| *b != 0) {
            out.skip_to(at + (address - vma.start));
            out.put(&page)?;
        }
        address += PAGE_SIZE;
        sched::preempt_point(out.task);
    }
    Ok(())
}
