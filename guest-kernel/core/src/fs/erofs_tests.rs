//! A real image, made by our own packer, seen through the VFS and under an overlay.

use alloc::{format, sync::Arc, vec, vec::Vec};
use core::sync::atomic::{AtomicU32, Ordering};
use std::{fs, os::unix::fs::PermissionsExt};

use ringfence_hal as hal;
use ringfence_image::{Options, build_from_dir};

use super::{FileSystem, OpenFlags, dentry, erofs::Erofs, testing::*, tmpfs::Tmpfs};
use crate::errno::Errno;

/// Bytes that differ from page to page.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i / 7 + i / 4096) as u8).collect()
}

fn image() -> Arc<Erofs> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let dir = std::env::temp_dir().join(format!("ringfence-erofs-{}-{n}", std::process::id()));
    let tree = dir.join("tree");
    fs::create_dir_all(tree.join("many")).unwrap();
    fs::write(tree.join("small"), b"inline").unwrap();
    fs::write(tree.join("large"), pattern(3 * 4096 + 100)).unwrap();
    fs::hard_link(tree.join("large"), tree.join("other")).unwrap();
    fs::set_permissions(tree.join("small"), fs::Permissions::from_mode(0o751)).unwrap();
    std::os::unix::fs::symlink("many/f7", tree.join("link")).unwrap();
    for i in 0..1000 {
        fs::write(tree.join(format!("many/f{i}")), format!("{i}")).unwrap();
    }
    let out = dir.join("image");
    build_from_dir(&tree, &out, &Options::default(), &mut |_| {}).unwrap();
    let bytes = fs::read(&out).unwrap();
    fs::remove_dir_all(&dir).unwrap();
    Erofs::open(hal::host::phys_region(bytes)).unwrap()
}

fn check(w: &World) {
    assert_eq!(w.read("/small").unwrap(), b"inline");
    assert_eq!(w.read("/large").unwrap(), pattern(3 * 4096 + 100));
    assert_eq!(w.read("/link").unwrap(), b"7");
    let m = w.resolve("/small").unwrap().inode().unwrap().metadata();
    assert_eq!((m.mode, m.size, m.nlink), (0o751, 6, 1));
    let inode = |p| w.resolve(p).unwrap().inode().unwrap().clone();
    assert_eq!(inode("/large").ino(), inode("/other").ino());
    assert_eq!(inode("/large").metadata().nlink, 2);
    let names = w.list("/many").unwrap();
    assert_eq!(names.len(), 1000);
    for name in names {
        assert!(w.resolve(&format!("/many/{}", core::str::from_utf8(&name).unwrap())).is_ok());
    }
    assert_eq!(w.resolve("/many/f1000").err(), Some(Errno::ENOENT));
}

#[test]
fn an_image_is_read_and_mapped() {
    let w = World::new(image());
    check(&w);
    assert_eq!(w.write("/new", 0, b""), Err(Errno::EROFS));
    assert_eq!(w.open("/small", OpenFlags::WRONLY).err(), Some(Errno::EROFS));
    let pages = w.resolve("/large").unwrap().inode().unwrap().clone().mappable().unwrap();
    let frame = pages.page(1, false).unwrap();
    assert!(frame.is_static(), "whole pages are the image's own");
    let mut bytes = vec![0; 4096];
    frame.read(0, &mut bytes);
    assert_eq!(bytes, pattern(8192)[4096..]);
    pages.page(3, false).unwrap().read(0, &mut bytes);
    assert_eq!(bytes[..100], pattern(3 * 4096 + 100)[3 * 4096..]);
    assert!(bytes[100..].iter().all(|b| *b == 0));
}

#[test]
fn an_overlay_on_an_image() {
    let fs = Tmpfs::over(image(), &options());
    let w = World::new(fs.clone());
    check(&w);
    w.write("/other", 4096, b"changed").unwrap();
    let mut want = pattern(3 * 4096 + 100);
    want[4096..4103].copy_from_slice(b"changed");
    assert_eq!(w.read("/large").unwrap(), want, "hard links stay links");
    assert_eq!(fs.statfs().blocks - fs.statfs().free, 1, "one page was copied");
    // rm -r, in pieces as large as a getdents buffer.
    let dir = w.open("/many", OpenFlags::DIRECTORY).unwrap();
    loop {
        let mut names = vec![];
        dir.readdir(&mut |e| {
            let fits = names.len() < 100;
            if fits {
                names.push(e.name.to_vec());
            }
            fits
        })
        .unwrap();
        if names.is_empty() {
            break;
        }
        for name in names.iter().filter(|n| !n.starts_with(b".")) {
            w.unlink(&format!("/many/{}", core::str::from_utf8(name).unwrap())).unwrap();
        }
        dentry::shrink();
    }
    w.rmdir("/many").unwrap();
    assert_eq!(w.list("/").unwrap().len(), 4);
    assert_eq!(w.resolve("/link").err(), Some(Errno::ENOENT));
}
