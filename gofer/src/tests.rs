//! Attacks by requests, as a hostile guest kernel would make them, and what they must not reach.

use std::ffi::{CStr, CString};
use std::fs;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use fuse_backend_rs::abi::fuse_abi::stat64;
use fuse_backend_rs::api::filesystem::{
    Context, DirEntry, Entry, FileSystem, SetattrValid, ZeroCopyReader, ZeroCopyWriter,
};
use fuse_backend_rs::file_buf::FileVolatileSlice;
use fuse_backend_rs::file_traits::FileReadWriteVolatile;

use crate::fs::Gofer;
use crate::node::ROOT;
use ringfence_protocol::Cache;

use crate::volume::{IdMap, Volume};

/// A volume in a directory that also holds what must not be reached.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let dir = std::env::temp_dir().join(format!("ringfence-gofer-{}-{number}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("volume/inside")).unwrap();
        fs::create_dir_all(dir.join("outside")).unwrap();
        fs::write(dir.join("outside/secret"), "secret").unwrap();
        fs::write(dir.join("volume/inside/secret"), "public").unwrap();
        fs::write(dir.join("volume/file"), "content").unwrap();
        Self(dir)
    }

    fn volume(&self) -> PathBuf {
        self.0.join("volume")
    }

    fn gofer(&self, read_only: bool) -> Gofer {
        self.gofer_with(read_only, false)
    }

    fn gofer_with(&self, read_only: bool, set_id: bool) -> Gofer {
        self.gofer_of(read_only, set_id, 1 << 20)
    }

    fn gofer_of(&self, read_only: bool, set_id: bool, descriptors: usize) -> Gofer {
        let proc = fs::File::open("/proc/self/fd").unwrap();
        // All tests of this process want the same.
        rustix::process::fchdir(&proc).unwrap();
        let open = |path: &Path| {
            use rustix::fs::{Mode, OFlags};
            rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).unwrap()
        };
        let (users, groups) = (IdMap::root_is(euid()), IdMap::root_is(rustix::process::getegid().as_raw()));
        let volume = |root| Volume {
            root,
            read_only,
            set_id,
            users: users.clone(),
            groups: groups.clone(),
            cache: Cache::default(),
        };
        let volumes = vec![volume(open(&self.volume())), volume(open(&self.volume()))];
        Gofer::with_descriptors(volumes, OwnedFd::from(proc), descriptors).unwrap()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn euid() -> u32 {
    rustix::process::geteuid().as_raw()
}

fn name(text: &str) -> CString {
    CString::new(text).unwrap()
}

fn errno<T>(result: io::Result<T>) -> i32 {
    result.err().and_then(|e| e.raw_os_error()).unwrap_or(0)
}

/// A buffer in place of guest memory.
struct Buffer(io::Cursor<Vec<u8>>);

impl Read for Buffer {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.read(buf)
    }
}

impl Write for Buffer {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.write(buf)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ZeroCopyReader for Buffer {
    fn read_to(&mut self, f: &mut dyn FileReadWriteVolatile, n: usize, at: u64) -> io::Result<usize> {
        let n = n.min(self.0.get_ref().len());
        // SAFETY: the slice is of our own buffer, which outlives the call.
        let slice = unsafe { FileVolatileSlice::from_raw_ptr(self.0.get_mut().as_mut_ptr(), n) };
        f.write_at_volatile(slice, at)
    }
}

impl ZeroCopyWriter for Buffer {
    fn write_from(&mut self, f: &mut dyn FileReadWriteVolatile, n: usize, at: u64) -> io::Result<usize> {
        self.0.get_mut().resize(n, 0);
        // SAFETY: the slice is of our own buffer, which outlives the call.
        let slice = unsafe { FileVolatileSlice::from_raw_ptr(self.0.get_mut().as_mut_ptr(), n) };
        let got = f.read_at_volatile(slice, at)?;
        self.0.get_mut().truncate(got);
        Ok(got)
    }
    fn available_bytes(&self) -> usize {
        1 << 20
    }
}

/// Requests, shorter.
struct Guest<'a>(&'a Gofer);

impl Guest<'_> {
    fn root(&self) -> u64 {
        self.0.lookup(&Context::new(), ROOT, c"0").unwrap().inode
    }

    fn lookup(&self, parent: u64, text: &str) -> io::Result<Entry> {
        self.0.lookup(&Context::new(), parent, &name(text))
    }

    fn read(&self, inode: u64) -> io::Result<String> {
        let mut buffer = Buffer(io::Cursor::new(Vec::new()));
        self.0.read(&Context::new(), inode, 0, &mut buffer, 4096, 0, None, 0)?;
        Ok(String::from_utf8_lossy(buffer.0.get_ref()).into_owned())
    }

    fn write(&self, inode: u64, text: &str) -> io::Result<usize> {
        let mut buffer = Buffer(io::Cursor::new(text.as_bytes().to_vec()));
        let n = text.len() as u32;
        self.0.write(&Context::new(), inode, 0, &mut buffer, n, 0, None, false, 0, 0)
    }

    fn make(&self, parent: u64, text: &str, mode: u32) -> io::Result<Entry> {
        self.0.mknod(&Context::new(), parent, &name(text), mode, 0, 0)
    }

    fn set(&self, inode: u64, valid: SetattrValid, change: impl FnOnce(&mut stat64)) -> io::Result<stat64> {
        // SAFETY: a structure of integers, for which zero is a value.
        let mut to: stat64 = unsafe { std::mem::zeroed() };
        change(&mut to);
        self.0.setattr(&Context::new(), inode, to, None, valid).map(|(now, _)| now)
    }

    fn list(&self, inode: u64, from: u64, most: usize) -> Vec<(String, u64)> {
        let mut names = Vec::new();
        let mut add = |entry: DirEntry<'_>| {
            if names.len() == most {
                return Ok(0);
            }
            names.push((String::from_utf8_lossy(entry.name).into_owned(), entry.offset));
            Ok(1)
        };
        self.0.readdir(&Context::new(), inode, 0, 4096, from, &mut add).unwrap();
        names
    }
}

#[test]
fn a_file_is_read_written_and_listed() {
    let scratch = Scratch::new();
    let gofer = scratch.gofer_with(false, true);
    let guest = Guest(&gofer);
    let root = guest.root();
    let file = guest.lookup(root, "file").unwrap();
    assert_eq!((file.attr.st_size, file.attr.st_uid), (7, 0));
    assert_eq!(guest.read(file.inode).unwrap(), "content");
    assert_eq!(guest.write(file.inode, "CON").unwrap(), 3);
    assert_eq!(fs::read_to_string(scratch.volume().join("file")).unwrap(), "CONtent");
    let new = guest.make(root, "new", libc::S_IFREG | 0o4751).unwrap();
    assert_eq!(new.attr.st_mode, libc::S_IFREG | 0o4751);
    let first = guest.list(root, 0, 3);
    let rest = guest.list(root, first.last().unwrap().1, 100);
    let mut all: Vec<_> = first.into_iter().chain(rest).map(|(name, _)| name).collect();
    all.sort();
    assert_eq!(all, [".", "..", "file", "inside", "new"]);
    // An unlinked file is still there for who knows it.
    gofer.unlink(&Context::new(), root, c"file").unwrap();
    assert_eq!(guest.read(file.inode).unwrap(), "CONtent");
    assert_eq!(errno(guest.lookup(root, "file")), libc::ENOENT);
}

#[test]
fn dot_dot_and_paths_are_no_names() {
    let scratch = Scratch::new();
    let gofer = scratch.gofer(false);
    let guest = Guest(&gofer);
    let root = guest.root();
    let long = "x".repeat(256);
    for bad in ["..", ".", "", "/", "inside/secret", "../outside", "/etc/passwd", "inside/.."] {
        assert_eq!(errno(guest.lookup(root, bad)), libc::EINVAL, "{bad:?}");
        assert_eq!(errno(guest.make(root, bad, libc::S_IFREG | 0o600)), libc::EINVAL, "{bad:?}");
        let (ctx, bad) = (Context::new(), name(bad));
        assert_eq!(errno(gofer.mkdir(&ctx, root, &bad, 0o755, 0)), libc::EINVAL);
        assert_eq!(errno(gofer.unlink(&ctx, root, &bad)), libc::EINVAL);
        assert_eq!(errno(gofer.rmdir(&ctx, root, &bad)), libc::EINVAL);
        assert_eq!(errno(gofer.rename(&ctx, root, c"file", root, &bad, 0)), libc::EINVAL);
        assert_eq!(errno(gofer.rename(&ctx, root, &bad, root, c"x", 0)), libc::EINVAL);
        assert_eq!(errno(gofer.symlink(&ctx, c"x", root, &bad)), libc::EINVAL);
        let file = guest.lookup(root, "file").unwrap().inode;
        assert_eq!(errno(gofer.link(&ctx, file, root, &bad)), libc::EINVAL);
    }
    assert_eq!(errno(guest.lookup(root, &long)), libc::ENAMETOOLONG);
}

#[test]
fn a_link_is_read_and_never_followed() {
    let scratch = Scratch::new();
    symlink("../outside", scratch.volume().join("way-out")).unwrap();
    symlink("/proc/self/root/etc", scratch.volume().join("magic")).unwrap();
    let gofer = scratch.gofer(false);
    let guest = Guest(&gofer);
    let root = guest.root();
    let link = guest.lookup(root, "way-out").unwrap();
    assert_eq!(link.attr.st_mode & libc::S_IFMT, libc::S_IFLNK);
    assert_eq!(gofer.readlink(&Context::new(), link.inode).unwrap(), b"../outside");
    for link in [link.inode, guest.lookup(root, "magic").unwrap().inode] {
        assert_eq!(errno(guest.lookup(link, "secret")), libc::ENOTDIR);
        assert_eq!(errno(guest.read(link)), libc::ELOOP);
        assert_eq!(errno(guest.write(link, "x")), libc::ELOOP);
        assert_eq!(errno(guest.set(link, SetattrValid::MODE, |to| to.st_mode = 0o777)), libc::EOPNOTSUPP);
        assert_eq!(errno(guest.set(link, SetattrValid::SIZE, |_| ())), libc::EINVAL);
        assert_eq!(errno(gofer.mkdir(&Context::new(), link, c"made", 0o755, 0)), libc::ENOTDIR);
        // What changes is the link, not what it leads to.
        let before = fs::metadata(scratch.0.join("outside")).unwrap();
        guest.set(link, SetattrValid::MTIME, |to| to.st_mtime = 1).unwrap();
        assert_eq!(fs::metadata(scratch.0.join("outside")).unwrap().mtime(), before.mtime());
    }
}

/// CVE-2017-1002101: a directory of the volume becomes a link to elsewhere between check and use.
#[test]
fn exchanging_a_directory_for_a_link_reaches_nothing_outside() {
    let scratch = Scratch::new();
    let volume = scratch.volume();
    symlink("../outside", volume.join("link")).unwrap();
    let over = AtomicBool::new(false);
    let (mut through, mut link) = (0, 0);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let (one, other) = (volume.join("inside"), volume.join("link"));
            while !over.load(Ordering::Relaxed) {
                let cwd = rustix::fs::CWD;
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(cwd, &one, cwd, &other, exchange).unwrap();
            }
        });
        let gofer = scratch.gofer(false);
        let guest = Guest(&gofer);
        let (root, end) = (guest.root(), Instant::now() + Duration::from_millis(700));
        while Instant::now() < end {
            let found = guest.lookup(root, "inside").unwrap();
            match guest.lookup(found.inode, "secret") {
                Ok(file) => {
                    assert_eq!(guest.read(file.inode).unwrap(), "public");
                    guest.write(file.inode, "public").unwrap();
                    through += 1;
                }
                Err(e) => {
                    assert_eq!(e.raw_os_error(), Some(libc::ENOTDIR));
                    link += 1;
                }
            }
            if let Ok(made) = guest.make(found.inode, "made", libc::S_IFREG | 0o600) {
                let _ = guest.write(made.inode, "public");
                gofer.unlink(&Context::new(), found.inode, c"made").unwrap();
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    assert!(through > 0 && link > 0, "{through} {link}");
    assert_eq!(fs::read_to_string(scratch.0.join("outside/secret")).unwrap(), "secret");
    assert_eq!(fs::read_dir(scratch.0.join("outside")).unwrap().count(), 1);
}

/// What a mutating request is called, and its errno.
fn every_change(guest: &Guest<'_>, root: u64, file: u64) -> Vec<(&'static str, i32)> {
    let (ctx, gofer) = (Context::new(), guest.0);
    let set = |valid, change: fn(&mut stat64)| errno(guest.set(file, valid, change));
    vec![
        ("write", errno(guest.write(file, "x"))),
        ("truncate", set(SetattrValid::SIZE, |_| ())),
        ("chmod", set(SetattrValid::MODE, |to| to.st_mode = 0o777)),
        ("chown", set(SetattrValid::UID | SetattrValid::GID, |_| ())),
        ("utimens", set(SetattrValid::MTIME, |_| ())),
        ("utimens now", set(SetattrValid::ATIME_NOW, |_| ())),
        ("fallocate", errno(gofer.fallocate(&ctx, file, 0, 0, 0, 4096))),
        ("punch", errno(gofer.fallocate(&ctx, file, 0, 3, 0, 4096))),
        ("setxattr", errno(gofer.setxattr(&ctx, file, c"user.x", b"y", 0))),
        ("removexattr", errno(gofer.removexattr(&ctx, file, c"user.x"))),
        ("mknod", errno(guest.make(root, "new", libc::S_IFREG | 0o600))),
        ("fifo", errno(guest.make(root, "fifo", libc::S_IFIFO | 0o600))),
        ("mkdir", errno(gofer.mkdir(&ctx, root, c"dir", 0o755, 0))),
        ("symlink", errno(gofer.symlink(&ctx, c"x", root, c"sym"))),
        ("link", errno(gofer.link(&ctx, file, root, c"hard"))),
        ("rename over", errno(gofer.rename(&ctx, root, c"file", root, c"other", 0))),
        ("exchange", errno(gofer.rename(&ctx, root, c"file", root, c"inside", 2))),
        ("unlink", errno(gofer.unlink(&ctx, root, c"file"))),
        ("rmdir", errno(gofer.rmdir(&ctx, root, c"inside"))),
    ]
}

/// Kata's CVE-2026-24834, BoxLite's CVE-2026-46695: the guest decides that "read-only" was a suggestion.
#[test]
fn a_read_only_volume_is_read_only_whatever_is_asked() {
    let scratch = Scratch::new();
    fs::write(scratch.volume().join("other"), "other").unwrap();
    let gofer = scratch.gofer(true);
    let guest = Guest(&gofer);
    let root = guest.root();
    let file = guest.lookup(root, "file").unwrap().inode;
    assert_eq!(guest.read(file).unwrap(), "content");
    for (change, errno) in every_change(&guest, root, file) {
        assert_eq!(errno, libc::EROFS, "{change}");
    }
    let args = fuse_backend_rs::abi::fuse_abi::CreateIn {
        flags: (libc::O_RDWR | libc::O_TRUNC) as u32,
        mode: 0o600,
        umask: 0,
        fuse_flags: 0,
    };
    assert_eq!(errno(gofer.create(&Context::new(), root, c"file", args)), libc::EROFS);
    // OPEN with O_TRUNC is not even something it does.
    assert_eq!(errno(gofer.open(&Context::new(), file, libc::O_TRUNC as u32 | 2, 0)), libc::ENOSYS);
    assert_eq!(fs::read_to_string(scratch.volume().join("file")).unwrap(), "content");
    assert_eq!(fs::read_dir(scratch.volume()).unwrap().count(), 3);
}

/// The root of roots, and a volume's inode through another volume.
#[test]
fn volumes_are_kept_apart() {
    let scratch = Scratch::new();
    let gofer = scratch.gofer(false);
    let guest = Guest(&gofer);
    let (one, ctx) = (guest.root(), Context::new());
    let other = guest.lookup(ROOT, "1").unwrap().inode;
    assert_ne!(one, other);
    assert_eq!(errno(gofer.rename(&ctx, one, c"file", other, c"moved", 0)), libc::EXDEV);
    let file = guest.lookup(one, "file").unwrap().inode;
    assert_eq!(errno(gofer.link(&ctx, file, other, c"hard")), libc::EXDEV);
    for bad in ["2", "-1", "..", "", "0/..", "999999999999999999999999"] {
        assert_eq!(errno(guest.lookup(ROOT, bad)), libc::ENOENT, "{bad:?}");
    }
    for (change, errno) in every_change(&guest, ROOT, ROOT) {
        assert!(matches!(errno, libc::EROFS), "{change}: {errno}");
    }
}

/// A number that was forgotten does not come back as another file.
#[test]
fn a_handle_is_never_used_again() {
    let scratch = Scratch::new();
    let gofer = scratch.gofer(false);
    let guest = Guest(&gofer);
    let (root, ctx) = (guest.root(), Context::new());
    let first = guest.lookup(root, "file").unwrap().inode;
    assert_eq!(guest.lookup(root, "file").unwrap().inode, first);
    gofer.forget(&ctx, first, 1);
    assert_eq!(guest.read(first).unwrap(), "content");
    gofer.forget(&ctx, first, u64::MAX);
    assert_eq!(errno(guest.read(first)), libc::ESTALE);
    gofer.forget(&ctx, first, 1);
    let second = guest.lookup(root, "file").unwrap().inode;
    assert_ne!(first, second);
    for (change, errno) in every_change(&guest, first, first) {
        assert_eq!(errno, libc::ESTALE, "{change}");
    }
    // The guest cannot make the gofer forget a volume.
    gofer.forget(&ctx, root, u64::MAX);
    gofer.forget(&ctx, ROOT, u64::MAX);
    assert!(guest.lookup(root, "file").is_ok());
    assert_eq!(errno(guest.read(0)), libc::ESTALE);
    assert_eq!(errno(guest.read(u64::MAX)), libc::ESTALE);
}

#[test]
fn only_files_and_directories_are_opened() {
    let scratch = Scratch::new();
    let gofer = scratch.gofer(false);
    let guest = Guest(&gofer);
    let root = guest.root();
    // To open it would block until somebody writes.
    let fifo = guest.make(root, "fifo", libc::S_IFIFO | 0o600).unwrap().inode;
    assert_eq!(errno(guest.read(fifo)), libc::EINVAL);
    assert_eq!(errno(guest.write(fifo, "x")), libc::EINVAL);
    for device in [libc::S_IFCHR, libc::S_IFBLK] {
        assert_eq!(errno(guest.make(root, "device", device | 0o600)), libc::EPERM);
    }
    assert_eq!(errno(guest.write(root, "x")), libc::EISDIR);
}

#[test]
fn owners_are_mapped_and_labels_are_not_for_the_guest() {
    let scratch = Scratch::new();
    let gofer = scratch.gofer(false);
    let guest = Guest(&gofer);
    let (root, ctx) = (guest.root(), Context::new());
    let file = guest.lookup(root, "file").unwrap().inode;
    // Only the guest's 0 is anybody on the host.
    assert_eq!(errno(guest.set(file, SetattrValid::UID, |to| to.st_uid = 1)), libc::EPERM);
    assert_eq!(guest.set(file, SetattrValid::UID, |to| to.st_uid = 0).unwrap().st_uid, 0);
    assert_eq!(fs::metadata(scratch.volume().join("file")).unwrap().uid(), euid());
    for label in [c"security.capability", c"trusted.x", c"system.posix_acl_access"] {
        let label: &CStr = label;
        assert_eq!(errno(gofer.setxattr(&ctx, file, label, b"x", 0)), libc::EOPNOTSUPP);
        assert_eq!(errno(gofer.getxattr(&ctx, file, label, 64)), libc::EOPNOTSUPP);
        assert_eq!(errno(gofer.removexattr(&ctx, file, label)), libc::EOPNOTSUPP);
    }
}

/// When there are no descriptors for another inode nothing is made that could not be told of, and to forget one helps.
#[test]
fn a_full_table_of_inodes_is_said_before_anything_is_done() {
    let scratch = Scratch::new();
    // The volume, twice by the same inode of the host, and one more.
    let gofer = scratch.gofer_of(false, false, 128 + 64 + 3);
    let (guest, ctx) = (Guest(&gofer), Context::new());
    let root = guest.root();
    let file = guest.lookup(root, "file").unwrap().inode;
    assert_eq!(errno(guest.lookup(root, "inside")), libc::ENFILE);
    assert_eq!(errno(guest.make(root, "new", libc::S_IFREG | 0o600)), libc::ENFILE);
    assert_eq!(errno(gofer.mkdir(&ctx, root, c"new", 0o755, 0)), libc::ENFILE);
    assert_eq!(errno(gofer.symlink(&ctx, c"x", root, c"new")), libc::ENFILE);
    assert_eq!(errno(gofer.link(&ctx, file, root, c"new")), libc::ENFILE);
    assert!(!scratch.volume().join("new").exists());
    assert_eq!(guest.read(file).unwrap(), "content");
    gofer.forget(&ctx, file, 1);
    assert!(guest.make(root, "new", libc::S_IFREG | 0o600).is_ok());
}

/// What is set-id in a volume is so on the host: not unless that is asked for, in whichever way it is set.
#[test]
fn set_id_bits_are_asked_for() {
    for (asked, file_mode) in [(false, 0o1751), (true, 0o7751)] {
        let scratch = Scratch::new();
        let gofer = scratch.gofer_with(false, asked);
        let (guest, ctx) = (Guest(&gofer), Context::new());
        let root = guest.root();
        let mode =
            |name: &str| fs::metadata(scratch.volume().join(name)).unwrap().permissions().mode() & 0o7777;
        let told = guest.make(root, "made", libc::S_IFREG | 0o7751).unwrap().attr.st_mode;
        assert_eq!((mode("made"), told & 0o7777), (file_mode, file_mode));
        let args =
            fuse_backend_rs::abi::fuse_abi::CreateIn { flags: 2, mode: 0o7751, umask: 0, fuse_flags: 0 };
        gofer.create(&ctx, root, c"created", args).unwrap();
        assert_eq!(mode("created"), file_mode);
        let file = guest.lookup(root, "file").unwrap().inode;
        let told = guest.set(file, SetattrValid::MODE, |to| to.st_mode = 0o7751).unwrap().st_mode;
        assert_eq!((mode("file"), told & 0o7777), (file_mode, file_mode));
        // Of a directory it means whose group new files are of.
        gofer.mkdir(&ctx, root, c"directory", 0o2750, 0).unwrap();
        assert_eq!(mode("directory"), 0o2750);
    }
}

/// To read is no change, either.
#[test]
fn reading_a_read_only_volume_leaves_its_times() {
    let scratch = Scratch::new();
    for name in ["file", "inside"] {
        // Older than the last change, so that relatime would note a reading.
        let file = fs::File::open(scratch.volume().join(name)).unwrap();
        file.set_times(fs::FileTimes::new().set_accessed(std::time::UNIX_EPOCH)).unwrap();
    }
    let gofer = scratch.gofer(true);
    let guest = Guest(&gofer);
    let root = guest.root();
    assert_eq!(guest.read(guest.lookup(root, "file").unwrap().inode).unwrap(), "content");
    assert_eq!(guest.list(guest.lookup(root, "inside").unwrap().inode, 0, 9).len(), 3);
    for name in ["file", "inside"] {
        assert_eq!(fs::metadata(scratch.volume().join(name)).unwrap().atime(), 0, "{name}");
    }
}
