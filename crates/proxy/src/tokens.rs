//! Users' tokens on a worker: verified once, remembered by their whole value until they expire or their keys change.
//!
//! `decide` says which tokens are where and which rule they belong to; the signature is verified here, on the worker. What
//! is remembered hangs on the rule itself, which is another one as soon as its document or its keys change.

pub(crate) mod keyring;
mod memory;
pub(crate) mod unknown_keys;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bartizan_decide::authenticate::Keys;
use bartizan_decide::{RefusedKind, TokenRefused, TokenRule, User};
use bartizan_identity::jwt::{CLOCK_SKEW_SECONDS, JwtError};
use bartizan_telemetry::{Counter, WorkerMetrics, families};
use smallvec::SmallVec;

use keyring::Keyring;
use memory::{Memory, MemoryLimits};
use unknown_keys::UnknownKey;

/// What a worker remembers of accepted tokens.
const ACCEPTED: MemoryLimits = MemoryLimits {
    entries: 4096,
    bytes: 8 * 1024 * 1024,
};
/// What a worker remembers of refused ones, so that a client that keeps sending a bad one costs little.
const REFUSED: MemoryLimits = MemoryLimits {
    entries: 1024,
    bytes: 1024 * 1024,
};
/// Seconds that a refusal is remembered: the time may make it untrue.
const REFUSED_FOR: i64 = 10;
/// What a remembered token holds, in its own lengths: itself, its payload and its claims.
const WEIGHT: usize = 4;

/// What a worker knows of tokens.
pub(crate) struct Tokens {
    accepted: RefCell<Memory<Rc<Known>>>,
    refused: RefCell<Memory<Refusal>>,
    verified: Counter,
    remembered: Counter,
    remembered_refusal: Counter,
}

/// A token that was accepted.
pub(crate) struct Known {
    rule: Arc<TokenRule>,
    pub(crate) user: Arc<User>,
    /// What the log says of the user, by the words that policies use: those of this snapshot.
    said: RefCell<Option<(u64, Rc<str>)>>,
}

struct Refusal {
    rule: Arc<TokenRule>,
    /// When it was refused; a token that was good before may be judged by an earlier time.
    at: i64,
    refused: TokenRefused,
    reason: &'static str,
}

/// What was met while the tokens of one request were looked at.
#[derive(Default)]
pub(crate) struct Seen {
    /// Accepted tokens.
    pub(crate) known: SmallVec<[Rc<Known>; 1]>,
    /// Why a token was refused: a word for the metric.
    pub(crate) reason: Option<&'static str>,
    /// A key that the fetched keys of an issuer lack.
    pub(crate) unknown: Option<UnknownKey>,
}

impl Tokens {
    pub(crate) fn new(metrics: &WorkerMetrics) -> Self {
        Self {
            accepted: RefCell::new(Memory::new(ACCEPTED)),
            refused: RefCell::new(Memory::new(REFUSED)),
            verified: metrics.counter(&families::JWT_VERIFIED, &[]),
            remembered: metrics.counter(&families::JWT_REMEMBERED, &["accepted"]),
            remembered_refusal: metrics.counter(&families::JWT_REMEMBERED, &["refused"]),
        }
    }

    /// Whose token it is, by a rule, at `now` in seconds since 1970.
    ///
    /// # Errors
    /// [`TokenRefused`] in Envoy's words.
    pub(crate) fn verify(
        &self,
        keyring: &Keyring,
        rule: &Arc<TokenRule>,
        token: &str,
        now: i64,
        seen: &mut Seen,
    ) -> Result<Arc<User>, TokenRefused> {
        let is_by_rule = |known: &Rc<Known>| Arc::ptr_eq(&known.rule, rule);
        if let Some(known) = self.accepted.borrow_mut().get(token, now, is_by_rule) {
            self.remembered.increment();
            seen.known.push(Rc::clone(known));
            return Ok(Arc::clone(&known.user));
        }
        let is_by_rule = |refusal: &Refusal| Arc::ptr_eq(&refusal.rule, rule) && refusal.at <= now;
        if let Some(refusal) = self.refused.borrow_mut().get(token, now, is_by_rule) {
            self.remembered_refusal.increment();
            seen.reason = Some(refusal.reason);
            return Err(refusal.refused.clone());
        }
        match verify(keyring, rule, token, now) {
            Ok(user) => {
                self.verified.increment();
                let known = Rc::new(Known {
                    rule: Arc::clone(rule),
                    user: Arc::new(user),
                    said: RefCell::default(),
                });
                let until = known
                    .user
                    .expires_at()
                    .map_or(i64::MAX, |at| at.saturating_add(CLOCK_SKEW_SECONDS));
                let weight = token.len().saturating_mul(WEIGHT);
                self.accepted
                    .borrow_mut()
                    .put(token, until, weight, Rc::clone(&known));
                let user = Arc::clone(&known.user);
                seen.known.push(known);
                Ok(user)
            }
            Err(error) => {
                let refused = TokenRefused::new(kind(&error), says(&error), why(&error, rule));
                seen.reason = Some(error.reason());
                match (&error, &rule.keys) {
                    // Its key may be there in a moment.
                    (JwtError::UnknownKey(kid), Keys::Text { set: Some(set), .. }) => {
                        seen.unknown = Some(UnknownKey {
                            set: Arc::clone(set),
                            kid: Arc::clone(kid),
                        });
                    }
                    _ => self.refused.borrow_mut().put(
                        token,
                        now.saturating_add(REFUSED_FOR),
                        token.len() + size_of::<Refusal>(),
                        Refusal {
                            rule: Arc::clone(rule),
                            at: now,
                            refused: refused.clone(),
                            reason: error.reason(),
                        },
                    ),
                }
                Err(refused)
            }
        }
    }
}

impl Known {
    /// The user as a JSON object for the log, put together once a change.
    pub(crate) fn said(&self, changes: u64, keyring: &Keyring) -> Rc<str> {
        let mut said = self.said.borrow_mut();
        match &*said {
            Some((at, text)) if *at == changes => Rc::clone(text),
            _ => {
                let text: Rc<str> = describe(&self.user, &keyring.claims()).into();
                *said = Some((changes, Rc::clone(&text)));
                text
            }
        }
    }
}

/// What may be told of a user: never the token, and of the claims only those that policies speak of.
fn describe(user: &User, claims: &[Arc<str>]) -> String {
    let told: serde_json::Map<_, _> = claims
        .iter()
        .filter_map(|name| Some((name.to_string(), user.claims().get(&**name)?.clone())))
        .collect();
    serde_json::json!({
        "issuer": user.issuer(),
        "subject": user.subject(),
        "principal": user.principal(),
        "presenter": user.presenter(),
        "audiences": user.audiences(),
        "key_id": user.key_id(),
        "expires_at": user.expires_at(),
        "claims": told,
    })
    .to_string()
}

fn verify(keyring: &Keyring, rule: &Arc<TokenRule>, token: &str, now: i64) -> Result<User, JwtError> {
    let Keys::Text { jwks, .. } = &rule.keys else {
        return Err(JwtError::NoKeys);
    };
    let keys = keyring.keys(jwks).ok_or(JwtError::NoKeys)?;
    let claims = keys.verify(token, now, rule.rule.issuer.as_deref(), &rule.rule.audiences)?;
    Ok(User::new(rule, token, claims.all, claims.key_id.as_deref()))
}

fn kind(error: &JwtError) -> RefusedKind {
    if *error == JwtError::Issuer {
        RefusedKind::OtherIssuer
    } else if *error == JwtError::Audience {
        RefusedKind::Audience
    } else {
        RefusedKind::Other
    }
}

/// For the client, in Envoy's words where it has some.
fn says(error: &JwtError) -> &'static str {
    use bartizan_identity::jwt::Part;
    match error {
        JwtError::TooLarge(_) => "Jwt is too large",
        JwtError::Form => "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        JwtError::Base64(Part::Header) => "Jwt header is an invalid Base64url encoded",
        JwtError::Base64(Part::Payload) => "Jwt payload is an invalid Base64url encoded",
        JwtError::Base64(Part::Signature) => "Jwt signature is an invalid Base64url encoded",
        JwtError::Json(Part::Header) => "Jwt header is an invalid JSON",
        JwtError::Json(_) => "Jwt payload is an invalid JSON",
        JwtError::Duplicate { .. } => "Jwt has a name twice",
        JwtError::TooDeep(_) => "Jwt is nested too deeply",
        JwtError::NoAlgorithm => "Jwt header [alg] field is required and must be a string",
        JwtError::Algorithm => "Jwt header [alg] is not supported",
        JwtError::KeyId => "Jwt header [kid] field is not a string",
        JwtError::Extension(_) => "Jwt header [crit] is not supported",
        JwtError::ClaimType { .. } => "Jwt payload has a field of a wrong type",
        JwtError::Issuer => "Jwt issuer is not configured",
        JwtError::Expired => "Jwt is expired",
        JwtError::NotYetValid => "Jwt not yet valid",
        JwtError::IssuedLater => "Jwt was issued in the future",
        JwtError::Audience => "Audiences in Jwt are not allowed",
        JwtError::NoKeys => "Jwks doesn't have any valid public key",
        JwtError::UnknownKey(_) | JwtError::KeyMismatch => {
            "Jwks doesn't have key to match kid or alg from Jwt"
        }
        JwtError::Signature => "Jwt verification fails",
    }
}

/// For the log. A `kid` is the sender's text: it is told shortened, and nothing else of the token is.
fn why(error: &JwtError, rule: &TokenRule) -> String {
    let rule_text = format!("RequestAuthentication `{}` jwtRules[{}]", rule.policy, rule.index);
    if let JwtError::UnknownKey(kid) = error {
        let kid: String = kid.chars().take(64).collect();
        return format!("{error}: no key `{kid}` ({rule_text})");
    }
    format!("{error} ({rule_text})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use bartizan_identity::jwt::generate_key;
    use bartizan_mesh::{JwtRule, KeySource};
    use bartizan_types::NamespacedName;
    use serde_json::json;

    fn rule(jwks: &str) -> Arc<TokenRule> {
        Arc::new(TokenRule {
            policy: NamespacedName::parse("shop/users").unwrap(),
            index: 1,
            rule: JwtRule {
                issuer: None,
                audiences: Vec::new(),
                keys: KeySource::Inline(jwks.into()),
                locations: Vec::new(),
                forward_original_token: false,
                output_payload_to_header: None,
                output_claims: Vec::new(),
                space_delimited_claims: Vec::new(),
            },
            keys: Keys::Text {
                jwks: jwks.into(),
                set: None,
            },
        })
    }

    #[test]
    fn a_refusal_counts_for_its_rule_its_time_and_a_while() {
        let key = generate_key(bartizan_identity::jwt::Algorithm::Es256).unwrap();
        let jwks = key.to_public_jwks().unwrap();
        let (rule, other) = (rule(&jwks), rule(&jwks));
        let tokens =
            Tokens::new(&bartizan_telemetry::Registry::new(bartizan_telemetry::Limits::default()).worker());
        let token = key
            .sign(&serde_json::Map::new(), &json!({ "exp": 1_000 }))
            .unwrap();
        let keyring = Keyring::default();
        let ask = |rule, now| {
            let mut seen = Seen::default();
            let verdict = tokens.verify(&keyring, rule, &token, now, &mut seen);
            (verdict.is_ok(), seen.reason, seen.known.len())
        };
        let remembered = |rule: &Arc<TokenRule>, now| {
            let mut refused = tokens.refused.borrow_mut();
            refused
                .get(&token, now, |refusal| Arc::ptr_eq(&refusal.rule, rule))
                .is_some()
        };
        assert_eq!(ask(&rule, 1_061), (false, Some("expired"), 0));
        assert!(remembered(&rule, 1_071) && !remembered(&other, 1_061));
        // A stream that it opened in time is judged again by that time.
        assert_eq!(ask(&rule, 1_060), (true, None, 1));
        assert_eq!(ask(&rule, 1_061), (false, Some("expired"), 0));
        assert!(!remembered(&rule, 1_072));
    }

    #[test]
    fn the_log_learns_of_claims_that_policies_speak_of_and_never_the_token() {
        let claims = json!({ "iss": "i", "sub": "s", "role": ["a"], "secret": "x", "scope": "a b" });
        let user = User::new(
            &rule("{}"),
            "a.b.c",
            claims.as_object().unwrap().clone(),
            Some("k"),
        );
        let text = describe(&user, &["role".into(), "scope".into(), "absent".into()]);
        let told: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(told["claims"], json!({ "role": ["a"], "scope": ["a", "b"] }));
        assert_eq!(told["principal"], "i/s");
        assert!(!text.contains("a.b.c") && !text.contains("secret"), "{text}");
    }

    #[test]
    fn a_key_id_is_told_shortened() {
        let text = why(&JwtError::UnknownKey("k".repeat(500).into()), &rule("{}"));
        assert!(text.contains(&format!("`{}`", "k".repeat(64))), "{text}");
        assert!(
            text.ends_with("(RequestAuthentication `shop/users` jwtRules[1])"),
            "{text}"
        );
    }
}
