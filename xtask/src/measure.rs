//! `cargo xtask measure`: every number of `docs/performance.md`, measured again.
//!
//! All of it happens in one lab that counts instructions: a nanosecond there is an instruction, and a run repeats
//! almost exactly, so that few repeats suffice. What sandboxes are compared with is the same program on the lab's
//! own Linux, in the same lab. VM exits are differences between a long and a short loop, which leaves out start and
//! end of the sandbox; KVM's counter of interrupts of the host (the lab's timer ticks) is taken off.
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::lab::{Lab, Options as LabOptions, Streams, push_programs};
use crate::{build, host};

/// `cargo xtask measure …`.
#[derive(Args)]
pub struct Options {
    /// Do not build `ringfence` first: measure what was built last
    #[arg(long)]
    no_build: bool,
}

const IMAGE: &str = "/srv/debian.erofs";
const REPEATS: usize = 3;
/// Runs a repeat when a whole command is measured.
const RUNS: usize = 10;
/// Operations whose exits are counted, with what the budget says about them.
const WITHOUT_EXITS: &[&str] = &["getpid", "pipe", "pipe-switch", "futex", "mmap", "signal", "epoll", "stat"];
/// How many more loops the long run has.
const MORE: u64 = 2000;

/// Runs the measurements; exit code 1 if a budget is not kept.
pub fn main(options: &Options) -> Result<u8> {
    if !options.no_build {
        build::build_static("ringfence")?;
    }
    let bench = Bench { lab: Lab::new(LabOptions { icount: true, ..LabOptions::default() }) };
    let result = bench.report();
    bench.lab.down()?;
    let report = result?;
    print!("{}", report.text);
    let page = host::checkout().join("docs/performance.md");
    fs::write(&page, &report.text).with_context(|| format!("cannot write {}", page.display()))?;
    host::say(&format!("written to {}", page.display()));
    for missed in &report.missed {
        host::say(&format!("over budget: {missed}"));
    }
    Ok(u8::from(!report.missed.is_empty()))
}

/// Values of the repeats.
struct Sample(Vec<f64>);

impl Sample {
    fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Largest minus smallest, in percent of the median.
    fn spread(&self) -> f64 {
        let (low, high) =
            self.0.iter().fold((f64::MAX, f64::MIN), |(low, high), &value| (low.min(value), high.max(value)));
        (high - low) / self.median() * 100.0
    }
}

struct Report {
    text: String,
    missed: Vec<String>,
}

impl Report {
    /// `yes` or `no` for the table, remembered.
    fn check(&mut self, kept: bool, what: &str) -> &'static str {
        if !kept {
            self.missed.push(what.to_owned());
        }
        if kept { "yes" } else { "**no**" }
    }
}

/// PSS in KiB of a running VMM, apart for what it is made of.
#[derive(Default, Clone, Copy)]
struct Pss {
    vmm: u64,
    guest: u64,
    image: u64,
}

/// A lab that counts instructions, with what measures in it.
pub struct Bench {
    /// The lab.
    pub lab: Lab,
}

impl Bench {
    /// Runs a shell command in the lab; its output.
    pub fn shell(&self, command: &str) -> Result<String> {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let streams = Streams {
            stdin: Box::new(std::io::empty()),
            output: Box::new(|is_error, bytes| {
                if is_error { &mut stderr } else { &mut stdout }.extend_from_slice(bytes);
                Ok(())
            }),
            timeout: None,
        };
        let words: Vec<OsString> = ["sh", "-c", command].map(OsString::from).into();
        let code = self.lab.session()?.run(&words, streams)?;
        if code != 0 {
            bail!("in the lab, `{command}` failed with {code}: {}", String::from_utf8_lossy(&stderr));
        }
        Ok(String::from_utf8_lossy(&stdout).into_owned())
    }

    /// Puts `ringfence` and the measuring programs into the lab.
    pub fn prepare(&self) -> Result<()> {
        let mut session = self.lab.session()?;
        push_programs(&mut session, false)?;
        for name in ["operations.c", "starts.c", "mark.h"] {
            let source = host::checkout().join("tests/bench").join(name);
            session.push(&source, &Path::new("/tmp").join(name))?;
        }
        drop(session);
        host::say("compiling the programs in the lab");
        self.shell(
            "cd /tmp && for p in operations starts; do gcc -O2 -static -pthread -o $p $p.c || exit; done",
        )?;
        Ok(())
    }

    fn report(&self) -> Result<Report> {
        self.prepare()?;
        let mut report = Report { text: HEAD.to_owned(), missed: Vec::new() };
        self.size(&mut report)?;
        self.operations(&mut report)?;
        self.exits(&mut report)?;
        self.starts(&mut report)?;
        self.memory(&mut report)?;
        Ok(report)
    }

    fn size(&self, report: &mut Report) -> Result<()> {
        let file = host::target_dir().join(host::STATIC_TARGET).join("release/ringfence");
        let size = fs::metadata(&file).with_context(|| format!("cannot find {}", file.display()))?.len();
        let kept = report.check(size < 10 << 20, "size of the binary");
        let size = size as f64 / f64::from(1 << 20);
        writeln!(report.text, "## The binary\n\nOne static file of {size:.1} MiB. Below 10 MiB: {kept}.\n")?;
        Ok(())
    }

    /// `operations ARGUMENTS` in a sandbox; it goes in by standard input.
    pub fn in_sandbox(options: &str, arguments: &str) -> String {
        format!(
            "ringfence run --image {IMAGE} {options} -- sh -c \
             'cat > /tmp/operations && chmod +x /tmp/operations && exec /tmp/operations {arguments}' < /tmp/operations"
        )
    }

    fn operations(&self, report: &mut Report) -> Result<()> {
        host::say("operations, natively and in a sandbox");
        let arguments = format!("all 0 {REPEATS}");
        let native = operations(&self.shell(&format!("/tmp/operations {arguments}"))?)?;
        let sandbox = operations(&self.shell(&Self::in_sandbox("", &arguments))?)?;
        report.text += OPERATIONS_HEAD;
        for (name, ours) in &sandbox {
            let theirs = native.get(name).with_context(|| format!("no native {name}"))?;
            let (ours_median, theirs_median) = (ours.median(), theirs.median());
            let kept = match name.as_str() {
                "empty" => "",
                "getpid" => report.check(ours_median <= 100.0, "instructions of getpid (100)"),
                _ => report.check(ours_median <= theirs_median, &format!("instructions of {name} (native)")),
            };
            writeln!(
                report.text,
                "| {name} | {theirs_median:.0} | {:.1} % | {ours_median:.0} | {:.1} % | {:.2} | {kept} |",
                theirs.spread(),
                ours.spread(),
                ours_median / theirs_median,
            )?;
        }
        report.text += "\n";
        Ok(())
    }

    fn exits(&self, report: &mut Report) -> Result<()> {
        host::say("VM exits");
        report.text += EXITS_HEAD;
        for name in WITHOUT_EXITS {
            let mut counters = Vec::new();
            for loops in [100, 100 + MORE] {
                let arguments = format!("{name} {loops} 1");
                let command = Self::in_sandbox("--stats=/tmp/stats --format json", &arguments);
                let json = self.shell(&format!("{command} > /dev/null && cat /tmp/stats"))?;
                let total = number(&json, "\"exits\":{\"total\":")?;
                // Each counter appears when it is not zero.
                let kvm = json.split("\"kvm\":").nth(1).context("no KVM counters")?;
                let all = number(kvm, "\"exits\":")?;
                counters.push((total, all.saturating_sub(number(kvm, "\"irq_exits\":").unwrap_or(0))));
            }
            let (few, many) = (counters[0], counters[1]);
            let (vmm, all) = (many.0.saturating_sub(few.0), many.1.saturating_sub(few.1));
            // The loop runs once more to warm up, hence twice. What is left within one in a hundred is not the
            // operation's: the page says where it comes from.
            let kept = report.check(all * 100 <= 2 * MORE, &format!("VM exits of {name} (0)"));
            writeln!(report.text, "| {name} | {} | {vmm} | {all} | {kept} |", 2 * MORE)?;
        }
        report.text += "\n";
        Ok(())
    }

    fn starts(&self, report: &mut Report) -> Result<()> {
        host::say("start to exit");
        report.text += STARTS_HEAD;
        let jailed = format!("ringfence run --image {IMAGE} -- /bin/true");
        let free = format!("ringfence run --no-jail --image {IMAGE} -- /bin/true");
        let lines = [
            ("fork and exec of `/bin/true`, natively", "/bin/true", None),
            ("`ringfence --version`", "ringfence --version", None),
            ("`ringfence run … /bin/true`", &*jailed, Some(20e6)),
            ("`ringfence run --no-jail … /bin/true`", &*free, Some(10e6)),
        ];
        for (what, command, budget) in lines {
            // `--no-jail` says each time what is lost.
            let output = self.shell(&format!("/tmp/starts {REPEATS} {RUNS} {command} 2> /dev/null"))?;
            let (mut wall, mut busy) = (Vec::new(), Vec::new());
            for line in output.lines() {
                let (all, idle) = line.split_once(' ').context("starts printed something else")?;
                let (all, idle): (f64, f64) = (all.parse()?, idle.parse()?);
                wall.push(all);
                busy.push(all - idle);
            }
            ensure!(busy.len() == REPEATS, "starts printed {} lines", busy.len());
            let (wall, busy) = (Sample(wall), Sample(busy));
            let kept = match budget {
                Some(limit) => report
                    .check(busy.median() <= limit, &format!("instructions of {what} ({} M)", limit / 1e6)),
                None => "",
            };
            let (million, spread) = (busy.median() / 1e6, busy.spread());
            writeln!(
                report.text,
                "| {what} | {million:.1} M | {spread:.1} % | {:.1} ms | {kept} |",
                wall.median() / 1e6
            )?;
        }
        report.text += "\n";
        Ok(())
    }

    fn memory(&self, report: &mut Report) -> Result<()> {
        host::say("memory");
        report.text += MEMORY_HEAD;
        let one = self.sleeping(1)?;
        let two = self.sleeping(2)?;
        let total = |pss: Pss| pss.vmm + pss.guest;
        let kept = report.check(total(one) <= 5 << 10, "memory of a sleeping sandbox (5 MiB)");
        let row = |what: &str, p: Pss, kept: &str| {
            format!("| {what} | {} | {} | {} | {} | {kept} |\n", p.vmm, p.guest, total(p), p.image)
        };
        report.text += &row("the only one", one, kept);
        let second = Pss {
            vmm: two.vmm.saturating_sub(one.vmm),
            guest: two.guest.saturating_sub(one.guest),
            image: two.image.saturating_sub(one.image),
        };
        let kept = report.check(total(second) <= 3 << 10, "memory of a second sandbox (3 MiB)");
        report.text += &row("what a second one adds", second, kept);
        Ok(())
    }

    /// The sum over `count` sandboxes that run `sleep` at the same time.
    fn sleeping(&self, count: usize) -> Result<Pss> {
        let start = format!("ringfence run --image {IMAGE} -- sleep 4 & pids=\"$pids $!\"; ").repeat(count);
        // Supervisors, monitors and VMMs.
        let smaps = self.shell(&format!(
            "{start} sleep 2; for p in $(pgrep '^ringfence'); do cat /proc/$p/smaps; done; wait"
        ))?;
        let mut pss = Pss::default();
        let mut mapping = String::new();
        for line in smaps.lines() {
            if let Some(kib) = line.strip_prefix("Pss:") {
                let kib: u64 = kib.trim().trim_end_matches(" kB").parse()?;
                *match &mapping {
                    m if m.contains("memfd:ringfence-ram") => &mut pss.guest,
                    m if m.ends_with(IMAGE) => &mut pss.image,
                    _ => &mut pss.vmm,
                } += kib;
            } else if line.split(' ').next().is_some_and(|range| range.contains('-') && !range.contains(':'))
            {
                mapping = line.to_owned();
            }
        }
        ensure!(pss.guest > 0, "no sandbox was found running");
        Ok(pss)
    }
}

/// Lines of `operations`: a name and the values.
fn operations(text: &str) -> Result<BTreeMap<String, Sample>> {
    text.lines()
        .map(|line| {
            let mut words = line.split(' ');
            let name = words.next().context("an empty line")?.to_owned();
            let values = words.map(str::parse).collect::<Result<Vec<f64>, _>>()?;
            ensure!(!values.is_empty(), "operations printed {line:?}");
            Ok((name, Sample(values)))
        })
        .collect()
}

/// The number after `key` in JSON without spaces.
fn number(json: &str, key: &str) -> Result<u64> {
    let rest = json.split(key).nth(1).with_context(|| format!("no {key} in {json:?}"))?;
    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
    Ok(digits.parse()?)
}

const HEAD: &str = "\
# Performance

<!-- Written by `cargo xtask measure`: change that, not this. -->

Measured by `cargo xtask measure` in the lab (docs/lab.md) that counts instructions: QEMU 7.2 with `-icount shift=0`, one CPU,
Debian's cloud kernel as the host. Numbers are instructions of everything that runs (program, our kernel, KVM, the host's
kernel) unless they say otherwise. They repeat almost exactly, so each is the median of 3 repeats, and the spread is largest
minus smallest. Two things are not like hardware: an exit of the virtual machine is far too expensive, and clearing a page takes
4,096 instructions, one a byte. The lab's CPU lacks PCID and INVPCID.

";
const OPERATIONS_HEAD: &str = "\
## Operations

Instructions of one, seen by a static program (tests/bench/operations.c, its loop and libc included, which says what each
does), natively in the lab and in a sandbox. They are those of DESIGN's budgets, of lmbench and of gVisor's microbenchmarks.
`getpid` loops 100,000 times a repeat, `fork`, `exec`, `exec-true`, `thread`, `shell` and `readdir` 30 times, all others 1,000
times; one unmeasured repeat comes first. `pipe` writes and reads a byte; `unix`, `tcp` and `udp` send one there and back; `…-switch`
and `futex` go to another process or thread and back; `…-64k` and `sendfile` move 64 KiB; `switch-8` and `switch-16` are a step in
a ring of processes; `readdir` lists `/usr/bin`; `mmap` maps, touches and unmaps a page, `fault` touches one for the first time;
`exec` is vfork, exec of a static program, exit and wait. The budget is 100 for `getpid` and native for all others.

| operation | native | spread | sandbox | spread | ratio | in budget |
|---|---|---|---|---|---|---|
";
const EXITS_HEAD: &str = "\
## Exits of the virtual machine

What more loops add. `to the VMM` are those that reach our process, `all` includes those that KVM answers itself, without the
ticks of the host's timer. The budget is none that the operation itself causes; `yes` means less than one in a hundred loops.
KVM does not say what the few are that are counted. They differ from run to run with the timing of the sandbox's beginning and
end, and where two tasks want the CPU they are as many as the timer of their time slices would give.

| operation | loops more | to the VMM | all | in budget |
|---|---|---|---|---|
";
const STARTS_HEAD: &str = "\
## Start to exit

A command from its start until it has been waited for, 10 runs a repeat. `instructions` leaves out the time in which no CPU
had anything to do (creating a virtual machine waits for RCU several times); `time` has it. The budget is 20 M in the jail
and 10 M without.

| command | instructions | spread | time | in budget |
|---|---|---|---|---|
";
const MEMORY_HEAD: &str = "\
## Memory

KiB of a sandbox that runs Debian's `sleep`, two seconds after its start: proportional set size (PSS) of the command's three
processes (supervisor, monitor, VMM), with the guest kernel's pages that the VMM maps from the executable; pages of guest memory; their sum, from which nothing is taken off for the
program's own pages; and PSS of the root image's pages in the page cache, which are the program's. One run each. The budget of
the sum is 5 MiB, 3 MiB for the second.

| sandbox | VMM | guest memory | sum | image | in budget |
|---|---|---|---|---|---|
";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_understood() {
        let parsed = operations("getpid 100.0 101.0 99.0\nopen 5 5 5\n").unwrap();
        assert_eq!((parsed["getpid"].median(), parsed["getpid"].spread()), (100.0, 2.0));
        assert!(operations("getpid\n").is_err());
        assert_eq!(number("{\"a\":1,\"kvm\":{\"exits\":42}}", "\"exits\":").unwrap(), 42);
    }
}
