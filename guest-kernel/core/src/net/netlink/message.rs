//! Messages: `struct nlmsghdr`, attributes, and how answers are put together.

use alloc::vec::Vec;

use zerocopy::{FromBytes, Immutable, IntoBytes};

use crate::errno::Errno;

/// `struct nlmsghdr`.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(super) struct Header {
    /// Bytes, this header included.
    pub len: u32,
    pub kind: u16,
    pub flags: u16,
    pub seq: u32,
    pub port: u32,
}

pub(super) const HEADER: usize = size_of::<Header>();

pub(super) const NLM_F_REQUEST: u16 = 0x1;
pub(super) const NLM_F_MULTI: u16 = 0x2;
pub(super) const NLM_F_ACK: u16 = 0x4;
/// `NLM_F_ROOT | NLM_F_MATCH`.
pub(super) const NLM_F_DUMP: u16 = 0x300;

const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
/// Below are messages about messages.
pub(super) const NLMSG_MIN_TYPE: u16 = 0x10;

/// Bytes of one datagram of answers: what the smallest buffers of programs hold.
const DATAGRAM: usize = 3584;

fn aligned(len: usize) -> usize {
    len.next_multiple_of(4)
}

/// A request: its header and what follows.
pub(super) struct Request<'a> {
    pub header: Header,
    pub body: &'a [u8],
}

/// Splits what was sent into requests; what is malformed ends it.
pub(super) fn requests(mut bytes: &[u8]) -> impl Iterator<Item = Request<'_>> {
    core::iter::from_fn(move || {
        let (header, _) = Header::read_from_prefix(bytes).ok()?;
        let len = header.len as usize;
        let body = bytes.get(HEADER..len)?;
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
        Some(Request { header, body })
    })
}

/// The attribute `kind` among those in `bytes`.
pub(super) fn attribute(mut bytes: &[u8], kind: u16) -> Option<&[u8]> {
    while let Some((head, _)) = bytes.split_first_chunk::<4>() {
        let [a, b, c, d] = *head;
        let (len, found) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let data = bytes.get(4..len)?;
        // The upper bits are flags.
        if found & 0x3fff == kind {
            return Some(data);
        }
        bytes = bytes.get(aligned(len)..).unwrap_or_default();
    }
    None
}

/// The answer to one request, cut into datagrams.
pub(super) struct Answer {
    request: Header,
    port: u32,
    datagrams: Vec<Vec<u8>>,
}

impl Answer {
    /// To `request`, which a socket with `port` has made.
    pub fn new(request: Header, port: u32) -> Answer {
        Answer { request, port, datagrams: Vec::new() }
    }

    /// Adds a message of type `kind` with a fixed part and attributes.
    pub fn message(&mut self, kind: u16, multi: bool, fixed: &[u8], attributes: &[(u16, &[u8])]) {
        let mut body = fixed.to_vec();
        for (kind, data) in attributes {
            body.resize(aligned(body.len()), 0);
            body.extend_from_slice(&((4 + data.len()) as u16).to_ne_bytes());
            body.extend_from_slice(&kind.to_ne_bytes());
            body.extend_from_slice(data);
        }
        body.resize(aligned(body.len()), 0);
        self.raw(kind, if multi { NLM_F_MULTI } else { 0 }, &body);
    }

    fn raw(&mut self, kind: u16, flags: u16, body: &[u8]) {
        let header =
            Header { len: (HEADER + body.len()) as u32, kind, flags, seq: self.request.seq, port: self.port };
        let room = self.datagrams.last().is_some_and(|d| d.len() + HEADER + body.len() <= DATAGRAM);
        if !room {
            self.datagrams.push(Vec::new());
        }
        if let Some(last) = self.datagrams.last_mut() {
            last.extend_from_slice(header.as_bytes());
            last.extend_from_slice(body);
            last.resize(aligned(last.len()), 0);
        }
    }

    /// The end of a dump.
    pub fn done(&mut self) {
        self.raw(NLMSG_DONE, NLM_F_MULTI, &[0; 4]);
    }

    /// What went wrong, or that nothing did; with the request, of which only the header if `capped`.
    pub fn error(&mut self, outcome: Result<(), Errno>, body: &[u8], capped: bool) {
        const NLM_F_CAPPED: u16 = 0x100;
        let number = outcome.map_or_else(|e| -i32::from(e.raw()), |()| 0);
        let short = capped || number == 0;
        let mut out = number.to_ne_bytes().to_vec();
        out.extend_from_slice(self.request.as_bytes());
        if !short {
            out.extend_from_slice(body);
        }
        self.raw(NLMSG_ERROR, if short { NLM_F_CAPPED } else { 0 }, &out);
    }

    /// The datagrams.
    pub fn into_datagrams(self) -> Vec<Vec<u8>> {
        self.datagrams
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(len: u32) -> Header {
        Header { len, kind: 18, flags: 1, seq: 7, port: 0 }
    }

    #[test]
    fn what_is_answered_can_be_read() {
        let mut answer = Answer::new(header(16), 99);
        answer.message(20, true, &[1, 2, 3, 4, 5], &[(3, b"lo\0"), (4, &[9; 4])]);
        answer.done();
        let datagrams = answer.into_datagrams();
        let found: Vec<Request<'_>> = requests(&datagrams[0]).collect();
        assert_eq!((datagrams.len(), found.len(), found[0].header.seq, found[0].header.port), (1, 2, 7, 99));
        let attributes = &found[0].body[8..];
        assert_eq!(
            (attribute(attributes, 3), attribute(attributes, 4)),
            (Some(&b"lo\0"[..]), Some(&[9; 4][..]))
        );
        assert_eq!(attribute(attributes, 5), None);
        assert_eq!(found[1].header.kind, NLMSG_DONE);
    }

    #[test]
    fn answers_are_cut_into_datagrams() {
        let mut answer = Answer::new(header(16), 1);
        for _ in 0..100 {
            answer.message(20, true, &[0; 100], &[]);
        }
        let datagrams = answer.into_datagrams();
        assert!(datagrams.iter().all(|d| d.len() <= DATAGRAM));
        assert_eq!(datagrams.iter().map(|d| requests(d).count()).sum::<usize>(), 100);
    }

    proptest! {
        #[test]
        fn any_bytes_end(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            for request in requests(&bytes) {
                let _ = attribute(request.body, 3);
            }
        }
    }
}
