//! A command in a lab from its start to its end, or to the end of our patience.
use std::ffi::OsString;
use std::io::Cursor;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;

use super::{Lab, LabEnded, Streams, TimedOut, push_programs};
use crate::host;

/// A command and what it needs.
pub struct Job<'a> {
    pub command: &'a [OsString],
    pub stdin: &'a [u8],
    /// Files here, and their full paths in the lab.
    pub files: &'a [(PathBuf, &'static str)],
    pub timeout: Duration,
}

/// What a command said and how it ended.
pub struct Outcome {
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
    /// `None`: it did not end in its time; what could be found out about that is behind what it said on standard error.
    pub code: Option<u8>,
    pub took: Duration,
}

/// Runs a job in `lab`, with this checkout's programs on its PATH. When the emulator fails (it has ended, or the command
/// does not end and the lab itself does not answer either), then the command gets another lab, once.
pub fn execute(lab: &Lab, job: &Job) -> Result<Outcome> {
    let failure = match attempt(lab, job) {
        Ok(mut outcome) if outcome.code.is_none() => {
            let (answers, found) = lab.post_mortem();
            if answers {
                outcome.stderr.extend_from_slice(format!("\n{found}").as_bytes());
                return Ok(outcome);
            }
            format!("the lab itself does not answer; once more in another one\n{found}")
        }
        Err(error) if error.is::<LabEnded>() => format!("{error}; once more in another one"),
        result => return result,
    };
    host::say(&failure);
    lab.down()?;
    attempt(lab, job)
}

fn attempt(lab: &Lab, job: &Job) -> Result<Outcome> {
    let mut session = lab.session()?;
    push_programs(&mut session, false)?;
    for (from, to) in job.files {
        session.push(from, Path::new(to))?;
    }
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    let start = Instant::now();
    let streams = Streams {
        stdin: Box::new(Cursor::new(job.stdin.to_vec())),
        output: Box::new(|is_error, bytes| {
            if is_error { &mut stderr } else { &mut stdout }.extend_from_slice(bytes);
            Ok(())
        }),
        timeout: Some(job.timeout),
    };
    let code = match session.run(job.command, streams) {
        Ok(code) => Some(code),
        Err(error) if error.is::<TimedOut>() => None,
        Err(error) => return Err(error),
    };
    Ok(Outcome { stdout, stderr, code, took: start.elapsed() })
}
