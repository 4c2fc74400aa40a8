//! The `ringfence` command line.
//!
//! One file a subcommand. Each returns the exit code of the command (see [`crate::exit`]) or an error whose
//! text is one sentence for the user; nothing below prints and exits on its own, so that the terminal is
//! always put back and the sandbox always taken down.

pub mod boot;
pub mod container;
pub mod disk;
pub mod doctor;
mod gofer;
pub mod image;
mod net;
mod progress;
pub mod run;
pub mod sandbox;
pub mod serve;
pub mod units;
pub mod update;

use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::timeline::Timeline;
use crate::{exit, order, terminal};

/// Runs Linux programs in sandboxes with a kernel of their own.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, about, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a program in a sandbox
    Run(Box<run::Args>),
    /// Describe, start and run a sandbox over the API
    Serve(serve::Args),
    /// Run another program in a running sandbox
    Exec(sandbox::Exec),
    /// List sandboxes
    Ps(sandbox::Ps),
    /// Send a signal to the first program of a sandbox
    Kill(sandbox::Kill),
    /// Let a sandbox stand still
    Pause(sandbox::Named),
    /// Let a sandbox that stands still go on
    Resume(sandbox::Named),
    /// Print what a sandbox's kernel and VMM have said
    Logs(sandbox::Logs),
    /// Print the counters of a sandbox
    Stats(sandbox::Stats),
    /// Wait for the end of a sandbox and print its exit code
    Wait(sandbox::Named),
    /// Take memory of a running sandbox for the host, give it back, or print how much was taken
    Balloon(update::Balloon),
    /// Change limits of a running sandbox, and how much it logs
    Update(update::Update),
    /// Make, start and end further containers of a running sandbox
    Container(container::Args),
    /// Make, list and remove root images
    Image(image::Args),
    /// Say whether this host can run sandboxes, and what to do if not
    Doctor(doctor::Args),
    /// Boot a stock Linux kernel on the same machine model (serial console on the standard streams)
    Boot(boot::Args),
}

/// The part of [`Cli`] that `run` needs. To describe all the others to clap takes a twentieth of a sandbox's start.
#[derive(Debug, Parser)]
#[command(name = "ringfence", version, about, disable_help_subcommand = true)]
struct OnlyRun {
    #[command(subcommand)]
    command: RunCommand,
}

#[derive(Debug, Subcommand)]
enum RunCommand {
    /// Run a program in a sandbox
    Run(Box<run::Args>),
}

fn parse() -> Result<Command, clap::Error> {
    if std::env::args_os().nth(1).is_some_and(|word| word == "run") {
        return OnlyRun::try_parse().map(|OnlyRun { command: RunCommand::Run(args) }| Command::Run(args));
    }
    Cli::try_parse().map(|cli| cli.command)
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// A failure with its exit code.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// See [`crate::exit`].
    pub code: u8,
    /// One sentence.
    pub message: String,
}

impl Failure {
    /// The sandbox could not be set up.
    pub fn setup(message: impl ToString) -> Self {
        Self { code: exit::SETUP_FAILED, message: message.to_string() }
    }
}

/// Parses the command line, runs the subcommand, reports its failure.
pub fn main() -> ExitCode {
    let timeline = Timeline::start();
    if std::env::args_os().nth(1).is_some_and(|word| word == order::process::COMMAND) {
        return order::process::main();
    }
    if std::env::args_os().nth(1).is_some_and(|word| word == ringfence_gofer::process::COMMAND) {
        return gofer::main();
    }
    let command = match parse() {
        Ok(command) => command,
        Err(e) => {
            // The streams may be closed; the exit code says enough.
            let _ = e.print();
            return ExitCode::from(if e.use_stderr() { exit::SETUP_FAILED } else { 0 });
        }
    };
    let result = match command {
        Command::Run(args) => run::main(*args, timeline),
        Command::Serve(args) => serve::main(args, timeline),
        Command::Exec(args) => sandbox::exec(&args),
        Command::Ps(args) => sandbox::ps(args),
        Command::Kill(args) => sandbox::kill(&args),
        Command::Pause(args) => args.call("/pause"),
        Command::Resume(args) => args.call("/resume"),
        Command::Logs(args) => sandbox::logs(&args),
        Command::Stats(args) => sandbox::stats(&args),
        Command::Wait(args) => sandbox::wait(&args),
        Command::Balloon(args) => update::balloon(&args),
        Command::Update(args) => update::update(&args),
        Command::Container(args) => container::main(&args),
        Command::Image(args) => image::main(&args),
        Command::Doctor(args) => doctor::main(&args),
        Command::Boot(args) => boot::main(args, timeline),
    };
    terminal::restore();
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            report(&failure.message);
            ExitCode::from(failure.code)
        }
    }
}

/// Prints a result.
pub fn print(text: &str) -> Result<u8, Failure> {
    use std::io::Write;
    let printed = std::io::stdout().write_all(text.as_bytes());
    printed.map(|()| 0).map_err(|e| Failure::setup(format!("cannot print: {e}")))
}

/// Prints one line for the user on stderr, or has the command that started a detached sandbox print it; a closed stderr is no reason
/// to fail.
pub fn report(message: &str) {
    use std::io::Write;
    if run::detach::report(message) {
        return;
    }
    let _ = writeln!(std::io::stderr(), "ringfence: {message}");
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_whole() {
        Cli::command().debug_assert();
        OnlyRun::command().debug_assert();
    }
}
