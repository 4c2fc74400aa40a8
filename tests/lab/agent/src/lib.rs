//! The lab is a virtual machine (QEMU, no hardware virtualization needed) in which KVM works; `xtask` starts
//! it and runs commands there. This crate is both ends' common ground: the wire format ([`wire`]). Its binary
//! is the machine's init process, which sets the machine up and then serves commands.
pub mod wire;
