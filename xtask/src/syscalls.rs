//! `cargo xtask syscalls`: `docs/syscalls.md`, made from the kernel's table and the list of conformance tests.
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

use anyhow::{Context, Result};

use crate::conformance;
use crate::host;
use crate::test::Tally;

const PAGE: &str = "docs/syscalls.md";

const HEAD: &str = "# System calls

Made by `cargo xtask syscalls` from the kernel's table (`guest-kernel/core/src/syscall`) and the list of conformance tests
(`tests/conformance`); `cargo xtask test --only syscalls` checks that it is current. *full*: everything a program can
observe, but for what the note says; *partial*: the note says what is missing; *missing*: ENOSYS. The tests named are
those that pass, the same inside as natively.

";

/// Writes the page.
pub fn write() -> Result<u8> {
    let (page, counts) = make()?;
    let path = host::checkout().join(PAGE);
    fs::write(&path, page).with_context(|| format!("cannot write {PAGE}"))?;
    println!("{counts}");
    Ok(0)
}

/// Whether the page is current.
pub fn check() -> Result<Tally> {
    let (page, counts) = make()?;
    println!("{counts}");
    let current = fs::read_to_string(host::checkout().join(PAGE)).unwrap_or_default() == page;
    if !current {
        println!("{PAGE} is out of date: cargo xtask syscalls");
    }
    Ok(Tally::one(current))
}

/// The page, and the number of calls of each kind in words.
fn make() -> Result<(String, String)> {
    let table = host::run_quietly(host::cargo().args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "ringfence-sentry",
        "--example",
        "syscalls",
    ]))?;
    let tests = tests_by_call()?;
    let (mut full, mut partial, mut missing, mut tested) = (0, 0, 0, 0);
    let mut rows = String::new();
    for line in table.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [number, name, level, arguments, note] = fields[..] else { continue };
        *match level {
            "full" => &mut full,
            "partial" => &mut partial,
            _ => &mut missing,
        } += 1;
        let tests = tests.get(name).map(|tests| some(tests)).unwrap_or_default();
        tested += usize::from(level != "missing" && !tests.is_empty());
        writeln!(rows, "| {number} | {name} | {level} | {arguments} | {note} | {tests} |")?;
    }
    let counts =
        format!("{full} calls full, {partial} partial, {missing} missing; {tested} have a conformance test");
    let page = format!(
        "{HEAD}{counts}.\n\n| number | name | level | arguments | note | conformance tests |\n|---|---|---|---|---|---|\n{rows}"
    );
    Ok((page, counts))
}

/// The first few.
fn some(tests: &[String]) -> String {
    const SHOWN: usize = 4;
    let more = match tests.len().saturating_sub(SHOWN) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    tests.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(" ") + &more
}

/// The tests of each call that pass.
fn tests_by_call() -> Result<BTreeMap<String, Vec<String>>> {
    let list = host::run_quietly(host::cargo().args([
        "run",
        "--quiet",
        "--locked",
        "--package",
        "ringfence-conformance",
        "--",
        "list",
    ]))?;
    let passing = fs::read_to_string(conformance::folder().join("passing.txt")).unwrap_or_default();
    let mut tests: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for line in list.lines() {
        let mut words = line.split(' ');
        let Some(test) = words.next().filter(|test| passing.lines().any(|line| line == *test)) else {
            continue;
        };
        for call in words {
            tests.entry(call.to_owned()).or_default().push(test.to_owned());
        }
    }
    Ok(tests)
}
