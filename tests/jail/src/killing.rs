//! kill -9 at a random moment of each of the three processes, and of all of them at once.
//!
//! This program makes itself the reaper of orphans, so "no process is left" is: we have no child any more.

use std::collections::BTreeMap;
use std::fs;
use std::time::{Duration, Instant};

use ringfence_jailer::cgroup::Cgroup;
use ringfence_jailer::runtime;
use ringfence_jailer::{JailConfig, SandboxId};
use rustix::process::{Pid, Signal, WaitOptions, kill_process};

use crate::{Tally, base, start};

const ID: &str = "killed";
const PATIENCE: Duration = Duration::from_secs(20);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Supervisor,
    Monitor,
    Vmm,
    All,
}

pub fn all(tally: &mut Tally, rounds: u32) {
    rustix::process::set_child_subreaper(Some(rustix::process::getpid())).expect("a subreaper");
    let life = birth_time() * 3;
    for victim in [Victim::Supervisor, Victim::Monitor, Victim::Vmm, Victim::All] {
        let mut hit = BTreeMap::new();
        let mut problem = None;
        for _ in 0..rounds {
            match round(victim, life) {
                Ok(found) => *hit.entry(found).or_insert(0u32) += 1,
                Err(why) => {
                    problem = Some(why);
                    break;
                }
            }
        }
        let name =
            format!("nothing is left by kill -9 of {victim:?}, {rounds} times (processes there: {hit:?})");
        tally.check(&name, problem.is_none(), &problem.unwrap_or_default());
    }
}

/// How long it takes from the first fork to the exec in the jail, here and now.
fn birth_time() -> Duration {
    let begin = Instant::now();
    let jail = start(ID, |_| (), &["sleep"]);
    let took = begin.elapsed();
    drop(jail);
    took
}

/// One life, killed within `life`. Returns how many of the three processes there were at the moment of the kill.
fn round(victim: Victim, life: Duration) -> Result<usize, String> {
    // SAFETY: this program has one thread.
    let supervisor = match unsafe { libc::fork() } {
        0 => supervise(life),
        pid => Pid::from_raw(pid).ok_or("cannot fork")?,
    };
    let mut random = [0u8; 4];
    let _ = rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty());
    std::thread::sleep(life.mul_f64(f64::from(u32::from_le_bytes(random)) / f64::from(u32::MAX)));
    let family = family(supervisor);
    let killed: &[Pid] = match victim {
        Victim::Supervisor => &family[..1],
        Victim::Monitor => family.get(1..2).unwrap_or_default(),
        Victim::Vmm => family.get(2..3).unwrap_or_default(),
        Victim::All => &family,
    };
    for pid in killed {
        // It may have ended by itself.
        let _ = kill_process(*pid, Signal::KILL);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::CHILD) => break,
            Ok(Some(_)) => {}
            _ if Instant::now() > deadline => return Err(format!("processes still run: {family:?}")),
            _ => std::thread::sleep(Duration::from_micros(200)),
        }
    }
    if victim == Victim::All {
        // Nobody was left to clean up: whoever comes next does.
        runtime::sweep_all(&base(), Duration::ZERO).map_err(|e| e.to_string())?;
    }
    let left = runtime::list(&base()).map_err(|e| e.to_string())?;
    let ids = crate::ids_in_use();
    if !left.is_empty() || ids > 0 {
        return Err(format!("directories of {left:?}, {ids} ids, {} processes at the kill", family.len()));
    }
    if let Some(cgroup) = SandboxId::new(ID).ok().and_then(|id| Cgroup::left_by(&JailConfig::new(id))) {
        return Err(format!("{} is left", cgroup.path().display()));
    }
    Ok(family.len())
}

/// Starts a jail and ends it again, if nothing kills us.
fn supervise(life: Duration) -> ! {
    let jail = start(ID, |_| (), &["sleep"]);
    std::thread::sleep(life / 3);
    let code = i32::from(jail.is_err());
    drop(jail);
    std::process::exit(code)
}

/// The supervisor, its child, and that one's child, as far as they exist.
fn family(supervisor: Pid) -> Vec<Pid> {
    let mut family = vec![supervisor];
    while let Some(child) = family.last().and_then(|&parent| child_of(parent)) {
        family.push(child);
    }
    family
}

fn child_of(parent: Pid) -> Option<Pid> {
    let raw = parent.as_raw_nonzero();
    let children = fs::read_to_string(format!("/proc/{raw}/task/{raw}/children")).ok()?;
    Pid::from_raw(children.split_whitespace().next()?.parse().ok()?)
}
