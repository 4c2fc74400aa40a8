//! Damaged images of ours under the guest's reader: an answer or an error, never a panic.

use std::collections::BTreeSet;
use std::fs;
use std::ops::ControlFlow;
use std::os::unix::fs::symlink;

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use ringfence_erofs::{Filesystem, Result};

use crate::support::{dir, pack, set_xattr, write_pattern};

/// Reads all that can be reached.
fn walk(bytes: &[u8]) -> Result<()> {
    let fs = Filesystem::open(bytes)?;
    let mut seen = BTreeSet::new();
    let mut todo = vec![fs.root()?];
    while let Some(inode) = todo.pop() {
        if !seen.insert(inode.nid()) {
            continue;
        }
        let mut data = vec![0; inode.size().min(1 << 16) as usize];
        let _ = fs.read(&inode, 0, &mut data);
        let _ = fs.read_link(&inode, &mut data);
        let _ = fs.xattr(&inode, b"user.none");
        let _ = fs.xattrs(&inode, |xattr| {
            let _ = fs.xattr_value(xattr, &mut data);
            ControlFlow::Continue(())
        });
        let _ = fs.read_dir(&inode, 0, &mut [0; 4096], |entry| {
            let _ = fs.lookup(&inode, entry.name);
            todo.extend(fs.inode(entry.nid));
            ControlFlow::Continue(())
        });
    }
    Ok(())
}

#[test]
fn the_reader_survives() {
    let dir = dir("damaged");
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    fs::create_dir_all(tree.join("d")).unwrap();
    for n in 0..150 {
        fs::write(tree.join(format!("d/{n}{}", "x".repeat(n))), "").unwrap();
    }
    write_pattern(&tree.join("file"), 5000);
    symlink("target", tree.join("link")).unwrap();
    for n in 0..5 {
        set_xattr(&tree.join("file"), &format!("user.{n}"), &vec![n; 50 * usize::from(n)]);
    }
    pack(&tree, &image);
    let good = fs::read(&image).unwrap();
    walk(&good).unwrap();
    let metadata = 3 * 4096;
    let place = prop_oneof![8 => metadata..good.len(), 1 => 1024..1152usize];
    let byte = prop_oneof![Just(0u8), Just(0xff), Just(0x80), any::<u8>()];
    let damage = proptest::collection::vec((place, byte, 1..9usize), 1..60);
    let mut runner = TestRunner::new(ProptestConfig { cases: 1000, ..ProptestConfig::default() });
    runner
        .run(&damage, |damage| {
            let mut bytes = good.clone();
            // Without the checksum, which would catch all damage to the superblock.
            bytes[1024 + 8] &= !1;
            for (at, value, len) in damage {
                let end = (at + len).min(bytes.len());
                bytes[at..end].fill(value);
            }
            let _ = walk(&bytes);
            Ok(())
        })
        .unwrap();
}
