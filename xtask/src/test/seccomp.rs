//! The filters of system calls against what is really called: which rules nothing uses.
//!
//! The lab's kernel records each system call of threads with the names that the profile gives (`thread_name`), from the
//! moment a thread has installed its filter (`tests/lab/bin/record-calls`), while the suite `lab` runs, or the few of its cases
//! that take every way through the VMM (the suite `seccomp`). A rule that no call has matched must say in the profile why it is there (`unseen`), or
//! the suite fails. The other half, a call that is made and forbidden, needs no recording: the filters are in place in
//! every test of every suite, and end the sandbox.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read;
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, ensure};
use serde_json::Value;
use syscalls::Sysno;

use super::case::{self, Place};
use super::{Natively, Tally, lab};
use crate::host;
use crate::lab::{Lab, Options, Streams, push_programs, words};

const PROFILE: &str = "resources/seccomp/x86_64.json";
const CASES: &[&str] = &[
    "lab/system-calls",
    "lab/containers",
    "lab/disk",
    "lab/terminal",
    "lab/memory-handed-back",
    "lab/volumes",
];

/// The filters, by their thread.
pub type Profile = BTreeMap<String, Value>;

/// What the filters are compiled from.
pub fn profile() -> Result<Profile> {
    let text = fs::read_to_string(host::checkout().join(PROFILE)).context(PROFILE)?;
    serde_json::from_str(&text).context(PROFILE)
}

/// Runs the cases that take every way, and compares. The suite `lab` does the same with all cases.
pub fn run() -> Result<Tally> {
    let profile = profile()?;
    crate::build::build_static("ringfence")?;
    let lab = Lab::named("test0", Options::default());
    let recorded = recorded_while(&lab, &profile, || run_cases(&lab));
    lab.down()?;
    let (mut tally, seen) = recorded?;
    tally.add(judge(&profile, &seen)?);
    Ok(tally)
}

fn run_cases(lab: &Lab) -> Result<Tally> {
    let mut cases = case::load(&host::checkout().join(lab::CASES), &[(Place::Lab, "lab")])?;
    cases.retain(|case| CASES.contains(&case.name.as_str()));
    ensure!(cases.len() == CASES.len(), "not all of {CASES:?} are there");
    let mut tally = Tally::default();
    for case in cases {
        let failures = host::target_dir().join("lab/failures");
        let (passed, report) = lab::run_case(lab, &case, Natively::default(), &failures)?;
        println!("{} {} {report}", if passed { "ok  " } else { "FAIL" }, case.name);
        tally.add(Tally::one(passed));
    }
    Ok(tally)
}

/// What `work` returns, and the lines of the recorder meanwhile.
pub fn recorded_while<T>(
    lab: &Lab,
    profile: &Profile,
    work: impl FnOnce() -> Result<T>,
) -> Result<(T, BTreeSet<String>)> {
    let mut session = lab.session()?;
    push_programs(&mut session, false)?;
    let names: BTreeSet<&str> =
        profile.values().filter_map(|thread| thread["thread_name"].as_str()).collect();
    let mut command = vec!["record-calls".to_owned(), looked_at(profile)?];
    command.extend(names.into_iter().map(str::to_owned));
    let command = words(&command.iter().map(String::as_str).collect::<Vec<_>>());
    let ((began, begins), (go_on, over)) = (channel(), channel());
    let seen = Mutex::new(Vec::new());
    let take = |is_error: bool, bytes: &[u8]| {
        if is_error {
            host::say(&String::from_utf8_lossy(bytes));
        }
        seen.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        let _ = began.send(()); // nobody waits for the second
        Ok(())
    };
    let record = || {
        let patience = Some(Duration::from_secs(3600));
        let streams = Streams { stdin: Box::new(Until(over)), output: Box::new(take), timeout: patience };
        session.run(&command, streams)
    };
    let result = std::thread::scope(|scope| {
        let recorder = scope.spawn(record);
        let result = match begins.recv_timeout(Duration::from_secs(120)) {
            Ok(()) => work(),
            Err(_) => Err(anyhow!("the recorder does not begin")),
        };
        drop::<std::sync::mpsc::Sender<()>>(go_on);
        match recorder.join() {
            Ok(Ok(0)) => result,
            Ok(Ok(code)) => Err(anyhow!("the recorder ended with code {code}")),
            Ok(Err(error)) => Err(error.context("the recorder")),
            Err(_) => Err(anyhow!("the recorder panicked")),
        }
    })?;
    let seen = seen.into_inner().unwrap_or_else(PoisonError::into_inner);
    Ok((result, String::from_utf8_lossy(&seen).lines().map(str::to_owned).collect()))
}

/// An input that ends when the other end of the channel is dropped.
struct Until(Receiver<()>);

impl Read for Until {
    fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
        let _ = self.0.recv(); // that it fails is what is waited for
        Ok(0)
    }
}

fn rules(thread: &Value) -> impl Iterator<Item = &Value> {
    thread["filter"].as_array().into_iter().flatten()
}

fn arguments(rule: &Value) -> impl Iterator<Item = &Value> {
    rule["args"].as_array().into_iter().flatten()
}

fn number(rule: &Value) -> Result<u64> {
    let name = rule["syscall"].as_str().context("a rule without a call")?;
    let call: Sysno = name.parse().map_err(|_| anyhow!("there is no system call {name}"))?;
    Ok(call.id() as u64)
}

/// Which arguments of which calls the profile looks at, as the recorder wants it.
fn looked_at(profile: &Profile) -> Result<String> {
    let mut calls: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for rule in profile.values().flat_map(rules) {
        let indices = arguments(rule).map(|argument| argument["index"].to_string());
        calls.entry(number(rule)?).or_default().extend(indices);
    }
    let calls = calls.into_iter().filter(|(_, indices)| !indices.is_empty());
    let words =
        calls.map(|(call, indices)| format!("{call}:{}", indices.into_iter().collect::<Vec<_>>().join(",")));
    Ok(words.collect::<Vec<_>>().join(" "))
}

/// A recorded call: the thread's name, the call's number, arguments by their index.
struct Call {
    name: String,
    number: u64,
    arguments: BTreeMap<u64, u64>,
}

impl Call {
    fn parse(line: &str) -> Option<Call> {
        let mut words = line.split(' ');
        let (name, number) = (words.next()?.to_owned(), words.next()?.parse().ok()?);
        let argument = |word: &str| {
            let (index, value) = word.split_once('=')?;
            Some((index.parse().ok()?, u64::from_str_radix(value, 16).ok()?))
        };
        Some(Call { name, number, arguments: words.map(argument).collect::<Option<_>>()? })
    }

    fn matches(&self, rule: &Value) -> Result<bool> {
        if number(rule)? != self.number {
            return Ok(false);
        }
        let fits = |argument: &Value| {
            let mask = argument["op"]["masked_eq"].as_u64().unwrap_or(u64::MAX);
            let mask = if argument["type"] == "dword" { mask & u64::from(u32::MAX) } else { mask };
            let (index, wanted) = (argument["index"].as_u64(), argument["val"].as_u64());
            let value = index.and_then(|index| self.arguments.get(&index));
            value.zip(wanted).is_some_and(|(value, wanted)| value & mask == wanted & mask)
        };
        Ok(arguments(rule).all(fits))
    }
}

/// Prints the counts; fails rules that nothing has used without a reason, and calls that no rule allows.
pub fn judge(profile: &Profile, seen: &BTreeSet<String>) -> Result<Tally> {
    let calls: Vec<Call> = seen.iter().filter_map(|line| Call::parse(line)).collect();
    for line in seen.iter().filter(|line| line.starts_with("lost ")) {
        println!("note: {line} events of the record");
    }
    let mut tally = Tally::default();
    let (mut all_allowed, mut all_seen) = (BTreeMap::new(), BTreeMap::new());
    for (thread, about) in profile {
        let name = about["thread_name"].as_str().with_context(|| format!("{thread} has no thread_name"))?;
        let process = about["process"].as_str().with_context(|| format!("{thread} has no process"))?;
        let its: Vec<&Call> = calls.iter().filter(|call| call.name == name).collect();
        let (mut allowed, mut used) = (BTreeSet::new(), BTreeSet::new());
        for rule in rules(about) {
            allowed.insert(number(rule)?);
            let mut found = false;
            for call in &its {
                found |= call.matches(rule)?;
            }
            if found {
                used.insert(number(rule)?);
                continue;
            }
            let what = format!("{thread}: {} ({})", rule["syscall"], rule["comment"]);
            match rule["unseen"].as_str() {
                Some(why) => println!("not seen: {what}: {why}"),
                None => {
                    println!(
                        "FAIL {what}: nothing uses this rule; take it out or say why it is there (`unseen`)"
                    );
                    tally.add(Tally::one(false));
                }
            }
        }
        for call in its {
            if !rules(about).map(|rule| call.matches(rule)).collect::<Result<Vec<_>>>()?.contains(&true) {
                println!("FAIL {thread}: call {} is made and no rule allows it", call.number);
                tally.add(Tally::one(false));
            }
        }
        println!("{thread}: {} calls allowed, {} seen", allowed.len(), used.len());
        tally.add(Tally::one(!used.is_empty()));
        all_allowed.entry(process).or_insert_with(BTreeSet::new).extend(allowed);
        all_seen.entry(process).or_insert_with(BTreeSet::new).extend(used);
    }
    for (process, allowed) in all_allowed {
        let seen = all_seen.get(process).map_or(0, BTreeSet::len);
        println!("process {process}: {} calls allowed, {seen} seen", allowed.len());
    }
    Ok(tally)
}
