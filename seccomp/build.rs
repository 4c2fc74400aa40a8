//! Compiles `resources/seccomp/x86_64.json` to BPF programs, as Rust statics.

use std::env;
use std::fmt::Write;
use std::fs::{self, File};
use std::path::Path;

use seccompiler::{TargetArch, compile_from_json};

const PROFILE: &str = "../resources/seccomp/x86_64.json";

fn main() {
    println!("cargo::rerun-if-changed={PROFILE}");
    let file = File::open(PROFILE).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let filters = compile_from_json(file, TargetArch::x86_64).unwrap_or_else(|e| panic!("{PROFILE}: {e}"));
    let mut filters: Vec<_> = filters.into_iter().collect();
    filters.sort_by(|a, b| a.0.cmp(&b.0));
    let mut source = String::new();
    for (thread, program) in filters {
        let name = thread.to_uppercase();
        let _ = writeln!(
            source,
            "/// For `{thread}` threads.\npub static {name}: [sock_filter; {}] = [",
            program.len()
        );
        for i in program {
            let _ = writeln!(
                source,
                "    sock_filter {{ code: {}, jt: {}, jf: {}, k: {} }},",
                i.code, i.jt, i.jf, i.k
            );
        }
        source.push_str("];\n");
    }
    let out = env::var_os("OUT_DIR").expect("cargo sets OUT_DIR");
    fs::write(Path::new(&out).join("filters.rs"), source).expect("OUT_DIR can be written");
}
