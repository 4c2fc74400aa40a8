//! cgroup v2: where the sandbox's processes live, what they can take, and the way to end them all at once.
//!
//! The hierarchy is found by its mount. As root a sandbox gets `ringfence/ID` below its root; other users get
//! `ringfence-ID` below their own cgroup, which works where that is delegated to them
//! (`systemd-run --user --scope -p Delegate=yes …`). The VMM is born in its cgroup (CLONE_INTO_CGROUP), so it
//! never runs outside the limits. The monitor stays outside, to remove it.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::JailError;
use crate::config::{JailConfig, Limits, is_root};

const PARENT: &str = "ringfence";
/// What is dead may take a moment to leave its cgroup.
const LEAVE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_millis(2);

/// The cgroup of one sandbox.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: File,
}

/// Where this host's v2 hierarchy is mounted, by `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn hierarchy(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(3);
        let (root, mount_point) = (fields.next()?, fields.next()?);
        let whole = right.starts_with("cgroup2 ") && root == "/";
        whole.then(|| mount_point.replace("\\040", " ").into())
    })
}

/// The caller's place in the v2 hierarchy, by `/proc/self/cgroup` (cgroups(7)).
fn own(cgroup: &str) -> Option<&str> {
    cgroup.lines().find_map(|line| line.strip_prefix("0::/"))
}

/// `path` as it will be; nothing is made yet.
fn place(config: &JailConfig) -> Result<(PathBuf, PathBuf), String> {
    let read = |path: &str| fs::read_to_string(path).map_err(|e| format!("cannot read {path}: {e}"));
    let root = hierarchy(&read("/proc/self/mountinfo")?).ok_or("no cgroup v2 hierarchy is mounted")?;
    let id = &config.id;
    let path = match &config.cgroup_parent {
        Some(parent) => root.join(parent.strip_prefix("/").unwrap_or(parent)).join(id.as_str()),
        None if is_root() => root.join(PARENT).join(id.as_str()),
        None => {
            let own = read("/proc/self/cgroup")?;
            let own = own_place(&own)?;
            root.join(own).join(format!("{PARENT}-{id}"))
        }
    };
    Ok((root, path))
}

fn own_place(cgroup: &str) -> Result<&str, String> {
    own(cgroup).ok_or_else(|| "this process is in no cgroup v2".to_owned())
}

impl Cgroup {
    /// Makes it and sets the limits. Where the host cannot, and nobody insists, it is `Err` of a warning in the outer `Ok`: the sandbox can run without, and its user is told so.
    pub fn create(config: &JailConfig) -> Result<Result<Self, String>, JailError> {
        let made = place(config).and_then(|(root, path)| Self::make(&root, path, &config.limits));
        match (made, &config.cgroup_parent) {
            (Ok(cgroup), _) => Ok(Ok(cgroup)),
            (Err(why), None) if config.require_cgroup => {
                Err(JailError::Invalid(format!("the limits cannot be held: {why}")))
            }
            (Err(why), None) => {
                Ok(Err(format!("the sandbox has no cgroup, so no limits of cgroups hold: {why}")))
            }
            (Err(why), Some(parent)) => {
                Err(JailError::Invalid(format!("cannot make a cgroup below {}: {why}", parent.display())))
            }
        }
    }

    fn make(root: &Path, path: PathBuf, limits: &Limits) -> Result<Self, String> {
        let settings = settings(limits);
        let mut wanted: Vec<&str> = settings.iter().filter_map(|(file, _)| file.split('.').next()).collect();
        wanted.dedup();
        let parent = path.parent().unwrap_or(root);
        fs::create_dir_all(parent).map_err(|e| format!("cannot make {}: {e}", parent.display()))?;
        for level in levels(root, parent) {
            enable(&level, &wanted)?;
        }
        match fs::create_dir(&path) {
            // A killed sandbox has left it; the name's lock is ours.
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                let old = Self::open(path.clone()).map_err(|e| format!("{}: {e}", path.display()))?;
                old.try_remove().and_then(|()| fs::create_dir(&path))
            }
            made => made,
        }
        .map_err(|e| format!("cannot make {}: {e}", path.display()))?;
        let cgroup = Self::open(path).map_err(|e| format!("cannot open the new cgroup: {e}"))?;
        for (file, value) in settings {
            if let Err(e) = fs::write(cgroup.path.join(file), &value) {
                let why = format!("cannot set {file} to {value:?}: {e}");
                let _ = cgroup.remove();
                return Err(why);
            }
        }
        Ok(cgroup)
    }

    fn open(path: PathBuf) -> io::Result<Self> {
        Ok(Self { dir: File::open(&path)?, path })
    }

    /// The cgroup of a sandbox that is no more, if it has left one.
    pub fn left_by(config: &JailConfig) -> Option<Self> {
        let (_, path) = place(config).ok()?;
        Self::at(path)
    }

    /// The cgroup with this directory, if it is there.
    pub fn at(path: PathBuf) -> Option<Self> {
        Self::open(path).ok()
    }

    /// Its directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends every process in it, and removes it once they are gone. A cgroup already removed is no error.
    pub fn remove(&self) -> Result<(), JailError> {
        self.try_remove().map_err(|e| JailError::host(format!("remove {}", self.path.display()), e))
    }

    fn try_remove(&self) -> io::Result<()> {
        let start = Instant::now();
        loop {
            match fs::remove_dir(&self.path) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::ResourceBusy && start.elapsed() < LEAVE => {}
                result => return result,
            }
            self.kill()?;
            std::thread::sleep(RETRY);
        }
    }

    /// `cgroup.kill` is Linux 5.14; before it, each process in turn, as often as it takes.
    fn kill(&self) -> io::Result<()> {
        let gone =
            |e: &io::Error| e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV);
        match fs::OpenOptions::new().write(true).open(self.path.join("cgroup.kill")) {
            Ok(mut file) => match io::Write::write_all(&mut file, b"1") {
                Err(e) if !gone(&e) => Err(e),
                _ => Ok(()),
            },
            Err(_) => {
                let processes = fs::read_to_string(self.path.join("cgroup.procs")).unwrap_or_default();
                for pid in processes
                    .lines()
                    .filter_map(|l| l.parse().ok())
                    .filter_map(rustix::process::Pid::from_raw)
                {
                    // It may have ended by itself.
                    let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
                }
                Ok(())
            }
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// The limits as files and their contents (Linux's Documentation/admin-guide/cgroup-v2.rst), one controller's
/// together.
fn settings(limits: &Limits) -> Vec<(&'static str, String)> {
    const PERIOD_US: u64 = 100_000;
    let mut settings = Vec::new();
    if let Some(bytes) = limits.memory {
        settings.push(("memory.max", bytes.to_string()));
        settings.push(("memory.swap.max", "0".to_owned()));
        settings.push(("memory.oom.group", "1".to_owned()));
    }
    if let Some(millis) = limits.cpu_millis {
        settings.push(("cpu.max", format!("{} {PERIOD_US}", u64::from(millis) * PERIOD_US / 1000)));
    }
    if let Some(pids) = limits.pids {
        settings.push(("pids.max", pids.to_string()));
    }
    for io in &limits.io {
        let rates = [
            ("rbps", io.read_bytes),
            ("wbps", io.write_bytes),
            ("riops", io.read_ops),
            ("wiops", io.write_ops),
        ];
        let rates: String =
            rates.iter().filter_map(|(name, rate)| rate.map(|rate| format!(" {name}={rate}"))).collect();
        settings.push(("io.max", format!("{}:{}{rates}", io.device.0, io.device.1)));
    }
    settings
}

/// From the hierarchy's root to `parent`, both included.
fn levels(root: &Path, parent: &Path) -> Vec<PathBuf> {
    let mut levels: Vec<_> =
        parent.ancestors().take_while(|dir| dir.starts_with(root)).map(Path::to_owned).collect();
    levels.reverse();
    levels
}

/// Lets the children of `level` be limited by `wanted`. Levels that do already are not written to: above a
/// delegated cgroup we may not.
fn enable(level: &Path, wanted: &[&str]) -> Result<(), String> {
    let control = level.join("cgroup.subtree_control");
    let enabled =
        fs::read_to_string(&control).map_err(|e| format!("cannot read {}: {e}", control.display()))?;
    let missing: Vec<_> = wanted.iter().filter(|c| !enabled.split_whitespace().any(|e| e == **c)).collect();
    for controller in missing {
        fs::write(&control, format!("+{controller}")).map_err(|e| {
            let why = match e.raw_os_error() {
                Some(libc::ENOENT) => "a v1 hierarchy or a boot option keeps it from v2".to_owned(),
                Some(libc::EBUSY) => "the cgroup has processes of its own".to_owned(),
                _ => e.to_string(),
            };
            format!("the {controller} controller cannot be used in {}: {why}", level.display())
        })?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::IoLimit;

    #[test]
    fn the_hierarchy_is_found() {
        let hybrid = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs ro,mode=755
31 30 0:27 /sub /mnt rw - cgroup2 cgroup2 rw
32 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate
33 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
";
        assert_eq!(hierarchy(hybrid), Some("/sys/fs/cgroup/unified".into()));
        assert_eq!(hierarchy(""), None);
        assert_eq!(own("9:name=systemd:/\n0::/user.slice/a b\n"), Some("user.slice/a b"));
        assert_eq!(own("9:cpu:/\n"), None);
    }

    #[test]
    fn limits_become_files() {
        let limits = Limits {
            memory: Some(1 << 30),
            cpu_millis: Some(1500),
            pids: Some(40),
            io: vec![IoLimit {
                device: (259, 0),
                read_bytes: Some(1000),
                write_bytes: None,
                read_ops: None,
                write_ops: Some(7),
            }],
            ..Limits::default()
        };
        assert_eq!(
            settings(&limits),
            [
                ("memory.max", "1073741824".to_owned()),
                ("memory.swap.max", "0".to_owned()),
                ("memory.oom.group", "1".to_owned()),
                ("cpu.max", "150000 100000".to_owned()),
                ("pids.max", "40".to_owned()),
                ("io.max", "259:0 rbps=1000 wiops=7".to_owned()),
            ]
        );
    }

    #[test]
    fn every_level_between_is_asked() {
        let levels = levels(Path::new("/c"), Path::new("/c/a/b"));
        assert_eq!(levels, [Path::new("/c"), Path::new("/c/a"), Path::new("/c/a/b")]);
    }
}
