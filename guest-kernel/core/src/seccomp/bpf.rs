//! Classic BPF as seccomp has it: the checker and the interpreter.
//!
//! [`Program::new`] admits what Linux admits. After it, by construction: every jump goes forward to an instruction of the
//! program, the last instruction returns, loads are aligned words within the 64 bytes of [`Data`], and a scratch word is
//! written before it is read on every path. So [`Program::run`] ends after at most as many steps as there are
//! instructions and cannot fail; it stays total all the same, and what cannot happen answers "kill".

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout};

use crate::errno::{Errno, Result};

/// `BPF_MAXINSNS`.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// Scratch words.
const SCRATCH: usize = 16;

/// `struct sock_filter`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Instruction {
    /// Operation.
    pub code: u16,
    /// Instructions skipped if a condition holds.
    pub jt: u8,
    /// And if not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// `struct seccomp_data`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, FromBytes, IntoBytes, Immutable, KnownLayout)]
#[repr(C)]
pub struct Data {
    /// Number of the call.
    pub nr: i32,
    /// `AUDIT_ARCH_X86_64`.
    pub arch: u32,
    /// Address behind the `syscall` instruction.
    pub instruction_pointer: u64,
    /// Arguments.
    pub args: [u64; 6],
}

/// Bytes of [`Data`].
pub const DATA_LEN: u32 = size_of::<Data>() as u32;
/// Loads below this depend on number and architecture only.
const FIXED_LEN: u32 = 8;

const LD_IMM: u16 = 0x00;
const LD_ABS: u16 = 0x20;
const LD_MEM: u16 = 0x60;
const LD_LEN: u16 = 0x80;
const LDX_IMM: u16 = 0x01;
const LDX_MEM: u16 = 0x61;
const LDX_LEN: u16 = 0x81;
const ST: u16 = 0x02;
const STX: u16 = 0x03;
const RET_K: u16 = 0x06;
const RET_A: u16 = 0x16;
const TAX: u16 = 0x07;
const TXA: u16 = 0x87;
const NEG: u16 = 0x84;
const JA: u16 = 0x05;
/// Source operand of arithmetic and jumps is X.
const X: u16 = 0x08;
const CLASS: u16 = 0x07;
const ALU: u16 = 0x04;
const JMP: u16 = 0x05;

/// A program that was checked.
pub struct Program(Vec<Instruction>);

impl Program {
    /// Checks a program.
    ///
    /// # Errors
    /// EINVAL: it is empty or too long, has an operation that seccomp does not know, a load outside the data or not
    /// aligned, a division by the constant zero, a shift too far, a jump out of the program, a path that reads scratch
    /// memory before writing it, or no return at the end.
    pub fn new(instructions: Vec<Instruction>) -> Result<Program> {
        let len = instructions.len();
        if !(1..=MAX_INSTRUCTIONS).contains(&len) {
            return Err(Errno::EINVAL);
        }
        for (at, i) in instructions.iter().enumerate() {
            check(i, len - at - 1)?;
        }
        if !matches!(instructions.last().map(|i| i.code), Some(RET_K | RET_A)) {
            return Err(Errno::EINVAL);
        }
        check_scratch(&instructions)?;
        Ok(Program(instructions))
    }

    /// How many instructions it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Never.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it answers for a call.
    pub fn run(&self, data: &Data) -> u32 {
        self.evaluate(data, DATA_LEN).unwrap_or(0)
    }

    /// What it answers for every call with this number, if that does not depend on more.
    pub fn run_for_number(&self, nr: i32, arch: u32) -> Option<u32> {
        self.evaluate(&Data { nr, arch, ..Data::default() }, FIXED_LEN)
    }

    /// Runs it; `None` if it looks at data beyond `known` bytes.
    fn evaluate(&self, data: &Data, known: u32) -> Option<u32> {
        let bytes = data.as_bytes();
        let (mut a, mut x) = (0u32, 0u32);
        let mut scratch = [0u32; SCRATCH];
        let mut at = 0;
        // Jumps only go forward: this ends.
        while let Some(i) = self.0.get(at) {
            at += 1;
            let k = i.k;
            let slot = k as usize;
            match i.code {
                LD_IMM => a = k,
                LDX_IMM => x = k,
                LD_LEN => a = DATA_LEN,
                LDX_LEN => x = DATA_LEN,
                LD_ABS if k >= known => return None,
                LD_ABS => a = u32::from_ne_bytes(*bytes.get(slot..)?.first_chunk()?),
                LD_MEM => a = *scratch.get(slot)?,
                LDX_MEM => x = *scratch.get(slot)?,
                ST => *scratch.get_mut(slot)? = a,
                STX => *scratch.get_mut(slot)? = x,
                TAX => x = a,
                TXA => a = x,
                NEG => a = a.wrapping_neg(),
                RET_K => return Some(k),
                RET_A => return Some(a),
                JA => at = at.checked_add(slot)?,
                code if code & CLASS == JMP => {
                    let other = if code & X != 0 { x } else { k };
                    let holds = match code & !(X | CLASS) {
                        0x10 => a == other,
                        0x20 => a > other,
                        0x30 => a >= other,
                        _ => a & other != 0,
                    };
                    at += usize::from(if holds { i.jt } else { i.jf });
                }
                code => {
                    let other = if code & X != 0 { x } else { k };
                    a = match code & !(X | CLASS) {
                        0x00 => a.wrapping_add(other),
                        0x10 => a.wrapping_sub(other),
                        0x20 => a.wrapping_mul(other),
                        // Division by an X of zero ends the program with the answer 0.
                        0x30 => match a.checked_div(other) {
                            Some(quotient) => quotient,
                            None => return Some(0),
                        },
                        0x40 => a | other,
                        0x50 => a & other,
                        0x60 => a.wrapping_shl(other),
                        0x70 => a.wrapping_shr(other),
                        _ => a ^ other,
                    };
                }
            }
        }
        None
    }
}

/// Checks one instruction that has `after` more behind it.
fn check(i: &Instruction, after: usize) -> Result<()> {
    let inside = |jump: usize| jump < after;
    let ok = match i.code {
        LD_ABS => i.k < DATA_LEN && i.k.is_multiple_of(4),
        LD_IMM | LDX_IMM | LD_LEN | LDX_LEN | RET_K | RET_A | TAX | TXA | NEG => true,
        LD_MEM | LDX_MEM | ST | STX => (i.k as usize) < SCRATCH,
        JA => inside(i.k as usize),
        code if code & CLASS == JMP => {
            matches!(code & !(X | CLASS), 0x10 | 0x20 | 0x30 | 0x40)
                && inside(i.jt.into())
                && inside(i.jf.into())
        }
        code if code & CLASS == ALU => {
            let constant = code & X == 0;
            match code & !(X | CLASS) {
                0x00 | 0x10 | 0x20 | 0x40 | 0x50 | 0xa0 => true,
                0x30 => !constant || i.k != 0,
                0x60 | 0x70 => !constant || i.k < 32,
                _ => false,
            }
        }
        _ => false,
    };
    if ok { Ok(()) } else { Err(Errno::EINVAL) }
}

/// Every scratch word that is read was written on all ways there.
fn check_scratch(instructions: &[Instruction]) -> Result<()> {
    const ALL: u16 = u16::MAX;
    // What is certainly written when an instruction is reached by a jump.
    let mut masks: Vec<u16> = alloc::vec![ALL; instructions.len()];
    let mut written = 0u16;
    for (at, i) in instructions.iter().enumerate() {
        written &= masks.get(at).copied().unwrap_or(ALL);
        let bit = 1u16.checked_shl(i.k).unwrap_or(0);
        let mut jump = |by: usize| {
            if let Some(mask) = masks.get_mut(at + 1 + by) {
                *mask &= written;
            }
        };
        match i.code {
            ST | STX => written |= bit,
            LD_MEM | LDX_MEM if written & bit == 0 => return Err(Errno::EINVAL),
            JA => {
                jump(i.k as usize);
                written = ALL;
            }
            code if code & CLASS == JMP => {
                jump(i.jt.into());
                jump(i.jf.into());
                written = ALL;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    const ARCH: u32 = 0xc000_003e;

    fn op(code: u16, k: u32) -> Instruction {
        Instruction { code, jt: 0, jf: 0, k }
    }

    fn jump(code: u16, k: u32, jt: u8, jf: u8) -> Instruction {
        Instruction { code, jt, jf, k }
    }

    const JEQ: u16 = 0x15;

    fn refused(program: Vec<Instruction>) -> bool {
        Program::new(program).err() == Some(Errno::EINVAL)
    }

    #[test]
    fn hostile_programs_are_refused() {
        assert!(refused(vec![]));
        assert!(refused(vec![op(RET_K, 0); MAX_INSTRUCTIONS + 1]));
        assert!(Program::new(vec![op(RET_K, 0); MAX_INSTRUCTIONS]).is_ok());
        assert!(refused(vec![op(LD_IMM, 0)]), "no return");
        assert!(refused(vec![op(JA, 0)]), "jump past the end");
        assert!(refused(vec![op(JA, u32::MAX), op(RET_K, 0)]), "jump far away, or back");
        assert!(refused(vec![jump(JEQ, 0, 1, 0), op(RET_K, 0)]));
        assert!(refused(vec![jump(JEQ, 0, 0, 255), op(RET_K, 0)]));
        assert!(refused(vec![op(LD_ABS, 64), op(RET_A, 0)]), "beyond the data");
        assert!(refused(vec![op(LD_ABS, u32::MAX - 3), op(RET_A, 0)]));
        assert!(refused(vec![op(LD_ABS, 2), op(RET_A, 0)]), "not aligned");
        assert!(refused(vec![op(0x28, 0), op(RET_A, 0)]), "half words");
        assert!(refused(vec![op(0x40, 0), op(RET_A, 0)]), "indirect loads");
        assert!(refused(vec![op(0x34, 0), op(RET_A, 0)]), "division by zero");
        assert!(refused(vec![op(0x94, 3), op(RET_A, 0)]), "modulo");
        assert!(refused(vec![op(0x64, 32), op(RET_A, 0)]), "shift too far");
        assert!(refused(vec![op(ST, 16), op(RET_A, 0)]), "scratch word 16");
        assert!(refused(vec![op(LD_MEM, 3), op(RET_A, 0)]), "read before written");
        // Written on one way only.
        let one_way = vec![jump(JEQ, 0, 0, 1), op(ST, 1), op(LD_MEM, 1), op(RET_A, 0)];
        assert!(refused(one_way));
        let both = vec![op(ST, 1), jump(JEQ, 0, 0, 1), op(ST, 2), op(LD_MEM, 1), op(RET_A, 0)];
        assert!(Program::new(both).is_ok());
    }

    #[test]
    fn it_computes() {
        let data = Data { nr: 39, arch: ARCH, args: [7, 0x1_0000_0009, 0, 0, 0, 0], ..Data::default() };
        let run = |program: Vec<Instruction>| Program::new(program).unwrap().run(&data);
        assert_eq!(run(vec![op(LD_ABS, 0), op(RET_A, 0)]), 39);
        assert_eq!(run(vec![op(LD_ABS, 4), op(RET_A, 0)]), ARCH);
        assert_eq!(run(vec![op(LD_ABS, 16), op(RET_A, 0)]), 7);
        assert_eq!(run(vec![op(LD_ABS, 28), op(RET_A, 0)]), 1, "high half of an argument");
        assert_eq!(run(vec![op(LD_LEN, 0), op(RET_A, 0)]), 64);
        assert_eq!(run(vec![op(LD_IMM, 5), op(LDX_IMM, 0), op(0x3c, 0), op(RET_K, 1)]), 0, "by zero X");
        assert_eq!(run(vec![op(LD_IMM, 1), op(LDX_IMM, 33), op(0x6c, 0), op(RET_A, 0)]), 2, "shifts wrap");
        assert_eq!(run(vec![jump(JEQ, 0, 1, 0), op(RET_K, 1), op(RET_K, 2)]), 2);
    }

    /// A generator of numbers that is the same in every run.
    struct Numbers(u64);

    impl Numbers {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
        fn below(&mut self, n: u64) -> u64 {
            self.next() % n
        }
    }

    /// Another way to run a program: recursion over the rest of it, wide arithmetic, no shared code.
    fn reference(program: &[Instruction], data: &[u8], a: u64, x: u64, mem: &mut [u64; 16]) -> u64 {
        let m = 0xffff_ffff;
        let (i, rest) = program.split_first().unwrap();
        let k = u64::from(i.k);
        let b = if i.code & 8 != 0 { x } else { k };
        let (mut a2, mut x2, mut skip) = (a, x, 0usize);
        match (i.code & 7, i.code & 0xf0, i.code & 0xe0) {
            (0, _, 0x00) => a2 = k,
            (0, _, 0x20) => {
                a2 = (0..4).fold(0, |v, n| v | u64::from(data[k as usize + n]) << (8 * n));
            }
            (0, _, 0x60) => a2 = mem[k as usize],
            (0, _, _) => a2 = 64,
            (1, _, 0x00) => x2 = k,
            (1, _, 0x60) => x2 = mem[k as usize],
            (1, _, _) => x2 = 64,
            (2, ..) => mem[k as usize] = a,
            (3, ..) => mem[k as usize] = x,
            (6, ..) => return if i.code & 0x18 == 0x10 { a } else { k },
            (7, ..) => {
                if i.code & 0x80 != 0 {
                    a2 = x
                } else {
                    x2 = a
                }
            }
            (5, 0x00, _) => skip = k as usize,
            (5, how, _) => {
                let holds = match how {
                    0x10 => a == b,
                    0x20 => a > b,
                    0x30 => a >= b,
                    _ => a & b != 0,
                };
                skip = if holds { i.jt } else { i.jf }.into();
            }
            (_, how, _) => {
                a2 = match how {
                    0x00 => a + b,
                    0x10 => a + (m + 1) - b,
                    0x20 => a * b,
                    0x30 if b == 0 => return 0,
                    0x30 => a / b,
                    0x40 => a | b,
                    0x50 => a & b,
                    0x60 => a << (b % 32),
                    0x70 => a >> (b % 32),
                    0x80 => (m + 1) - a,
                    _ => a ^ b,
                } & m;
            }
        }
        reference(&rest[skip..], data, a2, x2, mem)
    }

    const CODES: &[u16] = &[
        LD_IMM, LD_ABS, LD_MEM, LD_LEN, LDX_IMM, LDX_MEM, LDX_LEN, ST, STX, RET_K, RET_A, TAX, TXA, NEG, JA,
        0x15, 0x1d, 0x25, 0x2d, 0x35, 0x3d, 0x45, 0x4d, 0x04, 0x0c, 0x14, 0x1c, 0x24, 0x2c, 0x34, 0x3c, 0x44,
        0x4c, 0x54, 0x5c, 0x64, 0x6c, 0x74, 0x7c, 0xa4, 0xac,
    ];

    #[test]
    fn random_programs_answer_as_the_reference_does() {
        let mut n = Numbers(0x9e37_79b9_7f4a_7c15);
        let (mut accepted, mut fixed) = (0, 0);
        for _ in 0..60_000 {
            let len = 1 + n.below(14);
            let mut program: Vec<Instruction> = (0..len)
                .map(|_| {
                    let code = match n.below(50) {
                        0 => n.next() as u16,
                        _ => CODES[n.below(CODES.len() as u64) as usize],
                    };
                    let k = match n.below(4) {
                        0 => n.next() as u32,
                        1 => n.below(18) as u32 * 4,
                        _ => n.below(6) as u32,
                    };
                    Instruction { code, jt: n.below(4) as u8, jf: n.below(4) as u8, k }
                })
                .collect();
            program.push(op(if n.below(2) == 0 { RET_A } else { RET_K }, 9));
            let Ok(checked) = Program::new(program.clone()) else { continue };
            accepted += 1;
            let mut data = Data { nr: n.below(400) as i32, arch: ARCH, ..Data::default() };
            data.instruction_pointer = n.next();
            data.args = core::array::from_fn(|_| if n.below(2) == 0 { n.below(5) } else { n.next() });
            let want = reference(&program, data.as_bytes(), 0, 0, &mut [0; 16]);
            assert_eq!(u64::from(checked.run(&data)), want, "{program:?} {data:?}");
            if let Some(always) = checked.run_for_number(data.nr, ARCH) {
                fixed += 1;
                assert_eq!(u64::from(always), want, "not for every argument: {program:?}");
            }
        }
        assert!(accepted > 5_000 && fixed > 1_000, "{accepted} {fixed}");
    }
}
