//! Ringfence: the virtual machine monitor and the `ringfence` command.
//!
//! One process runs one sandbox. It builds a KVM machine ([`machine`]) whose kernel is ours, embedded in this
//! very binary, enters it by the Linux boot protocol ([`boot`]), and from then on relays bytes between the
//! guest's virtio devices and the outside: standard streams and a control connection over vsock, the root
//! image as read-only pmem.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | memory, layout, CPUID, registers, vCPU threads, the bus |
//! | [`boot`] | kernel loading, zero page, ACPI for stock Linux |
//! | [`serial`] | the serial port and where its text goes |
//! | [`timeline`] | phases of the start |

pub mod boot;
pub mod cli;
pub mod exit;
pub mod machine;
pub mod serial;
pub mod signals;
pub mod terminal;
pub mod timeline;
