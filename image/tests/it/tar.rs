//! Archives to images: made by GNU tar, made by hand, hostile, damaged.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::Command;

use proptest::prelude::*;
use ringfence_image::{Error, Options, Result, Summary, build_from_tar};

use crate::support::{
    Items, assert_same, dir, of_host, of_image, pack, root, run, set_mtime, set_xattr, write_pattern,
};

fn unpack(archive: &[u8], out: &Path) -> Result<Summary> {
    build_from_tar(archive, out, &Options::default(), &mut |_| ())
}

fn make_tree(tree: &Path) {
    fs::create_dir_all(tree.join("a/b")).unwrap();
    for len in [0, 1, 511, 512, 513, 4096, 100_000, 2_000_000] {
        write_pattern(&tree.join(format!("a/{len}")), len);
        set_mtime(&tree.join(format!("a/{len}")), 1_600_000_000 + len as i64, 0);
    }
    fs::hard_link(tree.join("a/1"), tree.join("a/b/hard")).unwrap();
    symlink("a/b", tree.join("link")).unwrap();
    let long = "long/".repeat(60);
    fs::create_dir_all(tree.join(&long)).unwrap();
    fs::write(tree.join(&long).join("n".repeat(255)), "long").unwrap();
    fs::hard_link(tree.join(&long).join("n".repeat(255)), tree.join("hard link to a long name")).unwrap();
    symlink("x".repeat(3000), tree.join("long link")).unwrap();
    if root() {
        std::os::unix::fs::lchown(tree.join("a/512"), Some(3_000_000), Some(70_000)).unwrap();
        use rustix::fs::{CWD, FileType, Mode, makedev, mknodat};
        let mode = Mode::from_raw_mode(0o620);
        mknodat(CWD, tree.join("tty"), FileType::CharacterDevice, mode, makedev(5, 0)).unwrap();
        mknodat(CWD, tree.join("fifo"), FileType::Fifo, mode, 0).unwrap();
    }
}

/// Without nanoseconds, which only PAX has.
fn whole_seconds(mut items: Items) -> Items {
    items.values_mut().for_each(|item| item.mtime.1 = 0);
    items
}

#[test]
fn archives_of_gnu_tar_in_all_formats() {
    let dir = dir("tar-formats");
    let (tree, archive, image) = (dir.join("tree"), dir.join("tar"), dir.join("image"));
    fs::create_dir(&tree).unwrap();
    make_tree(&tree);
    set_xattr(&tree.join("a/1"), "user.lines", b"one\ntwo=\0three\n");
    set_xattr(&tree.join("a/b"), "user.big", &[b'\n'; 3000]);
    for format in ["gnu", "posix"] {
        for zip in ["--no-auto-compress", "--gzip"] {
            let mut tar = Command::new("tar");
            tar.args(["--format", format, zip, "--numeric-owner", "--sort=name", "-C"]).arg(&tree);
            if format == "posix" {
                tar.arg("--xattrs");
            }
            run(tar.arg("-cf").arg(&archive).arg("."));
            let summary =
                build_from_tar(File::open(&archive).unwrap(), &image, &Options::default(), &mut |_| ());
            assert_eq!(summary.unwrap().warnings, Vec::<String>::new());
            run(Command::new("fsck.erofs").arg(&image));
            let mut expected = of_host(&tree);
            if format == "gnu" {
                expected = whole_seconds(expected);
                expected.values_mut().for_each(|item| item.xattrs.clear());
            }
            assert_same(&of_image(&image), &expected);
        }
    }
    // The same tree in the same order is the same image, whichever way it came.
    let direct = dir.join("direct");
    pack(&tree, &direct);
    assert!(fs::read(&direct).unwrap() == fs::read(&image).unwrap(), "directory and archive differ");
}

/// A header with a right checksum.
fn header(name: &[u8], flag: u8, size: u64, link: &[u8]) -> Vec<u8> {
    let mut block = vec![0; 512];
    block[..name.len().min(100)].copy_from_slice(&name[..name.len().min(100)]);
    block[100..108].copy_from_slice(b"0000644\0");
    block[108..116].copy_from_slice(b"0000000\0");
    block[116..124].copy_from_slice(b"0000000\0");
    if size >> 33 == 0 {
        block[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
    } else {
        block[124..136].copy_from_slice(&(size as u128 | 1 << 95).to_be_bytes()[4..]);
    }
    block[136..148].copy_from_slice(b"00000000000\0");
    block[156] = flag;
    block[157..157 + link.len()].copy_from_slice(link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    sign(&mut block);
    block
}

fn sign(block: &mut [u8]) {
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}

/// An entry with data.
fn entry(name: &[u8], flag: u8, data: &[u8]) -> Vec<u8> {
    let mut bytes = header(name, flag, data.len() as u64, b"");
    bytes.extend(data);
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = [b" ", key.as_bytes(), b"=", value, b"\n"].concat();
    let mut len = rest.len() + 1;
    while len != rest.len() + len.to_string().len() {
        len += 1;
    }
    [len.to_string().as_bytes(), &rest].concat()
}

const END: [u8; 1024] = [0; 1024];

#[test]
fn hostile_archives_write_nothing_elsewhere() {
    let dir = dir("tar-hostile");
    let outside = dir.join("outside");
    fs::create_dir(&outside).unwrap();
    let inside = dir.join("inside");
    fs::create_dir(&inside).unwrap();
    let out = inside.join("image");
    let escape = outside.to_str().unwrap();
    let bad: [(&str, Vec<u8>); 12] = [
        ("..", entry(b"../../evil", b'0', b"x")),
        ("..", entry(b"a/../../evil", b'0', b"x")),
        ("symbolic link", [header(b"l", b'2', 0, escape.as_bytes()), entry(b"l/evil", b'0', b"x")].concat()),
        ("hard link", header(b"h", b'1', 0, b"/etc/passwd")),
        ("..", header(b"h", b'1', 0, b"../etc/passwd")),
        ("cut short", header(b"big", b'0', 1 << 50, b"")),
        ("not a number", header(b"big", b'0', u64::MAX, b"")),
        ("too long", header(b"x", b'L', 1 << 40, b"")),
        ("too long", header(b"x", b'x', 1 << 40, b"")),
        ("not a directory", [entry(b"f", b'0', b"x"), entry(b"f/x", b'0', b"x")].concat()),
        ("unknown type", entry(b"f", b'?', b"x")),
        ("sparse", [entry(b"p", b'x', &record("GNU.sparse.major", b"1")), entry(b"f", b'0', b"x")].concat()),
    ];
    for (text, archive) in bad {
        let error = unpack(&[&archive[..], &END].concat(), &out).unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
    for (text, archive) in
        [("not a tar", &b"x".repeat(2000)[..]), ("cut short", b"x"), ("no entry", b""), ("no entry", &END)]
    {
        let error = unpack(archive, &out).unwrap_err();
        assert!(error.to_string().contains(text), "{text}: {error}");
    }
    assert!(matches!(unpack(b"\xfd7zXZ\0 and so on", &out), Err(Error::Compressed("xz"))));
    assert!(matches!(unpack(b"\x1f\x8b damaged", &out), Err(Error::Tar(_))));
    // An absolute link is kept as it is, and followed only inside of the image.
    let good = [
        header(b"l", b'2', 0, b"/target"),
        header(b"target/", b'5', 0, b""),
        entry(b"/l/file", b'0', b"data"),
        END.to_vec(),
    ];
    unpack(&good.concat(), &out).unwrap();
    let items = of_image(&out);
    assert_eq!(items[&b"/target/file"[..]].data.0, b"data");
    assert_eq!(items[&b"/l"[..]].data.0, b"/target");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
    assert_eq!(fs::read_dir(&inside).unwrap().count(), 1);
}

#[test]
fn headers_that_change_the_next_one() {
    let dir = dir("tar-pax");
    let out = dir.join("image");
    let records = [
        record("path", b"pax/\xff name"),
        record("mtime", b"-5.25"),
        record("uid", b"4000000000"),
        record("SCHILY.xattr.user.x", b"a\nb"),
        record("SCHILY.xattr.security.capability", &[1, 0, 0, 2, 10, 0]),
        record("SCHILY.xattr.system.unknown", b"?"),
    ];
    let long = [b"gnu/".repeat(100), b"name\0".to_vec()].concat();
    let archive = [
        entry(b"g", b'g', &record("gid", b"77")),
        entry(b"p", b'x', &records.concat()),
        entry(b"short", b'0', b"1"),
        entry(b"long", b'L', &long),
        entry(b"long", b'K', b"target of the link\0"),
        header(b"short", b'2', 0, b"cut"),
        entry(b"old directory/", 0, b""),
        entry(b"twice", b'0', b"first"),
        entry(b"./twice", b'0', b"second"),
        // No zero blocks at the end: accepted.
    ];
    let summary = unpack(&archive.concat(), &out).unwrap();
    assert!(summary.warnings[0].contains("system.unknown"), "{:?}", summary.warnings);
    let items = of_image(&out);
    let pax = &items[&b"/pax/\xff name"[..]];
    assert_eq!((pax.mtime, pax.owner), ((-6, 750_000_000), (4_000_000_000, 77)));
    assert_eq!(pax.xattrs[&b"user.x"[..]], b"a\nb");
    assert_eq!(pax.xattrs[&b"security.capability"[..]], [1, 0, 0, 2, 10, 0]);
    let link = [b"/", &long[..long.len() - 1]].concat();
    assert_eq!(items[&link].data.0, b"target of the link");
    assert_eq!(items[&b"/old directory"[..]].mode, 0o40644);
    assert_eq!(items[&b"/twice"[..]].data.0, b"second");
}

#[test]
fn damaged_gzip_is_noticed() {
    let dir = dir("tar-gzip");
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let data: Vec<u8> = (0..50_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    gzip.write_all(&[&entry(b"file", b'0', &data)[..], &END].concat()).unwrap();
    let good = gzip.finish().unwrap();
    unpack(&good, &dir.join("image")).unwrap();
    let mut wrong_sum = good.clone();
    let at = good.len() - 6;
    wrong_sum[at] ^= 1;
    for bad in [&good[..good.len() / 2], &good[..good.len() - 4], &wrong_sum] {
        assert!(matches!(unpack(bad, &dir.join("bad")), Err(Error::Tar(_))));
    }
    assert!(!dir.join("bad").exists());
}

/// An archive with an entry of each kind, for damaging.
fn sample() -> Vec<u8> {
    [
        entry(b"d/", b'5', b""),
        entry(b"p", b'x', &[record("path", b"d/pax"), record("SCHILY.xattr.user.a", b"v")].concat()),
        entry(b"short", b'0', &[7; 700]),
        entry(b"l", b'L', b"d/long name\0"),
        header(b"short", b'2', 0, b"d/pax"),
        header(b"hard", b'1', 0, b"d/pax"),
        header(b"dev", b'3', 0, b""),
        header(b"fifo", b'6', 0, b""),
        entry(b"d/pax", b'0', b"again"),
        END.to_vec(),
    ]
    .concat()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]
    /// Damage with the checksums made right again, so that it gets past them: either an error, or an image
    /// that the reader finds whole. Never a panic, never a leftover.
    #[test]
    fn damaged_archives(
        damage in proptest::collection::vec((0..7168usize, any::<u8>(), 1..6usize), 1..12),
        cut in proptest::option::of(0..7168usize),
        swap in proptest::option::of((0..14usize, 0..14usize)),
    ) {
        let mut bytes = sample();
        if let Some((a, b)) = swap {
            let (a, b) = (a * 512 % bytes.len(), b * 512 % bytes.len());
            let block = bytes[a..a + 512].to_vec();
            bytes.copy_within(b..b + 512, a);
            bytes[b..b + 512].copy_from_slice(&block);
        }
        for (at, value, len) in damage {
            let at = at % bytes.len();
            let end = (at + len).min(bytes.len());
            bytes[at..end].fill(value);
        }
        bytes.chunks_mut(512).filter(|block| block[257..262] == *b"ustar").for_each(sign);
        bytes.truncate(cut.unwrap_or(bytes.len()));
        let dir = dir("tar-damaged");
        let out = dir.join("image");
        match unpack(&bytes, &out) {
            Ok(_) => drop(of_image(&out)),
            Err(error) => {
                prop_assert!(!error.to_string().is_empty());
                prop_assert_eq!(fs::read_dir(&*dir).unwrap().count(), 0);
            }
        }
    }
}
