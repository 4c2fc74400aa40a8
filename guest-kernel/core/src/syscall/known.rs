//! Every system call Linux has, whether we have it or not.

use super::{MAX_SYSCALL, calls::every_call, kinds::ArgKind};

/// A system call of Linux.
pub struct Known {
    /// Its x86-64 number.
    pub number: usize,
    /// Its name.
    pub name: &'static str,
    /// What its arguments are; `None` if nobody wrote it down.
    pub args: Option<&'static [ArgKind]>,
}

macro_rules! known {
    ($($number:literal $name:ident $(($($kind:expr),*))?;)*) => {
        &[$({
            #[allow(unused_mut, unused_assignments)]
            let mut args: Option<&'static [ArgKind]> = None;
            $(args = Some(&[$($kind),*]);)?
            Known { number: $number, name: stringify!($name), args }
        }),*]
    };
}

/// All of them, by number.
pub static ALL: &[Known] = {
    use super::kinds::short::*;
    every_call!(known)
};

static BY_NUMBER: [Option<&'static Known>; MAX_SYSCALL] = {
    let mut table: [Option<&'static Known>; MAX_SYSCALL] = [None; MAX_SYSCALL];
    let mut i = 0;
    while i < ALL.len() {
        #[allow(clippy::indexing_slicing)] // evaluated by the compiler only
        {
            table[ALL[i].number] = Some(&ALL[i]);
        }
        i += 1;
    }
    table
};

/// The call of this number.
pub fn by_number(number: usize) -> Option<&'static Known> {
    BY_NUMBER.get(number).copied().flatten()
}

/// What the arguments of a call are: as written down, else as the types of our handler say.
pub fn kinds(number: usize) -> impl Iterator<Item = ArgKind> {
    let known = by_number(number).and_then(|known| known.args);
    let typed = match known {
        Some(_) => None,
        None => super::table::TABLE.get(number).copied().flatten().map(|entry| entry.args),
    };
    known.into_iter().flatten().copied().chain(typed.into_iter().flatten().map(|(_, kind)| *kind))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::syscall::table;

    #[test]
    fn the_table_agrees_with_linux() {
        for entry in table::all() {
            let known = by_number(entry.number).unwrap();
            assert_eq!(entry.name, known.name, "number {}", entry.number);
            if let Some(args) = known.args {
                assert_eq!(entry.args.len(), args.len(), "arguments of {}", entry.name);
            }
        }
    }
}
