//! Holds the API's server to `resources/openapi.yaml`: schemathesis makes requests, right ones and wrong ones, from the file,
//! and looks at what is answered.
//!
//! Two suites, each for a bounded time: a sandbox that is being described, which needs no KVM and so runs here, and one that runs, in
//! the lab. schemathesis speaks TCP, so there is a bridge between a port of the loopback interface and the socket. The generator is
//! installed once a user, in a virtual environment in the cache. Its seed is fixed.
use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Tally;
use crate::host;
use crate::lab::{self, Lab, Streams, words};

const VERSION: &str = "4.32.5";
/// Bytes on the way between a client and the lab; a test that sends more waits.
const PIECE: usize = 16 << 10;

/// Calls that a sandbox which runs is not asked for: they wait for ever, or end it.
const NOT_RUNNING: &[&str] = &["wait", "waitProcess", "shutdown", "signal"];
/// Calls about the container `main`, with its name fixed.
const OF_MAIN: &[&str] = &["exec", "resize", "containers", "removeContainer", "startContainer"];

/// Makes requests to a sandbox that is being described.
pub fn run() -> Result<Tally> {
    let ringfence = crate::build::build_static("ringfence")?;
    described_here(&ensure_tool()?, &ringfence)
}

/// Makes requests to a sandbox that runs.
pub fn run_in_the_lab() -> Result<Tally> {
    crate::build::build_static("ringfence")?;
    fs::create_dir_all(host::target_dir().join("api"))?;
    running_in_the_lab(&ensure_tool()?)
}

/// schemathesis, installed if it was not.
fn ensure_tool() -> Result<PathBuf> {
    let directory = host::cache_dir()?.join(format!("schemathesis-{VERSION}"));
    let (tool, stamp) = (directory.join("bin/st"), directory.join("ready"));
    let _lock = host::lock(&directory.with_extension("lock"))?;
    if !stamp.exists() {
        host::ensure_packages(&["python3-venv"])?;
        host::say(&format!("installing schemathesis {VERSION}"));
        let _ = fs::remove_dir_all(&directory);
        host::run_quietly(Command::new("python3").args(["-m", "venv"]).arg(&directory))?;
        let mut pip = Command::new(directory.join("bin/pip"));
        pip.args(["install", "--quiet", "--disable-pip-version-check", &format!("schemathesis=={VERSION}")]);
        host::run_quietly(&mut pip)?;
        fs::write(&stamp, "")?;
    }
    Ok(tool)
}

/// A server of a sandbox that nothing was said about yet. It sees nothing of this machine but itself, for what is made up may
/// be a whole description, of a sandbox with `/` for its root: without KVM it does not start (503).
fn described_here(tool: &Path, ringfence: &Path) -> Result<Tally> {
    fs::create_dir_all(host::target_dir().join("api"))?;
    let root = Directory(PathBuf::from(format!("/tmp/ringfence-api-{}", std::process::id())));
    fs::create_dir(&root.0).with_context(|| format!("cannot make {}", root.0.display()))?;
    fs::copy(ringfence, root.0.join("ringfence"))?;
    let socket = root.0.join("socket");
    // Changing the root takes root, at least of a user namespace.
    let mut serve = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        serve.arg("--map-root-user");
    }
    serve.arg("--root").arg(&root.0).args(["/ringfence", "serve", "--api-sock", "/socket"]);
    let _server =
        Ended(serve.stdin(Stdio::null()).stdout(Stdio::null()).spawn().context("cannot start the server")?);
    let start = Instant::now();
    while UnixStream::connect(&socket).is_err() {
        ensure!(start.elapsed() < Duration::from_secs(20), "the server does not listen");
        thread::sleep(Duration::from_millis(20));
    }
    let port = bridge(move |client| {
        if let Ok(server) = UnixStream::connect(&socket) {
            let _ = relay(client, server);
        }
    })?;
    let passed = generate(tool, port, &["--max-examples", "25", "--max-time", "60"])?;
    println!("{} a sandbox that is described", verdict(passed));
    Ok(Tally::one(passed))
}

/// A sandbox that runs.
fn running_in_the_lab(tool: &Path) -> Result<Tally> {
    let lab = Lab::named("test0", lab::Options::default());
    let mut session = lab.session()?;
    lab::push_programs(&mut session, false)?;
    session.push(&host::checkout().join("tests/api/bridge.pl"), "/tmp/bridge.pl".as_ref())?;
    let started = "ringfence run --image /srv/debian.erofs --name api -- sleep inf < /dev/null > /tmp/api.log 2>&1 & \
                   for n in $(seq 200); do [ -S /run/ringfence/api/api.sock ] && exit 0; sleep 0.1; done; cat /tmp/api.log; exit 1";
    // It must outlive the command that starts it.
    let started = format!("setsid sh -c '{started}'");
    let keeper = thread::spawn({
        let command = words(&["sh", "-c", &format!("{started}; sleep 600")]);
        move || session.run(&command, quiet())
    });
    let start = Instant::now();
    while lab.session()?.run(&words(&["ringfence", "exec", "api", "--", "true"]), quiet())? != 0 {
        ensure!(start.elapsed() < Duration::from_secs(90), "the sandbox does not start");
        thread::sleep(Duration::from_secs(1));
    }
    let lab_again = Lab::named("test0", lab::Options::default());
    let port = bridge(move |client| {
        let _ = relay_to_lab(&lab_again, client);
    })?;
    let exclude = |calls: &[&str]| {
        calls.iter().flat_map(|c| ["--exclude-operation-id".into(), (*c).into()]).collect::<Vec<String>>()
    };
    let mut options = exclude(NOT_RUNNING);
    options.extend(["--max-examples", "4", "--max-time", "45"].map(String::from));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let anything = generate(tool, port, &options)?;
    println!("{} a sandbox that runs", verdict(anything));
    go_on(&lab)?;
    let mut options: Vec<String> =
        OF_MAIN.iter().flat_map(|c| ["--include-operation-id".into(), (*c).into()]).collect();
    options.extend(["--max-examples", "10", "--max-time", "30"].map(String::from));
    let options: Vec<&str> = options.iter().map(String::as_str).collect();
    let main = generate_with(tool, port, "tests/api/main.toml", &options)?;
    println!("{} its first container", verdict(main));
    go_on(&lab)?;
    let alive = lab.session()?.run(&words(&["ringfence", "exec", "api", "--", "true"]), quiet())? == 0;
    println!("{} it still runs", verdict(alive));
    lab.down()?;
    let _ = keeper.join();
    let mut tally = Tally::one(anything);
    tally.add(Tally::one(main));
    tally.add(Tally::one(alive));
    Ok(tally)
}

/// Whatever was made up last may have paused it.
fn go_on(lab: &Lab) -> Result<()> {
    let command = words(&["sh", "-c", "ringfence resume api 2> /dev/null || true"]);
    lab.session()?.run(&command, quiet()).map(|_| ())
}

fn quiet() -> Streams<'static> {
    let output = |error: bool, bytes: &[u8]| if error { io::stderr().write_all(bytes) } else { Ok(()) };
    Streams { stdin: Box::new(io::empty()), output: Box::new(output), timeout: None }
}

fn verdict(passed: bool) -> &'static str {
    if passed { "ok  " } else { "FAIL" }
}

fn generate(tool: &Path, port: u16, options: &[&str]) -> Result<bool> {
    generate_with(tool, port, "tests/api/schemathesis.toml", options)
}

/// Runs the generator against a port. What it says is shown if something is wrong.
fn generate_with(tool: &Path, port: u16, config: &str, options: &[&str]) -> Result<bool> {
    let mut generator = Command::new(tool);
    generator
        .current_dir(host::target_dir().join("api"))
        .arg("--config-file")
        .arg(host::checkout().join(config));
    generator.args(["--no-color", "run"]).arg(host::checkout().join("resources/openapi.yaml"));
    generator.args(["--url", &format!("http://127.0.0.1:{port}"), "--seed", "1", "--request-timeout", "30"]);
    generator.args(["--generation-database", "none", "--suppress-health-check", "all"]).args(options);
    let output = generator.stdin(Stdio::null()).output().context("cannot start schemathesis")?;
    if !output.status.success() {
        print!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.status.success())
}

/// Listens on a port of the loopback interface and has each connection served on a thread of its own; the port.
fn bridge(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot listen")?;
    let port = listener.local_addr()?.port();
    let serve = std::sync::Arc::new(serve);
    thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let serve = serve.clone();
            thread::spawn(move || serve(client));
        }
    });
    Ok(port)
}

fn relay(client: TcpStream, server: UnixStream) -> io::Result<()> {
    let (mut from, mut to) = (client.try_clone()?, server.try_clone()?);
    let upwards = thread::spawn(move || {
        let _ = io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let _ = io::copy(&mut &server, &mut &client);
    let _ = client.shutdown(std::net::Shutdown::Both);
    let _ = upwards.join();
    Ok(())
}

/// The same to the socket in the lab, through a session of its own.
fn relay_to_lab(lab: &Lab, client: TcpStream) -> Result<()> {
    let session = lab.session()?;
    let stdin: Box<dyn Read + Send> = Box::new(io::BufReader::with_capacity(PIECE, client.try_clone()?));
    let output = |error: bool, bytes: &[u8]| if error { Ok(()) } else { (&client).write_all(bytes) };
    let streams = Streams { stdin, output: Box::new(output), timeout: None };
    let command = words(&["perl", "/tmp/bridge.pl", "/run/ringfence/api/api.sock"]);
    let result = session.run(&command, streams).map(|_| ());
    let _ = client.shutdown(std::net::Shutdown::Both);
    result
}

/// A directory that goes with this.
struct Directory(PathBuf);

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that ends with this.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}
