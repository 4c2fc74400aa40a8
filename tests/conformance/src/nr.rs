//! System call numbers by name: `nr::openat`. The names are the kernel's own list.
#![allow(non_upper_case_globals, missing_docs, dead_code)]

macro_rules! constants {
    ($($number:literal $name:ident $(($($kind:expr),*))?;)*) => { $(pub const $name: u64 = $number;)* };
}

crate::kinds::calls::every_call!(constants);
