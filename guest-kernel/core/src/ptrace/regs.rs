//! Register sets as tracers see them (`struct user_regs_struct`, `struct user`, the XSAVE image), and their checks.
//!
//! A tracer may try to give its tracee anything. What reaches the task: flags only as user code could set them itself
//! (no IOPL, NT, VM, RF, IF), the selectors there always are, FS and GS bases in the user half, an XSAVE image that the
//! processor will load. Any instruction pointer is taken: the way out of the kernel refuses a non-canonical one with a
//! fault of the program (`hal::UserRegs`).

use alloc::vec::Vec;

use ringfence_hal as hal;
use ringfence_hal::{DebugRegisters, UserRegs, debug::STATUS_NONE};

use crate::errno::{Errno, Result};

/// Words of `struct user_regs_struct`.
pub const WORDS: usize = 27;
/// The trap flag.
const TF: u64 = 0x100;
/// The resume flag.
const RF: u64 = 0x1_0000;
/// Flags a tracer reads and writes.
const USER_CS: u64 = 0x33;
const USER_SS: u64 = 0x2b;
const USER_END: u64 = hal::USER_END;

/// Bytes of the FXSAVE area.
pub const LEGACY: usize = 512;
const HEADER: usize = 512;
const MXCSR: usize = 24;
/// Where `struct xstate` tells debuggers XCR0.
const XCR0: usize = 464;
const X87: u8 = 1;
const SSE: u8 = 2;

/// The user context of a stopped task.
#[derive(Clone)]
pub struct Context {
    /// General registers.
    pub regs: UserRegs,
    /// FS base.
    pub fs_base: u64,
    /// GS base.
    pub gs_base: u64,
    /// The XSAVE image, standard format.
    pub fpu: Vec<u8>,
    /// It was changed.
    pub fpu_changed: bool,
    /// The debug registers DR0 to DR3 and DR7.
    pub debug: DebugRegisters,
    /// What of DR6 says why the last #DB came.
    pub debug_status: u64,
    /// The trap flag is the tracer's, for single steps, not the program's.
    pub forced_step: bool,
}

impl Default for Context {
    fn default() -> Self {
        Self::new(Vec::new())
    }
}

impl Context {
    /// With room for the FPU state.
    pub fn new(fpu: Vec<u8>) -> Self {
        let regs = UserRegs::new(0, 0);
        let debug = DebugRegisters::default();
        Context {
            regs,
            fs_base: 0,
            gs_base: 0,
            fpu,
            fpu_changed: false,
            debug,
            debug_status: 0,
            forced_step: false,
        }
    }

    /// `struct user_regs_struct`.
    pub fn words(&self) -> [u64; WORDS] {
        let r = &self.regs;
        [
            r.r15,
            r.r14,
            r.r13,
            r.r12,
            r.rbp,
            r.rbx,
            r.r11,
            r.r10,
            r.r9,
            r.r8,
            r.rax,
            r.rcx,
            r.rdx,
            r.rsi,
            r.rdi,
            r.orig_rax,
            r.rip,
            r.cs(),
            r.rflags,
            r.rsp,
            r.ss(),
            self.fs_base,
            self.gs_base,
            0,
            0,
            0,
            0,
        ]
    }

    /// Sets one word of `struct user_regs_struct`.
    ///
    /// # Errors
    /// EIO: a selector other than the one there is, a base outside the user half, no such word.
    pub fn set_word(&mut self, index: usize, value: u64) -> Result<()> {
        let r = &mut self.regs;
        let base = |value| if value < USER_END { Ok(value) } else { Err(Errno::EIO) };
        let only = |there: u64| if value & 0xffff == there { Ok(()) } else { Err(Errno::EIO) };
        let place = match index {
            0 => &mut r.r15,
            1 => &mut r.r14,
            2 => &mut r.r13,
            3 => &mut r.r12,
            4 => &mut r.rbp,
            5 => &mut r.rbx,
            6 => &mut r.r11,
            7 => &mut r.r10,
            8 => &mut r.r9,
            9 => &mut r.r8,
            10 => &mut r.rax,
            11 => &mut r.rcx,
            12 => &mut r.rdx,
            13 => &mut r.rsi,
            14 => &mut r.rdi,
            15 => &mut r.orig_rax,
            16 => &mut r.rip,
            17 => return only(USER_CS),
            18 => {
                let resume = r.rflags & RF; // stays what the processor made it
                r.set_user_rflags(value);
                r.rflags |= resume;
                return Ok(());
            }
            19 => &mut r.rsp,
            20 => return only(USER_SS),
            21 => {
                self.fs_base = base(value)?;
                return Ok(());
            }
            22 => {
                self.gs_base = base(value)?;
                return Ok(());
            }
            23..=26 => return only(0),
            _ => return Err(Errno::EIO),
        };
        *place = value;
        Ok(())
    }

    /// One of the debug registers; 4 and 5 do not exist.
    pub fn debug_word(&self, index: usize) -> u64 {
        match index {
            6 => self.debug_status ^ STATUS_NONE,
            7 => self.debug.control(),
            index => self.debug.addresses().get(index).copied().unwrap_or(0),
        }
    }

    /// Sets one of the debug registers.
    ///
    /// # Errors
    /// EIO: there is none; EINVAL: not a breakpoint that user code could hit.
    pub fn set_debug_word(&mut self, index: usize, value: u64) -> Result<()> {
        let mut addresses = self.debug.addresses();
        let mut control = self.debug.control();
        match index {
            6 => {
                self.debug_status = value ^ STATUS_NONE;
                return Ok(());
            }
            7 => control = value,
            index => *addresses.get_mut(index).ok_or(Errno::EIO)? = value,
        }
        self.debug = DebugRegisters::new(addresses, control).map_err(|_| Errno::EINVAL)?;
        Ok(())
    }

    /// Takes the trap flag off if the tracer put it there.
    pub fn end_step(&mut self) {
        if core::mem::take(&mut self.forced_step) {
            self.regs.rflags &= !TF;
        }
    }

    /// Has the task trap after its next instruction.
    pub fn begin_step(&mut self) {
        if self.regs.rflags & TF == 0 {
            self.forced_step = true;
            self.regs.rflags |= TF;
        }
    }

    /// The XSAVE image as `NT_X86_XSTATE` has it.
    pub fn xstate(&self) -> Vec<u8> {
        let mut image = self.fpu.clone();
        show_initial(&mut image);
        if let Some(word) = image.get_mut(XCR0..XCR0 + 8) {
            word.copy_from_slice(&hal::fpu::features().to_le_bytes());
        }
        image
    }

    /// Replaces the XSAVE image.
    ///
    /// # Errors
    /// EFAULT: not its size; EINVAL: the processor would refuse it.
    pub fn set_xstate(&mut self, image: Vec<u8>) -> Result<()> {
        if image.len() != self.fpu.len() {
            return Err(Errno::EFAULT);
        }
        hal::fpu::check(&image).map_err(|_| Errno::EINVAL)?;
        self.fpu = image;
        self.fpu_changed = true;
        Ok(())
    }

    /// The FXSAVE area (`PTRACE_GETFPREGS`).
    pub fn legacy(&self) -> [u8; LEGACY] {
        let mut image = self.fpu.clone();
        show_initial(&mut image);
        let mut out = [0; LEGACY];
        out.copy_from_slice(image.get(..LEGACY).unwrap_or(&[0; LEGACY]));
        out
    }

    /// Replaces the FXSAVE area.
    ///
    /// # Errors
    /// EINVAL: reserved bits of MXCSR.
    pub fn set_legacy(&mut self, legacy: &[u8; LEGACY]) -> Result<()> {
        let mut image = self.fpu.clone();
        image.get_mut(..LEGACY).ok_or(Errno::EIO)?.copy_from_slice(legacy);
        if let Some(present) = image.get_mut(HEADER) {
            *present |= X87 | SSE;
        }
        self.set_xstate(image)
    }
}

/// Components that are in their initial state may hold anything in the image: writes down what they mean.
fn show_initial(image: &mut [u8]) {
    let present = image.get(HEADER).copied().unwrap_or(X87 | SSE);
    let mut put = |at: usize, len: usize, bytes: &[u8]| {
        if let Some(to) = image.get_mut(at..at + len) {
            to.fill(0);
            if let Some(to) = to.get_mut(..bytes.len()) {
                to.copy_from_slice(bytes);
            }
        }
    };
    if present & X87 == 0 {
        put(0, MXCSR, &0x37fu16.to_le_bytes());
        put(32, 128, &[]);
    }
    if present & SSE == 0 {
        put(160, 256, &[]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn context() -> Context {
        let mut fpu = vec![0; hal::fpu::size()];
        hal::fpu::save(&mut fpu);
        Context::new(fpu)
    }

    #[test]
    fn words_keep_their_places() {
        let mut c = context();
        for i in 0..WORDS {
            let _ = c.set_word(i, 0x1000 + i as u64); // selectors refuse
        }
        let words = c.words();
        for (i, word) in words.into_iter().enumerate() {
            match i {
                17 => assert_eq!(word, USER_CS),
                20 => assert_eq!(word, USER_SS),
                18 | 23..=26 => {}
                _ => assert_eq!(word, 0x1000 + i as u64),
            }
        }
        assert_eq!((c.regs.r15, c.regs.rip, c.regs.rsp), (0x1000, 0x1010, 0x1013));
        assert_eq!(c.set_word(WORDS, 0), Err(Errno::EIO));
    }

    #[test]
    fn attack_flags_and_selectors_do_not_get_through() {
        let mut c = context();
        c.set_word(18, u64::MAX).unwrap();
        let flags = c.words()[18];
        assert_eq!(flags & (3 << 12), 0, "IOPL");
        assert_eq!(flags & (1 << 14), 0, "NT");
        assert_eq!(flags & (1 << 16), 0, "RF");
        assert_eq!(flags & (1 << 17), 0, "VM");
        assert_eq!(flags & (0b111 << 19), 0, "VIF, VIP, ID");
        assert_ne!(flags & (1 << 9), 0, "IF");
        c.set_word(18, 0).unwrap();
        assert_eq!(c.words()[18], 0x202);
        for selector in [0, 0x10, 0x18, 0x23, 0x30, 0x31, 0x32, 0x43, 0xffff] {
            assert_eq!(c.set_word(17, selector), Err(Errno::EIO), "cs {selector:#x}");
            assert_eq!(c.set_word(20, selector), Err(Errno::EIO), "ss {selector:#x}");
        }
        for index in 23..=26 {
            assert_eq!(c.set_word(index, 0x18), Err(Errno::EIO));
            assert_eq!(c.set_word(index, 0), Ok(()));
        }
        assert_eq!((c.regs.cs(), c.regs.ss()), (USER_CS, USER_SS));
    }

    #[test]
    fn attack_bases_outside_the_user_half_do_not_get_through() {
        let mut c = context();
        for base in [USER_END, 1 << 47, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(c.set_word(21, base), Err(Errno::EIO));
            assert_eq!(c.set_word(22, base), Err(Errno::EIO));
        }
        assert_eq!(c.set_word(21, USER_END - 1), Ok(()));
        // A wild instruction pointer is the program's to fault on.
        c.set_word(16, 0x8000_0000_0000_0000).unwrap();
        assert_eq!(c.regs.rip, 0x8000_0000_0000_0000);
    }

    #[test]
    fn attack_xsave_images_do_not_get_through() {
        let mut c = context();
        let good = c.xstate();
        assert_eq!(c.set_xstate(good.clone()), Ok(()));
        let mut broken = |at: usize, bit: u8| {
            let mut image = good.clone();
            image[at] |= bit;
            c.set_xstate(image)
        };
        assert_eq!(broken(MXCSR + 2, 1), Err(Errno::EINVAL), "reserved MXCSR bit");
        assert_eq!(broken(HEADER + 7, 0x40), Err(Errno::EINVAL), "a component that is not there");
        assert_eq!(broken(HEADER + 1, 1 << 1), Err(Errno::EINVAL), "PKRU");
        assert_eq!(broken(HEADER + 8, 1), Err(Errno::EINVAL), "XCOMP_BV");
        assert_eq!(broken(HEADER + 15, 0x80), Err(Errno::EINVAL), "compacted");
        assert_eq!(broken(HEADER + 63, 1), Err(Errno::EINVAL), "reserved header byte");
        assert_eq!(c.set_xstate(good[..good.len() - 1].to_vec()), Err(Errno::EFAULT));
        let mut legacy = c.legacy();
        legacy[MXCSR + 3] = 0xff;
        assert_eq!(c.set_legacy(&legacy), Err(Errno::EINVAL));
    }

    #[test]
    fn initial_components_read_as_such() {
        let mut c = context();
        c.fpu.fill(0xee);
        c.fpu[HEADER] = 0;
        let legacy = c.legacy();
        assert_eq!(legacy[..4], [0x7f, 0x03, 0, 0]);
        assert!(legacy[32..416].iter().all(|b| *b == 0));
        let mut changed = legacy;
        changed[MXCSR..MXCSR + 4].copy_from_slice(&0x1f80u32.to_le_bytes());
        changed[160] = 9;
        c.fpu[HEADER..].fill(0);
        c.set_legacy(&changed).unwrap();
        assert_eq!((c.fpu[160], c.fpu[HEADER]), (9, 3));
    }

    #[test]
    fn a_step_is_not_the_programs_own_flag() {
        let mut c = context();
        c.begin_step();
        assert_ne!(c.regs.rflags & TF, 0);
        c.end_step();
        assert_eq!(c.regs.rflags & TF, 0);
        c.regs.rflags |= TF;
        c.begin_step();
        c.end_step();
        assert_ne!(c.regs.rflags & TF, 0, "the program's own stays");
    }
}
