//! What the long cases did natively, kept beside the disk with their programs.
//!
//! Natively only the disk, the lab's kernel and the case itself decide what is printed, so a run that ended as it should stands
//! for later ones of the same text on the same disk. It is half of the suite `programs`' time. `--natively-again` does not take it.
use std::ffi::OsString;
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::case::Case;
use crate::lab::{Job, Lab, Outcome, execute, programs};

/// The outcome of `command`, which runs `case` natively: kept from before, or of now.
pub fn run(lab: &Lab, case: &Case, command: &[OsString], again: bool) -> Result<Outcome> {
    let path = path(case)?;
    if !again && let Some(outcome) = read(case, &path) {
        return Ok(outcome);
    }
    let outcome = execute(lab, &Job { command, stdin: &case.stdin, files: &[], timeout: case.timeout })?;
    if outcome.code == Some(case.exit) {
        write(&outcome, &path).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(outcome)
}

fn path(case: &Case) -> Result<PathBuf> {
    let mut hasher = DefaultHasher::new();
    (&case.script, &case.stdin).hash(&mut hasher);
    let name = format!("{}-{:016x}", case.name.replace('/', "-"), hasher.finish());
    Ok(programs::ensure()?.with_file_name("native").join(name))
}

/// What [`write`] wrote; nothing if it is not that.
fn read(case: &Case, path: &Path) -> Option<Outcome> {
    let bytes = fs::read(path).ok()?;
    let (head, streams) = bytes.split_at_checked(bytes.iter().position(|&b| b == b'\n')? + 1)?;
    let (seconds, length) = str::from_utf8(head).ok()?.trim().split_once(' ')?;
    let (stdout, stderr) = streams.split_at_checked(length.parse().ok()?)?;
    Some(Outcome {
        stdout: stdout.to_vec(),
        stderr: stderr.to_vec(),
        code: Some(case.exit),
        took: Duration::try_from_secs_f64(seconds.parse().ok()?).ok()?,
    })
}

/// A line with the seconds and the length of the first stream, and both streams. All of it or nothing: other runs may be at it.
fn write(outcome: &Outcome, path: &Path) -> Result<()> {
    let head = format!("{} {}\n", outcome.took.as_secs_f64(), outcome.stdout.len());
    let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
    fs::create_dir_all(path.parent().context("no directory")?)?;
    fs::write(&unfinished, [head.as_bytes(), &outcome.stdout, &outcome.stderr].concat())?;
    Ok(fs::rename(&unfinished, path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test::case::{Place, parse};

    #[test]
    fn what_was_written_is_read_and_what_was_not_is_nothing() {
        let directory = std::env::temp_dir().join(format!("ringfence-native-{}", std::process::id()));
        let path = directory.join("case");
        let case = parse("programs/case".to_owned(), Place::Programs, "#: exit 3\n".to_owned()).unwrap();
        let took = Duration::from_millis(1500);
        let outcome = Outcome { stdout: b"1 2\n\xff".to_vec(), stderr: b"x".to_vec(), code: Some(3), took };
        write(&outcome, &path).unwrap();
        let back = read(&case, &path).unwrap();
        assert_eq!((back.stdout, back.stderr), (outcome.stdout, outcome.stderr));
        assert_eq!((back.code, back.took), (outcome.code, outcome.took));
        for broken in ["", "1.5", "1.5 9\nx", "x 1\nx"] {
            fs::write(&path, broken).unwrap();
            assert!(read(&case, &path).is_none(), "{broken:?}");
        }
        fs::remove_dir_all(directory).unwrap();
    }
}
