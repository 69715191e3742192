//! A whole HTTP/1 connection that a client drives. Input: four lengths of parts, then what the client sends. The answers
//! must not depend on the parts, and there is exactly one for each request that was read, and one more for a refusal.
#![no_main]

use bartizan_fuzz::memory::{Memory, ready};
use bartizan_fuzz::{choices, parts};
use bartizan_wire::exchange;
use bartizan_wire::h1::{HeadError, Limits, ServerConnection};
use bartizan_wire::head::ResponseHead;
use bytes::Bytes;
use http::{Method, StatusCode};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let (pattern, bytes) = choices::<4>(data);
    let whole = serve(&[bytes]);
    let split = serve(&parts(bytes, &pattern));
    assert_eq!(whole.requests, split.requests);
    assert_eq!(whole.refused.is_some(), split.refused.is_some());
    if whole.refused == split.refused {
        assert_eq!(
            String::from_utf8_lossy(&whole.written),
            String::from_utf8_lossy(&split.written)
        );
    }
});

/// What a server saw and said.
#[derive(Debug, Default)]
struct Served {
    requests: Vec<(Method, Vec<u8>, Option<Vec<u8>>)>,
    refused: Option<StatusCode>,
    written: Vec<u8>,
}

fn serve(parts: &[&[u8]]) -> Served {
    let mut connection = ServerConnection::new(Memory::new(parts), Limits::default());
    let mut served = Served::default();
    loop {
        let head = match ready(connection.read_head()) {
            Ok(Some(head)) => head,
            Ok(None) | Err(HeadError::Closed | HeadError::Io(_)) => break,
            Err(HeadError::Parse(error)) => {
                served.refused = Some(error.status());
                ready(connection.reply_error(error.status()));
                break;
            }
        };
        let body = ready(exchange::collect(&mut connection, 1 << 20));
        let is_broken = body.is_err();
        served.requests.push((
            head.method,
            head.target.to_vec(),
            body.ok().flatten().map(|body| body.to_vec()),
        ));
        if is_broken {
            ready(connection.reply_error(StatusCode::BAD_REQUEST));
            break;
        }
        ready(connection.reply(ResponseHead::new(StatusCode::OK), Bytes::from_static(b"fine")))
            .expect("memory takes everything");
        if !connection.keep_alive() {
            break;
        }
    }
    served.written = connection.io().written.clone();
    let answers = served
        .written
        .windows(9)
        .filter(|window| window == b"HTTP/1.1 ")
        .count();
    assert!(
        answers <= served.requests.len() + 1 && answers >= served.requests.len().saturating_sub(1),
        "{answers} answers for {served:?}"
    );
    served
}
