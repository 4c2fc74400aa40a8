//! Ringfence's development tasks: `cargo xtask TASK`.
//!
//! What a task needs from the machine (Debian packages, Rust targets, the lab's images) it installs by itself,
//! once, and says so in a line. See `CONTRIBUTING.md` for the daily use and `docs/lab.md` for the lab.
mod build;
mod conformance;
mod demo;
mod fuzz_targets;
mod host;
mod lab;
mod measure;
mod profile;
mod syscalls;
mod test;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Ringfence's development tasks", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Build the static `ringfence` command at target/ringfence/ringfence
    Build,
    /// Build, then show a Debian shell session and a Python program in a sandbox
    Demo,
    /// Everything CI runs
    Test(test::Options),
    /// Compare what system calls do natively and in a sandbox (tests/conformance)
    Conformance(conformance::Options),
    /// Random system calls in a sandbox with 4 CPUs (tests/conformance/src/fuzz)
    Fuzz(conformance::FuzzOptions),
    /// Hostile bytes for everything that reads such, by coverage (tests/fuzz)
    FuzzTargets(fuzz_targets::Options),
    /// Write docs/syscalls.md, the table of system calls
    Syscalls,
    /// Measure everything docs/performance.md says, and write it anew
    Measure(measure::Options),
    /// Count every instruction of an operation by function and call path (docs/lab.md)
    Profile(profile::Options),
    /// Run `ringfence run ARGS`: here where KVM is usable, else in the lab
    Run {
        /// What `ringfence run` shall get
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// The virtual machine in which KVM works (docs/lab.md)
    Lab {
        #[command(subcommand)]
        command: lab::Command,
    },
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Build => build::build().map(|_| 0),
        Task::Demo => demo::demo(),
        Task::Test(options) => test::main(&options),
        Task::Conformance(options) => conformance::main(&options),
        Task::Fuzz(options) => conformance::fuzz_main(&options),
        Task::FuzzTargets(options) => fuzz_targets::main(&options),
        Task::Syscalls => syscalls::write(),
        Task::Measure(options) => measure::main(&options),
        Task::Profile(options) => profile::main(&options),
        Task::Run { arguments } => build::run(&arguments),
        Task::Lab { command } => lab::main(command),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::from(1)
        }
    }
}
