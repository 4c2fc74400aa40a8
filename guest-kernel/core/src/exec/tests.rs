//! Preparing programs that lie in a file system.

use alloc::vec::Vec;

use super::{elf::tests as build, *};
use crate::{
    fs::{Mount, NewKind, Subject, Superblock, ops, tmpfs},
    io::Source,
};

/// A root file system and somebody who looks at it.
struct Machine {
    root: Path,
}

impl Machine {
    fn new() -> Self {
        let fs = tmpfs::Tmpfs::new(&tmpfs::TmpfsOptions::default()).unwrap();
        let mount = Mount::internal(Superblock::new(fs));
        let root = Path::new(mount.clone(), mount.root().clone());
        Machine { root }
    }

    fn file(&self, name: &str, mode: u32, content: &[u8]) {
        let place = ops::create(&Subject::ROOT, &self.root, name.as_bytes(), NewKind::Regular, mode).unwrap();
        place.inode().unwrap().write_at(0, &mut Source::kernel(content)).unwrap();
    }

    fn run(&self, who: &Credentials, path: &str, argv: &[&str]) -> Result<(Program, Vec<Vec<u8>>)> {
        let subject = Subject::of(who);
        let walk = Walk { subject, root: self.root.clone(), task: None };
        let mut arguments = Arguments::new(8 << 20);
        argv.iter().try_for_each(|s| arguments.push_argument(s.as_bytes()))?;
        let program = prepare(Request {
            walk: &walk,
            cwd: &self.root,
            program: open(&walk, &self.root, path.as_bytes(), WalkFlags::FOLLOW)?,
            path: path.as_bytes(),
            arguments,
            credentials: who,
            restraint: Restraint::default(),
            limits: Limits { stack: 8 << 20, ..Limits::NONE },
            randomize: false,
        })?;
        let strings = strings(&program);
        Ok((program, strings))
    }
}

/// The arguments as they lie in the new program's memory.
fn strings(program: &Program) -> Vec<Vec<u8>> {
    let image = program.image.mm.image();
    let mut bytes = alloc::vec![0; (image.arg_end - image.arg_start) as usize];
    program.image.mm.read_remote(image.arg_start, &mut bytes, false).unwrap();
    bytes.strip_suffix(&[0]).unwrap().split(|b| *b == 0).map(<[u8]>::to_vec).collect()
}

fn elf() -> Vec<u8> {
    let mut bytes =
        build::file(2, 0x40_0100, &[build::program_header(1, 5, 0, 0x40_0000, 0x200, 0x200, 0x1000)]);
    bytes.resize(0x200, 0xc3);
    bytes
}

#[test]
fn scripts_run_their_interpreters() {
    let m = Machine::new();
    m.file("elf", 0o755, &elf());
    m.file("script", 0o755, b"#!/elf -x y\n");
    m.file("meta", 0o755, b"#! script\n");
    let root = Credentials::root();
    let (program, argv) = m.run(&root, "/meta", &["name", "a"]).unwrap();
    assert_eq!(argv, [&b"/elf"[..], b"-x y", b"script", b"/meta", b"a"]);
    assert_eq!(program.name, b"meta");
    assert_eq!(program.image.mm.image().exe.unwrap().path().text(&m.root).bytes, b"/elf");
    assert_eq!(program.image.entry, 0x40_0100);
}

#[test]
fn endless_scripts_and_things_that_are_no_programs_are_refused() {
    let m = Machine::new();
    m.file("loop", 0o755, b"#!/loop\n");
    m.file("text", 0o755, b"hello\n");
    m.file("empty", 0o755, b"");
    m.file("data", 0o644, &elf());
    m.file("lost", 0o755, b"#!/nowhere\n");
    let root = Credentials::root();
    let error = |path| m.run(&root, path, &["x"]).err();
    assert_eq!(error("/loop"), Some(Errno::ELOOP));
    assert_eq!(error("/text"), Some(Errno::ENOEXEC));
    assert_eq!(error("/empty"), Some(Errno::ENOEXEC));
    assert_eq!(error("/data"), Some(Errno::EACCES));
    assert_eq!(error("/lost"), Some(Errno::ENOENT));
    assert_eq!(error("/"), Some(Errno::EACCES));
}

#[test]
fn set_user_id_counts_for_the_binary_not_for_the_script() {
    let m = Machine::new();
    m.file("su", 0o4755, &elf());
    m.file("elf", 0o755, &elf());
    m.file("script", 0o4755, b"#!/elf\n");
    let user = Credentials::user(1000, 1000, Vec::new());
    let (program, _) = m.run(&user, "/su", &["su"]).unwrap();
    assert!(program.secure && program.credentials.euid == 0);
    let (program, _) = m.run(&user, "/script", &["script"]).unwrap();
    assert!(!program.secure && program.credentials.euid == 1000);
}
