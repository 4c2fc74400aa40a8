//! The reader against images made by `mkfs.erofs` (package erofs-utils), whole and damaged.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;
use std::process::Command;
use std::{env, fs, process};

use proptest::prelude::*;
use ringfence_erofs::{Error, Extent, FileType, Filesystem, Inode, Result};

/// A tree with everything a non-root user can make, and the bytes `mkfs.erofs` makes of it. No name of 255
/// bytes: `mkfs.erofs` 1.5 cuts its last byte off.
fn image(name: &str, arguments: &[&str]) -> Vec<u8> {
    let dir = env::temp_dir().join(format!("ringfence-erofs-{}-{name}", process::id()));
    let _ = fs::remove_dir_all(&dir);
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("many")).unwrap();
    for size in [0, 1, 4095, 4096, 4097, 10_000] {
        fs::write(tree.join(format!("file{size}")), content(size)).unwrap();
    }
    for n in 0..1000 {
        fs::write(tree.join(format!("many/name-{n}")), format!("{n}")).unwrap();
    }
    fs::write(tree.join("n".repeat(254)), "long").unwrap();
    symlink("file1", tree.join("short link")).unwrap();
    symlink("x/".repeat(2000), tree.join("long link")).unwrap();
    fs::hard_link(tree.join("file1"), tree.join("many/hard link")).unwrap();
    let out = dir.join("image");
    let done = Command::new("mkfs.erofs").args(arguments).arg(&out).arg(&tree).output();
    let done = done.expect("mkfs.erofs is needed: install the package erofs-utils");
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let bytes = fs::read(&out).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    bytes
}

fn content(size: usize) -> Vec<u8> {
    (0..size).map(|n| (n % 251) as u8).collect()
}

/// What a walk finds: the inode and the data or target by path.
type Tree = BTreeMap<Vec<u8>, (Inode, Vec<u8>)>;

/// Uses every function of the reader on everything reachable.
fn walk(fs: &Filesystem<&[u8]>) -> Result<Tree> {
    let mut tree = Tree::new();
    let mut seen = BTreeSet::new();
    let mut todo = vec![(Vec::new(), fs.root()?)];
    while let Some((path, inode)) = todo.pop() {
        let mut data = vec![0; inode.size().min(1 << 16) as usize];
        fs.xattrs(&inode, |xattr| {
            let mut value = vec![0; xattr.value_len()];
            let _ = fs.xattr_value(xattr, &mut value);
            ControlFlow::Continue(())
        })?;
        match inode.file_type() {
            FileType::Directory if seen.insert(inode.nid()) => {
                let mut cookies = vec![];
                let mut entries = vec![];
                fs.read_dir(&inode, 0, &mut [0; 4096], |entry| {
                    assert!(!entry.name.is_empty() && !entry.name.contains(&b'/'));
                    assert!(cookies.last().is_none_or(|last| *last < entry.next));
                    cookies.push(entry.next);
                    entries.push((entry.name.to_vec(), entry.nid));
                    ControlFlow::Continue(())
                })?;
                for (at, (name, nid)) in entries.iter().enumerate() {
                    fs.lookup(&inode, name)?;
                    let mut after = vec![];
                    fs.read_dir(&inode, cookies[at], &mut [0; 4096], |entry| {
                        after.push(entry.name.to_vec());
                        ControlFlow::Break(())
                    })?;
                    assert_eq!(after.first(), entries.get(at + 1).map(|(name, _)| name));
                    if name != b"." && name != b".." {
                        let path = [&path[..], b"/", name].concat();
                        todo.push((path, fs.inode(*nid)?));
                    }
                }
                data.clear();
            }
            FileType::Symlink => {
                fs.read_link(&inode, &mut data)?;
            }
            _ => {
                fs.read(&inode, 0, &mut data)?;
                fs.read(&inode, inode.size() / 2, &mut [0; 16])?;
            }
        }
        tree.insert(path, (inode, data));
        if tree.len() > 5000 {
            return Err(Error::Invalid);
        }
    }
    Ok(tree)
}

fn check(bytes: &[u8]) {
    let fs = Filesystem::open(bytes).unwrap();
    let tree = walk(&fs).unwrap();
    assert_eq!(tree.len(), 1 + 6 + 1 + 1000 + 4);
    let (root, _) = &tree[&b""[..]];
    for size in [0, 1, 4095, 4096, 4097, 10_000] {
        let name = format!("file{size}");
        let (inode, data) = &tree[format!("/{name}").as_bytes()];
        assert_eq!(data, &content(size));
        assert_eq!(inode.nlink(), if size == 1 { 2 } else { 1 });
        assert_eq!(fs.lookup(root, name.as_bytes()).unwrap().unwrap().nid, inode.nid());
        assert_eq!(fs.lookup(inode, b"x"), Err(Error::NotDirectory));
    }
    assert_eq!(tree[&b"/short link"[..]].1, b"file1");
    assert_eq!(tree[&b"/long link"[..]].1, "x/".repeat(2000).as_bytes());
    assert_eq!(tree[&b"/file1"[..]].0, tree[&b"/many/hard link"[..]].0);
    let (many, _) = &tree[&b"/many"[..]];
    for n in 0..1000 {
        let name = format!("name-{n}");
        let found = fs.lookup(many, name.as_bytes()).unwrap().unwrap();
        assert_eq!(found.file_type, Some(FileType::Regular));
        assert_eq!(found.nid, tree[format!("/many/{name}").as_bytes()].0.nid());
    }
    for missing in ["", "0", "name-", "name-1000", "name-5x", "zzz", &"n".repeat(300)] {
        assert_eq!(fs.lookup(many, missing.as_bytes()), Ok(None));
    }
    for own in [".", ".."] {
        assert!(fs.lookup(many, own.as_bytes()).unwrap().is_some());
    }
}

#[test]
fn compact_inodes_and_inline_data() {
    check(&image("compact", &["-T0", "-Eforce-inode-compact"]));
}

#[test]
fn extended_inodes_and_whole_blocks() {
    let bytes = image("plain", &["-Enoinline_data,force-inode-extended"]);
    check(&bytes);
    let fs = Filesystem::open(&bytes[..]).unwrap();
    for (path, (inode, data)) in walk(&fs).unwrap() {
        if inode.file_type() == FileType::Regular && !data.is_empty() {
            let Some(Extent::Data { at, len, mappable: true }) = fs.extent(&inode, 0) else {
                panic!("{path:?}")
            };
            assert_eq!((at % 4096, len), (0, inode.size()));
        }
    }
}

#[test]
fn what_is_not_supported_is_refused() {
    let bytes = image("lz4", &["-zlz4"]);
    assert_eq!(Filesystem::open(&bytes[..]).unwrap_err(), Error::Unsupported("LZ4 compression"));
    let bytes = image("chunks", &["--chunksize=4096"]);
    assert_eq!(Filesystem::open(&bytes[..]).unwrap_err(), Error::Unsupported("chunked files"));
    let good = image("short", &["-T0"]);
    for len in [0, 1024, 1100, 4095, good.len() - 1] {
        assert!(matches!(Filesystem::open(&good[..len]).unwrap_err(), Error::Corrupt(_)), "{len}");
    }
}

#[test]
fn damaged_images_never_panic() {
    for arguments in [&["-T0", "-Eforce-inode-compact"][..], &["-Enoinline_data,force-inode-extended"]] {
        let good = image("damaged", arguments);
        let mut runner =
            proptest::test_runner::TestRunner::new(ProptestConfig { cases: 300, ..Default::default() });
        // Where metadata is likely: damage there is worth more.
        let dense = good.len().min(1 << 16);
        let place = prop_oneof![0..dense, 0..good.len(), 1024..1152usize];
        let byte = prop_oneof![Just(0u8), Just(0xff), Just(0x7f), any::<u8>()];
        runner
            .run(&proptest::collection::vec((place, byte, 1..9usize), 1..40), |damage| {
                let mut bytes = good.clone();
                // No checksum, or nothing but the superblock would be tested.
                bytes[1024 + 8] &= !1;
                for (at, value, len) in damage {
                    let end = (at + len).min(bytes.len());
                    bytes[at..end].fill(value);
                }
                if let Ok(fs) = Filesystem::open(&bytes[..]) {
                    let _ = walk(&fs);
                    for nid in [0, 1, 36, 1 << 20, u64::MAX / 32, u64::MAX] {
                        let _ = fs.inode(nid);
                    }
                }
                Ok(())
            })
            .unwrap();
    }
}
