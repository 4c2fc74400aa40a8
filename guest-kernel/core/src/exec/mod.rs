//! Loading programs.
pub mod arguments;
//pub mod credentials;
pub mod elf;
pub mod load;
pub mod script;
pub mod vdso;
