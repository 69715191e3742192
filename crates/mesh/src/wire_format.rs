//! Resources as bytes: the canonical JSON body, its digest, and the last-good file.
//!
//! One encoding for the stream between control plane and proxy, for the file that a proxy starts from, and for people
//! (`bartizan status --dump`). The envelope on the stream (key, body, digest) is protobuf and belongs to the shells.

use std::sync::Arc;

use bartizan_types::{NamespacedName, Version};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use crate::authentication::RequestAuthentication;
use crate::digest::Digest;
use crate::policy::{Policy, PolicyKind, PolicyName};
use crate::resource::{Key, Resource};
use crate::store::Store;

/// One resource as it goes over the stream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Encoded {
    /// Where it is kept.
    pub key: Key,
    /// Canonical JSON.
    pub body: Arc<[u8]>,
    /// Of the body.
    pub digest: Digest,
}

/// Why bytes are not a resource.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not JSON, an unknown kind or field, or a value that breaks its type's rule.
    #[error("decode resource `{key}`: {source}")]
    Body {
        /// The key that the body came with.
        key: Key,
        /// What the decoder met.
        source: serde_json::Error,
    },
    /// The body is a fine resource, but another one.
    #[error("decode resource `{key}`: the body is that of `{found}`")]
    Key {
        /// The key that the body came with.
        key: Key,
        /// The key that the body has.
        found: Key,
    },
    /// The file of the last good resources is not what was written.
    #[error("decode the last good resources: {0}")]
    File(serde_json::Error),
}

/// A resource that stands in for one that could not be decoded, and why.
pub type Decoded = (Resource, Option<DecodeError>);

/// The canonical form: keys sorted, no white space, the same bytes for equal resources.
pub fn encode(resource: &Resource) -> Encoded {
    let mut body = Vec::with_capacity(512);
    write_canonical(&to_value(resource), &mut body);
    Encoded {
        key: resource.key(),
        digest: Digest::of(&body),
        body: body.into(),
    }
}

/// The digest of a resource's canonical body.
pub fn digest(resource: &Resource) -> Digest {
    encode(resource).digest
}

/// A resource from its body.
///
/// # Errors
/// [`DecodeError`] when the body is not a resource or not the one of `key`.
pub fn decode(key: &Key, body: &[u8]) -> Result<Resource, DecodeError> {
    let resource: Resource = serde_json::from_slice(body).map_err(|source| DecodeError::Body {
        key: key.clone(),
        source,
    })?;
    of_key(key, resource)
}

/// Like [`decode`], but a policy that cannot be decoded becomes one of the same name that denies everything, and a
/// `RequestAuthentication` one that refuses everything; the reason is given beside it, to be counted and logged.
///
/// # Errors
/// [`DecodeError`] for anything but a policy: the transaction is refused whole.
pub fn decode_or_deny(key: &Key, body: &[u8]) -> Result<Decoded, DecodeError> {
    or_deny(key, decode(key, body))
}

/// All resources as the text of the last-good file: sorted, one resource a line.
pub fn store_to_json(store: &Store) -> String {
    let mut text = format!("{{\"version\":{},\"resources\":[", store.version()).into_bytes();
    for (at, (key, resource)) in store.sorted().into_iter().enumerate() {
        text.extend_from_slice(if at == 0 { b"\n{\"key\":" } else { b",\n{\"key\":" });
        write_canonical(&Value::String(key.to_string()), &mut text);
        text.extend_from_slice(b",\"body\":");
        write_canonical(&to_value(resource), &mut text);
        text.push(b'}');
    }
    text.extend_from_slice(b"\n]}\n");
    String::from_utf8(text).unwrap_or_default() // JSON writers write UTF-8
}

/// The store of a last-good file, with what could not be decoded and was replaced by a policy that denies.
///
/// # Errors
/// [`DecodeError`] when the text is not such a file, or a resource that is not a policy cannot be decoded.
pub fn store_from_json(text: &str) -> Result<(Store, Vec<DecodeError>), DecodeError> {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct File {
        version: Version,
        resources: Vec<Entry>,
    }
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        key: Key,
        body: Value,
    }
    let file: File = serde_json::from_str(text).map_err(DecodeError::File)?;
    let mut store = Store::new();
    let mut replaced = Vec::new();
    for Entry { key, body } in file.resources {
        let resource = from_value(body).map_err(|source| DecodeError::Body {
            key: key.clone(),
            source,
        });
        let decoded = resource.and_then(|resource| of_key(&key, resource));
        let (resource, reason) = or_deny(&key, decoded)?;
        replaced.extend(reason);
        store.upsert(Arc::new(resource));
    }
    store.set_version(file.version);
    Ok((store, replaced))
}

fn of_key(key: &Key, resource: Resource) -> Result<Resource, DecodeError> {
    let found = resource.key();
    if found == *key {
        Ok(resource)
    } else {
        Err(DecodeError::Key {
            key: key.clone(),
            found,
        })
    }
}

fn or_deny(key: &Key, decoded: Result<Resource, DecodeError>) -> Result<Decoded, DecodeError> {
    match decoded {
        Ok(resource) => Ok((resource, None)),
        Err(error) => {
            let name = key
                .0
                .split_once('/')
                .and_then(|(_, name)| NamespacedName::parse(name).ok());
            let policy = |kind, name| Resource::Policy(Policy::deny_everything(PolicyName { kind, name }));
            match (key.kind(), name) {
                ("policy", Some(name)) => Ok((policy(PolicyKind::AuthorizationPolicy, name), Some(error))),
                ("access-rule", Some(name)) => Ok((policy(PolicyKind::AccessRule, name), Some(error))),
                ("request-authentication", Some(name)) => {
                    let refusing = RequestAuthentication::refuse_everything(name);
                    Ok((Resource::RequestAuthentication(refusing), Some(error)))
                }
                _ => Err(error),
            }
        }
    }
}

impl<'de> Deserialize<'de> for Resource {
    /// Through a JSON value: what serde buffers for a tagged enum loses the numeric keys of maps, and cannot refuse
    /// unknown fields.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_value(Value::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}

fn from_value(value: Value) -> Result<Resource, serde_json::Error> {
    fn of<T: DeserializeOwned>(fields: Map<String, Value>) -> Result<T, serde_json::Error> {
        serde_json::from_value(Value::Object(fields))
    }
    let Value::Object(mut fields) = value else {
        return Err(serde::de::Error::custom("a resource is a JSON object"));
    };
    let kind = fields.remove("kind");
    match kind.as_ref().and_then(Value::as_str) {
        Some("settings") => of(fields).map(Resource::Settings),
        Some("service") => of(fields).map(Resource::Service),
        Some("endpoints") => of(fields).map(Resource::Endpoints),
        Some("workload") => of(fields).map(Resource::Workload),
        Some("policy") => of(fields).map(Resource::Policy),
        Some("requestAuthentication") => of(fields).map(Resource::RequestAuthentication),
        Some("keySet") => of(fields).map(Resource::KeySet),
        Some("provider") => of(fields).map(Resource::Provider),
        Some("view") => of(fields).map(Resource::View),
        Some("listener") => of(fields).map(Resource::Listener),
        Some("route") => of(fields).map(Resource::Route),
        Some(kind) => Err(serde::de::Error::custom(format!("unknown kind `{kind}`"))),
        None => Err(serde::de::Error::custom("a resource needs a `kind`")),
    }
}

fn to_value(resource: &Resource) -> Value {
    serde_json::to_value(resource)
        .expect("every key of a map in a resource is a text or a number, and no number is NaN")
}

/// Writes sorted keys whatever order the map keeps (a feature of `serde_json` elsewhere in the build may change that).
fn write_canonical(value: &Value, into: &mut Vec<u8>) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort_unstable();
            into.push(b'{');
            for (at, name) in names.into_iter().enumerate() {
                if at > 0 {
                    into.push(b',');
                }
                write_scalar(&Value::String(name.clone()), into);
                into.push(b':');
                if let Some(value) = fields.get(name) {
                    write_canonical(value, into);
                }
            }
            into.push(b'}');
        }
        Value::Array(values) => {
            into.push(b'[');
            for (at, value) in values.iter().enumerate() {
                if at > 0 {
                    into.push(b',');
                }
                write_canonical(value, into);
            }
            into.push(b']');
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => write_scalar(value, into),
    }
}

fn write_scalar(value: &Value, into: &mut Vec<u8>) {
    serde_json::to_writer(into, value).expect("writing to memory does not fail");
}

#[cfg(test)]
#[path = "wire_format_tests.rs"]
mod tests;
