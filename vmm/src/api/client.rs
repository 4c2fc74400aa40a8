//! The command line's side of the API: one connection, one request at a time.

use std::io::{BufRead, BufReader, IoSlice, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::http::Fault;
use crate::cli::Failure;
use crate::exit;

/// Longest line of a head that we take.
const MAX_LINE: u64 = 16 << 10;
/// Longest body.
const MAX_BODY: usize = 16 << 20;

/// A connection to a sandbox's API.
pub struct Client {
    path: PathBuf,
    stream: UnixStream,
    input: BufReader<UnixStream>,
}

/// A response.
#[derive(Debug)]
pub struct Answer {
    /// The code.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

fn lost(e: impl ToString) -> Failure {
    let why = e.to_string();
    Failure { code: exit::MACHINE_FAILED, message: format!("the connection to the sandbox ended: {why}") }
}

impl Client {
    /// Connects to the sandbox that a word of the command line means.
    pub fn of(word: &str) -> Result<Client, Failure> {
        let path = super::socket_named(word).map_err(Failure::setup)?;
        let stream = UnixStream::connect(&path).map_err(|e| {
            let hint = if word.contains('/') { "" } else { "; `ringfence ps` lists those that run" };
            Failure::setup(format!("cannot connect to a sandbox at {}: {e}{hint}", path.display()))
        })?;
        Client::new(&path, stream)
    }

    /// Takes a connection.
    pub fn new(path: &Path, stream: UnixStream) -> Result<Client, Failure> {
        let input = BufReader::new(stream.try_clone().map_err(lost)?);
        Ok(Client { path: path.into(), stream, input })
    }

    /// Another connection to the same sandbox.
    pub fn again(&self) -> Result<Client, Failure> {
        Client::new(&self.path, UnixStream::connect(&self.path).map_err(lost)?)
    }

    /// Waits at most so long for what comes.
    pub fn set_patience(&self, patience: Duration) {
        let _ = self.stream.set_read_timeout(Some(patience));
        let _ = self.stream.set_write_timeout(Some(patience));
    }

    /// Sends a request, and descriptors with its first byte.
    pub fn send(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
        descriptors: &[BorrowedFd<'_>],
    ) -> Result<(), Failure> {
        let body = body.map(serde_json::to_vec).transpose().map_err(lost)?;
        let mut request = format!("{method} {path} HTTP/1.1\r\nHost: ringfence\r\n");
        if let Some(body) = &body {
            request += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
        }
        let mut request = (request + "\r\n").into_bytes();
        request.extend(body.unwrap_or_default());
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(3))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        if !descriptors.is_empty() {
            ancillary.push(SendAncillaryMessage::ScmRights(descriptors));
        }
        let sent = sendmsg(&self.stream, &[IoSlice::new(&request)], &mut ancillary, SendFlags::NOSIGNAL);
        let sent = sent.map_err(lost)?;
        self.stream.write_all(request.get(sent..).unwrap_or_default()).map_err(lost)
    }

    /// Whether something has come that [`Client::receive`] has not returned.
    pub fn has_input(&self) -> bool {
        !self.input.buffer().is_empty()
    }

    /// The response, with all of its body.
    pub fn receive(&mut self) -> Result<Answer, Failure> {
        let mut body = Vec::new();
        let status = self.receive_into(&mut body)?;
        Ok(Answer { status, body })
    }

    /// The response's code; its body goes to `sink` as it comes.
    pub fn receive_into(&mut self, sink: &mut impl Write) -> Result<u16, Failure> {
        let status = self.line()?;
        let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let status = status.ok_or_else(|| lost("the sandbox answered something else"))?;
        let (mut length, mut chunked) = (0usize, false);
        loop {
            let line = self.line()?.to_ascii_lowercase();
            match line.split_once(':').map(|(name, value)| (name, value.trim())) {
                None => break,
                Some(("content-length", value)) => length = value.parse().map_err(lost)?,
                Some(("transfer-encoding", _)) => chunked = true,
                Some(_) => {}
            }
        }
        if !chunked {
            self.pass(length, sink)?;
            return Ok(status);
        }
        loop {
            let size = usize::from_str_radix(&self.line()?, 16).map_err(lost)?;
            self.pass(size, sink)?;
            self.line()?;
            if size == 0 {
                return Ok(status);
            }
        }
    }

    fn pass(&mut self, length: usize, sink: &mut impl Write) -> Result<(), Failure> {
        if length > MAX_BODY {
            return Err(lost("the sandbox answered too much"));
        }
        let mut body = vec![0; length];
        self.input.read_exact(&mut body).map_err(lost)?;
        sink.write_all(&body)
            .and_then(|()| sink.flush())
            .map_err(|e| Failure::setup(format!("cannot print: {e}")))
    }

    fn line(&mut self) -> Result<String, Failure> {
        let mut line = String::new();
        (&mut self.input).take(MAX_LINE).read_line(&mut line).map_err(lost)?;
        match line.strip_suffix('\n') {
            Some(line) => Ok(line.trim_end_matches('\r').to_owned()),
            None => Err(lost("the sandbox is over")),
        }
    }

    /// Asks, and waits for the answer.
    pub fn call(
        &mut self,
        method: &str,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Answer, Failure> {
        self.send(method, path, body, &[])?;
        self.receive()
    }

    /// Asks for a document.
    pub fn get<T: DeserializeOwned>(&mut self, path: &str) -> Result<T, Failure> {
        self.call("GET", path, None::<&()>)?.document()
    }

    /// Asks for something to be done.
    pub fn done(&mut self, method: &str, path: &str, body: Option<&impl Serialize>) -> Result<u8, Failure> {
        self.call(method, path, body)?.good().map(|_| 0)
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Answer {
    /// Itself, if it is no error.
    pub fn good(self) -> Result<Answer, Failure> {
        if self.status < 300 {
            return Ok(self);
        }
        let fault: Fault = serde_json::from_slice(&self.body).unwrap_or_else(|_| Fault {
            fault_message: format!("the sandbox answered {}", self.status),
            errno: None,
        });
        let code = match (fault.errno, self.status) {
            (Some(errno), _) => exit::of_start_failure(errno),
            (None, 410) => exit::MACHINE_FAILED,
            (None, _) => exit::SETUP_FAILED,
        };
        let message = crate::event_loop::printable(&fault.fault_message);
        Err(Failure { code, message })
    }

    /// The document in it.
    pub fn document<T: DeserializeOwned>(self) -> Result<T, Failure> {
        serde_json::from_slice(&self.good()?.body)
            .map_err(|e| lost(format!("it answered something else ({e})")))
    }
}
