//! Building the address space of a new program.
//!
//! Everything that can fail happens here, on an address space nobody else knows yet: when [`load`] succeeds,
//! the caller passes the point of no return with an image that is complete.

use alloc::{sync::Arc, vec::Vec};

use ringfence_hal as hal;
use ringfence_hal::Prot;

use super::{
    arguments::{Arguments, InitialStack, StackInputs, at},
    elf::{Elf, HEADER_LEN, Header, PROGRAM_HEADER_LEN, Segment},
    vdso,
};
use crate::{
    errno::{Errno, Result},
    mm::{
        FileMapping, Limits, MMAP_MIN_ADDR, MapRequest, Mappable, Mm, PAGE_SIZE, Placement, STACK_GUARD_GAP,
        USER_END, VmFlags, page_align_down, page_align_up,
    },
};

/// Where relocatable programs go, before randomisation (Linux: `ELF_ET_DYN_BASE`).
const PROGRAM_BASE: u64 = page_down_const(USER_END / 3 * 2);
/// The stack is made this much larger than what is on it at first.
const STACK_ROOM: u64 = 128 << 10;
/// `sysconf(_SC_CLK_TCK)`.
const CLOCK_TICKS: u64 = 100;

const fn page_down_const(v: u64) -> u64 {
    v & !(PAGE_SIZE - 1)
}

/// Who runs the program, for the auxiliary vector.
#[derive(Clone, Copy, Debug, Default)]
#[allow(missing_docs)] // the names of credentials(7)
pub struct Ids {
    pub uid: u32,
    pub euid: u32,
    pub gid: u32,
    pub egid: u32,
    /// Ids or capabilities changed: the C library ignores dangerous environment variables.
    pub secure: bool,
}

/// What to load.
pub struct LoadRequest<'a> {
    /// The program's file.
    pub program: FileMapping,
    /// Opens the interpreter (the dynamic linker) that the program names.
    pub open_interpreter: &'a mut dyn FnMut(&[u8]) -> Result<FileMapping>,
    /// Its strings.
    pub arguments: &'a Arguments,
    /// The path it was started by (`AT_EXECFN`).
    pub path: &'a [u8],
    /// Who runs it.
    pub ids: Ids,
    /// Resource limits.
    pub limits: Limits,
    /// Whether addresses are randomised (not with `ADDR_NO_RANDOMIZE`).
    pub randomize: bool,
    /// Extra entries for the auxiliary vector (`RSEQ_*`, where the call is there).
    pub extra_auxv: &'a [(u64, u64)],
}

/// A loaded program, ready to run.
pub struct Loaded {
    /// Its memory.
    pub mm: Arc<Mm>,
    /// The first instruction.
    pub entry: u64,
    /// The stack pointer.
    pub stack: u64,
}

/// Random numbers for one program.
struct Random {
    seed: [u8; 16],
    mmap: u64,
    stack: u64,
    program: u64,
    brk: u64,
    gap: u64,
}

impl Random {
    fn new(randomize: bool) -> Self {
        let mut seed = [0; 16];
        crate::random::fill(&mut seed);
        let mut bits = [0; 16];
        if randomize {
            crate::random::fill(&mut bits);
        }
        let bits = u128::from_le_bytes(bits);
        let take = |shift: u32, width: u32| (bits >> shift) as u64 & ((1 << width) - 1);
        Random {
            seed,
            mmap: take(0, 28) * PAGE_SIZE,
            stack: take(28, 22) * PAGE_SIZE,
            program: take(50, 28) * PAGE_SIZE,
            brk: take(78, 13) * PAGE_SIZE,
            gap: take(91, 9) * 16,
        }
    }
}

/// Builds the image.
///
/// # Errors
/// ENOEXEC (not a program for us), ELIBBAD (nor is its interpreter), E2BIG, ENOMEM, and whatever opening the
/// interpreter gives.
pub fn load(mut request: LoadRequest<'_>) -> Result<Loaded> {
    let elf = read_elf(request.program.object.as_ref())?;
    let interpreter = match elf.interpreter {
        Some(place) => Some(open_interpreter(&mut request, place)?),
        None => None,
    };
    let random = Random::new(request.randomize);
    let limits = &request.limits;
    let stack_top = USER_END - random.stack;
    let mm = Mm::new(mmap_base(limits.stack, &random, request.randomize))?;

    // A program that is its own dynamic linker goes among the mappings: it may load another at the usual place.
    let base = match (elf.header.relocatable, &interpreter) {
        (false, _) => 0,
        (true, None) => free_base(&mm, &elf)?,
        (true, Some(_)) => {
            let base = (PROGRAM_BASE + random.program) & !(elf.align - 1);
            base.wrapping_sub(elf.span().start)
        }
    };
    map_segments(&mm, &request.program, &elf, base, limits)?;
    let vdso = vdso::map(&mm)?;
    let (entry, linker) = match &interpreter {
        Some((file, linker_elf)) => {
            let linker_base = if linker_elf.header.relocatable { free_base(&mm, linker_elf)? } else { 0 };
            map_segments(&mm, file, linker_elf, linker_base, limits)?;
            (linker_base.wrapping_add(linker_elf.header.entry), linker_base)
        }
        None => (base.wrapping_add(elf.header.entry), 0),
    };
    if entry >= USER_END {
        return Err(Errno::ENOEXEC);
    }

    let auxv = auxiliary_vector(&request, &elf, base, linker, vdso);
    let inputs = StackInputs { top: stack_top, gap: random.gap, path: request.path, random: random.seed };
    let stack = InitialStack::build(request.arguments, &inputs, auxv)?;
    map_stack(&mm, stack_top, &stack, elf.executable_stack, limits)?;
    set_image(&mm, &request, &elf, base, &stack, vdso);
    set_brk(&mm, &elf, base, interpreter.is_some(), &random);
    Ok(Loaded { mm, entry, stack: stack.pointer })
}

fn open_interpreter(request: &mut LoadRequest<'_>, (offset, len): (u64, u64)) -> Result<(FileMapping, Elf)> {
    let mut path = alloc::vec![0; usize::try_from(len).map_err(|_| Errno::ENOEXEC)?];
    read_exact(request.program.object.as_ref(), offset, &mut path)?;
    let (last, path) = path.split_last().ok_or(Errno::ENOEXEC)?;
    if *last != 0 || path.contains(&0) {
        return Err(Errno::ENOEXEC);
    }
    let file = (request.open_interpreter)(path)?;
    let elf =
        read_elf(file.object.as_ref()).map_err(|e| if e == Errno::ENOEXEC { Errno::ELIBBAD } else { e })?;
    Ok((file, elf))
}

/// Reads and parses the headers of a program.
fn read_elf(object: &dyn Mappable) -> Result<Elf> {
    let mut head = [0; HEADER_LEN];
    read_exact(object, 0, &mut head)?;
    let header = Header::parse(&head)?;
    let mut table = alloc::vec![0; header.program_headers_len()];
    read_exact(object, header.program_headers, &mut table)?;
    Ok(header.parse_segments(&table)?)
}

/// Reads bytes of a file through its pages; ENOEXEC beyond its end.
fn read_exact(object: &dyn Mappable, offset: u64, buf: &mut [u8]) -> Result<()> {
    let end = offset.checked_add(buf.len() as u64).ok_or(Errno::ENOEXEC)?;
    if end > object.len() {
        return Err(Errno::ENOEXEC);
    }
    let mut at = offset;
    let mut rest = buf;
    while !rest.is_empty() {
        let in_page = (at % PAGE_SIZE) as usize;
        let n = rest.len().min(PAGE_SIZE as usize - in_page);
        let (part, after) = rest.split_at_mut(n);
        crate::mm::loaded_page(object, at / PAGE_SIZE)?.read(in_page, part);
        at += n as u64;
        rest = after;
    }
    Ok(())
}

/// The first bytes of a file, as many as there are.
pub fn read_head(object: &dyn Mappable, buf: &mut [u8]) -> Result {
    let n = usize::try_from(object.len()).unwrap_or(usize::MAX).min(buf.len());
    read_exact(object, 0, buf.get_mut(..n).unwrap_or_default())?;
    Ok(n)
}

/// Below the stack, leaving it room to grow to its limit (Linux: `mmap_base`).
fn mmap_base(stack_limit: u64, random: &Random, randomize: bool) -> u64 {
    const MIN_GAP: u64 = 128 << 20;
    const STACK_RANDOM: u64 = 1 << 34;
    let room = STACK_GUARD_GAP + if randomize { STACK_RANDOM } else { 0 };
    let gap = stack_limit.saturating_add(room).clamp(MIN_GAP + room, USER_END / 6 * 5);
    page_align_down(USER_END - gap - random.mmap)
}

/// A load address among the mappings for a relocatable image.
fn free_base(mm: &Mm, elf: &Elf) -> Result<u64> {
    let span = elf.span();
    let at = mm.find_free(span.end - span.start + (elf.align - PAGE_SIZE))?;
    let at = at.checked_next_multiple_of(elf.align).ok_or(Errno::ENOMEM)?;
    Ok(at.wrapping_sub(span.start))
}

/// Maps the segments of an image. `base` may "wrap below zero" for an image linked high and loaded low.
fn map_segments(mm: &Arc<Mm>, file: &FileMapping, elf: &Elf, base: u64, limits: &Limits) -> Result<()> {
    for segment in &elf.segments {
        map_segment(mm, file, segment, base, limits)?;
    }
    Ok(())
}

fn map_segment(
    mm: &Arc<Mm>,
    file: &FileMapping,
    segment: &Segment,
    base: u64,
    limits: &Limits,
) -> Result<()> {
    let addr = base.wrapping_add(segment.addr);
    let end = addr.checked_add(segment.mem_len).filter(|end| *end <= USER_END - PAGE_SIZE);
    let end = end.and_then(page_align_up).ok_or(Errno::ENOMEM)?;
    let start = page_align_down(addr);
    if start < MMAP_MIN_ADDR {
        return Err(Errno::EPERM);
    }
    let file_end = addr + segment.file_len;
    let mut anonymous = start;
    if segment.file_len > 0 {
        anonymous = page_align_up(file_end).ok_or(Errno::ENOMEM)?;
        let request = MapRequest {
            len: anonymous - start,
            placement: Placement::Fixed(start),
            prot: segment.prot,
            flags: VmFlags::empty(),
            file: Some((file.clone(), page_align_down(segment.offset))),
        };
        mm.map(request, limits)?;
        if segment.mem_len > segment.file_len && anonymous > file_end {
            // The rest of the page holds what follows in the file; the program expects zeros.
            mm.zero_remote(file_end, anonymous - file_end)
                .map_err(|e| if e == Errno::ENOMEM { e } else { Errno::ENOEXEC })?;
        }
    }
    if end > anonymous {
        let request = MapRequest {
            len: end - anonymous,
            placement: Placement::Fixed(anonymous),
            prot: segment.prot,
            flags: VmFlags::empty(),
            file: None,
        };
        mm.map(request, limits)?;
    }
    Ok(())
}

fn map_stack(mm: &Arc<Mm>, top: u64, stack: &InitialStack, executable: bool, limits: &Limits) -> Result<()> {
    let used = page_align_up(stack.bytes.len() as u64).ok_or(Errno::E2BIG)?;
    let size = (used + STACK_ROOM).min(page_align_down(limits.stack)).max(used);
    let mut prot = Prot::READ | Prot::WRITE;
    prot.set(Prot::EXEC, executable);
    let request = MapRequest {
        len: size,
        placement: Placement::FixedNoReplace(top - size),
        prot,
        flags: VmFlags::GROWSDOWN,
        file: None,
    };
    mm.map(request, limits).map_err(|e| if e == Errno::EEXIST { Errno::ENOMEM } else { e })?;
    match mm.write_remote(stack.pointer, &stack.bytes, false) {
        Ok(n) if n == stack.bytes.len() => Ok(()),
        _ => Err(Errno::ENOMEM),
    }
}

fn auxiliary_vector(
    request: &LoadRequest<'_>,
    elf: &Elf,
    base: u64,
    linker: u64,
    vdso: u64,
) -> Vec<(u64, u64)> {
    let ids = &request.ids;
    let mut auxv = Vec::with_capacity(24);
    if vdso != 0 {
        auxv.push((at::SYSINFO_EHDR, vdso));
    }
    auxv.extend([
        (at::MINSIGSTKSZ, minimum_signal_stack()),
        (at::HWCAP, hal::cpu::hwcap()),
        (at::PAGESZ, PAGE_SIZE),
        (at::CLKTCK, CLOCK_TICKS),
        (at::PHDR, if elf.headers_addr == 0 { 0 } else { base.wrapping_add(elf.headers_addr) }),
        (at::PHENT, PROGRAM_HEADER_LEN as u64),
        (at::PHNUM, u64::from(elf.header.count)),
        (at::BASE, linker),
        (at::FLAGS, 0),
        (at::ENTRY, base.wrapping_add(elf.header.entry)),
        (at::UID, ids.uid.into()),
        (at::EUID, ids.euid.into()),
        (at::GID, ids.gid.into()),
        (at::EGID, ids.egid.into()),
        (at::SECURE, ids.secure.into()),
        (at::HWCAP2, hal::cpu::hwcap2()),
    ]);
    auxv.extend_from_slice(request.extra_auxv);
    auxv
}

/// Bytes of the frame a signal handler is called with, rounded up (Linux: `get_sigframe_size`).
fn minimum_signal_stack() -> u64 {
    const FRAME: u64 = 1024;
    const REDZONE_AND_ALIGNMENT: u64 = 128 + 64 + 16;
    (hal::fpu::size() as u64 + FRAME + REDZONE_AND_ALIGNMENT).next_multiple_of(16)
}

fn set_image(mm: &Mm, request: &LoadRequest<'_>, elf: &Elf, base: u64, stack: &InitialStack, vdso: u64) {
    let at = |addr: u64| base.wrapping_add(addr);
    let code = || elf.segments.iter().filter(|s| s.prot.contains(Prot::EXEC));
    mm.update_image(|image| {
        image.start_code = code().map(|s| at(s.addr)).min().unwrap_or(0);
        image.end_code = code().map(|s| at(s.file_end())).max().unwrap_or(0);
        image.start_data = elf.segments.last().map_or(0, |s| at(s.addr));
        image.end_data = elf.segments.iter().map(|s| at(s.file_end())).max().unwrap_or(0);
        image.start_stack = stack.pointer;
        image.arg_start = stack.arg_start;
        image.arg_end = stack.arg_end;
        image.env_start = stack.arg_end;
        image.env_end = stack.env_end;
        image.auxv = stack.auxv.clone();
        image.exe = request.program.file.clone();
        image.vdso = vdso;
    });
}

fn set_brk(mm: &Mm, elf: &Elf, base: u64, has_interpreter: bool, random: &Random) {
    // A static-PIE program lies among the mappings, where a heap would have no room.
    let end = if elf.header.relocatable && !has_interpreter {
        PROGRAM_BASE + random.program
    } else {
        base.wrapping_add(elf.span().end)
    };
    mm.set_brk_start(end + random.brk);
}

#[cfg(test)]
mod tests {
    use super::{super::elf::tests as build, *};
    use crate::mm::PageTree;

    struct TestFile(PageTree, u64);

    impl TestFile {
        fn mapping(bytes: &[u8]) -> FileMapping {
            let pages = PageTree::new();
            for (i, chunk) in bytes.chunks(PAGE_SIZE as usize).enumerate() {
                let frame = hal::Frame::alloc_zeroed().unwrap();
                frame.write(0, chunk);
                pages.insert(i as u64, frame);
            }
            let object = Arc::new(TestFile(pages, bytes.len() as u64));
            FileMapping { object, file: None, may_write: false, may_exec: true }
        }
    }

    impl Mappable for TestFile {
        fn page(&self, index: u64, _write: bool) -> Result<hal::Frame> {
            self.0.get(index).ok_or(Errno::EIO)
        }
        fn len(&self) -> u64 {
            self.1
        }
    }

    fn try_load(program: &[u8], linker: Option<&[u8]>) -> Result<Loaded> {
        let mut arguments = Arguments::new(8 << 20);
        arguments.push_argument(b"prog")?;
        load(LoadRequest {
            program: TestFile::mapping(program),
            open_interpreter: &mut |path| match linker {
                Some(bytes) if path == b"/lib/ld" => Ok(TestFile::mapping(bytes)),
                _ => Err(Errno::ENOENT),
            },
            arguments: &arguments,
            path: b"/bin/prog",
            ids: Ids::default(),
            limits: Limits { stack: 8 << 20, ..Limits::NONE },
            randomize: true,
            extra_auxv: &[],
        })
    }

    /// Headers, then `/lib/ld` at 0x200, then 0xcc to the end.
    fn program(kind: u16, entry: u64, headers: &[Vec<u8>], len: usize) -> Vec<u8> {
        let mut bytes = build::file(kind, entry, headers);
        bytes.resize(0x200, 0);
        bytes.extend(b"/lib/ld\0");
        bytes.resize(len, 0xcc);
        bytes
    }

    fn read(mm: &Mm, at: u64) -> u8 {
        let mut b = [0];
        mm.read_remote(at, &mut b, false).unwrap();
        b[0]
    }

    #[test]
    fn a_static_program_gets_its_segments_and_zeroed_bss() {
        let headers = [
            build::program_header(1, 5, 0, 0x40_0000, 0x1800, 0x1800, 0x1000),
            build::program_header(1, 6, 0x1800, 0x40_2800, 0x100, 0x3000, 0x1000),
        ];
        let loaded = try_load(&program(2, 0x40_1000, &headers, 0x2000), None).unwrap();
        assert_eq!(loaded.entry, 0x40_1000);
        assert_eq!(read(&loaded.mm, 0x40_1000), 0xcc);
        assert_eq!(read(&loaded.mm, 0x40_28ff), 0xcc);
        assert_eq!(read(&loaded.mm, 0x40_2900), 0);
        assert_eq!(read(&loaded.mm, 0x40_57ff), 0);
        let image = loaded.mm.image();
        assert_eq!((image.start_code, image.end_code), (0x40_0000, 0x40_1800));
        assert_eq!(loaded.mm.brk_range().0 & 0xfff, 0);
        assert!(loaded.mm.brk_range().0 >= 0x40_6000);
        let of = |key| image.auxv.iter().find(|e| e.0 == key).unwrap().1;
        assert_eq!(of(at::PHDR), 0x40_0040);
        assert_eq!((of(at::BASE), of(at::ENTRY)), (0, 0x40_1000));
        let mut argc = [0; 8];
        loaded.mm.read_remote(loaded.stack, &mut argc, false).unwrap();
        assert_eq!(u64::from_le_bytes(argc), 1);
    }

    #[test]
    fn a_dynamic_program_starts_in_its_linker() {
        let main = [
            build::program_header(3, 4, 0x200, 0x200, 8, 8, 1),
            build::program_header(1, 5, 0, 0, 0x1000, 0x1000, 0x20_0000),
        ];
        let linker = [build::program_header(1, 5, 0, 0, 0x1000, 0x1000, 0x1000)];
        let linker = program(3, 0x321, &linker, 0x1000);
        let main = program(3, 0x456, &main, 0x1000);
        let loaded = try_load(&main, Some(&linker)).unwrap();
        let image = loaded.mm.image();
        let of = |key| image.auxv.iter().find(|e| e.0 == key).unwrap().1;
        assert_eq!(loaded.entry, of(at::BASE) + 0x321);
        assert_eq!((of(at::ENTRY) - 0x456) % 0x20_0000, 0);
        assert_eq!(try_load(&main, None).err(), Some(Errno::ENOENT));
        assert_eq!(try_load(&main, Some(b"#!/bin/sh")).err(), Some(Errno::ELIBBAD));
    }

    #[test]
    fn hostile_files_are_errors() {
        assert_eq!(try_load(b"", None).err(), Some(Errno::ENOEXEC));
        let low = [build::program_header(1, 5, 0, 0, 0x100, 0x100, 0)];
        assert_eq!(try_load(&program(2, 0, &low, 0x1000), None).err(), Some(Errno::EPERM));
        // The bss begins in a page that the file does not have.
        let beyond = [build::program_header(1, 6, 0x5000, 0x40_0000, 0x10, 0x20, 0)];
        assert_eq!(try_load(&program(2, 0, &beyond, 0x1000), None).err(), Some(Errno::ENOEXEC));
        let huge = [build::program_header(1, 6, 0, 0x40_0000, 0x10, 0x7fff_0000_0000, 0)];
        assert_eq!(try_load(&program(2, 0, &huge, 0x1000), None).err(), Some(Errno::ENOMEM));
        let bad_entry = [build::program_header(1, 5, 0, 0x40_0000, 0x10, 0x20, 0)];
        assert_eq!(try_load(&program(2, u64::MAX, &bad_entry, 0x1000), None).err(), Some(Errno::ENOEXEC));
    }
}
