//! Who the user of a request is: which tokens are where, which rules accept them, what is handed on.
//!
//! The meaning is Istio's `RequestAuthentication`. All rules of all documents that select the workload count together, in
//! the order of their issuers: a request passes when one of them accepts a token, or when there is no token at any of their
//! places. Signatures are not verified here: `verify` is asked for that, so that keys and the memory of verified tokens
//! stay with the caller.

mod tokens;

use std::fmt;
use std::sync::Arc;

use bartizan_mesh::{JwtRule, KeySource, RequestAuthentication, Snapshot, TokenLocation, View};
use bartizan_types::NamespacedName;

use crate::engine::Engine;
use crate::facts::{Headers, HttpFacts};
use crate::user::User;

/// One rule for tokens with its keys.
#[derive(Clone, PartialEq, Debug)]
pub struct TokenRule {
    /// The document.
    pub policy: NamespacedName,
    /// The index in its `jwtRules`, from 0.
    pub index: usize,
    /// The rule.
    pub rule: JwtRule,
    /// The keys that verify its tokens.
    pub keys: Keys,
}

/// The keys of a rule.
#[derive(Clone, PartialEq, Debug)]
pub enum Keys {
    /// There are some.
    Text {
        /// The JSON of the JWKS.
        jwks: Arc<str>,
        /// The name of the key set that they came with, when they were fetched.
        set: Option<Arc<str>>,
    },
    /// They have not been fetched yet: every token is refused.
    Missing {
        /// The key set's name.
        set: Arc<str>,
    },
}

/// What the caller says about a token that it does not accept.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TokenRefused {
    kind: RefusedKind,
    says: &'static str,
    why: String,
}

/// How a token fails, as far as it makes a difference.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RefusedKind {
    /// Another issuer's: another rule may accept it.
    OtherIssuer,
    /// It is for another audience.
    Audience,
    /// Anything else.
    Other,
}

impl TokenRefused {
    /// `says` is for the client, in Envoy's words (`Jwt is expired`); `why` is for the log.
    pub fn new(kind: RefusedKind, says: &'static str, why: String) -> Self {
        Self { kind, says, why }
    }

    /// For the client.
    pub fn says(&self) -> &'static str {
        self.says
    }

    /// For the log.
    pub fn why(&self) -> &str {
        &self.why
    }
}

/// A request whose tokens, if it has any, are in order.
#[derive(Clone, Debug)]
pub struct Authenticated {
    /// Whose token the first rule accepted.
    pub user: Option<Arc<User>>,
    /// What is changed before the request is authorized and sent on.
    pub changes: Changes,
    /// Every accepted token, by the place where it was.
    accepted: Vec<Accepted>,
}

#[derive(Clone, Debug)]
struct Accepted {
    location: TokenLocation,
    user: Arc<User>,
}

/// What is changed in a request. Applied in this order: headers named in `forged` and `remove` are dropped, those of `set`
/// are appended, the target is replaced.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Changes {
    /// Headers, in lower case, that only this proxy may write: whatever a client sent there goes.
    pub forged: Arc<[Arc<str>]>,
    /// Headers, in lower case, that a token was in.
    pub remove: Vec<Arc<str>>,
    /// Header lines.
    pub set: Vec<(Arc<str>, Arc<[u8]>)>,
    /// The target without the parameters that a token was in.
    pub target: Option<String>,
}

impl Changes {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.forged.is_empty() && self.remove.is_empty() && self.set.is_empty() && self.target.is_none()
    }
}

/// How long a token counts after its `exp`, in seconds: clocks differ (Envoy's default).
pub const SKEW: i64 = 60;

impl Authenticated {
    /// When the first of the accepted tokens no longer counts, in seconds since 1970: its `exp` and the allowed skew.
    pub fn expires_at(&self) -> Option<i64> {
        self.accepted
            .iter()
            .filter_map(|accepted| accepted.user.expires_at())
            .min()
            .map(|at| at.saturating_add(SKEW))
    }
}

/// A refusal for a token: not an error, a result with a reason.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unauthenticated {
    refused: TokenRefused,
    policy: Option<NamespacedName>,
    /// Set when it leaves [`authenticate`].
    answers_as_istio: bool,
}

impl Unauthenticated {
    /// The status of the answer: 401 (RFC 6750 §3.1). Where Istio's answers are given, a token for another audience is
    /// answered with 403, as Envoy does.
    pub fn status(&self) -> u16 {
        match self.refused.kind {
            RefusedKind::Audience if self.answers_as_istio => 403,
            RefusedKind::Audience | RefusedKind::OtherIssuer | RefusedKind::Other => 401,
        }
    }

    /// The body of the answer, in Envoy's words.
    pub fn says(&self) -> &'static str {
        self.refused.says
    }

    /// For the log.
    pub fn why(&self) -> &str {
        &self.refused.why
    }

    /// The document whose rule refused the token.
    pub fn policy(&self) -> Option<&NamespacedName> {
        self.policy.as_ref()
    }

    /// `www-authenticate` (RFC 6750 §3). `realm` is the URI that was asked for.
    pub fn challenge(&self, realm: &str) -> String {
        format!("{}, error=\"invalid_token\"", challenge(realm))
    }
}

impl fmt::Display for Unauthenticated {
    /// The access log's `response_code_details`, as Envoy has it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("jwt_authn_access_denied{")?;
        for (at, word) in self.refused.says.split(' ').enumerate() {
            let underscore = if at == 0 { "" } else { "_" };
            write!(f, "{underscore}{word}")?;
        }
        f.write_str("}")
    }
}

/// `Bearer realm="…"`, with nothing in it that could end the quotes.
pub(crate) fn challenge(realm: &str) -> String {
    let realm: String = realm
        .chars()
        .filter(|character| !character.is_control() && !matches!(character, '"' | '\\'))
        .collect();
    format!("Bearer realm=\"{realm}\"")
}

/// Finds the tokens of a request and asks `verify` about them.
///
/// # Errors
/// [`Unauthenticated`] when a token is presented and no rule accepts any, or when the rules themselves cannot be read.
pub fn authenticate<H: Headers + ?Sized>(
    engine: &Engine,
    facts: &HttpFacts<'_, H>,
    mut verify: impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<User>, TokenRefused>,
) -> Result<Authenticated, Unauthenticated> {
    let Some((_, local)) = engine.local(facts.connection.local) else {
        return Ok(Authenticated::nobody(Changes::default())); // `authorize` refuses it
    };
    let rules = &local.tokens;
    rules.refuse_unreadable()?;
    if rules.rules.is_empty() {
        return Ok(Authenticated::nobody(Changes::default()));
    }
    let presented = tokens::presented(&rules.locations, facts);
    let mut authenticated = if is_preflight(facts) {
        Authenticated::nobody(Changes::default())
    } else {
        let found = presented
            .iter()
            .map(|presented| (presented.location, presented.token()));
        rules
            .combine(found, &mut verify)
            .map_err(|refused| Unauthenticated {
                answers_as_istio: engine.answers_as_istio(),
                ..refused
            })?
    };
    authenticated.changes = rules.changes(facts, &presented, &authenticated.accepted);
    Ok(authenticated)
}

/// Judges the tokens of a request that is in flight by other rules, keys or another time.
///
/// # Errors
/// [`Unauthenticated`] when none of them is accepted any more.
pub(crate) fn authenticate_again(
    engine: &Engine,
    local: &NamespacedName,
    before: &Authenticated,
    mut verify: impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<User>, TokenRefused>,
) -> Result<Option<Arc<User>>, Unauthenticated> {
    let Some((_, local)) = engine.local(local) else {
        return Ok(None);
    };
    local.tokens.refuse_unreadable()?;
    let found = before
        .accepted
        .iter()
        .map(|accepted| (&accepted.location, Ok(accepted.user.token())));
    Ok(local.tokens.combine(found, &mut verify)?.user)
}

/// A CORS preflight carries no credentials and asks for nothing (Envoy `bypass_cors_preflight`).
fn is_preflight<H: Headers + ?Sized>(facts: &HttpFacts<'_, H>) -> bool {
    let has = |name| {
        facts
            .headers
            .values(name)
            .next()
            .is_some_and(|value| !value.is_empty())
    };
    facts.method == "OPTIONS" && has("origin") && has("access-control-request-method")
}

impl Authenticated {
    fn nobody(changes: Changes) -> Self {
        Self {
            user: None,
            changes,
            accepted: Vec::new(),
        }
    }
}

/// The rules for tokens of one local workload.
#[derive(Debug, Default)]
pub(crate) struct TokenRules {
    /// In the order of their issuers.
    pub(crate) rules: Vec<Arc<TokenRule>>,
    /// Every place that a rule looks at, once.
    locations: Vec<TokenLocation>,
    /// Headers that the rules hand on.
    outputs: Arc<[Arc<str>]>,
    /// A document that could not be read.
    unreadable: Option<NamespacedName>,
}

impl TokenRules {
    /// The rules of a view; those that are equal to rules of `before` are the same.
    pub(crate) fn build(snapshot: &Snapshot, view: &View, before: Option<&Self>) -> Self {
        let mut rules: Vec<Arc<TokenRule>> = Vec::new();
        let mut unreadable = None;
        for name in &view.authentications {
            let missing = RequestAuthentication::refuse_everything(name.clone());
            let document = snapshot.authentication(name).map_or(&missing, |found| &**found);
            if document.is_unreadable {
                unreadable.get_or_insert_with(|| name.clone());
            }
            rules.extend(document.rules.iter().enumerate().map(|(index, rule)| {
                let rule = TokenRule {
                    policy: name.clone(),
                    index,
                    rule: rule.clone(),
                    keys: keys(snapshot, &rule.keys),
                };
                before
                    .and_then(|before| before.rules.iter().find(|kept| ***kept == rule))
                    .cloned()
                    .unwrap_or_else(|| Arc::new(rule))
            }));
        }
        rules.sort_by(|a, b| a.rule.issuer.cmp(&b.rule.issuer)); // stable: else as the documents have them
        let mut locations: Vec<TokenLocation> = Vec::new();
        let mut outputs: Vec<Arc<str>> = Vec::new();
        for rule in &rules {
            for location in &rule.rule.locations {
                if !locations.contains(location) {
                    locations.push(location.clone());
                }
            }
            let claims = rule.rule.output_claims.iter().map(|output| &output.header);
            outputs.extend(rule.rule.output_payload_to_header.iter().chain(claims).cloned());
        }
        outputs.sort_unstable();
        outputs.dedup();
        Self {
            rules,
            locations,
            outputs: outputs.into(),
            unreadable,
        }
    }

    /// Whether both decide alike about every token.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.unreadable == other.unreadable
            && self.rules.len() == other.rules.len()
            && self
                .rules
                .iter()
                .zip(&other.rules)
                .all(|(a, b)| Arc::ptr_eq(a, b))
    }

    fn refuse_unreadable(&self) -> Result<(), Unauthenticated> {
        match &self.unreadable {
            None => Ok(()),
            Some(name) => Err(Unauthenticated {
                refused: TokenRefused::new(
                    RefusedKind::Other,
                    "Jwt rules are not available",
                    format!(
                        "RequestAuthentication `{name}` is missing or cannot be read, so every request is refused"
                    ),
                ),
                policy: Some(name.clone()),
                answers_as_istio: false,
            }),
        }
    }

    /// Istio's combination: P1 or P2 or … or (for all i: Pi or no token where Pi looks), which is: one rule accepts a token,
    /// or there is none.
    fn combine<'t>(
        &self,
        found: impl Iterator<Item = (&'t TokenLocation, Result<&'t str, TokenRefused>)>,
        verify: &mut impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<User>, TokenRefused>,
    ) -> Result<Authenticated, Unauthenticated> {
        let mut accepted: Vec<(usize, Accepted)> = Vec::new();
        let mut refusal: Option<Unauthenticated> = None;
        for (location, token) in found {
            let verdict = token
                .map_err(|refused| (refused, None))
                .and_then(|token| self.accept(location, token, verify));
            match verdict {
                Ok(None) => {} // no rule looks there
                Ok(Some((at, user))) => {
                    let location = location.clone();
                    accepted.push((at, Accepted { location, user }));
                }
                Err((refused, policy)) => {
                    refusal.get_or_insert(Unauthenticated {
                        refused,
                        policy,
                        answers_as_istio: false,
                    });
                }
            }
        }
        match refusal {
            Some(refusal) if accepted.is_empty() => return Err(refusal),
            Some(_) | None => {}
        }
        accepted.sort_by_key(|(at, _)| *at);
        let accepted: Vec<Accepted> = accepted.into_iter().map(|(_, accepted)| accepted).collect();
        Ok(Authenticated {
            user: accepted.first().map(|accepted| Arc::clone(&accepted.user)),
            changes: Changes::default(),
            accepted,
        })
    }

    /// The first rule that looks at this place and accepts the token; `None` when none looks there.
    #[expect(
        clippy::type_complexity,
        reason = "used once, and read beside its only caller"
    )]
    fn accept(
        &self,
        location: &TokenLocation,
        token: &str,
        verify: &mut impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<User>, TokenRefused>,
    ) -> Result<Option<(usize, Arc<User>)>, (TokenRefused, Option<NamespacedName>)> {
        let mut refusal: Option<(TokenRefused, Option<NamespacedName>)> = None;
        for (at, rule) in self.rules.iter().enumerate() {
            if !rule.rule.locations.contains(location) {
                continue;
            }
            match verify_with_keys(rule, token, verify) {
                Ok(user) => return Ok(Some((at, user))),
                Err(refused) => {
                    // What the token's own issuer's rule says tells more than that it is not another issuer's.
                    let tells_more = refusal.as_ref().is_none_or(|(before, _)| {
                        before.kind == RefusedKind::OtherIssuer && refused.kind != RefusedKind::OtherIssuer
                    });
                    if tells_more {
                        refusal = Some((refused, Some(rule.policy.clone())));
                    }
                }
            }
        }
        refusal.map_or(Ok(None), Err)
    }

    /// What is taken out and handed on. A token stays only where a rule that forwards it accepted it.
    fn changes<H: Headers + ?Sized>(
        &self,
        facts: &HttpFacts<'_, H>,
        presented: &[tokens::Presented<'_>],
        accepted: &[Accepted],
    ) -> Changes {
        let mut changes = Changes {
            forged: Arc::clone(&self.outputs),
            ..Changes::default()
        };
        let gone: Vec<&TokenLocation> = presented
            .iter()
            .map(|presented| presented.location)
            .filter(|location| {
                !accepted
                    .iter()
                    .any(|accepted| accepted.location == **location && accepted.user.stays())
            })
            .collect();
        // Nor does, beside an accepted one, what only some readers take for a token.
        let alike = if accepted.is_empty() {
            Vec::new()
        } else {
            tokens::alike(&self.locations, facts)
        };
        if !(gone.is_empty() && alike.is_empty()) {
            tokens::take_out(&gone, &alike, facts, &mut changes);
        }
        for accepted in accepted {
            for (header, value) in accepted.user.outputs() {
                if !changes.set.iter().any(|(set, _)| set == header) {
                    changes.set.push((Arc::clone(header), Arc::clone(value)));
                }
            }
        }
        changes
    }
}

/// Without keys nothing is verified, and so nothing is accepted.
fn verify_with_keys(
    rule: &Arc<TokenRule>,
    token: &str,
    verify: &mut impl FnMut(&Arc<TokenRule>, &str) -> Result<Arc<User>, TokenRefused>,
) -> Result<Arc<User>, TokenRefused> {
    match &rule.keys {
        Keys::Text { .. } => verify(rule, token),
        Keys::Missing { set } => Err(TokenRefused::new(
            RefusedKind::Other,
            "Jwks doesn't have any valid public key",
            format!(
                "the keys `{set}` of RequestAuthentication `{}` jwtRules[{}] have not been fetched yet",
                rule.policy, rule.index
            ),
        )),
    }
}

fn keys(snapshot: &Snapshot, source: &KeySource) -> Keys {
    match source {
        KeySource::Inline(jwks) => Keys::Text {
            jwks: Arc::clone(jwks),
            set: None,
        },
        KeySource::Fetched(name) => match snapshot.key_set(name).and_then(|set| set.jwks.as_ref()) {
            Some(jwks) => Keys::Text {
                jwks: Arc::clone(jwks),
                set: Some(Arc::clone(name)),
            },
            None => Keys::Missing {
                set: Arc::clone(name),
            },
        },
    }
}
