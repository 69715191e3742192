//! What external authorizers answer, over HTTP and over gRPC, and what it makes of a request or its refusal. Input: choices,
//! then the answer's bytes.
//!
//! Whatever the bytes: method, host and path stay, what only proxies may say stays theirs, and both heads are written so that
//! they read back as they are: no value ends a line.
#![no_main]

use bartizan_fuzz::choices;
use bartizan_mesh::HttpProvider;
use bartizan_proxy::authorizer::{Said, grpc_message, over_grpc, over_http};
use bartizan_types::StringMatch;
use bartizan_wire::h1::Limits;
use bartizan_wire::h1::encode::{ResponseTo, request_head, response_head};
use bartizan_wire::h1::parse::{parse_request, parse_response};
use bartizan_wire::head::{Headers, RequestHead, ResponseHead};
use bytes::Bytes;
use http::Method;
use libfuzzer_sys::fuzz_target;

/// Fields that are the proxies' own, with what they say before the authorizer speaks.
const OURS: [(&str, &str); 4] = [
    ("host", "cart.shop"),
    (
        "x-forwarded-client-cert",
        "URI=spiffe://cluster.local/ns/shop/sa/web",
    ),
    ("x-forwarded-for", "192.0.2.1"),
    ("x-bartizan-mark", "true"),
];
const LISTS: [&str; 8] = [
    "*",
    "x-*",
    "*-user",
    "set-cookie",
    "host",
    "x-forwarded-client-cert",
    "content-length",
    "transfer-encoding",
];

fuzz_target!(|data: &[u8]| {
    let ([how, lists], bytes) = choices::<2>(data);
    let answer = Bytes::copy_from_slice(bytes);
    let said = match how % 3 {
        0 => over_grpc(&answer),
        1 => match grpc_message(&answer) {
            Ok(message) => over_grpc(&message),
            Err(error) => Err(error),
        },
        _ => {
            let Ok(parsed) = parse_response(&answer, &Method::GET, false, &Limits::default()) else {
                return;
            };
            let head = parsed.head;
            over_http(
                &provider(lists),
                head.status,
                &head.headers,
                Bytes::from_static(b"words"),
            )
        }
    };
    match said {
        Ok(Said::Allowed(changes)) => {
            let mut head = RequestHead::new(Method::GET, Bytes::from_static(b"/a/b?c=d&token=1"));
            for (name, value) in OURS {
                head.headers.append(name, value.as_bytes()).expect("a literal");
            }
            changes.apply(&mut head.headers);
            if let Some(target) = changes.target(&head.target) {
                head.target = target;
            }
            assert_eq!(head.path(), b"/a/b");
            check_ours(&head.headers);
            let mut written = Vec::new();
            request_head(&mut written, &head);
            if written.len() <= Limits::default().head_bytes {
                let read =
                    parse_request(&written.into(), &most_fields()).expect("what is written can be read");
                assert_eq!(read.head.target, head.target);
                assert_eq!(read.head.headers, head.headers);
            }
            let mut response = Headers::new();
            for edit in &changes.response {
                edit.apply(&mut response);
            }
            check_response(200, response);
        }
        Ok(Said::Denied(denial)) => {
            assert!((200..600).contains(&denial.status.as_u16()));
            check_response(denial.status.as_u16(), denial.headers);
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});

fn provider(lists: u8) -> HttpProvider {
    let list = |shift: u8| {
        let chosen = LISTS.iter().enumerate();
        chosen
            .filter(|(at, _)| lists.rotate_left(u32::from(shift)) >> at & 1 == 1)
            .map(|(_, text)| StringMatch::parse(text))
            .collect()
    };
    HttpProvider {
        headers_to_upstream_on_allow: list(0),
        headers_to_downstream_on_allow: list(3),
        headers_to_downstream_on_deny: list(5),
        ..HttpProvider::default()
    }
}

fn check_ours(headers: &Headers) {
    for (name, value) in OURS {
        let values: Vec<&[u8]> = headers.get_all(name).collect();
        assert_eq!(values, [value.as_bytes()], "{name}");
    }
}

fn check_response(status: u16, headers: Headers) {
    for name in [
        "connection",
        "content-length",
        "transfer-encoding",
        "x-bartizan-unsent",
        "upgrade",
    ] {
        assert!(!headers.contains(name), "{name}");
    }
    let mut head = ResponseHead::new(http::StatusCode::from_u16(status).expect("a status"));
    head.headers = headers;
    let to = ResponseTo {
        head: false,
        connect: false,
        http10: false,
        keep_alive: true,
    };
    let mut written = Vec::new();
    response_head(&mut written, &head, to);
    if written.len() > Limits::default().head_bytes {
        return;
    }
    let limits = most_fields();
    let read =
        parse_response(&written.into(), &Method::GET, false, &limits).expect("what is written can be read");
    let mut read = read.head.headers;
    read.remove("content-length");
    assert_eq!(read, head.headers);
}

fn most_fields() -> Limits {
    Limits {
        fields: Limits::MOST_FIELDS,
        ..Limits::default()
    }
}
