//! What an external authorizer's answer means: its bytes in, a yes with changes or a no with its answer out. Pure.
//!
//! What only proxies say of each other (`x-envoy-*`, `x-bartizan-*`, `x-forwarded-client-cert`, `x-forwarded-for`) and what
//! belongs to one hop is never taken from an authorizer: such fields are left out, since a proxy beside the authorizer adds some
//! to every answer. Method, host and path are what policy is judging and stay as they are: an answer that wants to change them is
//! no answer. Dynamic metadata is read over, since nothing in the mesh reads it.

use bartizan_mesh::HttpProvider;
use bartizan_proto::ext_authz::check_response::HttpResponse;
use bartizan_proto::ext_authz::{
    CheckResponse, DeniedHttpResponse, HeaderValueOption, OkHttpResponse, QueryParameter,
};
use bartizan_types::StringMatch;
use bartizan_wire::head::Headers;
use bytes::Bytes;
use http::StatusCode;
use prost::Message as _;

use super::super::headers::{is_a_proxys, is_named};

/// The largest answer, in bytes: a body over HTTP, a message over gRPC.
pub const MOST_ANSWER_BYTES: usize = 256 * 1024;
/// Fields that an answer may change at most.
const MOST_FIELDS: usize = 128;
/// Names and values of all of them, in bytes: about what a whole head may have.
const MOST_FIELD_BYTES: usize = 48 * 1024;
/// By which an HTTP authorizer says which fields of the request are to go (Envoy).
const TO_REMOVE: &str = "x-envoy-auth-headers-to-remove";
/// Fields of a refusal that pass although `headersToDownstreamOnDeny` does not list them (Istio).
const ALWAYS_ON_DENY: [&str; 2] = ["www-authenticate", "location"];

/// What an authorizer says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Said {
    /// Yes, with changes.
    Allowed(Changes),
    /// No; this is for the client.
    Denied(Denial),
}

/// What becomes of an allowed request and its response.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Changes {
    /// Fields of the request, in order.
    pub request: Vec<Edit>,
    /// Fields of the request that go, before the others come.
    pub remove: Vec<String>,
    /// Fields of the response, in order.
    pub response: Vec<Edit>,
    /// Query parameters that get a value.
    pub set_query: Vec<(String, String)>,
    /// Query parameters that go.
    pub remove_query: Vec<String>,
}

/// The answer that a refused client gets.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Denial {
    /// Its status.
    pub status: StatusCode,
    /// Its fields.
    pub headers: Headers,
    /// Its body.
    pub body: Bytes,
}

/// A change of one field. Name and value are such as a head may have.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Edit {
    /// The field's name.
    pub name: String,
    /// Its value.
    pub value: Vec<u8>,
    /// What becomes of values that are there.
    pub how: How,
}

/// What becomes of the values that a field has already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// They stay, the new one comes behind.
    Append,
    /// They go.
    Set,
    /// With any, nothing changes.
    IfAbsent,
    /// They go; without any, nothing changes.
    IfPresent,
}

/// Why an answer is none.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unusable {
    /// HTTP: it could not decide (5xx), or the status is no answer.
    #[error("answered with status {0}")]
    Status(u16),
    /// gRPC: the call failed.
    #[error("answered with gRPC status {0}")]
    GrpcStatus(String),
    /// gRPC: not one message that is a `CheckResponse`.
    #[error("answered with bytes that are no CheckResponse")]
    Message,
    /// More than is taken.
    #[error("answered with more than {MOST_ANSWER_BYTES} bytes or {MOST_FIELDS} fields")]
    TooLarge,
    /// A name or value that a head may not have.
    #[error("answered with a field that a head may not have")]
    Field,
    /// Method, host or path.
    #[error("wants to change `{0}`, which policy is judging")]
    Judged(String),
}

/// What an answer over HTTP means (`envoyExtAuthzHttp`): 200 is yes, 5xx is no answer, everything else is no.
///
/// # Errors
/// [`Unusable`]: the authorizer has not decided.
pub fn over_http(
    provider: &HttpProvider,
    status: StatusCode,
    headers: &Headers,
    body: Bytes,
) -> Result<Said, Unusable> {
    match status.as_u16() {
        200 => {}
        201..500 => {
            return Ok(Said::Denied(Denial {
                status,
                headers: refusal_fields(provider, headers),
                body: if has_body(status) { body } else { Bytes::new() },
            }));
        }
        other => return Err(Unusable::Status(other)),
    }
    let mut changes = Changes::default();
    for (name, value) in headers.iter() {
        let Some(name) = std::str::from_utf8(name).ok().filter(|name| !is_protected(name)) else {
            continue;
        };
        let edit = |how| Edit {
            name: name.to_owned(),
            value: value.to_owned(),
            how,
        };
        if is_listed(&provider.headers_to_upstream_on_allow, name) {
            // The second value of a name stands beside the first, both instead of the client's.
            let is_first = changes.request.iter().all(|edit| !edit.is_named(name));
            changes
                .request
                .push(edit(if is_first { How::Set } else { How::Append }));
        }
        if is_listed(&provider.headers_to_downstream_on_allow, name) {
            changes.response.push(edit(How::Append));
        }
    }
    for list in headers.get_all(TO_REMOVE) {
        let names = std::str::from_utf8(list).map_err(|_| Unusable::Field)?.split(',');
        changes.remove.extend(
            names
                .map(str::trim)
                .filter(|name| !name.is_empty() && !is_protected(name))
                .map(str::to_owned),
        );
    }
    changes.bounded().map(Said::Allowed)
}

/// What a `CheckResponse` means: status OK is yes, everything else is no (`envoyExtAuthzGrpc`).
///
/// # Errors
/// [`Unusable`]: the authorizer has not decided.
pub fn over_grpc(message: &[u8]) -> Result<Said, Unusable> {
    if message.len() > MOST_ANSWER_BYTES {
        return Err(Unusable::TooLarge);
    }
    let response = CheckResponse::decode(message).map_err(|_| Unusable::Message)?;
    // No bytes at all would be a CheckResponse, too; Envoy takes that for a yes.
    if response.status.is_none() && response.http_response.is_none() {
        return Err(Unusable::Message);
    }
    let is_allowed = response.status.unwrap_or_default().code == 0;
    match (is_allowed, response.http_response) {
        (true, None) => Ok(Said::Allowed(Changes::default())),
        (true, Some(HttpResponse::OkResponse(ok))) => allowed(ok)?.bounded().map(Said::Allowed),
        // A yes with the words of a no is no yes.
        (true, Some(HttpResponse::DeniedResponse(_))) => Err(Unusable::Message),
        (false, Some(HttpResponse::DeniedResponse(denied))) => denial(denied).map(Said::Denied),
        (false, None | Some(HttpResponse::OkResponse(_))) => {
            denial(DeniedHttpResponse::default()).map(Said::Denied)
        }
    }
}

/// The one message in the body of a unary call ("Length-Prefixed-Message").
///
/// # Errors
/// [`Unusable::Message`] when it is not exactly one, uncompressed.
pub fn grpc_message(body: &Bytes) -> Result<Bytes, Unusable> {
    let (&[flags, length @ ..], message) = body.split_first_chunk::<5>().ok_or(Unusable::Message)?;
    let is_whole = usize::try_from(u32::from_be_bytes(length)).is_ok_and(|length| length == message.len());
    if flags != 0 || !is_whole {
        return Err(Unusable::Message);
    }
    Ok(body.slice(5..))
}

impl Changes {
    /// Makes the request's fields what the authorizer wants.
    pub fn apply(&self, headers: &mut Headers) {
        for name in &self.remove {
            headers.remove(name);
        }
        for edit in &self.request {
            edit.apply(headers);
        }
    }

    /// The target with the query that the authorizer wants, where it wants another.
    pub fn target(&self, target: &[u8]) -> Option<Bytes> {
        if self.set_query.is_empty() && self.remove_query.is_empty() {
            return None;
        }
        let mut halves = target.splitn(2, |byte| *byte == b'?');
        let path = halves.next().unwrap_or_default();
        let is_kept = |part: &&[u8]| {
            let name = decoded(part.split(|byte| *byte == b'=').next().unwrap_or_default());
            let is_named = |other: &str| decoded(other.as_bytes()) == name;
            !self.remove_query.iter().any(|other| is_named(other))
                && !self.set_query.iter().any(|(other, _)| is_named(other))
        };
        let parts = halves
            .next()
            .into_iter()
            .flat_map(|query| query.split(|byte| *byte == b'&'));
        let set = self
            .set_query
            .iter()
            .map(|(name, value)| format!("{name}={value}").into_bytes());
        let all: Vec<Vec<u8>> = parts.filter(is_kept).map(<[u8]>::to_vec).chain(set).collect();
        Some(if all.is_empty() {
            Bytes::copy_from_slice(path)
        } else {
            [path, b"?", &all.join(&b'&')].concat().into()
        })
    }

    fn bounded(self) -> Result<Self, Unusable> {
        let edits = || self.request.iter().chain(&self.response);
        let query = self
            .set_query
            .iter()
            .map(|(name, value)| name.len() + value.len());
        let bytes: usize = edits()
            .map(|edit| edit.name.len() + edit.value.len())
            .chain(query)
            .sum();
        let count = edits().count() + self.remove.len() + self.set_query.len() + self.remove_query.len();
        if bytes > MOST_FIELD_BYTES || count > MOST_FIELDS {
            return Err(Unusable::TooLarge);
        }
        Ok(self)
    }
}

impl Edit {
    /// Makes the change.
    pub fn apply(&self, headers: &mut Headers) {
        let is_there = headers.contains(&self.name);
        // Name and value were checked when the answer was read.
        let _ = match self.how {
            How::Append => headers.append(&self.name, &self.value),
            How::IfAbsent if is_there => Ok(()),
            How::IfPresent if !is_there => Ok(()),
            How::Set | How::IfAbsent | How::IfPresent => headers.set(&self.name, &self.value),
        };
    }

    fn is_named(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }
}

fn allowed(ok: OkHttpResponse) -> Result<Changes, Unusable> {
    let is_query = |text: &str| {
        text.bytes()
            .all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'&' | b'#'))
    };
    let parameter = |parameter: QueryParameter| {
        let QueryParameter { key, value } = parameter;
        let is_sayable = !key.is_empty() && !key.contains('=') && is_query(&key) && is_query(&value);
        is_sayable.then_some((key, value)).ok_or(Unusable::Field)
    };
    Ok(Changes {
        request: edits(ok.headers, true)?,
        remove: ok
            .headers_to_remove
            .into_iter()
            .filter(|name| !is_protected(name))
            .collect(),
        response: edits(ok.response_headers_to_add, false)?,
        set_query: ok
            .query_parameters_to_set
            .into_iter()
            .map(parameter)
            .collect::<Result<_, _>>()?,
        remove_query: ok.query_parameters_to_remove,
    })
}

fn denial(denied: DeniedHttpResponse) -> Result<Denial, Unusable> {
    let code = match denied.status.unwrap_or_default().code {
        0 => 403,
        code => u16::try_from(code).map_err(|_| Unusable::Field)?,
    };
    let status = StatusCode::from_u16(code)
        .ok()
        .filter(|status| (200..600).contains(&status.as_u16()))
        .ok_or(Unusable::Status(code))?;
    let changes = Changes {
        response: edits(denied.headers, false)?,
        ..Changes::default()
    };
    let mut headers = Headers::new();
    for edit in changes.bounded()?.response {
        edit.apply(&mut headers);
    }
    Ok(Denial {
        status,
        headers,
        body: if has_body(status) {
            denied.body.into()
        } else {
            Bytes::new()
        },
    })
}

/// The changes that a message names. What is protected is left out, what cannot be a field is an error.
fn edits(options: Vec<HeaderValueOption>, of_request: bool) -> Result<Vec<Edit>, Unusable> {
    let mut edits = Vec::with_capacity(options.len().min(MOST_FIELDS));
    let mut probe = Headers::new();
    for option in options {
        let header = option.header.ok_or(Unusable::Field)?;
        let name = header.key;
        if of_request && (name.starts_with(':') || name.eq_ignore_ascii_case("host")) {
            return Err(Unusable::Judged(name.escape_debug().take(40).collect()));
        }
        if is_protected(&name) {
            continue;
        }
        let value = match header.raw_value {
            raw if raw.is_empty() => header.value.into_bytes(),
            raw => raw.to_vec(),
        };
        probe.set(&name, &value).map_err(|_| Unusable::Field)?;
        if edits.len() == MOST_FIELDS {
            return Err(Unusable::TooLarge);
        }
        let how = match (option.append.map(|append| append.value), option.append_action) {
            (Some(true), _) => How::Append,
            // Where neither is said, this API means to set ("append defaults to false when used in this message").
            (Some(false), _) | (None, 0 | 2) => How::Set,
            (None, 1) => How::IfAbsent,
            (None, 3) => How::IfPresent,
            (None, _) => return Err(Unusable::Field),
        };
        edits.push(Edit { name, value, how });
    }
    Ok(edits)
}

/// Of a refusal, what the client gets to see: all, or what is listed.
fn refusal_fields(provider: &HttpProvider, headers: &Headers) -> Headers {
    let listed = &provider.headers_to_downstream_on_deny;
    let mut kept = headers.clone();
    kept.retain(|name, _| {
        std::str::from_utf8(name).is_ok_and(|name| {
            let is_passed = listed.is_empty()
                || is_listed(listed, name)
                || ALWAYS_ON_DENY
                    .iter()
                    .any(|always| always.eq_ignore_ascii_case(name));
            is_passed && !is_protected(name)
        })
    });
    kept
}

/// Whether a list of the provider's names a field.
pub(super) fn is_listed(list: &[StringMatch], name: &str) -> bool {
    list.iter().any(|one| one.matches_ignore_case(name))
}

/// Whether an authorizer may not set or remove the field.
fn is_protected(name: &str) -> bool {
    const OF_A_HOP: [&str; 11] = [
        "connection",
        "content-length",
        "expect",
        "host",
        "http2-settings",
        "keep-alive",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    ];
    name.starts_with(':')
        || is_a_proxys(name.as_bytes())
        || is_named(name.as_bytes(), "x-forwarded-for")
        || OF_A_HOP.iter().any(|other| other.eq_ignore_ascii_case(name))
}

fn has_body(status: StatusCode) -> bool {
    !matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// A parameter's name as an application reads it, so that an escape does not hide it.
fn decoded(name: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        let escaped = (byte == b'%')
            .then(|| after.split_first_chunk::<2>())
            .flatten()
            .and_then(|(digits, after)| {
                let digits = std::str::from_utf8(digits).ok()?;
                Some((u8::from_str_radix(digits, 16).ok()?, after))
            });
        match escaped {
            Some((value, after)) => {
                out.push(value);
                rest = after;
            }
            None if byte == b'+' => out.push(b' '),
            None => out.push(byte),
        }
    }
    out
}

#[cfg(test)]
#[path = "says_tests.rs"]
mod tests;
