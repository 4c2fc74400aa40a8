//! The hostile guest kernel (`guest-kernel/hostile`) in place of ours, in sandboxes in the lab.
use anyhow::Result;

use super::Tally;
use super::selftest::{output_of, report};
use crate::host;
use crate::lab::{Lab, Options};

/// Builds the kernel and has it attack, with all it has or (`case`) in one way.
pub fn run(case: Option<&str>) -> Result<Tally> {
    let kernel = crate::build::build_bare("ringfence-hostile", "hostile")?;
    crate::build::build_static("ringfence")?;
    let lab = Lab::named("test0", Options::default());
    let mut session = lab.session()?;
    crate::lab::push_programs(&mut session, false)?;
    session.push(&kernel, "/tmp/hostile".as_ref())?;
    session.push(&host::checkout().join("tests/lab/hostile-kernel.sh"), "/tmp/hostile-kernel.sh".as_ref())?;
    let command =
        format!("timeout 900 bash /tmp/hostile-kernel.sh /tmp/hostile {}", case.unwrap_or_default());
    let said = output_of(session, command.trim_end())?;
    print!("{said}");
    let tally = report("lab", &said);
    lab.down()?;
    Ok(tally)
}
