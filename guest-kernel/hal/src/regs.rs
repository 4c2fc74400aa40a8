//! The general registers of a user context, and the only rules by which they may return to ring 3.

/// Selector of the user code segment, RPL 3: what Linux gives 64-bit programs.
const USER_CS: u64 = 0x33;
/// Selector of the user data segment, RPL 3.
const USER_SS: u64 = 0x2b;

/// `rflags` bits user code may choose: CF PF AF ZF SF TF DF OF AC.
const USER_FLAGS: u64 = 0x1 | 0x4 | 0x10 | 0x40 | 0x80 | 0x100 | 0x400 | 0x800 | 0x4_0000;
/// Bit 1 always reads as one; IF is always on in ring 3.
const FORCED_FLAGS: u64 = 0x2 | 0x200;
/// RF: kept at the return to user mode when the processor saved it, never taken from user memory.
const RF: u64 = 0x1_0000;

/// General registers of a user context, in the order the entry stub pushes them (lowest address first).
///
/// Whatever is written here cannot leave ring 3: the exit path forces the selectors, IF and IOPL again and
/// delivers [`Exception::GeneralProtection`](crate::Exception) for a non-canonical `rip`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
#[allow(missing_docs)] // the registers' own names
pub struct UserRegs {
    pub r15: u64,
    pub r14: u64,
    pub r13: u64,
    pub r12: u64,
    pub rbp: u64,
    pub rbx: u64,
    pub r11: u64,
    pub r10: u64,
    pub r9: u64,
    pub r8: u64,
    pub rax: u64,
    pub rcx: u64,
    pub rdx: u64,
    pub rsi: u64,
    pub rdi: u64,
    /// The system call's number as it was at entry; `u64::MAX` when the kernel was not entered by a system
    /// call.
    pub orig_rax: u64,
    pub rip: u64,
    cs: u64,
    pub rflags: u64,
    pub rsp: u64,
    ss: u64,
}

impl UserRegs {
    /// A fresh context: all other registers zero, flags as after `execve`.
    pub const fn new(rip: u64, rsp: u64) -> Self {
        Self {
            r15: 0,
            r14: 0,
            r13: 0,
            r12: 0,
            rbp: 0,
            rbx: 0,
            r11: 0,
            r10: 0,
            r9: 0,
            r8: 0,
            rax: 0,
            rcx: 0,
            rdx: 0,
            rsi: 0,
            rdi: 0,
            orig_rax: u64::MAX,
            rip,
            cs: USER_CS,
            rflags: FORCED_FLAGS,
            rsp,
            ss: USER_SS,
        }
    }

    /// The code selector, always the user one.
    pub const fn cs(&self) -> u64 {
        self.cs
    }

    /// The stack selector, always the user one.
    pub const fn ss(&self) -> u64 {
        self.ss
    }

    /// Takes flags from user memory (sigreturn, ptrace): only CF PF AF ZF SF TF DF OF AC are kept, IF is on
    /// and IOPL is 0.
    pub const fn set_user_rflags(&mut self, v: u64) {
        self.rflags = (v & USER_FLAGS) | FORCED_FLAGS;
    }

    /// Makes the context safe to return to; the exit path calls it last. Selectors, IF, IOPL, NT, VM and the
    /// reserved flags are forced; RF survives.
    #[allow(dead_code)] // one implementation does this in assembly on its fast path
    pub(crate) const fn force_user(&mut self) {
        self.cs = USER_CS;
        self.ss = USER_SS;
        self.rflags = (self.rflags & (USER_FLAGS | RF)) | FORCED_FLAGS;
    }

    /// `rip` lies in the lower canonical half.
    #[allow(dead_code)] // as above
    pub(crate) const fn rip_is_user_canonical(&self) -> bool {
        self.rip < 1 << 47
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_from_user_memory_cannot_raise_privilege() {
        let mut r = UserRegs::new(0x1000, 0x2000);
        r.set_user_rflags(u64::MAX);
        assert_eq!(r.rflags & 0x3000, 0, "IOPL");
        assert_eq!(r.rflags & 0x4000, 0, "NT");
        assert_eq!(r.rflags & 0x1_0000, 0, "RF");
        assert_eq!(r.rflags & 0x2_0000, 0, "VM");
        assert_eq!(r.rflags & 0x200, 0x200, "IF");
        assert_eq!(r.rflags & 0x100, 0x100, "TF is the program's own");
        r.set_user_rflags(0);
        assert_eq!(r.rflags, 0x202);
    }

    #[test]
    fn the_exit_path_forces_selectors_and_flags() {
        let mut r = UserRegs { cs: 0x10, ss: 0x18, rflags: u64::MAX, ..UserRegs::new(0, 0) };
        r.force_user();
        assert_eq!((r.cs(), r.ss()), (0x33, 0x2b));
        assert_eq!(r.rflags & !(USER_FLAGS | RF | FORCED_FLAGS), 0);
    }

    #[test]
    fn only_the_lower_half_is_canonical_for_user_code() {
        assert!(UserRegs::new((1 << 47) - 1, 0).rip_is_user_canonical());
        assert!(!UserRegs::new(1 << 47, 0).rip_is_user_canonical());
        assert!(!UserRegs::new(u64::MAX, 0).rip_is_user_canonical());
    }
}
