//! Content, limits, and what shows through from a lower file system.

use alloc::{sync::Arc, vec};

use super::{Tmpfs, TmpfsOptions};
use crate::{
    errno::Errno,
    fs::{
        FallocateMode, FileSystem, OpenFlags, RenameFlags, SeekTarget, SetAttributes, XattrFlags, dentry,
        testing::*,
    },
    mm::Mappable,
};

/// An overlay whose lower tree has `/d/f`, `/d/g`, a hard link of `f` and a link.
fn overlay() -> World {
    let lower = World::tmpfs();
    lower.mkdir("/d").unwrap();
    lower.write("/d/f", 0, &vec![b'l'; 10_000]).unwrap();
    lower.write("/d/g", 0, b"g").unwrap();
    lower.link("/d/f", "/hard").unwrap();
    lower.symlink("d/f", "/link").unwrap();
    World::new(Tmpfs::over(lower.root.mount().superblock().fs().clone(), &options()))
}

#[test]
fn sparse_files_read_zeros_and_find_holes() {
    let w = World::tmpfs();
    w.write("/f", 10 * 4096 + 5, b"end").unwrap();
    w.write("/f", 0, b"start").unwrap();
    let file = w.open("/f", OpenFlags::RDWR).unwrap();
    let inode = file.inode();
    let bytes = read_all(&file).unwrap();
    assert_eq!(
        (bytes.len(), &bytes[..6], &bytes[10 * 4096 + 4..]),
        (10 * 4096 + 8, &b"start\0"[..], &b"\0end"[..])
    );
    assert_eq!(inode.seek_data(SeekTarget::Hole, 0), Ok(4096));
    assert_eq!(inode.seek_data(SeekTarget::Data, 4096), Ok(10 * 4096));
    assert_eq!(inode.metadata().blocks, 16);
    w.truncate("/f", 3).unwrap();
    w.truncate("/f", 6).unwrap();
    assert_eq!(w.read("/f").unwrap(), b"sta\0\0\0", "what was cut off does not come back");
}

#[test]
fn space_is_limited_and_given_back() {
    let fs = Tmpfs::new(&TmpfsOptions { size: 3 * 4096, inodes: 3, ..options() }).unwrap();
    let w = World::new(fs.clone());
    w.write("/a", 0, &[1; 4096]).unwrap();
    assert_eq!(w.write("/b", 0, &[1; 3 * 4096]), Ok(2 * 4096), "as much as there is room for");
    assert_eq!(w.write("/b", 2 * 4096, &[1; 4096]), Err(Errno::ENOSPC));
    assert_eq!(w.write("/c", 0, b"x"), Err(Errno::ENOSPC), "no more inodes");
    assert_eq!(fs.statfs().free, 0);
    w.unlink("/a").unwrap();
    w.unlink("/b").unwrap();
    assert_eq!((fs.statfs().free, fs.statfs().files_free), (3, 2));
}

#[test]
fn mappings_and_reads_share_frames() {
    let w = World::tmpfs();
    w.write("/f", 0, b"abc").unwrap();
    let inode = w.resolve("/f").unwrap().inode().unwrap().clone();
    let pages = inode.mappable().unwrap();
    let frame = pages.page(0, true).unwrap();
    frame.write(1, b"X");
    assert_eq!(w.read("/f").unwrap(), b"aXc");
    w.write("/f", 2, b"Y").unwrap();
    let mut byte = [0];
    pages.page(0, false).unwrap().read(2, &mut byte);
    assert_eq!(&byte, b"Y");
}

#[test]
fn fallocate_makes_room_and_holes() {
    let w = World::tmpfs();
    w.write("/f", 0, &[7; 8192]).unwrap();
    let inode = w.resolve("/f").unwrap().inode().unwrap().clone();
    inode.fallocate(FallocateMode::PUNCH_HOLE | FallocateMode::KEEP_SIZE, 100, 5000, &mut || Ok(())).unwrap();
    let bytes = w.read("/f").unwrap();
    assert!(
        bytes[100..5100].iter().all(|b| *b == 0) && bytes[99] == 7 && bytes[5100] == 7 && bytes.len() == 8192
    );
    inode.fallocate(FallocateMode::empty(), 0, 20_000, &mut || Ok(())).unwrap();
    assert_eq!(inode.size(), 20_000);
    assert_eq!(inode.fallocate(FallocateMode::empty(), 0, 1 << 40, &mut || Ok(())), Err(Errno::ENOSPC));
}

#[test]
fn an_interrupted_fallocate_leaves_nothing() {
    let w = World::tmpfs();
    w.write("/f", 0, b"abc").unwrap();
    let inode = w.resolve("/f").unwrap().inode().unwrap().clone();
    let blocks = inode.metadata().blocks;
    let mut pages = 0;
    let result = inode.fallocate(FallocateMode::empty(), 0, 100 * 4096, &mut || {
        pages += 1;
        if pages == 50 { Err(Errno::EINTR) } else { Ok(()) }
    });
    assert_eq!((result, inode.size(), inode.metadata().blocks), (Err(Errno::EINTR), 3, blocks));
    assert_eq!(w.read("/f").unwrap(), b"abc");
}

#[test]
fn a_write_over_the_lower_tree_changes_one_page() {
    let w = overlay();
    let reader = w.open("/d/f", OpenFlags::empty()).unwrap();
    let ino = reader.inode().ino();
    w.write("/d/f", 5000, b"upper").unwrap();
    let mut want = vec![b'l'; 10_000];
    want[5000..5005].copy_from_slice(b"upper");
    assert_eq!(w.read("/d/f").unwrap(), want);
    assert_eq!(read_all(&reader).unwrap(), want, "a file opened before sees it");
    assert_eq!(w.read("/hard").unwrap(), want, "and so does the other name");
    assert_eq!(w.read("/link").unwrap(), want);
    drop(reader);
    dentry::shrink();
    let again = w.open("/d/f", OpenFlags::empty()).unwrap();
    assert_eq!((again.inode().ino(), read_all(&again).unwrap()), (ino, want));
    w.truncate("/d/f", 100).unwrap();
    w.truncate("/d/f", 200).unwrap();
    assert_eq!(w.read("/d/f").unwrap(), [&[b'l'; 100][..], &[0; 100][..]].concat());
}

#[test]
fn removed_names_stay_removed() {
    let w = overlay();
    w.unlink("/d/f").unwrap();
    dentry::shrink();
    assert_eq!(w.resolve("/d/f").err(), Some(Errno::ENOENT));
    assert_eq!(w.resolve("/hard").unwrap().inode().unwrap().metadata().nlink, 1);
    assert_eq!(w.rmdir("/d"), Err(Errno::ENOTEMPTY));
    w.unlink("/d/g").unwrap();
    assert!(w.list("/d").unwrap().is_empty());
    w.rmdir("/d").unwrap();
    dentry::shrink();
    w.mkdir("/d").unwrap();
    assert!(w.list("/d").unwrap().is_empty(), "a new directory is opaque");
}

#[test]
fn a_renamed_directory_takes_its_lower_names_along() {
    let w = overlay();
    w.write("/d/own", 0, b"own").unwrap();
    w.rename("/d", "/e", RenameFlags::empty()).unwrap();
    dentry::shrink();
    assert_eq!(w.resolve("/d").err(), Some(Errno::ENOENT));
    assert_eq!(w.read("/e/g").unwrap(), b"g");
    let mut names = w.list("/e").unwrap();
    names.sort();
    assert_eq!(names, [&b"f"[..], b"g", b"own"]);
    let mut root = w.list("/").unwrap();
    root.sort();
    assert_eq!(root, [&b"e"[..], b"hard", b"link"]);
}

#[test]
fn attributes_survive_the_cache() {
    let w = overlay();
    let change = SetAttributes { mode: Some(0o600), uid: Some(7), ..SetAttributes::default() };
    let inode = w.resolve("/d/g").unwrap().inode().unwrap().clone();
    inode.set_attributes(&change).unwrap();
    inode.set_xattr(b"user.x", b"value", XattrFlags::empty()).unwrap();
    drop(inode);
    dentry::shrink();
    let inode = w.resolve("/d/g").unwrap().inode().unwrap().clone();
    let m = inode.metadata();
    assert_eq!((m.mode, m.uid), (0o600, 7));
    assert_eq!(inode.get_xattr(b"user.x").unwrap(), b"value");
    assert_eq!(inode.set_xattr(b"user.x", b"", XattrFlags::CREATE), Err(Errno::EEXIST));
}

#[test]
fn listing_goes_on_where_it_was_while_names_go() {
    let w = overlay();
    for i in 0..20 {
        w.write(&alloc::format!("/d/n{i}"), 0, b"").unwrap();
    }
    let dir = w.open("/d", OpenFlags::DIRECTORY).unwrap();
    let mut seen = 0;
    // As rm -r does: take a few names, remove them, go on.
    loop {
        let mut some = vec![];
        dir.readdir(&mut |e| {
            some.push(e.name.to_vec());
            some.len() < 4
        })
        .unwrap();
        let done = some.len() < 4;
        // The last one was not accepted and comes again.
        if !done {
            some.pop();
        }
        for name in some.iter().filter(|n| !n.starts_with(b".")) {
            seen += 1;
            w.unlink(&alloc::format!("/d/{}", core::str::from_utf8(name).unwrap())).unwrap();
        }
        if done {
            break;
        }
    }
    assert_eq!(seen, 22);
    w.rmdir("/d").unwrap();
}

#[test]
fn untouched_pages_are_the_lower_ones() {
    let lower = World::tmpfs();
    lower.write("/f", 0, &[1; 4096]).unwrap();
    let fs = Tmpfs::over(lower.root.mount().superblock().fs().clone(), &options());
    let w = World::new(fs.clone());
    let inode = w.resolve("/f").unwrap().inode().unwrap().clone();
    let below = lower.resolve("/f").unwrap().inode().unwrap().clone();
    let pfn = |i: &Arc<dyn crate::fs::Inode>| i.clone().mappable().unwrap().page(0, false).unwrap().pfn();
    assert_eq!(pfn(&inode), pfn(&below));
    let used = fs.statfs().free;
    w.open("/f", OpenFlags::RDWR).unwrap();
    assert_ne!(pfn(&inode), pfn(&below), "a file opened for writing maps its own pages");
    assert_eq!(fs.statfs().free, used - 1);
}

#[test]
fn attributes_and_long_links_count_as_space() {
    let fs = Tmpfs::new(&options()).unwrap();
    let w = World::new(fs.clone());
    let free = fs.statfs().free;
    w.write("/f", 0, b"").unwrap();
    let inode = w.resolve("/f").unwrap().inode().unwrap().clone();
    for len in [60_000, 10, 65_536, 5000] {
        inode.set_xattr(b"user.a", &vec![0; len], XattrFlags::empty()).unwrap();
        assert_eq!(free - fs.statfs().free, (len as u64 + 6) / 4096);
    }
    inode.set_xattr(b"user.b", &[0; 65_536], XattrFlags::empty()).unwrap();
    assert_eq!(inode.set_xattr(b"user.c", &[0; 65_536], XattrFlags::empty()), Err(Errno::ENOSPC));
    inode.remove_xattr(b"user.b").unwrap();
    w.symlink(&"x".repeat(1000), "/l").unwrap();
    assert_eq!(free - fs.statfs().free, 2);
    drop(inode);
    w.unlink("/f").unwrap();
    w.unlink("/l").unwrap();
    assert_eq!(fs.statfs().free, free);
}

#[test]
fn seals_hold() {
    let fs = Tmpfs::new(&options()).unwrap();
    let file = fs.unnamed_file(0o600, 0, 0, true).unwrap();
    let inode: crate::fs::InodeRef = file.clone();
    inode.write_at(0, &mut crate::io::Source::kernel(b"data")).unwrap();
    file.add_seals(2 | 4 | 8 | 1).unwrap();
    assert_eq!(inode.write_at(0, &mut crate::io::Source::kernel(b"x")), Err(Errno::EPERM));
    let shrink = SetAttributes { size: Some(1), ..SetAttributes::default() };
    assert_eq!(inode.set_attributes(&shrink), Err(Errno::EPERM));
    assert_eq!(file.add_seals(16), Err(Errno::EPERM));
    assert_eq!(Mappable::may_write_shared(&*file), Err(Errno::EPERM));
}
