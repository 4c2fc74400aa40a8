//! tiny
#![no_std]
#![no_main]
extern crate alloc;
use alloc::sync::Arc;
use ringfence_hal::*;
struct Test;
impl Kernel for Test {
    type Task = ();
    fn start(boot: &'static BootInfo) -> ! {
        console::write("hello\n");
        log!(Warn, "{boot:?} {:?}", frames::stats());
        let a = time::now();
        log!(Warn, "time {a} {:?}", time::vdso_params());
        power::off()
    }
    fn start_secondary() -> ! { loop {} }
    fn syscall(_: &Arc<Thread<Self>>, _: &mut UserRegs) {}
    fn user_exception(_: &Arc<Thread<Self>>, _: &mut UserRegs, _: Exception) {}
    fn page_fault(_: &Arc<Thread<Self>>, _: PageFault) -> bool { false }
    fn user_work(_: &Arc<Thread<Self>>, _: &mut UserRegs) {}
    fn interrupt(_: Interrupt) {}
    fn after_switch(_: Arc<Thread<Self>>) {}
}
entry!(Test);
