//! Python's own regression tests, natively and in a sandbox, compared test by test.
//!
//! A module is a case. Its script (`tests/lab/cases/programs/python-module`) prints a line `ID RESULT` for each of its
//! tests; the results natively and inside must be the same but for what the table in `docs/python-tests.md` lists, with
//! its reason. A listed difference that is not seen any more fails the case, too: the table can only shrink.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::case::{self, Case, Place};
use crate::host;

/// The modules, and how long each may take (in seconds) on either side.
const MODULES: &[(&str, u32)] = &[
    ("test_concurrent_futures", 3000),
    ("test_epoll", 600),
    ("test_faulthandler", 900),
    ("test_fcntl", 600),
    ("test_file", 600),
    ("test_grp", 600),
    ("test_io", 3000),
    ("test_mmap", 600),
    ("test_multiprocessing_fork", 3000),
    ("test_multiprocessing_spawn", 3000),
    ("test_os", 900),
    ("test_pathlib", 600),
    ("test_poll", 600),
    ("test_posix", 900),
    ("test_pty", 600),
    ("test_pwd", 600),
    ("test_resource", 600),
    ("test_select", 600),
    ("test_selectors", 600),
    ("test_shutil", 600),
    ("test_signal", 900),
    ("test_sqlite3", 900),
    ("test_subprocess", 1800),
    ("test_tarfile", 900),
    ("test_tempfile", 600),
    ("test_thread", 600),
    ("test_threading", 1800),
    ("test_time", 600),
    ("test_zipfile", 1800),
];

/// The start of such a case's name.
const PREFIX: &str = "programs/python-";

/// Where the differences are listed.
const EXPECTED: &str = "docs/python-tests.md";

/// One case a module.
pub fn cases(directory: &Path) -> Result<Vec<Case>> {
    let path = directory.join("programs/python-module");
    let script = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    MODULES
        .iter()
        .map(|(module, timeout)| {
            let script = format!("#: timeout {timeout}\n#: run --memory 2G\nmodule={module}\n{script}");
            case::parse(format!("{PREFIX}{module}"), Place::Programs, script)
        })
        .collect()
}

/// The module that a case runs, if it is one of these.
pub fn module(case: &Case) -> Option<&str> {
    case.name.strip_prefix(PREFIX)
}

/// What differs and should not, or is listed and does not differ: a line each.
pub fn compare(module: &str, native: &[u8], sandbox: &[u8]) -> Result<Vec<String>> {
    let path = host::checkout().join(EXPECTED);
    let listed = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    Ok(differences(module, &listed, native, sandbox))
}

/// A row of the table: `| module | test | natively | in the sandbox | reason |`. A test may end in `*`.
struct Row<'a> {
    test: &'a str,
    native: &'a str,
    sandbox: &'a str,
}

impl<'a> Row<'a> {
    fn parse(module: &str, line: &'a str) -> Option<Row<'a>> {
        let cells: Vec<&str> = line.split('|').map(|cell| cell.trim().trim_matches('`')).collect();
        let [_, of, test, native, sandbox, ..] = cells[..] else { return None };
        (of == module).then_some(Row { test, native, sandbox })
    }

    fn covers(&self, test: &str, native: &str, sandbox: &str) -> bool {
        let named = match self.test.strip_suffix('*') {
            Some(start) => test.starts_with(start),
            None => test == self.test,
        };
        named && native == self.native && sandbox == self.sandbox
    }
}

fn differences(module: &str, listed: &str, native: &[u8], sandbox: &[u8]) -> Vec<String> {
    let (native, sandbox) = (String::from_utf8_lossy(native), String::from_utf8_lossy(sandbox));
    let (native, sandbox) = (results(&native), results(&sandbox));
    let rows: Vec<Row> = listed.lines().filter_map(|line| Row::parse(module, line)).collect();
    let mut seen = vec![false; rows.len()];
    let mut report = Vec::new();
    let mut tests: Vec<&str> = native.keys().chain(sandbox.keys()).copied().collect();
    tests.sort_unstable();
    tests.dedup();
    for test in tests {
        let (before, after) = (native.get(test), sandbox.get(test));
        let (before, after) = (before.copied().unwrap_or("absent"), after.copied().unwrap_or("absent"));
        if before == after {
            continue;
        }
        let mut covered = false;
        for (row, seen) in rows.iter().zip(&mut seen) {
            if row.covers(test, before, after) {
                (covered, *seen) = (true, true);
            }
        }
        if !covered {
            report.push(format!("{test}: natively {before}, in the sandbox {after}"));
        }
    }
    for (row, seen) in rows.iter().zip(seen) {
        if !seen {
            report.push(format!("{}: does not differ any more; take it out of {EXPECTED}", row.test));
        }
    }
    report
}

/// Lines `ID RESULT`. The reasons of skips follow a colon and do not count.
fn results(text: &str) -> BTreeMap<&str, &str> {
    let line = |line: &'_ str| -> Option<(usize, usize)> {
        let start = line.find(' ')?;
        let end = line[start..].find(':').map_or(line.len(), |colon| start + colon);
        Some((start, end))
    };
    text.lines()
        .filter_map(|all| line(all).map(|(start, end)| (&all[..start], all[start..end].trim())))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| module | test |\n|---|---|\n| test_x | `a.b` | ok | FAIL | because |\n\
        | test_x | `n.*` | ok | skipped | no network |\n| test_y | `q` | ok | FAIL | other |\n";

    #[test]
    fn only_listed_differences_are_accepted() {
        let native = b"a.a ok\na.b ok\nn.1 ok\nn.2 ok\ns skipped: one reason\n";
        let listed = b"a.a ok\na.b FAIL\nn.1 skipped: no\nn.2 skipped: no\ns skipped: another reason\n";
        assert_eq!(differences("test_x", TABLE, native, listed), [""; 0]);
        let more = b"a.b FAIL\nn.1 skipped: no\nn.2 FAIL\ns skipped: x\n";
        assert_eq!(
            differences("test_x", TABLE, native, more),
            ["a.a: natively ok, in the sandbox absent", "n.2: natively ok, in the sandbox FAIL"]
        );
    }

    #[test]
    fn a_listed_difference_that_is_gone_is_reported() {
        let same = b"a.b ok\nn.1 ok\n";
        assert_eq!(differences("test_x", TABLE, same, same).len(), 2);
        assert_eq!(differences("test_z", TABLE, same, same), [""; 0]);
    }
}
