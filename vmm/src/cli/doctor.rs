//! `ringfence doctor`: whether this host can run sandboxes, in plain words.

use std::io::Write;

use serde::Serialize;

use super::{Failure, Format};
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

fn diagnose() -> Diagnosis {
    let mut checks = Vec::new();
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
    Diagnosis { usable, checks }
}

fn words(d: &Diagnosis) -> String {
    let mut text = String::new();
    for check in &d.checks {
        text += &format!("{}  {}\n", if check.ok { "ok  " } else { "FAIL" }, check.detail);
    }
    text += if d.usable { "This host can run sandboxes.\n" } else { "This host cannot run sandboxes.\n" };
    text
}
