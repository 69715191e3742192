//! A request through a proxy, both sides HTTP/1. Input: two lengths of parts, how long the client's side is (two bytes), what the
//! client sends, then what the server answers to each request.
//!
//! What reaches the server must be as many requests as were read, with the same bodies, and nothing after them; what reaches
//! the client must be one answer for each. Anything else is somebody's smuggled message. No split may matter.
#![no_main]

use bartizan_fuzz::memory::{Memory, ready};
use bartizan_fuzz::{choices, parts};
use bartizan_wire::exchange::{self, send_request, send_response};
use bartizan_wire::h1::chunk::{BodyDecoder, Decoded};
use bartizan_wire::h1::parse::{HeadScan, parse_response};
use bartizan_wire::h1::{ClientConnection, Limits, ServerConnection};
use bartizan_wire::head::{Headers, ResponseHead};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let ([down, up, high, low], rest) = choices::<4>(data);
    let length = usize::from(u16::from_be_bytes([high, low])).min(rest.len());
    let (asked, answered) = rest.split_at(length);
    let whole = carry(&[asked], &[answered]);
    let split = carry(&parts(asked, &[down]), &parts(answered, &[up]));
    if whole.is_clean && split.is_clean {
        assert_eq!(whole.carried, split.carried, "splits matter");
        assert_eq!(whole.answers, split.answers, "splits matter");
    }
});

/// What a proxy has carried.
#[derive(Debug, Default)]
struct Proxied {
    /// Method, target and body of each request as the server read it, and the status.
    carried: Vec<(Method, Vec<u8>, Vec<u8>, StatusCode)>,
    /// What the client read. The chunks of a body may be cut elsewhere.
    answers: Vec<Answer>,
    /// Whether no exchange failed on the way.
    is_clean: bool,
}

/// An answer: status, fields, body, trailers.
type Answer = (StatusCode, Headers, Vec<u8>, Option<Headers>);

fn carry(asked: &[&[u8]], answered: &[&[u8]]) -> Proxied {
    let mut down = ServerConnection::new(Memory::new(asked), Limits::default());
    let mut proxied = Proxied {
        is_clean: true,
        ..Proxied::default()
    };
    let mut methods = Vec::new();
    for _ in 0..16 {
        let Ok(Some(head)) = ready(down.read_head()) else {
            break;
        };
        if head.method == Method::CONNECT || head.upgrade.is_some() || !head.headers.contains("host") {
            break; // what follows is no HTTP of ours, or goes nowhere
        }
        let mut up = ClientConnection::new(Memory::new(answered), Limits::default());
        let Ok(response) = ready(send_request(&mut down, &mut up, &head)) else {
            proxied.is_clean = false;
            break;
        };
        let status = response.status;
        if ready(send_response(&mut down, &mut up, &response)).is_err() {
            proxied.is_clean = false;
            break;
        }
        let (method, target, body) = read_request(&up.io().written);
        assert_eq!(method, head.method);
        assert_eq!(target, head.target);
        methods.push(method.clone());
        proxied.carried.push((method, target, body, status));
        if !down.keep_alive() {
            break;
        }
    }
    if proxied.is_clean {
        proxied.answers = read_responses(&down.io().written, &methods);
    }
    proxied
}

/// The one request that the server was sent; that it is one, complete and nothing behind it, is the point.
fn read_request(bytes: &[u8]) -> (Method, Vec<u8>, Vec<u8>) {
    let mut server = ServerConnection::new(Memory::new(&[bytes]), Limits::default());
    let head = ready(server.read_head())
        .expect("what is written can be read")
        .expect("a request was written");
    let body = ready(exchange::collect(&mut server, 1 << 20))
        .expect("the body is whole")
        .expect("and small");
    ready(server.reply(ResponseHead::new(StatusCode::OK), Bytes::new())).expect("memory takes everything");
    if server.keep_alive() {
        let next = ready(server.read_head());
        assert!(
            matches!(next, Ok(None)),
            "the server was sent something after the request: {next:?}"
        );
    }
    (head.method, head.target.to_vec(), body.to_vec())
}

/// The answers that the client was sent: one for each request, nothing between or behind.
fn read_responses(bytes: &[u8], methods: &[Method]) -> Vec<Answer> {
    let limits = Limits {
        fields: Limits::MOST_FIELDS,
        ..Limits::default()
    };
    let mut answers = Vec::new();
    let mut rest = BytesMut::from(bytes);
    for method in methods {
        let parsed = loop {
            let end = HeadScan::default()
                .end(&rest, usize::MAX)
                .expect("what is written can be read")
                .expect("an answer was written");
            let head = rest.split_to(end).freeze();
            let parsed = parse_response(&head, method, false, &limits).expect("what is written can be read");
            if !parsed.head.is_interim() {
                break parsed;
            }
        };
        let mut decoder = BodyDecoder::new(parsed.framing, limits);
        let (mut body, mut trailers) = (Vec::new(), None);
        loop {
            match decoder.decode(&mut rest).expect("what is written can be read") {
                Decoded::Data(data) => body.extend_from_slice(&data),
                Decoded::Trailers(fields) => trailers = Some(fields),
                Decoded::End => break,
                Decoded::NeedMore => {
                    decoder.end_of_input().expect("the answer is whole");
                    break;
                }
            }
        }
        answers.push((parsed.head.status, parsed.head.headers, body, trailers));
    }
    assert!(
        rest.is_empty(),
        "the client was sent something after the answers: {rest:?}"
    );
    answers
}
