//! A lab case: a shell script with directives in comments at its top.
//!
//! `tests/lab/cases/same/*.sh` run twice, natively in the lab and inside a sandbox, and must print the same
//! bytes on both streams and end with the same code. `tests/lab/cases/lab/*.sh` run in the lab itself, where
//! they start sandboxes as they like; exit code 0 is success. `tests/lab/cases/programs/*.sh` are like the first, in the
//! image with server programs (see `cargo xtask lab programs`). Directives, each `#: name value`:
//!
//! | directive | meaning | default |
//! |---|---|---|
//! | `timeout` | seconds for each run | 60 |
//! | `exit` | the expected exit code | 0 |
//! | `run` | more options for `ringfence run` | none |
//! | `filter` | a `sed -E` expression for what may differ, applied to both streams of both runs | none |
//! | `stdin` | text of standard input, with `\n` for line ends | empty |
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

/// Where a case runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Natively and in a sandbox.
    Same,
    /// The same, in the image with server programs.
    Programs,
    /// In the lab.
    Lab,
}

impl Place {
    /// The image that cases run in, by its name in the lab's `/srv`.
    pub fn image(self) -> &'static str {
        if self == Place::Programs { "programs" } else { "debian" }
    }
}

/// One case.
#[derive(Debug)]
pub struct Case {
    /// `FOLDER/NAME`.
    pub name: String,
    /// Where it runs.
    pub place: Place,
    /// Its text.
    pub script: String,
    /// For each run.
    pub timeout: Duration,
    /// Expected.
    pub exit: u8,
    /// For `ringfence run`.
    pub options: Vec<String>,
    /// `sed -E` expressions.
    pub filters: Vec<String>,
    /// For each run.
    pub stdin: Vec<u8>,
}

/// The cases in folders of `directory`, by name.
pub fn load(directory: &Path, folders: &[(Place, &str)]) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for &(place, folder) in folders {
        let folder_path = directory.join(folder);
        let entries =
            fs::read_dir(&folder_path).with_context(|| format!("cannot read {}", folder_path.display()))?;
        let mut paths: Vec<PathBuf> = entries.map(|entry| Ok(entry?.path())).collect::<Result<_>>()?;
        paths.sort();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "sh")) {
            let stem = path.file_stem().unwrap_or_default().to_string_lossy();
            let script =
                fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
            let case = parse(format!("{folder}/{stem}"), place, script);
            cases.push(case.with_context(|| path.display().to_string())?);
        }
    }
    Ok(cases)
}

pub(super) fn parse(name: String, place: Place, script: String) -> Result<Case> {
    let mut case = Case {
        name,
        place,
        script: String::new(),
        timeout: Duration::from_secs(60),
        exit: 0,
        options: Vec::new(),
        filters: Vec::new(),
        stdin: Vec::new(),
    };
    for line in script.lines().take_while(|line| line.starts_with('#')) {
        let Some((directive, value)) = line.strip_prefix("#: ").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        match directive {
            "timeout" => case.timeout = Duration::from_secs(value.parse().context("timeout")?),
            "exit" => case.exit = value.parse().context("exit")?,
            "run" => case.options = value.split_whitespace().map(str::to_owned).collect(),
            "filter" => case.filters.push(value.to_owned()),
            "stdin" => case.stdin = value.replace("\\n", "\n").into_bytes(),
            word => bail!("unknown directive {word:?}"),
        }
    }
    case.script = script;
    Ok(case)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directives_are_read() {
        let script = "# What it is for.\n#: timeout 5\n#: exit 3\n#: run --cpus 4\n#: stdin a\\nb\nexit 3\n";
        let case = parse("x".into(), Place::Same, script.into()).unwrap();
        assert_eq!((case.timeout.as_secs(), case.exit, &case.stdin[..]), (5, 3, &b"a\nb"[..]));
        assert_eq!(case.options, ["--cpus", "4"]);
        assert!(parse("x".into(), Place::Same, "#: tiemout 5\n".into()).is_err());
    }
}
