//! Compiles `resources/seccomp/x86_64.json` to BPF programs, as Rust statics, and makes an enumeration of its kinds
//! of threads.

mod compile;

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::Value;
use syscalls::Sysno;

const PROFILE: &str = "../resources/seccomp/x86_64.json";

fn main() {
    println!("cargo::rerun-if-changed={PROFILE}");
    let text = fs::read(PROFILE).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let profile: serde_json::Map<String, Value> =
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let (mut kinds, mut all, mut names, mut programs, mut source) =
        (String::new(), String::new(), String::new(), String::new(), String::new());
    for (thread, about) in &profile {
        let (kind, name) = (camel(thread), thread.to_uppercase());
        let comment = about["comment"].as_str().unwrap_or_else(|| panic!("{thread}: no comment"));
        // For who knows the format from elsewhere: nothing else is compiled.
        assert!(about["mismatch_action"] == "trap" && about["match_action"] == "allow", "{thread}: actions");
        let rules = about["filter"].as_array().unwrap_or_else(|| panic!("{thread}: no filter"));
        let program = compile::compile(rules, |call| number(thread, call));
        let _ = writeln!(kinds, "    /// {comment}\n    {kind},");
        let _ = write!(all, "Self::{kind}, ");
        let _ = writeln!(names, "            Self::{kind} => \"{thread}\",");
        let _ = writeln!(programs, "            Self::{kind} => &{name},");
        let _ = writeln!(source, "static {name}: [sock_filter; {}] = [", program.len());
        for (code, jt, jf, k) in program {
            let _ = writeln!(source, "    sock_filter {{ code: {code}, jt: {jt}, jf: {jf}, k: {k} }},");
        }
        source.push_str("];\n");
    }
    let _ = write!(
        source,
        "/// Kinds of threads.\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub enum Thread {{\n{kinds}}}\n\n\
         impl Thread {{\n    /// Every kind.\n    pub const ALL: &[Self] = &[{all}];\n\n    \
         /// Its name in the profile and in messages.\n    pub fn name(self) -> &'static str {{\n        \
         match self {{\n{names}        }}\n    }}\n\n    fn filter(self) -> &'static [sock_filter] {{\n        \
         match self {{\n{programs}        }}\n    }}\n}}\n"
    );
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("filters.rs"), source).expect("OUT_DIR can be written");
}

fn number(thread: &str, call: &str) -> u32 {
    let found: Sysno = call.parse().unwrap_or_else(|_| panic!("{thread}: there is no system call {call}"));
    found.id() as u32
}

/// `event_loop` is `EventLoop`.
fn camel(thread: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    thread.split('_').map(word).collect()
}
