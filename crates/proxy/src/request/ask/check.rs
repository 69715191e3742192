//! What an external authorizer is asked: a request like the one that is checked, or Envoy's `CheckRequest`. Pure.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use bartizan_mesh::{BodyInCheck, HttpProvider};
use bartizan_proto::ext_authz::attribute_context::{HttpRequest, Peer, Request, TlsSession};
use bartizan_proto::ext_authz::{Address, AttributeContext, CheckRequest, SocketAddress, Timestamp};
use bartizan_types::SpiffeId;
use bartizan_wire::head::{BodyLength, RequestHead};
use bytes::{BufMut as _, Bytes, BytesMut};
use http::{Method, Version};
use prost::Message as _;

use super::super::held::Excerpt;
use super::says::is_listed;

/// Says whether the body that the authorizer sees is the whole one (Envoy).
const PARTIAL_BODY: &str = "x-envoy-auth-partial-body";
const AUTHORIZATION: &str = "authorization";
/// Where `CheckRequest`s go.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// A request to an authorizer.
pub(super) struct Check {
    pub(super) head: RequestHead,
    pub(super) body: Bytes,
}

/// One end of the connection that is judged.
pub(super) struct End<'a> {
    pub(super) address: SocketAddr,
    pub(super) identity: Option<&'a SpiffeId>,
}

/// The connection that is judged.
pub(super) struct Ends<'a> {
    pub(super) source: End<'a>,
    pub(super) destination: End<'a>,
    pub(super) sni: Option<&'a str>,
    /// Whether TLS protects it.
    pub(super) is_tls: bool,
    /// Since 1970.
    pub(super) now: Duration,
}

/// The check over HTTP; `None` where the prefix and the path make no target.
pub(super) fn over_http(
    provider: &HttpProvider,
    head: &RequestHead,
    excerpt: Option<&Excerpt>,
) -> Option<Check> {
    let body = excerpt.map(|excerpt| excerpt.bytes.clone()).unwrap_or_default();
    let target = match (&*provider.path_prefix, &head.target[..]) {
        ("", target) => Bytes::copy_from_slice(target),
        (prefix, b"*") => Bytes::copy_from_slice(prefix.as_bytes()),
        (prefix, target) => [prefix.as_bytes(), target].concat().into(),
    };
    if target.first() != Some(&b'/') && &target[..] != b"*" {
        return None;
    }
    let mut check = RequestHead::new(head.method.clone(), target);
    check.body = BodyLength::Known(body.len() as u64);
    let headers = &mut check.headers;
    // Names of literals and of a head that was read; the provider's own were checked when its document was.
    let _ = headers.append("host", head.authority());
    for (name, value) in head.headers.iter() {
        let Ok(name) = std::str::from_utf8(name) else {
            continue;
        };
        if name.eq_ignore_ascii_case(AUTHORIZATION)
            || (is_listed(&provider.include_request_headers, name) && !is_made_anew(name))
        {
            let _ = headers.append(name, value);
        }
    }
    for (name, value) in &provider.additional_headers {
        if !is_made_anew(name) {
            headers.set(name, value.as_bytes()).ok()?;
        }
    }
    if let Some(excerpt) = excerpt {
        let _ = headers.set(PARTIAL_BODY, if excerpt.is_partial { b"true" } else { b"false" });
    }
    let _ = headers.set("content-length", body.len().to_string().as_bytes());
    Some(Check { head: check, body })
}

/// Fields that the check's own hop makes.
fn is_made_anew(name: &str) -> bool {
    ["host", "content-length", "expect", "te", "trailer", PARTIAL_BODY]
        .iter()
        .any(|other| other.eq_ignore_ascii_case(name))
}

/// The check over gRPC, of a request or, without a head, of a connection.
pub(super) fn over_grpc(
    service: &str,
    ends: &Ends<'_>,
    request: Option<(&RequestHead, Option<&Excerpt>)>,
    body: Option<BodyInCheck>,
    timeout: Duration,
) -> Check {
    let pack_as_bytes = body.is_some_and(|body| body.pack_as_bytes);
    let message = CheckRequest {
        attributes: Some(AttributeContext {
            source: Some(peer(&ends.source)),
            destination: Some(peer(&ends.destination)),
            request: Some(Request {
                time: Some(timestamp(ends.now)),
                http: request.map(|(head, excerpt)| http_request(ends, head, excerpt, pack_as_bytes)),
            }),
            context_extensions: BTreeMap::new(),
            tls_session: ends.is_tls.then(|| TlsSession {
                sni: ends.sni.unwrap_or_default().to_owned(),
            }),
        }),
    };
    let length = message.encoded_len();
    let mut framed = BytesMut::with_capacity(5 + length);
    framed.put_u8(0);
    // A head and an excerpt are far below 4 GiB.
    framed.put_u32(u32::try_from(length).unwrap_or(u32::MAX));
    framed.put_slice(&message.encode_to_vec());
    let mut head = RequestHead::new(Method::POST, Bytes::from_static(CHECK.as_bytes()));
    head.version = Version::HTTP_2;
    head.body = BodyLength::Known(framed.len() as u64);
    for (name, value) in [
        ("host", service.as_bytes()),
        ("content-type", b"application/grpc"),
        ("te", b"trailers"),
        // At most eight digits (gRPC over HTTP/2, "Timeout").
        (
            "grpc-timeout",
            format!("{}m", timeout.as_millis().min(99_999_999)).as_bytes(),
        ),
    ] {
        // A host name and literals.
        let _ = head.headers.append(name, value);
    }
    Check {
        head,
        body: framed.freeze(),
    }
}

fn peer(end: &End<'_>) -> Peer {
    Peer {
        address: Some(Address {
            socket_address: Some(SocketAddress {
                address: end.address.ip().to_canonical().to_string(),
                port_value: u32::from(end.address.port()),
            }),
        }),
        principal: end.identity.map(SpiffeId::to_string).unwrap_or_default(),
        ..Peer::default()
    }
}

fn timestamp(now: Duration) -> Timestamp {
    Timestamp {
        seconds: i64::try_from(now.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(now.subsec_nanos()).unwrap_or_default(),
    }
}

fn http_request(
    ends: &Ends<'_>,
    head: &RequestHead,
    excerpt: Option<&Excerpt>,
    pack_as_bytes: bool,
) -> HttpRequest {
    let path = text(&head.target);
    let host = text(head.authority());
    let scheme = if ends.is_tls { "https" } else { "http" }.to_owned();
    let mut headers = BTreeMap::from([
        (":authority".to_owned(), host.clone()),
        (":method".to_owned(), head.method.to_string()),
        (":path".to_owned(), path.clone()),
        (":scheme".to_owned(), scheme.clone()),
    ]);
    for (name, value) in head.headers.iter() {
        if name.eq_ignore_ascii_case(b"host") {
            continue;
        }
        let value = text(value);
        headers
            .entry(text(name).to_ascii_lowercase())
            .and_modify(|list| {
                list.push(',');
                list.push_str(&value);
            })
            .or_insert(value);
    }
    if let Some(excerpt) = excerpt {
        headers.insert(PARTIAL_BODY.to_owned(), excerpt.is_partial.to_string());
    }
    let bytes = excerpt.map(|excerpt| excerpt.bytes.clone()).unwrap_or_default();
    let (body, raw_body) = if pack_as_bytes {
        (String::new(), bytes)
    } else {
        (text(&bytes), Bytes::new())
    };
    HttpRequest {
        id: head.headers.get("x-request-id").map(text).unwrap_or_default(),
        method: head.method.to_string(),
        headers,
        query: head.query().map(text).unwrap_or_default(),
        path,
        host,
        scheme,
        fragment: String::new(),
        size: match (head.body, excerpt) {
            (BodyLength::Empty, _) => 0,
            (BodyLength::Known(length), _) => i64::try_from(length).unwrap_or(i64::MAX),
            (BodyLength::Unknown, Some(excerpt)) if !excerpt.is_partial => {
                i64::try_from(excerpt.bytes.len()).unwrap_or(i64::MAX)
            }
            (BodyLength::Unknown, _) => -1,
        },
        protocol: match head.version {
            Version::HTTP_2 => "HTTP/2",
            Version::HTTP_10 => "HTTP/1.0",
            _ => "HTTP/1.1",
        }
        .to_owned(),
        body,
        raw_body,
    }
}

/// Protobuf's strings are UTF-8; what is not becomes a replacement character, so that it equals nothing that a policy names.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The time for a message.
pub(super) fn since_1970(now: std::time::SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

#[cfg(test)]
#[path = "check_tests.rs"]
mod tests;
