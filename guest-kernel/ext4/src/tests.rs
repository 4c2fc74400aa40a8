//! Trees made by mke2fs (Debian has it everywhere), whole and damaged.

use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use proptest::prelude::*;

use super::*;

struct Bytes(Vec<u8>);

impl Image for Bytes {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<()> {
        let end = offset.checked_add(buf.len() as u64).ok_or(Error::Io)?;
        let (from, to) = (usize::try_from(offset).unwrap(), usize::try_from(end).unwrap());
        buf.copy_from_slice(self.0.get(from..to).ok_or(Error::Io)?);
        Ok(())
    }
}

/// A directory that is removed at the end.
struct Dir(PathBuf);

impl Dir {
    fn new(name: &str) -> Dir {
        let path = std::env::temp_dir().join(format!("ringfence-ext4-{}-{name}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Dir(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn tree(dir: &Path) {
    std::fs::write(dir.join("small"), "hello").unwrap();
    std::fs::write(dir.join("empty"), "").unwrap();
    let large: Vec<u8> = (0..3_000_000u32).flat_map(|n| (n / 7).to_le_bytes()).take(3_000_001).collect();
    std::fs::write(dir.join("large"), large).unwrap();
    let sparse = std::fs::File::create(dir.join("sparse")).unwrap();
    for n in [0u64, 50, 300, 301, 900] {
        std::os::unix::fs::FileExt::write_all_at(&sparse, &[n as u8 + 1; 100], n * 4096 + 77).unwrap();
    }
    sparse.set_len(5_000_000).unwrap();
    symlink("small", dir.join("short-link")).unwrap();
    symlink("x".repeat(100), dir.join("long-link")).unwrap();
    std::fs::create_dir_all(dir.join("a/b/c")).unwrap();
    std::fs::hard_link(dir.join("small"), dir.join("a/b/c/again")).unwrap();
    std::fs::create_dir(dir.join("many")).unwrap();
    for n in 0..600 {
        std::fs::write(dir.join(format!("many/a-file-with-a-longer-name-{n}")), format!("{n}")).unwrap();
    }
}

fn make(options: &[&str]) -> Vec<u8> {
    let dir = Dir::new(&options.join("").replace(['^', '/', ',', ' '], "_"));
    let (root, image) = (dir.0.join("root"), dir.0.join("image"));
    std::fs::create_dir(&root).unwrap();
    tree(&root);
    let made = Command::new("/sbin/mke2fs")
        .args(["-q", "-E", "root_owner=7:8", "-d"])
        .arg(&root)
        .args(options)
        .arg(&image)
        .arg("16M")
        .output()
        .expect("e2fsprogs, which every Debian has");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let all = walk(&Filesystem::open(Bytes(std::fs::read(&image).unwrap())).unwrap(), usize::MAX).unwrap();
    compare(&root, &all);
    std::fs::read(&image).unwrap()
}

/// Path, inode, content or target.
type Files = BTreeMap<String, (Inode, Vec<u8>)>;

/// All there is; `most` files, so that directories that contain themselves come to an end.
fn walk(fs: &Filesystem<Bytes>, most: usize) -> Result<Files> {
    let mut files = Files::new();
    let mut todo = vec![(String::new(), fs.inode(ROOT)?)];
    while let Some((path, inode)) = todo.pop() {
        let mut content = vec![0; inode.size.min(8 << 20) as usize];
        match inode.file_type() {
            FileType::Directory => {
                content.clear();
                fs.read_dir(&inode, 0, |entry| {
                    let name = String::from_utf8_lossy(entry.name).into_owned();
                    let child = fs.inode(entry.inode);
                    if let (false, Ok(child)) = (matches!(&*name, "." | ".." | "lost+found"), child) {
                        todo.push((format!("{path}/{name}"), child));
                    }
                    if todo.len() > most { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
                })?;
            }
            FileType::Symlink => {
                let n = fs.read_link(&inode, &mut content)?;
                content.truncate(n);
            }
            FileType::Regular => {
                let n = fs.read(&inode, 0, &mut content)?;
                assert_eq!(n, content.len());
            }
            _ => {}
        }
        fs.xattrs(&inode, |_, _, _| ControlFlow::Continue(()))?;
        files.insert(path, (inode, content));
        if files.len() > most {
            break;
        }
    }
    Ok(files)
}

fn compare(root: &Path, files: &Files) {
    let mut seen = 0;
    let mut todo = vec![PathBuf::new()];
    while let Some(path) = todo.pop() {
        let real = root.join(&path);
        let meta = std::fs::symlink_metadata(&real).unwrap();
        let key = if path.as_os_str().is_empty() { String::new() } else { format!("/{}", path.display()) };
        let (inode, content) = files.get(&key).unwrap_or_else(|| panic!("{key} is missing"));
        seen += 1;
        assert_eq!(u32::from(inode.mode), meta.mode() & 0o7777, "{key}");
        if !key.is_empty() {
            assert_eq!((inode.uid, inode.gid), (meta.uid(), meta.gid()), "{key}");
            assert_eq!(inode.times[2].0, meta.mtime(), "{key}");
        } else {
            assert_eq!((inode.uid, inode.gid), (7, 8));
        }
        if meta.is_dir() {
            let names = std::fs::read_dir(&real).unwrap();
            todo.extend(names.map(|entry| path.join(entry.unwrap().file_name())));
        } else if meta.is_symlink() {
            assert_eq!(std::fs::read_link(&real).unwrap().to_str().unwrap().as_bytes(), content, "{key}");
        } else {
            assert!(std::fs::read(&real).unwrap() == *content, "{key}");
            assert_eq!(u64::from(inode.nlink), meta.nlink(), "{key}");
        }
    }
    assert_eq!(seen, files.len());
    assert_eq!(files["/small"].0.number(), files["/a/b/c/again"].0.number());
}

#[test]
fn every_kind_of_file_system_is_read_as_it_was_made() {
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024"],
        &["-t", "ext4", "-b", "2048", "-I", "128"],
        &["-t", "ext4", "-O", "^64bit,^metadata_csum,^flex_bg"],
        &["-t", "ext3"],
        &["-t", "ext2"],
        &["-t", "ext2", "-b", "1024", "-r", "0"],
    ] {
        make(options);
    }
}

#[test]
fn what_is_not_known_is_refused() {
    let whole = ext4().clone();
    for (bit, name) in [(0x8000u32, "inline data"), (0x10, "META_BG"), (1 << 30, "an unknown feature")] {
        let mut image = whole.clone();
        let features = u32::from_le_bytes(image[1024 + 0x60..][..4].try_into().unwrap()) | bit;
        image[1024 + 0x60..][..4].copy_from_slice(&features.to_le_bytes());
        assert_eq!(Filesystem::open(Bytes(image)).err(), Some(Error::Unsupported(name)));
    }
    assert_eq!(Filesystem::open(Bytes(vec![0; 1 << 20])).err(), Some(Error::NotExt4));
    assert_eq!(Filesystem::open(Bytes(vec![])).err(), Some(Error::NotExt4));
    let cut = whole[..whole.len() - 4096].to_vec();
    assert_eq!(Filesystem::open(Bytes(cut)).err(), Some(Error::Corrupt("it is larger than the device")));
}

#[test]
fn a_hole_is_told_at_once() {
    let fs = Filesystem::open(Bytes(ext4().clone())).unwrap();
    let sparse = fs.lookup(&fs.inode(ROOT).unwrap(), b"sparse").unwrap().unwrap();
    let sparse = fs.inode(sparse).unwrap();
    assert_eq!(fs.extent(&sparse, 4096 + 5).unwrap(), Some(Extent::Hole { len: 49 * 4096 - 5 }));
    let Some(Extent::Data { len, .. }) = fs.extent(&sparse, 300 * 4096).unwrap() else { panic!() };
    assert_eq!(len, 2 * 4096);
    assert_eq!(fs.extent(&sparse, 5_000_000).unwrap(), None);
}

fn ext4() -> &'static Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| make(&["-t", "ext4", "-b", "4096", "-N", "1024"]))
}

fn ext2() -> &'static Vec<u8> {
    static IMAGE: OnceLock<Vec<u8>> = OnceLock::new();
    IMAGE.get_or_init(|| make(&["-t", "ext2", "-b", "1024", "-N", "1024"]))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    /// Damage where the structure is: nothing panics, everything ends.
    #[test]
    fn damage_is_survived(
        old in any::<bool>(),
        changes in prop::collection::vec((0usize..600 << 10, any::<u8>()), 1..40),
        superblock in prop::collection::vec((1024usize..1536, any::<u8>()), 0..2),
    ) {
        let mut image = if old { ext2() } else { ext4() }.clone();
        for (at, byte) in changes.into_iter().filter(|(at, _)| !(1024..2048).contains(at)).chain(superblock) {
            image[at] = byte;
        }
        if let Ok(fs) = Filesystem::open(Bytes(image)) {
            let _ = walk(&fs, 1500);
        }
    }
}
