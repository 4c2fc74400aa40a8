//! `cargo xtask demo`: the README's first session.
//!
//! Two sandboxes of an unmodified Debian: a shell session, then a Python program. They run here where KVM is
//! usable and in the lab where it is not.
use std::ffi::OsString;
use std::io::{Cursor, Write};
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context, Result};

use crate::lab::{self, Lab, Streams};
use crate::{build, host};

/// What is typed in the shell session.
const SHELL: &str = include_str!("demo/session.sh");

/// What the Python sandbox runs.
const PYTHON: &str = include_str!("demo/primes.py");

/// A way to run `ringfence`.
enum Machine<'a> {
    Here { ringfence: &'a Path, image: String },
    Lab(Lab),
}

impl Machine<'_> {
    /// Runs `ringfence run ARGS` with `stdin` and our output.
    fn run(&self, arguments: &[&str], stdin: &str) -> Result<u8> {
        match self {
            Machine::Here { ringfence, image } => {
                let mut command = Command::new(ringfence);
                let mut child = command
                    .args(["run", "--image", image])
                    .args(arguments)
                    .stdin(Stdio::piped())
                    .spawn()
                    .with_context(|| format!("cannot start {}", ringfence.display()))?;
                let mut input = child.stdin.take().context("no stdin")?;
                // A program that ends without reading all of it is no error.
                let _ = input.write_all(stdin.as_bytes());
                drop(input);
                Ok(child.wait()?.code().unwrap_or(255) as u8)
            }
            Machine::Lab(lab) => {
                let mut session = lab.session()?;
                lab::push_programs(&mut session, false)?;
                let words = [&["ringfence", "run", "--image", "/srv/debian.erofs"], arguments].concat();
                let command: Vec<OsString> = words.iter().map(OsString::from).collect();
                let stdin = Box::new(Cursor::new(stdin.as_bytes().to_vec()));
                session.run(&command, Streams { stdin, ..Streams::inherit() })
            }
        }
    }
}

/// Builds, and shows both sandboxes. The exit code is that of the first that fails.
pub fn demo() -> Result<u8> {
    let ringfence = build::build()?;
    let machine = if build::kvm_is_usable(&ringfence) {
        let image = lab::debian_image()?.display().to_string();
        Machine::Here { ringfence: &ringfence, image }
    } else {
        host::say("KVM is not usable on this machine (see `ringfence doctor`): running in the lab");
        Machine::Lab(Lab::new(lab::Options::default()))
    };
    for (arguments, stdin) in
        [(&["--", "bash", "-v"][..], SHELL), (&["--cpus", "2", "--", "python3", "-"], PYTHON)]
    {
        println!("\n$ ringfence run --image debian.erofs {}", arguments.join(" "));
        let code = machine.run(arguments, stdin)?;
        if code != 0 {
            host::say(&format!("the sandbox ended with exit code {code}"));
            return Ok(code);
        }
    }
    Ok(0)
}
