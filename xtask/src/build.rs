//! Building the one static file, and running it where it can run.
use std::ffi::OsString;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, ensure};

use crate::host::{self, STATIC_TARGET};
use crate::lab;

/// The target of guest kernels.
const BARE_TARGET: &str = "x86_64-unknown-none";
/// The most a release of `ringfence` may weigh.
const SIZE_LIMIT: u64 = 10 << 20;

/// Builds a package's binary for the static target and says where it is.
pub fn build_static(package: &str) -> Result<PathBuf> {
    host::ensure_targets()?;
    host::run(host::cargo().args([
        "build",
        "--quiet",
        "--release",
        "--target",
        STATIC_TARGET,
        "--package",
        package,
    ]))?;
    Ok(host::target_dir().join(STATIC_TARGET).join("release").join(package))
}

/// Builds a package that is a shared library for this machine, and says where it is.
pub fn build_library(package: &str) -> Result<PathBuf> {
    host::run(host::cargo().args(["build", "--quiet", "--release", "--package", package]))?;
    Ok(host::target_dir().join("release").join(format!("lib{}.so", package.replace('-', "_"))))
}

/// The guest kernel in `ringfence`, with its symbols.
pub fn embedded_guest(build: bool) -> Result<PathBuf> {
    if build {
        build_static("ringfence")?;
    }
    let outputs = host::target_dir().join(STATIC_TARGET).join("release/build");
    let kernels = fs::read_dir(&outputs)?.flatten().filter_map(|entry| {
        let kernel = entry.path().join("out/guest-target/x86_64-unknown-none/guest/ringfence-guest");
        Some((fs::metadata(&kernel).ok()?.modified().ok()?, kernel))
    });
    let newest = kernels.max().with_context(|| format!("no guest kernel in {}", outputs.display()))?;
    Ok(newest.1)
}

/// Builds the guest kernel alone, with its symbols.
pub fn build_guest(build: bool) -> Result<PathBuf> {
    if build {
        return build_bare("ringfence-guest", "ringfence-guest");
    }
    Ok(host::target_dir().join(BARE_TARGET).join("guest/ringfence-guest"))
}

/// Builds a package that runs without an operating system, and says where its binary of this name is.
pub fn build_bare(package: &str, binary: &str) -> Result<PathBuf> {
    host::ensure_targets()?;
    let options =
        ["build", "--quiet", "--profile", "guest", "--locked", "--target", BARE_TARGET, "--package"];
    host::run(host::cargo().args(options).arg(package))?;
    Ok(host::target_dir().join(BARE_TARGET).join("guest").join(binary))
}

/// `cargo xtask build`: builds `ringfence`, checks that it is static and small, and puts it at
/// `target/ringfence/ringfence`.
pub fn build() -> Result<PathBuf> {
    let built = build_static("ringfence")?;
    let size = fs::metadata(&built)?.len();
    ensure!(
        size < SIZE_LIMIT,
        "{} has {size} bytes, more than the {SIZE_LIMIT} it may have",
        built.display()
    );
    host::ensure_packages(&["binutils"])?;
    let headers =
        host::run_quietly(Command::new("readelf").arg("--program-headers").arg("--wide").arg(&built))?;
    ensure!(!headers.contains("INTERP"), "{} is not static: it asks for an interpreter", built.display());
    let directory = host::target_dir().join("ringfence");
    fs::create_dir_all(&directory)?;
    let (place, temporary) = (directory.join("ringfence"), directory.join(".ringfence.new"));
    fs::copy(&built, &temporary).with_context(|| format!("cannot write {}", temporary.display()))?;
    fs::set_permissions(&temporary, fs::Permissions::from_mode(0o755))?;
    fs::rename(&temporary, &place)?;
    eprintln!("xtask: {} ({:.1} MiB, static)", place.display(), size as f64 / f64::from(1 << 20));
    Ok(place)
}

/// Whether this machine can run sandboxes, by `ringfence doctor`'s own judgement.
pub fn kvm_is_usable(ringfence: &PathBuf) -> bool {
    let doctor = Command::new(ringfence)
        .arg("doctor")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    doctor.is_ok_and(|status| status.success())
}

/// `cargo xtask run -- ARGS`: `ringfence run ARGS`, here or in the lab.
pub fn run(arguments: &[OsString]) -> Result<u8> {
    let ringfence = build()?;
    if kvm_is_usable(&ringfence) {
        let status = Command::new(&ringfence).arg("run").args(arguments).status()?;
        use std::os::unix::process::ExitStatusExt;
        return Ok(status.code().or(status.signal().map(|signal| 128 + signal)).unwrap_or(1) as u8);
    }
    host::say("KVM is not usable on this machine (see `ringfence doctor`): running in the lab");
    let mut command: Vec<OsString> = vec!["ringfence".into(), "run".into()];
    command.extend_from_slice(arguments);
    lab::exec(&command)
}
