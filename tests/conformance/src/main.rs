//! What Linux does, said by small programs: the conformance tests.
//!
//! One static binary holds many named tests. Each is run in a process of its own, in a directory of its own on a
//! tmpfs, and prints a *transcript*: which calls it made and what they gave (values and error names, never
//! addresses, process ids or times). `cargo xtask conformance` runs the binary twice, natively in the lab and
//! inside a sandbox, and compares the transcripts: real Linux is the judge, no expectation is written down by hand.
//! A test passes if it ended well in both places and said the same. `README.md` tells how to add one.
//!
//! | module | holds |
//! |---|---|
//! | [`sys`] | the system call itself, and all the `unsafe` |
//! | [`test`] | what a test gets, the macros it is written with |
//! | [`helpers`] | children, signals, files and memory in a line each |
//! | [`sockets`] | names, messages and options of sockets |
//! | [`kinds`] | what the arguments of every system call are: the kernel's own table |
//! | [`runner`] | runs tests in processes with a time limit |
//! | [`areas`] | the tests, a file a subject |
//! | [`fuzz`] | the fuzzer |
#[macro_use]
mod test;
mod areas;
mod errno;
mod fuzz;
mod helpers;
mod kinds;
mod nr;
mod runner;
mod sockets;
mod sys;

use std::process::ExitCode;

const USAGE: &str = "conformance list                     the tests: name, calls it covers
conformance run [PART] [--after NAME] every test, or those whose name contains PART
conformance stress SECONDS SEED [PART] the races, again and again, on all CPUs
conformance fuzz SEED SECONDS        random calls; only in a sandbox
conformance fuzz --round SEED        one round of it again
conformance one NAME                 that one, in this process";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words[..] {
        ["list"] => {
            for test in areas::all() {
                println!("{} {}", test.name(), test.calls.join(" "));
            }
            ExitCode::SUCCESS
        }
        ["run"] => runner::run("", None),
        ["run", part] => runner::run(part, None),
        ["run", "--after", name] => runner::run("", Some(name)),
        ["run", part, "--after", name] => runner::run(part, Some(name)),
        ["stress", seconds, seed] => runner::stress(seconds, seed, ""),
        ["stress", seconds, seed, part] => runner::stress(seconds, seed, part),
        ["fuzz", "--round", seed] => fuzz::again(seed),
        ["fuzz", seed, seconds] => fuzz::main(seed, seconds),
        ["--capabilities"] => {
            areas::probe();
            ExitCode::SUCCESS
        }
        ["one", name] => runner::one(name),
        _ => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}
