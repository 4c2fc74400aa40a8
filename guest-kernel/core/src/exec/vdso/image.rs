//! The shared object around the vDSO's code: the least that dynamic linkers need to find a symbol.
//!
//! One page, mapped readable and executable: ELF header, program headers, then hash table, symbols, strings,
//! versions and dynamic section, and the code at [`TEXT_OFFSET`]. Every function has two names, `__vdso_NAME` and,
//! weak, `NAME`, all of version `LINUX_2.6`. There are no section headers.

use alloc::vec::Vec;

use ringfence_hal::vdso::{self, TEXT_OFFSET};

use crate::mm::PAGE_SIZE;

const HEADER: usize = 64;
const PROGRAM_HEADER: usize = 56;
const SYMBOL: usize = 24;

const SONAME: &[u8] = b"linux-vdso.so.1";
const VERSION: &[u8] = b"LINUX_2.6";

/// A string table that remembers where things are.
struct Strings(Vec<u8>);

impl Strings {
    fn add(&mut self, s: &[u8]) -> u32 {
        let at = self.0.len() as u32;
        self.0.extend_from_slice(s);
        self.0.push(0);
        at
    }
}

/// Little-endian output.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u16(&mut self, values: &[u16]) -> &mut Self {
        values.iter().for_each(|v| self.0.extend_from_slice(&v.to_le_bytes()));
        self
    }

    fn u32(&mut self, values: &[u32]) -> &mut Self {
        values.iter().for_each(|v| self.0.extend_from_slice(&v.to_le_bytes()));
        self
    }

    fn u64(&mut self, values: &[u64]) -> &mut Self {
        values.iter().for_each(|v| self.0.extend_from_slice(&v.to_le_bytes()));
        self
    }

    /// Aligns and says where the next byte goes.
    fn mark(&mut self) -> u64 {
        while !self.0.len().is_multiple_of(8) {
            self.0.push(0);
        }
        self.0.len() as u64
    }
}

/// The hash of a name in `DT_HASH` tables and version definitions (gABI).
fn elf_hash(name: &[u8]) -> u32 {
    name.iter().fold(0u32, |h, b| {
        let h = (h << 4).wrapping_add(u32::from(*b));
        let high = h & 0xf000_0000;
        (h ^ (high >> 24)) & !high
    })
}

/// The bytes of the object; less than a page.
pub(super) fn build() -> Vec<u8> {
    let f = vdso::functions();
    let functions: [(&[u8], usize); 5] = [
        (b"clock_gettime", f.clock_gettime),
        (b"gettimeofday", f.gettimeofday),
        (b"time", f.time),
        (b"clock_getres", f.clock_getres),
        (b"getcpu", f.getcpu),
    ];
    let mut strings = Strings(alloc::vec![0]);
    let soname = strings.add(SONAME);
    let version = strings.add(VERSION);
    let mut names: Vec<Vec<u8>> = Vec::new();
    let mut symbols = Out::default();
    symbols.0.resize(SYMBOL, 0);
    for (name, offset) in functions {
        const FUNCTION: u8 = 2;
        const GLOBAL: u8 = 1 << 4;
        const WEAK: u8 = 2 << 4;
        let long = [b"__vdso_", name].concat();
        for (name, binding) in [(long, GLOBAL), (name.to_vec(), WEAK)] {
            symbols.u32(&[strings.add(&name)]);
            symbols.0.extend_from_slice(&[binding | FUNCTION, 0]);
            // Any section index but "undefined" and "absolute".
            symbols.u16(&[1]).u64(&[(TEXT_OFFSET + offset) as u64, 0]);
            names.push(name);
        }
    }
    let count = names.len() + 1;

    let mut out = Out::default();
    out.0.resize(HEADER + 2 * PROGRAM_HEADER, 0);
    let hash = out.mark();
    // One bucket: a chain through all symbols. With ten of them a search is short.
    let mut chain: Vec<u32> = (2..=count as u32).collect();
    if let Some(last) = chain.last_mut() {
        *last = 0;
    }
    out.u32(&[1, count as u32, 1, 0]).u32(&chain);
    let symtab = out.mark();
    out.0.extend_from_slice(&symbols.0);
    let strtab = out.mark();
    out.0.extend_from_slice(&strings.0);
    let versym = out.mark();
    out.u16(&[0]);
    names.iter().for_each(|_| {
        out.u16(&[2]);
    });
    let verdef = out.mark();
    // The object's own name (flag BASE), then the one version. Each: version, flags, index, count, hash, offset of
    // the name record, offset of the next; name, next.
    out.u16(&[1, 1, 1, 1]).u32(&[elf_hash(SONAME), 20, 28, soname, 0]);
    out.u16(&[1, 0, 2, 1]).u32(&[elf_hash(VERSION), 20, 0, version, 0]);
    let dynamic = out.mark();
    let entries = [
        (14, u64::from(soname)),      // DT_SONAME
        (4, hash),                    // DT_HASH
        (5, strtab),                  // DT_STRTAB
        (6, symtab),                  // DT_SYMTAB
        (10, strings.0.len() as u64), // DT_STRSZ
        (11, SYMBOL as u64),          // DT_SYMENT
        (0x6fff_fff0, versym),        // DT_VERSYM
        (0x6fff_fffc, verdef),        // DT_VERDEF
        (0x6fff_fffd, 2),             // DT_VERDEFNUM
        (0, 0),                       // DT_NULL
    ];
    entries.iter().for_each(|(tag, value)| {
        out.u64(&[*tag, *value]);
    });
    let dynamic_len = (entries.len() * 16) as u64;
    debug_assert!(out.0.len() <= TEXT_OFFSET);
    out.0.resize(TEXT_OFFSET, 0);
    out.0.extend_from_slice(vdso::code());

    let len = out.0.len() as u64;
    let mut head = Out::default();
    head.0.extend_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    head.u16(&[3, 62]).u32(&[1]).u64(&[0, HEADER as u64, 0]).u32(&[0]);
    head.u16(&[HEADER as u16, PROGRAM_HEADER as u16, 2, 0, 0, 0]);
    head.u32(&[1, 5]).u64(&[0, 0, 0, len, len, PAGE_SIZE]); // PT_LOAD, read and execute
    head.u32(&[2, 4]).u64(&[dynamic, dynamic, dynamic, dynamic_len, dynamic_len, 8]); // PT_DYNAMIC, read
    for (to, from) in out.0.iter_mut().zip(head.0) {
        *to = from;
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_object_fits_and_parses() {
        let bytes = build();
        assert!(bytes.len() <= PAGE_SIZE as usize);
        let header = crate::exec::elf::Header::parse(&bytes).unwrap();
        let elf = header.parse_segments(&bytes[header.program_headers as usize..]).unwrap();
        assert_eq!(elf.segments.len(), 1);
        assert_eq!(&bytes[TEXT_OFFSET..], vdso::code());
    }

    #[test]
    fn the_hash_is_that_of_the_abi() {
        assert_eq!(elf_hash(VERSION), 61_765_110);
    }
}
