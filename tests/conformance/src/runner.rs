//! Runs tests, each in processes of its own with a time limit.
//!
//! What it prints is for `cargo xtask conformance`: `=== NAME`, the transcript, then `=== end NAME OUTCOME` with
//! the outcome `pass`, `skip`, or why it is broken. A program that dies half-way (because the kernel under it did) has
//! said which test it was at, and `--after` goes on behind it.
//!
//! A test has two processes: the *guard*, which we execute, forks the test, waits for it, and then kills and reaps
//! everything the test left behind, whatever group or session it is in: the guard is its subreaper.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, ExitCode, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::areas;
use crate::fuzz::Random;
use crate::helpers::signal_name;
use crate::test::{SKIPPED, T, Test};

/// The most a test may take. The lab is slow, and sleeps in tests are short.
const LIMIT: Duration = Duration::from_secs(20);

/// Exit codes of a guard, beside those of the test.
const TOO_LATE: i32 = 78;
const UNKILLABLE: i32 = 79;

/// Where tests have their directories: a tmpfs of ours, the same kind of file system in both places.
const PLACE: &str = "/tmp/conformance";

/// Runs the tests whose name contains `part`, those behind `after` if given.
pub fn run(part: &str, after: Option<&str>) -> ExitCode {
    prepare();
    let mut reached = after.is_none();
    for test in areas::all() {
        let name = test.name();
        if reached && name.contains(part) {
            println!("=== {name}");
            let (transcript, outcome) = execute(test, &format!("{PLACE}/{name}"));
            let mut stdout = std::io::stdout().lock();
            let _ = stdout.write_all(&transcript);
            let _ = writeln!(stdout, "=== end {name} {outcome}");
        }
        reached |= after == Some(name.as_str());
    }
    println!("=== done");
    ExitCode::SUCCESS
}

/// Runs the tests marked as races whose name contains `part`, or, if there is none, whatever tests do: each once alone, then
/// for so many seconds as many at a time as there are CPUs, which ones by the seed. Each run has to say what the first did.
pub fn stress(seconds: &str, seed: &str, part: &str) -> ExitCode {
    prepare();
    let (seconds, seed) = (seconds.parse().unwrap_or(60), seed.parse().unwrap_or(1));
    let named = || areas::all().filter(|test| test.name().contains(part));
    let mut tests: Vec<&Test> = named().filter(|test| test.race).collect();
    if tests.is_empty() {
        tests = named().collect();
    }
    let mut alone = Vec::new();
    for test in &tests {
        let start = Instant::now();
        alone.push(execute(test, &format!("{PLACE}/{}", test.name())));
        let outcome = alone.last().map_or("", |(_, outcome)| outcome);
        println!("=== {} alone: {outcome}, {:.1} s", test.name(), start.elapsed().as_secs_f64());
    }
    let mut bad = alone.iter().filter(|(_, outcome)| outcome != "pass").count() as u64;
    let deadline = Instant::now() + Duration::from_secs(seconds);
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let (runs, differ) = (AtomicU64::new(0), AtomicU64::new(0));
    std::thread::scope(|scope| {
        for cpu in 0..if tests.is_empty() { 0 } else { cpus } {
            let (tests, alone, runs, differ) = (&tests, &alone, &runs, &differ);
            let mut random = Random::new(seed ^ (cpu as u64) << 32);
            scope.spawn(move || {
                while Instant::now() < deadline {
                    let which = random.below(tests.len());
                    let name = tests[which].name();
                    let start = Instant::now();
                    let (said, ended) = execute(tests[which], &format!("{PLACE}/{name}.{cpu}"));
                    runs.fetch_add(1, Ordering::Relaxed);
                    println!("{cpu}: {name} {:.1} s", start.elapsed().as_secs_f64());
                    if (&said, &ended) != (&alone[which].0, &alone[which].1) {
                        differ.fetch_add(1, Ordering::Relaxed);
                        let said = String::from_utf8_lossy(&said);
                        println!("{name} differs from its first run: {ended}\n{said}");
                    }
                }
            });
        }
    });
    bad += differ.into_inner();
    println!("=== stress: {} runs of {} tests, seed {seed}, {bad} differ", runs.into_inner(), tests.len());
    ExitCode::from(u8::from(bad > 0 || tests.is_empty()))
}

fn prepare() {
    let _ = fs::create_dir_all(PLACE);
    must!(mount, c"conformance", c"/tmp/conformance", c"tmpfs", 0, c"mode=0777");
    must!(umask, 0o022);
}

/// Runs a test; its transcript and its outcome.
fn execute(test: &Test, directory: &str) -> (Vec<u8>, String) {
    let prepared = fs::create_dir_all(directory)
        .and_then(|()| fs::set_permissions(directory, fs::Permissions::from_mode(0o777)));
    if let Err(error) = prepared {
        return (Vec::new(), format!("broken: no directory: {error}"));
    }
    let mut guard = Command::new("/proc/self/exe");
    guard.args(["one", &test.name()]).current_dir(directory).env_clear().stdin(Stdio::null());
    let output = match guard.output() {
        Ok(output) => output,
        Err(error) => return (Vec::new(), format!("broken: cannot be started: {error}")),
    };
    let _ = fs::remove_dir_all(directory);
    let mut transcript = output.stdout;
    if !transcript.is_empty() && !transcript.ends_with(b"\n") {
        transcript.push(b'\n');
    }
    let outcome = match output.status.code() {
        Some(0) if transcript.is_empty() => "broken: said nothing".to_owned(),
        Some(0) => "pass".to_owned(),
        Some(SKIPPED) => "skip".to_owned(),
        Some(TOO_LATE) => format!("broken: no end after {} s", LIMIT.as_secs()),
        Some(UNKILLABLE) => "broken: left processes that do not go".to_owned(),
        Some(code @ 129..) => {
            format!("broken: killed by {}{}", signal_name(code - 128), complaint(&output.stderr))
        }
        code => format!("broken: exit code {}{}", code.unwrap_or(-1), complaint(&output.stderr)),
    };
    (transcript, outcome)
}

fn complaint(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr).trim().replace('\n', " ");
    if text.is_empty() { text } else { format!(": {text}") }
}

/// Is the guard of one test.
pub fn one(name: &str) -> ExitCode {
    let Some(test) = areas::all().find(|test| test.name() == name) else {
        eprintln!("no test is called {name}");
        return ExitCode::from(2);
    };
    must!(prctl, libc::PR_SET_CHILD_SUBREAPER, 1);
    let child = must!(fork);
    if child == 0 {
        must!(setpgid, 0, 0);
        (test.run)(&mut T::default());
        return ExitCode::SUCCESS;
    }
    let limit = if test.long { LIMIT * 6 } else { LIMIT };
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_micros(100);
    let mut code = TOO_LATE;
    while Instant::now() < deadline {
        let mut status = 0i32;
        if call!(wait4, child, crate::sys::out(&mut status), libc::WNOHANG, 0) == child {
            code = if status & 0x7f == 0 { status >> 8 & 0xff } else { 128 + (status & 0x7f) };
            break;
        }
        std::thread::sleep(pause);
        pause = (pause * 3 / 2).min(Duration::from_millis(20));
    }
    ExitCode::from(if bury() { code as u8 } else { UNKILLABLE as u8 })
}

/// Kills and reaps everything that is left: whatever the test made is a child of ours by and by.
fn bury() -> bool {
    let own = std::process::id();
    let deadline = Instant::now() + Duration::from_secs(5);
    while Instant::now() < deadline {
        match call!(wait4, -1, 0, libc::WNOHANG, 0) {
            0 => {}
            gone if gone > 0 => continue,
            _ => return true,
        }
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            if let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok())
                && parent(pid) == Some(own)
            {
                call!(kill, pid, libc::SIGKILL);
            }
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    false
}

/// The parent of a process.
fn parent(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}
