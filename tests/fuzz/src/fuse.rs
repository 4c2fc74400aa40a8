//! The FUSE server of shared directories, from a hostile guest kernel: messages, descriptors and rings.
//!
//! A run has two volumes, one of them read-only, beside a secret that nobody can know before. Whatever is asked:
//! no answer holds the secret; it is as it was and nothing appears beside it; the read-only volume is to the nanosecond as it was;
//! the other holds no device node, no set-id file, and nothing of another user or with another attribute than `user.` ones; no descriptor
//! is left.
//!
//! Under libFuzzer the process is in a [`cage`]: a server that is wrong damages nothing.

use std::collections::BTreeMap;
use std::collections::hash_map::RandomState;
use std::fs;
use std::hash::BuildHasher;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use ringfence_gofer::direct::{Direct, MEMORY};
use ringfence_gofer::fs::Gofer;
use ringfence_gofer::volume::{IdMap, Volume};
use rustix::fs::{Mode, OFlags};

use crate::cage;

/// Most messages of a run.
const MOST: usize = 100;
/// Bytes of room for an answer, by the upper three bits of an action's length.
const ROOM: [u32; 8] = [0x1_0000, 0, 8, 16, 24, 120, 144, 4096];
/// Actions that are no opcode: serve what the rings hold; post the bytes as they are; write them anywhere in guest memory, in steps
/// of a 256th of it.
const SERVE: u8 = 253;
const RAW: u8 = 254;
const POKE: u8 = 255;

static CAGE: OnceLock<PathBuf> = OnceLock::new();

/// Once, before there is a second thread.
pub fn prepare() {
    let place = cage::enter().expect("a mount namespace; it needs root, or user namespaces for users");
    rustix::process::umask(Mode::empty());
    CAGE.get_or_init(|| place);
}

/// Sends what `data` says: of each action a byte that says which (an opcode), the node, two of the length, and what follows the
/// header.
pub fn run(data: &[u8]) {
    let descriptors = descriptors();
    let back = rustix::fs::open(".", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).expect("a directory");
    let place = Place::new();
    converse(data, &place);
    // The gofer has taken the working directory.
    rustix::process::fchdir(&back).expect("the way back");
    place.check();
    drop((back, place));
    assert_eq!(descriptors, self::descriptors(), "descriptors are left");
}

fn converse(data: &[u8], place: &Place) {
    let Some(mut guest) = Direct::new(place.gofer()) else { return };
    let mut rest = data;
    for unique in 0..MOST as u64 {
        let Some((&[action, node, low, high], after)) = rest.split_first_chunk::<4>() else { break };
        let len = (usize::from(low) | usize::from(high & 31) << 8).min(after.len());
        let room = ROOM[usize::from(high >> 5)];
        let (body, after) = after.split_at(len);
        rest = after;
        let answer = match action {
            POKE => {
                guest.poke(u64::from(node) * (MEMORY / 256), body);
                continue;
            }
            SERVE => {
                guest.serve();
                continue;
            }
            RAW => guest.message(body, room),
            opcode => {
                let mut message = Vec::with_capacity(40 + body.len());
                message.extend((40 + body.len() as u32).to_le_bytes());
                message.extend(u32::from(opcode).to_le_bytes());
                message.extend(unique.to_le_bytes());
                message.extend(u64::from(node).to_le_bytes());
                // Root inside asks.
                message.extend([0; 16]);
                message.extend(body);
                guest.message(&message, room)
            }
        };
        let told = answer.windows(place.secret.len()).any(|text| text == place.secret.as_bytes());
        assert!(!told, "the answer holds the secret");
    }
    guest.serve();
}

/// How many there are, where other threads have none.
fn descriptors() -> usize {
    if CAGE.get().is_none() { 0 } else { fs::read_dir("/proc/self/fd").map_or(0, Iterator::count) }
}

/// What there is about everything in a volume.
type Tree = BTreeMap<PathBuf, (Vec<u64>, Vec<u8>)>;

struct Place {
    path: PathBuf,
    secret: String,
    /// The read-only volume before.
    before: Tree,
}

impl Place {
    fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let parent = CAGE.get().cloned().unwrap_or_else(std::env::temp_dir);
        let path = parent.join(format!("ringfence-fuzz-{}-{number}", std::process::id()));
        // libFuzzer sees what is compared: a secret that stays the same would be in its inputs soon.
        let secret = format!("secret {:016x}", RandomState::new().hash_one(number));
        fs::create_dir(&path).expect("a place");
        fs::write(path.join("secret"), &secret).expect("a secret");
        for name in ["shared", "read-only"] {
            let volume = path.join(name);
            fs::create_dir_all(volume.join("directory")).expect("a volume");
            fs::write(volume.join("file"), "content").expect("a file");
            fs::write(volume.join("directory/file"), "more content").expect("a file");
            std::os::unix::fs::symlink("../secret", volume.join("link")).expect("a link");
            std::os::unix::fs::symlink("..", volume.join("up")).expect("a link");
        }
        let before = tree(&path.join("read-only"));
        Self { path, secret, before }
    }

    fn gofer(&self) -> Gofer {
        let proc = fs::File::open("/proc/self/fd").expect("proc");
        rustix::process::fchdir(&proc).expect("proc is a directory");
        let open = |name, read_only| {
            let root = rustix::fs::open(self.path.join(name), OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
            Volume {
                root: root.expect("the volume"),
                read_only,
                set_id: false,
                users: IdMap::root_is(rustix::process::geteuid().as_raw()),
                groups: IdMap::root_is(rustix::process::getegid().as_raw()),
                cache: Default::default(),
            }
        };
        let volumes = vec![open("shared", false), open("read-only", true)];
        Gofer::new(volumes, OwnedFd::from(proc)).expect("a gofer")
    }

    fn check(&self) {
        assert_eq!(fs::read_to_string(self.path.join("secret")).ok().as_ref(), Some(&self.secret));
        assert_eq!(names(&self.path), ["read-only", "secret", "shared"], "beside the volume");
        if let Some(cage) = CAGE.get() {
            assert_eq!(names(cage).len(), 1, "something is above the volume");
        }
        assert_eq!(tree(&self.path.join("read-only")), self.before, "the read-only volume");
        no_more_than_files(&self.path.join("shared"));
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

/// The names in a directory, in order.
fn names(directory: &Path) -> Vec<std::ffi::OsString> {
    let mut names: Vec<_> =
        fs::read_dir(directory).expect("a directory").flatten().map(|e| e.file_name()).collect();
    names.sort();
    names
}

/// Everything in `top` but times of access.
fn tree(top: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(top, &mut |path, found| {
        let time = [found.mtime(), found.mtime_nsec(), found.ctime(), found.ctime_nsec()].map(|n| n as u64);
        let mut numbers = vec![found.mode().into(), found.uid().into(), found.gid().into(), found.size()];
        numbers.extend([found.ino(), found.nlink()]);
        numbers.extend(time);
        let content = if found.is_file() {
            fs::read(path).expect("content")
        } else if found.is_symlink() {
            fs::read_link(path).expect("a target").into_os_string().into_encoded_bytes()
        } else {
            Vec::new()
        };
        tree.insert(path.to_path_buf(), (numbers, content));
    });
    tree
}

/// Files, directories, links, FIFOs and sockets of ours, without a meaning for the host.
fn no_more_than_files(top: &Path) {
    let ours = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    walk(top, &mut |path, found| {
        let kind = found.file_type();
        assert!(!kind.is_char_device() && !kind.is_block_device(), "a device node: {}", path.display());
        assert!(found.is_dir() || found.mode() & 0o6000 == 0, "a set-id file: {}", path.display());
        assert_eq!((found.uid(), found.gid()), ours, "the owner of {}", path.display());
        let mut names = [0; 4096];
        let len = rustix::fs::llistxattr(path, &mut names).unwrap_or(0);
        let foreign = names[..len]
            .split(|&byte| byte == 0)
            .find(|name| !name.is_empty() && !name.starts_with(b"user."));
        assert_eq!(foreign, None, "an attribute of {}", path.display());
    });
}

fn walk(path: &Path, each: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let found = fs::symlink_metadata(path).expect("what was listed");
    each(path, &found);
    if found.is_dir() {
        for name in names(path) {
            walk(&path.join(name), each);
        }
    }
}
