//! `cargo xtask test`: everything CI runs.
//!
//! A suite is a function that returns its [`Tally`]; a suite that cannot run at all (a tool or a build fails)
//! counts as one failure, so that the others are still seen. Each suite prints its count and the last line is
//! the sum, `N passed, N failed`.
mod api;
mod case;
mod checks;
mod guest_elf;
mod hostile;
mod jail;
mod lab;
mod native;
mod python;
mod seccomp;
mod selftest;
mod units;

use std::time::Instant;

use anyhow::Result;
use clap::{Args, ValueEnum};

/// What `cargo xtask test` takes.
#[derive(Args)]
pub struct Options {
    /// Only these suites
    #[arg(long, value_enum)]
    only: Vec<Suite>,
    /// Only lab cases (or conformance tests, with `--only conformance`) whose name contains this
    #[arg(long)]
    case: Option<String>,
    /// Labs to run cases in at the same time
    #[arg(long, default_value_t = default_jobs())]
    jobs: usize,
    #[command(flatten)]
    natively: Natively,
    /// What `--only jail-soak` chooses its moments by, to make them again
    #[arg(long)]
    seed: Option<u32>,
}

/// How lab cases are run natively.
#[derive(Args, Clone, Copy, Default)]
struct Natively {
    /// Run lab cases natively only, not in a sandbox: for writing cases
    #[arg(long)]
    native_only: bool,
    /// Run the cases of `programs` natively also where this user has done that before
    #[arg(long)]
    natively_again: bool,
}

fn default_jobs() -> usize {
    std::thread::available_parallelism().map_or(1, |count| count.get().min(4))
}

/// The suites, in their order.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// rustfmt has nothing to change
    Format,
    /// The command is static and small
    Binary,
    /// Clippy has nothing to say
    Clippy,
    /// Licences and sources of the dependencies
    Deny,
    /// Unit tests on this machine
    Unit,
    /// docs/syscalls.md is what the table says
    Syscalls,
    /// The guest kernel's ELF file is what it must be
    Guest,
    /// The hardware layer, by its self-test kernel
    Selftest,
    /// What the jail keeps its prisoner from, and what kill -9 leaves
    Jail,
    /// The API's server answers as its description says
    Api,
    /// The same of a sandbox that runs, in the lab: run only when asked for
    ApiRunning,
    /// Hostile bytes for devices and parsers, by coverage
    FuzzTargets,
    /// A guest kernel that belongs to the attacker
    Hostile,
    /// Which system calls the VMM's threads may make and do, in a few cases; the suite lab says it of all
    Seccomp,
    /// What system calls do, natively and in a sandbox
    Conformance,
    /// A minute of random system calls
    Fuzz,
    /// Programs in sandboxes, in the lab
    Lab,
    /// Server programs and Python's own tests, in the lab: long, and run only when asked for
    Programs,
    /// kill -9 of each process of a sandbox at 200 random moments, 64 sandboxes at once, 500 one after another: an hour, and
    /// run only when asked for
    JailSoak,
}

impl Suite {
    /// Whether it is part of what CI runs.
    fn is_usual(self) -> bool {
        !matches!(self, Suite::ApiRunning | Suite::Programs | Suite::JailSoak | Suite::Seccomp)
    }
}

/// How many checks of a suite passed and failed.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    passed: usize,
    failed: usize,
}

impl Tally {
    /// Whether something passed and nothing failed.
    pub fn is_good(&self) -> bool {
        self.failed == 0 && self.passed > 0
    }

    /// One check.
    pub fn one(passed: bool) -> Tally {
        Tally { passed: usize::from(passed), failed: usize::from(!passed) }
    }

    /// Both together.
    pub fn add(&mut self, other: Tally) {
        self.passed += other.passed;
        self.failed += other.failed;
    }
}

impl std::fmt::Display for Tally {
    fn fmt(&self, to: &mut std::fmt::Formatter) -> std::fmt::Result {
        write!(to, "{} passed, {} failed", self.passed, self.failed)
    }
}

/// Runs the suites; 0 if nothing failed.
pub fn main(options: &Options) -> Result<u8> {
    let mut total = Tally::default();
    let wanted = |suite: &Suite| match &options.case {
        Some(_) if options.only.is_empty() => *suite == Suite::Lab,
        _ if options.only.is_empty() => suite.is_usual(),
        _ => options.only.contains(suite),
    };
    for suite in Suite::value_variants().iter().filter(|suite| wanted(suite)) {
        let name = suite.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned());
        println!("== {name}");
        let start = Instant::now();
        let result = match suite {
            Suite::Format => checks::format(),
            Suite::Clippy => checks::clippy(),
            Suite::Deny => checks::deny(),
            Suite::Unit => units::run(),
            Suite::Syscalls => crate::syscalls::check(),
            Suite::Guest => guest_elf::check(),
            Suite::Binary => crate::build::build().map(|_| Tally::one(true)),
            Suite::Selftest => selftest::run(),
            Suite::Jail => jail::run(),
            Suite::Api => api::run(),
            Suite::ApiRunning => api::run_in_the_lab(),
            Suite::FuzzTargets => crate::fuzz_targets::smoke(),
            Suite::Hostile => hostile::run(options.case.as_deref()),
            Suite::Seccomp => seccomp::run(),
            Suite::Conformance => lab::conformance(options),
            Suite::Fuzz => lab::fuzz(),
            Suite::Lab => lab::run(options),
            Suite::Programs => lab::run_programs(options),
            Suite::JailSoak => jail::soak(options.seed),
        };
        let tally = result.unwrap_or_else(|error| {
            println!("{name}: {error:#}");
            Tally::one(false)
        });
        println!("{name}: {tally} ({} s)", start.elapsed().as_secs());
        total.add(tally);
    }
    println!("{total}");
    Ok(u8::from(total.failed > 0 || total.passed == 0))
}
