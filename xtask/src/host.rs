//! The machine we run on: the checkout, child programs, Debian packages, the cache, locks.
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::{FlockOperation, flock};

/// The Rust target of everything static.
pub const STATIC_TARGET: &str = "x86_64-unknown-linux-musl";

/// The root of this checkout.
pub fn checkout() -> PathBuf {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own).to_owned()
}

/// Cargo's target directory of this checkout.
pub fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(path) => checkout().join(path),
        None => checkout().join("target"),
    }
}

/// The per-user cache, shared by all checkouts.
pub fn cache_dir() -> Result<PathBuf> {
    let base = std::env::var_os("XDG_CACHE_HOME").filter(|path| !path.is_empty()).map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache"));
    Ok(base.or_else(home).context("neither HOME nor XDG_CACHE_HOME is set")?.join("ringfence"))
}

/// One line about something that takes a while.
pub fn say(text: &str) {
    eprintln!("xtask: {text}");
}

/// A `cargo` command in this checkout.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(checkout());
    command
}

/// Runs a command that shall succeed, with its output on ours.
pub fn run(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("cannot start {command:?}"))?;
    ensure!(status.success(), "{command:?} failed: {status}");
    Ok(())
}

/// Runs a command that shall succeed; its output is shown only if it does not.
pub fn run_quietly(command: &mut Command) -> Result<String> {
    let output =
        command.stdin(Stdio::null()).output().with_context(|| format!("cannot start {command:?}"))?;
    if !output.status.success() {
        eprint!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        bail!("{command:?} failed: {}", output.status);
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A command run as root, by `sudo` where we are not.
pub fn as_root(program: &str) -> Command {
    if rustix::process::geteuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// Installs those Debian packages that are missing.
pub fn ensure_packages(packages: &[&str]) -> Result<()> {
    let missing: Vec<&str> = packages.iter().copied().filter(|package| !is_installed(package)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    say(&format!("installing {}", missing.join(" ")));
    apt_update()?;
    run_quietly(
        as_root("env")
            .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "install", "-y", "--no-install-recommends"])
            .args(&missing),
    )
    .context("installing Debian packages; Ringfence's tasks need Debian 12 or later and root or sudo")?;
    Ok(())
}

/// Fetches the package lists if the machine has none.
pub fn apt_update() -> Result<()> {
    let indexed = Command::new("apt-cache").args(["show", "busybox-static"]).output();
    if !indexed.is_ok_and(|output| output.status.success()) {
        run_quietly(as_root("apt-get").arg("update"))?;
    }
    Ok(())
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Makes sure that the Rust targets of the toolchain file are there. A rustup that honours the file has
/// installed them already; one with a toolchain forced by the environment may not.
pub fn ensure_targets() -> Result<()> {
    let root = run_quietly(Command::new("rustc").args(["--print", "sysroot"]).current_dir(checkout()))?;
    for target in [STATIC_TARGET, "x86_64-unknown-none"] {
        if !Path::new(root.trim()).join("lib/rustlib").join(target).exists() {
            say(&format!("installing the Rust target {target}"));
            run_quietly(Command::new("rustup").args(["target", "add", target]).current_dir(checkout()))?;
        }
    }
    Ok(())
}

/// Opens (and makes) a lock file.
pub fn lock_file(path: &Path) -> Result<File> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))
}

/// Takes the lock at `path`, waiting for it; it is held until the file is dropped.
pub fn lock(path: &Path) -> Result<File> {
    let file = lock_file(path)?;
    flock(&file, FlockOperation::LockExclusive).with_context(|| format!("cannot lock {}", path.display()))?;
    Ok(file)
}

/// Takes the lock at `path` unless somebody else holds it.
pub fn try_lock(path: &Path) -> Result<Option<File>> {
    let file = lock_file(path)?;
    Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
}
