//! Frames between `xtask` (the client) and the lab's init process (the agent), over virtio-serial ports.
//!
//! A port is a byte stream that outlives its users: a client may be killed in the middle of a frame and the
//! next one inherits what it left in the queues, in both directions. So every frame starts with a magic
//! number and the client's random session id; a reader hunts for the magic, drops frames of other sessions,
//! and a client begins with [`PREAMBLE`] zero bytes (longer than any frame, so it completes a torn one)
//! before its [`Kind::Hello`].
//!
//! Flow control: output needs none of its own (a client that does not read stalls only its own port).
//! Standard input is sent only as far as [`WINDOW`] bytes ahead of what the agent has acknowledged by
//! [`Kind::Credit`], so that signals and hang-ups are never stuck behind it.
use std::io::{self, Read, Write};

/// Version of this format, in [`Kind::HelloAck`].
pub const VERSION: u32 = 3;
/// The largest payload of a frame.
pub const MAX_PAYLOAD: usize = 32 * 1024;
/// Zero bytes a client sends first: enough to complete any torn frame.
pub const PREAMBLE: usize = HEADER + MAX_PAYLOAD;
/// Bytes of standard input that may be unacknowledged.
pub const WINDOW: usize = 256 * 1024;

const MAGIC: [u8; 4] = *b"\xf5RFL";
const HEADER: usize = 4 + 8 + 1 + 4;

/// What a frame means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Client: a new session begins on this port; whatever ran for the last one is killed.
    Hello = 1,
    /// Agent: ready. Payload: [`VERSION`].
    HelloAck,
    /// Client: run a command. Payload: [`Exec`].
    Exec,
    /// Client: bytes for standard input.
    Stdin,
    /// Client: standard input has ended.
    StdinEof,
    /// Client: new terminal size, rows and columns as `u16`s.
    Resize,
    /// Client: send this signal number (`u32`) to the command's process group.
    Signal,
    /// Client: is `path` what I pushed with this tag? Payload: strings path, tag. Answer: [`Kind::Reply`].
    Have,
    /// Client: a file follows in [`Kind::PushData`] frames. Payload: strings path, tag, octal mode.
    Push,
    /// Client: bytes of the file.
    PushData,
    /// Client: the file is complete; move it into place. Answer: [`Kind::Reply`].
    PushEnd,
    /// Client: power the machine off.
    PowerOff,
    /// Agent: this many more bytes (`u32`) of standard input have been taken.
    Credit,
    /// Agent: the command's standard output (and, on a terminal, error).
    Stdout,
    /// Agent: the command's standard error.
    Stderr,
    /// Agent: the command has ended; all its output was sent. Payload: the exit code as a shell would
    /// say it, `i32`.
    Exit,
    /// Agent: answer. Payload: strings `ok`|`no`|`error`, text.
    Reply,
    /// Client: nothing, but the interrupt of the port it comes by. A machine that has lost the interrupt of its own
    /// timer (docs/lab.md) goes on from there.
    Ping,
}

impl Kind {
    fn from_u8(byte: u8) -> Option<Kind> {
        use Kind::*;
        const ALL: [Kind; 18] = [
            Hello, HelloAck, Exec, Stdin, StdinEof, Resize, Signal, Have, Push, PushData, PushEnd, PowerOff,
            Credit, Stdout, Stderr, Exit, Reply, Ping,
        ];
        ALL.into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// One message.
#[derive(Debug, PartialEq, Eq)]
pub struct Frame {
    /// The client's random session id.
    pub session: u64,
    /// What it means.
    pub kind: Kind,
    /// Its bytes, at most [`MAX_PAYLOAD`].
    pub payload: Vec<u8>,
}

impl Frame {
    /// The payload as a little-endian `u32`, 0 if it is too short.
    pub fn number(&self) -> u32 {
        self.payload.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes))
    }
}

/// Writes one frame in one `write` where the stream allows it.
pub fn write_frame(to: &mut impl Write, session: u64, kind: Kind, payload: &[u8]) -> io::Result<()> {
    assert!(payload.len() <= MAX_PAYLOAD);
    let mut bytes = Vec::with_capacity(HEADER + payload.len());
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&session.to_le_bytes());
    bytes.push(kind as u8);
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.extend_from_slice(payload);
    to.write_all(&bytes)
}

/// Finds frames in a stream that may hold rubbish between them.
pub struct FrameReader<R> {
    from: R,
    buffer: Vec<u8>,
    start: usize,
}

impl<R: Read> FrameReader<R> {
    /// Reads frames from `from`.
    pub fn new(from: R) -> Self {
        FrameReader { from, buffer: Vec::new(), start: 0 }
    }

    /// The next frame; `None` when a read returns no bytes (the other side is gone). After `None` reading
    /// may go on: what was left of a torn frame is still there.
    pub fn next_frame(&mut self) -> io::Result<Option<Frame>> {
        loop {
            if let Some(frame) = self.parse() {
                return Ok(Some(frame));
            }
            self.buffer.drain(..self.start);
            self.start = 0;
            let filled = self.buffer.len();
            self.buffer.resize(filled + 64 * 1024, 0);
            let result = self.from.read(&mut self.buffer[filled..]);
            self.buffer.truncate(filled + *result.as_ref().unwrap_or(&0));
            match result {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn parse(&mut self) -> Option<Frame> {
        loop {
            let rest = &self.buffer[self.start..];
            let Some(skip) = rest.iter().position(|byte| *byte == MAGIC[0]) else {
                self.start = self.buffer.len();
                return None;
            };
            self.start += skip;
            let rest = &self.buffer[self.start..];
            if rest.len() < HEADER {
                return None;
            }
            let length = u32::from_le_bytes(rest[13..17].try_into().ok()?) as usize;
            let kind = Kind::from_u8(rest[12]);
            let (true, Some(kind), true) = (rest.starts_with(&MAGIC), kind, length <= MAX_PAYLOAD) else {
                self.start += 1;
                continue;
            };
            let payload = rest.get(HEADER..HEADER + length)?.to_vec();
            let session = u64::from_le_bytes(rest[4..12].try_into().ok()?);
            self.start += HEADER + length;
            return Some(Frame { session, kind, payload });
        }
    }
}

/// A command to run.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Exec {
    /// Program (looked up in the agent's `PATH`) and arguments.
    pub argv: Vec<Vec<u8>>,
    /// `NAME=value` pairs on top of the agent's environment.
    pub env: Vec<Vec<u8>>,
    /// The working directory, empty for `/root`.
    pub cwd: Vec<u8>,
    /// Rows and columns if it shall run on a pseudo-terminal.
    pub terminal: Option<(u16, u16)>,
}

impl Exec {
    /// As a payload.
    pub fn encode(&self) -> Vec<u8> {
        let (rows, columns) = self.terminal.unwrap_or_default();
        let head = format!("{} {rows} {columns} {}", u8::from(self.terminal.is_some()), self.argv.len());
        let mut fields = vec![head.as_bytes(), &self.cwd];
        fields.extend(self.argv.iter().chain(&self.env).map(Vec::as_slice));
        encode_strings(&fields)
    }

    /// From a payload; `None` if it is malformed.
    pub fn decode(payload: &[u8]) -> Option<Exec> {
        let mut fields = decode_strings(payload)?.into_iter();
        let head = String::from_utf8(fields.next()?).ok()?;
        let numbers: Vec<u16> = head.split(' ').map(|word| word.parse().ok()).collect::<Option<_>>()?;
        let [terminal, rows, columns, arguments] = numbers[..] else { return None };
        let cwd = fields.next()?;
        let argv: Vec<_> = fields.by_ref().take(arguments.into()).collect();
        Some(Exec { argv, env: fields.collect(), cwd, terminal: (terminal == 1).then_some((rows, columns)) })
    }
}

/// Byte strings, each with its length before it.
pub fn encode_strings(strings: &[&[u8]]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for string in strings {
        bytes.extend_from_slice(&(string.len() as u32).to_le_bytes());
        bytes.extend_from_slice(string);
    }
    bytes
}

/// The reverse of [`encode_strings`]; `None` if it is malformed.
pub fn decode_strings(mut bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let mut strings = Vec::new();
    while let Some((length, rest)) = bytes.split_first_chunk() {
        let (string, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        strings.push(string.to_vec());
        bytes = rest;
    }
    bytes.is_empty().then_some(strings)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_torn_frame_is_skipped_and_the_next_session_found() {
        let mut stream = Vec::new();
        write_frame(&mut stream, 1, Kind::Stdin, &[MAGIC[0]; 1000]).unwrap();
        stream.truncate(600);
        stream.extend(vec![0; PREAMBLE]);
        write_frame(&mut stream, 2, Kind::Hello, b"hi").unwrap();
        let mut reader = FrameReader::new(&stream[..]);
        let found =
            std::iter::from_fn(|| reader.next_frame().unwrap()).find(|frame| frame.session == 2).unwrap();
        assert_eq!(found, Frame { session: 2, kind: Kind::Hello, payload: b"hi".to_vec() });
    }

    #[test]
    fn a_command_survives_the_wire() {
        let exec = Exec {
            argv: vec![b"sh".into(), b"\xff".into()],
            env: vec![b"A=b".into()],
            cwd: b"/".into(),
            terminal: Some((24, 80)),
        };
        assert_eq!(Exec::decode(&exec.encode()), Some(exec));
        assert_eq!(Exec::decode(b"\x01"), None);
    }
}
