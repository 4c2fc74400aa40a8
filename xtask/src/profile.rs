//! `cargo xtask profile OPERATION`: where the instructions of an operation go.
//!
//! The lab's profiler (tests/lab/profiler) counts all of them by call path while the benchmark's loop runs. Here the
//! addresses get names: those of this checkout's guest kernel, which is built and booted for it, and of the lab's Linux. A whole
//! start is measured with the kernel in `ringfence`, because it matters how that gets into memory. Printed are the functions that cost most, by themselves and with what they call; the
//! folded stacks that flame graphs are drawn from are written to a file.
use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::lab::{Lab, Options as LabOptions};
use crate::measure::Bench;
use crate::{build, host};

/// `cargo xtask profile …`.
#[derive(Args)]
pub struct Options {
    /// An operation of tests/bench/operations.c, or `start`: a sandbox that runs /bin/true
    operation: String,
    /// On the lab's Linux instead of in a sandbox
    #[arg(long)]
    native: bool,
    /// How many loops (100 unless told)
    #[arg(long, default_value_t = 100)]
    loops: u32,
    /// How many functions to show
    #[arg(long, default_value_t = 40)]
    top: usize,
    /// Profile this guest kernel, an ELF file with symbols, instead of building one
    #[arg(long)]
    guest: Option<PathBuf>,
    /// Do not build anything first
    #[arg(long)]
    no_build: bool,
    /// With `start`: write guest-kernel/image/startup.ld, which puts what runs there together
    #[arg(long)]
    layout: bool,
}

const GUEST: &str = "/tmp/guest-kernel";

/// Profiles one operation.
pub fn main(options: &Options) -> Result<u8> {
    host::ensure_packages(&["binutils"])?;
    let whole = options.operation == "start";
    let guest = match &options.guest {
        Some(path) => path.clone(),
        None if whole => build::embedded_guest(!options.no_build)?,
        None => build::build_guest(!options.no_build)?,
    };
    let bench = Bench { lab: Lab::new(LabOptions { icount: true, profile: true }) };
    let fresh = !bench.lab.is_up()?;
    let _ = fs::remove_file(bench.lab.profile());
    if fresh || whole {
        bench.prepare()?;
    }
    // What has no symbols is read in no more time than the kernel in `ringfence`.
    let stripped = bench.lab.profile().with_file_name("guest-kernel");
    host::run_quietly(Command::new("strip").arg("-o").arg(&stripped).arg(&guest))?;
    bench.lab.session()?.push(&stripped, Path::new(GUEST))?;
    let (name, loops) = (&options.operation, options.loops);
    let command = match (name.as_str(), options.native) {
        ("start", true) => format!("/tmp/starts 1 {loops} /bin/true"),
        ("start", false) => {
            format!("/tmp/starts 2 {loops} ringfence run --image /srv/debian.erofs -- /bin/true")
        }
        (_, true) => format!("/tmp/operations {name} {loops} 2"),
        (_, false) => Bench::in_sandbox("", &format!("{name} {loops} 2")),
    };
    let embedded = whole && options.guest.is_none();
    let kernel = if embedded { String::new() } else { format!("export RINGFENCE_GUEST_KERNEL={GUEST}; ") };
    print!("{}", bench.shell(&(kernel + &command))?);
    let raw = fs::read_to_string(bench.lab.profile()).context("the profiler has written nothing")?;
    if options.layout && whole {
        let file = host::checkout().join("guest-kernel/image/startup.ld");
        fs::write(&file, layout(&raw, &nm(&guest, "--no-demangle")?))?;
        host::say(&format!("written: {}", file.display()));
    }
    let mut symbols = Symbols::default();
    symbols.read(&bench.shell("cat /proc/kallsyms")?, "linux:");
    symbols.read(&nm(&guest, "--demangle")?, "");
    let profile = Profile::new(&raw, &symbols)?;
    profile.print(f64::from(loops), options.top);
    let file = bench.lab.profile().with_file_name(format!("{name}.folded"));
    fs::write(&file, profile.folded())?;
    host::say(&format!("stacks for a flame graph: {}", file.display()));
    host::say("the lab stays up: cargo xtask lab down --profile");
    Ok(0)
}

fn nm(elf: &Path, names: &str) -> Result<String> {
    host::run_quietly(Command::new("nm").args([names, "--defined-only"]).arg(elf))
}

/// Lines of a linker script that name the sections of those functions of the guest kernel that ran. What changes from build to
/// build in their names is left open; names that fit several functions then come last.
fn layout(raw: &str, nm: &str) -> String {
    let mut symbols = Symbols::default();
    symbols.read(nm, "");
    let mut patterns: BTreeMap<String, usize> = BTreeMap::new();
    for line in raw.lines().filter(|line| line.starts_with("c ")) {
        let pc = line.split(' ').nth(2).and_then(|pc| u64::from_str_radix(pc, 16).ok());
        if let Some(pc) = pc.filter(|pc| GUEST_TEXT.contains(pc)) {
            patterns.insert(pattern(&symbols.name(pc)), 0);
        }
    }
    for name in symbols.0.values() {
        if let Some(count) = patterns.get_mut(&pattern(name)) {
            *count += 1;
        }
    }
    let mut text = LAYOUT_HEAD.to_owned();
    let (several, one): (Vec<_>, Vec<_>) = patterns.iter().partition(|(_, count)| **count > 1);
    for (name, _) in one.into_iter().chain(several) {
        let _ = writeln!(text, "*(.text.{name})");
    }
    text
}

/// A mangled name with `*` in place of hashes: of the function (the old way), of crates (`Cs…_`, the new one), of LTO.
fn pattern(name: &str) -> String {
    let name = name.split_once(".llvm.").map_or(name.to_owned(), |(name, _)| format!("{name}*"));
    if let Some((path, hash)) = name.rsplit_once("17h").filter(|_| name.starts_with("_ZN"))
        && hash.len() > 16
    {
        return format!("{path}17h*");
    }
    let mut parts = name.split("Cs");
    let mut pattern = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.split_once('_').filter(|(hash, _)| hash.chars().all(|c| c.is_ascii_alphanumeric())) {
            Some((_, rest)) => pattern.extend(["Cs*_", rest]),
            None => pattern.extend(["Cs", part]),
        }
    }
    pattern
}

const GUEST_TEXT: std::ops::Range<u64> = 0xffff_ffff_8000_0000..0xffff_ffff_8100_0000;
const LAYOUT_HEAD: &str = "\
/* Functions that run from boot to the end of /bin/true, written by `cargo xtask profile start --layout`. Those whose names also others
   have are the last. A name that is no more does no harm. */
";

/// Functions by address.
#[derive(Default)]
struct Symbols(BTreeMap<u64, String>);

impl Symbols {
    /// Reads lines of `nm` or `/proc/kallsyms`.
    fn read(&mut self, text: &str, prefix: &str) {
        for line in text.lines() {
            let mut words = line.splitn(3, ' ');
            let (address, kind, name) = (words.next(), words.next(), words.next());
            let address = address.and_then(|word| u64::from_str_radix(word, 16).ok());
            if let (Some(address), Some("t" | "T" | "w" | "W"), Some(name)) = (address, kind, name) {
                self.0.insert(address, format!("{prefix}{}", name.replace([';', ' '], "_")));
            }
        }
    }

    /// The function around an address; a page of user code is one.
    fn name(&self, pc: u64) -> String {
        match self.0.range(..=pc).next_back() {
            _ if pc < 1 << 47 => format!("user:{:x}", pc >> 12),
            Some((_, name)) => name.clone(),
            None => format!("{pc:x}"),
        }
    }
}

/// Instructions by call path, outermost function first.
struct Profile {
    paths: Vec<(Vec<String>, u64)>,
}

impl Profile {
    fn new(raw: &str, symbols: &Symbols) -> Result<Profile> {
        let mut parents: Vec<(usize, String)> = Vec::new();
        let mut counts: HashMap<(usize, String), u64> = HashMap::new();
        for line in raw.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["n", _, parent, pc] => {
                    parents.push((parent.parse()?, symbols.name(u64::from_str_radix(pc, 16)?)));
                }
                ["c", path, pc, count] => {
                    let name = symbols.name(u64::from_str_radix(pc, 16)?);
                    *counts.entry((path.parse()?, name)).or_default() += count.parse::<u64>()?;
                }
                _ => bail!("the profiler wrote {line:?}"),
            }
        }
        let mut paths = Vec::new();
        for ((mut path, name), count) in counts {
            let mut stack = vec![name];
            while path != 0 {
                let (parent, caller) = parents.get(path).context("a path that is not there")?;
                stack.push(caller.clone());
                path = *parent;
            }
            stack.reverse();
            paths.push((stack, count));
        }
        paths.sort();
        Ok(Profile { paths })
    }

    fn print(&self, loops: f64, top: usize) {
        let (mut alone, mut whole) = (HashMap::new(), HashMap::new());
        for (stack, count) in &self.paths {
            if let Some(last) = stack.last() {
                *alone.entry(last.as_str()).or_default() += count;
            }
            let functions: HashSet<&str> = stack.iter().map(String::as_str).collect();
            for function in functions {
                *whole.entry(function).or_default() += count;
            }
        }
        let total: u64 = self.paths.iter().map(|(_, count)| count).sum();
        println!("{:.1} instructions a loop", total as f64 / loops);
        for (title, counts) in [("by themselves", alone), ("with what they call", whole)] {
            println!("\nfunctions, {title}:");
            let mut rows: Vec<(&str, u64)> = counts.into_iter().collect();
            rows.sort_by_key(|&(name, count)| (std::cmp::Reverse(count), name));
            for (name, count) in rows.into_iter().take(top) {
                println!("{:12.1}  {name}", count as f64 / loops);
            }
        }
    }

    /// One line a stack: functions between semicolons, then the count.
    fn folded(&self) -> String {
        let mut text = String::new();
        for (stack, count) in &self.paths {
            let _ = writeln!(text, "{} {count}", stack.join(";"));
        }
        text
    }
}
