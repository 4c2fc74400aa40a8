//! Path walk, names, the dentry cache, mounts: by paths, on a tmpfs.

use alloc::{format, string::String, sync::Arc};

use super::{
    FileType, Mount, MountFlags, NewKind, OpenFlags, Path, RenameFlags, SetAttributes, Subject, Superblock,
    WalkFlags, dentry, open, ops, testing::*, tmpfs::Tmpfs,
};
use crate::errno::Errno;

fn user(w: &World) -> World {
    let subject = Subject { uid: 1000, gid: 1000, groups: &[], capabilities: 0, user_ns: None };
    World { namespace: w.namespace.clone(), root: w.root.clone(), subject }
}

fn chmod(w: &World, path: &str, mode: u32) {
    let change = SetAttributes { mode: Some(mode), ..SetAttributes::default() };
    w.resolve(path).unwrap().inode().unwrap().set_attributes(&change).unwrap();
}

fn err<T>(r: Result<T, Errno>) -> Errno {
    r.err().expect("should fail")
}

#[test]
fn dots_slashes_and_the_root() {
    let w = World::tmpfs();
    w.mkdir("/a").unwrap();
    w.mkdir("/a/b").unwrap();
    w.write("/a/f", 0, b"x").unwrap();
    let b = w.resolve("/a/b").unwrap();
    for same in ["a/b", "//a//b//", "/a/./b/.", "/../a/b", "a/b/../b"] {
        assert!(w.resolve(same).unwrap().same(&b), "{same}");
    }
    assert_eq!(b.text(&w.root).bytes, b"/a/b");
    assert_eq!(err(w.resolve("")), Errno::ENOENT);
    assert_eq!(err(w.resolve("/a/f/")), Errno::ENOTDIR);
    assert_eq!(err(w.resolve("/a/f/x")), Errno::ENOTDIR);
    assert_eq!(err(w.resolve("/a/f/..")), Errno::ENOTDIR);
    assert_eq!(err(w.resolve("/nope/..")), Errno::ENOENT);
    assert_eq!(err(w.resolve(&format!("/{}", "n".repeat(256)))), Errno::ENAMETOOLONG);
}

#[test]
fn symbolic_links() {
    let w = World::tmpfs();
    w.mkdir("/d").unwrap();
    w.write("/d/f", 0, b"content").unwrap();
    w.symlink("d", "/rel").unwrap();
    w.symlink("/d/f", "/d/abs").unwrap();
    w.symlink("loop2", "/loop1").unwrap();
    w.symlink("loop1", "/loop2").unwrap();
    w.symlink("made", "/d/dangling").unwrap();
    assert_eq!(w.read("/rel/abs").unwrap(), b"content");
    assert_eq!(w.resolve_link("/rel").unwrap().inode().unwrap().kind(), FileType::Symlink);
    assert_eq!(w.resolve_link("/rel/").unwrap().inode().unwrap().kind(), FileType::Directory);
    assert_eq!(err(w.resolve("/loop1")), Errno::ELOOP);
    assert_eq!(err(w.open("/rel/abs", OpenFlags::NOFOLLOW)), Errno::ELOOP);
    assert!(w.open("/rel/abs", OpenFlags::NOFOLLOW | OpenFlags::PATH).is_ok());
    // O_CREAT goes through a dangling link; O_EXCL does not.
    assert_eq!(err(w.open("/d/dangling", OpenFlags::CREAT | OpenFlags::EXCL)), Errno::EEXIST);
    w.write("/d/dangling", 0, b"new").unwrap();
    assert_eq!(w.read("/d/made").unwrap(), b"new");
    // 40 links in a row are followed, 41 are not.
    w.symlink("d", "/l0").unwrap();
    for i in 1..=40 {
        w.symlink(&format!("l{}", i - 1), &format!("/l{i}")).unwrap();
    }
    assert!(w.resolve("/l39").is_ok());
    assert_eq!(err(w.resolve("/l40")), Errno::ELOOP);
}

#[test]
fn open_flags() {
    let w = World::tmpfs();
    w.mkdir("/d").unwrap();
    let create = OpenFlags::CREAT | OpenFlags::WRONLY;
    w.write("/f", 0, b"12345").unwrap();
    assert_eq!(err(w.open("/f", create | OpenFlags::EXCL)), Errno::EEXIST);
    assert_eq!(err(w.open("/d", OpenFlags::WRONLY)), Errno::EISDIR);
    assert_eq!(err(w.open("/d", OpenFlags::CREAT)), Errno::EISDIR);
    assert_eq!(err(w.open("/new/", create)), Errno::EISDIR);
    assert_eq!(err(w.open("/f", OpenFlags::DIRECTORY)), Errno::ENOTDIR);
    assert_eq!(err(w.open("/f/", OpenFlags::empty())), Errno::ENOTDIR);
    w.open("/f", OpenFlags::WRONLY | OpenFlags::TRUNC).unwrap();
    assert_eq!(w.read("/f").unwrap(), b"");
    let unnamed = w.open("/d", OpenFlags::TMPFILE | OpenFlags::DIRECTORY | OpenFlags::RDWR).unwrap();
    assert_eq!(unnamed.metadata().nlink, 0);
    assert!(w.list("/d").unwrap().is_empty());
    let parent = w.walk().parent(&w.root, b"/d/named").unwrap();
    super::ops::link(&w.subject, unnamed.path(), &parent).unwrap();
    assert_eq!(unnamed.metadata().nlink, 1);
    w.unlink("/d/named").unwrap();
    let gone = w.open("/f", OpenFlags::empty()).unwrap();
    w.unlink("/f").unwrap();
    let parent = w.walk().parent(&w.root, b"/d/again").unwrap();
    assert_eq!(err(super::ops::link(&w.subject, gone.path(), &parent)), Errno::ENOENT);
    let kept =
        w.open("/f", OpenFlags::RDWR | OpenFlags::CREAT | OpenFlags::APPEND | OpenFlags::CLOEXEC).unwrap();
    assert_eq!(kept.flags(), OpenFlags::RDWR | OpenFlags::APPEND | OpenFlags::LARGEFILE);
}

#[test]
fn beneath_and_in_root_do_not_leave() {
    let w = World::tmpfs();
    w.mkdir("/jail").unwrap();
    w.write("/outside", 0, b"secret").unwrap();
    w.write("/jail/inside", 0, b"fine").unwrap();
    w.symlink("/outside", "/jail/abs").unwrap();
    w.symlink("../outside", "/jail/up").unwrap();
    let jail = w.resolve("/jail").unwrap();
    let open = |path: &str, how| {
        open::open(&w.walk(), &jail, path.as_bytes(), OpenFlags::empty(), 0, how)
            .map(|f| read_all(&f).unwrap())
    };
    for path in ["abs", "up", "../outside", "/outside"] {
        assert_eq!(open(path, WalkFlags::BENEATH).err(), Some(Errno::EXDEV), "{path}");
        assert_eq!(open(path, WalkFlags::IN_ROOT).err(), Some(Errno::ENOENT), "{path}");
    }
    assert_eq!(open("../inside", WalkFlags::IN_ROOT).unwrap(), b"fine");
    assert_eq!(open("abs", WalkFlags::NO_SYMLINKS).err(), Some(Errno::ELOOP));
}

#[test]
fn permissions_and_the_sticky_bit() {
    let root = World::tmpfs();
    let user = user(&root);
    root.mkdir("/closed").unwrap();
    root.write("/closed/f", 0, b"x").unwrap();
    chmod(&root, "/closed", 0o700);
    assert_eq!(err(user.read("/closed/f")), Errno::EACCES);
    assert_eq!(err(user.mkdir("/mine")), Errno::EACCES);
    root.mkdir("/tmp").unwrap();
    chmod(&root, "/tmp", 0o1777);
    root.write("/tmp/roots", 0, b"x").unwrap();
    user.write("/tmp/mine", 0, b"x").unwrap();
    assert_eq!(user.resolve("/tmp/mine").unwrap().inode().unwrap().metadata().uid, 1000);
    assert_eq!(err(user.unlink("/tmp/roots")), Errno::EPERM);
    assert_eq!(err(user.rename("/tmp/roots", "/tmp/x", RenameFlags::empty())), Errno::EPERM);
    user.rename("/tmp/mine", "/tmp/other", RenameFlags::empty()).unwrap();
    root.unlink("/tmp/other").unwrap();
}

#[test]
fn renames_follow_the_rules() {
    let w = World::tmpfs();
    let none = RenameFlags::empty();
    w.mkdir("/a").unwrap();
    w.mkdir("/a/b").unwrap();
    w.write("/f", 0, b"f").unwrap();
    assert_eq!(err(w.rename("/a", "/a/b/c", none)), Errno::EINVAL);
    assert_eq!(err(w.rename("/a/b", "/a", none)), Errno::ENOTEMPTY);
    assert_eq!(err(w.rename("/f", "/a", none)), Errno::EISDIR);
    assert_eq!(err(w.rename("/a", "/f", none)), Errno::ENOTDIR);
    assert_eq!(err(w.rename("/f", "/a", RenameFlags::NOREPLACE)), Errno::EEXIST);
    w.rename("/a/b", "/b", none).unwrap();
    assert!(w.resolve("/b/..").unwrap().same(&w.root));
    w.rename("/f", "/b", RenameFlags::EXCHANGE).unwrap();
    assert_eq!(w.read("/b").unwrap(), b"f");
    assert_eq!(w.resolve("/f").unwrap().inode().unwrap().kind(), FileType::Directory);
    w.link("/b", "/hard").unwrap();
    w.rename("/b", "/hard", none).unwrap();
    assert!(w.resolve("/b").is_ok(), "two names of one file: nothing happens");
}

#[test]
fn an_open_file_survives_its_name() {
    let w = World::tmpfs();
    w.write("/f", 0, b"still here").unwrap();
    let file = w.open("/f", OpenFlags::empty()).unwrap();
    w.unlink("/f").unwrap();
    assert_eq!(err(w.resolve("/f")), Errno::ENOENT);
    assert_eq!(read_all(&file).unwrap(), b"still here");
    assert_eq!(file.path().text(&w.root).marked(), b"/f (deleted)");
    w.mkdir("/d").unwrap();
    let gone = w.resolve("/d").unwrap();
    w.rmdir("/d").unwrap();
    let create = OpenFlags::CREAT | OpenFlags::WRONLY;
    assert_eq!(err(open::open(&w.walk(), &gone, b"x", create, 0o600, WalkFlags::empty())), Errno::ENOENT);
}

#[test]
fn the_cache_forgets_what_nobody_uses() {
    let w = World::tmpfs();
    for i in 0..100 {
        w.write(&format!("/f{i}"), 0, b"x").unwrap();
    }
    let held = w.resolve("/f7").unwrap();
    dentry::shrink();
    assert!(w.root.dentry().cached(b"f8").is_none());
    assert!(Arc::ptr_eq(&w.root.dentry().cached(b"f7").unwrap(), held.dentry()));
    assert_eq!(w.read("/f8").unwrap(), b"x");
}

#[test]
fn a_very_deep_tree_is_dropped_without_recursion() {
    let w = World::tmpfs();
    let mut at = w.root.clone();
    for _ in 0..20_000 {
        at = super::ops::create(&w.subject, &at, b"d", super::NewKind::Directory, 0o755).unwrap();
    }
    drop(at);
    drop(w);
}

#[test]
fn mounts_cover_and_uncover() {
    let w = World::tmpfs();
    for dir in ["/m", "/m/hidden", "/bind"] {
        w.mkdir(dir).unwrap();
    }
    let superblock = Superblock::new(Tmpfs::new(&options()).unwrap());
    let dentry = superblock.root().clone();
    let mount = Mount::new(superblock, dentry, MountFlags::empty(), b"second");
    w.namespace.mount(&mount, w.resolve("/m").unwrap()).unwrap();
    assert_eq!(err(w.resolve("/m/hidden")), Errno::ENOENT);
    w.write("/m/f", 0, b"on the second").unwrap();
    assert!(w.resolve("/m/..").unwrap().same(&w.root));
    assert_eq!(w.resolve("/m/f").unwrap().text(&w.root).bytes, b"/m/f");
    assert_eq!(err(w.rename("/m/f", "/f", RenameFlags::empty())), Errno::EXDEV);
    assert_eq!(err(w.rmdir("/m")), Errno::EBUSY);
    w.namespace.bind(&w.resolve("/m").unwrap(), w.resolve("/bind").unwrap(), true).unwrap();
    assert_eq!(w.read("/bind/f").unwrap(), b"on the second");

    // A copy of the namespace keeps its mounts when the original loses one.
    let (copy, map) = w.namespace.copy(crate::ns::UserNamespace::initial()).unwrap();
    w.namespace.unmount(&mount, false).unwrap();
    assert!(w.resolve("/m/hidden").is_ok());
    let other = World { root: map.translate(&w.root), namespace: copy, subject: w.subject };
    assert_eq!(other.read("/m/f").unwrap(), b"on the second");
    assert_eq!(w.read("/bind/f").unwrap(), b"on the second");

    mount.set_flags(MountFlags::empty()).unwrap();
    let bind = w.resolve("/bind").unwrap();
    bind.mount().set_flags(MountFlags::READ_ONLY).unwrap();
    assert_eq!(err(w.write("/bind/f", 0, b"x")), Errno::EROFS);
    assert_eq!(err(w.mkdir("/bind/d")), Errno::EROFS);
}

#[test]
fn chroot_contains_dot_dot() {
    let w = World::tmpfs();
    w.mkdir("/jail").unwrap();
    w.mkdir("/jail/d").unwrap();
    let jail = w.resolve("/jail").unwrap();
    let inside = World { namespace: w.namespace.clone(), root: jail.clone(), subject: w.subject };
    assert!(inside.resolve("/../../..").unwrap().same(&jail));
    assert!(inside.resolve("d/../../d").is_ok());
    let text = |p: &super::Path| String::from_utf8(p.text(&jail).bytes).unwrap();
    assert_eq!(text(&inside.resolve("/d").unwrap()), "/d");
    assert!(!w.root.text(&jail).reachable);
}

#[test]
fn pivot_root_changes_places_and_keeps_the_order() {
    let w = World::tmpfs();
    let root = w.namespace.root().unwrap();
    let dir =
        |at: &Path, name: &[u8]| ops::create(&Subject::ROOT, at, name, NewKind::Directory, 0o755).unwrap();
    let place = dir(&root, b"new");
    let tmpfs = || {
        let superblock = Superblock::new(Tmpfs::new(&options()).unwrap());
        let dentry = superblock.root().clone();
        Mount::new(superblock, dentry, MountFlags::empty(), b"t")
    };
    w.namespace.mount(&tmpfs(), place.clone()).unwrap();
    let new = place.below_mounts();
    let put_old = dir(&new, b"old");
    assert_eq!(w.namespace.pivot(&root, &root, &put_old), Err(Errno::EBUSY));
    assert_eq!(w.namespace.pivot(&root, &put_old, &put_old), Err(Errno::EINVAL), "not the root of a mount");
    w.namespace.pivot(&root, &new, &put_old).unwrap();
    assert!(w.namespace.root().unwrap().same(&new));
    assert!(put_old.below_mounts().same(&root));
    let (copy, _) = w.namespace.copy(crate::ns::UserNamespace::initial()).unwrap();
    assert_eq!(copy.mounts().len(), w.namespace.mounts().len());
    w.namespace.unmount(root.mount(), true).unwrap();
    assert_eq!(w.namespace.mounts().len(), 1);
}

#[test]
fn mounts_of_a_more_privileged_namespace_stay_as_they_are() {
    let w = World::tmpfs();
    let root = w.namespace.root().unwrap();
    let place = ops::create(&Subject::ROOT, &root, b"m", NewKind::Directory, 0o755).unwrap();
    let superblock = Superblock::new(Tmpfs::new(&options()).unwrap());
    let dentry = superblock.root().clone();
    w.namespace.mount(&Mount::new(superblock, dentry, MountFlags::READ_ONLY, b"t"), place).unwrap();
    let below = crate::ns::UserNamespace::create(&crate::task::Credentials::root()).unwrap();
    let (copy, _) = w.namespace.copy(&below).unwrap();
    let mount = copy.mounts().last().unwrap().clone();
    assert_eq!(mount.set_flags(MountFlags::empty()), Err(Errno::EPERM));
    assert_eq!(mount.set_flags(MountFlags::READ_ONLY | MountFlags::NOSUID), Ok(()));
    assert_eq!(copy.unmount(&mount, true), Err(Errno::EINVAL));
}
