//! The guest kernel's ELF file: built for the bare target, and free of vector instructions.
//!
//! The kernel does not save the program's vector registers on entry, so an instruction that touches one
//! outside the code that saves and restores them would silently corrupt the program.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};

use super::Tally;
use crate::{build, host};

/// Functions that may use vector registers: the ones that save and restore a program's.
const ALLOWED: &[&str] = &["::fpu::"];

/// Looks at every instruction of the image that the built command has inside.
pub fn check() -> Result<Tally> {
    host::ensure_packages(&["binutils"])?;
    build::build_static("ringfence")?;
    let image = embedded().context("the build of ringfence left no guest image")?;
    let offenders = vector_instructions(&disassemble(&image)?);
    for (function, (count, example)) in &offenders {
        println!("{function} uses vector registers {count} times, as in: {example}");
    }
    Ok(Tally::one(offenders.is_empty()))
}

/// The guest image that the last build of the static `ringfence` embedded, with its symbols: `vmm/build.rs`
/// leaves it in its output folder.
pub fn embedded() -> Option<PathBuf> {
    let builds = host::target_dir().join(host::STATIC_TARGET).join("release/build");
    let images = std::fs::read_dir(builds).ok()?.filter_map(|entry| {
        let image = entry.ok()?.path().join("out/guest-target/x86_64-unknown-none/guest/ringfence-guest");
        Some((image.metadata().ok()?.modified().ok()?, image))
    });
    images.max().map(|(_, image)| image)
}

fn disassemble(image: &Path) -> Result<String> {
    let listing = host::run_quietly(
        Command::new("objdump")
            .args(["--disassemble", "--demangle", "--no-show-raw-insn", "--wide"])
            .arg(image),
    )?;
    ensure!(listing.lines().count() > 100, "objdump finds no code in {}", image.display());
    Ok(listing)
}

/// Functions with vector or x87 register operands, how many and the first of them.
fn vector_instructions(listing: &str) -> BTreeMap<String, (usize, String)> {
    let mut offenders = BTreeMap::new();
    let mut function = "";
    for line in listing.lines() {
        if let Some(name) = line.strip_suffix(">:").and_then(|line| line.split_once('<')) {
            function = name.1;
        } else if let Some((_, instruction)) = line.split_once(":\t")
            && touches_vectors(instruction)
            && !ALLOWED.iter().any(|allowed| function.contains(allowed))
        {
            let entry = offenders.entry(function.to_owned()).or_insert((0, instruction.trim().to_owned()));
            entry.0 += 1;
        }
    }
    offenders
}

fn touches_vectors(instruction: &str) -> bool {
    // What follows a `#` or `<` names addresses.
    let code = instruction.split(['#', '<']).next().unwrap_or_default();
    ["%xmm", "%ymm", "%zmm", "%mm", "%st", "%k1", "%k2"].iter().any(|register| code.contains(register))
        || code
            .split_whitespace()
            .next()
            .is_some_and(|mnemonic| mnemonic.starts_with("fld") || mnemonic.starts_with("fild"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_function() {
        let listing = "0000000000001000 <a::copy>:\n    1000:\tmovups %xmm0,(%rdi)\n    1004:\tret\n\
            0000000000002000 <hal::fpu::save>:\n    2000:\tmovups %xmm0,(%rdi)\n\
            0000000000003000 <b>:\n    3000:\tcall   1000 <memcpy_%xmm>\n";
        let found = vector_instructions(listing);
        assert_eq!(found.keys().collect::<Vec<_>>(), ["a::copy"]);
    }
}
