//! tmpfs: what its mount options limit, what a remount changes, and what takes long on it.

use std::time::Instant;

use crate::helpers::*;
use crate::test::Test;

pub const TESTS: &[Test] = tests![
    options: mount,
    options_shown: mount,
    option_errors: mount,
    size: write fallocate statfs,
    size_of_mappings: mmap write,
    size_in_part: write,
    inodes: openat mkdir symlink link,
    smaller: mount,
    larger: mount write,
    remount_flags: mount,
    remount_errors: mount,
    read_only: mount openat,
    unlimited: mount statfs,
    ram_file_system: mount statfs,
    killed_while_writing: write kill,
    killed_while_appending: write kill,
    interrupted_while_writing: write,
    large_read: read,
];

fn prepare() {
    must!(mkdirat, AT_FDCWD, c"m", 0o755);
    must!(unshare, libc::CLONE_NEWNS);
    must!(mount, 0, c"/", 0, libc::MS_REC | libc::MS_PRIVATE, 0);
}

fn mount(options: &str) -> i64 {
    call!(mount, c"t", c"m", c"tmpfs", 0, c(options).as_c_str())
}

fn remount(flags: u64, options: &str) -> String {
    result(call!(mount, c"t", c"m", 0, libc::MS_REMOUNT | flags, c(options).as_c_str()))
}

fn unmount() {
    must!(umount2, c"m", 0);
}

/// Blocks and inodes: all, and how many are left.
fn room() -> String {
    let mut s = [0u64; 15];
    must!(statfs, c"m", out(&mut s));
    let inodes = if s[5] > 10_000 { "many".to_owned() } else { format!("{} of {}", s[6], s[5]) };
    let blocks = if s[2] > 10_000 { "many".to_owned() } else { format!("{} of {}", s[3], s[2]) };
    format!("blocks {blocks}, inodes {inodes}")
}

/// The options of the mount, without the number of inode bits that real Linux says or not.
fn shown() -> String {
    let here = std::env::current_dir().unwrap();
    let place = format!("{}/m", here.display());
    let text = content("/proc/self/mounts");
    let fields = text.lines().rev().map(|line| line.split(' ').collect::<Vec<_>>()).find(|f| f[1] == place);
    fields.map_or("none".to_owned(), |f| format!("{} {}", f[2], f[3].replace(",inode64", "")))
}

fn owner() -> String {
    use std::os::unix::fs::MetadataExt;
    let m = std::fs::metadata("m").unwrap();
    format!("{:o} {} {}", m.mode(), m.uid(), m.gid())
}

fn options(t: &mut T) {
    prepare();
    let all = ["size=64k,nr_inodes=10", "size=65537", "nr_blocks=7", "nr_blocks=0x10", "size=010k,nr_inodes=1k"];
    for options in all.into_iter().chain(["size=1m,size=2m,nr_inodes=5", "nr_inodes=5,nr_blocks=3,size=4k", "size=1G,nr_inodes=7"]) {
        say!(t, "{options}: {} {}", result(mount(options)), room());
        unmount();
    }
    for options in ["mode=700,uid=5,gid=7", "mode=0", "mode=7777", "mode=1755"] {
        say!(t, "{options}: {} {}", result(mount(options)), owner());
        unmount();
    }
    must!(mount, c"t", c"m", c"tmpfs", 0, 0);
    say!(t, "{}", owner());
}

fn options_shown(t: &mut T) {
    prepare();
    for options in ["", "size=64k", "nr_inodes=10,mode=755", "nr_blocks=3,uid=3,gid=0", "mode=1777,size=1m,gid=9"] {
        must!(mount, c"t", c"m", c"tmpfs", 0, c(options).as_c_str());
        say!(t, "{options}: {}", shown());
        unmount();
    }
    for flags in [
        libc::MS_NOSUID | libc::MS_NODEV,
        libc::MS_RDONLY,
        libc::MS_NOATIME,
        libc::MS_NODIRATIME,
        libc::MS_STRICTATIME,
        libc::MS_NOEXEC | libc::MS_RELATIME,
        256,
    ] {
        must!(mount, c"t", c"m", c"tmpfs", flags, 0);
        let mut s = [0u64; 15];
        must!(statfs, c"m", out(&mut s));
        say!(t, "{flags}: {} {:#x}", shown(), s[10]);
        unmount();
    }
}

fn option_errors(t: &mut T) {
    prepare();
    for options in [
        "what=1", "what", "size", "size=", "size=x", "size=1m1", "size=10%", "nr_inodes=1%", "nr_inodes=-1", "uid=-1",
        "uid=x", "uid", "gid=4294967295", "gid=4294967294", "mode=8", "mode=x", "mode", "huge=some", "huge=never", "inode64=1",
        "inode64", "inode32", ",", ",,mode=700,", "mode=700 ", "size=1m,bad",
    ] {
        let got = mount(options);
        say!(t, "{options}: {}", result(got));
        if got == 0 {
            unmount();
        }
    }
    show!(t, mount, c"t", c"none", c"tmpfs", 0, 0);
    show!(t, mount, c"t", c"m", c"nosuchfs", 0, 0);
    show!(t, mount, c"t", c"m", 0, 0, 0);
    show!(t, mount, c"t", c"m", c"", 0, 0);
}

fn size(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=64k,nr_inodes=100");
    let f = open("m/f", O_RDWR | O_CREAT);
    let text = vec![b'x'; 1 << 17];
    say!(t, "{}", room());
    show!(t, write, f, p(&text[..]), 1);
    say!(t, "{}", room());
    show!(t, write, f, p(&text[..]), 1 << 17);
    say!(t, "{}", room());
    show!(t, pwrite64, f, p(&text[..]), 10, 5);
    show!(t, pwrite64, f, p(&text[..]), 1, 1 << 20);
    show!(t, ftruncate, f, 1 << 20);
    show!(t, fallocate, f, 0, 0, 1 << 20);
    show!(t, fallocate, f, 0, 0, 1 << 16);
    must!(ftruncate, f, 10_000);
    say!(t, "{}", room());
    show!(t, fallocate, f, 0, 12_288, 65_536);
    show!(t, fallocate, f, libc::FALLOC_FL_KEEP_SIZE, 12_288, 49_152);
    say!(t, "{}", room());
    must!(unlink, c"m/f");
    say!(t, "{}", room());
    must!(close, f);
    say!(t, "{}", room());
    for i in 0..20 {
        std::fs::write(format!("m/f{i}"), [b'x'; 4000]).ok();
    }
    say!(t, "{} {}", room(), std::fs::metadata("m/f19").unwrap().len());
}

/// A page that a mapping needs and there is no room for is SIGBUS.
fn size_of_mappings(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=16k");
    let f = open("m/f", O_RDWR | O_CREAT);
    must!(ftruncate, f, 1 << 20);
    let at = must!(mmap, 0, 1 << 20, 3, libc::MAP_SHARED, f, 0) as u64;
    for page in 0..4 {
        crate::sys::poke(at + page * 4096, 1);
    }
    say!(t, "{}", room());
    let ended = child(|| {
        crate::sys::poke(at + 5 * 4096, 1);
        0
    });
    say!(t, "one more: {ended}");
    let mut buffer = [0u8; 8];
    show!(t, pread64, f, out(&mut buffer), 8, 5 * 4096);
    show!(t, pwrite64, f, p(&buffer), 8, 5 * 4096);
    let ended = child(|| i32::from(crate::sys::peek(at)));
    say!(t, "what is there: {ended}");
}

/// A write that meets the limit is short; the next one fails.
fn size_in_part(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=8k");
    let text = vec![b'x'; 20_000];
    let f = open("m/f", O_RDWR | O_CREAT | libc::O_APPEND);
    show!(t, write, f, p(&text[..]), 5000);
    show!(t, write, f, p(&text[..]), 5000);
    show!(t, write, f, p(&text[..]), 5000);
    let vector = [[p(&text[..]), 3000], [p(&text[..]), 3000], [p(&text[..]), 3000]];
    must!(ftruncate, f, 0);
    show!(t, writev, f, p(&vector), 3);
    let (r, w) = pipe(0);
    write(w, "abcdef");
    show!(t, splice, r, 0, f, 0, 6, 0);
    must!(ftruncate, f, 0);
    let g = open("m/g", O_RDWR | O_CREAT);
    must!(write, g, p(&text[..]), 4096);
    let source = must!(memfd_create, c"s", 0) as i32;
    must!(write, source, p(&text[..]), 9000);
    let to = open("m/h", O_RDWR | O_CREAT);
    let mut at = 0u64;
    show!(t, sendfile, to, source, out(&mut at), 9000);
    show!(t, copy_file_range, source, out(&mut at), to, 0, 9000, 0);
    show!(t, copy_file_range, g, out(&mut at), to, 0, 9000, 0);
    say!(t, "{}", std::fs::metadata("m/h").unwrap().len());
}

fn inodes(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"nr_inodes=4");
    show!(t, mkdir, c"m/d", 0o755);
    show!(t, symlink, c"x", c"m/s");
    ok!(t, openat, AT_FDCWD, c"m/f", O_CREAT | O_RDWR, 0o644);
    show!(t, mknod, c"m/n", 0o10_644, 0);
    show!(t, link, c"m/f", c"m/l");
    show!(t, openat, AT_FDCWD, c"m", libc::O_TMPFILE | O_RDWR, 0o644);
    say!(t, "{} {}", room(), names("m"));
    must!(unlink, c"m/f");
    say!(t, "{}", result(call!(mkdir, c"m/e", 0o755)));
    must!(rmdir, c"m/d");
    show!(t, mkdir, c"m/e", 0o755);
    show!(t, rename, c"m/e", c"m/s");
    must!(unlink, c"m/s");
    show!(t, rename, c"m/e", c"m/s");
}

fn smaller(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=64k,nr_inodes=10");
    std::fs::write("m/f", vec![b'x'; 20_000]).unwrap();
    file("m/g", "");
    for options in ["size=16k", "size=20k", "nr_inodes=2", "nr_inodes=3", "size=0", "size=64k", "nr_inodes=0", "nr_inodes=9"] {
        say!(t, "{options}: {}, {}", remount(0, options), room());
    }
    say!(t, "{}", shown());
}

fn larger(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=8k,nr_inodes=2,mode=700");
    let text = vec![b'x'; 20_000];
    let f = open("m/f", O_RDWR | O_CREAT);
    show!(t, write, f, p(&text[..]), 20_000);
    show!(t, mkdir, c"m/d", 0o755);
    say!(t, "{}", remount(0, "size=12k,nr_inodes=3"));
    show!(t, write, f, p(&text[..]), 20_000);
    show!(t, mkdir, c"m/d", 0o755);
    say!(t, "{} {}", room(), shown());
    say!(t, "{} {}", remount(0, "mode=755,uid=5"), owner());
    say!(t, "only one: {} {}", remount(0, "nr_inodes=30"), room());
    say!(t, "nothing: {} {}", remount(0, ""), room());
}

fn remount_flags(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", libc::MS_NOSUID | libc::MS_NOATIME, c"size=8k");
    say!(t, "{}", shown());
    for flags in [0, libc::MS_NODEV, libc::MS_RELATIME, libc::MS_NODIRATIME, libc::MS_STRICTATIME, libc::MS_NOEXEC] {
        say!(t, "{flags}: {} {}", remount(flags, ""), shown());
        say!(t, "{flags}, of the mount: {} {}", remount(flags | libc::MS_BIND, "what=1"), shown());
    }
}

fn remount_errors(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=8k");
    must!(mkdir, c"m/d", 0o755);
    show!(t, mount, c"t", c"m/d", 0, libc::MS_REMOUNT, 0);
    show!(t, mount, c"t", c"none", 0, libc::MS_REMOUNT, 0);
    for options in ["what=1", "size=x", "size=1,size=16k", "size=16k,what"] {
        say!(t, "{options}: {} {}", remount(0, options), room());
    }
    must!(unshare, libc::CLONE_NEWNS);
    say!(t, "{}", remount(0, "size=12k"));
    let ended = as_nobody(|| {
        say!(&mut T::default(), "{}", remount(0, "size=12k"));
    });
    say!(t, "{ended}");
}

fn read_only(t: &mut T) {
    prepare();
    must!(mkdirat, AT_FDCWD, c"b", 0o755);
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=8k");
    file("m/f", "text");
    must!(mount, c"m", c"b", 0, libc::MS_BIND, 0);
    let tries = |t: &mut T, what: &str| {
        for place in ["m", "b"] {
            let flags = libc::O_RDWR;
            let opened = call!(openat, AT_FDCWD, c(&format!("{place}/f")).as_c_str(), flags, 0);
            if opened >= 0 {
                must!(close, opened);
            }
            let made = call!(mkdir, c(&format!("{place}/f")).as_c_str(), 0o755);
            let asked = call!(access, c(&format!("{place}/f")).as_c_str(), 2);
            say!(t, "{what}, {place}: {} {} {}", ok_or_error(opened), result(made), result(asked));
        }
    };
    say!(t, "{}", remount(libc::MS_RDONLY | libc::MS_BIND, ""));
    tries(t, "one mount");
    say!(t, "{}", remount(libc::MS_RDONLY, ""));
    tries(t, "the file system");
    say!(t, "{}", remount(libc::MS_BIND, ""));
    tries(t, "no mount");
    say!(t, "{}", remount(0, ""));
    tries(t, "nothing");
    let f = open("m/f", O_WRONLY);
    say!(t, "while it is written: {}", remount(libc::MS_RDONLY, ""));
    say!(t, "the mount: {}", remount(libc::MS_RDONLY | libc::MS_BIND, ""));
    must!(close, f);
    say!(t, "after: {}", remount(libc::MS_RDONLY, ""));
}

fn unlimited(t: &mut T) {
    prepare();
    must!(mount, c"t", c"m", c"tmpfs", 0, c"size=0,nr_inodes=0");
    std::fs::write("m/f", vec![b'x'; 20_000]).unwrap();
    say!(t, "{} {}", room(), shown());
    for options in ["size=1m", "nr_inodes=100", "size=0"] {
        say!(t, "{options}: {} {}", remount(0, options), room());
    }
}

fn ram_file_system(t: &mut T) {
    prepare();
    show!(t, mount, c"t", c"m", c"ramfs", 0, c"size=4k,mode=700,what=1");
    std::fs::write("m/f", vec![b'x'; 20_000]).unwrap();
    let mut s = [0u64; 15];
    must!(statfs, c"m", out(&mut s));
    say!(t, "{} {:#x} {} {}", room(), s[0], owner(), shown());
}

/// A write of so much that it takes long, by a child that is killed meanwhile: at once, and what was written counts.
fn killed(t: &mut T, append: i32) {
    const MUCH: u64 = 1 << 30;
    let f = must!(openat, AT_FDCWD, c"f", O_RDWR | O_CREAT | append, 0o644);
    let memory = must!(mmap, 0, MUCH, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
    let size = || std::fs::metadata("f").unwrap().len();
    let writer = fork(|| {
        call!(write, f, memory, MUCH);
        0
    });
    while size() == 0 && call!(fcntl, f, libc::F_GETFL) >= 0 {
        let mut blocks = [0u64; 18];
        must!(fstat, f, out(&mut blocks));
        if blocks[8] > 0 {
            break;
        }
        sleep_ms(1);
    }
    let start = Instant::now();
    must!(kill, writer, libc::SIGKILL);
    say!(t, "{}", wait(writer));
    say!(t, "at once: {}", start.elapsed().as_millis() < 300);
    say!(t, "in part: {}", size() > 0 && size() < MUCH);
    say!(t, "as much as there is: {}", std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata("f").unwrap()) * 512 >= size());
}

fn killed_while_writing(t: &mut T) {
    killed(t, 0);
}

fn killed_while_appending(t: &mut T) {
    killed(t, libc::O_APPEND);
}

/// A signal that is handled ends no write to a file.
fn interrupted_while_writing(t: &mut T) {
    const MUCH: usize = 16 << 20;
    let f = open("f", O_RDWR | O_CREAT);
    let memory = must!(mmap, 0, MUCH, libc::PROT_READ, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0);
    handle(libc::SIGALRM, count, 0, 0);
    must!(setitimer, libc::ITIMER_REAL, p(&[0i64, 0, 0, 2000]), 0);
    show!(t, write, f, memory, MUCH);
}

fn large_read(t: &mut T) {
    const MUCH: usize = 16 << 20;
    let f = open("f", O_RDWR | O_CREAT);
    must!(pwrite64, f, p("abc"), 3, MUCH - 10);
    must!(pwrite64, f, p("def"), 3, (1 << 20) - 1);
    let mut buffer = vec![1u8; MUCH + 100];
    show!(t, read, f, out(&mut buffer[..]), MUCH + 100);
    say!(t, "{:?} {:?} {}", &buffer[MUCH - 10..MUCH - 4], &buffer[(1 << 20) - 2..][..6], buffer[0]);
    let at = must!(mmap, 0, 3 << 20, 3, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS, -1, 0) as u64;
    must!(munmap, at + (2 << 20), 1 << 20);
    show!(t, pread64, f, at, 3 << 20, 0);
    show!(t, pread64, f, at + (2 << 20), 3 << 20, 0);
    let vector = [[at, 1 << 20], [at + (1 << 20), 1 << 20]];
    show!(t, preadv, f, p(&vector), 2, MUCH - (1 << 20) - 10);
}
