//! Puts the built-in guest kernel into guest memory without copying it.
//!
//! The kernel lies page-aligned in our own executable, and its segments are page-aligned in it. So the whole
//! pages of each segment are mapped privately from the executable's file over the guest's RAM: the host's page
//! cache holds them once for all sandboxes, a page that the guest never looks at costs nothing, and one that
//! it writes becomes its own. The file cannot change under us, because the kernel refuses to write or to
//! truncate an executable that runs (`ETXTBSY`). The file is handed to us open, because a VMM in its jail can open
//! nothing. Where there is none or it is not what runs, and for a kernel that is not part of the executable, the
//! segments are copied as those of any other.
//!
//! Below such a mapping the memfd of the RAM keeps a hole. Giving these pages back (the balloon) is without
//! effect: only the guest's own harm.

use std::ffi::c_void;
use std::fs::File;
use std::io::Cursor;
use std::os::unix::fs::FileExt;

use rustix::mm::{MapFlags, ProtFlags, mmap};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::loader::{self, LoadError, Loaded, Segment};
use crate::executable;
use crate::machine::layout::PAGE;

/// Bytes of the ELF header, compared to tell that a file is our executable.
const HEAD: usize = 64;

/// Loads the ELF `image`, a part of the open `executable` that we run.
pub fn kernel(
    mem: &GuestMemoryMmap,
    image: &'static [u8],
    executable: Option<&File>,
) -> Result<Loaded, LoadError> {
    match in_place(mem, image, executable)? {
        Some(loaded) => Ok(loaded),
        // Segments that were mapped already are written over, which gives the guest pages of its own.
        None => loader::kernel(mem, &mut Cursor::new(image)),
    }
}

/// Maps the segments; `None` where that cannot be done.
fn in_place(
    mem: &GuestMemoryMmap,
    image: &'static [u8],
    executable: Option<&File>,
) -> Result<Option<Loaded>, LoadError> {
    let Some(head) = image.first_chunk::<HEAD>() else { return Err(LoadError::NotAKernel) };
    let Some(file) = executable else { return Ok(None) };
    let Some(offset) = place_in(file, image) else { return Ok(None) };
    let end = loader::elf_end(&mut Cursor::new(image), head, loader::low_ram_end(mem))?;
    for segment in loader::elf_segments(&mut Cursor::new(image), head)? {
        if map(mem, image, file, offset, &segment).is_none() {
            return Ok(None);
        }
    }
    Ok(Some(Loaded { entry: loader::elf_entry(head), end, header: None }))
}

/// Maps the whole pages of a segment over the RAM at its address and copies the rest. `loader::elf_end` has
/// proven that the segment lies in RAM.
fn map(mem: &GuestMemoryMmap, image: &[u8], file: &File, offset: u64, segment: &Segment) -> Option<()> {
    let bytes = image.get(segment.offset as usize..)?.get(..segment.file_size as usize)?;
    if segment.file_size > segment.memory_size
        || !(segment.physical | (offset + segment.offset)).is_multiple_of(PAGE)
    {
        return None;
    }
    let whole = bytes.len() / PAGE as usize * PAGE as usize;
    if whole > 0 {
        let host = mem.get_slice(GuestAddress(segment.physical), whole).ok()?;
        let (access, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED);
        // SAFETY: get_slice has checked that the range lies in one region, so MAP_FIXED replaces only pages of
        // a mapping that `mem` owns, as long and with the same access, and unmaps as a whole. That memory is
        // the guest's: nothing refers to it but by volatile access.
        unsafe {
            mmap(
                host.ptr_guard_mut().as_ptr().cast::<c_void>(),
                whole,
                access,
                flags,
                file,
                offset + segment.offset,
            )
        }
        .ok()?;
    }
    mem.write_slice(bytes.get(whole..)?, GuestAddress(segment.physical + whole as u64)).ok()
}

/// Where in the file of our executable `image` lies.
fn place_in(file: &File, image: &'static [u8]) -> Option<u64> {
    let (address, len) = (image.as_ptr() as u64, image.len() as u64);
    let offset = executable::read_only_segments().iter().find_map(|segment| {
        let inside = address.checked_sub(segment.address)?;
        (inside + len <= segment.len).then_some(segment.offset + inside)
    })?;
    let mut head = [0; HEAD];
    file.read_exact_at(&mut head, offset).ok()?;
    let whole = file.metadata().ok()?.len() >= offset + len;
    (whole && image.starts_with(&head)).then_some(offset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sandbox::GUEST_ELF;

    #[test]
    fn mapped_as_copied() {
        let memory = || GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 16 << 20)]).unwrap();
        let (mapped, copied) = (memory(), memory());
        let file = File::open("/proc/self/exe").unwrap();
        let offset = place_in(&file, GUEST_ELF).expect("the kernel lies in this test's executable");
        assert!(offset.is_multiple_of(PAGE));
        let one = in_place(&mapped, GUEST_ELF, Some(&file)).unwrap().expect("the kernel can be mapped");
        let other = loader::kernel(&copied, &mut Cursor::new(GUEST_ELF)).unwrap();
        assert_eq!((one.entry, one.end), (other.entry, other.end));
        let content = |memory: &GuestMemoryMmap| {
            let mut bytes = vec![0; 16 << 20];
            memory.read_slice(&mut bytes, GuestAddress(0)).unwrap();
            bytes
        };
        assert!(content(&mapped) == content(&copied));
    }

    #[test]
    fn what_is_not_in_the_executable_is_copied() {
        let file = File::open("/proc/self/exe").unwrap();
        assert!(place_in(&file, Vec::leak(GUEST_ELF.to_vec())).is_none());
    }
}
