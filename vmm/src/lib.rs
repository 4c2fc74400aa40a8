//! Ringfence: the virtual machine monitor and the `ringfence` command.
//!
//! `ringfence run` is the supervisor of a sandbox. It opens what is needed and hands it, with an [`order`], to a process
//! in the jail (`ringfence-jailer`), which runs the sandbox. That process builds a KVM machine ([`machine`]) whose
//! kernel is ours, embedded in this very binary, enters it by the Linux boot protocol ([`boot`]), and from then on
//! relays bytes between the guest's virtio devices and the outside: standard streams and a control connection over
//! vsock, the root image as read-only pmem.
//!
//! | module | holds |
//! |---|---|
//! | [`machine`] | memory, layout, CPUID, registers, vCPU threads, the bus |
//! | [`boot`] | kernel loading, zero page, ACPI for stock Linux |
//! | [`order`] | a sandbox from its description to its end, here or in the jail |
//! | [`sandbox`] | a machine with our guest, its boot document and its streams |
//! | [`network`] | the host's side of networks: TAP interfaces, passt |
//! | [`event_loop`] | everything a running sandbox waits for |
//! | [`api`] | HTTP and JSON for others, in the supervisor |
//! | [`control`], [`door`] | the control connection to the guest, the link to the supervisor |
//! | [`probe`] | can this host run sandboxes |
//! | [`cli`], [`exit`], [`signals`], [`terminal`] | the command |
//! | [`stats`], [`kvm_stats`] | counters |
//! | [`timeline`] | phases of the start |
//! | [`executable`] | our own file in memory |
//! | [`allocator`] | memory without `mremap` |

pub mod allocator;
pub mod api;
pub mod boot;
pub mod cli;
pub mod control;
pub mod door;
pub mod event_loop;
pub mod executable;
pub mod exit;
pub mod kvm_stats;
pub mod machine;
pub mod network;
pub mod order;
pub mod probe;
pub mod sandbox;
pub mod signals;
pub mod stats;
pub mod terminal;
pub mod timeline;
