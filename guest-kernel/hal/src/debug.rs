//! The debug registers as a program's tracer may set them (AMD64 manual volume 2, 13.1; Intel SDM volume 3, 17.2).
//!
//! Whatever is loaded was made by [`DebugRegisters::new`]: watched addresses lie in the user half, no breakpoint is on
//! I/O ports, and general detect is off. So the kernel itself can hit one only by touching user memory, which is ignored.

/// Bits of DR7 that mean nothing, or are not a tracer's to set: bits 10 to 15 and the upper half.
const CONTROL_RESERVED: u64 = 0xffff_ffff_0000_fc00;
/// The bit of DR7 that always reads as one.
const CONTROL_ONE: u64 = 1 << 10;
/// What DR6 reads when nothing has happened.
pub const STATUS_NONE: u64 = 0xffff_0ff0;
/// Bits of DR6: which of the four, and a single step.
pub const STATUS_HITS: u64 = 0xf;
/// The same.
pub const STATUS_STEP: u64 = 1 << 14;

const EXECUTE: u64 = 0;
const PORT: u64 = 2;

/// Four addresses and what of them is watched.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DebugRegisters {
    address: [u64; 4],
    /// DR7 as it was asked for.
    control: u64,
    /// Without its reserved bits.
    effective: u64,
}

/// No such breakpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadBreakpoint;

impl DebugRegisters {
    /// Checks what a tracer wants; reserved bits of `control` are dropped.
    pub fn new(address: [u64; 4], control: u64) -> Result<Self, BadBreakpoint> {
        let effective = control & !CONTROL_RESERVED;
        for (slot, at) in address.into_iter().enumerate() {
            let field = effective >> (16 + slot * 4);
            let (kind, length) = (field & 3, [1, 2, 8, 4][(field >> 2 & 3) as usize]);
            let enabled = effective >> (slot * 2) & 3 != 0;
            let fits = match kind {
                EXECUTE => length == 1,
                PORT => false,
                _ => at % length == 0,
            };
            if at >= crate::USER_END - 8 || (enabled && !fits) {
                return Err(BadBreakpoint);
            }
        }
        Ok(Self { address, control, effective })
    }

    /// The addresses.
    pub fn addresses(&self) -> [u64; 4] {
        self.address
    }

    /// DR7 as it was asked for.
    pub fn control(&self) -> u64 {
        self.control
    }

    /// DR7 as it is loaded; 0 if nothing is watched.
    #[allow(dead_code)] // one implementation has no such registers
    pub(crate) fn loaded(&self) -> u64 {
        if self.effective & 0xff == 0 { 0 } else { self.effective | CONTROL_ONE }
    }

    /// Whether one of the breakpoints that `status` says were hit is on an instruction: that one has not run yet.
    pub fn before_instruction(&self, status: u64) -> bool {
        let on_instruction = |slot: &u64| self.effective >> (16 + slot * 4) & 3 == EXECUTE;
        (0..4).filter(|slot| status >> slot & 1 != 0).any(|slot| on_instruction(&slot))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRITE_4: u64 = 0b1101;

    #[test]
    fn attack_breakpoints_outside_the_user_half_or_with_privileged_bits() {
        let with = |at, control| DebugRegisters::new([at, 0, 0, 0], control);
        assert!(with(0x1000, WRITE_4 << 16 | 1).is_ok());
        for at in [crate::USER_END, crate::USER_END - 4, 1 << 47, 0xffff_8000_0000_0000, u64::MAX] {
            assert_eq!(with(at, 0), Err(BadBreakpoint), "{at:#x}");
            assert_eq!(with(at, WRITE_4 << 16 | 1), Err(BadBreakpoint), "{at:#x}");
        }
        // General detect and all else that is reserved is dropped.
        let odd = with(0x1000, u64::MAX << 32 | 1 << 13 | 0xfc00 | WRITE_4 << 16 | 1).unwrap();
        assert_eq!(odd.loaded(), WRITE_4 << 16 | 1 | 1 << 10);
        assert_eq!(with(0x1000, 0b0010 << 16 | 1), Err(BadBreakpoint), "ports");
        assert_eq!(with(0x1001, WRITE_4 << 16 | 1), Err(BadBreakpoint), "not aligned");
        assert_eq!(with(0x1000, 0b0100 << 16 | 1), Err(BadBreakpoint), "two bytes of an instruction");
        assert_eq!(with(0x1001, WRITE_4 << 16).unwrap().loaded(), 0, "nothing enabled");
        assert!(with(0x1000, 1).unwrap().before_instruction(1));
        assert!(!with(0x1000, WRITE_4 << 16 | 1).unwrap().before_instruction(1));
    }
}
