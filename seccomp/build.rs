//! Compiles `resources/seccomp/x86_64.json` to BPF programs, as Rust statics, and makes an enumeration of its kinds
//! of threads.

use std::env;
use std::fmt::Write;
use std::fs;
use std::path::Path;

use seccompiler::{TargetArch, compile_from_json};
use serde_json::Value;

const PROFILE: &str = "../resources/seccomp/x86_64.json";

fn main() {
    println!("cargo::rerun-if-changed={PROFILE}");
    let text = fs::read(PROFILE).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let mut profile: serde_json::Map<String, Value> =
        serde_json::from_slice(&text).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let mut kinds = String::new();
    for (thread, filter) in &mut profile {
        let about = filter["comment"].as_str().unwrap_or_else(|| panic!("{thread}: no comment"));
        let _ = writeln!(kinds, "    /// {about}\n    {},", camel(thread));
        strip(filter);
    }
    let text = serde_json::to_vec(&profile).expect("it was JSON");
    let filters =
        compile_from_json(&text[..], TargetArch::x86_64).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let mut filters: Vec<_> = filters.into_iter().collect();
    filters.sort_by(|a, b| a.0.cmp(&b.0));
    let mut source = format!(
        "/// Kinds of threads.\n#[derive(Debug, Clone, Copy, PartialEq, Eq)]\npub enum Thread {{\n{kinds}}}\n\n"
    );
    let (mut all, mut names, mut programs) = (String::new(), String::new(), String::new());
    for (thread, program) in filters {
        let (kind, name) = (camel(&thread), thread.to_uppercase());
        let _ = write!(all, "Self::{kind}, ");
        let _ = writeln!(names, "            Self::{kind} => \"{thread}\",");
        let _ = writeln!(programs, "            Self::{kind} => &{name},");
        let _ = writeln!(source, "static {name}: [sock_filter; {}] = [", program.len());
        for i in program {
            let _ = writeln!(
                source,
                "    sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},",
                i.code, i.jt, i.jf, i.k
            );
        }
        source.push_str("];\n");
    }
    let _ = write!(
        source,
        "impl Thread {{\n    /// Every kind.\n    pub const ALL: &[Self] = &[{all}];\n\n    \
         /// Its name in the profile and in messages.\n    pub fn name(self) -> &'static str {{\n        \
         match self {{\n{names}        }}\n    }}\n\n    fn filter(self) -> &'static [sock_filter] {{\n        \
         match self {{\n{programs}        }}\n    }}\n}}\n"
    );
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("filters.rs"), source).expect("OUT_DIR can be written");
}

/// Takes out what the compiler of filters does not know: what is there for people and for tests.
fn strip(filter: &mut Value) {
    for key in ["comment", "process", "budget"] {
        filter.as_object_mut().and_then(|filter| filter.remove(key));
    }
    for rule in filter["filter"].as_array_mut().into_iter().flatten() {
        rule.as_object_mut().and_then(|rule| rule.remove("unseen"));
    }
}

/// `event_loop` is `EventLoop`.
fn camel(thread: &str) -> String {
    let word = |word: &str| word[..1].to_uppercase() + &word[1..];
    thread.split('_').map(word).collect()
}
