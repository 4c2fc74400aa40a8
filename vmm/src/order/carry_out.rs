//! Builds a sandbox, runs it, and says how it ended.
//!
//! Whatever ends the sandbox, the order is the same: vCPUs stop, the last output is delivered, then the conclusion
//! is told.
//!
//! In the jail each thread is confined to the system calls it needs (`seccomp/`) before the guest runs on it, or before
//! this thread has read a byte of the guest's. Without a jail none is: this thread then opens and writes files when the
//! sandbox is over, and confined threads beside one that is not would be no boundary.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::{Duration, Instant};

use ringfence_devices::block::{self, Block, Limits};
use ringfence_devices::host_stream::Job;
use ringfence_devices::net::{Backend, Net, NetConfig};
use ringfence_devices::pmem::Backing;
use ringfence_seccomp::{SeccompError, Thread};

use ringfence_protocol::DiskMount;

use super::{Conclusion, Disk, Interface, News, Order};
use crate::cli::Failure;
use crate::door::Door;
use crate::event_loop::{Ending, EventLoop, printable};
use crate::machine::{Kernel, MachineError};
use crate::sandbox::{GUEST_ELF, Sandbox, SandboxError, Spec, Stdio};
use crate::signals::Signals;
use crate::stats::Report;
use crate::{executable, exit, probe};

/// After a time-out, readers of the output get this long to take what is left.
const DRAIN_AFTER_TIMEOUT: Duration = Duration::from_secs(1);

/// Carries out the order. An error is one of the set-up: nothing has run. `jailed`: this process is in the jail, and does
/// nothing after it has told that all is over.
pub fn run(
    order: Order<OwnedFd>,
    signals: Signals,
    jailed: bool,
    tell: &mut dyn FnMut(News),
) -> Result<(), Failure> {
    let files = order.files;
    let mut timeline = order.timeline;
    let backing = |file: OwnedFd| Backing::new(File::from(file), Path::new(&order.image_name));
    let image = files.image.map(backing).transpose().map_err(Failure::setup)?;
    let terminal = order.terminal.map(|_| copy(&files.input)).transpose()?;
    let stdio = match order.terminal {
        Some(size) => Stdio::Tty { input: files.input, output: files.output, size },
        None => Stdio::Pipes { stdin: Some(files.input), stdout: Some(files.output), stderr: files.error },
    };
    let disk_mounts =
        files.disks.iter().zip(0..).filter_map(|(d, disk)| Some(DiskMount { disk, at: d.mount.clone()? }));
    let disk_mounts = disk_mounts.collect();
    let spec = Spec {
        kvm: probe::wrap(files.kvm),
        kernel: match files.guest {
            Some(guest) => Kernel::File(guest.into()),
            None => Kernel::Embedded { image: GUEST_ELF, executable: files.executable.map(File::from) },
        },
        cpus: order.cpus,
        memory: order.memory,
        image,
        gofer: files.gofer.map(std::os::unix::net::UnixStream::from),
        container: order.container,
        stdio,
        job: files.job.map(Job::from),
        disk_mounts,
        disks: files.disks.into_iter().map(disk).collect::<Result<_, _>>()?,
        interfaces: files.interfaces.into_iter().map(interface).collect::<Result<_, _>>()?,
        network: order.network,
        trace: files.trace,
        stats: order.stats,
        cmdline: order.log_level.map_or(String::new(), |l| format!("ringfence.loglevel={l}")),
        log: match (files.log, &order.log_level) {
            (Some(pipe), _) => Some(Box::new(File::from(pipe))),
            (None, Some(_)) => Some(log_writer(order.terminal.is_some())),
            (None, None) => None,
        },
    };
    let (mut sandbox, control) = Sandbox::new(spec, &mut timeline).map_err(setup_failure)?;
    let kvm_stats = order.stats.then(|| sandbox.machine.open_stats());
    let door =
        files.link.map(|link| Door::new(link.into(), sandbox.vsock(), sandbox.devices(), sandbox.controls()));
    let door = door.transpose();
    let door = door.map_err(|e| Failure::setup(format!("a socket: {e}")))?;
    let mut events = EventLoop::new(&mut sandbox.machine, control, door, signals, terminal, order.timeout)?;
    executable::forget_the_start();
    if jailed {
        ringfence_seccomp::end_with(exit::FORBIDDEN_CALL).map_err(unable)?;
    }
    sandbox.machine.start(jailed).map_err(|e| setup_failure(e.into()))?;
    if jailed {
        // Not before: starting threads takes calls that are forbidden from here on.
        ringfence_seccomp::confine(Thread::EventLoop).map_err(unable)?;
    }
    timeline.mark("vcpus_started");
    tell(News::Ready);
    let mut ending = events.run(&sandbox.machine, &mut timeline)?;
    sandbox.machine.stop();
    timeline.mark("stopped");
    tell(News::Stopped);
    let deadline = matches!(ending, Ending::TimedOut).then(|| Instant::now() + DRAIN_AFTER_TIMEOUT);
    let mut notes = sandbox.drain(deadline);
    let counters = events.finish(&mut ending);
    timeline.mark("drained");
    if matches!(ending, Ending::TimedOut) {
        notes.extend(sandbox.machine.shared().places());
    }
    let mut conclusion = conclude(&sandbox, ending);
    conclusion.notes = notes;
    conclusion.report = kvm_stats.map(|kvm| Report::gather(&sandbox.machine, &kvm, &timeline, counters));
    conclusion.image = sandbox.machine.image().map(|image| (image.host_address(), image.region_size()));
    tell(News::Over(Box::new(conclusion)));
    Ok(())
}

/// The device of a disk.
pub fn disk(asked: Disk<OwnedFd>) -> Result<Block, Failure> {
    let Disk { file, name, read_only, id, bandwidth, ops, mount: _ } = asked;
    let disk = block::Disk::new(File::from(file), Path::new(&name), read_only).map_err(Failure::setup)?;
    let limits = Limits::new(bandwidth, ops).map_err(SandboxError::Device).map_err(setup_failure)?;
    Block::new(disk, id, limits).map_err(SandboxError::Device).map_err(setup_failure)
}

/// The device of a network interface.
pub fn interface(asked: Interface<OwnedFd>) -> Result<Net, Failure> {
    let Interface { file, stream, mac, mtu, egress, rx_bandwidth, tx_bandwidth } = asked;
    let backend = if stream { Backend::stream(file) } else { Backend::tap(file) };
    let limits = |rate| Limits::new(rate, None);
    let device =
        || Net::new(NetConfig { mac, mtu, egress }, backend, limits(rx_bandwidth)?, limits(tx_bandwidth)?);
    device().map_err(SandboxError::Device).map_err(setup_failure)
}

fn copy(fd: &OwnedFd) -> Result<OwnedFd, Failure> {
    fd.try_clone().map_err(|e| Failure::setup(format!("cannot duplicate standard input: {e}")))
}

/// The exit code, and the words that go with it.
fn conclude(sandbox: &Sandbox, ending: Ending) -> Conclusion {
    let mut last_words = String::new();
    let (code, message) = match ending {
        Ending::Exited(status) => return Conclusion::of_code(exit::of_status(status)),
        Ending::Signalled(signal) => return Conclusion::of_code(128 + signal as u8),
        Ending::StartFailed { errno, message } => (exit::of_start_failure(errno), message),
        Ending::TimedOut => (exit::TIMED_OUT, "the time-out passed; the sandbox was ended".to_owned()),
        Ending::Broken(e) => (exit::MACHINE_FAILED, printable(&e.to_string())),
        Ending::Stopped(stop) => {
            last_words = String::from_utf8_lossy(&sandbox.last_words()).into_owned();
            exit::of_stop(&stop)
        }
    };
    let (code, message) = match sandbox.machine.image().map(Backing::check_intact) {
        Some(Err(changed)) if code == exit::MACHINE_FAILED || code == exit::GUEST_PANIC => {
            (exit::IMAGE_CHANGED, format!("{changed} ({message})"))
        }
        _ => (code, message),
    };
    Conclusion { last_words, message: Some(message), ..Conclusion::of_code(code) }
}

fn unable(e: SeccompError) -> Failure {
    Failure { code: exit::HOST_UNABLE, message: e.to_string() }
}

fn setup_failure(e: SandboxError) -> Failure {
    let code = match e {
        SandboxError::Machine(MachineError::Kvm(..)) => exit::HOST_UNABLE,
        _ => exit::SETUP_FAILED,
    };
    Failure { code, message: e.to_string() }
}

/// The guest's log on stderr. A raw terminal needs carriage returns.
fn log_writer(tty: bool) -> Box<dyn Write + Send> {
    struct Cooked(std::io::Stderr);
    impl Write for Cooked {
        fn write(&mut self, data: &[u8]) -> std::io::Result<usize> {
            for line in data.split_inclusive(|&b| b == b'\n') {
                match line.strip_suffix(b"\n") {
                    Some(text) => self.0.write_all(text).and_then(|()| self.0.write_all(b"\r\n"))?,
                    None => self.0.write_all(line)?,
                }
            }
            Ok(data.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            self.0.flush()
        }
    }
    if tty { Box::new(Cooked(std::io::stderr())) } else { Box::new(std::io::stderr()) }
}
