//! A host that answers as it likes.

use alloc::{boxed::Box, string::String, vec, vec::Vec};

use zerocopy::FromBytes;
use zerocopy::IntoBytes;

use super::{
    Channel, Connection, Fuse,
    wire::{Attr, AttrOut, Dirent, EntryOut, InHeader, InitOut, OutHeader, op},
};
use crate::{
    drivers::fs::Request,
    errno::{Errno, Result},
    fs::{
        Dentry, FileSystem,
        types::{FileType, SetAttributes},
    },
    io::{Sink, Source},
    sync::SpinLock,
};
use alloc::sync::Arc;
use ringfence_protocol::Cache;

/// What it says to a request: an error, or bytes. A second length lies about how many those are.
struct Answer {
    error: i32,
    bytes: Vec<u8>,
    lie: Option<u32>,
}

impl Answer {
    fn of(value: impl IntoBytes + zerocopy::Immutable) -> Answer {
        Answer { error: 0, bytes: value.as_bytes().to_vec(), lie: None }
    }

    fn error(error: i32) -> Answer {
        Answer { error, bytes: Vec::new(), lie: None }
    }
}

type Script = Box<dyn FnMut(InHeader, &[u8]) -> Answer + Send>;

struct Host {
    script: SpinLock<Script>,
    forgotten: SpinLock<Vec<(u64, u64)>>,
}

impl Channel for Host {
    fn call(&self, request: &Request<'_>, head: &mut [u8]) -> Result {
        let mut sent = request.parts.concat();
        for (n, frame) in request.send.0.iter().enumerate() {
            let (from, to) = (request.send.1.start.max(n * 4096), request.send.1.end.min((n + 1) * 4096));
            let mut bytes = vec![0; to.saturating_sub(from)];
            frame.read(from % 4096, &mut bytes);
            sent.extend_from_slice(&bytes);
        }
        let (header, body) = InHeader::read_from_prefix(&sent).map_err(|_| Errno::EIO)?;
        assert_eq!(header.len as usize, sent.len());
        let answer = if header.opcode == op::INIT {
            Answer::of(InitOut { major: 7, minor: 31, ..InitOut::default() })
        } else {
            (self.script.lock())(header, body)
        };
        let len = answer.lie.unwrap_or(16 + answer.bytes.len() as u32);
        let mut out = OutHeader { len, error: answer.error, unique: header.unique }.as_bytes().to_vec();
        out.extend_from_slice(&answer.bytes);
        let written = out.len();
        let n = head.len().min(out.len());
        head[..n].copy_from_slice(&out[..n]);
        for (chunk, frame) in out[n..].chunks(4096).zip(request.receive) {
            frame.write(0, chunk);
        }
        Ok(written)
    }

    fn post(&self, parts: &[&[u8]]) -> bool {
        let sent = parts.concat();
        let (header, body) = InHeader::read_from_prefix(&sent).expect("a header");
        let count = u64::from_le_bytes(body.try_into().expect("a count"));
        self.forgotten.lock().push((header.node, count));
        true
    }

    fn is_gone(&self) -> bool {
        false
    }
}

fn attr(mode: u32, size: u64) -> Attr {
    Attr { ino: 77, mode, size, nlink: 1, ..Attr::default() }
}

fn entry(node: u64, attr: Attr) -> EntryOut {
    EntryOut { node, attr, ..EntryOut::default() }
}

const DIRECTORY: u32 = 0o040755;
const FILE: u32 = 0o100644;

/// A volume whose root is node 2; everything else the script answers.
fn volume(
    cache: Cache,
    mut script: impl FnMut(InHeader, &[u8]) -> Answer + Send + 'static,
) -> (Arc<Host>, Arc<Fuse>) {
    let all = move |header: InHeader, body: &[u8]| {
        if header.node == 1 { Answer::of(entry(2, attr(DIRECTORY, 0))) } else { script(header, body) }
    };
    let host = Arc::new(Host { script: SpinLock::new(Box::new(all)), forgotten: SpinLock::new(Vec::new()) });
    let connection = Connection::open(host.clone()).expect("a greeting");
    (host, Fuse::over(connection, 0, cache).expect("a root"))
}

#[test]
fn an_inode_is_one_object_and_is_forgotten_as_often_as_it_was_told() {
    let (host, fs) = volume(Cache::Auto, |_, _| Answer::of(entry(5, attr(FILE, 3))));
    let root = fs.root();
    let (one, other) = (root.lookup(b"a").unwrap(), root.lookup(b"b").unwrap());
    assert!(Arc::ptr_eq(&one, &other));
    drop((one, other));
    let forgotten: u64 = host.forgotten.lock().iter().filter(|(node, _)| *node == 5).map(|(_, n)| n).sum();
    assert_eq!(forgotten, 2);
}

#[test]
fn answers_that_make_no_sense_are_eio() {
    let bad: [fn() -> Answer; 9] = [
        || Answer::of(entry(0, attr(FILE, 3))),
        || Answer::of(entry(1, attr(FILE, 3))),
        || Answer::of(entry(5, attr(0, 3))),
        || Answer::of(entry(5, attr(0o170000, 3))),
        || Answer { lie: Some(u32::MAX), ..Answer::of(entry(5, attr(FILE, 3))) },
        || Answer { lie: Some(0), ..Answer::of(entry(5, attr(FILE, 3))) },
        || Answer { bytes: vec![0; 20], ..Answer::error(0) },
        || Answer::error(5),
        || Answer::error(-512),
    ];
    for answer in bad {
        let (_host, fs) = volume(Cache::Auto, move |_, _| answer());
        assert_eq!(fs.root().lookup(b"x").err(), Some(Errno::EIO));
    }
    let (_host, fs) = volume(Cache::Auto, |_, _| Answer::error(-2));
    assert_eq!(fs.root().lookup(b"x").err(), Some(Errno::ENOENT));
}

#[test]
fn a_full_table_there_makes_us_forget_and_ask_again() {
    let mut answers =
        [Answer::error(-23), Answer::of(entry(5, attr(FILE, 3))), Answer::error(-23), Answer::error(-23)]
            .into_iter();
    let (_host, fs) = volume(Cache::Auto, move |_, _| answers.next().unwrap());
    assert!(fs.root().lookup(b"x").is_ok());
    assert_eq!(fs.root().lookup(b"y").err(), Some(Errno::ENFILE));
}

#[test]
fn a_file_does_not_become_a_directory() {
    let mut asked = 0;
    let (_host, fs) = volume(Cache::None, move |header, _| match header.opcode {
        op::LOOKUP => {
            asked += 1;
            Answer::of(entry(5, attr(if asked == 1 { FILE } else { DIRECTORY }, 3)))
        }
        _ => Answer::of(AttrOut { attr: attr(DIRECTORY, 3), ..AttrOut::default() }),
    });
    let file = fs.root().lookup(b"x").unwrap();
    assert_eq!(file.metadata().kind, FileType::Regular);
    let now = fs.root().lookup(b"x").unwrap();
    assert!(!Arc::ptr_eq(&file, &now));
    assert_eq!(file.set_attributes(&SetAttributes { mode: Some(0), ..Default::default() }), Err(Errno::EIO));
}

#[test]
fn content_is_read_once_and_again_after_a_change() {
    use core::sync::atomic::{AtomicU64, Ordering};
    static READS: AtomicU64 = AtomicU64::new(0);
    static MTIME: AtomicU64 = AtomicU64::new(1);
    let (_host, fs) = volume(Cache::Auto, |header, body| match header.opcode {
        op::READ => {
            READS.fetch_add(1, Ordering::Relaxed);
            let byte = b'0' + MTIME.load(Ordering::Relaxed) as u8;
            let offset = u64::from_le_bytes(body[8..16].try_into().unwrap());
            // More than the file has: the end is the size's.
            Answer { bytes: vec![byte; 8192usize.saturating_sub(offset as usize)], ..Answer::error(0) }
        }
        op::WRITE => Answer::of([u32::from_le_bytes(body[16..20].try_into().unwrap()), 0]),
        op::LOOKUP => Answer::of(entry(5, Attr { mtime: MTIME.load(Ordering::Relaxed), ..attr(FILE, 5000) })),
        _ => Answer::of(AttrOut {
            attr: Attr { mtime: MTIME.load(Ordering::Relaxed), ..attr(FILE, 5000) },
            ..AttrOut::default()
        }),
    });
    let file = fs.root().lookup(b"x").unwrap();
    let read = |offset| {
        let mut bytes = vec![b'.'; 6000];
        let n = file.read_at(offset, &mut Sink::kernel(&mut bytes)).unwrap();
        String::from_utf8_lossy(&bytes[..n]).into_owned()
    };
    assert_eq!(read(0), "1".repeat(5000));
    assert_eq!((read(4999), read(5000), READS.load(Ordering::Relaxed)), ("1".into(), String::new(), 1));
    // The last page is zero behind the end, whatever came.
    let object = file.clone().mappable().unwrap();
    let mut tail = [9; 4];
    object.page(1, false).unwrap().read(904, &mut tail);
    assert_eq!(tail, [0; 4]);
    assert_eq!(file.write_at(1, &mut Source::kernel(b"ab")).unwrap(), 2);
    assert_eq!((&read(0)[..4], READS.load(Ordering::Relaxed)), ("1ab1", 1));
    // Our own write explains other attributes once; the host's next change does not go unseen.
    file.open(Default::default(), None).unwrap();
    assert_eq!(&read(0)[..4], "1ab1");
    MTIME.store(2, Ordering::Relaxed);
    file.open(Default::default(), None).unwrap();
    assert_eq!((&read(0)[..4], READS.load(Ordering::Relaxed)), ("2222", 2));
    assert_eq!(object.page(0, false).map(|_| ()), Ok(()));
    assert_eq!(object.page(7, false).map(|_| ()), Err(Errno::EAGAIN));
}

#[test]
fn a_host_that_takes_more_than_it_was_given_is_eio() {
    let (_host, fs) = volume(Cache::Auto, |header, _| match header.opcode {
        op::WRITE => Answer::of([9u32, 0]),
        op::LOOKUP => Answer::of(entry(5, attr(FILE, 0))),
        _ => Answer::of(AttrOut { attr: attr(FILE, 0), ..AttrOut::default() }),
    });
    let file = fs.root().lookup(b"x").unwrap();
    assert_eq!(file.write_at(0, &mut Source::kernel(b"ab")), Err(Errno::EIO));
    assert_eq!(file.write_at(u64::MAX, &mut Source::kernel(b"ab")), Err(Errno::EFBIG));
}

/// What was not written must not look as if it was.
#[test]
fn a_refused_write_takes_nothing_from_its_source() {
    let (_host, fs) = volume(Cache::Auto, |header, body| match header.opcode {
        op::WRITE if body[8] == 0 => Answer::of([3u32, 0]),
        op::WRITE => Answer::error(-30),
        op::LOOKUP => Answer::of(entry(5, attr(FILE, 1))),
        _ => Answer::of(AttrOut { attr: attr(FILE, 1), ..AttrOut::default() }),
    });
    let file = fs.root().lookup(b"x").unwrap();
    let mut source = Source::kernel(b"abcdef");
    assert_eq!((file.append(&mut source), source.done()), (Err(Errno::EROFS), 0));
    assert_eq!((file.write_at(0, &mut source), source.done()), (Ok(3), 3));
}

#[test]
fn listings_end_and_have_only_names() {
    let listing = |entries: &[(&[u8], u64)]| {
        let mut bytes = Vec::new();
        for (name, next) in entries {
            bytes.extend_from_slice(
                Dirent { ino: 3, next: *next, name_len: name.len() as u32, kind: 8 }.as_bytes(),
            );
            bytes.extend_from_slice(name);
            bytes.resize(bytes.len().next_multiple_of(8), 0);
        }
        Answer { bytes, ..Answer::error(0) }
    };
    // The same listing for ever, whose last cookie is that of the question.
    let (_host, fs) = volume(Cache::Auto, move |_, _| {
        listing(&[(b".", 1), (b"a/b", 2), (b"good", 3), (b"", 4), (b"last", u64::MAX)])
    });
    let mut names = Vec::new();
    fs.root()
        .readdir(0, &mut |entry| {
            names.push(entry.name.to_vec());
            assert!(entry.next < i64::MAX as u64);
            names.len() < 10
        })
        .unwrap();
    assert_eq!(names, [&b"good"[..], b"last", b"good", b"last"]);
}

#[test]
fn a_name_is_asked_for_again_and_keeps_its_dentry() {
    use core::sync::atomic::{AtomicU64, Ordering};
    static NODE: AtomicU64 = AtomicU64::new(5);
    let (_host, fs) = volume(Cache::None, |_, _| match NODE.load(Ordering::Relaxed) {
        0 => Answer::error(-2),
        node => Answer::of(entry(node, attr(FILE, 3))),
    });
    let root = Dentry::root(fs.root());
    let first = root.lookup(b"x").unwrap();
    assert!(Arc::ptr_eq(&first, &root.lookup(b"x").unwrap()));
    NODE.store(6, Ordering::Relaxed);
    let second = root.lookup(b"x").unwrap();
    assert!(!Arc::ptr_eq(&first, &second) && first.is_deleted() && !second.is_deleted());
    NODE.store(0, Ordering::Relaxed);
    assert!(root.lookup(b"x").unwrap().inode().is_none());
    NODE.store(7, Ordering::Relaxed);
    assert!(root.lookup(b"x").unwrap().inode().is_some());
    root.forget_tree();
}
