//! The vDSO: a small shared object that the kernel maps into every program (vdso(7)).
//!
//! The C library finds it by `AT_SYSINFO_EHDR` and calls the clock functions in it, which read the TSC and a page
//! of data instead of entering the kernel. Two mappings: `[vvar]`, the data, and after it `[vdso]`, the object.
//! Both are single frames shared by all programs, made once. Where the TSC is not stable the data says so, and
//! the functions make the system call.

mod image;

use alloc::sync::Arc;

use ringfence_hal as hal;
use ringfence_hal::{Frame, Prot, vdso::Data};

use crate::{
    errno::{Errno, Result},
    mm::{FileMapping, Limits, MapRequest, Mappable, Mm, PAGE_SIZE, Placement, VmFlags},
    sync::{Once, SpinLock},
    time,
};

/// One page that is mapped into programs.
struct Page {
    frame: Frame,
    label: &'static str,
}

impl Mappable for Page {
    fn page(&self, _index: u64, _write: bool) -> Result<Frame> {
        Ok(self.frame.clone())
    }

    fn len(&self) -> u64 {
        PAGE_SIZE
    }

    fn label(&self) -> Option<&'static str> {
        Some(self.label)
    }
}

struct Vdso {
    data: Arc<Page>,
    object: Arc<Page>,
    /// What the data page holds; locked to change it.
    current: SpinLock<Data>,
}

static VDSO: Once<Option<Vdso>> = Once::new();

fn vdso() -> Result<&'static Vdso> {
    VDSO.call_once(|| Vdso::new().ok()).as_ref().ok_or(Errno::ENOMEM)
}

impl Vdso {
    fn new() -> Result<Vdso> {
        let object = Frame::alloc_zeroed()?;
        object.write(0, &image::build());
        let data = Frame::alloc_zeroed()?;
        let current = clock_data();
        data.write(0, &current.to_bytes());
        Ok(Vdso {
            data: Arc::new(Page { frame: data, label: "[vvar]" }),
            object: Arc::new(Page { frame: object, label: "[vdso]" }),
            current: SpinLock::new(current),
        })
    }
}

fn clock_data() -> Data {
    let params = hal::time::vdso_params();
    Data {
        sequence: 0,
        enabled: u32::from(params.stable && params.tsc_shift < 64),
        tsc_base: params.tsc_base,
        multiplier: params.tsc_mult,
        ns_base: params.ns_base,
        realtime_offset: time::monotonic_to_realtime(0),
        shift: params.tsc_shift,
    }
}

/// Tells running programs that the wall clock was set.
pub fn realtime_changed() {
    let Some(Some(vdso)) = VDSO.get() else { return };
    let mut current = vdso.current.lock();
    let frame = &vdso.data.frame;
    let odd = Data { sequence: current.sequence.wrapping_add(1), ..*current };
    let new = Data { sequence: odd.sequence.wrapping_add(1), ..clock_data() };
    let [_, _, _, _, rest @ ..] = new.to_bytes();
    frame.write(0, &odd.sequence.to_le_bytes());
    frame.write(4, &rest);
    frame.write(0, &new.sequence.to_le_bytes());
    *current = new;
}

/// Maps the vDSO and returns the address of its ELF header.
pub fn map(mm: &Arc<Mm>) -> Result<u64> {
    let vdso = vdso()?;
    let base = mm.find_free(2 * PAGE_SIZE)?;
    let parts = [(&vdso.data, Prot::READ), (&vdso.object, Prot::READ | Prot::EXEC)];
    for (at, (page, prot)) in [base, base + PAGE_SIZE].into_iter().zip(parts) {
        let file = FileMapping { object: page.clone(), file: None, may_write: false, may_exec: true };
        let flags = VmFlags::SPECIAL;
        let request = MapRequest {
            len: PAGE_SIZE,
            placement: Placement::Fixed(at),
            prot,
            flags,
            file: Some((file, 0)),
        };
        mm.map(request, &Limits::NONE)?;
    }
    // The dynamic linker reads the object at once: no need to wait for the fault.
    mm.populate(base..base + 2 * PAGE_SIZE, Some(false), &mut || true)?;
    Ok(base + PAGE_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn setting_the_clock_reaches_the_page() {
        hal::host::World::new(64).enter(|| {
            let mm = Mm::new(0x7000_0000_0000).unwrap();
            let object = map(&mm).unwrap();
            let sequence = || {
                let mut b = [0; 4];
                mm.read_remote(object - PAGE_SIZE, &mut b, false).unwrap();
                u32::from_le_bytes(b)
            };
            assert_eq!(sequence(), 0);
            realtime_changed();
            assert_eq!(sequence(), 2);
            assert_eq!(mm.write_remote(object, b"x", true), Err(Errno::EFAULT));
        });
    }
}
