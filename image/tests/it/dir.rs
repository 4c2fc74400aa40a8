//! Directories to images.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::process::Command;

use ringfence_image::{Error, Options, Phase, build_from_dir, inspect};
use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};

use crate::support::{
    assert_same, check_with_fsck, dir, of_host, of_image, pack, root, run, set_mtime, set_xattr, write_hole,
    write_pattern,
};

/// A tree with something of everything.
fn make_tree(tree: &Path) {
    fs::create_dir_all(tree.join("a/b/c")).unwrap();
    for len in [0, 1, 4095, 4096, 4097, 300_000, 3_000_000] {
        write_pattern(&tree.join(format!("a/{len}")), len);
    }
    write_hole(&tree.join("sparse"), 1 << 20);
    for byte in 1..=255u8 {
        if !b"/.c".contains(&byte) {
            fs::write(tree.join("a/b").join(OsStr::from_bytes(&[byte])), [byte]).unwrap();
        }
    }
    fs::write(tree.join("n".repeat(255)), "long").unwrap();
    fs::create_dir(tree.join("m".repeat(255))).unwrap();
    symlink("a/b", tree.join("link")).unwrap();
    symlink("/etc/passwd", tree.join("absolute")).unwrap();
    for len in [3000, 4032, 4033, 4095] {
        symlink("x".repeat(len), tree.join(format!("link{len}"))).unwrap();
    }
    fs::hard_link(tree.join("a/1"), tree.join("a/b/c/hard")).unwrap();
    fs::hard_link(tree.join("link"), tree.join("a/hard link to a link")).unwrap();
    mknodat(CWD, tree.join("fifo"), FileType::Fifo, Mode::from_raw_mode(0o640), 0).unwrap();
    let _ = fs::remove_file(tree.join("socket"));
    drop(UnixListener::bind(tree.join("socket")).unwrap());
    fs::set_permissions(tree.join("a/4096"), fs::Permissions::from_mode(0o4755)).unwrap();
    fs::set_permissions(tree.join("a/b"), fs::Permissions::from_mode(0o1777)).unwrap();
    set_xattr(&tree.join("a/1"), "user.small", b"value");
    set_xattr(&tree.join("a/1"), "user.empty", b"");
    set_xattr(&tree.join("a/4097"), "user.big", &[7; 3000]);
    set_xattr(&tree.join("a/4097"), "user.other", &[8; 600]);
    set_xattr(&tree.join("a"), "user.dir", b"d");
    if root() {
        let mode = Mode::from_raw_mode(0o660);
        mknodat(CWD, tree.join("null"), FileType::CharacterDevice, mode, makedev(1, 3)).unwrap();
        mknodat(CWD, tree.join("block"), FileType::BlockDevice, mode, makedev(259, 70_000)).unwrap();
        std::os::unix::fs::lchown(tree.join("a/4095"), Some(100_000), Some(65_536)).unwrap();
        std::os::unix::fs::lchown(tree.join("link"), Some(1), Some(2)).unwrap();
        let capability = [&1u32.to_le_bytes()[..], &[0x20; 16]].concat();
        set_xattr(&tree.join("a/4095"), "security.capability", &capability);
        set_xattr(&tree.join("a/b"), "trusted.overlay.opaque", b"y");
        // Version 2; owner rwx, user 1000 r--, group r-x, mask rwx, others ---.
        let acl = [(1u16, 7u16, !0u32), (2, 4, 1000), (4, 5, !0), (16, 7, !0), (32, 0, !0)];
        let acl = acl.iter().flat_map(|(tag, perm, id)| {
            [&tag.to_le_bytes()[..], &perm.to_le_bytes(), &id.to_le_bytes()].concat()
        });
        let acl: Vec<u8> = 2u32.to_le_bytes().into_iter().chain(acl).collect();
        set_xattr(&tree.join("a/b/c"), "system.posix_acl_access", &acl);
        set_xattr(&tree.join("a/b/c"), "system.posix_acl_default", &acl);
    }
    set_mtime(&tree.join("a/0"), 0, 0);
    set_mtime(&tree.join("a/1"), -1_000_000, 5);
    set_mtime(&tree.join("a/4096"), 1 << 33, 999_999_999);
    set_mtime(&tree.join("link"), 12345, 678);
}

#[test]
fn everything_of_a_tree_is_in_the_image() {
    let dir = dir("everything");
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    make_tree(&tree);
    pack(&tree, &image);
    let expected = of_host(&tree);
    assert_same(&of_image(&image), &expected);
    check_with_fsck(&image, &expected, &dir);
    assert_eq!(inspect(&image).unwrap().inodes, expected.len() as u64 - 2);
}

/// Where Linux can mount images, it is the judge of hard links and xattrs, too.
#[test]
fn linux_mounts_the_image() {
    let dir = dir("mount");
    let (tree, image, at) = (dir.join("tree"), dir.join("image"), dir.join("at"));
    make_tree(&tree);
    pack(&tree, &image);
    fs::create_dir(&at).unwrap();
    let mounted = Command::new("mount").args(["-t", "erofs", "-o", "loop,ro"]).arg(&image).arg(&at).output();
    if !mounted.is_ok_and(|done| done.status.success()) {
        eprintln!("skipped: this machine cannot mount EROFS images");
        return;
    }
    let found = std::panic::catch_unwind(|| of_host(&at));
    run(Command::new("umount").arg(&at));
    assert_same(&found.unwrap(), &of_host(&tree));
}

#[test]
fn many_entries_and_a_deep_tree() {
    let dir = dir("many");
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    fs::create_dir_all(tree.join("many")).unwrap();
    for n in 0..10_000 {
        fs::write(tree.join(format!("many/{n:x}-{}", "y".repeat(n % 100))), "").unwrap();
    }
    fs::create_dir_all(tree.join("deep/".repeat(500))).unwrap();
    pack(&tree, &image);
    let expected = of_host(&tree);
    assert_same(&of_image(&image), &expected);
    run(Command::new("fsck.erofs").arg(&image));
}

#[test]
fn the_same_tree_gives_the_same_bytes() {
    let dir = dir("reproducible");
    let make = |name: &str, order: &mut dyn Iterator<Item = usize>| {
        let tree = dir.join(name);
        fs::create_dir_all(tree.join("d")).unwrap();
        for n in order {
            fs::write(tree.join(format!("d/{n}")), format!("{n}")).unwrap();
            set_mtime(&tree.join(format!("d/{n}")), 1000 + n as i64, 0);
        }
        let out = dir.join(format!("{name}.erofs"));
        let options = Options { clamp_mtime: Some(1050), ..Options::default() };
        build_from_dir(&tree, &out, &options, &mut |_| ()).unwrap();
        fs::read(out).unwrap()
    };
    let (one, two) = (make("one", &mut (0..100)), make("two", &mut (0..100).rev()));
    assert!(one == two, "the images differ");
}

#[test]
fn owners_and_volume_id_as_wanted() {
    let dir = dir("options");
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    fs::create_dir_all(tree.join("d")).unwrap();
    let options = Options { owner: Some((5, 70_000)), uuid: Some([9; 16]), ..Options::default() };
    build_from_dir(&tree, &image, &options, &mut |_| ()).unwrap();
    assert_eq!(inspect(&image).unwrap().uuid, [9; 16]);
    assert!(of_image(&image).values().all(|item| item.owner == (5, 70_000)));
}

#[test]
fn progress_reaches_the_end() {
    let dir = dir("progress");
    let tree = dir.join("tree");
    make_tree(&tree);
    let mut seen = Vec::new();
    build_from_dir(&tree, &dir.join("image"), &Options::default(), &mut |p| seen.push(p)).unwrap();
    assert_eq!(seen.first().unwrap().phase, Phase::Scan);
    let last = seen.last().unwrap();
    assert_eq!((last.phase, last.bytes), (Phase::Finish, last.bytes_total));
    assert!(seen.is_sorted_by_key(|p| (p.phase as u8, p.bytes)));
}

#[test]
fn the_image_is_not_packed_into_itself() {
    let dir = dir("itself");
    fs::write(dir.join("a"), "a").unwrap();
    pack(&dir, &dir.join("image"));
    pack(&dir, &dir.join("image"));
    let names: Vec<_> = of_image(&dir.join("image")).into_keys().collect();
    assert_eq!(names, [&b""[..], b"/a"]);
}

#[test]
fn clear_errors_and_no_leftovers() {
    let dir = dir("errors");
    let (tree, out) = (dir.join("tree"), dir.join("out/image"));
    let pack = |tree: &Path| build_from_dir(tree, &out, &Options::default(), &mut |_| ()).unwrap_err();
    assert!(matches!(pack(&tree), Error::Source { .. }));
    fs::write(&tree, "").unwrap();
    assert!(matches!(pack(&tree), Error::NotDirectory(_)));
    fs::remove_file(&tree).unwrap();
    fs::create_dir(&tree).unwrap();
    assert!(matches!(pack(&tree), Error::Output { .. }));
    fs::create_dir(dir.join("out")).unwrap();
    if !root() {
        fs::write(tree.join("secret"), "s").unwrap();
        fs::set_permissions(tree.join("secret"), fs::Permissions::from_mode(0o000)).unwrap();
        assert!(matches!(pack(&tree), Error::Unreadable { path, .. } if path.ends_with("secret")));
    }
    assert_eq!(fs::read_dir(dir.join("out")).unwrap().count(), 0);
}

#[test]
fn a_full_disk() {
    let dir = dir("full");
    let (tree, disk) = (dir.join("tree"), dir.join("disk"));
    fs::create_dir_all(&tree).unwrap();
    fs::create_dir_all(&disk).unwrap();
    write_pattern(&tree.join("big"), 2 << 20);
    let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1M", "tmpfs"]).arg(&disk).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no right to mount a small tmpfs");
        return;
    }
    let failed = build_from_dir(&tree, &disk.join("image"), &Options::default(), &mut |_| ());
    let left = fs::read_dir(&disk).unwrap().count();
    run(Command::new("umount").arg(&disk));
    assert!(matches!(failed, Err(Error::DiskFull(_))), "{failed:?}");
    assert_eq!(left, 0);
}

#[test]
fn mounts_are_left_out() {
    let dir = dir("mounts");
    let (tree, image) = (dir.join("tree"), dir.join("image"));
    fs::create_dir_all(tree.join("tmp")).unwrap();
    let mounted =
        Command::new("mount").args(["-t", "tmpfs", "-o", "mode=700", "tmpfs"]).arg(tree.join("tmp")).status();
    if !mounted.is_ok_and(|status| status.success()) {
        eprintln!("skipped: no right to mount a tmpfs");
        return;
    }
    fs::write(tree.join("tmp/inside"), "x").unwrap();
    pack(&tree, &image);
    let without = of_image(&image);
    let options = Options { cross_mounts: true, ..Options::default() };
    build_from_dir(&tree, &image, &options, &mut |_| ()).unwrap();
    let with = of_image(&image);
    run(Command::new("umount").arg(tree.join("tmp")));
    assert_eq!(without[&b"/tmp"[..]].mode, 0o40700);
    assert!(!without.contains_key(&b"/tmp/inside"[..]));
    assert_eq!(with[&b"/tmp/inside"[..]].data.0, b"x");
}
