//! The prisoner.

use std::fs::File;
use std::io::{self, Write};
use std::net::TcpStream;
use std::os::fd::FromRawFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixStream};

use rustix::mount::MountFlags;
use rustix::process::{Gid, Pid, Resource, Signal, Uid};
use rustix::thread::{CapabilitySet, UnshareFlags};

type Found = Result<(), String>;
type Check = fn(&Arguments) -> Found;

/// What the outside tells.
pub struct Arguments {
    port: u16,
    abstract_name: String,
}

/// Every attempt, by what its success would mean.
pub const CHECKS: &[(&str, Check)] = &[
    ("the root is empty and read-only", root),
    ("no file of the host can be opened", files),
    ("no file system can be mounted", mounts),
    ("no process is seen or signalled", processes),
    ("no network is reached", network),
    ("no capability is held or can be gained", capabilities),
    ("no other id can be taken", ids),
    ("no namespace can be made", namespaces),
    ("no descriptor but the listed ones is open", descriptors),
    ("the environment is empty", environment),
    ("limits hold", limits),
    ("the host has no name and no terminal here", surroundings),
];

pub fn main(args: &[String]) -> ! {
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["report", sockets] => report(sockets),
        ["sleep"] => sleep(),
        ["fork"] => fork(),
        ["eat"] => eat(),
        _ => std::process::exit(0),
    }
}

fn report(sockets: &str) -> ! {
    let (port, name) = sockets.split_once('@').expect("port@name");
    let args = Arguments { port: port.parse().expect("a port"), abstract_name: name.to_owned() };
    let mut out = report_file();
    for (name, check) in CHECKS {
        let line = match check(&args) {
            Ok(()) => format!("{name}\n"),
            Err(why) => format!("{name} FAILED: {why}\n"),
        };
        out.write_all(line.as_bytes()).expect("a reader");
    }
    std::process::exit(7)
}

fn report_file() -> File {
    // SAFETY: the jail gives us descriptor 3, and nothing else here uses it.
    unsafe { File::from_raw_fd(3) }
}

/// Until SIGTERM, which as process 1 we only get because we handle it.
fn sleep() -> ! {
    extern "C" fn ended(_: libc::c_int) {
        // SAFETY: _exit may be called from a signal handler.
        unsafe { libc::_exit(42) }
    }
    // SAFETY: the handler does nothing but _exit.
    unsafe { libc::signal(libc::SIGTERM, ended as *const () as libc::sighandler_t) };
    // Nobody may listen.
    let _ = report_file().write_all(b"ready");
    loop {
        std::thread::park();
    }
}

/// Forks until it cannot; the code is how often it could.
fn fork() -> ! {
    for n in 0..100 {
        // SAFETY: the child only waits to be killed.
        match unsafe { libc::fork() } {
            0 => loop {
                std::thread::park();
            },
            -1 => std::process::exit(n),
            _ => {}
        }
    }
    std::process::exit(100)
}

/// Uses more memory than it may.
fn eat() -> ! {
    let mut meal = vec![0u8; 64 << 20];
    meal.iter_mut().step_by(4096).for_each(|byte| *byte = 1);
    std::process::exit(i32::from(std::hint::black_box(&meal)[0]))
}

/// `attempt` must fail with one of `errors`.
fn refused<T>(what: &str, attempt: Result<T, impl Into<io::Error>>, errors: &[i32]) -> Found {
    match attempt.map_err(Into::into) {
        Ok(_) => Err(format!("{what} worked")),
        Err(e) if e.raw_os_error().is_some_and(|n| errors.contains(&n)) => Ok(()),
        Err(e) => Err(format!("{what} failed in an unexpected way: {e}")),
    }
}

fn root(_: &Arguments) -> Found {
    let entries = std::fs::read_dir("/").map_err(|e| e.to_string())?.count();
    if entries != 0 {
        return Err(format!("{entries} entries"));
    }
    refused("mkdir", std::fs::create_dir("/x"), &[libc::EROFS])?;
    refused("a file", File::create("/x"), &[libc::EROFS])?;
    refused(
        "mknod",
        rustix::fs::mknodat(
            rustix::fs::CWD,
            "/kvm",
            rustix::fs::FileType::CharacterDevice,
            rustix::fs::Mode::RWXU,
            rustix::fs::makedev(10, 232),
        ),
        &[libc::EROFS, libc::EPERM],
    )
}

fn files(_: &Arguments) -> Found {
    for path in [
        "/etc/passwd",
        "/proc/self/root/etc/passwd",
        "/dev/null",
        "/dev/kvm",
        "/proc/1/environ",
        "../../../etc/passwd",
        "/sys/kernel",
    ] {
        refused(path, File::open(path), &[libc::ENOENT])?;
    }
    let up = rustix::process::chroot("..").and_then(|()| rustix::process::chdir("../../.."));
    refused("chroot out", up, &[libc::EPERM])?;
    // Handles open files without a path; that needs CAP_DAC_READ_SEARCH in the first user namespace.
    let mut handle = [8u32, 1, 2, 0];
    // SAFETY: the handle is a buffer of the size its first word says, and lives through the call.
    let raw = unsafe {
        libc::syscall(libc::SYS_open_by_handle_at, libc::AT_FDCWD, handle.as_mut_ptr(), libc::O_RDONLY)
    };
    let opened = if raw < 0 { Err(io::Error::last_os_error()) } else { Ok(()) };
    refused("open_by_handle_at", opened, &[libc::EPERM])
}

fn mounts(_: &Arguments) -> Found {
    let tmpfs = rustix::mount::mount("x", "/", "tmpfs", MountFlags::empty(), None);
    refused("mount", tmpfs, &[libc::EPERM])?;
    let proc = rustix::mount::mount("x", "/", "proc", MountFlags::empty(), None);
    refused("mount of proc", proc, &[libc::EPERM])?;
    let writable = rustix::mount::mount_remount("/", MountFlags::empty(), "");
    refused("a writable remount", writable, &[libc::EPERM])?;
    refused("fsopen", rustix::mount::fsopen("tmpfs", rustix::mount::FsOpenFlags::empty()), &[libc::EPERM])
}

fn processes(_: &Arguments) -> Found {
    let pid = rustix::process::getpid();
    if pid != Pid::INIT || rustix::process::getppid().is_some() {
        return Err(format!("process {pid:?}, parent {:?}", rustix::process::getppid()));
    }
    let everybody = {
        // SAFETY: kill touches no memory.
        let raw = unsafe { libc::kill(-1, libc::SIGCONT) };
        if raw < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    };
    refused("kill(-1)", everybody, &[libc::ESRCH])?;
    for n in 2..200 {
        let Some(pid) = Pid::from_raw(n) else { continue };
        refused(&format!("kill({n})"), rustix::process::kill_process(pid, Signal::KILL), &[libc::ESRCH])?;
    }
    Ok(())
}

fn network(args: &Arguments) -> Found {
    refused("TCP to the host", TcpStream::connect(("127.0.0.1", args.port)), &[libc::ENETUNREACH])?;
    let address = SocketAddr::from_abstract_name(&args.abstract_name).map_err(|e| e.to_string())?;
    refused("an abstract socket of the host", UnixStream::connect_addr(&address), &[libc::ECONNREFUSED])?;
    let raw = rustix::net::socket(rustix::net::AddressFamily::PACKET, rustix::net::SocketType::RAW, None);
    refused("a packet socket", raw, &[libc::EPERM])
}

fn capabilities(_: &Arguments) -> Found {
    let held = rustix::thread::capabilities(None).map_err(|e| e.to_string())?;
    if !(held.effective | held.permitted | held.inheritable).is_empty() {
        return Err(format!("{held:?}"));
    }
    for capability in CapabilitySet::all().iter() {
        if let Ok(true) = rustix::thread::capability_is_in_bounding_set(capability) {
            return Err(format!("{capability:?} is in the bounding set"));
        }
    }
    match rustix::thread::no_new_privs() {
        Ok(true) => Ok(()),
        other => Err(format!("no_new_privs is {other:?}")),
    }
}

fn ids(_: &Arguments) -> Found {
    let (root_user, root_group) = (Uid::ROOT, Gid::ROOT);
    // Not even mapped here.
    refused(
        "setresuid(0)",
        rustix::thread::set_thread_res_uid(root_user, root_user, root_user),
        &[libc::EINVAL, libc::EPERM],
    )?;
    refused(
        "setresgid(0)",
        rustix::thread::set_thread_res_gid(root_group, root_group, root_group),
        &[libc::EINVAL, libc::EPERM],
    )?;
    refused("setgroups", rustix::thread::set_thread_groups(&[root_group]), &[libc::EPERM])?;
    match rustix::process::getuid().as_raw() {
        0 => Err("the user id is 0".to_owned()),
        _ => Ok(()),
    }
}

fn namespaces(_: &Arguments) -> Found {
    for flags in [
        UnshareFlags::NEWUSER,
        UnshareFlags::NEWNS,
        UnshareFlags::NEWNET,
        UnshareFlags::NEWUSER | UnshareFlags::NEWNS,
    ] {
        // SAFETY: no thread of ours shares what would be unshared.
        let unshared = unsafe { rustix::thread::unshare_unsafe(flags) };
        refused(&format!("unshare({flags:?})"), unshared, &[libc::EPERM, libc::ENOSPC])?;
    }
    Ok(())
}

fn descriptors(_: &Arguments) -> Found {
    // SAFETY: F_GETFD touches no memory.
    let open: Vec<i32> = (0..4096).filter(|&fd| unsafe { libc::fcntl(fd, libc::F_GETFD) } >= 0).collect();
    if open == [0, 1, 2, 3] { Ok(()) } else { Err(format!("open: {open:?}")) }
}

fn environment(_: &Arguments) -> Found {
    match std::env::vars_os().next() {
        None => Ok(()),
        Some((name, _)) => Err(format!("{} is set", name.to_string_lossy())),
    }
}

fn limits(_: &Arguments) -> Found {
    for (resource, most) in [(Resource::Core, 0), (Resource::Memlock, 0), (Resource::Nofile, 1024)] {
        let limit = rustix::process::getrlimit(resource);
        if limit.maximum.is_none_or(|max| max > most) {
            return Err(format!("{resource:?} is {limit:?}"));
        }
    }
    let more = rustix::process::Rlimit { current: Some(1 << 20), maximum: Some(1 << 20) };
    refused("a raised limit", rustix::process::setrlimit(Resource::Nofile, more), &[libc::EPERM])
}

fn surroundings(_: &Arguments) -> Found {
    let name = rustix::system::uname();
    if name.nodename() != c"ringfence" {
        return Err(format!("the host name is {:?}", name.nodename()));
    }
    refused("sethostname", rustix::system::sethostname(b"x"), &[libc::EPERM])?;
    let session = rustix::process::getsid(None).map_err(|e| e.to_string())?;
    if session == Pid::INIT { Ok(()) } else { Err(format!("session {session:?}")) }
}
