//! Init of the lab's virtual machine.
//!
//! It is the only file of the initramfs. As process 1 it sets the machine up ([`boot`]), forks the server
//! and from then on only reaps orphans. The server listens on every virtio-serial port ([`session`]), runs
//! the commands it is given ([`process`]), and powers the machine off when nobody has used it for
//! `lab.idle=SECONDS` of the kernel command line: a lab whose owner died does not stay.
mod boot;
mod process;
mod session;

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sessions being served now.
static SESSIONS: AtomicU32 = AtomicU32::new(0);
/// Sessions ever served; a change shows that somebody was here.
static SERVED: AtomicU64 = AtomicU64::new(0);

fn main() {
    if std::process::id() != 1 {
        eprintln!("this is the init process of Ringfence's lab; see docs/lab.md");
        std::process::exit(2);
    }
    if let Err(error) = boot::set_up() {
        println!("lab: setting the machine up failed: {error}");
        power_off();
    }
    // SAFETY: this process has one thread, so the child may go on as usual.
    let server = unsafe { libc::fork() };
    if server == 0 {
        serve();
        power_off();
    }
    loop {
        let mut status = 0;
        // SAFETY: waitpid writes only `status`.
        let pid = unsafe { libc::waitpid(-1, &mut status, 0) };
        if pid == server || pid < 0 {
            println!("lab: the server is gone (status {status:#x})");
            power_off();
        }
    }
}

/// Serves all ports until the machine has been idle too long.
fn serve() {
    let ports = boot::ports();
    if ports.is_empty() {
        println!("lab: no virtio-serial port");
        return;
    }
    for port in ports {
        std::thread::spawn(move || session::serve_port(&port));
    }
    let limit = boot::kernel_argument("lab.idle").and_then(|text| text.parse().ok()).unwrap_or(0);
    println!("lab: ready");
    let (mut last_served, mut idle_since) = (0, Instant::now());
    loop {
        std::thread::sleep(Duration::from_secs(5));
        let served = SERVED.load(Ordering::Relaxed);
        if SESSIONS.load(Ordering::Relaxed) > 0 || served != last_served {
            (last_served, idle_since) = (served, Instant::now());
        }
        if limit > 0 && idle_since.elapsed() >= Duration::from_secs(limit) {
            println!("lab: idle for {limit} s, powering off");
            return;
        }
    }
}

/// Ends the machine.
fn power_off() -> ! {
    // SAFETY: reboot takes no pointers in this form.
    unsafe { libc::reboot(libc::RB_POWER_OFF) };
    std::process::exit(1);
}
