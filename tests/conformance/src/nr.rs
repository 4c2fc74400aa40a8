//! System call numbers by name: `nr::openat`. The names are the kernel's own list.
#![allow(non_upper_case_globals, missing_docs, dead_code)]

#[path = "../../../guest-kernel/core/src/syscall/names.rs"]
mod names;

macro_rules! constants {
    ($($number:literal $name:ident;)*) => { $(pub const $name: u64 = $number;)* };
}

names::every_call!(constants);
