//! Containers: the worlds of a sandbox, and the processes in them that somebody outside has asked for.
//!
//! Linux has no object for a container; runtimes make one out of namespaces, a control group and a root. Here the kernel
//! makes it, because there is nobody else to do it: the host asks over the control connection ([`crate::control`]), in the
//! terms of [`ringfence_protocol::container`].
//!
//! A [`Container`] is *created*, *running*, *stopped*, in this order, and then removed. Until it is stopped it has a
//! [`World`]: namespaces of each kind, a mount namespace with a root of its own, a control group. Its
//! first process is number 1 in its pid namespace, so that its end is the end of all others in there, by the rules of pid
//! namespaces. When that is done the world is let go; the exit status stays until the container is removed.
//!
//! Without id maps its user namespace is the first: what is root in it is root of the sandbox. With them it has one of its own,
//! which owns all its other namespaces: its root has every capability over those and none over anything else. Owners of files
//! that it shares with other containers are seen through the maps; in its own view of the image they are its own ids.
//!
//! The first container, `main`, is the program of `ringfence run`. Unless it is given maps it has the namespaces the kernel
//! begins with and, if it has no limits either, the root control group, so that nothing it does is translated or counted. The
//! others are not below it, though: their pid namespaces are hidden from the first one ([`crate::ns::pid`]), their groups are in no directory
//! ([`crate::cgroup::container`]), and their terminals and `/dev` are their own. When `main` ends the machine is
//! switched off.
//!
//! What the host has started, a container's first process or another one, is [`Supervised`]: it has no parent in the sandbox, its
//! end is kept and told to whoever has asked. A kernel task waits for each.
//!
//! | module | holds |
//! |---|---|
//! | here | the object, its life, the table of all |
//! | `launch` | users, `PATH`, loading a program, starting it |
//! | `resolver` | `/etc/resolv.conf` |
//! | `root` | mounting a root file system |
//! | `terminal` | a terminal relayed to the host |
//!
//! Lock order: [`ALL`] → a container's `life` → a supervised process's `end`; none is held while anything is started, mounted
//! or dropped.

mod launch;
pub mod resolver;
mod root;
mod terminal;

use alloc::{
    borrow::ToOwned,
    boxed::Box,
    collections::BTreeMap,
    format,
    string::{String, ToString},
    sync::{Arc, Weak},
    vec::Vec,
};

use ringfence_protocol as protocol;
pub use ringfence_protocol::FIRST_CONTAINER;
use ringfence_protocol::{ContainerState, ContainerStatus, INIT_PROCESS, ids::check_maps};

use crate::{
    TaskRef,
    cgroup::{self, Cgroup},
    drivers::vsock::Stream,
    errno::{Errno, Result},
    fs::{MountNamespace, devtmpfs, filesystems::Mounter, tty},
    kernel::kernel,
    ns::{CgroupNamespace, IpcNamespace, Namespaces, NetNamespace, PidNamespace, UserNamespace},
    signal::{self, SigInfo, Signal},
    sync::{Interruptible, PollEvents, Queue, SpinLock, WaitQueue, wait_event},
    task::{Pid, Process, process::ExitStatus, spawn_kernel_task},
};
use launch::Launch;
use terminal::Terminal;

pub use root::{set_disk_mounts, set_image};

/// Why something cannot be done, for the host.
pub type Failed = (Errno, String);

/// Containers a sandbox may hold.
const CONTAINERS_MAX: usize = 64;
/// Processes of a container that are remembered; of those that have ended the oldest are forgotten.
const PROCESSES_MAX: usize = 1024;
/// Bytes of a container's name, and of a host name.
const NAME_MAX: usize = 64;

/// The standard streams of a process, connected.
pub enum Connected {
    /// Input, output, error; `None` is `/dev/null`.
    Pipes([Option<Arc<Stream>>; 3]),
    /// A terminal.
    Tty {
        /// What is typed and shown.
        stream: Arc<Stream>,
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// What a container's processes live in.
pub struct World {
    /// The container's number, never used twice; 0 is the first.
    container: u32,
    /// The first one, unless it was given maps.
    user_ns: Arc<UserNamespace>,
    namespaces: Arc<Namespaces>,
    pid_ns: Arc<PidNamespace>,
    mounts: Arc<MountNamespace>,
    /// `None` is the root.
    group: Option<Arc<Cgroup>>,
}

/// What has to be taken back if the rest cannot be made, or when the world ends.
struct Traces {
    container: u32,
    group: Option<Arc<Cgroup>>,
}

impl Drop for Traces {
    fn drop(&mut self) {
        if let Some(group) = &self.group {
            cgroup::container::remove(group);
        }
        if self.container != 0 {
            devtmpfs::forget(self.container);
            tty::forget(self.container);
        }
    }
}

/// A world that takes its traces with it.
struct Owned {
    world: Arc<World>,
    _traces: Traces,
}

/// A process the host has started.
pub struct Supervised {
    /// Its pid in the container.
    pub pid: Pid,
    process: Weak<Process>,
    terminal: Option<Arc<Terminal>>,
    end: SpinLock<End>,
    ended: Queue,
}

/// Told of the end of a process.
type Listener = Box<dyn FnOnce(&TaskRef, ExitStatus) + Send>;

#[derive(Default)]
struct End {
    /// How it ended, as soon as it has.
    status: Option<ExitStatus>,
    /// Its output has gone out, too, and its container is stopped if it was that one's first: who asks is told.
    settled: bool,
    listeners: Vec<Listener>,
}

impl Supervised {
    fn new(launch: &Launch) -> Arc<Supervised> {
        Arc::new(Supervised {
            pid: launch.process().number,
            process: Arc::downgrade(launch.process()),
            terminal: launch.terminal().cloned(),
            end: SpinLock::new(End::default()),
            ended: WaitQueue::new(),
        })
    }

    /// The process has ended (called by it).
    pub fn ended(&self, status: ExitStatus) {
        self.end.lock().status = Some(status);
        self.ended.wake_all(PollEvents::empty());
    }

    /// Whether it has ended.
    pub fn has_ended(&self) -> bool {
        self.end.lock().status.is_some()
    }

    /// Waits for the end, and for what was written to the terminal to go out.
    pub fn wait(&self, task: &TaskRef) -> ExitStatus {
        let status = || self.end.lock().status;
        let status = wait_event(task, &self.ended, Interruptible::No, None, status);
        if let Some(terminal) = &self.terminal {
            terminal.drain(task);
        }
        status.unwrap_or(ExitStatus::Code(0)) // cannot be: nothing interrupts this wait
    }

    /// Tells those who listen.
    pub fn settle(&self, task: &TaskRef) {
        let (status, listeners) = {
            let mut end = self.end.lock();
            end.settled = true;
            (end.status, core::mem::take(&mut end.listeners))
        };
        if let Some(status) = status {
            listeners.into_iter().for_each(|tell| tell(task, status));
        }
    }

    /// Calls `tell` with the exit status, now or later.
    pub fn on_end(&self, task: &TaskRef, tell: Listener) {
        let status = {
            let mut end = self.end.lock();
            match end.status {
                Some(status) if end.settled => status,
                _ => return end.listeners.push(tell),
            }
        };
        tell(task, status);
    }

    /// Its terminal has another size; `ENOTTY` without one.
    pub fn resize(&self, rows: u16, cols: u16) -> Result<()> {
        self.terminal.as_ref().ok_or(Errno::ENOTTY)?.resize(rows, cols);
        Ok(())
    }

    /// Sends a signal from outside. `EINVAL`, `ESRCH` once it has ended.
    pub fn signal(&self, number: u32) -> Result<()> {
        let signal = i32::try_from(number).ok().and_then(Signal::new).ok_or(Errno::EINVAL)?;
        let process = self.process.upgrade().filter(|_| self.end.lock().status.is_none());
        let info = SigInfo::user(signal, signal::types::code::SI_USER, 0, 0);
        signal::send_from_host(&process.ok_or(Errno::ESRCH)?, info);
        Ok(())
    }
}

/// Those that live, by their number in the first pid namespace.
static SUPERVISED: SpinLock<BTreeMap<Pid, Arc<Supervised>>> = SpinLock::new(BTreeMap::new());

/// A process without a parent ends: whoever supervises it is to be told when it has.
pub fn supervisor_of(process: &Process) -> Option<Arc<Supervised>> {
    if process.parent().is_some() { None } else { SUPERVISED.lock().remove(&process.pid) }
}

enum Life {
    Created(Launch),
    Running,
    Stopped(ExitStatus),
}

struct State {
    life: Life,
    owned: Option<Owned>,
    processes: BTreeMap<u32, Arc<Supervised>>,
    next: u32,
}

/// A container.
pub struct Container {
    name: String,
    state: SpinLock<State>,
}

/// All containers by name.
static ALL: SpinLock<BTreeMap<String, Arc<Container>>> = SpinLock::new(BTreeMap::new());

/// The container called `name`.
pub fn find(name: &str) -> Result<Arc<Container>, Failed> {
    let found = ALL.lock().get(name).cloned();
    found.ok_or_else(|| (Errno::ESRCH, format!("there is no container `{name}`")))
}

/// All of them.
pub fn list() -> Vec<ContainerStatus> {
    let all: Vec<Arc<Container>> = ALL.lock().values().cloned().collect();
    all.iter().map(|container| container.status()).collect()
}

/// Makes a container. `first`: the one the kernel's own namespaces are for.
pub fn create(
    name: &str,
    spec: &protocol::Container,
    first: bool,
    connect: impl FnOnce() -> Connected,
) -> Result<Arc<Container>, Failed> {
    check_name(name)?;
    let host = spec.hostname.as_deref().unwrap_or(name);
    check_host_name(host)?;
    check_limits(&spec.limits)?;
    check_maps(&spec.uid_map, &spec.gid_map).map_err(|why| (Errno::EINVAL, why))?;
    let taken = |all: &BTreeMap<String, Arc<Container>>| {
        if all.contains_key(name) {
            return Err((Errno::EEXIST, format!("there is a container `{name}` already")));
        }
        if all.len() >= CONTAINERS_MAX {
            return Err((Errno::ENOSPC, format!("there are {CONTAINERS_MAX} containers already")));
        }
        Ok(())
    };
    taken(&ALL.lock())?;
    let owned = make_world(name, host, spec, first)?;
    let launch = launch::prepare(&owned.world, &spec.process, connect())?;
    let state = State {
        life: Life::Created(launch),
        owned: Some(owned),
        processes: BTreeMap::new(),
        next: INIT_PROCESS,
    };
    let container = Arc::new(Container { name: name.to_owned(), state: SpinLock::new(state) });
    let added = {
        let mut all = ALL.lock();
        taken(&all).map(|()| all.insert(name.to_owned(), container.clone()))
    };
    match added {
        Ok(_) => Ok(container),
        Err(e) => {
            container.discard();
            Err(e)
        }
    }
}

fn make_world(name: &str, host: &str, spec: &protocol::Container, first: bool) -> Result<Owned, Failed> {
    static NEXT: SpinLock<u32> = SpinLock::new(1);
    let number = if first {
        0
    } else {
        let mut next = NEXT.lock();
        let number = *next;
        *next = number.checked_add(1).ok_or((Errno::ENOSPC, String::from("too many containers")))?;
        number
    };
    let (user_ns, ids) = make_user_namespace(spec)?;
    let user = &user_ns;
    // What the kernel begins with is the first container's, unless it is to be less than root there.
    let first = first && user.is_initial();
    let unlimited = spec.limits == protocol::Limits::default();
    let group = match first && unlimited {
        true => None,
        false => {
            let made = cgroup::container::make(name, &spec.limits, ids);
            Some(made.map_err(|e| (e, String::from("there are too many control groups")))?)
        }
    };
    let traces = Traces { container: number, group: group.clone() };
    let mut namespaces = (**Namespaces::initial()).clone();
    let initial = PidNamespace::initial();
    let pid_ns = if first { initial.clone() } else { PidNamespace::for_container(number, user) };
    if let Some(group) = &group {
        namespaces.cgroup = CgroupNamespace::new(user, group.clone());
    }
    if !first {
        namespaces.uts = namespaces.uts.duplicate(user);
        namespaces.ipc = IpcNamespace::new(user);
        namespaces.net = NetNamespace::for_container(user);
        namespaces.pid_for_children = pid_ns.clone();
    }
    namespaces.uts.set_host(host.to_owned());
    let namespaces = Arc::new(namespaces);
    let mounter =
        Mounter { namespaces: namespaces.clone(), pid_ns: pid_ns.clone(), user_ns: user_ns.clone(), ids };
    let mounts = root::mount(&spec.root, &spec.mounts, &mounter)?;
    crate::control::phase("root_mounted");
    let world = Arc::new(World { container: number, user_ns, namespaces, pid_ns, mounts, group });
    Ok(Owned { world, _traces: traces })
}

/// The user namespace of a container, and its root's ids; without root, those of nobody.
fn make_user_namespace(spec: &protocol::Container) -> Result<(Arc<UserNamespace>, (u32, u32)), Failed> {
    if spec.uid_map.is_empty() {
        return Ok((UserNamespace::initial().clone(), (0, 0)));
    }
    let made = UserNamespace::for_container(&spec.uid_map, &spec.gid_map);
    let ns = made.map_err(|e| (e, format!("cannot make a user namespace with these maps: {e}")))?;
    let ids = ns.of_image(0, 0);
    Ok((ns, ids))
}

fn check_name(name: &str) -> Result<(), Failed> {
    let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if name.is_empty() || name.len() > NAME_MAX || !name.chars().all(fine) {
        let why = "a container's name has 1 to 64 letters, digits, dots, dashes and underscores";
        return Err((Errno::EINVAL, String::from(why)));
    }
    Ok(())
}

fn check_host_name(name: &str) -> Result<(), Failed> {
    if name.is_empty() || name.len() > NAME_MAX || name.contains('\0') {
        return Err((Errno::EINVAL, String::from("a host name has 1 to 64 bytes")));
    }
    Ok(())
}

fn check_limits(limits: &protocol::Limits) -> Result<(), Failed> {
    let bad = |why: &str| Err((Errno::EINVAL, why.to_string()));
    if limits.memory.is_some_and(|bytes| bytes < 1 << 20) {
        return bad("a container needs at least 1 MiB of memory (1048576)");
    }
    if limits.pids == Some(0) {
        return bad("a container needs at least one task (pids)");
    }
    if let Some(cpu) = limits.cpu {
        if !(1000..=1_000_000).contains(&cpu.period_us) {
            return bad("a period of CPU time is 1000 to 1000000 microseconds");
        }
        if cpu.quota_us < 1000 {
            return bad("a quota of CPU time is at least 1000 microseconds");
        }
    }
    if limits.cpu_weight.is_some_and(|weight| !(1..=10_000).contains(&weight)) {
        return bad("a CPU weight is 1 to 10000");
    }
    Ok(())
}

impl Container {
    /// What it lives in, until it is stopped.
    fn world(&self) -> Option<Arc<World>> {
        self.state.lock().owned.as_ref().map(|owned| owned.world.clone())
    }

    fn status(&self) -> ContainerStatus {
        let world = self.world();
        let state = match &self.state.lock().life {
            Life::Created(_) => ContainerState::Created,
            Life::Running => ContainerState::Running,
            Life::Stopped(status) => ContainerState::Stopped(for_host(*status)),
        };
        let (tasks, memory) = match world.as_deref() {
            None => (0, 0),
            Some(World { group: Some(group), .. }) => cgroup::container::usage(group),
            Some(_) => {
                let processes = kernel().pids.visible_processes();
                (processes.iter().map(|p| p.threads().len() as u64).sum(), 0)
            }
        };
        ContainerStatus { container: self.name.clone(), state, tasks, memory }
    }

    /// Lets the first process run. `EBUSY` if it has run already. Unless `watch`, the caller waits for it.
    pub fn start(self: &Arc<Self>, watch: bool) -> Result<Arc<Supervised>, Failed> {
        let launch = {
            let mut state = self.state.lock();
            match core::mem::replace(&mut state.life, Life::Running) {
                Life::Created(launch) => launch,
                other => {
                    state.life = other;
                    return Err((Errno::EBUSY, format!("container `{}` was started already", self.name)));
                }
            }
        };
        self.supervise(launch, watch).map(|(_, supervised)| supervised)
    }

    /// Starts another process; answers its number. `EBUSY` unless the container runs.
    pub fn exec(
        self: &Arc<Self>,
        spec: &protocol::Process,
        connect: impl FnOnce() -> Connected,
    ) -> Result<(u32, Arc<Supervised>), Failed> {
        let not_running = || (Errno::EBUSY, format!("container `{}` is not running", self.name));
        let running = matches!(self.state.lock().life, Life::Running);
        let world = self.world().filter(|_| running).ok_or_else(not_running)?;
        let launch = launch::prepare(&world, spec, connect())?;
        self.supervise(launch, true)
    }

    fn supervise(self: &Arc<Self>, launch: Launch, watch: bool) -> Result<(u32, Arc<Supervised>), Failed> {
        let supervised = Supervised::new(&launch);
        let number = {
            let mut state = self.state.lock();
            let number = state.next;
            state.next = number.saturating_add(1);
            if state.processes.len() >= PROCESSES_MAX {
                let over = |p: &Arc<Supervised>| p.end.lock().settled;
                let oldest =
                    state.processes.iter().find(|(n, p)| **n != INIT_PROCESS && over(p)).map(|(n, _)| *n);
                if let Some(oldest) = oldest {
                    state.processes.remove(&oldest);
                }
            }
            state.processes.insert(number, supervised.clone());
            number
        };
        let forget = || drop(self.state.lock().processes.remove(&number));
        if watch && let Err(e) = self.watch(number, &supervised) {
            forget();
            launch.cancel();
            return Err((e, String::from("not enough memory to start")));
        }
        let pid = launch.process().pid;
        SUPERVISED.lock().insert(pid, supervised.clone());
        if let Err(e) = launch.begin() {
            drop(SUPERVISED.lock().remove(&pid));
            forget();
            supervised.ended(ExitStatus::Code(0)); // for who watches
            return Err((e, format!("container `{}` has ended", self.name)));
        }
        Ok((number, supervised))
    }

    /// Begins the task that waits for a process of this container.
    fn watch(self: &Arc<Self>, number: u32, supervised: &Arc<Supervised>) -> Result<()> {
        let (container, process) = (self.clone(), supervised.clone());
        let main = Box::new(move |task: &TaskRef| {
            let status = process.wait(task);
            if let Some(terminal) = &process.terminal {
                terminal.close();
            }
            if number == INIT_PROCESS {
                container.stopped(status);
            }
            process.settle(task);
        });
        spawn_kernel_task(b"container", main).map(|_| ())
    }

    /// The first process has ended, and with it all others.
    fn stopped(&self, status: ExitStatus) {
        let owned = {
            let mut state = self.state.lock();
            state.life = Life::Stopped(status);
            state.owned.take()
        };
        drop(owned);
    }

    /// The process with this number. `ESRCH`.
    pub fn process(&self, number: u32) -> Result<Arc<Supervised>, Failed> {
        let state = self.state.lock();
        if matches!(state.life, Life::Created(_)) {
            return Err((Errno::EBUSY, format!("container `{}` was not started yet", self.name)));
        }
        let found = state.processes.get(&number).cloned();
        found.ok_or_else(|| (Errno::ESRCH, format!("container `{}` has no process {number}", self.name)))
    }

    /// Forgets it. `EBUSY` while it runs.
    pub fn remove(&self) -> Result<(), Failed> {
        if matches!(self.state.lock().life, Life::Running) {
            let why = format!("container `{}` is running; end it first (SIGKILL to process 1)", self.name);
            return Err((Errno::EBUSY, why));
        }
        let removed = ALL.lock().remove(&self.name);
        self.discard();
        drop(removed);
        Ok(())
    }

    /// Gives back what it has.
    fn discard(&self) {
        let (life, owned) = {
            let mut state = self.state.lock();
            (core::mem::replace(&mut state.life, Life::Stopped(ExitStatus::Code(0))), state.owned.take())
        };
        if let Life::Created(launch) = life {
            launch.cancel();
        }
        drop(owned);
    }
}

/// An exit status, as the host is told.
pub fn for_host(status: ExitStatus) -> protocol::ExitStatus {
    match status {
        ExitStatus::Code(c) => protocol::ExitStatus::Code(c),
        ExitStatus::Signal(s, _) => protocol::ExitStatus::Signal(s),
    }
}
