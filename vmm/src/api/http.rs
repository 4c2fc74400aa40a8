//! HTTP/1.1, as much of it as an API on a unix socket needs: requests with a body of known length, responses, chunks.
//!
//! `httparse` takes the head apart; what may be in it and how long it may be is decided here. Requests that could be understood
//! in two ways are refused and end the connection: two lengths, a length and a transfer coding, a length that is no
//! number. Transfer codings of requests are not understood.

/// Longest head of a request in bytes.
pub const MAX_HEAD: usize = 16 << 10;
/// Longest body.
pub const MAX_BODY: usize = 1 << 20;
const MAX_HEADERS: usize = 64;

/// The protocol of [`super::streams`], as `Upgrade` names it.
pub const STREAMS: &str = "ringfence-streams";

/// A request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET`, …
    pub method: String,
    /// Before the question mark, as it was sent.
    pub path: String,
    /// After it.
    pub query: String,
    /// `Accept`.
    pub accept: String,
    /// The connection is to become one of [`STREAMS`].
    pub upgrade: bool,
    /// Another request may follow.
    pub keep_alive: bool,
    /// What the body is.
    pub content_type: Option<String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What the bytes so far are.
#[derive(Debug, PartialEq, Eq)]
pub enum Parsed {
    /// Not yet a request. `go_on`: the client waits for `100 Continue`.
    Partial {
        /// See above.
        go_on: bool,
    },
    /// A request, and how many bytes it has.
    Complete(Request, usize),
}

/// A response.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// The code.
    pub status: u16,
    /// What the body is; empty without one.
    pub content_type: &'static str,
    /// A header more.
    pub header: Option<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
}

/// What an error is told with.
#[derive(Debug, serde::Serialize, serde::Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// A sentence.
    pub fault_message: String,
    /// The guest's Linux errno, if it was the guest that refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub errno: Option<u32>,
}

impl Response {
    /// Without a body.
    pub fn empty(status: u16) -> Response {
        Response { status, content_type: "", header: None, body: Vec::new() }
    }

    /// A document.
    pub fn json(status: u16, value: &impl serde::Serialize) -> Response {
        match serde_json::to_vec(value) {
            Ok(mut body) => {
                body.push(b'\n');
                Response { status, content_type: "application/json", header: None, body }
            }
            Err(e) => Response::fault(500, e.to_string()),
        }
    }

    /// Text of a kind.
    pub fn text(content_type: &'static str, text: impl Into<Vec<u8>>) -> Response {
        Response { status: 200, content_type, header: None, body: text.into() }
    }

    /// An error.
    pub fn fault(status: u16, message: impl Into<String>) -> Response {
        Response::json(status, &Fault { fault_message: message.into(), errno: None })
    }

    /// The bytes. `close`: it is the connection's last.
    pub fn encode(&self, close: bool) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        if !self.content_type.is_empty() {
            head += &format!("Content-Type: {}\r\n", self.content_type);
        }
        if let Some((name, value)) = &self.header {
            head += &format!("{name}: {value}\r\n");
        }
        // RFC 9110, 8.6: 1xx and 204 have none.
        if self.status >= 200 && self.status != 204 {
            head += &format!("Content-Length: {}\r\n", self.body.len());
        }
        if close {
            head += "Connection: close\r\n";
        }
        head += "\r\n";
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(&self.body);
        bytes
    }
}

/// Head of a response whose body comes in chunks, until the end of the connection.
pub fn chunked_head(content_type: &str) -> Vec<u8> {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n"
    )
    .into_bytes()
}

/// One chunk; an empty one is the last.
pub fn chunk(data: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{:x}\r\n", data.len()).into_bytes();
    bytes.extend_from_slice(data);
    bytes.extend_from_slice(b"\r\n");
    bytes
}

/// From here on the connection speaks [`STREAMS`].
pub fn switching() -> Vec<u8> {
    format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {STREAMS}\r\n\r\n")
        .into_bytes()
}

/// `HTTP/1.1 100 Continue`.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// A status code's phrase.
pub fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        400 => "Bad Request",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Content Too Large",
        415 => "Unsupported Media Type",
        422 => "Unprocessable Content",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Status",
    }
}

/// Takes the first request in `input` apart. An error is what to answer before the connection is closed.
pub fn parse(input: &[u8]) -> Result<Parsed, Response> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let parsed = head.parse(input.get(..MAX_HEAD).unwrap_or(input));
    let start = match parsed {
        Ok(httparse::Status::Complete(start)) => start,
        Ok(httparse::Status::Partial) if input.len() >= MAX_HEAD => {
            return Err(Response::fault(431, format!("the head of a request has at most {MAX_HEAD} bytes")));
        }
        Ok(httparse::Status::Partial) => return Ok(Parsed::Partial { go_on: false }),
        Err(httparse::Error::TooManyHeaders) => {
            return Err(Response::fault(431, format!("a request has at most {MAX_HEADERS} header fields")));
        }
        Err(httparse::Error::Version) => {
            return Err(Response::fault(505, "this is a server of HTTP/1.1"));
        }
        Err(e) => return Err(Response::fault(400, format!("this is no HTTP request: {e}"))),
    };
    let fields = Fields::read(head.headers)?;
    let length = fields.length.unwrap_or(0);
    if length > MAX_BODY {
        return Err(Response::fault(413, format!("a body has at most {MAX_BODY} bytes")));
    }
    let Some(body) = input.get(start..start + length) else {
        return Ok(Parsed::Partial { go_on: fields.expects });
    };
    let target = head.path.unwrap_or_default();
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let request = Request {
        method: head.method.unwrap_or_default().to_owned(),
        path: path.to_owned(),
        query: query.to_owned(),
        accept: fields.accept,
        upgrade: fields.upgrade && fields.connection_upgrade,
        keep_alive: fields.keep_alive.unwrap_or(head.version == Some(1)),
        content_type: fields.content_type,
        body: body.to_vec(),
    };
    Ok(Parsed::Complete(request, start + length))
}

/// The header fields we look at.
#[derive(Default)]
struct Fields {
    length: Option<usize>,
    expects: bool,
    accept: String,
    upgrade: bool,
    connection_upgrade: bool,
    keep_alive: Option<bool>,
    content_type: Option<String>,
}

impl Fields {
    fn read(headers: &[httparse::Header<'_>]) -> Result<Fields, Response> {
        let mut fields = Fields::default();
        for header in headers {
            let value = String::from_utf8_lossy(header.value).trim().to_owned();
            let words = || value.split(',').map(|word| word.trim().to_ascii_lowercase());
            match header.name.to_ascii_lowercase().as_str() {
                "content-length" => {
                    // Only digits: `parse` would take a plus sign.
                    let number = value.bytes().all(|b| b.is_ascii_digit()).then(|| value.parse().ok());
                    match (number.flatten(), fields.length) {
                        (Some(n), None) => fields.length = Some(n),
                        (None, _) if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) => {
                            return Err(Response::fault(413, format!("a body has at most {MAX_BODY} bytes")));
                        }
                        _ => return Err(Response::fault(400, "the request has no clear Content-Length")),
                    }
                }
                "transfer-encoding" => {
                    return Err(Response::fault(411, "bodies come with a Content-Length, not in chunks"));
                }
                "expect" => fields.expects = value.eq_ignore_ascii_case("100-continue"),
                "accept" => fields.accept = value,
                "upgrade" => fields.upgrade = words().any(|word| word == STREAMS),
                "connection" => {
                    for word in words() {
                        match word.as_str() {
                            "close" => fields.keep_alive = Some(false),
                            "keep-alive" => fields.keep_alive = Some(true),
                            "upgrade" => fields.connection_upgrade = true,
                            _ => {}
                        }
                    }
                }
                "content-type" => fields.content_type = Some(value),
                _ => {}
            }
        }
        Ok(fields)
    }
}

/// A part of a path or query, with its `%XX` resolved.
pub fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|b| char::from(b).to_digit(16));
                (digit()? * 16 + digit()?) as u8
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn complete(text: &str) -> Request {
        match parse(text.as_bytes()) {
            Ok(Parsed::Complete(request, length)) => {
                assert_eq!(length, text.len());
                request
            }
            other => panic!("{other:?}"),
        }
    }

    fn status(text: &str) -> u16 {
        parse(text.as_bytes()).unwrap_err().status
    }

    #[test]
    fn requests_are_taken_apart() {
        let plain = complete("GET /metrics?a=b HTTP/1.1\r\nHost: x\r\nAccept: text/plain\r\n\r\n");
        assert_eq!(
            (plain.method.as_str(), plain.path.as_str(), plain.query.as_str()),
            ("GET", "/metrics", "a=b")
        );
        assert!(plain.keep_alive && !plain.upgrade && plain.body.is_empty());
        let put = complete("PUT /x HTTP/1.1\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}");
        assert_eq!((put.body.as_slice(), put.keep_alive), (&b"{}"[..], false));
        assert!(!complete("GET / HTTP/1.0\r\n\r\n").keep_alive);
        let upgrade =
            "POST /x HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: ringfence-streams\r\n\r\n";
        assert!(complete(upgrade).upgrade);
    }

    #[test]
    fn what_is_unclear_or_too_long_is_refused() {
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: +1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: \r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n"), 400);
        assert_eq!(status("PUT / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n"), 411);
        assert_eq!(status("PUT / HTTP/1.1\r\nContent-Length: 1048577\r\n\r\n"), 413);
        assert_eq!(status("PUT / HTTP/1.1\r\nContent-Length: 99999999999999999999999\r\n\r\n"), 413);
        assert_eq!(status("GET / HTTP/2.0\r\n\r\n"), 505);
        assert_eq!(status("garbage\r\n\r\n"), 400);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\nA: {}", "x".repeat(MAX_HEAD))), 431);
        assert_eq!(status(&format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(65))), 431);
    }

    #[test]
    fn percent_signs() {
        assert_eq!(decoded("a%20b").as_deref(), Some("a b"));
        assert_eq!((decoded("%2"), decoded("%zz"), decoded("%ff")), (None, None, None));
    }

    proptest! {
        /// Whatever comes, it is a request, not yet one, or refused, and pieces of a request are not yet one.
        #[test]
        fn any_bytes_have_an_answer(input in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&input);
        }

        #[test]
        fn a_request_may_come_in_pieces(
            path in "/[a-z0-9/%?=.-]{0,40}",
            names in prop::collection::vec("[A-Za-z-]{1,12}", 0..5),
            body in prop::collection::vec(any::<u8>(), 0..100),
            cut in 0usize..1000,
        ) {
            let mut text = format!("PUT {path} HTTP/1.1\r\nContent-Length: {}\r\n", body.len()).into_bytes();
            for name in names {
                text.extend_from_slice(format!("X-{name}: some value\r\n").as_bytes());
            }
            text.extend_from_slice(b"\r\n");
            text.extend_from_slice(&body);
            let cut = cut % text.len();
            prop_assert_eq!(parse(&text[..cut]), Ok(Parsed::Partial { go_on: false }));
            let Ok(Parsed::Complete(request, length)) = parse(&text) else { panic!("not complete") };
            prop_assert_eq!(length, text.len());
            prop_assert_eq!(request.body, body);
        }

        /// Mutations of good requests: no panic, and no more bytes taken than there are.
        #[test]
        fn mutated_requests_have_an_answer(at in 0usize..90, with in any::<u8>(), cut in 0usize..90) {
            let mut text = b"POST /containers/a/exec HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nUpgrade: y\r\n\r\nabcd".to_vec();
            let len = text.len();
            text[at % len] = with;
            text.truncate(len - cut % 8);
            if let Ok(Parsed::Complete(_, taken)) = parse(&text) {
                prop_assert!(taken <= text.len());
            }
        }
    }
}
