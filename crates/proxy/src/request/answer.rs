//! Answers that the proxy gives itself, with the texts and codes of Istio's.

use std::borrow::Cow;
use std::fmt::Write as _;

use bartizan_decide::{Denied, Reason, Refusal, Unauthenticated};
use bartizan_telemetry::ResponseFlags;
use bartizan_types::DecisionId;
use bartizan_wire::exchange::{Cause, Downstream, send_reply};
use bartizan_wire::h1;
use bartizan_wire::h2;
use bartizan_wire::head::ResponseHead;
use bartizan_wire::stream::MaybeTls;
use bytes::Bytes;
use http::StatusCode;

use super::After;
use super::ask::says::Denial;
use super::grpc::Observed;
use super::headers::{DECISION, UNSENT};
use super::outcome::Outcome;
use crate::connection::Door;

/// What clients of a denied request read.
const DENIED: &str = "RBAC: access denied";

/// The client's side, as far as the proxy answers itself.
pub(crate) trait Client: Downstream {
    /// Answers without an upstream.
    async fn answer(&mut self, head: ResponseHead, body: Bytes) -> Result<(), Cause>;
}

impl Client for h1::ServerConnection<MaybeTls> {
    async fn answer(&mut self, head: ResponseHead, body: Bytes) -> Result<(), Cause> {
        self.reply(head, body).await
    }
}

impl Client for h2::ServerStream {
    async fn answer(&mut self, head: ResponseHead, body: Bytes) -> Result<(), Cause> {
        self.reply(head, body).await
    }
}

impl<D: Client> Client for Observed<'_, D> {
    /// gRPC: the status is all there is (`Trailers-Only`).
    async fn answer(&mut self, head: ResponseHead, _: Bytes) -> Result<(), Cause> {
        send_reply(self, &head, Bytes::new()).await
    }
}

/// An answer of the proxy.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) body: Cow<'static, [u8]>,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Option<Cow<'static, str>>,
    pub(crate) decision: Option<DecisionId>,
    /// Fields beside those that every answer has; one that those have, too, takes their place.
    pub(crate) headers: Vec<(Cow<'static, str>, Vec<u8>)>,
    /// The application got nothing of the request.
    pub(crate) is_unsent: bool,
}

impl Answer {
    fn new(status: StatusCode, body: impl Into<Cow<'static, str>>, details: &'static str) -> Self {
        Self {
            status,
            body: match body.into() {
                Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
                Cow::Owned(text) => Cow::Owned(text.into_bytes()),
            },
            flags: ResponseFlags::NONE,
            details: Some(Cow::Borrowed(details)),
            decision: None,
            headers: Vec::new(),
            is_unsent: false,
        }
    }

    fn with(self, flags: ResponseFlags) -> Self {
        Self { flags, ..self }
    }

    /// Policy says no. The outcome has the details. `realm` is for a challenge.
    pub(crate) fn denied(denied: &Denied, realm: &str, id: DecisionId) -> Self {
        let status = StatusCode::from_u16(denied.status()).unwrap_or(StatusCode::FORBIDDEN);
        let is_authorizers = matches!(
            denied.reason,
            Reason::AuthorizerDenied { .. } | Reason::AuthorizerSilent { .. }
        );
        let challenge = denied.challenge(realm).map(challenge);
        let body: Cow<'static, str> = if let Reason::TokenRefused(says) = &denied.reason {
            says.clone().into()
        } else if matches!(denied.reason, Reason::AmbiguousPath(_)) {
            "the path has no single meaning".into()
        } else if challenge.is_some() {
            "Jwt is missing".into() // Envoy's words
        } else {
            DENIED.into()
        };
        let flags = if is_authorizers {
            ResponseFlags::UAEX
        } else {
            ResponseFlags::NONE
        };
        Self {
            details: None,
            decision: Some(id),
            headers: challenge.into_iter().collect(),
            ..Self::new(status, body, "")
        }
        .with(flags)
    }

    /// A token is refused, in Envoy's words. The outcome has the details.
    pub(crate) fn unauthenticated(unauthenticated: &Unauthenticated, realm: &str, id: DecisionId) -> Self {
        let status = StatusCode::from_u16(unauthenticated.status()).unwrap_or(StatusCode::UNAUTHORIZED);
        Self {
            details: None,
            decision: Some(id),
            headers: vec![challenge(unauthenticated.challenge(realm))],
            ..Self::new(status, unauthenticated.says(), "")
        }
    }

    /// What an authorizer that refuses has the client told.
    pub(crate) fn of_authorizer(denial: &Denial) -> Self {
        Self {
            details: None,
            body: Cow::Owned(denial.body.to_vec()),
            headers: denial
                .headers
                .iter()
                .map(|(name, value)| (String::from_utf8_lossy(name).into_owned().into(), value.to_vec()))
                .collect(),
            ..Self::new(denial.status, "", "")
        }
        .with(ResponseFlags::UAEX)
    }

    /// A body that is larger than an authorizer is to see.
    pub(crate) fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is too large to be checked",
            "request_payload_too_large",
        )
    }

    /// The peer's trust domain was taken out of the bundle. The outcome has the details.
    pub(crate) fn untrusted(id: DecisionId) -> Self {
        Self {
            details: None,
            decision: Some(id),
            ..Self::new(StatusCode::FORBIDDEN, DENIED, "")
        }
    }

    /// No policy could let this workload in there.
    pub(crate) fn not_reachable(refusal: &Refusal, id: DecisionId) -> Self {
        Self {
            details: Some(format!("not_reachable{{{refusal}}}").into()),
            decision: Some(id),
            ..Self::new(StatusCode::FORBIDDEN, DENIED, "")
        }
    }

    /// Nothing of the mesh is there.
    pub(crate) fn no_way_out(refusal: &Refusal) -> Self {
        Self {
            details: Some(format!("no_way_out{{{refusal}}}").into()),
            ..Self::new(StatusCode::BAD_GATEWAY, refusal.to_string(), "")
        }
        .with(ResponseFlags::NR)
    }

    /// What a route says.
    pub(crate) fn route(status: u16, reason: &'static str) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::NOT_FOUND);
        let flags = match status {
            StatusCode::NOT_FOUND => ResponseFlags::NR,
            StatusCode::INTERNAL_SERVER_ERROR => ResponseFlags::NC,
            _ => ResponseFlags::NONE,
        };
        Self::new(status, status.canonical_reason().unwrap_or_default(), reason).with(flags)
    }

    /// The target or authority is not text.
    pub(crate) fn malformed() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed request", "malformed_request").with(ResponseFlags::DPE)
    }

    /// A body that cannot be read.
    pub(crate) fn malformed_body() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed body", "malformed_body").with(ResponseFlags::DPE)
    }

    /// The mesh has no use for it.
    pub(crate) fn no_connect() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "CONNECT is not served",
            "connect_refused",
        )
    }

    /// No endpoint is ready.
    pub(crate) fn no_healthy_upstream() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "no healthy upstream",
            "no_healthy_upstream",
        )
        .with(ResponseFlags::UH)
    }

    /// No connection came about.
    pub(crate) fn connect_failure(is_retried: bool) -> Self {
        let flags = if is_retried {
            ResponseFlags::UF | ResponseFlags::URX
        } else {
            ResponseFlags::UF
        };
        let failed = Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "upstream connect error",
            "upstream_reset_before_response_started{connection_failure}",
        );
        Self {
            is_unsent: true,
            ..failed.with(flags)
        }
    }

    /// The upstream went away in the middle.
    pub(crate) fn connection_termination() -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "upstream closed the connection before it answered",
            "upstream_reset_before_response_started{connection_termination}",
        )
        .with(ResponseFlags::UC)
    }

    /// The upstream's answer cannot be read.
    pub(crate) fn protocol_error() -> Self {
        Self::new(
            StatusCode::BAD_GATEWAY,
            "upstream answered with malformed HTTP",
            "upstream_reset_before_response_started{protocol_error}",
        )
        .with(ResponseFlags::UPE)
    }

    /// The route's time is over.
    pub(crate) fn timeout() -> Self {
        Self::new(
            StatusCode::GATEWAY_TIMEOUT,
            "upstream request timeout",
            "response_timeout",
        )
        .with(ResponseFlags::UT)
    }
}

fn challenge(value: String) -> (Cow<'static, str>, Vec<u8>) {
    (Cow::Borrowed("www-authenticate"), value.into_bytes())
}

/// Gives it.
pub(crate) async fn give<D: Client>(down: &mut D, outcome: &mut Outcome<'_>, answer: Answer) -> After {
    let mut head = ResponseHead::new(answer.status);
    let headers = &mut head.headers;
    // Literal names; values are visible ASCII.
    if outcome.is_grpc {
        head.status = StatusCode::OK;
        let _ = headers.append("content-type", b"application/grpc");
        let _ = headers.append("grpc-status", grpc_status(answer.status).as_bytes());
        let _ = headers.append("grpc-message", percent(&answer.body).as_bytes());
    }
    for (name, value) in &answer.headers {
        if is_of_grpc(outcome.is_grpc, name) {
            continue;
        }
        // What an authorizer has sent and cannot be said is left out.
        let _ = headers.append(name, value);
    }
    if !headers.contains("content-type") {
        let _ = headers.append("content-type", b"text/plain");
    }
    outcome.add_response_fields(headers);
    if let Some(id) = answer.decision {
        let _ = headers.set(DECISION, id.to_string().as_bytes());
    }
    // Nothing is tried again after something was sent, so that a failed connection means that nothing ever was.
    if answer.is_unsent && matches!(outcome.connection.door, Door::Inbound { .. }) {
        let _ = headers.append(UNSENT, b"1");
    }
    outcome.code = head.status.as_u16();
    outcome.flags |= answer.flags;
    if let Some(details) = answer.details {
        outcome.details = details;
    }
    let body = match answer.body {
        Cow::Borrowed(text) => Bytes::from_static(text),
        Cow::Owned(text) => Bytes::from(text),
    };
    match down.answer(head, body).await {
        Ok(()) => {
            outcome.completed = true;
            After::Done
        }
        Err(_) => {
            outcome.flags |= ResponseFlags::DC;
            After::Abort
        }
    }
}

/// Whether a gRPC answer has the field already, and only once.
fn is_of_grpc(is_grpc: bool, name: &str) -> bool {
    is_grpc
        && ["content-type", "content-encoding", "grpc-status", "grpc-message"]
            .iter()
            .any(|other| other.eq_ignore_ascii_case(name))
}

/// The gRPC status for an HTTP status ("HTTP to gRPC Status Code Mapping").
fn grpc_status(status: StatusCode) -> &'static str {
    match status.as_u16() {
        400 => "13",
        401 => "16",
        403 => "7",
        404 | 405 => "12",
        429 | 502 | 503 | 504 => "14",
        _ => "2",
    }
}

/// `grpc-message` is percent-encoded (gRPC over HTTP/2, "Status-Message").
fn percent(text: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => encoded.push(char::from(*byte)),
            _ => {
                // Writing to memory does not fail.
                let _ = write!(encoded, "%{byte:02X}");
            }
        }
    }
    encoded
}
