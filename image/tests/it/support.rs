//! Temporary directories, trees as comparable values, and the tools.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::ops::{ControlFlow, Deref};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, process};

use ringfence_erofs::{Extent, FileType, Filesystem, Inode};
use ringfence_image::{Options, Summary, build_from_dir};
use rustix::fs::{major, minor};

/// A directory that is removed in the end.
pub struct Dir(PathBuf);

/// A new empty directory; `name` is different in each test.
pub fn dir(name: &str) -> Dir {
    let path = env::temp_dir().join(format!("ringfence-image-it-{}-{name}", process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir_all(&path).unwrap();
    Dir(path)
}

impl Deref for Dir {
    type Target = Path;
    fn deref(&self) -> &Path {
        &self.0
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Whether device nodes, owners and `trusted.` attributes can be made.
pub fn root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Data that does not fill the screen when a test fails.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Bytes(pub Vec<u8>);

impl std::fmt::Debug for Bytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes: {}…", self.0.len(), self.0[..self.0.len().min(40)].escape_ascii())
    }
}

/// Everything about a file that an image keeps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Item {
    pub mode: u32,
    pub owner: (u32, u32),
    pub mtime: (i64, u32),
    pub links: u32,
    /// The first path, in order, of the same inode.
    pub same_as: Vec<u8>,
    pub device: (u32, u32),
    /// Data of a file, target of a link.
    pub data: Bytes,
    pub xattrs: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A tree by path, the root being empty.
pub type Items = BTreeMap<Vec<u8>, Item>;

/// The tree below a directory of the host.
pub fn of_host(root: &Path) -> Items {
    let mut items = Items::new();
    let mut inodes: HashMap<u64, Vec<u8>> = HashMap::new();
    let mut todo = vec![(Vec::new(), root.to_path_buf())];
    let mut all = Vec::new();
    while let Some((name, path)) = todo.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        if stat.is_dir() {
            for entry in fs::read_dir(&path).unwrap() {
                let entry = entry.unwrap();
                let name = [&name[..], b"/", entry.file_name().as_bytes()].concat();
                todo.push((name, entry.path()));
            }
        }
        all.push((name, path, stat));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    for (name, path, stat) in all {
        let same_as = inodes.entry(stat.ino()).or_insert_with(|| name.clone()).clone();
        let kind = stat.file_type();
        let device = kind.is_block_device() || kind.is_char_device();
        let subdirs =
            || fs::read_dir(&path).unwrap().filter(|e| e.as_ref().unwrap().file_type().unwrap().is_dir());
        items.insert(
            name,
            Item {
                mode: stat.mode(),
                owner: (stat.uid(), stat.gid()),
                mtime: (stat.mtime(), stat.mtime_nsec() as u32),
                // Not all file systems count directories.
                links: if stat.is_dir() { 2 + subdirs().count() as u32 } else { stat.nlink() as u32 },
                same_as,
                device: if device { (major(stat.rdev()), minor(stat.rdev())) } else { (0, 0) },
                data: Bytes(match () {
                    () if stat.is_file() => fs::read(&path).unwrap(),
                    () if stat.is_symlink() => fs::read_link(&path).unwrap().as_os_str().as_bytes().to_vec(),
                    () => Vec::new(),
                }),
                xattrs: host_xattrs(&path),
            },
        );
    }
    items
}

fn host_xattrs(path: &Path) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut list = vec![0; 65536];
    let n = rustix::fs::llistxattr(path, &mut list[..]).unwrap_or(0);
    let names = list[..n].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    let value = |name: &[u8]| {
        let mut value = vec![0; 65536];
        let n = rustix::fs::lgetxattr(path, name, &mut value[..]).unwrap();
        value.truncate(n);
        value
    };
    names.map(|name| (name.to_vec(), value(name))).collect()
}

/// The tree in an image, read with the guest's reader.
pub fn of_image(image: &Path) -> Items {
    let bytes = fs::read(image).unwrap();
    let fs = Filesystem::open(&bytes[..]).unwrap();
    let mut all = Vec::new();
    let mut todo = vec![(Vec::new(), fs.root().unwrap())];
    while let Some((path, inode)) = todo.pop() {
        if inode.file_type() == FileType::Directory {
            let mut last = Vec::new();
            fs.read_dir(&inode, 0, &mut [0; 4096], |entry| {
                assert!(last.as_slice() < entry.name, "names are sorted");
                last = entry.name.to_vec();
                let child = fs.inode(entry.nid).unwrap();
                assert_eq!(entry.file_type, Some(child.file_type()));
                let found = fs.lookup(&inode, entry.name).unwrap().unwrap();
                assert_eq!((found.nid, found.file_type), (entry.nid, entry.file_type));
                if entry.name != b"." && entry.name != b".." {
                    todo.push(([&path[..], b"/", entry.name].concat(), child));
                }
                ControlFlow::Continue(())
            })
            .unwrap();
        }
        all.push((path, inode));
    }
    all.sort_by(|a, b| a.0.cmp(&b.0));
    let mut inodes: HashMap<u64, Vec<u8>> = HashMap::new();
    all.into_iter()
        .map(|(path, inode)| {
            let same_as = inodes.entry(inode.nid()).or_insert_with(|| path.clone()).clone();
            (path, image_item(&fs, &inode, same_as))
        })
        .collect()
}

fn image_item(fs: &Filesystem<&[u8]>, inode: &Inode, same_as: Vec<u8>) -> Item {
    let mut data = Vec::new();
    if matches!(inode.file_type(), FileType::Regular | FileType::Symlink) {
        data.resize(inode.size() as usize, 0);
        assert_eq!(fs.read(inode, 0, &mut data).unwrap(), data.len());
    }
    if inode.file_type() == FileType::Regular && !data.is_empty() {
        let Some(Extent::Data { at, len, mappable: true }) = fs.extent(inode, 0) else {
            panic!("not mappable")
        };
        assert_eq!((at % 4096, len), (0, data.len() as u64), "a file is one piece of whole blocks");
        let end = (at + len) as usize;
        assert!(
            fs.image()[end..end.next_multiple_of(4096)].iter().all(|&byte| byte == 0),
            "the rest is zero"
        );
    }
    let mut xattrs = BTreeMap::new();
    fs.xattrs(inode, |xattr| {
        let mut value = vec![0; xattr.value_len()];
        assert_eq!(fs.xattr_value(xattr, &mut value).unwrap(), value.len());
        xattrs.insert([xattr.prefix(), xattr.rest()].concat(), value);
        ControlFlow::Continue(())
    })
    .unwrap();
    Item {
        mode: inode.mode().into(),
        owner: (inode.uid(), inode.gid()),
        mtime: (inode.mtime(), inode.mtime_nsec()),
        links: inode.nlink(),
        same_as,
        device: inode.rdev(),
        data: Bytes(data),
        xattrs,
    }
}

/// Says which path differs, not the whole trees.
pub fn assert_same(left: &Items, right: &Items) {
    let names = |items: &Items| items.keys().map(|name| name.escape_ascii().to_string()).collect::<Vec<_>>();
    assert_eq!(names(left), names(right));
    for (path, item) in left {
        assert_eq!(item, &right[path], "{}", path.escape_ascii());
    }
}

/// Packs with default options.
pub fn pack(tree: &Path, out: &Path) -> Summary {
    let summary = build_from_dir(tree, out, &Options::default(), &mut |_| ()).unwrap();
    assert_eq!(summary.size, fs::metadata(out).unwrap().len());
    summary
}

/// Runs a tool and returns its standard output.
pub fn run(command: &mut Command) -> String {
    let name = command.get_program().to_string_lossy().into_owned();
    let done = command.output();
    let done = done
        .unwrap_or_else(|e| panic!("{name}: {e}: install the packages erofs-utils and tar for this test"));
    let text = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{command:?}: {}{text}", String::from_utf8_lossy(&done.stderr));
    text
}

/// `fsck.erofs` finds nothing wrong; what it extracts is the same as `expected`, as far as version 1.5 extracts
/// (neither hard links nor xattrs).
pub fn check_with_fsck(image: &Path, expected: &Items, scratch: &Path) {
    run(Command::new("fsck.erofs").arg(image));
    let out = scratch.join("extracted");
    let _ = fs::remove_dir_all(&out);
    let owner = if root() { "--preserve-owner" } else { "--no-preserve-owner" };
    let extract = format!("--extract={}", out.display());
    run(Command::new("fsck.erofs").args([&extract, "--preserve-perms", owner]).arg(image));
    let less = |items: &Items| {
        let less = |item: &Item| Item {
            // It changes the owner last, which takes setuid away.
            mode: item.mode & !0o6000,
            links: 0,
            same_as: vec![],
            xattrs: BTreeMap::new(),
            ..item.clone()
        };
        items.iter().map(|(path, item)| (path.clone(), less(item))).collect::<Items>()
    };
    assert_same(&less(&of_host(&out)), &less(expected));
    fs::remove_dir_all(&out).unwrap();
}

/// Sets a file's times.
pub fn set_mtime(path: &Path, seconds: i64, nanos: i64) {
    use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, path, &times, AtFlags::SYMLINK_NOFOLLOW).unwrap();
}

/// Sets an attribute of a file, if the file system can.
pub fn set_xattr(path: &Path, name: &str, value: &[u8]) {
    let _ = rustix::fs::lsetxattr(path, name, value, rustix::fs::XattrFlags::empty());
}

/// Writes a file of a pattern that is different at each place.
pub fn write_pattern(path: &Path, len: usize) {
    fs::write(path, (0..len).map(|n| (n % 251 + n / 4096) as u8).collect::<Vec<_>>()).unwrap();
}

/// A file of a certain length without data.
pub fn write_hole(path: &Path, len: u64) {
    File::create(path).unwrap().set_len(len).unwrap();
}
