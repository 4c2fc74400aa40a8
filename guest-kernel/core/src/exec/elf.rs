//! Parsing of ELF program images (gABI, "Object Files" and "Program Loading").
//!
//! Pure and total: any bytes give either an image whose numbers later stages can use without further checks,
//! or an error. What is promised of an [`Elf`]:
//! - segments ascend, do not overlap, and lie below [`USER_END`](crate::mm::USER_END);
//! - a segment's file part is not larger than its memory part, its offsets do not overflow, and offset and
//!   address are congruent modulo the page size;
//! - there is at least one segment, and no more than fit in 64 KiB of program headers.

use alloc::vec::Vec;
use core::ops::Range;

use ringfence_hal::Prot;

use crate::{
    errno::Errno,
    mm::{PAGE_SIZE, USER_END, page_align_down, page_align_up},
};

/// Bytes of an ELF header.
pub const HEADER_LEN: usize = 64;
/// Bytes of a program header.
pub const PROGRAM_HEADER_LEN: usize = 56;
/// Most bytes of program headers (Linux has the same limit).
const MAX_PROGRAM_HEADERS: usize = 65536;
/// Longest path of an interpreter, NUL included.
const MAX_INTERPRETER: u64 = 4096;
/// Largest alignment of a segment that is honoured.
const MAX_ALIGN: u64 = 1 << 30;

const ET_EXEC: u16 = 2;
const ET_DYN: u16 = 3;
const EM_X86_64: u16 = 62;
const PT_LOAD: u32 = 1;
const PT_INTERP: u32 = 3;
const PT_GNU_STACK: u32 = 0x6474_e551;

/// Why bytes are not a program we can run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ElfError {
    /// No ELF magic.
    NotElf,
    /// ELF for another class, byte order, machine or purpose.
    WrongKind,
    /// Too short, or numbers that contradict each other.
    Malformed,
}

impl From<ElfError> for Errno {
    fn from(_: ElfError) -> Errno {
        Errno::ENOEXEC
    }
}

/// The fields of the ELF header that matter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether it may be loaded at any address (`ET_DYN`).
    pub relocatable: bool,
    /// Entry point, relative to the load address.
    pub entry: u64,
    /// Where the program headers are in the file.
    pub program_headers: u64,
    /// How many there are.
    pub count: u16,
}

/// A part of the file to be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Address, relative to the load address.
    pub addr: u64,
    /// Byte offset in the file; congruent to `addr` modulo the page size.
    pub offset: u64,
    /// Bytes from the file.
    pub file_len: u64,
    /// Bytes in memory; what exceeds `file_len` is zero.
    pub mem_len: u64,
    /// Protection.
    pub prot: Prot,
}

impl Segment {
    /// First address after its file part.
    pub fn file_end(&self) -> u64 {
        self.addr + self.file_len
    }

    /// First address after it.
    pub fn end(&self) -> u64 {
        self.addr + self.mem_len
    }
}

/// A program image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Elf {
    /// The header.
    pub header: Header,
    /// What to map, ascending.
    pub segments: Vec<Segment>,
    /// Where in the file the interpreter's path is, NUL included: offset and length (2 to 4096).
    pub interpreter: Option<(u64, u64)>,
    /// Whether the stack is to be executable.
    pub executable_stack: bool,
    /// Where the program headers are in memory, relative to the load address; 0 if they are not mapped.
    pub headers_addr: u64,
    /// Alignment of the load address: a power of two, at least a page.
    pub align: u64,
}

impl Elf {
    /// The addresses it covers, relative to the load address, in whole pages. Never empty.
    pub fn span(&self) -> Range<u64> {
        let start = self.segments.first().map_or(0, |s| page_align_down(s.addr));
        let end = self.segments.last().and_then(|s| page_align_up(s.end())).unwrap_or(start);
        start..end
    }
}

impl Header {
    /// Parses the first [`HEADER_LEN`] bytes of a file.
    pub fn parse(bytes: &[u8]) -> Result<Header, ElfError> {
        if bytes.get(..4) != Some(b"\x7fELF") {
            return Err(ElfError::NotElf);
        }
        let r = Reader(bytes.get(..HEADER_LEN).ok_or(ElfError::Malformed)?);
        // 64-bit, little endian, version 1.
        if r.0.get(4..7) != Some(&[2, 1, 1]) {
            return Err(ElfError::WrongKind);
        }
        let kind = r.u16(16)?;
        if r.u16(18)? != EM_X86_64 || (kind != ET_EXEC && kind != ET_DYN) {
            return Err(ElfError::WrongKind);
        }
        let header = Header {
            relocatable: kind == ET_DYN,
            entry: r.u64(24)?,
            program_headers: r.u64(32)?,
            count: r.u16(56)?,
        };
        let len = header.program_headers_len();
        if usize::from(r.u16(54)?) != PROGRAM_HEADER_LEN
            || len == 0
            || len > MAX_PROGRAM_HEADERS
            || header.program_headers.checked_add(len as u64).is_none()
        {
            return Err(ElfError::Malformed);
        }
        Ok(header)
    }

    /// Bytes of all program headers.
    pub fn program_headers_len(&self) -> usize {
        usize::from(self.count) * PROGRAM_HEADER_LEN
    }

    /// Parses the program headers: the `program_headers_len()` bytes at `program_headers` of the file.
    pub fn parse_segments(self, bytes: &[u8]) -> Result<Elf, ElfError> {
        let bytes = bytes.get(..self.program_headers_len()).ok_or(ElfError::Malformed)?;
        let mut elf = Elf {
            header: self,
            segments: Vec::new(),
            interpreter: None,
            executable_stack: false,
            headers_addr: 0,
            align: PAGE_SIZE,
        };
        for bytes in bytes.chunks_exact(PROGRAM_HEADER_LEN) {
            let r = Reader(bytes);
            let flags = r.u32(4)?;
            match r.u32(0)? {
                PT_LOAD => elf.add_segment(&r, flags)?,
                PT_INTERP if elf.interpreter.is_none() => {
                    let (offset, len) = (r.u64(8)?, r.u64(32)?);
                    if !(2..=MAX_INTERPRETER).contains(&len) || offset.checked_add(len).is_none() {
                        return Err(ElfError::Malformed);
                    }
                    elf.interpreter = Some((offset, len));
                }
                PT_GNU_STACK => elf.executable_stack = flags & 1 != 0,
                _ => {}
            }
        }
        if elf.segments.is_empty() {
            return Err(ElfError::Malformed);
        }
        Ok(elf)
    }
}

impl Elf {
    fn add_segment(&mut self, r: &Reader<'_>, flags: u32) -> Result<(), ElfError> {
        let segment = Segment {
            offset: r.u64(8)?,
            addr: r.u64(16)?,
            file_len: r.u64(32)?,
            mem_len: r.u64(40)?,
            prot: prot_of(flags),
        };
        if segment.mem_len == 0 {
            return Ok(());
        }
        let end = segment.addr.checked_add(segment.mem_len).ok_or(ElfError::Malformed)?;
        let file_end = segment.offset.checked_add(segment.file_len).ok_or(ElfError::Malformed)?;
        // One page of slack keeps rounding within bounds everywhere.
        if end > USER_END - PAGE_SIZE
            || file_end > i64::MAX as u64
            || segment.file_len > segment.mem_len
            || segment.addr % PAGE_SIZE != segment.offset % PAGE_SIZE
            || self.segments.last().is_some_and(|before| segment.addr < before.end())
        {
            return Err(ElfError::Malformed);
        }
        let align = r.u64(48)?;
        if align.is_power_of_two() && align <= MAX_ALIGN {
            self.align = self.align.max(align);
        }
        let headers = self.header.program_headers;
        if self.headers_addr == 0 && headers >= segment.offset && headers < file_end {
            self.headers_addr = segment.addr + (headers - segment.offset);
        }
        self.segments.push(segment);
        Ok(())
    }
}

fn prot_of(flags: u32) -> Prot {
    let mut prot = Prot::empty();
    prot.set(Prot::EXEC, flags & 1 != 0);
    prot.set(Prot::WRITE, flags & 2 != 0);
    prot.set(Prot::READ, flags & 4 != 0);
    prot
}

/// Little-endian fields of a byte slice.
struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn bytes<const N: usize>(&self, at: usize) -> Result<[u8; N], ElfError> {
        let bytes = self.0.get(at..at + N).ok_or(ElfError::Malformed)?;
        bytes.try_into().map_err(|_| ElfError::Malformed)
    }

    fn u16(&self, at: usize) -> Result<u16, ElfError> {
        self.bytes(at).map(u16::from_le_bytes)
    }

    fn u32(&self, at: usize) -> Result<u32, ElfError> {
        self.bytes(at).map(u32::from_le_bytes)
    }

    fn u64(&self, at: usize) -> Result<u64, ElfError> {
        self.bytes(at).map(u64::from_le_bytes)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A program header as bytes.
    pub fn program_header(
        kind: u32,
        flags: u32,
        offset: u64,
        addr: u64,
        file: u64,
        mem: u64,
        align: u64,
    ) -> Vec<u8> {
        let mut b = Vec::new();
        b.extend(kind.to_le_bytes());
        b.extend(flags.to_le_bytes());
        for v in [offset, addr, addr, file, mem, align] {
            b.extend(v.to_le_bytes());
        }
        b
    }

    /// An ELF file that consists of its headers only.
    pub fn file(kind: u16, entry: u64, headers: &[Vec<u8>]) -> Vec<u8> {
        let mut b = b"\x7fELF\x02\x01\x01".to_vec();
        b.resize(16, 0);
        b.extend(kind.to_le_bytes());
        b.extend(EM_X86_64.to_le_bytes());
        b.extend(1u32.to_le_bytes());
        b.extend(entry.to_le_bytes());
        b.extend(64u64.to_le_bytes());
        b.extend(0u64.to_le_bytes());
        b.extend(0u32.to_le_bytes());
        for v in [64u16, 56, headers.len() as u16, 0, 0, 0] {
            b.extend(v.to_le_bytes());
        }
        b.extend(headers.concat());
        b
    }

    fn parse(bytes: &[u8]) -> Result<Elf, ElfError> {
        let header = Header::parse(bytes)?;
        let at = usize::try_from(header.program_headers).map_err(|_| ElfError::Malformed)?;
        header.parse_segments(bytes.get(at..).ok_or(ElfError::Malformed)?)
    }

    fn typical() -> Vec<u8> {
        file(
            ET_DYN,
            0x1040,
            &[
                program_header(PT_INTERP, 4, 0x318, 0x318, 0x1c, 0x1c, 1),
                program_header(PT_LOAD, 4, 0, 0, 0x628, 0x628, 0x1000),
                program_header(PT_LOAD, 5, 0x1000, 0x1000, 0x175, 0x175, 0x1000),
                program_header(PT_LOAD, 6, 0x2dd0, 0x3dd0, 0x248, 0x250, 0x1000),
                program_header(PT_GNU_STACK, 6, 0, 0, 0, 0, 16),
            ],
        )
    }

    #[test]
    fn reads_a_typical_program() {
        let elf = parse(&typical()).unwrap();
        assert!(elf.header.relocatable && !elf.executable_stack);
        assert_eq!(elf.interpreter, Some((0x318, 0x1c)));
        assert_eq!(elf.segments.len(), 3);
        assert_eq!(elf.headers_addr, 64);
        assert_eq!(elf.span(), 0..0x5000);
        assert_eq!(elf.segments[2].prot, Prot::READ | Prot::WRITE);
    }

    #[test]
    fn refuses_what_is_not_for_us() {
        assert_eq!(parse(b"#!/bin/sh"), Err(ElfError::NotElf));
        assert_eq!(parse(b"\x7fELF"), Err(ElfError::Malformed));
        let with = |at: usize, value: u8| {
            let mut b = typical();
            b[at] = value;
            parse(&b)
        };
        assert_eq!(with(4, 1), Err(ElfError::WrongKind)); // 32-bit
        assert_eq!(with(5, 2), Err(ElfError::WrongKind)); // big endian
        assert_eq!(with(18, 183), Err(ElfError::WrongKind)); // aarch64
        assert_eq!(with(16, 1), Err(ElfError::WrongKind)); // relocatable object
        assert_eq!(with(54, 55), Err(ElfError::Malformed)); // size of a program header
        assert_eq!(with(56, 0), Err(ElfError::Malformed)); // no program headers
        assert_eq!(with(57, 0xff), Err(ElfError::Malformed)); // too many of them
    }

    #[test]
    fn refuses_absurd_segments() {
        let one = |header| parse(&file(ET_EXEC, 0, &[header]));
        let bad = Err(ElfError::Malformed);
        assert_eq!(one(program_header(PT_LOAD, 5, 0, 0x1000, 2, 1, 0)), bad);
        assert_eq!(one(program_header(PT_LOAD, 5, 1, 0x1000, 1, 1, 0)), bad);
        assert_eq!(one(program_header(PT_LOAD, 5, 0, u64::MAX - 0xfff, 1, 0x1000, 0)), bad);
        assert_eq!(one(program_header(PT_LOAD, 5, 0, 0x1000, 1, u64::MAX, 0)), bad);
        assert_eq!(one(program_header(PT_LOAD, 5, u64::MAX - 0xfff, 0x1000, 0x2000, 0x2000, 0)), bad);
        assert_eq!(one(program_header(PT_LOAD, 5, 0, USER_END - 0x1000, 1, 1, 0)), bad);
        assert_eq!(one(program_header(PT_GNU_STACK, 6, 0, 0, 0, 0, 0)), bad);
        assert_eq!(one(program_header(PT_INTERP, 4, 0, 0, 5000, 0, 0)), bad);
        let overlap = [
            program_header(PT_LOAD, 5, 0, 0x1000, 0x100, 0x100, 0),
            program_header(PT_LOAD, 6, 0x80, 0x1080, 0x100, 0x100, 0),
        ];
        assert_eq!(parse(&file(ET_EXEC, 0, &overlap)), bad);
    }

    /// What the module's head promises.
    fn check(elf: &Elf) {
        assert!(!elf.segments.is_empty());
        let mut end = 0;
        for s in &elf.segments {
            assert!(s.addr >= end && s.file_len <= s.mem_len);
            assert!(s.end() <= USER_END && s.file_end() <= s.end());
            assert!(s.offset.checked_add(s.file_len).is_some());
            assert_eq!(s.addr % PAGE_SIZE, s.offset % PAGE_SIZE);
            end = s.end();
        }
        let span = elf.span();
        assert!(span.start < span.end && span.end <= USER_END);
        assert!(elf.align.is_power_of_two());
    }

    proptest! {
        #[test]
        fn mutated_programs_are_refused_or_sound(changes in proptest::collection::vec((0usize..344, any::<u8>()), 0..12)) {
            let mut bytes = typical();
            for (at, value) in changes {
                let at = at % bytes.len();
                bytes[at] = value;
            }
            if let Ok(elf) = parse(&bytes) { check(&elf); }
        }

        #[test]
        fn arbitrary_segments_are_refused_or_sound(
            headers in proptest::collection::vec(
                (0u32..5, any::<u32>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), any::<u64>(), 0u32..64), 1..6)
        ) {
            let headers: Vec<_> = headers.into_iter().map(|(kind, flags, o, a, f, m, align, shift)| {
                // Small numbers often, so that some are accepted.
                program_header(kind, flags, (o >> shift) & !0xfff, (a >> shift) & !0xfff, f >> shift, m >> (shift / 2), align)
            }).collect();
            if let Ok(elf) = parse(&file(ET_DYN, 0, &headers)) { check(&elf); }
        }

        #[test]
        fn truncated_programs_do_not_panic(len in 0usize..400) {
            let bytes = typical();
            let _ = parse(&bytes[..len.min(bytes.len())]);
        }
    }
}
