//! What a proxy does to the fields of a request and its response: what an application could use to speak for a proxy is
//! taken out, what the mesh says of the caller is put in, the request id is made or kept.

use bartizan_decide::Engine;
use bartizan_mesh::HeaderEdit;
use bartizan_wire::head::{Headers, RequestHead, ResponseHead};

use crate::connection::{Connection, Door};

const REQUEST_ID: &str = "x-request-id";
const FORWARDED_CERTIFICATE: &str = "x-forwarded-client-cert";
pub(super) const FORWARDED_FOR: &str = "x-forwarded-for";
pub(super) const FORWARDED_PROTO: &str = "x-forwarded-proto";
/// Says of an answer that a workload's own proxy gave it and the application got nothing of the request, which may then be
/// sent to another endpoint. Only proxies hear of it.
pub(crate) const UNSENT: &str = "x-bartizan-unsent";
/// The field that shows a denied client its decision.
pub(crate) const DECISION: &str = "x-bartizan-decision";

/// Fields of a request for `decide`.
pub(crate) struct Fields<'a>(pub(crate) &'a Headers);

impl bartizan_decide::Headers for Fields<'_> {
    fn values<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'h [u8]> {
        self.0.get_all(name)
    }

    fn names(&self) -> impl Iterator<Item = &str> {
        // Names are tokens.
        self.0
            .iter()
            .filter_map(|(name, _)| std::str::from_utf8(name).ok())
    }
}

/// Makes a request's fields what they are for everything that follows: decision, log and upstream.
pub(crate) fn prepare(connection: &Connection, engine: &Engine, head: &mut RequestHead) {
    let headers = &mut head.headers;
    match &connection.door {
        Door::Inbound { .. } => {
            // Envoy's `APPEND_FORWARD`: without a client certificate nothing of it is believed.
            match &connection.forwarded {
                Some(own) => {
                    drop_fields(headers, |name| {
                        is_peer_metadata(name)
                            || (is_named(name, FORWARDED_CERTIFICATE) && name.contains(&b'_'))
                    });
                    extend(headers, FORWARDED_CERTIFICATE, own.as_bytes());
                }
                None => drop_fields(headers, |name| {
                    is_peer_metadata(name) || is_named(name, FORWARDED_CERTIFICATE)
                }),
            }
        }
        Door::Outbound => drop_fields(headers, is_a_proxys),
        Door::Gateway { .. } => {
            drop_fields(headers, is_a_proxys);
            headers.remove(REQUEST_ID);
            extend(
                headers,
                FORWARDED_FOR,
                connection.client.ip().to_string().as_bytes(),
            );
            // A proxy that is trusted may have ended TLS (Envoy, `xff_num_trusted_hops`).
            let is_said = trusted_proxies(connection, engine) > 0
                && headers.get_all(FORWARDED_PROTO).count() == 1
                && matches!(headers.get(FORWARDED_PROTO), Some(b"http" | b"https"));
            if !is_said {
                put(headers, FORWARDED_PROTO, b"http");
            }
        }
    }
    if headers.get(REQUEST_ID).is_none_or(<[u8]>::is_empty) {
        let id = uuid(connection.worker.random(), connection.worker.random());
        put(headers, REQUEST_ID, &id);
    }
}

/// How many proxies in front of a gateway are trusted.
pub(super) fn trusted_proxies(connection: &Connection, engine: &Engine) -> u32 {
    let view = engine.snapshot().view(&connection.worker.shared.workload);
    view.map_or(0, |view| view.remote.trusted_proxies)
}

/// Takes out of a response what is only meant between proxies.
pub(crate) fn finish(response: &mut ResponseHead) {
    drop_fields(&mut response.headers, |name| {
        is_peer_metadata(name) || name.eq_ignore_ascii_case(UNSENT.as_bytes())
    });
}

/// Whether a peer's proxy says that its application got nothing of the request.
pub(crate) fn is_unsent(response: &ResponseHead) -> bool {
    response.headers.contains(UNSENT)
}

/// Applies a route's change.
pub(crate) fn edit(headers: &mut Headers, edit: &HeaderEdit) {
    for (name, value) in &edit.set {
        put(headers, name, value.as_bytes());
    }
    for (name, value) in &edit.add {
        // Names and values of routes were checked when the document was read.
        let _ = headers.append(name, value.as_bytes());
    }
    for name in &edit.remove {
        headers.remove(name);
    }
}

/// Whether a message is gRPC (`application/grpc`, `application/grpc+proto`, …).
pub(crate) fn is_grpc(headers: &Headers) -> bool {
    const GRPC: &[u8] = b"application/grpc";
    headers.get("content-type").is_some_and(|value| {
        value
            .get(..GRPC.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(GRPC))
            && matches!(value.get(GRPC.len()), None | Some(b'+' | b';'))
    })
}

pub(super) fn drop_fields(headers: &mut Headers, is_dropped: impl Fn(&[u8]) -> bool) {
    // Most requests have none of them.
    if headers.iter().any(|(name, _)| is_dropped(name)) {
        headers.retain(|name, _| !is_dropped(name));
    }
}

/// Fields by which proxies tell each other of their workloads (Istio's metadata exchange).
fn is_peer_metadata(name: &[u8]) -> bool {
    starts_with(name, b"x-envoy-peer-metadata")
}

/// Fields that only a proxy may set.
pub(super) fn is_a_proxys(name: &[u8]) -> bool {
    starts_with(name, b"x-")
        && (starts_with(name, b"x-envoy-")
            || starts_with(name, b"x-bartizan-")
            || is_named(name, FORWARDED_CERTIFICATE))
}

/// Whether an application may take `name` for `field`: those that name variables after fields (CGI, WSGI, Rack) make no
/// difference between `_` and `-`.
pub(super) fn is_named(name: &[u8], field: &str) -> bool {
    name.len() == field.len() && starts_with(name, field.as_bytes())
}

fn starts_with(name: &[u8], start: &[u8]) -> bool {
    let dash = |byte: u8| if byte == b'_' { b'-' } else { byte };
    let same = |(one, other): (&u8, &u8)| dash(*one).eq_ignore_ascii_case(&dash(*other));
    name.get(..start.len())
        .is_some_and(|name| name.iter().zip(start).all(same))
}

fn put(headers: &mut Headers, name: &str, value: &[u8]) {
    // Our own names are tokens, and our own values are visible ASCII.
    let _ = headers.set(name, value);
}

/// Adds to a list: what others have said before stays in front.
fn extend(headers: &mut Headers, name: &str, value: &[u8]) {
    let before = headers.get_all(name).fold(Vec::new(), |mut list, part| {
        if !list.is_empty() {
            list.push(b',');
        }
        list.extend_from_slice(part);
        list
    });
    if before.is_empty() {
        put(headers, name, value);
    } else {
        put(headers, name, &[&before, &b","[..], value].concat());
    }
}

/// A UUID of version 4 (RFC 9562 §5.4).
fn uuid(high: u64, low: u64) -> [u8; 36] {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let bits = (u128::from(high) << 64 | u128::from(low)) & !(0xf << 76) & !(0x3 << 62) | 4 << 76 | 2 << 62;
    let mut text = [b'-'; 36];
    let mut shift = 128;
    for (at, byte) in text.iter_mut().enumerate() {
        if !matches!(at, 8 | 13 | 18 | 23) {
            shift -= 4;
            let digit = usize::try_from(bits >> shift & 0xf).unwrap_or_default();
            *byte = DIGITS.get(digit).copied().unwrap_or(b'0');
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_uuid_has_its_version_and_variant() {
        let text = uuid(u64::MAX, u64::MAX);
        assert_eq!(&text, b"ffffffff-ffff-4fff-bfff-ffffffffffff");
        assert_eq!(&uuid(0, 0), b"00000000-0000-4000-8000-000000000000");
    }

    #[test]
    fn lists_grow_and_a_proxys_fields_are_told() {
        let mut headers = Headers::new();
        headers.append("X-Forwarded-For", b"1.1.1.1").unwrap();
        headers.append("x-forwarded-for", b"2.2.2.2").unwrap();
        extend(&mut headers, FORWARDED_FOR, b"3.3.3.3");
        assert_eq!(headers.get(FORWARDED_FOR), Some(&b"1.1.1.1,2.2.2.2,3.3.3.3"[..]));
        assert_eq!(headers.len(), 1);
        for name in [
            "x-envoy-original-path",
            "X-Envoy-Peer-Metadata",
            "X-Forwarded-Client-Cert",
            "x-bartizan-decision",
            "x_forwarded_client_cert",
            "X-Forwarded_Client-Cert",
            "x_envoy-original_path",
        ] {
            assert!(is_a_proxys(name.as_bytes()), "{name}");
        }
        assert!(is_named(b"X-Claim", "x_claim") && is_named(b"x_claim", "x-claim"));
        assert!(!is_named(b"x-claims", "x-claim"));
        for name in ["x-request-id", "traceparent", "x-env", "x-forwarded-for", "x_y"] {
            assert!(!is_a_proxys(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn what_is_between_proxies_stays_between_them() {
        let mut response = ResponseHead::new(http::StatusCode::SERVICE_UNAVAILABLE);
        for name in ["X-Bartizan-Unsent", "x-envoy-peer-metadata", "x-served-by"] {
            response.headers.append(name, b"1").unwrap();
        }
        assert!(is_unsent(&response));
        finish(&mut response);
        assert!(!is_unsent(&response));
        assert_eq!(response.headers.len(), 1);
    }

    #[test]
    fn grpc_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("Application/gRPC; x=1", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ] {
            let mut headers = Headers::new();
            headers.append("content-type", value.as_bytes()).unwrap();
            assert_eq!(is_grpc(&headers), expected, "{value}");
        }
    }
}
