//! The hostile guest kernel (`guest-kernel/hostile`) in place of ours, in sandboxes in the lab.
use anyhow::Result;

use super::Tally;
use super::selftest::{output_of, report};
use crate::lab::{Lab, Options};
use crate::{build, host};

/// Builds the kernel and has it attack, with all it has or (`case`) in one way.
pub fn run(case: Option<&str>) -> Result<Tally> {
    let kernel = build::build_bare("ringfence-hostile", "hostile")?;
    build::build_static("ringfence")?;
    let script = host::checkout().join("tests/lab/hostile-kernel.sh");
    let files = [(kernel, "/tmp/hostile"), (script, "/tmp/hostile-kernel.sh")];
    let command = format!("bash /tmp/hostile-kernel.sh /tmp/hostile {}", case.unwrap_or_default());
    let lab = Lab::named("test0", Options::default());
    let said = output_of(&lab, &command, &files, 900)?;
    print!("{said}");
    let tally = report("lab", &said);
    lab.down()?;
    Ok(tally)
}
