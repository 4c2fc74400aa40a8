//! `cargo xtask conformance`: what Linux does, natively and in a sandbox (tests/conformance).
//!
//! The program runs once natively in the lab and once in a sandbox and prints a transcript a test; a test passes
//! that ended well in both and said the same. `tests/conformance/passing.txt` is the list of tests that pass. It may
//! only grow: the suite fails if a listed test does not pass, if one passes that is not listed (`--update` adds
//! it), and if one that does not pass is not explained in `tests/conformance/known-differences.md`. What calls newer than
//! the lab's Linux have to say is written down in `tests/conformance/expected/NAME`.
//!
//! In a run of all tests, up to [`AGAIN`] listed ones that differ are run once more, alone, and pass if they agree then: some
//! compare what took how long, and the emulated machine now and then stands still. It is printed, with the first difference.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::lab::{Job, Lab, execute, words};
use crate::test::Tally;
use crate::{build, host};

/// What `cargo xtask conformance` takes.
#[derive(Args, Default)]
pub struct Options {
    /// Only tests whose name contains this
    #[arg(long, default_value = "")]
    case: String,
    /// Add tests that pass to the list of those that have to
    #[arg(long)]
    update: bool,
    /// Do not build `ringfence` first: use what was built last
    #[arg(long)]
    no_build: bool,
    /// A guest kernel to boot instead of the one in `ringfence`
    #[arg(long)]
    guest: Option<PathBuf>,
    /// Run the races again and again for so many seconds, in a sandbox with 4 CPUs
    #[arg(long)]
    stress: Option<u64>,
    /// Which of them run together when; random if not given, and printed
    #[arg(long, requires = "stress")]
    seed: Option<u32>,
    /// Print the transcripts, too
    #[arg(long)]
    verbose: bool,
}

impl Options {
    /// Those tests whose name contains `part`, with the binary that is built already.
    pub fn of_suite(part: Option<&str>) -> Options {
        Options { case: part.unwrap_or_default().to_owned(), no_build: true, ..Options::default() }
    }
}

/// The package, and its program in the lab.
const PACKAGE: &str = "ringfence-conformance";
const PROGRAM: &str = "/opt/ringfence/conformance";
/// A guest kernel of the caller's in the lab.
const GUEST: &str = "/opt/ringfence/guest";

/// More than a whole run takes, so that a kernel that hangs is noticed.
const PATIENCE: Duration = Duration::from_secs(600);

/// How many tests may be given a second chance in a run. More is not the machine.
const AGAIN: usize = 3;

/// What `cargo xtask fuzz` takes.
#[derive(Args)]
pub struct FuzzOptions {
    /// How long
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Where the rounds' seeds begin; random if not given, and printed
    #[arg(long)]
    seed: Option<u32>,
    /// Virtual CPUs of the sandbox
    #[arg(long, default_value_t = 4)]
    cpus: u32,
    /// Run this one round again, instead
    #[arg(long)]
    round: Option<u64>,
    /// Do not build `ringfence` first: use what was built last
    #[arg(long)]
    no_build: bool,
    /// A guest kernel to boot instead of the one in `ringfence`
    #[arg(long)]
    guest: Option<PathBuf>,
}

/// Runs `cargo xtask fuzz` in the checkout's lab.
pub fn fuzz_main(options: &FuzzOptions) -> Result<u8> {
    if !options.no_build && options.guest.is_none() {
        build::build_static("ringfence")?;
    }
    let lab = Lab::new(crate::lab::Options::default());
    Ok(u8::from(!fuzz(options, &lab)?.is_good()))
}

/// A minute of the fuzzer on four CPUs, as CI runs it, with the binary that is built already. Always the same calls, so that a
/// change is judged by what it changed; other seeds are for those who look for bugs.
pub fn fuzz_minute(lab: &Lab) -> Result<Tally> {
    fuzz(&FuzzOptions { minutes: 1, seed: Some(1), cpus: 4, round: None, no_build: true, guest: None }, lab)
}

/// Random system calls in a sandbox: its kernel must not panic or hang, and must answer afterwards.
fn fuzz(options: &FuzzOptions, lab: &Lab) -> Result<Tally> {
    let shared = Options { guest: options.guest.clone(), ..Options::default() };
    let files = files(&shared)?;
    let seed = options.seed.unwrap_or_else(any_seed);
    let arguments = match options.round {
        Some(round) => format!("fuzz --round {round}"),
        None => format!("fuzz {seed} {}", options.minutes * 60),
    };
    host::say(&format!("fuzzing: {arguments}"));
    // With a log, a sandbox whose time is over says where its CPUs were.
    let seconds = options.minutes * 60 + 240;
    let sandbox = format!("--cpus {} --timeout {seconds}s --loglevel error", options.cpus);
    let patience = Duration::from_secs(options.minutes * 60) + PATIENCE;
    let said = said_by(lab, &files, &in_sandbox(&shared, &sandbox, &arguments), patience)?;
    let good =
        said.lines().any(|line| line.starts_with("=== fuzz: ") && line.ends_with("the kernel answers"));
    let rounds: Vec<&str> = said.lines().filter(|line| line.starts_with("round ")).collect();
    for line in said.lines().filter(|line| !line.starts_with("round ")) {
        println!("{line}");
    }
    if !good {
        let last = rounds.last().copied().unwrap_or("no round");
        println!(
            "FAIL: {last} (the last of {}, seed {seed}); cargo xtask fuzz --round does it again",
            rounds.len()
        );
    }
    Ok(Tally::one(good))
}

/// A seed nobody asked for.
fn any_seed() -> u32 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(1, |now| now.subsec_nanos())
}

/// Where the lists are.
pub fn folder() -> PathBuf {
    host::checkout().join("tests/conformance")
}

/// Runs `cargo xtask conformance` in the checkout's lab.
pub fn main(options: &Options) -> Result<u8> {
    if !options.no_build && options.guest.is_none() {
        build::build_static("ringfence")?;
    }
    let tally = run(options, &Lab::new(crate::lab::Options::default()))?;
    println!("{tally}");
    Ok(u8::from(!tally.is_good()))
}

/// Runs the tests in `lab` and judges them.
pub fn run(options: &Options, lab: &Lab) -> Result<Tally> {
    let files = files(options)?;
    if let Some(seconds) = options.stress {
        let arguments =
            format!("stress {seconds} {} {}", options.seed.unwrap_or_else(any_seed), options.case);
        host::say(&arguments);
        // With a log, a sandbox whose time is over says where its CPUs were.
        let sandbox = format!("--cpus 4 --timeout {}s --loglevel error", seconds + 240);
        let patience = Duration::from_secs(seconds) + PATIENCE;
        let said = said_by(lab, &files, &in_sandbox(options, &sandbox, &arguments), patience)?;
        print!("{said}");
        return Ok(Tally::one(said.contains("=== stress: ") && said.contains(", 0 differ")));
    }
    let (mut native, mut sandbox) = run_both(lab, &files, options)?;
    let listed = listed();
    let differ: Vec<String> = (native.iter())
        .filter(|(name, here)| listed.contains(*name) && sandbox.get(*name) != Some(*here))
        .map(|(name, _)| name.clone())
        .collect();
    if options.case.is_empty() && differ.len() <= AGAIN {
        for name in differ {
            if let (Some(here), Some(there)) = (native.get(&name), sandbox.get(&name)) {
                println!("once more, alone: {name}\n{}", difference(&name, here, there)?);
            }
            // Its name may be the beginning of others'.
            let alone = Options { case: name.clone(), guest: options.guest.clone(), ..Options::default() };
            let (here, there) = run_both(lab, &files, &alone)?;
            native.extend(here.into_iter().filter(|(other, _)| *other == name));
            sandbox.extend(there.into_iter().filter(|(other, _)| *other == name));
        }
    }
    judge(options, &native, &sandbox)
}

/// What the tests say natively, or have to say, and in a sandbox.
fn run_both(
    lab: &Lab,
    files: &[(PathBuf, &'static str)],
    options: &Options,
) -> Result<(BTreeMap<String, Outcome>, BTreeMap<String, Outcome>)> {
    let mut native = collect(lab, files, options, in_lab)?;
    for (name, outcome) in &mut native {
        if let Ok(transcript) = fs::read_to_string(folder().join("expected").join(name)) {
            *outcome = Outcome { transcript, ending: "pass".to_owned() };
        }
    }
    let sandbox = collect(lab, files, options, |arguments| in_sandbox(options, "--cpus 2", arguments))?;
    Ok((native, sandbox))
}

/// The tests that have to pass.
fn listed() -> BTreeSet<String> {
    let list = fs::read_to_string(folder().join("passing.txt")).unwrap_or_default();
    list.lines().map(str::to_owned).collect()
}

/// The program and the caller's guest kernel, and where they are in the lab.
fn files(options: &Options) -> Result<Vec<(PathBuf, &'static str)>> {
    let mut files = vec![(build::build_static(PACKAGE)?, PROGRAM)];
    files.extend(options.guest.clone().map(|guest| (guest, GUEST)));
    Ok(files)
}

/// The command that runs the program, which it gets on its standard input, as `sh` sees it.
const INSIDE: &str = "cat > /tmp/program; chmod +x /tmp/program; exec /tmp/program";

fn in_lab(arguments: &str) -> String {
    format!("native sh -c '{INSIDE} {arguments}' < {PROGRAM}")
}

fn in_sandbox(options: &Options, sandbox: &str, arguments: &str) -> String {
    let guest =
        if options.guest.is_some() { format!("RINGFENCE_GUEST_KERNEL={GUEST} ") } else { String::new() };
    format!(
        "{guest}ringfence run --image /srv/debian.erofs {sandbox} -- sh -c '{INSIDE} {arguments}' < {PROGRAM}"
    )
}

/// What a test said and how it ended.
#[derive(Clone, Default, PartialEq, Eq)]
struct Outcome {
    transcript: String,
    ending: String,
}

/// Runs the program until every test has been tried: when the kernel dies under it, it is started again behind
/// the test at which that happened.
fn collect(
    lab: &Lab,
    files: &[(PathBuf, &'static str)],
    options: &Options,
    command: impl Fn(&str) -> String,
) -> Result<BTreeMap<String, Outcome>> {
    let mut outcomes = BTreeMap::new();
    let mut arguments = format!("run {}", options.case);
    for _ in 0..20 {
        let said = said_by(lab, files, &command(&arguments), PATIENCE)?;
        let (last, done) = parse(&said, &mut outcomes);
        if done {
            return Ok(outcomes);
        }
        let last = last.with_context(|| format!("no test was run: {said}"))?;
        arguments = format!("run {} --after {last}", options.case);
    }
    bail!("the kernel dies all the time")
}

/// Takes a run's output apart: the test it was at, and whether it came to its end.
fn parse(said: &str, outcomes: &mut BTreeMap<String, Outcome>) -> (Option<String>, bool) {
    let mut current: Option<(String, String)> = None;
    for line in said.lines() {
        match line.strip_prefix("=== ") {
            Some("done") => return (None, true),
            Some(rest) => match rest.strip_prefix("end ").and_then(|rest| rest.split_once(' ')) {
                Some((name, ending)) => {
                    let transcript = current.take().map(|(_, transcript)| transcript).unwrap_or_default();
                    outcomes.insert(name.to_owned(), Outcome { transcript, ending: ending.to_owned() });
                }
                None => current = Some((rest.to_owned(), String::new())),
            },
            None => {
                if let Some((_, transcript)) = &mut current {
                    transcript.push_str(line);
                    transcript.push('\n');
                }
            }
        }
    }
    match current {
        Some((name, transcript)) => {
            outcomes
                .insert(name.clone(), Outcome { transcript, ending: "broken: the machine ended".to_owned() });
            (Some(name), false)
        }
        None => (outcomes.keys().last().cloned(), false),
    }
}

/// All that a command of `bash` says.
fn said_by(lab: &Lab, files: &[(PathBuf, &'static str)], command: &str, timeout: Duration) -> Result<String> {
    let command = words(&["bash", "-c", &format!("exec 2>&1; {command}")]);
    let outcome = execute(lab, &Job { command: &command, stdin: &[], files, timeout })?;
    match outcome.code {
        Some(0) => {}
        Some(code) => host::say(&format!("ended with exit code {code}")),
        None => host::say(&format!("no end: {}", String::from_utf8_lossy(&outcome.stderr))),
    }
    Ok(String::from_utf8_lossy(&outcome.stdout).into_owned())
}

fn judge(
    options: &Options,
    native: &BTreeMap<String, Outcome>,
    sandbox: &BTreeMap<String, Outcome>,
) -> Result<Tally> {
    ensure!(!native.is_empty(), "no such test");
    let mut listed = listed();
    let explained = fs::read_to_string(folder().join("known-differences.md")).unwrap_or_default();
    let missing = Outcome { ending: "broken: did not run".to_owned(), ..Outcome::default() };
    let mut tally = Tally::default();
    let (mut passing, mut known) = (0, 0);
    for (name, here) in native {
        let there = sandbox.get(name).unwrap_or(&missing);
        let passes = here.ending == "pass" && here == there;
        if options.verbose {
            println!("=== {name}\n{}", there.transcript);
        }
        let verdict = match (passes, listed.contains(name), explained.contains(&format!("`{name}`"))) {
            (true, true, false) => None,
            (true, false, false) if options.update => {
                listed.insert(name.clone());
                println!("new  {name}");
                None
            }
            (true, false, false) => Some("passes and is not listed: cargo xtask conformance --update"),
            (true, _, true) => Some("passes and is in known-differences.md: take it out"),
            (false, true, _) => Some("is listed as passing"),
            (false, false, false) => Some("does not pass and is not explained in known-differences.md"),
            (false, false, true) => {
                known += 1;
                None
            }
        };
        passing += usize::from(passes);
        if let Some(verdict) = verdict {
            println!("FAIL {name}: {verdict}");
        }
        if !passes && (verdict.is_some() || !options.case.is_empty()) {
            println!("{}", difference(name, here, there)?);
        }
        if passes || verdict.is_some() {
            tally.add(Tally::one(verdict.is_none()));
        }
    }
    if options.case.is_empty() {
        for name in listed.iter().filter(|name| !native.contains_key(*name)) {
            println!("FAIL {name}: listed, but there is no such test");
            tally.add(Tally::one(false));
        }
    }
    if options.update {
        let text: String = listed.iter().map(|name| format!("{name}\n")).collect();
        let list = folder().join("passing.txt");
        fs::write(&list, text).with_context(|| format!("cannot write {}", list.display()))?;
    }
    println!("{passing} of {} conformance tests pass, {known} differ as known", native.len());
    Ok(tally)
}

/// How the two transcripts differ.
fn difference(name: &str, native: &Outcome, sandbox: &Outcome) -> Result<String> {
    let directory = host::target_dir().join("lab/conformance");
    fs::create_dir_all(&directory)?;
    let keep = |place: &str, outcome: &Outcome| -> Result<PathBuf> {
        let path = directory.join(format!("{name}.{place}"));
        fs::write(&path, format!("{}{}\n", outcome.transcript, outcome.ending))?;
        Ok(path)
    };
    let (native, sandbox) = (keep("native", native)?, keep("sandbox", sandbox)?);
    let mut diff = Command::new("diff");
    diff.args(["--text", "-U2", "--label", "native", "--label", "sandbox"]).args([native, sandbox]);
    let text = diff.output().context("cannot start diff")?.stdout;
    let text = String::from_utf8_lossy(&text);
    Ok(text.lines().skip(2).take(60).map(|line| format!("    {line}\n")).collect())
}
