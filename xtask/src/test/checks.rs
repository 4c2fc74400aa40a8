//! Checks of the source text and of what it depends on.
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use super::Tally;
use crate::host;

/// The cargo-deny we run; its verdicts differ between versions.
const CARGO_DENY: &str = "0.20.2";

/// Crates that exist only for the bare target.
const BARE: &str = "ringfence-guest";

fn passes(command: &mut Command) -> Result<Tally> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    Ok(Tally::one(status.success()))
}

/// Lets a build of ours embed the guest image that the last build of the static command made, so that it is
/// not built again for every profile.
pub fn with_guest(cargo: &mut Command) -> &mut Command {
    match super::guest_elf::embedded() {
        Some(image) => cargo.env("RINGFENCE_GUEST_ELF", image),
        None => cargo,
    }
}

/// `cargo fmt --check`.
pub fn format() -> Result<Tally> {
    passes(host::cargo().args(["fmt", "--all", "--check"]))
}

/// Clippy over everything, with warnings as errors: what runs on the host, and the guest image for its target.
pub fn clippy() -> Result<Tally> {
    host::ensure_targets()?;
    let strict = ["--", "-D", "warnings"];
    let mut tally = passes(
        with_guest(&mut host::cargo())
            .args(["clippy", "--quiet", "--workspace", "--exclude", BARE, "--all-targets", "--locked"])
            .args(strict),
    )?;
    tally.add(passes(
        host::cargo()
            .args(["clippy", "--quiet", "--package", BARE, "--target", "x86_64-unknown-none", "--locked"])
            .args(strict),
    )?);
    Ok(tally)
}

/// cargo-deny's checks of bans, licences and sources. Its advisories need a database from the network that a
/// test machine may not reach: they are looked at by hand (CONTRIBUTING.md).
pub fn deny() -> Result<Tally> {
    let program = cargo_deny()?;
    passes(
        Command::new(program)
            .args(["--log-level", "warn", "check", "bans", "licenses", "sources"])
            .current_dir(host::checkout()),
    )
}

/// cargo-deny, built once a user.
fn cargo_deny() -> Result<PathBuf> {
    let root = host::cache_dir()?.join("tools").join(format!("cargo-deny-{CARGO_DENY}"));
    let program = root.join("bin/cargo-deny");
    if !program.exists() {
        let _lock = host::lock(&root.with_extension("lock"))?;
        if !program.exists() {
            host::say("building cargo-deny (once; some minutes)");
            let version = format!("cargo-deny@{CARGO_DENY}");
            let build = root.with_extension("target");
            // A debug build takes a quarter of the time, and its speed does not matter.
            host::run(
                host::cargo()
                    .args(["install", "--quiet", "--debug", "--locked", &version, "--root"])
                    .arg(&root)
                    .arg("--target-dir")
                    .arg(&build)
                    .env_remove("CARGO_BUILD_TARGET"),
            )?;
            std::fs::remove_dir_all(build)?;
        }
    }
    Ok(program)
}
