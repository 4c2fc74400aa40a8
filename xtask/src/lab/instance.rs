//! One lab of one checkout: its QEMU, its state directory, its life.
//!
//! The state lives under `target/lab/NAME/`: `alive` is locked by QEMU itself (it inherits the descriptor), so
//! whether the lab is up needs no trust in process ids; `state.lock` is held while starting and ending; `pN` are
//! the sockets of the command ports and `pN.lock` says which are in use; `console.log` is what the kernel said;
//! `monitor` is QEMU's monitor, for a machine that does not answer (`info registers`, `gdbserver`).
//! Nothing of ours stays running beside QEMU: the machine powers itself off when idle, and a machine that hangs
//! is ended by `timeout`.
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::client::Session;
use super::{cpio, image, post_mortem, programs};
use crate::{build, host};

/// Commands that can run at once.
const PORTS: usize = 16;
/// Seconds without a command after which a lab ends by itself.
const IDLE: u32 = 20 * 60;
/// Seconds after which it is ended from outside, whatever it does.
const LIFE: u32 = 12 * 60 * 60;
/// The same for a lab that counts instructions: it never idles, its time runs when nothing else does.
const ICOUNT_LIFE: u32 = 2 * 60 * 60;

/// How a lab is made.
#[derive(Clone, Copy, Default)]
pub struct Options {
    /// One CPU, and one nanosecond of its time is one instruction.
    pub icount: bool,
    /// With that: instructions between two marks are counted by call path, into [`Lab::profile`].
    pub profile: bool,
}

/// A lab of this checkout, up or not.
pub struct Lab {
    options: Options,
    directory: PathBuf,
}

impl Lab {
    /// The lab with these options.
    pub fn new(options: Options) -> Lab {
        let name = match options {
            Options { profile: true, .. } => "profile",
            Options { icount: true, .. } => "icount",
            _ => "main",
        };
        Lab::named(name, options)
    }

    /// Another lab of this checkout.
    pub fn named(name: &str, options: Options) -> Lab {
        Lab { options, directory: host::target_dir().join("lab").join(name) }
    }

    /// Where the profiler writes.
    pub fn profile(&self) -> PathBuf {
        self.directory.join("profile.raw")
    }

    /// Whether its QEMU runs.
    pub fn is_up(&self) -> Result<bool> {
        Ok(self.directory.exists() && host::try_lock(&self.directory.join("alive"))?.is_none())
    }

    /// What there is to say about it in a line or two.
    pub fn status(&self) -> Result<String> {
        let console = self.directory.join("console.log");
        Ok(if self.is_up()? {
            let mut busy = 0;
            for port in 0..PORTS {
                busy += usize::from(host::try_lock(&self.port_lock(port))?.is_none());
            }
            format!("up, {busy} commands running, console in {}", console.display())
        } else {
            "down".to_owned()
        })
    }

    /// Starts it unless it is up.
    pub fn up(&self) -> Result<()> {
        self.session().map(drop)
    }

    /// Ends it.
    pub fn down(&self) -> Result<()> {
        if self.directory.exists() {
            let _state = host::lock(&self.directory.join("state.lock"))?;
            self.kill()?;
        }
        Ok(())
    }

    /// A connection for one command, of a lab that is started if need be.
    pub fn session(&self) -> Result<Session> {
        fs::create_dir_all(&self.directory)?;
        let state = host::lock(&self.directory.join("state.lock"))?;
        if self.is_up()? {
            // Generous, because a machine under load is slow, not broken.
            match self.connect(Duration::from_secs(60)) {
                Ok(session) => return Ok(session),
                Err(error) if self.is_in_use()? => {
                    return Err(error.context("the lab is busy and does not answer"));
                }
                Err(error) => host::say(&format!("the lab does not answer ({error:#}): starting it anew")),
            }
            self.kill()?;
        }
        let session = self.start()?;
        drop(state);
        Ok(session)
    }

    /// Whether it still answers after a command did not end, and what can be found out about that.
    pub fn post_mortem(&self) -> (bool, String) {
        match self.connect(Duration::from_secs(60)).and_then(post_mortem::ask) {
            Ok(said) => (true, said),
            Err(error) => {
                let console = fs::read_to_string(self.directory.join("console.log")).unwrap_or_default();
                let registers = self.socket("monitor").and_then(post_mortem::registers);
                let registers = registers.unwrap_or_else(|error| format!("{error:#}"));
                (false, format!("{error:#}\n{registers}\n{}", last_lines(&console)))
            }
        }
    }

    fn port_lock(&self, port: usize) -> PathBuf {
        self.directory.join(format!("p{port}.lock"))
    }

    fn is_in_use(&self) -> Result<bool> {
        for port in 0..PORTS {
            if host::try_lock(&self.port_lock(port))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn connect(&self, patience: Duration) -> Result<Session> {
        for port in 0..PORTS {
            if let Some(lock) = host::try_lock(&self.port_lock(port))? {
                let stream = self.socket(&format!("p{port}"))?;
                // What comes from outside would make the lab that counts instructions count differently each time.
                return Session::begin(stream, lock, patience, !self.options.icount);
            }
        }
        bail!("{PORTS} commands run in the lab already; wait for one to end")
    }

    /// A connection to one of QEMU's sockets.
    fn socket(&self, name: &str) -> Result<UnixStream> {
        // Paths of sockets are short; that of a checkout may not be.
        let directory = File::open(&self.directory)?;
        let here = PathBuf::from(format!("/proc/self/fd/{}", directory.as_raw_fd()));
        UnixStream::connect(here.join(name)).context("connecting to the lab")
    }

    /// Starts QEMU and waits for the first session: once more if the machine hangs at boot.
    fn start(&self) -> Result<Session> {
        let image = image::ensure()?;
        let init = fs::read(build::build_static("ringfence-lab-agent")?)?;
        fs::write(self.directory.join("initramfs"), cpio::initramfs(&init))?;
        let mut patience = Duration::from_secs(120);
        for attempt in 1.. {
            let start = Instant::now();
            let mut qemu = self.spawn(&image)?;
            let error = loop {
                let left = patience.saturating_sub(start.elapsed());
                if let Some(status) = qemu.try_wait()? {
                    break anyhow::anyhow!("QEMU ended: {status}");
                }
                match self.connect(left) {
                    Ok(session) => return Ok(session),
                    Err(error) if start.elapsed() > patience => break error,
                    Err(_) => std::thread::sleep(Duration::from_millis(20)),
                }
            };
            self.kill()?;
            let _ = qemu.wait();
            if attempt == 2 {
                let console = fs::read_to_string(self.directory.join("console.log")).unwrap_or_default();
                eprintln!("{}", last_lines(&console));
                return Err(error.context("the lab does not start"));
            }
            host::say(&format!("the lab did not start ({error:#}): once more"));
            patience *= 2;
        }
        unreachable!("the loop returns")
    }

    fn spawn(&self, image: &image::Image) -> Result<Child> {
        for port in 0..PORTS {
            let _ = fs::remove_file(self.directory.join(format!("p{port}")));
        }
        let icount = self.options.icount;
        let (life, idle) = if icount { (ICOUNT_LIFE, 0) } else { (LIFE, IDLE) };
        let mut kernel_arguments =
            format!("console=ttyS0 quiet panic=-1 tsc=reliable lab.idle={idle} lab.ports={PORTS}");
        let mut qemu = Command::new("timeout");
        qemu.args(["--signal=KILL", &life.to_string(), "qemu-system-x86_64"]);
        qemu.args(["-accel", "tcg,thread=single", "-cpu", "max,+svm,+npt", "-m", "4096"]);
        // One CPU: with more, QEMU 7.2 leaves its loop for the next CPU's turn between injecting an interrupt into
        // a nested guest and the guest's next exit, and then delivers the same interrupt a second time, even where
        // the guest has interrupts off. Nothing is lost, all CPUs take turns on one host thread anyway.
        qemu.args(["-smp", "1"]);
        if icount {
            kernel_arguments += " nokaslr norandmaps";
            qemu.args(["-icount", "shift=0,sleep=off", "-seed", "42"]);
            qemu.args(["-rtc", "base=2026-01-01,clock=vm"]);
        }
        if self.options.profile {
            let profiler = build::build_library("ringfence-lab-profiler")?.display().to_string();
            qemu.arg("-plugin").arg(format!("{},out=profile.raw", profiler.replace(',', ",,")));
        }
        qemu.args(["-nodefaults", "-display", "none", "-no-reboot", "-serial", "file:console.log"]);
        let _ = fs::remove_file(self.directory.join("monitor"));
        qemu.args(["-monitor", "unix:monitor,server,nowait"]);
        qemu.arg("-kernel").arg(&image.kernel).args(["-initrd", "initramfs", "-append", &kernel_arguments]);
        let disk = image.disk.display().to_string().replace(',', ",,");
        qemu.args(["-drive", &format!("file={disk},if=none,id=root,format=raw,snapshot=on")]);
        // Two name spaces of one controller, so that which is which does not depend on the order of probing.
        qemu.args(["-device", "nvme,serial=lab", "-device", "nvme-ns,drive=root,nsid=1"]);
        if let Some(programs) = programs::existing()? {
            let disk = programs.display().to_string().replace(',', ",,");
            qemu.args(["-drive", &format!("file={disk},if=none,id=programs,format=raw,snapshot=on")]);
            qemu.args(["-device", "nvme-ns,drive=programs,nsid=2"]);
        }
        qemu.args(["-device", &format!("virtio-serial-pci,max_ports={}", PORTS + 1)]);
        for port in 0..PORTS {
            qemu.args(["-chardev", &format!("socket,id=p{port},path=p{port},server=on,wait=off")]);
            qemu.args(["-device", &format!("virtserialport,chardev=p{port},name=lab.{port}")]);
        }
        let said = File::create(self.directory.join("qemu.log"))?;
        qemu.current_dir(&self.directory).stdin(Stdio::null()).stdout(said.try_clone()?).stderr(said);
        let alive =
            host::try_lock(&self.directory.join("alive"))?.context("another QEMU runs in this lab")?;
        let alive = OwnedFd::from(alive);
        // SAFETY: fcntl and setsid are async-signal-safe.
        unsafe {
            qemu.pre_exec(move || {
                libc::setsid();
                if libc::fcntl(alive.as_raw_fd(), libc::F_SETFD, 0) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = qemu.spawn().context("cannot start QEMU")?;
        fs::write(self.directory.join("pid"), child.id().to_string())?;
        Ok(child)
    }

    /// Kills QEMU and waits until it has let go of its lock.
    fn kill(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.is_up()? {
            // `timeout` leads the session and the process group; both it and QEMU hold the lock.
            let group =
                fs::read_to_string(self.directory.join("pid")).ok().and_then(|text| text.parse::<i32>().ok());
            if let Some(group) = group.filter(|group| *group > 1) {
                // SAFETY: kill takes no pointers.
                unsafe { libc::kill(-group, libc::SIGKILL) };
            }
            if Instant::now() > deadline {
                bail!("QEMU (process group {group:?}) does not end");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

/// The last twenty lines of what a console said, set in.
fn last_lines(console: &str) -> String {
    let lines: Vec<String> = console.lines().map(|line| format!("    {line}")).collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}
