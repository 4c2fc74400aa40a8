//! The end of a kernel that found itself wrong: message, registers and backtrace on the serial port, then the power
//! port. Frame pointers are always compiled in, so the addresses are those of `addr2line`.

use super::layout::{self, KERNEL_BASE, STACK_BASE, STACK_LIMIT};
use super::traps::Frame;
use super::{console, local, power};
use core::arch::asm;
use core::fmt::{self, Write};
use core::sync::atomic::{AtomicUsize, Ordering};

struct Serial;

impl Write for Serial {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        console::write(s);
        Ok(())
    }
}

/// The CPU that panicked first.
static PANICKED: AtomicUsize = AtomicUsize::new(NOBODY);
const NOBODY: usize = usize::MAX;

/// Says the first line. A panic in a panic goes straight to the power port; what another CPU runs into meanwhile waits
/// for the first to say what it has to say, which is slow and the cause of the rest.
fn begin(what: fmt::Arguments<'_>) {
    let cpu = local::local().id.get();
    match PANICKED.compare_exchange(NOBODY, cpu, Ordering::SeqCst, Ordering::SeqCst) {
        Ok(_) => {}
        Err(first) if first == cpu => {
            let _ = writeln!(Serial, "\nringfence: and while saying so: {what}");
            power::panicked();
        }
        Err(_) => loop {
            core::hint::spin_loop();
        },
    }
    let _ = writeln!(Serial, "\nringfence: kernel panic on CPU {cpu}: {what}");
}

#[panic_handler]
fn on_panic(info: &core::panic::PanicInfo<'_>) -> ! {
    match info.location() {
        Some(l) => begin(format_args!("{} at {}:{}", info.message(), l.file(), l.line())),
        None => begin(format_args!("{}", info.message())),
    }
    let rbp: u64;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rbp", out(reg) rbp, options(nomem, nostack, preserves_flags)) };
    backtrace(rbp);
    power::panicked()
}

/// An exception of kernel code that nothing expects.
pub fn trap(vector: u32, address: u64, f: &Frame) -> ! {
    const NAMES: [&str; 22] = [
        "#DE", "#DB", "NMI", "#BP", "#OF", "#BR", "#UD", "#NM", "#DF", "9", "#TS", "#NP", "#SS", "#GP",
        "#PF", "15", "#MF", "#AC", "#MC", "#XM", "#VE", "#CP",
    ];
    let name = NAMES.get(vector as usize).copied().unwrap_or("?");
    begin(format_args!("{name} (vector {vector}, code {:#x}, cr2 {address:#x}) in the kernel", f.error));
    let _ = writeln!(
        Serial,
        "  rip {:016x} cs {:x} rflags {:08x} rsp {:016x} ss {:x}",
        f.rip, f.cs, f.rflags, f.rsp, f.ss
    );
    for row in [
        [("rax", f.rax), ("rbx", f.rbx), ("rcx", f.rcx), ("rdx", f.rdx)],
        [("rsi", f.rsi), ("rdi", f.rdi), ("rbp", f.rbp), ("r8 ", f.r8)],
        [("r9 ", f.r9), ("r10", f.r10), ("r11", f.r11), ("r12", f.r12)],
        [("r13", f.r13), ("r14", f.r14), ("r15", f.r15), ("cr3", super::asm::cr3())],
    ] {
        for (name, value) in row {
            let _ = write!(Serial, "  {name} {value:016x}");
        }
        let _ = writeln!(Serial);
    }
    let _ = writeln!(Serial, "backtrace:\n  {:016x}", f.rip);
    frames(f.rbp);
    power::panicked()
}

fn backtrace(rbp: u64) {
    let _ = writeln!(Serial, "backtrace:");
    frames(rbp);
}

/// Walks the chain of frame pointers, upwards in one stack only.
fn frames(mut rbp: u64) {
    for _ in 0..32 {
        if !readable(rbp) {
            return;
        }
        // SAFETY: `readable` says that 16 bytes of a kernel stack are there.
        let [next, ret] = unsafe { *(rbp as *const [u64; 2]) };
        if ret == 0 {
            return;
        }
        let _ = writeln!(Serial, "  {ret:016x}");
        if next <= rbp {
            return;
        }
        rbp = next;
    }
}

/// Does a frame pointer point into a stack that is mapped there?
fn readable(rbp: u64) -> bool {
    let (_, _, data, end) = layout::image();
    let in_image = rbp >= KERNEL_BASE + data && rbp + 16 <= KERNEL_BASE + end;
    let in_stack = (STACK_BASE..STACK_BASE + STACK_LIMIT).contains(&rbp) && super::stack::is_mapped(rbp, 16);
    rbp.is_multiple_of(8) && (in_image || in_stack)
}
