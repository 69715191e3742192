//! The keys of an issuer (JWKS, RFC 7517 §5), read once into keys that verify, each with the algorithms it is for.

use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, ParsedPublicKey, RsaPublicKeyComponents};
use serde_json::{Map, Value, json};

use super::algorithm::{Algorithm, KeyType};
use super::claims::Claims;
use super::json::{self, JsonError};
use super::token::Token;
use super::{JwtError, base64url};

/// The most bytes of a key set.
pub const LARGEST_KEY_SET: usize = 1024 * 1024;
/// The most keys of a key set, used or not.
pub const MOST_KEYS: usize = 256;
/// The most keys that are tried for one token.
const MOST_TRIED: usize = 16;
/// The bits that an RSA modulus may have (NIST SP 800-131A: at least 2048).
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;

/// The public keys of an issuer. Cheap to clone.
#[derive(Clone, Debug)]
pub struct KeySet {
    keys: Arc<[Key]>,
    skipped: Arc<[SkippedKey]>,
    /// Whether the text had private or symmetric parts.
    has_secrets: bool,
}

/// One key with which signatures are verified.
struct Key {
    id: Option<Arc<str>>,
    /// One for each algorithm that the key is for. A token's `alg` is only looked up here, so that it cannot choose a use
    /// of the key that the key is not for.
    uses: Vec<(Algorithm, ParsedPublicKey)>,
    /// The public members of the key, and nothing else.
    public: Map<String, Value>,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(&self.public).finish()
    }
}

/// A key of the set that is not used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SkippedKey {
    /// Its place in the set, from 0.
    pub index: usize,
    /// Its `kid`.
    pub id: Option<String>,
    /// Why it is not used.
    pub why: String,
}

/// Why a text is not a key set.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum KeySetError {
    /// More than [`LARGEST_KEY_SET`] bytes.
    #[error("the key set has {0} bytes, and {LARGEST_KEY_SET} are taken")]
    TooLarge(usize),
    /// Not one JSON object.
    #[error("the key set is not a JSON object")]
    Json,
    /// The same name twice in an object.
    #[error("the key set has `{0}` twice in one object")]
    Duplicate(String),
    /// Objects and lists in each other, more than 32 deep.
    #[error("the key set is nested too deeply")]
    TooDeep,
    /// `keys` is missing or no list.
    #[error("the key set has no list `keys`")]
    NoList,
    /// More than [`MOST_KEYS`] keys.
    #[error("the key set has {0} keys, and {MOST_KEYS} are taken")]
    TooMany(usize),
    /// There are keys, but none that can be used.
    #[error("the key set has no key that can be used: {0}")]
    NoUsableKey(String),
}

impl KeySet {
    /// Reads a JWKS. Keys of unknown kinds, for other uses, or too weak are skipped and reported in [`KeySet::skipped`].
    /// An issuer may say that it has no keys at all (`{"keys":[]}`): then every token is refused.
    ///
    /// # Errors
    /// [`KeySetError`] when it is not a key set, or when it has keys and none can be used.
    pub fn parse(jwks: &str) -> Result<Self, KeySetError> {
        if jwks.len() > LARGEST_KEY_SET {
            return Err(KeySetError::TooLarge(jwks.len()));
        }
        let mut set = json::object(jwks.as_bytes()).map_err(|error| match error {
            JsonError::Malformed => KeySetError::Json,
            JsonError::Duplicate(name) => KeySetError::Duplicate(name.chars().take(64).collect()),
            JsonError::TooDeep => KeySetError::TooDeep,
        })?;
        let Some(Value::Array(list)) = set.remove("keys") else {
            return Err(KeySetError::NoList);
        };
        if list.len() > MOST_KEYS {
            return Err(KeySetError::TooMany(list.len()));
        }
        let (mut keys, mut skipped, mut has_secrets) = (Vec::new(), Vec::new(), false);
        for (index, jwk) in list.iter().enumerate() {
            has_secrets |= ["d", "k", "p", "q", "dp", "dq", "qi", "oth"]
                .iter()
                .any(|part| jwk.get(part).is_some());
            match Key::read(jwk) {
                Ok(key) => keys.push(key),
                Err(why) => skipped.push(SkippedKey {
                    index,
                    id: jwk.get("kid").and_then(Value::as_str).map(str::to_owned),
                    why,
                }),
            }
        }
        match skipped.first() {
            Some(first) if keys.is_empty() => Err(KeySetError::NoUsableKey(first.why.clone())),
            Some(_) | None => Ok(Self {
                keys: keys.into(),
                skipped: skipped.into(),
                has_secrets,
            }),
        }
    }

    /// Verifies a token at `now` (seconds since 1970): its form, the issuer if one is wanted (exactly), `nbf`, `exp` and `iat`
    /// within [`super::CLOCK_SKEW_SECONDS`], one of the audiences if any are wanted (exactly), and last the signature, which
    /// costs most. A token without `exp` does not expire, as in Envoy.
    ///
    /// `kid` is only compared with the keys of this set. A key without `kid` is tried for every token of its kind, and a token
    /// without `kid` is tried with every key of its kind, at most sixteen.
    ///
    /// # Errors
    /// [`JwtError`] is the first reason that refuses it.
    pub fn verify(
        &self,
        token: &str,
        now: i64,
        issuer: Option<&str>,
        audiences: &[impl AsRef<str>],
    ) -> Result<Claims, JwtError> {
        let token = Token::parse(token)?;
        let claims = Claims::read(&token)?;
        claims.check(now, issuer, audiences)?;
        self.verify_signature(&token)?;
        Ok(claims)
    }

    pub(super) fn verify_signature(&self, token: &Token<'_>) -> Result<(), JwtError> {
        if self.keys.is_empty() {
            return Err(JwtError::NoKeys);
        }
        let kid = token.key_id.as_deref();
        let named = |key: &&Key| kid.is_none() || key.id.is_none() || key.id.as_deref() == kid;
        let fitting = self
            .keys
            .iter()
            .filter(named)
            .filter_map(|key| {
                key.uses
                    .iter()
                    .find(|(algorithm, _)| *algorithm == token.algorithm)
            })
            .take(MOST_TRIED);
        let mut tried = false;
        for (_, key) in fitting {
            tried = true;
            if key.verify_sig(token.signed.as_bytes(), &token.signature).is_ok() {
                return Ok(());
            }
        }
        match kid {
            Some(kid) if !self.keys.iter().any(|key| key.id.as_deref() == Some(kid)) => {
                Err(JwtError::UnknownKey(kid.into()))
            }
            _ if tried => Err(JwtError::Signature),
            _ => Err(JwtError::KeyMismatch),
        }
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no token can be verified.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// `kid` of every key that can be used and has one.
    pub fn key_ids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(|key| key.id.as_deref())
    }

    /// The keys that are not used, and why.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// Whether the text had private or symmetric keys, which have no place in a key set.
    pub fn has_secrets(&self) -> bool {
        self.has_secrets
    }

    /// The keys that can be used as a JWKS, without private parts and without members that verifying does not need. Equal key
    /// sets have equal texts.
    pub fn to_public_json(&self) -> String {
        let keys: Vec<_> = self.keys.iter().map(|key| &key.public).collect();
        json!({ "keys": keys }).to_string()
    }
}

/// The keys of a JWKS that can be used, as a JWKS without private parts.
///
/// # Errors
/// As [`KeySet::parse`].
pub fn public_only(jwks: &str) -> Result<String, KeySetError> {
    Ok(KeySet::parse(jwks)?.to_public_json())
}

impl Key {
    /// Reads one JWK (RFC 7517 §4), or says why it is not used.
    fn read(jwk: &Value) -> Result<Self, String> {
        let jwk = jwk.as_object().ok_or("it is not an object")?;
        let kty = member(jwk, "kty")?.ok_or("it has no `kty`")?;
        let crv = member(jwk, "crv")?;
        let key_type = KeyType::parse(kty, crv).ok_or_else(|| match (kty, crv) {
            ("oct", _) => "symmetric keys are not used".to_owned(),
            (_, Some(crv)) => format!(
                "keys of type `{}` on curve `{}` are not known",
                shown(kty),
                shown(crv)
            ),
            (_, None) => format!("keys of type `{}` are not known", shown(kty)),
        })?;
        match member(jwk, "use")? {
            None | Some("sig") => {}
            Some(other) => return Err(format!("its `use` is `{}`, not `sig`", shown(other))),
        }
        match jwk.get("key_ops") {
            None => {}
            Some(Value::Array(operations)) if operations.iter().any(|operation| operation == "verify") => {}
            Some(_) => return Err("its `key_ops` do not have `verify`".to_owned()),
        }
        let only = match member(jwk, "alg")? {
            None => None,
            Some(name) => Some(
                Algorithm::parse(name)
                    .filter(|algorithm| algorithm.key_type() == key_type)
                    .ok_or_else(|| {
                        format!("its `alg` is `{}`, which is not one for this key", shown(name))
                    })?,
            ),
        };
        let material = Material::read(jwk, key_type)?;
        let mut uses = Vec::new();
        for algorithm in key_type.algorithms() {
            if only.is_none_or(|only| only == algorithm) {
                uses.push((algorithm, material.parsed(algorithm)?));
            }
        }
        Ok(Self {
            id: member(jwk, "kid")?.map(Into::into),
            uses,
            public: public_members(jwk, key_type),
        })
    }
}

/// The public numbers of a key, in the form that aws-lc reads.
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point (SEC 1 §2.3.3).
    Point(KeyType, Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Material {
    fn read(jwk: &Map<String, Value>, key_type: KeyType) -> Result<Self, String> {
        match key_type {
            KeyType::Rsa => {
                let (n, e) = (number(jwk, "n")?, number(jwk, "e")?);
                let bits = bit_length(&n);
                if !RSA_BITS.contains(&bits) {
                    return Err(format!(
                        "its RSA modulus has {bits} bits, and {} to {} are taken",
                        RSA_BITS.start(),
                        RSA_BITS.end()
                    ));
                }
                // 1 would make every message its own signature.
                let is_odd = e.last().is_some_and(|byte| byte & 1 == 1);
                if !is_odd || e == [1] || e.len() > 4 {
                    return Err("its RSA exponent is not an odd number from 3 to 2^32".to_owned());
                }
                Ok(Self::Rsa { n, e })
            }
            KeyType::P256 | KeyType::P384 | KeyType::P521 => {
                let length = key_type.ecdsa().map_or(0, |(_, _, length)| length);
                let mut point = vec![4];
                for name in ["x", "y"] {
                    point.extend(fixed(jwk, name, length)?);
                }
                Ok(Self::Point(key_type, point))
            }
            KeyType::Ed25519 => Ok(Self::Ed25519(fixed(jwk, "x", 32)?)),
        }
    }

    fn parsed(&self, algorithm: Algorithm) -> Result<ParsedPublicKey, String> {
        let parsed = match self {
            Self::Rsa { n, e } => algorithm.rsa_parameters().and_then(|parameters| {
                RsaPublicKeyComponents { n, e }
                    .to_parsed_public_key(parameters)
                    .ok()
            }),
            Self::Point(key_type, point) => key_type
                .ecdsa()
                .and_then(|(curve, _, _)| ParsedPublicKey::new(curve, point).ok()),
            Self::Ed25519(x) => ParsedPublicKey::new(&ED25519, x).ok(),
        };
        parsed.ok_or_else(|| "its numbers are not a key".to_owned())
    }
}

/// What others may know of a key and verifying needs.
fn public_members(jwk: &Map<String, Value>, key_type: KeyType) -> Map<String, Value> {
    let numbers: &[&str] = match key_type {
        KeyType::Rsa => &["n", "e"],
        KeyType::P256 | KeyType::P384 | KeyType::P521 => &["crv", "x", "y"],
        KeyType::Ed25519 => &["crv", "x"],
    };
    ["kty", "kid", "alg", "use"]
        .iter()
        .chain(numbers)
        .filter_map(|name| Some(((*name).to_owned(), jwk.get(*name)?.clone())))
        .collect()
}

fn member<'a>(jwk: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, String> {
    match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(format!("its `{name}` is not a text")),
    }
}

pub(super) fn bytes(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let text = member(jwk, name)?.ok_or_else(|| format!("it has no `{name}`"))?;
    base64url::decode(text).ok_or_else(|| format!("its `{name}` is not base64url"))
}

/// A number of any size, without zeros in front (RFC 7518 §6.3.1.1 knows that some write one).
pub(super) fn number(jwk: &Map<String, Value>, name: &str) -> Result<Vec<u8>, String> {
    let mut bytes = bytes(jwk, name)?;
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    bytes.drain(..zeros);
    Ok(bytes)
}

/// A number of a fixed size (RFC 7518 §6.2.1.2, RFC 8037 §2).
pub(super) fn fixed(jwk: &Map<String, Value>, name: &str, length: usize) -> Result<Vec<u8>, String> {
    let bytes = bytes(jwk, name)?;
    if bytes.len() == length {
        Ok(bytes)
    } else {
        Err(format!("its `{name}` has {} bytes, not {length}", bytes.len()))
    }
}

fn bit_length(number: &[u8]) -> usize {
    number
        .first()
        .map_or(0, |first| number.len() * 8 - first.leading_zeros() as usize)
}

fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(32).collect()
}
