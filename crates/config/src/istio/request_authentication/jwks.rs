//! `jwks`: a JSON Web Key Set in a document (RFC 7517). Which keys can check which tokens is `identity`'s; here is told what a
//! person should know before that.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::Value as Json;

use crate::field::Value;
use crate::finding::codes;

/// The largest set and the most keys of it that a proxy reads.
const LARGEST_BYTES: usize = 1024 * 1024;
const MOST_KEYS: usize = 256;

/// The text, where it is a set of keys.
pub(super) fn read(value: Value<'_>) -> Option<Arc<str>> {
    let text = value.text()?;
    if text.len() > LARGEST_BYTES {
        let what = format!(
            "`jwks` has {} bytes; at most {LARGEST_BYTES} are read",
            text.len()
        );
        value.error(codes::TOO_LARGE, what);
        return None;
    }
    let json: Json = match serde_json::from_str(text) {
        Ok(json) => json,
        Err(error) => {
            let at = byte_of(text, error.line(), error.column());
            let what = format!("`jwks` is not JSON: {}", plain(&error.to_string()));
            value
                .sink
                .error(codes::INVALID_VALUE, value.inner().spot(at..at + 1), what);
            return None;
        }
    };
    let Some(keys) = json.get("keys").and_then(Json::as_array) else {
        value.error_help(
            codes::INVALID_VALUE,
            "`jwks` is not a set of keys: an object with a list `keys`",
            "write {\"keys\": [ … ]}",
        );
        return None;
    };
    if keys.len() > MOST_KEYS {
        let what = format!("`jwks` has {} keys; at most {MOST_KEYS} are read", keys.len());
        value.error(codes::OUT_OF_RANGE, what);
        return None;
    }
    let mut ids = BTreeSet::new();
    let mut usable = 0;
    let errors = value.sink.errors();
    for (number, key) in keys.iter().enumerate() {
        let id = key.get("kid").and_then(Json::as_str);
        let key_name = match id {
            Some(id) => format!("the key {}", value.sink.quoted(id)),
            None => format!("key {number}"),
        };
        if id.is_some_and(|id| !ids.insert(id)) {
            value.warn(
                codes::POINTLESS_RULE,
                format!("{key_name} is there twice"),
                "give each key a `kid` of its own",
            );
        }
        if check(value, key, &key_name) {
            usable += 1;
        }
    }
    if usable == 0 && value.sink.errors() == errors {
        value.warn(
            codes::POINTLESS_RULE,
            "`jwks` has no key that can check a token, so every token is refused",
            "add the issuer's public keys",
        );
    }
    Some(text.into())
}

/// Whether the key is one that checks tokens.
fn check(value: Value<'_>, key: &Json, name: &str) -> bool {
    let has = |member: &str| key.get(member).is_some_and(Json::is_string);
    let needed: &[&str] = match key.get("kty").and_then(Json::as_str) {
        Some("RSA") => &["n", "e"],
        Some("EC") => &["crv", "x", "y"],
        Some("OKP") => &["crv", "x"],
        Some("oct") => {
            // Without the line, which may hold the secret.
            value.sink.hide_values(true);
            value.error_help(
                codes::UNSAFE,
                format!(
                    "{name} is symmetric, and so is a secret: who can check a token with it can also make one"
                ),
                "let the issuer sign with RSA, ECDSA or Ed25519, and write the public key here",
            );
            value.sink.hide_values(false);
            return false;
        }
        Some(other) => {
            value.warn(
                codes::POINTLESS_RULE,
                format!(
                    "{name} is of type {}, which is not read",
                    value.sink.quoted(other)
                ),
                "keys are of type `RSA`, `EC` or `OKP`",
            );
            return false;
        }
        None => {
            value.error(codes::INVALID_VALUE, format!("{name} has no `kty`"));
            return false;
        }
    };
    if let Some(missing) = needed.iter().find(|member| !has(member)) {
        value.error(codes::INVALID_VALUE, format!("{name} has no `{missing}`"));
        return false;
    }
    if ["d", "p", "q"].iter().any(|member| key.get(member).is_some()) {
        value.sink.hide_values(true);
        value.warn(
            codes::UNSAFE,
            format!(
                "{name} has its private part, with which anybody who reads this document can make tokens"
            ),
            "take `d`, `p`, `q`, `dp`, `dq` and `qi` out, and let the issuer use a new key",
        );
        value.sink.hide_values(false);
    }
    true
}

/// `serde_json`'s message without its own place.
fn plain(message: &str) -> &str {
    message.split_once(" at line ").map_or(message, |(head, _)| head)
}

/// The byte that `serde_json` means by line and column, both from 1; column 0 is the end of the line before.
fn byte_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text
        .split_inclusive('\n')
        .take(line.saturating_sub(1))
        .map(str::len)
        .sum();
    (start + column.saturating_sub(1)).min(text.len())
}
