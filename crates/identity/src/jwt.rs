//! Tokens of users: reads the keys of an issuer (JWKS, RFC 7517), verifies a JWT against them (RFC 7519, RFC 8725), and
//! makes keys and tokens for the door and for tests.
//!
//! No IO and no clock: keys come as text, the time as an argument. What a verified token means for a request is decided in
//! `decide`; where keys come from is `control`'s.
//!
//! Written directly over aws-lc-rs: which key may verify which algorithm, what a header may say and what JSON may look
//! like are the whole of the security here, and each of these rules stands in one place to be read.

mod algorithm;
mod base64url;
mod claims;
mod json;
mod keys;
mod sign;
#[cfg(test)]
mod tests;
mod token;

use std::sync::Arc;

pub use algorithm::{Algorithm, KeyType};
pub use claims::{CLOCK_SKEW_SECONDS, Claims};
pub use keys::{KeySet, KeySetError, LARGEST_KEY_SET, MOST_KEYS, SkippedKey, public_only};
pub use sign::{SignError, SigningKey, generate_key, sign};
pub use token::{LARGEST_TOKEN, unverified_issuer};

/// Which of a token's three parts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// The JOSE header.
    Header,
    /// The claims.
    Payload,
    /// The signature.
    Signature,
}

impl std::fmt::Display for Part {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Header => "header",
            Self::Payload => "payload",
            Self::Signature => "signature",
        })
    }
}

/// Why a token is refused. The text may be told to the client: it says nothing that the client's own token or the
/// issuer's public keys do not say. Where Envoy has a text for the same case, it is Envoy's.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum JwtError {
    /// More than [`LARGEST_TOKEN`] bytes.
    #[error("Jwt is too large: {0} bytes, {LARGEST_TOKEN} are taken")]
    TooLarge(usize),
    /// Not three parts between two dots; also an encrypted token, which has five.
    #[error("Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections")]
    Form,
    /// Not base64url (RFC 7515 §2): a foreign character, padding, white space, or bits that mean nothing.
    #[error("Jwt {0} is an invalid Base64url encoded")]
    Base64(Part),
    /// Not one JSON object: no JSON, another kind of value, or something behind it.
    #[error("Jwt {0} is an invalid JSON")]
    Json(Part),
    /// The same name twice in an object: two readers could see two different tokens.
    #[error("Jwt {part} has `{name}` twice")]
    Duplicate {
        /// Where.
        part: Part,
        /// The name, shortened.
        name: String,
    },
    /// Objects and lists in each other, more than 32 deep.
    #[error("Jwt {0} is nested too deeply")]
    TooDeep(Part),
    /// `alg` is missing or no text.
    #[error("Jwt header [alg] field is required and must be a string")]
    NoAlgorithm,
    /// `alg` is `none`, symmetric, or unknown.
    #[error("Jwt header [alg] is not supported")]
    Algorithm,
    /// `kid` is no text or longer than 512 bytes.
    #[error("Jwt header [kid] field is not a string")]
    KeyId,
    /// `crit` asks for the understanding of an extension (RFC 7515 §4.1.11), or `b64` (RFC 7797) changes what is signed;
    /// none is understood.
    #[error("Jwt header [{0}] is not supported")]
    Extension(&'static str),
    /// A registered claim is not of its type.
    #[error("Jwt payload [{claim}] field is not {expected}")]
    ClaimType {
        /// Which claim.
        claim: &'static str,
        /// What it should be.
        expected: &'static str,
    },
    /// `iss` is not the rule's issuer, or is missing.
    #[error("Jwt issuer is not configured")]
    Issuer,
    /// `exp` has passed, by more than the skew.
    #[error("Jwt is expired")]
    Expired,
    /// `nbf` has not come, by more than the skew.
    #[error("Jwt not yet valid")]
    NotYetValid,
    /// `iat` lies in the future, by more than the skew.
    #[error("Jwt was issued in the future")]
    IssuedLater,
    /// None of `aud` is accepted, or it is missing.
    #[error("Audiences in Jwt are not allowed")]
    Audience,
    /// The key set has no key at all.
    #[error("Jwks doesn't have any valid public key")]
    NoKeys,
    /// No key of the set has this `kid`. Newer keys of the issuer might have it: this is the one refusal after which asking
    /// for them makes sense.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    UnknownKey(Arc<str>),
    /// There are keys (of this `kid`, if the token has one), but none that may verify this `alg`.
    #[error("Jwks doesn't have key to match kid or alg from Jwt")]
    KeyMismatch,
    /// No fitting key verifies the signature.
    #[error("Jwt verification fails")]
    Signature,
}

impl JwtError {
    /// A short stable word for metrics and logs.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::TooLarge(_) => "too_large",
            Self::Form => "form",
            Self::Base64(_) => "base64",
            Self::Json(_) => "json",
            Self::Duplicate { .. } => "duplicate",
            Self::TooDeep(_) => "too_deep",
            Self::NoAlgorithm | Self::Algorithm => "algorithm",
            Self::KeyId => "key_id",
            Self::Extension(_) => "extension",
            Self::ClaimType { .. } => "claim_type",
            Self::Issuer => "issuer",
            Self::Expired => "expired",
            Self::NotYetValid => "not_yet_valid",
            Self::IssuedLater => "issued_later",
            Self::Audience => "audience",
            Self::NoKeys => "no_keys",
            Self::UnknownKey(_) => "unknown_key",
            Self::KeyMismatch => "key_mismatch",
            Self::Signature => "signature",
        }
    }
}
