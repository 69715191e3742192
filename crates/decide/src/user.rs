//! A user, as a verified token tells it: built once for a token and the rule that accepted it.

use std::fmt;
use std::sync::Arc;

use bartizan_types::NamespacedName;
use serde_json::{Map, Value};

use crate::authenticate::TokenRule;

/// A user whose token was verified.
#[derive(Clone)]
pub struct User {
    issuer: Option<String>,
    subject: Option<String>,
    /// `issuer/subject`, where the token has both.
    principal: Option<String>,
    audiences: Vec<String>,
    presenter: Option<String>,
    key_id: Option<String>,
    expires_at: Option<i64>,
    claims: Map<String, Value>,
    /// What its rule hands on: header and value.
    outputs: Vec<(Arc<str>, Arc<[u8]>)>,
    /// Its rule lets the token stay in the request.
    stays: bool,
    /// The document and the index of the rule that accepted the token.
    accepted_by: (NamespacedName, usize),
    token: Arc<str>,
}

impl User {
    /// The user of a token that `rule` accepted. `claims` is the token's payload, whose signature, issuer, audience and
    /// times were verified; `key_id` names the key that did.
    pub fn new(rule: &TokenRule, token: &str, claims: Map<String, Value>, key_id: Option<&str>) -> Self {
        let text = |name: &str| claims.get(name).and_then(Value::as_str).map(str::to_owned);
        let (issuer, subject) = (text("iss"), text("sub"));
        let principal = match (&issuer, &subject) {
            (Some(issuer), Some(subject)) => Some(format!("{issuer}/{subject}")),
            (None, _) | (_, None) => None,
        };
        Self {
            principal,
            issuer,
            subject,
            audiences: texts(claims.get("aud")),
            presenter: text("azp"),
            key_id: key_id.map(str::to_owned),
            expires_at: claims.get("exp").and_then(seconds),
            outputs: outputs(rule, token, &claims),
            claims: split(claims, &rule.rule.space_delimited_claims),
            accepted_by: (rule.policy.clone(), rule.index),
            stays: rule.rule.forward_original_token,
            token: token.into(),
        }
    }

    /// Claim `iss`.
    pub fn issuer(&self) -> Option<&str> {
        self.issuer.as_deref()
    }

    /// Claim `sub`.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// `issuer/subject` (Istio `request.auth.principal`); `None` where the token lacks one of them.
    pub fn principal(&self) -> Option<&str> {
        self.principal.as_deref()
    }

    /// Claim `aud`, whether it is a text or a list.
    pub fn audiences(&self) -> &[String] {
        &self.audiences
    }

    pub(crate) fn audience_list(&self) -> &Vec<String> {
        &self.audiences
    }

    /// Claim `azp` (Istio `request.auth.presenter`).
    pub fn presenter(&self) -> Option<&str> {
        self.presenter.as_deref()
    }

    /// The `kid` of the key that verified the token, if it has one.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// Claim `exp`, in seconds since 1970.
    pub fn expires_at(&self) -> Option<i64> {
        self.expires_at
    }

    /// The `RequestAuthentication` and the index of its rule that accepted the token.
    pub fn accepted_by(&self) -> (&NamespacedName, usize) {
        (&self.accepted_by.0, self.accepted_by.1)
    }

    /// All claims; those that are space-delimited are lists.
    pub fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    /// The headers that its rule hands on, with their values.
    pub(crate) fn outputs(&self) -> &[(Arc<str>, Arc<[u8]>)] {
        &self.outputs
    }

    /// `forwardOriginalToken` of its rule.
    pub(crate) fn stays(&self) -> bool {
        self.stays
    }

    pub(crate) fn token(&self) -> &str {
        &self.token
    }
}

impl fmt::Debug for User {
    /// Without the token and the claims: they are somebody's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("User")
            .field("principal", &self.principal)
            .field("key_id", &self.key_id)
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}

/// The texts of a claim that is a text or a list; what is no text in a list does not count.
fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(text)) => vec![text.clone()],
        Some(Value::Array(values)) => values
            .iter()
            .filter_map(|value| value.as_str().map(str::to_owned))
            .collect(),
        Some(Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_)) | None => Vec::new(),
    }
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "a float saturates, and seconds of that size never come"
)]
fn seconds(value: &Value) -> Option<i64> {
    value
        .as_i64()
        .or_else(|| value.as_f64().map(|seconds| seconds as i64))
}

/// Makes lists of the space-delimited claims: `scope`, `permission` and the declared ones.
fn split(mut claims: Map<String, Value>, declared: &[Arc<str>]) -> Map<String, Value> {
    let names = ["scope", "permission"]
        .into_iter()
        .chain(declared.iter().map(|name| &**name));
    for name in names {
        if let Some(value) = claims.get_mut(name)
            && let Value::String(text) = value
        {
            let words = text.split(' ').filter(|word| !word.is_empty());
            *value = Value::Array(words.map(|word| Value::String(word.to_owned())).collect());
        }
    }
    claims
}

/// `outputPayloadToHeader` and `outputClaimToHeaders`: the payload as the token has it, in base64url; claims that are a
/// text, an integer or a boolean.
fn outputs(rule: &TokenRule, token: &str, claims: &Map<String, Value>) -> Vec<(Arc<str>, Arc<[u8]>)> {
    let rule = &rule.rule;
    let payload = rule.output_payload_to_header.as_ref().and_then(|header| {
        let payload = token.split('.').nth(1)?;
        Some((Arc::clone(header), payload.as_bytes().into()))
    });
    let claims = rule.output_claims.iter().filter_map(|output| {
        let text = match claim(claims, &output.claim)? {
            Value::String(text) => text.clone(),
            Value::Bool(value) => value.to_string(),
            Value::Number(number) => integer(number)?,
            Value::Null | Value::Array(_) | Value::Object(_) => return None,
        };
        // A line break would begin a header that nobody verified.
        let fits = text.bytes().all(|byte| byte >= 0x20 && byte != 0x7f);
        fits.then(|| (Arc::clone(&output.header), text.into_bytes().into()))
    });
    payload.into_iter().chain(claims).collect()
}

/// The claim of these names, from the outside in.
pub(crate) fn claim<'c>(claims: &'c Map<String, Value>, path: &[Arc<str>]) -> Option<&'c Value> {
    let (first, rest) = path.split_first()?;
    rest.iter().try_fold(claims.get(&**first)?, |value, name| {
        value.as_object()?.get(&**name)
    })
}

/// An integer's digits, also of `1.0`; `None` for a fraction.
fn integer(number: &serde_json::Number) -> Option<String> {
    if !number.is_f64() {
        return Some(number.to_string());
    }
    let value = number.as_f64()?;
    // Beyond 2^53 a float has no exact integer to hand on.
    (value.fract() == 0.0 && value.abs() <= 9_007_199_254_740_992.0).then(|| format!("{value:.0}"))
}
