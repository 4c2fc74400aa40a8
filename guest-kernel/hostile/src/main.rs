//! A guest kernel that belongs to the attacker.
//!
//! It boots in place of the real one (`RINGFENCE_GUEST_KERNEL`, see tests/lab/hostile-kernel.sh) and does from ring 0 what a
//! sandbox's own kernel never would. The first argument of the program it was to run says what:
//!
//! * `attack:all`: every attack after which the machine is to go on ([`attacks`]), one after the other. After each, every
//!   device has to do its work again. Ends as a kernel panic does, so that the VMM shows what was said.
//! * `attack:NAME`: one of those that end the machine, or try to ([`endings`]).
//!
//! It expects 64 MiB of memory and two CPUs. The second CPU changes what the VMM reads while it reads it.
#![cfg_attr(target_os = "none", no_std, no_main)]
#![cfg_attr(not(target_os = "none"), allow(dead_code, unused_imports))]

extern crate alloc;

#[cfg(target_os = "none")]
mod attacks;
#[cfg(target_os = "none")]
mod device;
#[cfg(target_os = "none")]
mod endings;
#[cfg(target_os = "none")]
mod raw;

#[cfg(target_os = "none")]
ringfence_hal::entry!(kernel::Hostile);

#[cfg(target_os = "none")]
mod kernel {
    use alloc::sync::Arc;
    use ringfence_hal::{BootInfo, Exception, Interrupt, Kernel, PageFault, Thread, UserRegs};

    use crate::{attacks, endings};

    /// A kernel without programs.
    pub struct Hostile;

    type TaskRef = Arc<Thread<Hostile>>;

    impl Kernel for Hostile {
        type Task = ();

        fn start(boot: &'static BootInfo) -> ! {
            Thread::<Hostile>::adopt_idle(());
            let config = core::str::from_utf8(boot.ramdisk).unwrap_or_default();
            let name = config.split("attack:").nth(1).and_then(|rest| rest.split('"').next());
            match name {
                Some("all") => attacks::all(config),
                Some(name) => endings::one(name, config),
                None => panic!("no attack is named in the configuration"),
            }
        }

        fn start_secondary() -> ! {
            Thread::<Hostile>::adopt_idle(());
            attacks::second_cpu()
        }

        fn syscall(_: &TaskRef, _: &mut UserRegs) -> u64 {
            0
        }

        const FIRST_RESTART: i32 = 4095;

        fn restart(_: &TaskRef) {}
        fn user_exception(_: &TaskRef, _: &mut UserRegs, _: Exception) {}
        fn page_fault(_: &TaskRef, _: PageFault) -> bool {
            false
        }
        fn user_work(_: &TaskRef, _: &mut UserRegs) {}
        fn interrupt(_: Interrupt) {}
        fn after_switch(_: TaskRef) {}
    }
}

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("hostile is a kernel: build it for x86_64-unknown-none");
}
