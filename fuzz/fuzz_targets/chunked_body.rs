//! Bodies, however they are split. Input: what ends the body, three lengths of parts, then the bytes.
#![no_main]

use bartizan_fuzz::{choices, parts};
use bartizan_wire::h1::Limits;
use bartizan_wire::h1::chunk::{BodyDecoder, BodyError, Decoded};
use bartizan_wire::h1::encode::{chunk_size, last_chunk};
use bartizan_wire::h1::parse::Framing;
use bartizan_wire::head::Headers;
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

/// Data, trailers, whether it is complete, and what is left.
#[derive(PartialEq, Debug)]
struct Body {
    data: Vec<u8>,
    trailers: Option<Headers>,
    ended: bool,
    left: Vec<u8>,
}

fuzz_target!(|data: &[u8]| {
    let ([how, pattern @ ..], bytes) = choices::<4>(data);
    let framing = match how {
        0..=199 => Framing::Chunked,
        200..=229 => Framing::Length(u64::from(how)),
        _ => Framing::UntilClose,
    };
    let whole = read(framing, &[bytes]);
    let split = read(framing, &parts(bytes, &pattern));
    match (&whole, &split) {
        // Which rule is broken first may depend on what has come; that one is broken does not.
        (Err(_), Err(_)) => return,
        _ => assert_eq!(whole, split),
    }
    let Ok(body) = whole else { return };
    if framing != Framing::Chunked || !body.ended {
        return;
    }
    let mut written = Vec::new();
    if !body.data.is_empty() {
        chunk_size(&mut written, body.data.len());
        written.extend_from_slice(&body.data);
        written.extend_from_slice(b"\r\n");
    }
    last_chunk(&mut written, body.trailers.as_ref());
    written.extend_from_slice(&body.left);
    assert_eq!(read(framing, &[&written]), Ok(body), "what is written reads back");
});

fn read(framing: Framing, parts: &[&[u8]]) -> Result<Body, BodyError> {
    let mut decoder = BodyDecoder::new(framing, Limits::default());
    let mut body = Body {
        data: Vec::new(),
        trailers: None,
        ended: false,
        left: Vec::new(),
    };
    let mut buffer = BytesMut::new();
    let mut parts = parts.iter();
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(bytes) => {
                assert!(!bytes.is_empty());
                body.data.extend_from_slice(&bytes);
            }
            Decoded::Trailers(fields) => assert!(body.trailers.replace(fields).is_none()),
            Decoded::End => {
                assert!(decoder.is_done());
                body.ended = true;
                break;
            }
            Decoded::NeedMore => match parts.next() {
                Some(part) => buffer.extend_from_slice(part),
                None => break,
            },
        }
    }
    body.left = buffer.to_vec();
    for part in parts {
        body.left.extend_from_slice(part);
    }
    Ok(body)
}
