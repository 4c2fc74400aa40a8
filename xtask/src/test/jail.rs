//! The jail's own test (`tests/jail`) in the lab, as root and as an ordinary user; and the soak test of whole sandboxes
//! (`tests/lab/bin/jail-soak`), of which the lab case `jail-kill` is a short version.
use std::io::{self, Write};

use anyhow::Result;

use super::Tally;
use super::selftest::{output_of, report};
use crate::lab::{Lab, Options, Streams, words};

/// Kills of each process. More for the patient: `jail-test 1000`.
const ROUNDS: &str = "50";

/// Builds the test and runs it.
pub fn run() -> Result<Tally> {
    let built = crate::build::build_static("ringfence-jail-test")?;
    let lab = Lab::named("test0", Options::default());
    let mut tally = Tally::default();
    let files = [(built, "/tmp/jail-test")];
    let as_root = format!("/tmp/jail-test {ROUNDS} cgroup");
    let as_user = format!("setpriv --reuid 1000 --regid 1000 --clear-groups /tmp/jail-test {ROUNDS}");
    for (place, command) in [("lab, as root", as_root), ("lab, as an ordinary user", as_user)] {
        tally.add(report(place, &output_of(&lab, &command, &files, 300)?));
    }
    lab.down()?;
    Ok(tally)
}

/// Kills of supervisor, monitor, VMM, gofer and all of them, 200 of each at random moments; then 64 sandboxes at once and 500 one
/// after another. What it says is shown as it comes, for it takes an hour; the seed it says first makes the same kills again.
pub fn soak(seed: Option<u32>) -> Result<Tally> {
    crate::build::build_static("ringfence")?;
    let lab = Lab::named("test0", Options::default());
    let mut session = lab.session()?;
    crate::lab::push_programs(&mut session, false)?;
    let seed = seed.map(|seed| seed.to_string());
    let mut command = vec!["jail-soak"];
    command.extend(seed.iter().flat_map(|seed| ["--seed", seed.as_str()]));
    let output = |error: bool, bytes: &[u8]| {
        if error { io::stderr().write_all(bytes) } else { io::stdout().write_all(bytes) }
    };
    let streams = Streams { stdin: Box::new(io::empty()), output: Box::new(output), timeout: None };
    let passed = session.run(&words(&command), streams)? == 0;
    lab.down()?;
    Ok(Tally::one(passed))
}
