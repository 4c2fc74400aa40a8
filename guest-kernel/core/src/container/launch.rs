//! A process of a container that was asked for: who it runs as, which file it is, its streams.

use alloc::{
    format,
    string::{String, ToString},
    sync::{Arc, Weak},
    vec::Vec,
};

use ringfence_hal as hal;
use ringfence_hal::{FpuInit, UserRegs};
use ringfence_protocol as protocol;

use super::{Connected, Failed, World, terminal::Terminal};
use crate::{
    Sentry, TaskRef,
    cgroup::ForkSlot,
    control::phase,
    drivers::vsock::StreamFile,
    errno::Errno,
    exec::{self, arguments::Arguments},
    fs::{self, FdTable, FileRef, FsContext, OpenFlags, Path, Subject, Walk, WalkFlags},
    io::Sink,
    kernel,
    mm::Mm,
    ns::{UserNamespace, user::IdKind},
    sched::{self, SchedState},
    signal::SigHand,
    task::{
        Capabilities, Credentials, Parts, Process, Task,
        limits::{INFINITY, Limits, Resource},
    },
};

/// Bytes of `/etc/passwd` and `/etc/group` that are looked at.
const MAX_DATABASE: usize = 1 << 20;
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A process, loaded and not yet begun. Its numbers are taken; nobody sees it.
pub struct Launch {
    thread: TaskRef,
    process: Arc<Process>,
    slot: ForkSlot,
    terminal: Option<Arc<Terminal>>,
}

/// Loads a program to run in `world`.
pub fn prepare(world: &World, spec: &protocol::Process, streams: Connected) -> Result<Launch, Failed> {
    let no_root = || (Errno::ENOENT, String::from("the root file system has no root"));
    let root = world.mounts.root().ok_or_else(no_root)?;
    let files = Files { root: &root };
    let user = find_user(&files, spec.user.as_deref(), &world.user_ns)?;
    let mut env = spec.env.clone();
    if !env.iter().any(|e| e.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    let subject = Subject::of(&user.credentials);
    let walk = Walk { subject, root: root.clone(), task: None };
    let cwd = walk
        .resolve(&root, spec.cwd.as_bytes(), WalkFlags::DIRECTORY | WalkFlags::FOLLOW)
        .map_err(|e| (Errno::EINVAL, format!("cannot change to working directory `{}`: {e}", spec.cwd)))?;

    let name = spec.args.first().ok_or((Errno::EINVAL, String::from("no program was given")))?;
    let path_list = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
    let (path, program) = find_program(&walk, &cwd, name, path_list)?;
    let limits = Limits::default();
    let program = exec::prepare(exec::Request {
        walk: &walk,
        cwd: &cwd,
        program,
        path: path.as_bytes(),
        arguments: arguments(&spec.args, &env, limits.soft(Resource::Stack))?,
        credentials: &user.credentials,
        restraint: exec::Restraint::default(),
        limits: limits.for_mm(),
        randomize: true,
    })
    .map_err(|e| (e, format!("cannot run `{path}`: {}", explain(e))))?;
    phase("program_loaded");
    let owner = user.credentials.uid;

    let table = FdTable::new();
    let (terminal, session_files) = open_streams((world.container, owner), &root, streams)?;
    for file in session_files {
        table
            .install(file, false, INFINITY)
            .map_err(|e| (e, String::from("cannot set up the standard streams")))?;
    }
    let context = FsContext::new(world.mounts.clone()).map_err(|_| no_root())?;
    context.set_cwd(cwd);

    let slot = ForkSlot::reserve_for(world.group.clone())
        .map_err(|e| (e, String::from("the container has as many tasks as its limit allows")))?;
    let no_memory = |e| (e, String::from("not enough memory to start; give the sandbox more with --memory"));
    let kernel = kernel::kernel();
    let numbers = kernel.pids.tree(|t| t.allocate_in(&world.pid_ns, &[]));
    let (pid, number) = numbers.map_err(no_memory)?;
    let group = kernel.pids.tree(|t| t.new_session(pid));
    let process = Process::new(
        (pid, number, world.pid_ns.clone()),
        Weak::new(),
        group.clone(),
        Arc::new(SigHand::default()),
        limits,
    );
    let mm: Arc<Mm> = program.image.mm.clone();
    let parts = Parts {
        mm: Some(mm.clone()),
        files: Some(table),
        fs: Some(context),
        credentials: Arc::new(program.credentials),
        namespaces: world.namespaces.clone(),
    };
    let first =
        Task::new(pid, process.clone(), parts, SchedState::new(), crate::task::comm_of(&program.name));
    first.set_tid(pid, number);
    let regs = UserRegs::new(program.image.entry, program.image.stack);
    let thread = hal::Thread::<Sentry>::new_user(first, &regs, FpuInit::Fresh, 0, 0, mm.space().clone())
        .map_err(|e| no_memory(e.into()))?;
    if let Some(terminal) = &terminal {
        terminal.attach(&group);
    }
    Ok(Launch { thread, process, slot, terminal })
}

impl Launch {
    /// The process.
    pub fn process(&self) -> &Arc<Process> {
        &self.process
    }

    /// Its terminal, if it has one.
    pub fn terminal(&self) -> Option<&Arc<Terminal>> {
        self.terminal.as_ref()
    }

    /// Lets it run. `ESRCH` if the container has ended.
    pub fn begin(mut self) -> Result<(), Errno> {
        let (process, thread) = (&self.process, &self.thread);
        let visible = kernel::kernel().pids.tree(|t| {
            // Who ends a namespace looks for what lives in it with this lock held.
            if process.pid_ns.is_dead() {
                return Err(Errno::ESRCH);
            }
            self.slot.settle(process, process, thread, false)?;
            process.links.lock().threads.push(thread.clone());
            t.set_task(process.pid, thread);
            t.set_process(process);
            Ok(())
        });
        if let Err(e) = visible {
            self.cancel();
            return Err(e);
        }
        self.slot.done();
        phase("first_process_started");
        sched::start(&self.thread);
        Ok(())
    }

    /// Forgets it.
    pub fn cancel(self) {
        if let Some(terminal) = &self.terminal {
            terminal.close();
        }
        let pid = self.process.pid;
        drop(self);
        kernel::kernel().pids.tree(|t| t.forget_if_free(pid));
    }
}

fn explain(e: Errno) -> String {
    match e {
        Errno::ENOENT => "its interpreter does not exist in the image".to_string(),
        Errno::ENOEXEC => "it is neither an x86-64 ELF program nor a script".to_string(),
        Errno::EACCES => "permission denied".to_string(),
        Errno::ENOMEM => "not enough memory; give the sandbox more with --memory".to_string(),
        e => e.to_string(),
    }
}

fn arguments(args: &[String], env: &[String], stack_limit: u64) -> Result<Arguments, Failed> {
    let too_long = |e| (e, String::from("the arguments and environment are too long"));
    let mut out = Arguments::new(stack_limit);
    for a in args {
        out.push_argument(a.as_bytes()).map_err(too_long)?;
    }
    for e in env {
        out.push_environment(e.as_bytes()).map_err(too_long)?;
    }
    Ok(out)
}

/// Looks a program up as `execvp(3)` does.
fn find_program(walk: &Walk<'_>, cwd: &Path, name: &str, path: &str) -> Result<(String, FileRef), Failed> {
    let open = |p: &str| exec::open(walk, cwd, p.as_bytes(), WalkFlags::FOLLOW);
    if name.contains('/') {
        let file = open(name).map_err(|e| match e {
            Errno::ENOENT => (e, format!("there is no program `{name}` in the image")),
            e => (e, format!("cannot run `{name}`: {}", explain(e))),
        })?;
        return Ok((name.to_string(), file));
    }
    let mut denied = None;
    for dir in path.split(':') {
        let dir = if dir.is_empty() { "." } else { dir };
        let candidate = format!("{dir}/{name}");
        match open(&candidate) {
            Ok(file) => return Ok((candidate, file)),
            Err(Errno::EACCES) => denied = Some(candidate),
            Err(_) => {}
        }
    }
    Err(match denied {
        Some(p) => (Errno::EACCES, format!("cannot run `{p}`: permission denied")),
        None => (Errno::ENOENT, format!("there is no program `{name}` in the image (searched {path})")),
    })
}

/// The files of the root, read by the kernel.
struct Files<'a> {
    root: &'a Path,
}

impl Files<'_> {
    /// The text of a file; empty if there is none.
    fn text(&self, path: &str) -> String {
        let read = || -> Result<Vec<u8>, Errno> {
            let walk = Walk { subject: Subject::ROOT, root: self.root.clone(), task: None };
            let place = walk.resolve(self.root, path.as_bytes(), WalkFlags::FOLLOW)?;
            let inode = place.inode()?;
            let len = usize::try_from(inode.size()).unwrap_or(usize::MAX).min(MAX_DATABASE);
            let mut bytes = Vec::new();
            bytes.try_reserve_exact(len).map_err(|_| Errno::ENOMEM)?;
            bytes.resize(len, 0);
            let n = inode.read_at(0, &mut Sink::kernel(&mut bytes))?;
            bytes.truncate(n);
            Ok(bytes)
        };
        String::from_utf8_lossy(&read().unwrap_or_default()).into_owned()
    }
}

/// Who the process runs as.
struct User {
    credentials: Credentials,
    home: String,
}

/// A line of passwd(5) or group(5), split.
fn entry(text: &str, mut matches: impl FnMut(&[&str]) -> bool) -> Option<Vec<&str>> {
    text.lines().map(|l| l.split(':').collect::<Vec<_>>()).find(|fields| matches(fields))
}

/// `USER[:GROUP]`, by name or number; nobody named is root.
fn find_user(files: &Files<'_>, spec: Option<&str>, ns: &Arc<UserNamespace>) -> Result<User, Failed> {
    let passwd = files.text("/etc/passwd");
    let group = files.text("/etc/group");
    resolve_user(&passwd, &group, spec.unwrap_or("0"), ns)
}

fn resolve_user(passwd: &str, group: &str, spec: &str, ns: &Arc<UserNamespace>) -> Result<User, Failed> {
    let (name, group_name) = match spec.split_once(':') {
        Some((u, g)) => (u, Some(g)),
        None => (spec, None),
    };
    let number: Option<u32> = name.parse().ok();
    let by_name = |f: &[&str]| f.first() == Some(&name);
    let by_number = |f: &[&str]| number.is_some() && f.get(2).and_then(|n| n.parse().ok()) == number;
    let line = entry(passwd, by_name).or_else(|| entry(passwd, by_number));
    let field = |i: usize| line.as_ref().and_then(|l| l.get(i).copied());
    let uid = field(2).and_then(|n| n.parse().ok()).or(number);
    let uid: u32 =
        uid.ok_or_else(|| (Errno::EINVAL, format!("there is no user `{name}` in the image's /etc/passwd")))?;
    let gid = match group_name {
        None => field(3).and_then(|n| n.parse().ok()).unwrap_or(0),
        Some(g) => entry(group, |f| f.first() == Some(&g))
            .and_then(|f| f.get(2).and_then(|n| n.parse().ok()))
            .or_else(|| g.parse().ok())
            .ok_or_else(|| (Errno::EINVAL, format!("there is no group `{g}` in the image's /etc/group")))?,
    };
    let mut groups: Vec<u32> = Vec::new();
    if let Some(login) = field(0).filter(|_| group_name.is_none()) {
        let member = |f: &Vec<&str>| f.get(3).is_some_and(|m| m.split(',').any(|n| n == login));
        groups.extend(
            group
                .lines()
                .map(|l| l.split(':').collect::<Vec<_>>())
                .filter(member)
                .filter_map(|f| f.get(2).and_then(|n| n.parse::<u32>().ok())),
        );
    }
    let home = field(5).filter(|h| !h.is_empty()).unwrap_or("/").to_string();
    let credentials = in_namespace(ns, uid, gid, &groups)?;
    Ok(User { credentials, home })
}

/// The credentials of a user of `ns`; its user 0 has every capability there.
fn in_namespace(ns: &Arc<UserNamespace>, uid: u32, gid: u32, groups: &[u32]) -> Result<Credentials, Failed> {
    let kernel = |kind, id: u32, what: &str, map: &str| {
        let missing = || (Errno::EINVAL, format!("{what} {id} has no id in the container's {map}"));
        ns.to_kernel(kind, id).ok_or_else(missing)
    };
    let user = kernel(IdKind::User, uid, "user", "uid_map")?;
    let group = |id| kernel(IdKind::Group, id, "group", "gid_map");
    let groups = groups.iter().map(|id| group(*id)).collect::<Result<_, _>>()?;
    let capabilities = if uid == 0 { Capabilities::all() } else { Capabilities::empty() };
    Ok(Credentials {
        permitted: capabilities,
        effective: capabilities,
        user_ns: ns.clone(),
        ..Credentials::user(user, group(gid)?, groups)
    })
}

/// The files for descriptors 0, 1 and 2, and the terminal if that is what they are.
fn open_streams(
    (container, uid): (u32, u32),
    root: &Path,
    streams: Connected,
) -> Result<(Option<Arc<Terminal>>, [FileRef; 3]), Failed> {
    match streams {
        Connected::Pipes(ends) => {
            let [stdin, stdout, stderr] = ends;
            let null = |flags| open_null(root, flags);
            Ok((
                None,
                [
                    stdin.map_or_else(|| null(OpenFlags::empty()), |s| Ok(StreamFile::input(s)))?,
                    stdout.map_or_else(|| null(OpenFlags::WRONLY), |s| Ok(StreamFile::output(s)))?,
                    stderr.map_or_else(|| null(OpenFlags::WRONLY), |s| Ok(StreamFile::output(s)))?,
                ],
            ))
        }
        Connected::Tty { stream, rows, cols } => {
            let (terminal, file) = Terminal::start((container, uid), stream, rows, cols)
                .map_err(|e| (e, format!("cannot make a terminal: {e}")))?;
            Ok((Some(terminal), [file.clone(), file.clone(), file]))
        }
    }
}

fn open_null(root: &Path, flags: OpenFlags) -> Result<FileRef, Failed> {
    let walk = Walk { subject: Subject::ROOT, root: root.clone(), task: None };
    fs::open::open(&walk, root, b"/dev/null", flags, 0, WalkFlags::empty())
        .map_err(|e| (e, format!("cannot open /dev/null in the sandbox: {e}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    use ringfence_protocol::{IdMap, IdRange};

    const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\nann:x:1000:1001::/home/ann:/bin/sh\n";
    const GROUP: &str = "root:x:0:\nann:x:1001:\naudio:x:29:ann,bob\n";

    fn user(spec: &str) -> (u32, u32, Vec<u32>, String) {
        let u = resolve_user(PASSWD, GROUP, spec, UserNamespace::initial()).ok().unwrap();
        (u.credentials.uid, u.credentials.gid, u.credentials.groups, u.home)
    }

    #[test]
    fn users_are_found_by_name_and_number() {
        assert_eq!(user("ann"), (1000, 1001, Vec::from([29]), "/home/ann".to_string()));
        assert_eq!(user("1000"), user("ann"));
        assert_eq!(user("ann:audio"), (1000, 29, Vec::new(), "/home/ann".to_string()));
        assert_eq!(user("4242:7"), (4242, 7, Vec::new(), "/".to_string()));
        let initial = UserNamespace::initial();
        assert!(resolve_user(PASSWD, GROUP, "eve", initial).is_err());
        assert!(resolve_user(PASSWD, GROUP, "ann:nope", initial).is_err());
    }

    #[test]
    fn users_of_a_container_with_maps_are_those_of_its_namespace() {
        let map = |count| IdMap([IdRange { inside: 0, outside: 100_000, count }].into());
        let ns = UserNamespace::for_container(&map(1001), &map(1002)).unwrap();
        let of = |spec| resolve_user(PASSWD, GROUP, spec, &ns).map(|user| user.credentials);
        let root = of("0").ok().unwrap();
        assert_eq!((root.uid, root.fsgid, root.effective), (100_000, 100_000, Capabilities::all()));
        assert!(root.capable_here(Capabilities::SYS_ADMIN) && !root.capable(Capabilities::SYS_ADMIN));
        let ann = of("ann").ok().unwrap();
        assert_eq!((ann.uid, ann.gid, ann.groups), (101_000, 101_001, Vec::from([100_029])));
        assert_eq!(ann.permitted, Capabilities::empty());
        let says = |spec| of(spec).err().unwrap().1;
        assert_eq!(says("1001:0"), "user 1001 has no id in the container's uid_map");
        assert_eq!(says("0:1002"), "group 1002 has no id in the container's gid_map");
    }
}
