//! The API's requests: HTTP, where a path leads, and the documents of each call.

use ringfence::api::config::{self, Boot, Config, Image, Jail, Machine, check_container, check_process};
use ringfence::api::http::{self, Parsed};
use ringfence::api::routes;
use ringfence::api::settings::{BalloonTarget, DiskLimits, LogLevels, RandomLimits};
use ringfence::api::{FRAME_HEADER, Resize, Shutdown, Signal, parse_frame};
use ringfence_protocol::{Container, Process};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Requests that are looked at, one behind the other.
const MOST: usize = 64;

/// Takes `data` as what a client sends: requests, or frames once a connection has become the streams of a process.
pub fn run(data: &[u8]) {
    let mut rest = data;
    for _ in 0..MOST {
        let Some(length) = request(rest) else { break };
        rest = &rest[length..];
    }
    let mut rest = data;
    while let Ok(Some((_, length))) = parse_frame(rest) {
        assert!(length >= FRAME_HEADER && length <= rest.len());
        rest = &rest[length..];
    }
}

/// The first request; its length.
fn request(data: &[u8]) -> Option<usize> {
    let (request, length) = match http::parse(data) {
        Ok(Parsed::Complete(request, length)) => (request, length),
        Ok(Parsed::Partial { .. }) => return None,
        Err(refusal) => {
            assert!((400..600).contains(&refusal.status));
            answer(&refusal);
            return None;
        }
    };
    assert!(length > 0 && length <= data.len() && request.body.len() <= length.min(http::MAX_BODY));
    // What has come in pieces is the same request, or none yet.
    for cut in [1, length / 2, length - 1] {
        match http::parse(&data[..cut]) {
            Ok(Parsed::Partial { .. }) => {}
            Ok(Parsed::Complete(..)) => panic!("a part of a request is a request"),
            Err(refusal) => panic!("a part of a request is refused: {}", refusal.status),
        }
    }
    match routes::find(&request.method, &request.path) {
        Ok((route, _)) => assert_eq!(route.method, request.method),
        Err(refusal) => answer(&refusal),
    }
    let body = &request.body;
    if let Some(config) = again::<Config>(body) {
        let _ = config.check();
    }
    let _ = again::<Machine>(body).map(|machine| machine.check());
    let _ = again::<Boot>(body).map(|boot| boot.check());
    let _ = again::<Image>(body).map(|image| image.check());
    let _ = again::<Jail>(body).map(|jail| jail.check());
    let _ = again::<Container>(body).map(|container| check_container(&container));
    let _ = again::<Process>(body).map(|process| check_process(&process));
    let _ = again::<BalloonTarget>(body).map(|wanted| wanted.check(&Config::default()));
    let _ = again::<DiskLimits>(body).map(|limits| limits.check());
    let _ = again::<RandomLimits>(body).map(|limits| limits.check());
    let _ = again::<LogLevels>(body);
    let _ = (again::<Shutdown>(body), again::<Signal>(body), again::<Resize>(body));
    Some(length)
}

/// The head of an answer is whole, whatever was asked: nothing of the question gets into it.
fn answer(response: &http::Response) {
    let bytes = response.encode(true);
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head");
    assert_eq!(bytes.len() - head - 4, response.body.len());
}

/// A document that was taken can be written, and what was written is taken.
fn again<T: DeserializeOwned + Serialize>(body: &[u8]) -> Option<T> {
    let document: T = config::read(body).ok()?;
    let text = serde_json::to_vec(&document).expect("what was read can be written");
    let same: T = config::read(&text).expect("what was written can be read");
    assert_eq!(serde_json::to_vec(&same).expect("likewise"), text);
    Some(document)
}
