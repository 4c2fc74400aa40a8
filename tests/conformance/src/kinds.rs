//! What the arguments of system calls are: the kernel's own table (a part of its source, which is pure data), and
//! which calls it has (from the page made of it).
#![allow(dead_code)] // the kernel uses what we do not

use std::collections::BTreeSet;
use std::sync::LazyLock;

#[path = "../../../guest-kernel/core/src/syscall/calls.rs"]
pub mod calls;
#[path = "../../../guest-kernel/core/src/syscall/kinds.rs"]
#[allow(unused_imports)]
mod data;

pub use data::{ArgKind, Layout};

/// A system call of Linux.
pub struct Call {
    /// Its number.
    pub number: u64,
    /// Its name.
    pub name: &'static str,
    /// What its arguments are; `None` if nobody wrote it down.
    pub args: Option<&'static [ArgKind]>,
}

macro_rules! table {
    ($($number:literal $name:ident $(($($kind:expr),*))?;)*) => {
        &[$({
            #[allow(unused_mut, unused_assignments)]
            let mut args: Option<&'static [ArgKind]> = None;
            $(args = Some(&[$($kind),*]);)?
            Call { number: $number, name: stringify!($name), args }
        }),*]
    };
}

/// All of them, by number.
pub static CALLS: &[Call] = {
    use data::short::*;
    calls::every_call!(table)
};

/// Whether the sandbox's kernel has a call of this name.
pub fn is_there(name: &str) -> bool {
    static MADE: LazyLock<BTreeSet<&str>> = LazyLock::new(|| {
        let rows =
            include_str!("../../../docs/syscalls.md").lines().map(|line| line.split('|').map(str::trim));
        rows.filter_map(|mut row| Some((row.nth(2)?, row.next()?)))
            .filter(|row| row.1 != "missing")
            .map(|row| row.0)
            .collect()
    });
    MADE.contains(name)
}
