//! The jail's own test: a static program that is both sides of it.
//!
//! `jail-test` makes jails with itself as the prisoner, and prints a line a check. The prisoner, in the VMM's
//! place, tries what a VMM taken over by its guest would try, and writes what it found to descriptor 3. The
//! second half kills one of the three processes at a random moment, and looks at what is left.

mod inside;
mod killing;

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::path::PathBuf;

use ringfence_jailer::runtime;
use ringfence_jailer::{Identity, JailConfig, JailError, Monitor, Outcome, Program, SandboxId};

/// Checks made so far.
#[derive(Default)]
struct Tally {
    passed: u32,
    failed: u32,
}

impl Tally {
    fn check(&mut self, name: &str, fine: bool, detail: &str) {
        if fine {
            self.passed += 1;
            println!("ok   {name}");
        } else {
            self.failed += 1;
            println!("FAIL {name}: {detail}");
        }
    }
}

/// Starts `jail-test inside …` in a jail; what it writes to its descriptor 3 can be read from the file.
fn start(
    id: &str,
    edit: impl FnOnce(&mut JailConfig),
    args: &[&str],
) -> Result<(Monitor, File, Vec<String>), JailError> {
    let mut config = JailConfig::new(SandboxId::new(id)?);
    edit(&mut config);
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).expect("a pipe");
    let args =
        ["jail-test", "inside"].iter().chain(args).map(|a| CString::new(*a).expect("no NUL")).collect();
    let (monitor, warnings) = Monitor::start(config, &base(), |_| Program::this(args, vec![write]))?;
    Ok((monitor, File::from(read), warnings))
}

/// Apart from the user's own sandboxes.
fn base() -> PathBuf {
    std::env::temp_dir().join(format!("ringfence-jail-test-{}", rustix::process::geteuid().as_raw()))
}

/// An open socket of the host each way that does not need a path, for the prisoner to find.
fn host_sockets() -> (TcpListener, UnixListener, String) {
    let tcp = TcpListener::bind("127.0.0.1:0").expect("a loopback port");
    let name = format!("ringfence-jail-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).expect("a short name");
    let unix = UnixListener::bind_addr(&address).expect("an abstract socket");
    let both = format!("{}@{name}", tcp.local_addr().expect("bound").port());
    (tcp, unix, both)
}

fn prisoner(tally: &mut Tally) {
    let (_tcp, _unix, sockets) = host_sockets();
    // An open file without CLOEXEC, as a careless caller may leave one.
    let stray = File::open("/etc/passwd").expect("a file");
    rustix::io::fcntl_setfd(&stray, rustix::io::FdFlags::empty()).expect("a flag");
    // SAFETY: this program has one thread.
    unsafe { std::env::set_var("SECRET", "of the caller") };
    let (monitor, mut report, warnings) = match start("prisoner", |_| (), &["report", &sockets]) {
        Ok(started) => started,
        Err(e) => return tally.check("a jail can be made", false, &e.to_string()),
    };
    for warning in warnings {
        println!("note: {warning}");
    }
    let mut text = String::new();
    report.read_to_string(&mut text).expect("UTF-8");
    let outcome = monitor.wait();
    let mut said = 0;
    for line in text.lines() {
        said += 1;
        match line.split_once(" FAILED: ") {
            Some((name, detail)) => tally.check(name, false, detail),
            None => tally.check(line, true, ""),
        }
    }
    let whole = said == inside::CHECKS.len() && matches!(outcome, Ok(Some(Outcome::Exited(7))));
    tally.check(
        "the prisoner made every check and its exit code came back",
        whole,
        &format!("{said} checks, {outcome:?}"),
    );
}

fn api(tally: &mut Tally) {
    let refused = start("../x", |_| (), &[]).err().map(|e| e.to_string()).unwrap_or_default();
    tally.check("a name that is a path is refused", refused.contains("cannot be the name"), &refused);

    let (first, mut report, _) = start("twice", |_| (), &["sleep"]).expect("a jail");
    let second = start("twice", |_| (), &["sleep"]).err().map(|e| e.to_string()).unwrap_or_default();
    tally.check("a name is used once", second.contains("is running already"), &second);
    // Process 1 gets only the signals it handles: wait until it does.
    report.read_exact(&mut [0; 5]).expect("a word");
    first.signal(libc::SIGTERM);
    let outcome = first.wait().expect("a clean end");
    tally.check("a signal is passed on", outcome == Some(Outcome::Exited(42)), &format!("{outcome:?}"));
    let again = start("twice", |_| (), &["exit"]).map(|(monitor, ..)| monitor.wait());
    tally.check(
        "a name is free when its sandbox has ended",
        matches!(again, Ok(Ok(_))),
        &format!("{again:?}"),
    );

    let dropped = start("dropped", |_| (), &["sleep"]).expect("a jail");
    drop(dropped);
    let left = runtime::list(&base()).expect("a directory");
    tally.check("a dropped jail ends", left.is_empty(), &format!("{left:?}"));

    let config = |identity| move |c: &mut JailConfig| c.identity = identity;
    let root = start("root", config(Identity::Fixed { uid: 0, gid: 0 }), &["exit"]).err();
    tally.check("id 0 is refused", root.is_some(), "it ran");

    let parent = |c: &mut JailConfig| c.cgroup_parent = Some("no/../way".into());
    let refused = start("cgroup", parent, &["exit"]).err().map(|e| e.to_string()).unwrap_or_default();
    tally.check("a cgroup parent that climbs is refused", refused.contains("without `.`"), &refused);
    left_nothing(tally, "after all of it");
}

/// The limits of the cgroup hold; on a host without one there is nothing to see.
fn limits(tally: &mut Tally, needed: bool) {
    let small = |c: &mut JailConfig| {
        c.limits.pids = Some(16);
        c.limits.memory = Some(32 << 20);
    };
    let run = |what: &str| match start("limits", small, &[what]) {
        Ok((monitor, _, warnings)) if warnings.iter().any(|w| w.contains("no cgroup")) => {
            drop(monitor);
            None
        }
        Ok((monitor, ..)) => Some(monitor.wait().map_err(|e| e.to_string())),
        Err(e) => Some(Err(e.to_string())),
    };
    let (forks, eats) = (run("fork"), run("eat"));
    match (forks, eats) {
        (Some(forks), Some(eats)) => {
            let exact = matches!(forks, Ok(Some(Outcome::Exited(15))));
            tally.check("the limit of processes holds", exact, &format!("{forks:?}"));
            let killed = matches!(eats, Ok(Some(Outcome::Killed(libc::SIGKILL))));
            tally.check("the limit of memory holds", killed, &format!("{eats:?}"));
        }
        _ if needed => tally.check("there is a cgroup", false, "this host must have one"),
        _ => println!("note: limits of cgroups are not looked at"),
    }
}

fn ids_in_use() -> usize {
    std::fs::read_dir(base().join("ids")).map_or(0, Iterator::count)
}

fn left_nothing(tally: &mut Tally, when: &str) {
    let left = runtime::list(&base()).expect("a directory");
    let ids = ids_in_use();
    tally.check(
        &format!("no directory and no id is left {when}"),
        left.is_empty() && ids == 0,
        &format!("{left:?}, {ids} ids"),
    );
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    if args.get(1).is_some_and(|a| a == "inside") {
        inside::main(&args[2..]);
    }
    let needs_cgroup = args.get(2).is_some_and(|a| a == "cgroup");
    let rounds = args.get(1).map_or(200, |n| n.parse().expect("a number of rounds"));
    let mut tally = Tally::default();
    prisoner(&mut tally);
    api(&mut tally);
    limits(&mut tally, needs_cgroup);
    killing::all(&mut tally, rounds);
    let _ = std::fs::remove_dir_all(base());
    println!("jail: {} passed, {} failed", tally.passed, tally.failed);
    std::process::exit(i32::from(tally.failed > 0));
}
