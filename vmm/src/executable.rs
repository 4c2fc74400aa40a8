//! Our own executable in memory: where its read-only parts lie, and how what only the start needed leaves again.

use std::ffi::{c_int, c_void};

use rustix::mm::{Advice, madvise};

use crate::machine::layout::PAGE;

/// A part of the executable that is mapped read-only, code among it.
#[derive(Debug, Clone, Copy)]
pub struct Segment {
    /// Where it lies in memory.
    pub address: u64,
    /// Its length, in memory and in the file.
    pub len: u64,
    /// Where it begins in the file.
    pub offset: u64,
}

/// The read-only parts of our executable.
pub fn read_only_segments() -> Vec<Segment> {
    let mut found: Vec<Segment> = Vec::new();
    // SAFETY: the callback has the signature asked for and gets the pointer to `found`, which outlives the call.
    unsafe { libc::dl_iterate_phdr(Some(list), (&raw mut found).cast::<c_void>()) };
    found
}

/// Lists the segments of an object. Our executable is the first object and the only one that is looked at.
unsafe extern "C" fn list(object: *mut libc::dl_phdr_info, _: usize, data: *mut c_void) -> c_int {
    // SAFETY: `read_only_segments` passes a pointer to its list, which nobody else uses meanwhile; libc passes a valid
    // object with `dlpi_phnum` program headers.
    let (found, base, headers) = unsafe {
        let object = &*object;
        let headers = std::slice::from_raw_parts(object.dlpi_phdr, object.dlpi_phnum.into());
        (&mut *data.cast::<Vec<Segment>>(), object.dlpi_addr, headers)
    };
    let read_only =
        headers.iter().filter(|header| header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0);
    found.extend(read_only.map(|header| Segment {
        address: base.wrapping_add(header.p_vaddr),
        len: header.p_filesz,
        offset: header.p_offset,
    }));
    1
}

/// Takes the executable's read-only pages out of this process's page tables. What runs from now on comes back by a few
/// faults on the page cache, sixteen pages at a time; the command line, the reading of the order and the set-up of the
/// machine, most of the code, do not, and no longer count as this sandbox's memory.
pub fn forget_the_start() {
    for segment in read_only_segments() {
        let start = segment.address / PAGE * PAGE;
        let len = (segment.address + segment.len).next_multiple_of(PAGE) - start;
        // SAFETY: the pages are of a read-only mapping of a file that cannot change while it runs (ETXTBSY), so that what
        // comes back by a fault is what was there. An error leaves things as they are.
        let _ = unsafe { madvise(start as *mut c_void, len as usize, Advice::LinuxDontNeed) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_constants_are_found_and_come_back() {
        static CONSTANT: [u8; 3 * PAGE as usize] = [7; 3 * PAGE as usize];
        let holds = |address: u64| {
            read_only_segments().iter().any(|s| (s.address..s.address + s.len).contains(&address))
        };
        assert!(holds(forget_the_start as fn() as usize as u64));
        assert!(holds(CONSTANT.as_ptr() as u64));
        forget_the_start();
        assert!(std::hint::black_box(&CONSTANT).iter().all(|byte| *byte == 7));
    }
}
