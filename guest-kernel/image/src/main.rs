//! The bootable image: joins the hardware layer and the sentry.
//!
//! Only built for `x86_64-unknown-none` (by `vmm/build.rs`, or by hand with
//! `cargo build -p ringfence-guest --target x86_64-unknown-none --profile guest`); on the host it is an empty
//! program, so that the workspace builds.
#![cfg_attr(target_os = "none", no_std, no_main)]

#[cfg(target_os = "none")]
ringfence_hal::entry!(ringfence_sentry::Sentry);

#[cfg(not(target_os = "none"))]
fn main() {
    eprintln!("ringfence-guest is a kernel: build it for x86_64-unknown-none");
}
