//! The registered claims (RFC 7519 §4.1): of the right type, of the right issuer, at the right time, for the right audience.

use serde_json::{Map, Value};

use super::JwtError;
use super::algorithm::Algorithm;
use super::token::Token;

/// How far clocks may be apart, in seconds; as in Envoy's `clock_skew_seconds`.
pub const CLOCK_SKEW_SECONDS: i64 = 60;

/// What a verified token says.
#[derive(Clone, PartialEq, Debug)]
pub struct Claims {
    /// All claims, as they stand in the token.
    pub all: Map<String, Value>,
    /// `iss`.
    pub issuer: Option<String>,
    /// `sub`.
    pub subject: Option<String>,
    /// `aud`, as a list; empty when missing.
    pub audiences: Vec<String>,
    /// `azp` (OpenID Connect Core §2): whom the token was issued to; none when missing or no text.
    pub presenter: Option<String>,
    /// `exp` in seconds since 1970, without the skew; none: never. What remembers a verified token must forget it at
    /// `exp` + [`CLOCK_SKEW_SECONDS`].
    pub expires_at: Option<i64>,
    /// `kid` of the header; the key that verified the token has the same one or none.
    pub key_id: Option<String>,
    /// With which algorithm the signature was made.
    pub algorithm: Algorithm,
    /// The payload in base64url, as it stands in the token.
    pub payload: String,
}

impl Claims {
    /// Reads the claims of a token whose signature is not yet verified.
    pub(super) fn read(token: &Token<'_>) -> Result<Self, JwtError> {
        let all = token.claims()?;
        Ok(Self {
            issuer: text(&all, "iss")?,
            subject: text(&all, "sub")?,
            audiences: audiences(&all)?,
            presenter: all.get("azp").and_then(Value::as_str).map(str::to_owned),
            expires_at: seconds(&all, "exp", Round::Down)?,
            key_id: token.key_id.clone(),
            algorithm: token.algorithm,
            payload: token.payload.to_owned(),
            all,
        })
    }

    /// Compares with what the rule accepts, in Envoy's order: issuer, times, audience.
    pub(super) fn check(
        &self,
        now: i64,
        issuer: Option<&str>,
        audiences: &[impl AsRef<str>],
    ) -> Result<(), JwtError> {
        if issuer.is_some() && self.issuer.as_deref() != issuer {
            return Err(JwtError::Issuer);
        }
        let not_before = seconds(&self.all, "nbf", Round::Up)?;
        let issued_at = seconds(&self.all, "iat", Round::Up)?;
        let (earliest, latest) = (
            now.saturating_sub(CLOCK_SKEW_SECONDS),
            now.saturating_add(CLOCK_SKEW_SECONDS),
        );
        if not_before.is_some_and(|from| from > latest) {
            return Err(JwtError::NotYetValid);
        }
        if self.expires_at.is_some_and(|until| until < earliest) {
            return Err(JwtError::Expired);
        }
        if issued_at.is_some_and(|at| at > latest) {
            return Err(JwtError::IssuedLater);
        }
        let is_for = |wanted: &str| self.audiences.iter().any(|audience| audience == wanted);
        if !audiences.is_empty() && !audiences.iter().any(|wanted| is_for(wanted.as_ref())) {
            return Err(JwtError::Audience);
        }
        Ok(())
    }
}

fn text(claims: &Map<String, Value>, claim: &'static str) -> Result<Option<String>, JwtError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(JwtError::ClaimType {
            claim,
            expected: "a string",
        }),
    }
}

fn audiences(claims: &Map<String, Value>) -> Result<Vec<String>, JwtError> {
    let wrong = JwtError::ClaimType {
        claim: "aud",
        expected: "a string or string list",
    };
    match claims.get("aud") {
        None => Ok(Vec::new()),
        Some(Value::String(audience)) => Ok(vec![audience.clone()]),
        Some(Value::Array(list)) => list
            .iter()
            .map(|item| item.as_str().map(str::to_owned).ok_or_else(|| wrong.clone()))
            .collect(),
        Some(_) => Err(wrong),
    }
}

/// Where a fraction of a second goes: always to the side on which less is valid.
#[derive(Clone, Copy)]
enum Round {
    Up,
    Down,
}

/// A `NumericDate` (RFC 7519 §2): a number of seconds, which may have a fraction.
fn seconds(claims: &Map<String, Value>, claim: &'static str, round: Round) -> Result<Option<i64>, JwtError> {
    /// Beyond any date, and exact as a double.
    const LATEST: i64 = 1 << 53;
    let wrong = JwtError::ClaimType {
        claim,
        expected: "a time in seconds",
    };
    let number = match claims.get(claim) {
        None => return Ok(None),
        Some(Value::Number(number)) => number,
        Some(_) => return Err(wrong),
    };
    let seconds = match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) => seconds,
        (None, Some(fraction)) => whole(fraction, round).ok_or_else(|| wrong.clone())?,
        (None, None) => return Err(wrong),
    };
    if (0..=LATEST).contains(&seconds) {
        Ok(Some(seconds))
    } else {
        Err(wrong)
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "the line before shows that the value is small"
)]
fn whole(seconds: f64, round: Round) -> Option<i64> {
    let seconds = match round {
        Round::Up => seconds.ceil(),
        Round::Down => seconds.floor(),
    };
    (seconds.abs() < 1e16).then_some(seconds as i64)
}
