//! The argument and environment strings of a new program, and the stack they go on.
//!
//! Layout from the top down, as Linux makes it: 8 zero bytes, the path of the program, the environment strings,
//! the argument strings, a random gap, the platform's name, 16 random bytes; then 16-byte aligned, upward from
//! the stack pointer: argc, argv, NULL, envp, NULL, the auxiliary vector.

use alloc::vec::Vec;

use crate::errno::{Errno, Result};

/// Longest single string, NUL included (Linux: `MAX_ARG_STRLEN`).
pub const MAX_STRING: usize = 32 * 4096;
/// What strings and pointers may take at least, whatever `RLIMIT_STACK` says (Linux: `ARG_MAX`).
const MIN_TOTAL: u64 = 32 * 4096;
/// And at most (Linux: three quarters of 8 MiB).
const MAX_TOTAL: u64 = 6 << 20;

/// Strings collected for a new program.
pub struct Arguments {
    argv: Strings,
    envp: Strings,
    limit: u64,
}

/// Strings, each with its NUL, one after the other.
#[derive(Default)]
struct Strings {
    bytes: Vec<u8>,
    count: usize,
}

impl Strings {
    fn push(&mut self, string: &[u8]) -> Result<()> {
        self.bytes.try_reserve(string.len() + 1).map_err(|_| Errno::ENOMEM)?;
        self.bytes.extend_from_slice(string);
        self.bytes.push(0);
        self.count += 1;
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = &[u8]> {
        // The last NUL ends the last string rather than beginning another.
        self.bytes.strip_suffix(&[0]).map(|b| b.split(|b| *b == 0)).into_iter().flatten()
    }
}

impl Arguments {
    /// None yet. `stack_limit` is `RLIMIT_STACK` in bytes: a quarter of it may be used.
    pub fn new(stack_limit: u64) -> Self {
        Arguments {
            argv: Strings::default(),
            envp: Strings::default(),
            limit: (stack_limit / 4).clamp(MIN_TOTAL, MAX_TOTAL),
        }
    }

    /// Adds an argument. E2BIG if it is too long or all get too large.
    pub fn push_argument(&mut self, string: &[u8]) -> Result<()> {
        self.check(string)?;
        self.argv.push(string)
    }

    /// Adds an environment string. E2BIG if it is too long or all get too large.
    pub fn push_environment(&mut self, string: &[u8]) -> Result<()> {
        self.check(string)?;
        self.envp.push(string)
    }

    /// Bytes that may still be added.
    pub fn remaining(&self) -> usize {
        usize::try_from(self.limit.saturating_sub(self.size())).unwrap_or(0)
    }

    /// Number of arguments.
    pub fn argc(&self) -> usize {
        self.argv.count
    }

    /// Replaces the first argument (if any) by `first`, as running a script's interpreter does.
    pub fn replace_first(&mut self, first: &[&[u8]]) -> Result<()> {
        let mut argv = Strings::default();
        for string in first {
            self.check(string)?;
            argv.push(string)?;
        }
        for string in self.argv.iter().skip(1) {
            argv.push(string)?;
        }
        self.argv = argv;
        if self.size() > self.limit { Err(Errno::E2BIG) } else { Ok(()) }
    }

    /// The arguments, for a message.
    pub fn arguments(&self) -> impl Iterator<Item = &[u8]> {
        self.argv.iter()
    }

    fn size(&self) -> u64 {
        let pointers = 8 * (self.argv.count + self.envp.count);
        (self.argv.bytes.len() + self.envp.bytes.len() + pointers) as u64
    }

    fn check(&self, string: &[u8]) -> Result<()> {
        let added = string.len() as u64 + 9;
        if string.len() >= MAX_STRING || self.size() + added > self.limit || string.contains(&0) {
            return Err(Errno::E2BIG);
        }
        Ok(())
    }
}

/// What else goes on the stack.
pub struct StackInputs<'a> {
    /// First address after the stack; page-aligned.
    pub top: u64,
    /// Bytes of the random gap below the strings, less than 8192.
    pub gap: u64,
    /// The path the program was started by.
    pub path: &'a [u8],
    /// `AT_RANDOM`.
    pub random: [u8; 16],
}

/// The initial stack of a program.
pub struct InitialStack {
    /// Where it begins: the stack pointer.
    pub pointer: u64,
    /// The bytes from there to the top.
    pub bytes: Vec<u8>,
    /// First argument string.
    pub arg_start: u64,
    /// After the last argument string.
    pub arg_end: u64,
    /// After the last environment string (the first begins at `arg_end`).
    pub env_end: u64,
    /// The auxiliary vector with its last entries filled in.
    pub auxv: Vec<(u64, u64)>,
}

/// `AT_*` keys (`linux/auxvec.h`).
pub mod at {
    #![allow(missing_docs)] // named and documented in getauxval(3)
    pub const NULL: u64 = 0;
    pub const PHDR: u64 = 3;
    pub const PHENT: u64 = 4;
    pub const PHNUM: u64 = 5;
    pub const PAGESZ: u64 = 6;
    pub const BASE: u64 = 7;
    pub const FLAGS: u64 = 8;
    pub const ENTRY: u64 = 9;
    pub const UID: u64 = 11;
    pub const EUID: u64 = 12;
    pub const GID: u64 = 13;
    pub const EGID: u64 = 14;
    pub const PLATFORM: u64 = 15;
    pub const HWCAP: u64 = 16;
    pub const CLKTCK: u64 = 17;
    pub const SECURE: u64 = 23;
    pub const RANDOM: u64 = 25;
    pub const HWCAP2: u64 = 26;
    pub const RSEQ_FEATURE_SIZE: u64 = 27;
    pub const RSEQ_ALIGN: u64 = 28;
    pub const EXECFN: u64 = 31;
    pub const SYSINFO_EHDR: u64 = 33;
    pub const MINSIGSTKSZ: u64 = 51;
}

const PLATFORM: &[u8] = b"x86_64\0";

impl InitialStack {
    /// Lays out the stack. `auxv` gets `RANDOM`, `EXECFN`, `PLATFORM` and `NULL` added.
    ///
    /// # Errors
    /// E2BIG if it does not fit below `top`, ENOMEM without memory for the bytes.
    pub fn build(arguments: &Arguments, inputs: &StackInputs<'_>, mut auxv: Vec<(u64, u64)>) -> Result<Self> {
        let (argv, envp) = (&arguments.argv, &arguments.envp);
        let below = |at: u64, len: usize| at.checked_sub(len as u64).ok_or(Errno::E2BIG);
        let path_at = below(inputs.top, 8 + inputs.path.len() + 1)?;
        let env_start = below(path_at, envp.bytes.len())?;
        let arg_start = below(env_start, argv.bytes.len())?;
        let platform_at = below(arg_start & !15, inputs.gap as usize + PLATFORM.len())? & !15;
        let random_at = below(platform_at, inputs.random.len())?;
        auxv.extend([
            (at::RANDOM, random_at),
            (at::EXECFN, path_at),
            (at::PLATFORM, platform_at),
            (at::NULL, 0),
        ]);
        let words = 1 + argv.count + 1 + envp.count + 1 + 2 * auxv.len();
        let pointer = below(random_at, 8 * words)? & !15;

        let len = usize::try_from(inputs.top - pointer).map_err(|_| Errno::E2BIG)?;
        let mut bytes = Vec::new();
        bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
        let word = |bytes: &mut Vec<u8>, value: u64| bytes.extend_from_slice(&value.to_le_bytes());
        word(&mut bytes, argv.count as u64);
        for (strings, start) in [(argv, arg_start), (envp, env_start)] {
            let mut at = start;
            for string in strings.iter() {
                word(&mut bytes, at);
                at += string.len() as u64 + 1;
            }
            word(&mut bytes, 0);
        }
        for (key, value) in &auxv {
            word(&mut bytes, *key);
            word(&mut bytes, *value);
        }
        for (at, part) in [
            (random_at, &inputs.random[..]),
            (platform_at, PLATFORM),
            (arg_start, &argv.bytes),
            (env_start, &envp.bytes),
            (path_at, inputs.path),
        ] {
            bytes.resize((at - pointer) as usize, 0);
            bytes.extend_from_slice(part);
        }
        bytes.resize(len, 0);
        Ok(InitialStack { pointer, bytes, arg_start, arg_end: env_start, env_end: path_at, auxv })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const TOP: u64 = 0x7fff_0000_0000;

    fn build(argv: &[&[u8]], envp: &[&[u8]], gap: u64) -> InitialStack {
        let mut arguments = Arguments::new(8 << 20);
        argv.iter().for_each(|s| arguments.push_argument(s).unwrap());
        envp.iter().for_each(|s| arguments.push_environment(s).unwrap());
        let inputs = StackInputs { top: TOP, gap, path: b"/bin/x", random: [7; 16] };
        InitialStack::build(&arguments, &inputs, alloc::vec![(at::PAGESZ, 4096)]).unwrap()
    }

    struct View<'a>(&'a InitialStack);

    impl View<'_> {
        fn word(&self, at: u64) -> u64 {
            let i = (at - self.0.pointer) as usize;
            u64::from_le_bytes(self.0.bytes[i..i + 8].try_into().unwrap())
        }
        fn string(&self, at: u64) -> &[u8] {
            let i = (at - self.0.pointer) as usize;
            self.0.bytes[i..].split(|b| *b == 0).next().unwrap()
        }
        fn vector(&self, at: &mut u64) -> Vec<&[u8]> {
            let mut found = Vec::new();
            loop {
                let p = self.word(*at);
                *at += 8;
                if p == 0 {
                    return found;
                }
                found.push(self.string(p));
            }
        }
    }

    proptest! {
        #[test]
        fn a_program_finds_what_it_was_given(
            argv in proptest::collection::vec("[a-z]{0,20}", 0..6),
            envp in proptest::collection::vec("[A-Z=]{0,20}", 0..6),
            gap in 0u64..8192,
        ) {
            let argv: Vec<&[u8]> = argv.iter().map(|s| s.as_bytes()).collect();
            let envp: Vec<&[u8]> = envp.iter().map(|s| s.as_bytes()).collect();
            let stack = build(&argv, &envp, gap);
            let view = View(&stack);
            prop_assert_eq!(stack.pointer % 16, 0);
            prop_assert_eq!(stack.pointer + stack.bytes.len() as u64, TOP);
            prop_assert_eq!(view.word(stack.pointer), argv.len() as u64);
            let mut at = stack.pointer + 8;
            prop_assert_eq!(view.vector(&mut at), argv);
            prop_assert_eq!(view.vector(&mut at), envp);
            let mut auxv = Vec::new();
            loop {
                let entry = (view.word(at), view.word(at + 8));
                at += 16;
                auxv.push(entry);
                if entry.0 == at::NULL { break; }
            }
            prop_assert_eq!(&auxv, &stack.auxv);
            let of = |key| auxv.iter().find(|e| e.0 == key).unwrap().1;
            prop_assert_eq!(view.string(of(at::EXECFN)), b"/bin/x");
            prop_assert_eq!(view.string(of(at::PLATFORM)), b"x86_64");
            prop_assert_eq!(view.string(of(at::RANDOM)).get(..16), Some(&[7u8; 16][..]));
        }
    }

    #[test]
    fn limits_are_those_of_linux() {
        let mut a = Arguments::new(8 << 20);
        assert_eq!(a.push_argument(&alloc::vec![b'x'; MAX_STRING]), Err(Errno::E2BIG));
        let longest = alloc::vec![b'x'; MAX_STRING - 1];
        for _ in 0..15 {
            a.push_argument(&longest).unwrap();
        }
        // 2 MiB in all, pointers included.
        assert_eq!(a.push_environment(&longest), Err(Errno::E2BIG));
        let mut small = Arguments::new(0);
        assert_eq!(small.remaining(), 32 * 4096);
        small.push_argument(b"").unwrap();
        assert_eq!(small.arguments().collect::<Vec<_>>(), [b""]);
    }

    #[test]
    fn a_script_replaces_the_first_argument() {
        let mut a = Arguments::new(8 << 20);
        a.push_argument(b"old").unwrap();
        a.push_argument(b"x").unwrap();
        a.replace_first(&[b"/bin/sh", b"-e", b"/s"]).unwrap();
        assert_eq!(a.arguments().collect::<Vec<_>>(), [&b"/bin/sh"[..], b"-e", b"/s", b"x"]);
    }
}
