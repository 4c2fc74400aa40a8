//! Memory of a process by address, without running in it: `process_vm_readv`, `/proc/PID/mem` and `cmdline`,
//! ptrace, exec setting up a new image; and the identity of a word of memory for futexes.
//!
//! Pages are reached through their frames, with the layout locked for reading so that they stay in place.

use alloc::sync::Arc;

use ringfence_hal::{Access, Frame, Prot};

use super::{
    Backing, FaultResult, Mappable, Mm, PAGE_SIZE, VmFlags, Vma, fault::page_rights, page_align_down,
};
use crate::errno::{Errno, Result};

/// What a word of memory is, independent of the address space it is seen in.
#[derive(Clone)]
pub enum WordKey {
    /// A word of private memory: only meaningful within its [`Mm`].
    Private {
        /// Its address.
        addr: u64,
    },
    /// A word of an object that other address spaces may map too.
    Shared {
        /// The object. Holding it keeps its address, which is its identity, from being reused.
        object: Arc<dyn Mappable>,
        /// Byte offset in the object.
        offset: u64,
    },
}

impl Mm {
    /// Reads `buf.len()` bytes at `addr`. Returns how many could be read; EFAULT if none. With `force`, the
    /// mapping's protection is ignored (ptrace).
    pub fn read_remote(&self, addr: u64, buf: &mut [u8], force: bool) -> Result {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let offset = (at % PAGE_SIZE) as usize;
            let n = rest.len().min(PAGE_SIZE as usize - offset);
            let read = self.with_page(at, Access::Read, force, |frame| {
                frame.read(offset, rest.get_mut(..n).unwrap_or_default());
            });
            if read.is_err() {
                break;
            }
            done += n;
        }
        if done == 0 && !buf.is_empty() { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Writes `bytes` at `addr`. Returns how many could be written; EFAULT if none. With `force`, a private
    /// mapping may be written even if the program may not (a breakpoint in its code): it gets its own copy.
    pub fn write_remote(&self, addr: u64, bytes: &[u8], force: bool) -> Result {
        let mut done = 0;
        while let Some(rest) = bytes.get(done..).filter(|rest| !rest.is_empty()) {
            let Some(at) = addr.checked_add(done as u64) else { break };
            let offset = (at % PAGE_SIZE) as usize;
            let n = rest.len().min(PAGE_SIZE as usize - offset);
            let written = self.with_page(at, Access::Write, force, |frame| {
                frame.write(offset, rest.get(..n).unwrap_or_default());
            });
            if written.is_err() {
                break;
            }
            done += n;
        }
        if done == 0 && !bytes.is_empty() { Err(Errno::EFAULT) } else { Ok(done) }
    }

    /// Clears `len` bytes at `addr` (exec: the part of a page beyond the file's data).
    pub fn zero_remote(&self, addr: u64, len: u64) -> Result<()> {
        let mut done = 0;
        while done < len {
            let at = addr.checked_add(done).ok_or(Errno::EFAULT)?;
            let offset = at % PAGE_SIZE;
            let n = (len - done).min(PAGE_SIZE - offset);
            self.with_page(at, Access::Write, true, |frame| {
                frame.zero(offset as usize..(offset + n) as usize)
            })?;
            done += n;
        }
        Ok(())
    }

    /// Runs `f` on the frame at `addr`, made present and, for a write, private or shared-writable.
    fn with_page<R>(&self, addr: u64, access: Access, force: bool, f: impl FnOnce(&Frame) -> R) -> Result<R> {
        let page = page_align_down(addr);
        // A few rounds: another thread may drop the page (MADV_DONTNEED) between touch and get.
        for _ in 0..16 {
            let layout = self.layout.read();
            let vma = layout.vmas.find(page).ok_or(Errno::EFAULT)?;
            let mut touched = self.touch(vma, page, access, false);
            if touched == FaultResult::NotPermitted && force {
                touched = self.touch_by_force(vma, page, access)?;
            }
            match touched {
                FaultResult::Resolved => {}
                FaultResult::OutOfMemory => return Err(Errno::ENOMEM),
                FaultResult::NotLoaded => {
                    drop(layout);
                    self.load_page(page).map_err(|_| Errno::EFAULT)?;
                    continue;
                }
                _ => return Err(Errno::EFAULT),
            }
            if let Some(mapping) = self.space.get(page) {
                return Ok(f(&mapping.frame));
            }
        }
        Err(Errno::EFAULT)
    }

    /// Makes a page of a private mapping present although the program may not access it so.
    fn touch_by_force(&self, vma: &Vma, page: u64, access: Access) -> Result<FaultResult> {
        if access == Access::Write && vma.is_shared() || vma.flags.contains(VmFlags::SPECIAL) {
            return Err(Errno::EFAULT);
        }
        // The page is resolved under the protection that would allow it, then gets the real one back.
        let mut allowed = vma.clone();
        allowed.prot |= if access == Access::Write { Prot::READ | Prot::WRITE } else { Prot::READ };
        vma.note_private_page();
        let touched = self.touch(&allowed, page, access, false);
        if touched == FaultResult::Resolved {
            self.space.protect(page..page + PAGE_SIZE, page_rights(vma.prot));
        }
        Ok(touched)
    }

    /// The identity of the word at `addr`, for futexes shared between processes.
    ///
    /// # Errors
    /// EFAULT if nothing is mapped there.
    pub fn word_key(&self, addr: u64) -> Result<WordKey> {
        let layout = self.layout.read();
        let vma = layout.vmas.find(addr).ok_or(Errno::EFAULT)?;
        Ok(match &vma.backing {
            Backing::Object { object, offset, .. } if vma.is_shared() => {
                WordKey::Shared { object: object.clone(), offset: offset + (addr - vma.start) }
            }
            // Somebody else's change cannot be waited for where nobody can make one.
            Backing::Anonymous if !vma.is_shared() && !vma.prot.contains(Prot::WRITE) => {
                return Err(Errno::EFAULT);
            }
            _ => WordKey::Private { addr },
        })
    }
}
