//! A connection that has become the streams of a process: frames on one side, pipes on the other.
//!
//! After `101 Switching Protocols` both sides send frames: a byte for the kind, three zeroes, the length of what follows as
//! four bytes, the highest first, and so many bytes.
//!
//! | kind | from | holds |
//! |---|---|---|
//! | 0 | client | standard input; nothing: its end |
//! | 1 | server | standard output, or what a terminal shows |
//! | 2 | server | standard error |
//! | 3 | client | a JSON document: `{"signal": 15}` or `{"resize": {"rows": 24, "cols": 80}}` |
//! | 4 | server | how the process has ended, `{"code": 0}` or `{"signal": 9}`; the last frame |
//!
//! A frame of the client holds at most [`MAX_FRAME`] bytes. The pipes' other ends are the VMM's, as any descriptors are that
//! a client hands over. A client that goes away ends nothing: the process sees the end of its input, and no reader.

use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use ringfence_protocol::ExitStatus;
use rustix::event::epoll::EventFlags;
use rustix::pipe::{PipeFlags, pipe_with};
use serde::{Deserialize, Serialize};

/// Longest payload of a client's frame.
pub const MAX_FRAME: usize = 64 << 10;
/// Length of what is before it.
pub const HEADER: usize = 8;
/// After the end of a process, how long those it has left behind may keep its output open.
const LINGER: Duration = Duration::from_secs(1);

pub const STDIN: u8 = 0;
pub const STDOUT: u8 = 1;
pub const STDERR: u8 = 2;
pub const CONTROL: u8 = 3;
pub const ENDED: u8 = 4;

/// What a client can ask for in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Ask {
    /// Send the process this signal.
    Signal(u32),
    /// Its terminal has another size now.
    Resize {
        /// Rows.
        rows: u16,
        /// Columns.
        cols: u16,
    },
}

/// A frame of the client.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// Standard input.
    Input(Vec<u8>),
    /// Its end.
    InputEnd,
    /// See [`Ask`].
    Ask(Ask),
}

/// Takes the first frame; `None`: it is not all there yet. An error: this is none.
pub fn parse(input: &[u8]) -> Result<Option<(Frame, usize)>, &'static str> {
    let Some(&[kind, 0, 0, 0, a, b, c, d]) = input.get(..HEADER) else {
        return if input.len() < HEADER { Ok(None) } else { Err("bytes 1 to 3 of a frame are zero") };
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > MAX_FRAME {
        return Err("a frame is too long");
    }
    let Some(payload) = input.get(HEADER..HEADER + len) else { return Ok(None) };
    let frame = match kind {
        STDIN if len == 0 => Frame::InputEnd,
        STDIN => Frame::Input(payload.to_vec()),
        CONTROL => {
            Frame::Ask(serde_json::from_slice(payload).map_err(|_| "a frame asks for something unknown")?)
        }
        _ => return Err("a frame is of an unknown kind"),
    };
    Ok(Some((frame, HEADER + len)))
}

/// A frame.
pub fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let [a, b, c, d] = (payload.len() as u32).to_be_bytes();
    let mut bytes = vec![kind, 0, 0, 0, a, b, c, d];
    bytes.extend_from_slice(payload);
    bytes
}

/// Our ends of a process's pipes.
pub struct Relay {
    pub container: String,
    pub process: u32,
    pub stdin: Option<OwnedFd>,
    /// Not yet taken by the pipe.
    pub input: Vec<u8>,
    /// Nothing more will come.
    pub input_ended: bool,
    /// Standard output and error.
    pub outputs: [Option<OwnedFd>; 2],
    watched: [EventFlags; 3],
    ended: Option<(ExitStatus, Instant)>,
}

impl Relay {
    /// Makes pipes; returns the ends for the VMM as well, in their order.
    pub fn new(container: String, terminal: bool) -> std::io::Result<(Relay, Vec<OwnedFd>)> {
        let pipe = || pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK);
        let (stdin_theirs, stdin) = pipe()?;
        let (stdout, stdout_theirs) = pipe()?;
        let mut theirs = vec![stdin_theirs, stdout_theirs];
        let mut outputs = [Some(stdout), None];
        if !terminal {
            let (stderr, stderr_theirs) = pipe()?;
            theirs.push(stderr_theirs);
            outputs[1] = Some(stderr);
        }
        let relay = Relay {
            container,
            process: 0,
            stdin: Some(stdin),
            input: Vec::new(),
            input_ended: false,
            outputs,
            watched: [EventFlags::ET; 3],
            ended: None,
        };
        Ok((relay, theirs))
    }

    /// Whether frames of the client are taken now.
    pub fn takes_input(&self) -> bool {
        self.input.len() < MAX_FRAME
    }

    /// Says for each pipe, by its number from 1 on, what is to be waited for.
    pub fn watch(&mut self, has_room: bool, wait: impl Fn(&OwnedFd, u64, EventFlags)) {
        // That the other end is gone is told even when nothing is waited for: only once, if by edges.
        let stdin = if self.input.is_empty() { EventFlags::ET } else { EventFlags::OUT };
        let output = if has_room { EventFlags::IN } else { EventFlags::ET };
        let fds = [self.stdin.as_ref(), self.outputs[0].as_ref(), self.outputs[1].as_ref()];
        for (n, (fd, watched)) in fds.into_iter().zip(&mut self.watched).enumerate() {
            let flags = if n == 0 { stdin } else { output };
            if let Some(fd) = fd.filter(|_| *watched != flags) {
                *watched = flags;
                wait(fd, n as u64 + 1, flags);
            }
        }
    }

    /// The process has ended.
    pub fn set_ended(&mut self, status: ExitStatus) -> Instant {
        let deadline = Instant::now() + LINGER;
        self.ended.get_or_insert((status, deadline)).1
    }

    /// How it ended, when all output has been taken or `late`.
    pub fn conclusion(&self, late: bool) -> Option<ExitStatus> {
        let (status, _) = self.ended?;
        (late || self.outputs.iter().all(Option::is_none)).then_some(status)
    }

    /// Writes what the pipe takes.
    pub fn feed(&mut self) {
        while let (Some(stdin), false) = (&self.stdin, self.input.is_empty()) {
            match rustix::io::write(stdin, &self.input) {
                Ok(n) => drop(self.input.drain(..n)),
                Err(rustix::io::Errno::INTR) => {}
                Err(rustix::io::Errno::AGAIN) => return,
                // The process reads no more.
                Err(_) => self.stdin = None,
            }
        }
        if self.stdin.is_none() {
            self.input.clear();
        }
        if self.input_ended {
            self.stdin = None;
        }
    }

    /// Reads some of output `n`; `None`: nothing now.
    pub fn read(&mut self, n: usize) -> Option<Vec<u8>> {
        let output = self.outputs.get_mut(n)?;
        let mut buffer = vec![0; 16 << 10];
        match rustix::io::read(output.as_ref()?, &mut buffer) {
            Ok(0) => *output = None,
            Ok(len) => {
                buffer.truncate(len);
                return Some(buffer);
            }
            Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => {}
            Err(_) => *output = None,
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn frames_there_and_back() {
        assert_eq!(parse(&frame(STDIN, b"hello")), Ok(Some((Frame::Input(b"hello".to_vec()), 13))));
        assert_eq!(parse(&frame(STDIN, b"")), Ok(Some((Frame::InputEnd, 8))));
        let signal = parse(&frame(CONTROL, br#"{"signal": 15}"#));
        assert!(matches!(signal, Ok(Some((Frame::Ask(Ask::Signal(15)), _)))));
        assert_eq!(parse(&frame(STDIN, b"hello")[..12]), Ok(None));
        for bad in
            [frame(9, b""), frame(CONTROL, b"{}"), vec![0, 0, 0, 0, 0, 2, 0, 0], vec![0, 1, 0, 0, 0, 0, 0, 0]]
        {
            assert!(parse(&bad).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_have_an_answer(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(Some((_, taken))) = parse(&bytes) {
                prop_assert!(taken <= bytes.len());
            }
        }
    }
}
