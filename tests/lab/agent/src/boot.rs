//! Setting the machine up: root file system, pseudo file systems, modules, `/srv/debian`, `/srv/programs`.
use std::ffi::CString;
use std::fs;
use std::io::{self, ErrorKind};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// The disk with the root file system. NVMe and ext4 are built into Debian's cloud kernel.
const DISK: &str = "/dev/nvme0n1";

/// The disk with server programs, in labs that have it.
const PROGRAMS: &str = "/dev/nvme0n2";

/// Kernel modules the lab and what is tested in it need. One that a kernel has built in or lacks is skipped.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_console",
    "kvm_amd",
    "loop",
    "erofs",
    "overlay",
    "tun",
    "vhost_vsock",
    "vsock_loopback",
    "virtiofs",
    "fuse",
];

/// Everything up to the point where commands can run.
pub fn set_up() -> io::Result<()> {
    mount("dev", "/dev", "devtmpfs", "")?;
    let deadline = Instant::now() + Duration::from_secs(30);
    while !Path::new(DISK).exists() {
        if Instant::now() > deadline {
            return Err(io::Error::new(ErrorKind::NotFound, format!("{DISK} does not appear")));
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    mount(DISK, "/root", "ext4", "")?;
    enter_root("/root")?;

    mount("proc", "/proc", "proc", "")?;
    mount("sys", "/sys", "sysfs", "")?;
    mount("dev", "/dev", "devtmpfs", "")?;
    for directory in ["/dev/pts", "/dev/shm"] {
        fs::create_dir_all(directory)?;
    }
    mount("devpts", "/dev/pts", "devpts", "mode=620,gid=5,ptmxmode=666")?;
    mount("shm", "/dev/shm", "tmpfs", "mode=1777")?;
    mount("run", "/run", "tmpfs", "mode=755")?;
    mount("tmp", "/tmp", "tmpfs", "mode=1777,size=75%")?;
    mount("cgroup", "/sys/fs/cgroup", "cgroup2", "")?;
    fs::write("/sys/fs/cgroup/cgroup.subtree_control", "+cpu +memory +pids +io")?;
    for (target, link) in [
        ("/proc/self/fd", "/dev/fd"),
        ("/proc/self/fd/0", "/dev/stdin"),
        ("/proc/self/fd/1", "/dev/stdout"),
        ("/proc/self/fd/2", "/dev/stderr"),
    ] {
        match symlink(target, link) {
            Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
    }
    fs::write("/proc/sys/kernel/hostname", "lab")?;

    // SAFETY: PID 1 before its first thread; nothing else reads the environment.
    unsafe {
        for (name, value) in [
            ("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"),
            ("HOME", "/root"),
            ("LANG", "C.UTF-8"),
        ] {
            std::env::set_var(name, value);
        }
        for name in ["TERM", "BOOT_IMAGE"] {
            std::env::remove_var(name);
        }
    }
    run("busybox", &[&["modprobe", "-a"], MODULES].concat());
    run("busybox", &["ip", "link", "set", "lo", "up"]);
    run("mount", &["-t", "erofs", "-o", "ro,loop", "/srv/debian.erofs", "/srv/debian"]);
    if Path::new(PROGRAMS).exists() {
        fs::create_dir_all("/srv/disk")?;
        fs::create_dir_all("/srv/programs")?;
        mount(PROGRAMS, "/srv/disk", "ext4", "")?;
        symlink("disk/programs.erofs", "/srv/programs.erofs")?;
        run("mount", &["-t", "erofs", "-o", "ro,loop", "/srv/disk/programs.erofs", "/srv/programs"]);
    }
    Ok(())
}

/// The character devices of the virtio-serial ports.
pub fn ports() -> Vec<PathBuf> {
    let deadline = Instant::now() + Duration::from_secs(10);
    let wanted: usize = kernel_argument("lab.ports").and_then(|text| text.parse().ok()).unwrap_or(1);
    loop {
        let mut found: Vec<PathBuf> = fs::read_dir("/dev")
            .into_iter()
            .flatten()
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.to_string_lossy().starts_with("/dev/vport"))
            .collect();
        if found.len() >= wanted || Instant::now() > deadline {
            found.sort();
            return found;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The value of `name=value` on the kernel command line.
pub fn kernel_argument(name: &str) -> Option<String> {
    let line = fs::read_to_string("/proc/cmdline").ok()?;
    line.split_whitespace().find_map(|word| Some(word.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// Runs a helper program; a failure is said on the console and is not fatal.
fn run(program: &str, arguments: &[&str]) {
    match Command::new(program).args(arguments).status() {
        Ok(status) if status.success() => {}
        other => println!("lab: {program} {arguments:?}: {other:?}"),
    }
}

fn c_string(text: &str) -> io::Result<CString> {
    CString::new(text).map_err(io::Error::other)
}

fn mount(source: &str, target: &str, kind: &str, options: &str) -> io::Result<()> {
    let (source, place, fs_type, data) =
        (c_string(source)?, c_string(target)?, c_string(kind)?, c_string(options)?);
    // SAFETY: four NUL-terminated strings that outlive the call.
    let result =
        unsafe { libc::mount(source.as_ptr(), place.as_ptr(), fs_type.as_ptr(), 0, data.as_ptr().cast()) };
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("mount {kind} on {target}: {error}")));
    }
    Ok(())
}

/// Makes the mount at `path` the root directory; the initramfs stays, empty of use, under it.
fn enter_root(path: &str) -> io::Result<()> {
    std::env::set_current_dir(path)?;
    // SAFETY: NUL-terminated literals; the data pointer may be null.
    let moved = unsafe {
        libc::mount(c".".as_ptr(), c"/".as_ptr(), std::ptr::null(), libc::MS_MOVE, std::ptr::null())
    };
    if moved < 0 {
        return Err(io::Error::last_os_error());
    }
    std::os::unix::fs::chroot(".")?;
    std::env::set_current_dir("/")
}
