//! Running the lab cases, in several labs at once, and reporting what differs.
use std::collections::{BTreeSet, VecDeque};
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, anyhow, ensure};

use super::case::{self, Case, Place};
use super::seccomp::{self, Profile};
use super::{Natively, Options, Tally, native, python};
use crate::host;
use crate::lab::{Job, Lab, Outcome, execute, words};

/// Where cases are.
pub(super) const CASES: &str = "tests/lab/cases";

/// How many cases of a whole run may have a second attempt; the first is printed. More is not the machine.
const AGAIN: usize = 2;

/// Runs the cases of every day that the options ask for.
pub fn run(options: &Options) -> Result<Tally> {
    let folders = [(Place::Same, "same"), (Place::Lab, "lab")];
    let cases = case::load(&host::checkout().join(CASES), &folders)?;
    // All of them together use every rule of the filters of system calls.
    let whole = options.case.is_none() && !options.natively.native_only;
    let profile = if whole { Some(seccomp::profile()?) } else { None };
    run_cases(options, cases, profile.as_ref())
}

/// Runs the cases with server programs, and Python's own tests.
pub fn run_programs(options: &Options) -> Result<Tally> {
    crate::lab::programs::ensure()?;
    let mut cases = case::load(&host::checkout().join(CASES), &[(Place::Programs, "programs")])?;
    cases.extend(python::cases(&host::checkout().join(CASES))?);
    run_cases(options, cases, None)
}

/// With a profile of filters, system calls are recorded and compared with it.
fn run_cases(options: &Options, mut cases: Vec<Case>, profile: Option<&Profile>) -> Result<Tally> {
    if let Some(part) = &options.case {
        cases.retain(|case| case.name.contains(part.as_str()));
    }
    ensure!(!cases.is_empty(), "no such case");
    crate::build::build_static("ringfence")?;
    let failures = host::target_dir().join("lab/failures");
    let _ = fs::remove_dir_all(&failures);
    // Long ones first, so that the labs end together.
    cases.sort_by_key(|case| std::cmp::Reverse(case.timeout));
    let jobs = options.jobs.clamp(1, cases.len());
    let queue = Mutex::new(VecDeque::from(cases));
    let total = Mutex::new(Tally::default());
    // A single case may fail because the emulated machine stood still. One that is asked for by its name is not run again.
    let again = AtomicUsize::new(if options.case.is_none() { AGAIN } else { 0 });
    let next = || queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = |lab: &Lab| {
        while let Some(case) = next() {
            let attempt = || match run_case(lab, &case, options.natively, &failures) {
                Ok((passed, report)) => (passed, report),
                Err(error) => (false, format!("cannot be run: {error:#}")),
            };
            let (mut passed, mut report) = attempt();
            let more = |left: usize| left.checked_sub(1);
            if !passed && again.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more).is_ok() {
                println!("once more: {} {report}", case.name);
                (passed, report) = attempt();
            }
            println!("{} {} {report}", if passed { "ok  " } else { "FAIL" }, case.name);
            total.lock().unwrap_or_else(PoisonError::into_inner).add(Tally::one(passed));
        }
    };
    let in_lab = |number: usize| {
        let lab = Lab::named(&format!("test{number}"), crate::lab::Options::default());
        let seen = match profile {
            Some(profile) => seccomp::recorded_while(&lab, profile, || {
                work(&lab);
                Ok(())
            })
            .map(|((), seen)| seen),
            None => {
                work(&lab);
                Ok(BTreeSet::new())
            }
        };
        if let Err(error) = lab.down() {
            host::say(&format!("{error:#}"));
        }
        seen
    };
    let seen: Result<Vec<BTreeSet<String>>> = std::thread::scope(|scope| {
        let labs: Vec<_> = (0..jobs).map(|number| scope.spawn(move || in_lab(number))).collect();
        labs.into_iter().map(|lab| lab.join().map_err(|_| anyhow!("a lab's thread panicked"))?).collect()
    });
    let mut total = total.into_inner().unwrap_or_else(PoisonError::into_inner);
    let seen: BTreeSet<String> = seen?.into_iter().flatten().collect();
    if let Some(profile) = profile {
        total.add(seccomp::judge(profile, &seen)?);
    }
    Ok(total)
}

/// The conformance tests, in a lab of the suites.
pub fn conformance(options: &Options) -> Result<Tally> {
    crate::build::build_static("ringfence")?;
    let lab = Lab::named("test0", crate::lab::Options::default());
    let tally =
        crate::conformance::run(&crate::conformance::Options::of_suite(options.case.as_deref()), &lab);
    lab.down()?;
    tally
}

/// A minute of the fuzzer, in a lab of the suites.
pub fn fuzz() -> Result<Tally> {
    crate::build::build_static("ringfence")?;
    let lab = Lab::named("test0", crate::lab::Options::default());
    let tally = crate::conformance::fuzz_minute(&lab);
    lab.down()?;
    tally
}

/// Runs one case and says in a line (and, if it failed, in more) what happened.
pub(super) fn run_case(
    lab: &Lab,
    case: &Case,
    natively: Natively,
    failures: &Path,
) -> Result<(bool, String)> {
    if case.place == Place::Lab {
        if natively.native_only {
            return Ok((true, "(not run: it needs sandboxes)".to_owned()));
        }
        let outcome = run_command(lab, case, &words(&["bash", "-c", &case.script]))?;
        let passed = outcome.code == Some(case.exit);
        let mut report = format!("({:.1} s)", outcome.took.as_secs_f64());
        if !passed {
            report += &format!("\n    {}, expected {}", ending(&outcome), case.exit);
            report += &indent(&outcome.stdout);
            report += &indent(&outcome.stderr);
        }
        return Ok((passed, report));
    }
    let program = ["/bin/sh", "-c", &case.script];
    let long = case.place == Place::Programs;
    let run_natively: &[&str] = if long { &["native", "--programs"] } else { &["native"] };
    let command = words(&[run_natively, &program].concat());
    let native = if long {
        native::run(lab, case, &command, natively.natively_again)?
    } else {
        run_command(lab, case, &command)?
    };
    let mut report = format!("(native {:.1} s", native.took.as_secs_f64());
    if native.code != Some(case.exit) {
        report += &format!(")\n    natively: {}, expected {}", ending(&native), case.exit);
        report += &indent(&native.stdout);
        report += &indent(&native.stderr);
        return Ok((false, report));
    }
    if natively.native_only {
        return Ok((true, report + ")"));
    }
    let image = format!("/srv/{}.erofs", case.place.image());
    let mut command = words(&["ringfence", "run", "--image", &image]);
    command.extend(case.options.iter().map(OsString::from));
    command.push("--".into());
    command.extend(words(&program));
    let sandbox = run_command(lab, case, &command)?;
    report += &format!(", sandbox {:.1} s)", sandbox.took.as_secs_f64());
    let mut passed = sandbox.code == native.code;
    if !passed {
        report += &format!("\n    natively {}, in the sandbox {}", ending(&native), ending(&sandbox));
    }
    let directory = failures.join(case.name.replace('/', "-"));
    if let Some(module) = python::module(case) {
        let mut found = python::Found::default();
        found.add(&native.stdout, &sandbox.stdout);
        let mut differences = found.compare(module)?;
        if !differences.report.is_empty() {
            keep(&directory, "stderr.sandbox", &sandbox.stderr)?;
        }
        for _ in 0..2 {
            let Some(alone) = python::again(case, &differences.tests) else { break };
            let program = ["/bin/sh", "-c", &alone.script];
            let native = run_command(lab, &alone, &words(&[run_natively, &program].concat()))?;
            command.pop();
            command.push(alone.script.clone().into());
            let sandbox = run_command(lab, &alone, &command)?;
            found.add(&native.stdout, &sandbox.stdout);
            report += &format!(", {} again", differences.tests.len());
            differences = found.compare(module)?;
        }
        let good = differences.report.is_empty();
        if !good {
            report += &format!("\n    results differ (output kept in {}):", directory.display());
            report += &indent(differences.report.join("\n").as_bytes());
        }
        return Ok((passed && good, report));
    }
    for (stream, native, sandbox) in
        [("stdout", &native.stdout, &sandbox.stdout), ("stderr", &native.stderr, &sandbox.stderr)]
    {
        let (native, sandbox) = (filter(case, native)?, filter(case, sandbox)?);
        if native != sandbox {
            passed = false;
            report += &format!("\n    {stream} differs (kept in {}):", directory.display());
            report += &indent(&difference(&directory, stream, &native, &sandbox)?);
        }
    }
    Ok((passed, report))
}

fn ending(outcome: &Outcome) -> String {
    match outcome.code {
        Some(code) => format!("exit code {code}"),
        None => format!("no end after {} s", outcome.took.as_secs()),
    }
}

fn run_command(lab: &Lab, case: &Case, command: &[OsString]) -> Result<Outcome> {
    execute(lab, &Job { command, stdin: &case.stdin, files: &[], timeout: case.timeout })
}

fn filter(case: &Case, bytes: &[u8]) -> Result<Vec<u8>> {
    if case.filters.is_empty() {
        return Ok(bytes.to_vec());
    }
    use std::io::Write;
    use std::process::Stdio;
    let mut sed = Command::new("sed");
    sed.arg("-E").args(case.filters.iter().flat_map(|filter| ["-e", filter])).env("LC_ALL", "C");
    let mut child = sed.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("cannot start sed")?;
    let mut stdin = child.stdin.take().context("no stdin")?;
    let output = std::thread::scope(|scope| {
        scope.spawn(move || stdin.write_all(bytes));
        child.wait_with_output()
    })?;
    ensure!(output.status.success(), "sed does not understand {:?}", case.filters);
    Ok(output.stdout)
}

/// Keeps what a run printed.
fn keep(directory: &Path, name: &str, bytes: &[u8]) -> Result<PathBuf> {
    fs::create_dir_all(directory)?;
    let path = directory.join(name);
    fs::write(&path, bytes)?;
    Ok(path)
}

/// Keeps both versions and says how they differ.
fn difference(directory: &Path, stream: &str, native: &[u8], sandbox: &[u8]) -> Result<Vec<u8>> {
    let keep = |place: &str, bytes: &[u8]| keep(directory, &format!("{stream}.{place}"), bytes);
    let (native, sandbox) = (keep("native", native)?, keep("sandbox", sandbox)?);
    let mut diff = Command::new("diff");
    diff.args(["--text", "-U2", "--label", "native", "--label", "sandbox"]).args([native, sandbox]);
    Ok(diff.output().context("cannot start diff")?.stdout)
}

/// The first lines of `text`, set in under the case's line.
fn indent(text: &[u8]) -> String {
    const LINES: usize = 40;
    let text = String::from_utf8_lossy(text);
    let mut shown: String = text.lines().take(LINES).map(|line| format!("\n    | {line}")).collect();
    if text.lines().count() > LINES {
        shown += "\n    | …";
    }
    shown
}
