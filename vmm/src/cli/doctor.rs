//! `ringfence doctor`: whether this host can run sandboxes, in plain words.

use std::io::Write;

use serde::Serialize;

use ringfence_jailer::{JailConfig, Outcome, SandboxId};

use super::run::jailed;
use super::{Failure, Format};
use crate::order::process;
use crate::probe;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// How the result is printed
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, Serialize)]
struct Check {
    name: &'static str,
    ok: bool,
    detail: String,
}

#[derive(Debug, Serialize)]
struct Diagnosis {
    usable: bool,
    checks: Vec<Check>,
}

/// Runs `ringfence doctor`: 0 if sandboxes can run here, else 1.
pub fn main(args: &Args) -> Result<u8, Failure> {
    let diagnosis = diagnose();
    let text = match args.format {
        Format::Json => serde_json::to_string_pretty(&diagnosis).map_err(Failure::setup)? + "\n",
        Format::Text => words(&diagnosis),
    };
    std::io::stdout().write_all(text.as_bytes()).map_err(|e| Failure::setup(format!("cannot print: {e}")))?;
    Ok(u8::from(!diagnosis.usable))
}

const JAILED: &str = "a process of its own can be jailed, and its system calls filtered";

/// Which version of Landlock the jail has. A host without is none the less usable.
fn landlock() -> Result<&'static str, String> {
    // Only the thread that asks is confined.
    let asked = std::thread::spawn(ringfence_jailer::access::give_up).join();
    match asked.map_err(|_| "the thread that asked has panicked".to_owned())?.map_err(|e| e.to_string())? {
        // Before 3 a file could still be truncated by its name, before 4 TCP ports reached, before 6 others signalled: by
        // a process that neither the namespaces nor the filter hold.
        Some(6..) => Ok("Landlock takes files, ports and signals from the jail, too"),
        Some(_) => Ok("Landlock takes files from the jail, too (a newer kernel also ports and signals)"),
        None => Ok(
            "this kernel has no Landlock, or it is not among those of its boot (lsm=…): the jail does without",
        ),
    }
}

/// Makes a jail in which a process of ours ends at once.
fn jail() -> Result<String, String> {
    let config = JailConfig::new(SandboxId::random().map_err(|e| e.to_string())?);
    let started = jailed::start(config, process::COMMAND, Some(process::PROBE), Vec::new(), (None, None));
    let (monitor, warnings) = started.map_err(|e| e.to_string())?;
    match monitor.wait() {
        Ok(Some(Outcome::Exited(0))) => Ok(match warnings.join("; ") {
            none if none.is_empty() => JAILED.to_owned(),
            warnings => format!("{JAILED}, but: {warnings}"),
        }),
        Ok(other) => Err(format!("the process in a test jail ended with {other:?}")),
        Err(e) => Err(e.to_string()),
    }
}

fn diagnose() -> Diagnosis {
    let mut checks = Vec::new();
    // Before there is a second thread: it forks.
    let jail = jail();
    let mut check = |name, result: Result<&str, String>| {
        let ok = result.is_ok();
        let detail = result.map_or_else(|e| e, str::to_owned);
        checks.push(Check { name, ok, detail });
        ok
    };
    let usable = match probe::open() {
        Err(e) => check("kvm", Err(e.to_string())),
        Ok(kvm) => {
            check("kvm", Ok("/dev/kvm opens"))
                && check(
                    "capabilities",
                    probe::capabilities(&kvm)
                        .map(|()| "this KVM has everything needed")
                        .map_err(|e| e.to_string()),
                )
                && check(
                    "ring0",
                    probe::round_trip()
                        .map(|()| "a SYSCALL round trip between ring 3 and ring 0 works in a test machine")
                        .map_err(|e| e.to_string()),
                )
        }
    };
    // All is told, whatever of it fails.
    let jailed = check("jail", jail.as_deref().map_err(String::clone));
    check("landlock", landlock());
    Diagnosis { usable: usable && jailed, checks }
}

fn words(d: &Diagnosis) -> String {
    let mut text = String::new();
    for check in &d.checks {
        text += &format!("{}  {}\n", if check.ok { "ok  " } else { "FAIL" }, check.detail);
    }
    text += if d.usable { "This host can run sandboxes.\n" } else { "This host cannot run sandboxes.\n" };
    text
}
