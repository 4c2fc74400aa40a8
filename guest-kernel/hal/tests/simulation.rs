//! The host implementation runs a kernel: threads, time, signals, faults, and how a run ends.
#![allow(missing_docs)]

mod mini;

use mini::*;
use ringfence_hal::Exception;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

const OTHER: u64 = 0x20_0000;
const THIRD: u64 = 0x30_0000;
const HEAP: u64 = 0x5000_0000;

#[test]
fn a_program_makes_system_calls_and_the_machine_powers_off() {
    let end = simulation()
        .program(INIT, |u| {
            assert_eq!(u.syscall(ID, &[]), 1);
            assert_eq!(u.syscall(999, &[]), -38);
            u.write(HEAP, b"hello\n\0");
            assert_eq!(u.syscall(PRINT, &[HEAP]), 6);
            u.syscall(EXIT, &[]);
        })
        .run();
    assert_eq!(end.console, "hello\n");
    assert_eq!(end.frames_in_use, 0);
    assert_eq!(end.boot_failed, None);
}

#[test]
fn threads_share_memory_and_cpus() {
    for cpus in [1, 4] {
        simulation()
            .cpus(cpus)
            .program(INIT, |u| {
                for n in 0..8 {
                    assert_eq!(u.syscall_then(OTHER, CLONE, &[n]), n as i64 + 2);
                }
                while u.load_u32(HEAP) != 8 * 50 {
                    u.syscall(YIELD, &[]);
                }
                u.syscall(EXIT, &[]);
            })
            .program(OTHER, |u| {
                assert_eq!(u.regs().rax, 0);
                assert!(u.fs_base() < 8);
                for _ in 0..50 {
                    u.update_u32(HEAP, |n| n + 1);
                    u.syscall(YIELD, &[]);
                }
                u.syscall(EXIT, &[]);
            })
            .run();
    }
}

#[test]
fn sleeping_takes_no_real_time() {
    let begin = Instant::now();
    let end = simulation()
        .cpus(2)
        .program(INIT, |u| {
            u.syscall_then(OTHER, CLONE, &[]);
            u.syscall(SLEEP, &[3_600_000_000_000]);
            u.write(HEAP, b"second ");
            u.syscall(PRINT, &[HEAP]);
            u.syscall(EXIT, &[]);
        })
        .program(OTHER, |u| {
            u.syscall(SLEEP, &[60_000_000_000]);
            u.write(HEAP, b"first ");
            u.syscall(PRINT, &[HEAP]);
            u.syscall(EXIT, &[]);
        })
        .run();
    assert_eq!(end.console, "first second ");
    assert!(end.clock >= 3_600_000_000_000);
    assert!(begin.elapsed() < Duration::from_secs(30));
}

#[test]
fn a_timer_interrupts_a_program_that_computes() {
    let end = simulation()
        .program(INIT, |u| {
            u.syscall_then(OTHER, CLONE, &[]);
            u.syscall(SLEEP, &[1_000_000]);
            u.syscall(PRINT, &[HEAP]);
            u.update_u32(HEAP + 64, |_| 1);
            u.syscall(EXIT, &[]);
        })
        .program(OTHER, |u| {
            u.write(HEAP, b"woken");
            while u.load_u32(HEAP + 64) == 0 {
                u.compute(100_000);
            }
            u.syscall(EXIT, &[]);
        })
        .run();
    assert_eq!(end.console, "woken");
}

#[test]
fn a_signal_handler_runs_nested_and_sigreturn_goes_back() {
    let handled = Arc::new(AtomicU64::new(0));
    let seen = handled.clone();
    simulation()
        .program(INIT, move |u| {
            u.regs_mut().rbx = 77;
            assert_eq!(u.syscall(SIGNAL, &[OTHER]), 0);
            assert_eq!(seen.load(Ordering::Relaxed), 1);
            assert_eq!(u.regs().rbx, 77, "restored");
            // Repeated after its handler: counts twice, returns once.
            assert_eq!(u.syscall(RESTART, &[OTHER]), 1);
            assert_eq!(seen.load(Ordering::Relaxed), 2);
            // A handler that returns goes to what the stack says: the restorer.
            u.regs_mut().rsp -= 8;
            let rsp = u.regs().rsp;
            u.write(rsp, &THIRD.to_ne_bytes());
            assert_eq!(u.syscall(SIGNAL, &[THIRD + 0x10_0000]), 0);
            assert_eq!(u.regs().rsp, rsp, "restored");
            u.syscall(EXIT, &[]);
        })
        .program(OTHER, move |u| {
            u.regs_mut().rbx = 1;
            handled.fetch_add(1, Ordering::Relaxed);
            u.syscall(SIGRETURN, &[]);
            unreachable!("sigreturn does not return");
        })
        .program(THIRD, |u| {
            u.syscall(SIGRETURN, &[]);
        })
        .program(THIRD + 0x10_0000, |u| {
            u.syscall(ID, &[]);
        })
        .run();
}

#[test]
fn exec_replaces_program_and_memory() {
    simulation()
        .program(INIT, |u| {
            u.update_u32(HEAP, |_| 5);
            u.syscall(EXEC, &[OTHER]);
            unreachable!("exec does not return");
        })
        .program(OTHER, |u| {
            assert_eq!(u.load_u32(HEAP), 0);
            u.syscall(EXIT, &[]);
        })
        .run();
}

#[test]
fn bad_pointers_and_jumps_are_the_kernels_to_judge() {
    let end = simulation()
        .program(INIT, |u| {
            // 64 bytes without NUL up to the end of what can be mapped: the string is cut at the buffer.
            assert_eq!(u.syscall(PRINT, &[HEAP_END]), -100);
            u.write(HEAP_END - 4, b"abcd");
            assert_eq!(u.syscall(PRINT, &[HEAP_END - 4]), -104, "four bytes were copied");
            u.syscall_then(OTHER, CLONE, &[]);
            u.syscall_then(THIRD, CLONE, &[]);
            u.syscall_then(0x1234_5678, CLONE, &[]);
            u.syscall(SLEEP, &[1_000_000]);
            // Returning from the outermost program pops an address, here 0, off the stack.
        })
        .program(OTHER, |u| {
            u.write(u64::MAX - 7, &[1]);
            unreachable!();
        })
        .program(THIRD, |u| {
            u.exception(Exception::DivideError);
            unreachable!();
        })
        .run();
    for expected in ["GeneralProtection", "DivideError", "Exec"] {
        assert!(end.console.contains(expected), "{expected} in {}", end.console);
    }
}

#[test]
fn memory_can_run_out() {
    let end = simulation()
        .frames(3)
        .program(INIT, |u| {
            for page in 0..8 {
                u.write(HEAP + page * 4096, b"x");
            }
            unreachable!();
        })
        .run();
    assert!(end.console.starts_with("killed by PageFault"), "{}", end.console);
}

#[test]
#[should_panic(expected = "assertion of the program")]
fn a_panic_of_a_program_fails_the_run() {
    simulation().cpus(2).program(INIT, |_| panic!("assertion of the program")).run();
}

#[test]
#[should_panic(expected = "the simulation is stuck")]
fn nothing_to_wait_for_is_a_failure() {
    simulation()
        .cpus(2)
        .program(INIT, |u| {
            u.syscall(BLOCK, &[]);
        })
        .run();
}

#[test]
#[should_panic(expected = "did not end in")]
fn a_program_that_never_ends_is_stopped() {
    simulation()
        .timeout(Duration::from_millis(200))
        .program(INIT, |u| {
            loop {
                u.syscall(YIELD, &[]);
            }
        })
        .run();
}

#[test]
fn a_simulation_leaves_only_ended_threads_behind() {
    let end = simulation()
        .program(INIT, |u| {
            for _ in 0..3 {
                u.syscall_then(OTHER, CLONE, &[]);
            }
            u.syscall_then(THIRD, CLONE, &[]);
            u.syscall(SLEEP, &[1_000_000]);
            u.syscall(EXIT, &[]);
        })
        .program(OTHER, |u| {
            u.syscall(EXIT, &[]);
        })
        .program(THIRD, |u| {
            u.syscall(EXIT, &[]);
        })
        .run();
    // Four threads ended before the last one, whose end is the machine's.
    assert!(end.parked_threads <= 4, "{end:?}");
}
