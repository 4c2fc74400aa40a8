//! The hardware layer's self-test kernel (`guest-kernel/selftest`) in plain QEMU, and in a sandbox in the lab.
//!
//! Plain QEMU needs no KVM, starts in a second, and lets us take CPU features away, so that the fall-backs of
//! features every newer processor has are run, too.
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};

use super::Tally;
use crate::host;
use crate::lab::{Job, Lab, Options, execute};

/// CPU model and number of CPUs of each run in plain QEMU.
const MACHINES: &[(&str, usize)] = &[
    ("max", 1),
    ("max", 4),
    ("max,-smap,-smep,-umip,-fsgsbase,-pdpe1gb,-xsaveopt", 2),
    ("max,-avx,-rdrand,-rdseed", 2),
];

/// Seconds a run may take; it needs two on an idle machine.
const PATIENCE: &str = "120";

/// Builds the kernel and its loader, and runs them everywhere.
pub fn run() -> Result<Tally> {
    host::ensure_packages(&["qemu-system-x86"])?;
    let kernel = crate::build::build_bare("ringfence-selftest", "selftest")?;
    let built = host::target_dir().join("x86_64-unknown-none/guest");
    let mut tally = Tally::default();
    for (model, cpus) in MACHINES {
        tally.add(report(&format!("QEMU, {cpus} CPUs, {model}"), &in_qemu(&built, model, *cpus)?));
    }
    tally.add(report("sandbox, 4 CPUs", &in_sandbox(&kernel)?));
    Ok(tally)
}

fn in_qemu(built: &Path, model: &str, cpus: usize) -> Result<String> {
    let loader = built.join("pvh-loader");
    let kernel = format!("loader,file={}", built.join("selftest").display());
    let output = Command::new("timeout")
        .args([PATIENCE, "qemu-system-x86_64", "-accel", "tcg,thread=single", "-nodefaults", "-nographic"])
        .args(["-no-reboot", "-serial", "stdio", "-m", "256", "-cpu", model, "-smp", &cpus.to_string()])
        .arg("-kernel")
        .arg(loader)
        .args(["-device", &kernel, "-append", &format!("ringfence.cpus={cpus}")])
        .stdin(Stdio::null())
        .output()
        .context("cannot start qemu-system-x86_64")?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn in_sandbox(kernel: &Path) -> Result<String> {
    crate::build::build_static("ringfence")?;
    let command = "ringfence boot --kernel /tmp/selftest --cpus 4 --cmdline ringfence.cpus=4";
    output_of(&Lab::new(Options::default()), command, &[(kernel.to_owned(), "/tmp/selftest")], 120)
}

/// Everything a command in the lab prints, with these files there, on standard error first.
pub fn output_of(
    lab: &Lab,
    command: &str,
    files: &[(PathBuf, &'static str)],
    timeout: u64,
) -> Result<String> {
    let words: Vec<_> = command.split_whitespace().map(Into::into).collect();
    let timeout = Duration::from_secs(timeout);
    let outcome = execute(lab, &Job { command: &words, stdin: &[], files, timeout })?;
    Ok(String::from_utf8_lossy(&[outcome.stderr, outcome.stdout].concat()).into_owned())
}

/// Counts what the last line says; a program that did not get there has failed, and its text is shown.
pub fn report(place: &str, text: &str) -> Tally {
    let counts = text.lines().rev().find_map(|line| {
        let (passed, rest) = line.trim().split_once(" passed, ")?;
        let passed = passed.rsplit(' ').next()?;
        Some(Tally { passed: passed.parse().ok()?, failed: rest.strip_suffix(" failed")?.parse().ok()? })
    });
    match counts {
        Some(tally) if tally.failed == 0 => {
            println!("ok   {place}: {tally}");
            tally
        }
        Some(tally) => {
            println!("FAIL {place}: {tally}\n{text}");
            tally
        }
        None => {
            println!("FAIL {place}: it did not come to its end\n{text}");
            Tally::one(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_counts() {
        let tally = report("here", "test 3 passed\r\n5 passed, 0 failed\r\n");
        assert_eq!((tally.passed, tally.failed), (5, 0));
        let tally = report("here", "ringfence: kernel panic");
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
