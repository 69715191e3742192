//! One concrete request, as an example of a set or as a counterexample of a claim.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_mesh::PathRule;
use bartizan_types::{Peer, Port, SpiffeId};
use serde_json::{Map, Value as Json};

use crate::problem::{Dimension, Shape};
use crate::sealed::Value;

/// One concrete request or connection.
#[derive(Clone, PartialEq, Debug)]
pub struct Request {
    /// Who asks.
    pub peer: Peer,
    /// The connection's own remote address; any where it makes no difference.
    pub source: Option<IpAddr>,
    /// The client's address; that of the connection where it makes no difference.
    pub remote: Option<IpAddr>,
    /// The workload's address; any of its own where it makes no difference.
    pub destination: Option<IpAddr>,
    /// The workload's port; at a gateway the listener's.
    pub port: Port,
    /// The server name of the handshake.
    pub sni: Option<String>,
    /// Version, cipher and group of the handshake, if there is one.
    pub tls: Option<(String, String, String)>,
    /// When it is decided, in seconds since 1970; any time where it makes no difference.
    pub at: Option<i64>,
    /// The request; `None` for a connection of bytes.
    pub http: Option<HttpRequest>,
}

/// The request's own part.
#[derive(Clone, PartialEq, Debug)]
pub struct HttpRequest {
    /// The method.
    pub method: String,
    /// The host, with its port where the client sends one.
    pub authority: Option<String>,
    /// The target as sent.
    pub target: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// The claims of the verified token, if there is one.
    pub claims: Option<Map<String, Json>>,
}

impl Request {
    /// The request of an example; `None` only for one whose values are of no request, which would be a mistake of ours.
    pub(crate) fn of(values: &BTreeMap<Dimension, Value>, paths: PathRule) -> Option<Self> {
        let text = |dimension: &Dimension| match values.get(dimension) {
            Some(Value::Text(text)) => text.clone(),
            Some(Value::Elements(_) | Value::Address(_) | Value::Number(_)) | None => None,
        };
        let number = |dimension: &Dimension| match values.get(dimension) {
            Some(Value::Number(number)) => Some(*number),
            Some(Value::Text(_) | Value::Elements(_) | Value::Address(_)) | None => None,
        };
        let address = |dimension: &Dimension| match values.get(dimension) {
            Some(Value::Address(address)) => Some(*address),
            Some(Value::Text(_) | Value::Elements(_) | Value::Number(_)) | None => None,
        };
        let peer = match text(&Dimension::Identity) {
            Some(principal) => Peer::Authenticated(SpiffeId::parse(&format!("spiffe://{principal}")).ok()?),
            None => Peer::Plaintext,
        };
        let port = number(&Dimension::Port)
            .and_then(|port| u32::try_from(port).ok())
            .and_then(|port| Port::new(port).ok())?;
        let or = |found: Option<String>, other: &str| found.unwrap_or_else(|| other.to_owned());
        let tls = (number(&Dimension::Tls) == Some(1)).then(|| {
            (
                or(text(&Dimension::TlsVersion), "TLSv1.3"),
                or(text(&Dimension::Cipher), "TLS_AES_256_GCM_SHA384"),
                or(text(&Dimension::Group), "X25519MLKEM768"),
            )
        });
        let http = (number(&Dimension::Http) == Some(1)).then(|| {
            let path = or(text(&Dimension::Path), "/");
            let mut target = if path.is_empty() {
                "host.example:443".to_owned() // CONNECT
            } else {
                sent(&path, paths)
            };
            let mut headers = Vec::new();
            let mut separator = '?';
            for (dimension, value) in values {
                let Value::Text(Some(value)) = value else {
                    continue;
                };
                if let Dimension::Header(name) = dimension {
                    headers.push((name.to_string(), value.clone()));
                } else if let Dimension::Query(name) = dimension {
                    target.push(separator);
                    target += &format!("{}={}", escaped(name, ""), escaped(value, ""));
                    separator = '&';
                }
            }
            HttpRequest {
                method: or(text(&Dimension::Method), "GET"),
                authority: text(&Dimension::Host).map(as_authority),
                target,
                headers,
                claims: (number(&Dimension::User) == Some(1)).then(|| claims(values)),
            }
        });
        let source = address(&Dimension::Source);
        Some(Self {
            peer,
            source,
            remote: address(&Dimension::Remote),
            destination: address(&Dimension::Destination),
            port,
            sni: text(&Dimension::Sni),
            tls,
            at: number(&Dimension::Now),
            http,
        })
    }
}

/// The authority that is matched as this host: a dot that ends it is dropped once.
fn as_authority(host: String) -> String {
    if host.ends_with('.') || host.rsplit_once(".:").is_some_and(|(name, _)| !name.is_empty()) {
        format!("{host}.")
    } else {
        host
    }
}

/// The target whose canonical path this is.
fn sent(path: &str, rule: PathRule) -> String {
    match rule {
        PathRule::RefuseAmbiguous => escaped(path, "/*!$&'()+,:=@"),
        PathRule::None | PathRule::Base | PathRule::MergeSlashes | PathRule::DecodeAndMergeSlashes => {
            path.to_owned()
        }
    }
}

fn escaped(text: &str, plain: &str) -> String {
    let mut sent = String::with_capacity(text.len());
    for byte in text.bytes() {
        let character = char::from(byte);
        if character.is_ascii_alphanumeric() || "-._~".contains(character) || plain.contains(character) {
            sent.push(character);
        } else {
            sent += &format!("%{byte:02X}");
        }
    }
    sent
}

fn claims(values: &BTreeMap<Dimension, Value>) -> Map<String, Json> {
    let mut claims = Map::new();
    for (dimension, name) in [
        (Dimension::Issuer, "iss"),
        (Dimension::Subject, "sub"),
        (Dimension::Presenter, "azp"),
    ] {
        if let Some(Value::Text(Some(text))) = values.get(&dimension) {
            claims.insert(name.to_owned(), Json::String(text.clone()));
        }
    }
    for (dimension, value) in values {
        let (Dimension::Claim(path), Value::Elements(texts)) = (dimension, value) else {
            continue;
        };
        let shape = match values.get(&Dimension::Shape(path.clone())) {
            Some(Value::Number(number)) => Some(*number),
            Some(Value::Text(_) | Value::Elements(_) | Value::Address(_)) | None => None,
        };
        let list = || Json::Array(texts.iter().cloned().map(Json::String).collect());
        let json = match (texts.as_slice(), shape) {
            (_, Some(number)) if number == Shape::List.number() => list(),
            (_, Some(number)) if number == Shape::Other.number() => Json::Bool(true),
            ([], _) => continue,
            ([one], _) => Json::String(one.clone()),
            _ => list(),
        };
        insert(&mut claims, path, json);
    }
    claims
}

fn insert(claims: &mut Map<String, Json>, path: &[Arc<str>], json: Json) {
    let Some((first, rest)) = path.split_first() else {
        return;
    };
    if rest.is_empty() {
        claims.insert(first.to_string(), json);
        return;
    }
    let inner = claims
        .entry(first.to_string())
        .or_insert_with(|| Json::Object(Map::new()));
    if !inner.is_object() {
        *inner = Json::Object(Map::new());
    }
    if let Some(inner) = inner.as_object_mut() {
        insert(inner, rest, json);
    }
}
