//! Heads of HTTP/1. Input: which head and whether bounds are small, a length of parts, then the bytes.
//!
//! What is accepted, written again as the proxy writes it, must be read by the next reader as it was meant: same method,
//! target, fields and body length. Where it is not, a request can be smuggled.
#![no_main]

use bartizan_fuzz::{choices, parts};
use bartizan_wire::h1::Limits;
use bartizan_wire::h1::encode::{ResponseTo, request_head, response_head};
use bartizan_wire::h1::parse::{HeadScan, ParseError, parse_request, parse_response};
use bartizan_wire::head::{BodyLength, Headers};
use bytes::Bytes;
use http::Method;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let ([how, step], bytes) = choices::<2>(data);
    let limits = if how & 1 == 0 {
        Limits::default()
    } else {
        Limits {
            head_bytes: 200,
            fields: 4,
            ..Limits::default()
        }
    };
    let found = scan(&[bytes], limits.head_bytes).ok();
    assert_eq!(
        found,
        scan(&parts(bytes, &[step]), limits.head_bytes).ok(),
        "splits matter"
    );
    let Some(Some(end)) = found else { return };
    let head = Bytes::copy_from_slice(&bytes[..end]);
    if how & 2 == 0 {
        request(&head, &limits);
    } else {
        let method = [Method::GET, Method::HEAD, Method::CONNECT][usize::from(how >> 2) % 3].clone();
        response(&head, &method, how & 64 != 0, &limits);
    }
});

fn scan(parts: &[&[u8]], limit: usize) -> Result<Option<usize>, ParseError> {
    let mut scan = HeadScan::default();
    let mut buffer = Vec::new();
    for part in parts {
        buffer.extend_from_slice(part);
        if let Some(end) = scan.end(&buffer, limit)? {
            return Ok(Some(end));
        }
    }
    Ok(None)
}

fn request(bytes: &Bytes, limits: &Limits) {
    let read = match parse_request(bytes, limits) {
        Ok(read) => read,
        Err(error) => {
            assert!(error.status().is_client_error() || error.status().is_server_error());
            return;
        }
    };
    let head = &read.head;
    assert!(head.headers.get_all("host").count() <= 1);
    assert!(head.target.iter().all(u8::is_ascii_graphic));
    assert!(head.path().len() + head.query().map_or(0, |query| query.len() + 1) == head.target.len());
    if !head.headers.contains("host") {
        return; // HTTP/1.0, which goes nowhere
    }
    let mut written = Vec::new();
    let framing = request_head(&mut written, head);
    let written = Bytes::from(written);
    assert_eq!(
        scan(&[&written], usize::MAX),
        Ok(Some(written.len())),
        "one head was written"
    );
    let again = parse_request(
        &written,
        &Limits {
            fields: Limits::MOST_FIELDS,
            ..Limits::default()
        },
    )
    .unwrap_or_else(|error| panic!("{error}: {:?} of {bytes:?}", written));
    assert_eq!(again.framing, framing);
    assert_eq!(again.head.body, head.body);
    assert_eq!(again.head.method, head.method);
    assert_eq!(again.head.target, head.target);
    assert_eq!(again.head.upgrade, head.upgrade);
    assert_eq!(again.head.expect_continue, head.expect_continue);
    assert_eq!(fields(&again.head.headers), fields(&head.headers));
}

fn response(bytes: &Bytes, method: &Method, upgrade_asked: bool, limits: &Limits) {
    let Ok(read) = parse_response(bytes, method, upgrade_asked, limits) else {
        return;
    };
    let to = ResponseTo {
        head: *method == Method::HEAD,
        connect: *method == Method::CONNECT,
        http10: false,
        keep_alive: true,
    };
    let mut written = Vec::new();
    let framing = response_head(&mut written, &read.head, to);
    let written = Bytes::from(written);
    assert_eq!(
        scan(&[&written], usize::MAX),
        Ok(Some(written.len())),
        "one head was written"
    );
    let again = parse_response(
        &written,
        method,
        true,
        &Limits {
            fields: Limits::MOST_FIELDS,
            ..Limits::default()
        },
    )
    .unwrap_or_else(|error| panic!("{error}: {:?} of {bytes:?}", written));
    assert_eq!(again.framing, framing);
    assert_eq!(again.head.status, read.head.status);
    if let BodyLength::Known(length) = read.head.body {
        assert_eq!(again.head.body, BodyLength::Known(length));
    }
    assert_eq!(fields(&again.head.headers), fields(&read.head.headers));
}

/// The fields without the length, which is written from the body.
fn fields(headers: &Headers) -> Vec<(Vec<u8>, Vec<u8>)> {
    headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.to_vec()))
        .collect()
}
