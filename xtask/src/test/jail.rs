//! The jail's own test (`tests/jail`) in the lab, as root and as an ordinary user.
use anyhow::Result;

use super::Tally;
use super::selftest::{output_of, report};
use crate::lab::{Lab, Options};

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
