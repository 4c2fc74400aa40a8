//! Builds the guest kernel and leaves a stripped copy for `include_bytes!`.
//!
//! The guest is built by the same stable cargo for the bare target, in a target folder of its own below
//! `OUT_DIR` (cargo holds a lock on ours). `RINGFENCE_GUEST_ELF=PATH` embeds that file instead.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// The guest runs in the top 2 GiB, is never moved, and walks frame pointers for its backtraces.
const RUSTFLAGS: &str = "-C relocation-model=static -C code-model=kernel -C force-frame-pointers=yes";

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("vmm/ lies in the workspace").to_owned();
    for watched in ["guest-kernel", "protocol", "Cargo.toml", "Cargo.lock", "rust-toolchain.toml"] {
        println!("cargo::rerun-if-changed={}", root.join(watched).display());
    }
    println!("cargo::rerun-if-env-changed=RINGFENCE_GUEST_ELF");
    // The release; other builds are not measured.
    if env::var("CARGO_CFG_TARGET_ENV").as_deref() == Ok("musl") {
        let sections = Path::new(env!("CARGO_MANIFEST_DIR")).join("sections.ld");
        println!("cargo::rerun-if-changed={}", sections.display());
        println!("cargo::rustc-link-arg-bin=ringfence=-Wl,-T,{}", sections.display());
    }
    let elf = match env::var_os("RINGFENCE_GUEST_ELF") {
        Some(path) => {
            println!("cargo::rerun-if-changed={}", Path::new(&path).display());
            PathBuf::from(path)
        }
        None => build_guest(&root, &out.join("guest-target")),
    };
    let full = fs::read(&elf).unwrap_or_else(|e| panic!("cannot read guest kernel {}: {e}", elf.display()));
    let stripped = strip(full).unwrap_or_else(|| panic!("{} is not a 64-bit ELF file", elf.display()));
    fs::write(out.join("guest.elf"), stripped).expect("OUT_DIR is writable");
}

fn build_guest(root: &Path, target_dir: &Path) -> PathBuf {
    let cargo = env::var_os("CARGO").expect("cargo sets CARGO");
    let mut build = Command::new(cargo);
    build
        .args([
            "build",
            "--package",
            "ringfence-guest",
            "--target",
            "x86_64-unknown-none",
            "--profile",
            "guest",
        ])
        .arg("--target-dir")
        .arg(target_dir)
        .current_dir(root)
        .env("RUSTFLAGS", RUSTFLAGS);
    // What cargo tells this script about the host build is not for the guest's.
    for (name, _) in env::vars_os() {
        let text = name.to_string_lossy();
        if text == "CARGO_ENCODED_RUSTFLAGS"
            || text == "RUSTC_WORKSPACE_WRAPPER"
            || text.starts_with("CARGO_CFG_")
            || text.starts_with("CARGO_FEATURE_")
            || text.starts_with("CARGO_PROFILE_")
            || ["TARGET", "HOST", "OPT_LEVEL", "PROFILE", "DEBUG", "NUM_JOBS", "OUT_DIR"].contains(&&*text)
        {
            build.env_remove(&name);
        }
    }
    let status = build.status().expect("cargo can be run again");
    assert!(status.success(), "the guest kernel does not build; see the messages above");
    target_dir.join("x86_64-unknown-none/guest/ringfence-guest")
}

/// Drops sections (symbols, debug information): the loader reads program headers and segments only.
fn strip(mut elf: Vec<u8>) -> Option<Vec<u8>> {
    if elf.get(..5)? != b"\x7fELF\x02" {
        return None;
    }
    let u64_at = |b: &[u8], at: usize| Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?));
    let (phoff, count) = (u64_at(&elf, 32)? as usize, u16::from_le_bytes([elf[56], elf[57]]) as usize);
    let mut end = phoff + count * 56;
    for ph in elf.get(phoff..end)?.chunks_exact(56) {
        end = end.max((u64_at(ph, 8)? + u64_at(ph, 32)?) as usize);
    }
    elf.truncate(end);
    elf[40..48].fill(0); // e_shoff
    elf[60..64].fill(0); // e_shnum, e_shstrndx
    Some(elf)
}
