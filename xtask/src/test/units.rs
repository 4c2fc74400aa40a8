//! Unit tests on this machine, without a lab.
use std::io::{BufRead, BufReader};
use std::process::Stdio;

use anyhow::{Context, Result};

use super::Tally;
use crate::host;

/// `cargo test` over everything that runs on a host.
pub fn run() -> Result<Tally> {
    let mut tests = super::checks::with_guest(&mut host::cargo())
        .args(["test", "--workspace", "--exclude", "ringfence-guest", "--locked", "--no-fail-fast"])
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start cargo test")?;
    let mut tally = Tally::default();
    for line in BufReader::new(tests.stdout.take().context("no output")?).lines() {
        let line = line?;
        if let Some(counts) = line.strip_prefix("test result: ") {
            tally.add(Tally { passed: count(counts, " passed"), failed: count(counts, " failed") });
        }
        // A line for each test that passed is noise.
        if !(line.is_empty()
            || line.starts_with("test ") && line.ends_with("... ok")
            || line == "running 0 tests")
        {
            println!("{line}");
        }
    }
    if !tests.wait()?.success() && tally.failed == 0 {
        tally.add(Tally::one(false)); // it did not build
    }
    Ok(tally)
}

/// The number before `word`.
fn count(line: &str, word: &str) -> usize {
    let before = line.split(word).next().unwrap_or_default();
    before.rsplit(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0)
}
