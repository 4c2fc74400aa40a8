//! `cargo xtask fuzz-targets`: what reads bytes that somebody hostile has written (tests/fuzz), under libFuzzer.
//!
//! The instrumentation is LLVM's, switched on by stable flags of the compiler, so neither a nightly toolchain nor cargo-fuzz is
//! needed. The committed corpus of a target is where it starts; what it finds is kept in `target/fuzz` for the next run.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::host;
use crate::test::Tally;

/// What `cargo xtask fuzz-targets` takes.
#[derive(Args)]
pub struct Options {
    /// How long, for each target
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Only this target
    #[arg(long)]
    target: Option<String>,
}

/// Seconds of a processor that CI gives to all targets together.
const CI_SECONDS: u64 = 300;

const PACKAGE: &str = "ringfence-fuzz";
/// Build scripts are not instrumented if the target is named.
const TARGET: &str = "x86_64-unknown-linux-gnu";
const INSTRUMENTATION: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks -Cdebuginfo=line-tables-only";

/// Runs `cargo xtask fuzz-targets`.
pub fn main(options: &Options) -> Result<u8> {
    Ok(u8::from(!run(options)?.is_good()))
}

/// A while of each target, as CI does it.
pub fn smoke() -> Result<Tally> {
    let targets = fs::read_dir(corpora())?.count().max(1) as u64;
    run(&Options { seconds: CI_SECONDS / targets, target: None })
}

/// A folder for each target.
fn corpora() -> PathBuf {
    host::checkout().join("tests/fuzz/corpus")
}

fn run(options: &Options) -> Result<Tally> {
    host::ensure_packages(&["g++"])?;
    let corpora = corpora();
    let mut targets: Vec<String> = fs::read_dir(&corpora)?
        .map(|folder| Ok(folder?.file_name().to_string_lossy().into_owned()))
        .collect::<Result<_>>()?;
    targets.sort();
    targets.retain(|target| options.target.as_ref().is_none_or(|wanted| wanted == target));
    ensure!(!targets.is_empty(), "no such target: they are the folders of {}", corpora.display());
    let folder = host::target_dir().join("fuzz");
    let options_of_build =
        ["build", "--quiet", "--release", "--locked", "--features", "libfuzzer", "--package", PACKAGE];
    host::run(
        host::cargo()
            .args(options_of_build)
            .args(options.target.iter().map(|target| format!("--bin=fuzz-{target}")))
            .args(["--target", TARGET, "--target-dir"])
            .arg(&folder)
            // The API's crate embeds a guest kernel, which nothing here runs: any ELF file will do.
            .env("RINGFENCE_GUEST_ELF", corpora.join("elf/static"))
            // What the whole program's optimization would gain is less than it takes, once for each target.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
            .env("RUSTFLAGS", INSTRUMENTATION),
    )?;
    let built = folder.join(TARGET).join("release");
    // Each is one thread.
    let running: Vec<_> = targets
        .iter()
        .map(|target| {
            let (found, crashes) = (folder.join("corpus").join(target), folder.join("crashes").join(target));
            fs::create_dir_all(&found)?;
            fs::create_dir_all(&crashes)?;
            let binary = built.join(format!("fuzz-{target}"));
            let mut command = Command::new(&binary);
            command
                .args(["-seed=1", "-timeout=20", "-rss_limit_mb=1024", "-print_final_stats=1"])
                .arg(format!("-max_len={}", longest(target)))
                .arg(format!("-max_total_time={}", options.seconds))
                .arg(format!("-artifact_prefix={}/", crashes.display()))
                .args([&found, &corpora.join(target)]);
            let output = std::thread::spawn(move || command.output());
            Ok((target, binary, output))
        })
        .collect::<Result<_>>()?;
    let mut tally = Tally::default();
    for (target, binary, output) in running {
        let output = output.join().ok().context("a thread died")?;
        let output = output.with_context(|| format!("cannot start {}", binary.display()))?;
        tally.add(Tally::one(report(
            target,
            &binary,
            output.status.success(),
            &String::from_utf8_lossy(&output.stderr),
        )));
    }
    Ok(tally)
}

/// Longest input in bytes. It must not be less than a seed has, which would be cut off: an image has blocks of 4 KiB.
fn longest(target: &str) -> usize {
    if target == "erofs" { 64 << 10 } else { 8192 }
}

/// Says what libFuzzer's log comes to.
fn report(target: &str, binary: &Path, passed: bool, log: &str) -> bool {
    let statistic = |name: &str| {
        log.lines()
            .find_map(|line| line.strip_prefix(name))
            .map_or("?", |value| value.trim_start_matches(':').trim())
    };
    let covered =
        log.lines().rev().find_map(|line| line.split(" cov: ").nth(1)?.split(' ').next()).unwrap_or("?");
    if passed {
        println!("ok   {target}: {} runs, {covered} edges", statistic("stat::number_of_executed_units"));
        return true;
    }
    println!("FAIL {target}");
    for line in
        log.lines().filter(|line| !line.starts_with('#')).rev().take(40).collect::<Vec<_>>().into_iter().rev()
    {
        println!("    {line}");
    }
    if let Some(file) =
        log.split("Test unit written to ").nth(1).and_then(|rest| rest.split_whitespace().next())
    {
        println!("    again: {} {file}", binary.display());
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_log_decides() {
        let binary = Path::new("x");
        assert!(report("a", binary, true, "#5 DONE cov: 17 ft: 3\nstat::number_of_executed_units: 9\n"));
        assert!(!report("a", binary, false, "panicked at\nTest unit written to y"));
    }
}
