//! Runs `cases/http1`: what heads say, what is refused, and what comes out on both sides of an exchange; and
//! `cases/proxy-protocol`: what a load balancer says of its client.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use std::path::Path;
use std::time::Duration;

use bartizan_wire::exchange::{send_request, send_response};
use bartizan_wire::h1::parse::{Framing, HeadScan, ParseError, Parsed, parse_request, parse_response};
use bartizan_wire::h1::{ClientConnection, HeadError, Limits, ServerConnection};
use bartizan_wire::head::{Headers, RequestHead, ResponseHead};
use bartizan_wire::proxy_protocol::{Parsed as ProxyHeader, parse as parse_proxy_header};
use bytes::Bytes;
use serde::Deserialize;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::time::timeout;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Cases {
    #[expect(dead_code, reason = "for the reader of the file")]
    why: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    source: String,
    #[serde(default)]
    requests: Vec<HeadCase>,
    #[serde(default)]
    responses: Vec<HeadCase>,
    #[serde(default)]
    exchanges: Vec<ExchangeCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadCase {
    #[expect(dead_code, reason = "for the reader of the file")]
    why: Option<String>,
    bytes: String,
    /// Put between `bytes` and the end of the head, so often.
    fill: Option<(String, usize)>,
    refuse: Option<u16>,
    /// Of the request: its own, or the one that a response answers.
    method: Option<String>,
    target: Option<String>,
    host: Option<String>,
    status: Option<u16>,
    body: Option<String>,
    persistent: Option<bool>,
    upgrade: Option<String>,
    headers: Option<Vec<(String, String)>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExchangeCase {
    why: String,
    client: String,
    hops: Vec<Hop>,
    to_client: String,
    client_stays: bool,
    #[serde(default = "yes")]
    upstream_reusable: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Hop {
    to_upstream: String,
    from_upstream: String,
    #[serde(default)]
    upstream_closes: bool,
}

fn yes() -> bool {
    true
}

fn latin1(text: &str) -> Vec<u8> {
    text.chars()
        .map(|c| u8::try_from(u32::from(c)).expect("cases hold bytes as Latin-1"))
        .collect()
}

fn fields(headers: &Headers) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(value).into_owned(),
            )
        })
        .collect()
}

fn framing(framing: Framing) -> String {
    match framing {
        Framing::None => "none".to_owned(),
        Framing::Length(length) => format!("length {length}"),
        Framing::Chunked => "chunked".to_owned(),
        Framing::UntilClose => "until close".to_owned(),
    }
}

/// Finds the head with the bytes arriving one by one, which must give the same as all at once.
fn scan(bytes: &[u8]) -> Result<Option<usize>, ParseError> {
    let limit = Limits::default().head_bytes;
    let mut slow = HeadScan::default();
    let step = (bytes.len() / 1000).max(1);
    let mut found = Ok(None);
    let mut end = 0;
    while end < bytes.len() && found == Ok(None) {
        end = (end + step).min(bytes.len());
        found = slow.end(&bytes[..end], limit);
    }
    assert_eq!(found, HeadScan::default().end(bytes, limit));
    found
}

fn head_bytes(case: &HeadCase) -> Vec<u8> {
    let mut bytes = latin1(&case.bytes);
    if let Some((fill, count)) = &case.fill {
        bytes.extend(latin1(&fill.repeat(*count)));
        bytes.extend(b"\r\n\r\n");
    }
    bytes
}

fn check_head<H>(
    case: &HeadCase,
    parse: impl Fn(&Bytes) -> Result<Parsed<H>, ParseError>,
    headers: impl Fn(&H) -> &Headers,
    upgrade: impl Fn(&H) -> Option<&Bytes>,
) -> Option<H> {
    let bytes = head_bytes(case);
    let shown = bytes[..bytes.len().min(300)].escape_ascii().to_string();
    let parsed = scan(&bytes).and_then(|end| {
        let end = end.unwrap_or_else(|| panic!("`{shown}` is not a whole head"));
        parse(&Bytes::copy_from_slice(&bytes[..end]))
    });
    match (parsed, case.refuse) {
        (Err(error), Some(status)) => {
            assert_eq!(error.status().as_u16(), status, "`{shown}`: {error}");
            None
        }
        (Err(error), None) => panic!("`{shown}` is refused: {error}"),
        (Ok(_), Some(status)) => panic!("`{shown}` is not refused with {status}"),
        (Ok(parsed), None) => {
            let body = case.body.as_deref().unwrap_or("none");
            assert_eq!(framing(parsed.framing), body, "`{shown}`");
            assert_eq!(parsed.persistent, case.persistent.unwrap_or(true), "`{shown}`");
            if let Some(expected) = &case.headers {
                assert_eq!(&fields(headers(&parsed.head)), expected, "`{shown}`");
            }
            let upgrade = upgrade(&parsed.head).map(|name| String::from_utf8_lossy(name).into_owned());
            assert_eq!(upgrade, case.upgrade, "`{shown}`");
            Some(parsed.head)
        }
    }
}

fn check_request(case: &HeadCase) {
    let head = check_head(
        case,
        |bytes| parse_request(bytes, &Limits::default()),
        |head: &RequestHead| &head.headers,
        |head| head.upgrade.as_ref(),
    );
    let Some(head) = head else { return };
    if let Some(method) = &case.method {
        assert_eq!(head.method.as_str(), method);
    }
    if let Some(target) = &case.target {
        assert_eq!(head.target, latin1(target), "{}", case.bytes);
    }
    if let Some(host) = &case.host {
        assert_eq!(head.authority(), latin1(host), "{}", case.bytes);
    }
}

fn check_response(case: &HeadCase) {
    let method = case.method.as_deref().unwrap_or("GET").parse().expect("a method");
    let asked = case.upgrade.is_some();
    let head = check_head(
        case,
        |bytes| parse_response(bytes, &method, asked, &Limits::default()),
        |head: &ResponseHead| &head.headers,
        |head| head.upgrade.as_ref(),
    );
    if let (Some(head), Some(status)) = (head, case.status) {
        assert_eq!(head.status.as_u16(), status, "{}", case.bytes);
    }
}

/// The shortest proxy: every request to the one upstream, until one side ends.
async fn carry(down: DuplexStream, up: DuplexStream) -> (Option<ServerConnection<DuplexStream>>, bool) {
    let mut down = ServerConnection::new(down, Limits::default());
    let mut up = ClientConnection::new(up, Limits::default());
    loop {
        let head = match down.read_head().await {
            Ok(Some(head)) => head,
            Ok(None) => return (None, up.is_reusable()),
            Err(HeadError::Parse(error)) => {
                down.reply_error(error.status()).await;
                return (Some(down), up.is_reusable());
            }
            Err(error) => panic!("{error}"),
        };
        let response = match send_request(&mut down, &mut up, &head).await {
            Ok(response) => response,
            Err(error) => {
                let bad_gateway = ResponseHead::new(http::StatusCode::BAD_GATEWAY);
                let _ = down.reply(bad_gateway, Bytes::from(error.to_string())).await;
                return (Some(down), false);
            }
        };
        if send_response(&mut down, &mut up, &response).await.is_err() {
            // The client is to see the cut.
            return (None, false);
        }
        if !down.keep_alive() {
            return (Some(down), up.is_reusable());
        }
    }
}

async fn expect_bytes(stream: &mut DuplexStream, expected: &[u8], what: &str, why: &str) {
    let mut seen = Vec::new();
    while seen.len() < expected.len() {
        let mut part = [0; 4096];
        let wanted = part.len().min(expected.len() - seen.len());
        let read = timeout(Duration::from_secs(5), stream.read(&mut part[..wanted])).await;
        let count = read.map_or(0, |count| count.expect("a duplex does not fail"));
        if count == 0 {
            break;
        }
        seen.extend_from_slice(&part[..count]);
    }
    let (seen, expected) = (seen.escape_ascii(), expected.escape_ascii());
    assert_eq!(seen.to_string(), expected.to_string(), "{why}: bytes {what}");
}

async fn check_exchange(case: ExchangeCase) {
    let why = case.why.as_str();
    let (mut client, down) = duplex(1 << 20);
    let (up, mut server) = duplex(1 << 20);
    let serve = async {
        for hop in &case.hops {
            expect_bytes(&mut server, &latin1(&hop.to_upstream), "to the upstream", why).await;
            server.write_all(&latin1(&hop.from_upstream)).await.unwrap();
            if hop.upstream_closes {
                server.shutdown().await.unwrap();
            }
        }
    };
    let ask = async {
        client.write_all(&latin1(&case.client)).await.unwrap();
        expect_bytes(&mut client, &latin1(&case.to_client), "to the client", why).await;
    };
    let carried = tokio::spawn(carry(down, up));
    tokio::join!(serve, ask);
    if case.client_stays {
        assert!(!carried.is_finished(), "{why}: the connection was given up");
        client.shutdown().await.unwrap();
    }
    let (down, reusable) = timeout(Duration::from_secs(5), carried)
        .await
        .unwrap_or_else(|_| panic!("{why}: the connection is kept"))
        .unwrap();
    assert_eq!(reusable, case.upstream_reusable, "{why}: upstream is reusable");
    drop(down);
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(
        rest.escape_ascii().to_string(),
        "",
        "{why}: more bytes to the client"
    );
}

fn run(path: &Path) -> datatest_stable::Result<()> {
    let text = std::fs::read_to_string(path)?;
    let cases: Cases = serde_saphyr::from_str(&text)?;
    assert!(
        cases.requests.len() + cases.responses.len() + cases.exchanges.len() > 0,
        "no case"
    );
    cases.requests.iter().for_each(check_request);
    cases.responses.iter().for_each(check_response);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    for case in cases.exchanges {
        runtime.block_on(check_exchange(case));
    }
    Ok(())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxyProtocol {
    #[expect(dead_code, reason = "for the reader of the file")]
    why: String,
    #[expect(dead_code, reason = "for the reader of the file")]
    source: String,
    headers: Vec<ProxyHeaderCase>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ProxyHeaderCase {
    why: String,
    /// As text.
    text: Option<String>,
    /// As hexadecimal digits, spaces apart.
    hex: Option<String>,
    /// Put behind it, so many times `x`.
    fill: Option<usize>,
    /// Client and destination; `[]` where the header speaks of none.
    addresses: Option<Vec<String>>,
    /// Bytes of the header.
    length: Option<usize>,
    /// A word of the reason.
    refuse: Option<String>,
    #[serde(default)]
    need_more: bool,
}

fn check_proxy_header(case: &ProxyHeaderCase) {
    let why = &case.why;
    let mut bytes = latin1(case.text.as_deref().unwrap_or_default());
    for digits in case.hex.iter().flat_map(|hex| hex.split_whitespace()) {
        for at in (0..digits.len()).step_by(2) {
            bytes.push(u8::from_str_radix(&digits[at..at + 2], 16).unwrap());
        }
    }
    bytes.extend(std::iter::repeat_n(b'x', case.fill.unwrap_or_default()));
    match (parse_proxy_header(&bytes), &case.refuse) {
        (Err(error), Some(word)) => assert!(error.to_string().contains(word), "{why}: {error}"),
        (Ok(ProxyHeader::NeedMore), None) => assert!(case.need_more, "{why}: more is wanted"),
        (Ok(ProxyHeader::Header { addresses, length }), None) => {
            assert!(!case.need_more, "{why}: nothing more is wanted");
            let said: Vec<String> = addresses
                .iter()
                .flat_map(|both| [both.source.to_string(), both.destination.to_string()])
                .collect();
            assert_eq!(Some(said), case.addresses, "{why}");
            assert_eq!(Some(length), case.length, "{why}");
        }
        (result, refuse) => panic!("{why}: {result:?}, to be refused: {refuse:?}"),
    }
}

fn run_proxy_protocol(path: &Path) -> datatest_stable::Result<()> {
    let cases: ProxyProtocol = serde_saphyr::from_str(&std::fs::read_to_string(path)?)?;
    assert!(!cases.headers.is_empty(), "no case");
    cases.headers.iter().for_each(check_proxy_header);
    Ok(())
}

datatest_stable::harness! {
    { test = run, root = "../../cases/http1", pattern = r"\.yaml$" },
    { test = run_proxy_protocol, root = "../../cases/proxy-protocol", pattern = r"\.yaml$" },
}
