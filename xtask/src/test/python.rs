//! Python's own regression tests, natively and in a sandbox, compared test by test.
//!
//! A module is a case. Its script (`tests/lab/cases/programs/python-module`) prints a line `ID RESULT` for each of its
//! tests; the results natively and inside must be the same but for what the table in `docs/python-tests.md` lists, with
//! its reason. A listed difference that is not seen any more fails the case, too: the table can only shrink.
//!
//! Many of these tests expect something within a second or so, which a busy machine that emulates another may not give
//! them, on either side. So tests that differ and should not are run again alone, on both sides, and the last result counts.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::case::{self, Case, Place};
use crate::host;

/// The modules, and how long each may take (in seconds) on either side.
const MODULES: &[(&str, u32)] = &[
    ("test_asyncio", 5400),
    ("test_concurrent_futures", 5400),
    ("test_epoll", 600),
    ("test_faulthandler", 900),
    ("test_fcntl", 600),
    ("test_file", 600),
    ("test_ftplib", 900),
    ("test_grp", 600),
    ("test_httplib", 900),
    ("test_io", 3000),
    ("test_mmap", 600),
    ("test_multiprocessing_fork", 5400),
    ("test_multiprocessing_spawn", 5400),
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
    ("test_smtplib", 600),
    ("test_socket", 1800),
    ("test_socketserver", 600),
    ("test_sqlite3", 900),
    ("test_ssl", 1800),
    ("test_subprocess", 1800),
    ("test_tarfile", 900),
    ("test_tempfile", 600),
    ("test_thread", 600),
    ("test_threading", 1800),
    ("test_time", 600),
    ("test_urllib", 600),
    ("test_zipfile", 1800),
];

/// The start of such a case's name.
const PREFIX: &str = "programs/python-";

/// What stands for a test when the module did not come to its end.
const BROKEN: &str = "module";

/// The result of a test that was not run.
const ABSENT: &str = "absent";

/// Where the differences are listed.
const EXPECTED: &str = "docs/python-tests.md";

/// One case a module.
pub fn cases(directory: &Path) -> Result<Vec<Case>> {
    let path = directory.join("programs/python-module");
    let script = fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
    let listed = listed()?;
    MODULES
        .iter()
        .map(|(module, timeout)| {
            // Python's own limit, that says where it hangs, comes first.
            let limit = timeout - timeout / 10;
            let absent = absent(module, &listed).join(" ");
            let variables = format!("module={module}\nlimit={limit}\nabsent='{absent}'\nchosen=");
            let script = format!("#: timeout {timeout}\n#: run --memory 2G\n{variables}\n{script}");
            case::parse(format!("{PREFIX}{module}"), Place::Programs, script)
        })
        .collect()
}

/// The module that a case runs, if it is one of these.
pub fn module(case: &Case) -> Option<&str> {
    case.name.strip_prefix(PREFIX)
}

/// More tests than this that differ do so for another reason than time.
const AGAIN: usize = 30;

/// The case with only these tests of its module, to run them again. `None` if that says nothing.
pub fn again(case: &Case, tests: &[String]) -> Option<Case> {
    if tests.is_empty() || tests.len() > AGAIN || tests.iter().any(|test| test == BROKEN) {
        return None;
    }
    let chosen: Vec<String> = tests.iter().map(|test| format!("--match {test}")).collect();
    let script = case.script.replacen("\nchosen=\n", &format!("\nchosen='{}'\n", chosen.join(" ")), 1);
    case::parse(case.name.clone(), case.place, script).ok()
}

/// What the runs of a module found.
#[derive(Default)]
pub struct Found {
    native: BTreeMap<String, String>,
    sandbox: BTreeMap<String, String>,
}

/// How they differ.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Differences {
    /// Tests that differ and should not.
    pub tests: Vec<String>,
    /// A line for each of those, and for each that is listed and does not differ.
    pub report: Vec<String>,
}

impl Found {
    /// Takes the results of one more run on both sides.
    pub fn add(&mut self, native: &[u8], sandbox: &[u8]) {
        for (to, text) in [(&mut self.native, native), (&mut self.sandbox, sandbox)] {
            let text = String::from_utf8_lossy(text);
            to.extend(results(&text).map(|(test, result)| (test.to_owned(), result.to_owned())));
        }
    }

    /// What differs in a module and should not, or is listed and does not differ.
    pub fn compare(&self, module: &str) -> Result<Differences> {
        Ok(self.differences(module, &listed()?))
    }
}

fn listed() -> Result<String> {
    let path = host::checkout().join(EXPECTED);
    fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

/// The tests of a module that are listed as `absent` in the sandbox: they are not run there.
fn absent<'a>(module: &str, listed: &'a str) -> Vec<&'a str> {
    let rows = listed.lines().filter_map(|line| Row::parse(module, line));
    rows.filter(|row| row.sandbox == ABSENT).map(|row| row.test).collect()
}

/// A row of the table: `| module | test | natively | in the sandbox | reason |`. A `*` in a test stands for anything.
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
        matches(self.test, test) && native == self.native && sandbox == self.sandbox
    }
}

/// Whether `text` is what `pattern` says, in which each `*` stands for anything.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let end = parts.pop().unwrap_or_default();
    for part in parts {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(end)
}

impl Found {
    fn differences(&self, module: &str, listed: &str) -> Differences {
        let rows: Vec<Row> = listed.lines().filter_map(|line| Row::parse(module, line)).collect();
        let mut seen = vec![false; rows.len()];
        let mut found = Differences::default();
        let mut tests: Vec<&str> =
            self.native.keys().chain(self.sandbox.keys()).map(String::as_str).collect();
        tests.sort_unstable();
        tests.dedup();
        for test in tests {
            let [before, after] =
                [&self.native, &self.sandbox].map(|results| results.get(test).map_or(ABSENT, String::as_str));
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
                found.tests.push(test.to_owned());
                found.report.push(format!("{test}: natively {before}, in the sandbox {after}"));
            }
        }
        for (row, seen) in rows.iter().zip(seen) {
            if !seen {
                let gone = format!("{}: does not differ any more; take it out of {EXPECTED}", row.test);
                found.report.push(gone);
            }
        }
        found
    }
}

/// Lines `ID RESULT`. The reasons of skips follow a colon and do not count.
fn results(text: &str) -> impl Iterator<Item = (&str, &str)> {
    text.lines().filter_map(|line| {
        let (test, result) = line.split_once(' ')?;
        Some((test, result.split(':').next().unwrap_or_default().trim()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "| module | test |\n|---|---|\n| test_x | `a.b` | ok | FAIL | because |\n\
        | test_x | `n.*` | ok | skipped | no network |\n| test_y | `q` | ok | FAIL | other |\n";

    fn report(module: &str, native: &[u8], sandbox: &[u8]) -> Vec<String> {
        let mut found = Found::default();
        found.add(native, sandbox);
        found.differences(module, TABLE).report
    }

    #[test]
    fn only_listed_differences_are_accepted() {
        let native = b"a.a ok\na.b ok\nn.1 ok\nn.2 ok\ns skipped: one reason\n";
        let listed = b"a.a ok\na.b FAIL\nn.1 skipped: no\nn.2 skipped: no\ns skipped: another reason\n";
        assert_eq!(report("test_x", native, listed), [""; 0]);
        let more = b"a.b FAIL\nn.1 skipped: no\nn.2 FAIL\ns skipped: x\n";
        assert_eq!(
            report("test_x", native, more),
            ["a.a: natively ok, in the sandbox absent", "n.2: natively ok, in the sandbox FAIL"]
        );
    }

    #[test]
    fn stars_stand_for_anything() {
        for (pattern, text, is) in [
            ("a.b", "a.b", true),
            ("a.b", "a.bc", false),
            ("a.*", "a.", true),
            ("a.*X*", "a.bXc", true),
            ("a.*X*", "a.bc", false),
            ("*b", "aab", true),
            ("a*b*a", "aba", true),
            ("a*b*a", "ab", false),
        ] {
            assert_eq!(matches(pattern, text), is, "{pattern} {text}");
        }
    }

    #[test]
    fn a_listed_difference_that_is_gone_is_reported() {
        let same = b"a.b ok\nn.1 ok\n";
        assert_eq!(report("test_x", same, same).len(), 2);
        assert_eq!(report("test_z", same, same), [""; 0]);
    }

    #[test]
    fn the_last_result_counts() {
        let mut found = Found::default();
        found.add(b"a.c ok\na.d ok\n", b"a.c FAIL\na.d FAIL\n");
        let differing = found.differences("test_z", TABLE).tests;
        assert_eq!(differing, ["a.c", "a.d"]);
        found.add(b"a.c ok\na.d ok\n", b"a.c ok\na.d FAIL\n");
        assert_eq!(found.differences("test_z", TABLE).tests, ["a.d"]);
        let script = "#: timeout 5\nabsent=''\nchosen=\nrun\n".to_owned();
        let case = case::parse("x".into(), Place::Programs, script).unwrap();
        let alone = again(&case, &differing).unwrap();
        assert!(alone.script.contains("\nchosen='--match a.c --match a.d'\n"));
        assert!(again(&case, &[]).is_none());
    }

    #[test]
    fn what_is_listed_as_absent_is_not_run() {
        let table = format!("{TABLE}| test_x | `h` | ok | absent | it hangs |\n");
        assert_eq!(absent("test_x", &table), ["h"]);
        assert_eq!(absent("test_y", &table), [""; 0]);
    }
}
