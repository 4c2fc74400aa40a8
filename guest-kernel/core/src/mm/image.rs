//! `prctl(PR_SET_MM)`: a program says where its parts lie.
//!
//! Linux keeps eleven addresses, which matter to who reads `/proc/PID`: `cmdline`, `environ`, `stat`. Programs that give themselves a
//! title move the arguments and the environment (systemd). Each may be set to any address that is mapped, or below one
//! that is, as long as the parts stay in order; `CAP_SYS_RESOURCE` over the machine is needed. The heap's two, the auxiliary
//! vector, the program's file and all at once (`PR_SET_MM_MAP`) are for those who restore processes, which do not run here: `EINVAL`.

use super::{Image, MMAP_MIN_ADDR, Mm, USER_END};
use crate::errno::{Errno, Result};

/// Which address a number of `PR_SET_MM` is about, and whether something has to be mapped there or above.
fn part(image: &mut Image, number: u64) -> Option<(&mut u64, bool)> {
    Some(match number {
        1 => (&mut image.start_code, false),
        2 => (&mut image.end_code, false),
        3 => (&mut image.start_data, false),
        4 => (&mut image.end_data, false),
        5 => (&mut image.start_stack, true),
        8 => (&mut image.arg_start, true),
        9 => (&mut image.arg_end, true),
        10 => (&mut image.env_start, true),
        11 => (&mut image.env_end, true),
        _ => return None,
    })
}

fn in_order(image: &Image) -> bool {
    image.start_code < image.end_code
        && image.start_data <= image.end_data
        && image.arg_start <= image.arg_end
        && image.env_start <= image.env_end
}

impl Mm {
    /// Sets one of the addresses. `EINVAL`, `EFAULT`.
    pub fn set_part_of_image(&self, number: u64, addr: u64) -> Result<()> {
        if !(MMAP_MIN_ADDR..USER_END).contains(&addr) {
            return Err(Errno::EINVAL);
        }
        let mut layout = self.layout.write();
        let is_below_something = layout.vmas.find_at_or_after(addr).is_some();
        let mut image = layout.image.clone();
        let (place, to_be_mapped) = part(&mut image, number).ok_or(Errno::EINVAL)?;
        *place = addr;
        if !in_order(&image) {
            return Err(Errno::EINVAL);
        }
        if to_be_mapped && !is_below_something {
            return Err(Errno::EFAULT);
        }
        layout.image = image;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_stay_in_order_and_on_what_is_mapped() {
        let mm = Mm::new(1 << 40).unwrap();
        mm.update_image(|i| {
            (i.start_code, i.end_code) = (0x40_0000, 0x40_1000);
            (i.arg_start, i.arg_end) = (0x50_0000, 0x50_0010);
        });
        assert_eq!(mm.set_part_of_image(1, 0x3f_0000), Ok(()));
        assert_eq!(mm.set_part_of_image(2, 0x3f_0000), Err(Errno::EINVAL), "no code");
        assert_eq!(mm.image().end_code, 0x40_1000, "as before");
        assert_eq!(mm.set_part_of_image(9, 0x60_0000), Err(Errno::EFAULT), "nothing is mapped");
        assert_eq!(mm.image().arg_end, 0x50_0010);
        for (number, addr) in
            [(1, MMAP_MIN_ADDR - 1), (1, USER_END), (6, 0x40_0000), (12, 0x40_0000), (99, 0x40_0000)]
        {
            assert_eq!(mm.set_part_of_image(number, addr), Err(Errno::EINVAL), "{number} {addr:x}");
        }
    }
}
