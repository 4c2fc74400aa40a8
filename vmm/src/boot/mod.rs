//! The Linux x86 64-bit boot protocol, for our own kernel and for stock Linux alike.
//!
//! A boot loader that uses this protocol (here: the VMM) puts the kernel where its headers say, fills the
//! zero page, and jumps to the 64-bit entry point with paging on, an identity map, flat segments and the zero
//! page's address in `rsi`: no firmware and no real mode. The pieces:
//!
//! * [`loader`]: kernel and ramdisk into memory (the ramdisk of our kernel is the boot JSON);
//! * [`embedded`]: our kernel, mapped from our own executable instead;
//! * [`zero_page`]: memory map, command line, ramdisk;
//! * [`acpi`]: for stock Linux, which has no other way to find CPUs and devices;
//! * the registers are [`crate::machine::registers`].

pub mod acpi;
pub mod embedded;
pub mod loader;
pub mod zero_page;
