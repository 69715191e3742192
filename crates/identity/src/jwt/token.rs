//! Takes a compact JWS (RFC 7515 §7.1) apart and reads its header. Nothing here is trusted yet: the header only says which
//! algorithm and key the sender claims to have used.

use serde_json::{Map, Value};

use super::algorithm::Algorithm;
use super::json::{self, JsonError};
use super::{JwtError, Part, base64url};

/// The most bytes of a token.
pub const LARGEST_TOKEN: usize = 16 * 1024;
/// The most bytes of a `kid`.
const LONGEST_KEY_ID: usize = 512;
/// How much of a foreign name an error repeats, in characters.
const SHOWN: usize = 32;

/// A token in its parts.
pub(super) struct Token<'a> {
    /// What the header claims.
    pub(super) algorithm: Algorithm,
    /// What the header claims.
    pub(super) key_id: Option<String>,
    /// What is signed: the first two parts with the dot between them.
    pub(super) signed: &'a str,
    /// The payload as it stands in the token.
    pub(super) payload: &'a str,
    pub(super) signature: Vec<u8>,
}

impl<'a> Token<'a> {
    /// Reads form and header.
    pub(super) fn parse(text: &'a str) -> Result<Self, JwtError> {
        if text.len() > LARGEST_TOKEN {
            return Err(JwtError::TooLarge(text.len()));
        }
        let mut parts = text.split('.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(JwtError::Form);
        };
        let (signed, _) = text.rsplit_once('.').ok_or(JwtError::Form)?;
        let header = object(header, Part::Header)?;
        // RFC 7515 §4.1.11: what is marked as critical and not understood refuses the token; nothing is understood.
        for extension in ["crit", "b64"] {
            if header.contains_key(extension) {
                return Err(JwtError::Extension(extension));
            }
        }
        // `jku`, `jwk`, `x5u`, `x5c` would let the token choose its own key: they are never looked at.
        let algorithm = match header.get("alg") {
            Some(Value::String(name)) => Algorithm::parse(name).ok_or(JwtError::Algorithm)?,
            _ => return Err(JwtError::NoAlgorithm),
        };
        let key_id = match header.get("kid") {
            None => None,
            Some(Value::String(kid)) if kid.len() <= LONGEST_KEY_ID => Some(kid.clone()),
            Some(_) => return Err(JwtError::KeyId),
        };
        Ok(Self {
            algorithm,
            key_id,
            signed,
            payload,
            signature: base64url::decode(signature).ok_or(JwtError::Base64(Part::Signature))?,
        })
    }

    /// The claims, still unverified.
    pub(super) fn claims(&self) -> Result<Map<String, Value>, JwtError> {
        object(self.payload, Part::Payload)
    }
}

/// `iss` as the token claims it, unverified: good for choosing the rule to verify the token with, and for nothing else.
///
/// # Errors
/// As for verifying, when the token is not a token.
pub fn unverified_issuer(token: &str) -> Result<Option<String>, JwtError> {
    let mut claims = Token::parse(token)?.claims()?;
    match claims.remove("iss") {
        None => Ok(None),
        Some(Value::String(issuer)) => Ok(Some(issuer)),
        Some(_) => Err(JwtError::ClaimType {
            claim: "iss",
            expected: "a string",
        }),
    }
}

fn object(text: &str, part: Part) -> Result<Map<String, Value>, JwtError> {
    let bytes = base64url::decode(text).ok_or(JwtError::Base64(part))?;
    json::object(&bytes).map_err(|error| match error {
        JsonError::Malformed => JwtError::Json(part),
        JsonError::TooDeep => JwtError::TooDeep(part),
        JsonError::Duplicate(name) => JwtError::Duplicate {
            part,
            name: name.chars().filter(|c| !c.is_control()).take(SHOWN).collect(),
        },
    })
}
