//! What one workload lets in: its ports and their mTLS modes, its policies, the profile, and the tokens that it accepts.

use std::sync::Arc;

use bartizan_mesh::{
    AcrossNamespaces, Action, Condition, KeySource, MtlsMode, Policy, PolicyName, Profile, Snapshot,
    UserCredentials, View, WithoutPolicy,
};
use bartizan_types::{Protocol, RuleId};

use crate::expression::Callee;
use crate::formula::Formula;
use crate::rule;
use crate::speaker::Speaker;
use crate::text::TextAtom;

/// One rule with the requests that it matches.
#[derive(Clone, Debug)]
pub(crate) struct Ruled {
    pub(crate) id: RuleId,
    pub(crate) formula: Formula,
}

/// What one workload lets in.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// The requests that can be: what ports take, which tokens there are.
    pub(crate) possible: Formula,
    /// Rules that deny.
    pub(crate) denies: Vec<Ruled>,
    /// Rules that allow.
    pub(crate) allows: Vec<Ruled>,
    /// What passes where no policy allows anything.
    pub(crate) without: Option<Formula>,
    /// What is refused for want of a user.
    pub(crate) nobody: Formula,
    /// Policies that ask an authorizer, which is left out: it can only refuse.
    pub(crate) authorizers: Vec<PolicyName>,
}

impl Side {
    /// Reads a workload's view.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "only one condition is about headers"
    )]
    pub(crate) fn of(speaker: &mut Speaker<'_>, snapshot: &Snapshot, view: &View) -> Self {
        let profile = snapshot
            .settings()
            .map_or_else(Profile::zero_trust, |settings| settings.profile.clone());
        let callee = Callee { snapshot, view };
        let is_of_this_namespace = own_namespace(speaker, view);
        let named = match profile.across_namespaces {
            AcrossNamespaces::AsWritten => None,
            AcrossNamespaces::Named => Some(is_of_this_namespace.clone()),
        };
        // A header has one line here. What rules let in with several, they let in with the first of them alone: each line must
        // match what allows, and any line is enough for what denies. Only where an expression reads the same lines as one text
        // could several let in what one does not, and there the expression stays open.
        speaker.read_by_line = view
            .policies
            .iter()
            .filter_map(|name| snapshot.policy(name))
            .flat_map(|policy| &policy.rules)
            .flat_map(|rule| &rule.when)
            .filter_map(|condition| match condition {
                Condition::Header(name, _) => Some(Arc::clone(name)),
                _ => None,
            })
            .collect();
        let (mut denies, mut allows, mut authorizers) = (Vec::new(), Vec::new(), Vec::new());
        let mut has_allow = false;
        for name in &view.policies {
            let policy = snapshot
                .policy(name)
                .cloned()
                .unwrap_or_else(|| Arc::new(Policy::deny_everything(name.clone())));
            if policy.dry_run {
                continue;
            }
            let into = match policy.action {
                Action::Allow => {
                    has_allow = true;
                    &mut allows
                }
                Action::Deny => &mut denies,
                Action::Audit => continue,
                Action::Custom => {
                    authorizers.push(policy.id());
                    continue;
                }
            };
            for (at, written) in policy.rules.iter().enumerate() {
                let formula = rule::rule(speaker, written, policy.action, &callee, named.as_ref());
                into.push(Ruled {
                    id: RuleId {
                        kind: policy.kind.as_str().into(),
                        namespace: policy.name.namespace.clone(),
                        policy: policy.name.name.clone(),
                        rule: u32::try_from(at).unwrap_or(u32::MAX),
                    },
                    formula,
                });
            }
        }
        let without = match (has_allow, profile.without_policy) {
            (true, _) => None,
            (false, WithoutPolicy::Allow) => Some(Formula::Always),
            (false, WithoutPolicy::Deny) => Some(Formula::Never),
            (false, WithoutPolicy::OwnNamespace) => Some(is_of_this_namespace),
        };
        Self {
            possible: Formula::all([
                ports(speaker, snapshot, view),
                forms(speaker),
                tokens(speaker, snapshot, view),
            ]),
            denies,
            allows,
            without,
            nobody: nobody(speaker, snapshot, view, &profile),
            authorizers,
        }
    }

    /// The requests that pass, authorizers left out.
    pub(crate) fn allowed(&self) -> Formula {
        let allow = match &self.without {
            Some(without) => without.clone(),
            None => Formula::any(self.allows.iter().map(|rule| rule.formula.clone())),
        };
        Formula::all([self.possible.clone(), self.refused().not(), allow])
    }

    /// What is refused whatever is allowed.
    pub(crate) fn refused(&self) -> Formula {
        Formula::any(self.denies.iter().map(|rule| rule.formula.clone())).or(self.nobody.clone())
    }
}

fn own_namespace(speaker: &mut Speaker<'_>, view: &View) -> Formula {
    match view.identity.namespace() {
        Some(namespace) if view.identity.trust_domain() == speaker.ground.trust_domain() => {
            rule::namespace(speaker, namespace)
        }
        Some(_) | None => Formula::Never,
    }
}

/// Which ports take plaintext, and where requests are seen.
fn ports(speaker: &mut Speaker<'_>, snapshot: &Snapshot, view: &View) -> Formula {
    let listeners: Vec<u16> = view
        .gateway
        .iter()
        .flat_map(|gateway| snapshot.listeners_of(gateway))
        .map(|listener| listener.port.get())
        .collect();
    let has_identity = speaker.has_identity();
    let is_http = speaker.is_http();
    let takes = |mode: MtlsMode, protocol: Protocol| {
        let identity = match mode {
            MtlsMode::Strict => has_identity.clone(),
            MtlsMode::Disable => has_identity.clone().not(),
            MtlsMode::Permissive => Formula::Always,
        };
        let seen = match protocol {
            Protocol::Tcp | Protocol::Tls => is_http.clone().not(),
            Protocol::Detect => Formula::Always,
            // An application's own TLS passes as bytes where plaintext does.
            Protocol::Http | Protocol::Http2 | Protocol::Grpc => match mode {
                MtlsMode::Strict => is_http.clone(),
                MtlsMode::Disable | MtlsMode::Permissive => is_http.clone().or(has_identity.clone().not()),
            },
        };
        identity.and(seen)
    };
    let mut parts = Vec::new();
    let mut named = Vec::new();
    for listener in &listeners {
        let here = speaker.port(*listener);
        named.push(here.clone());
        parts.push(here.implies(is_http.clone()));
    }
    for inbound in &view.inbound {
        let number = inbound.port.get();
        if listeners.contains(&number) {
            continue;
        }
        let here = speaker.port(number);
        named.push(here.clone());
        parts.push(here.implies(takes(inbound.mtls, inbound.protocol)));
    }
    parts.push(Formula::any(named).or(takes(view.mtls, Protocol::Detect)));
    // In plaintext nothing was agreed on, and a mesh identity is proven in TLS.
    let has_tls = speaker.has_tls();
    parts.push(has_identity.implies(has_tls));
    Formula::all(parts)
}

/// Targets without a path are those of `CONNECT` and `OPTIONS *`.
fn forms(speaker: &mut Speaker<'_>) -> Formula {
    let no_path = speaker.path(TextAtom::Exact(String::new()));
    let connect = speaker.method(TextAtom::Exact("CONNECT".to_owned()));
    let star = speaker.path(TextAtom::Exact("*".to_owned()));
    let options = speaker.method(TextAtom::Exact("OPTIONS".to_owned()));
    Formula::all([
        no_path.clone().implies(connect.clone()),
        connect.implies(no_path),
        star.implies(options),
    ])
}

/// Which tokens pass: of an accepted issuer, for an accepted audience. That keys are there is taken for granted.
fn tokens(speaker: &mut Speaker<'_>, snapshot: &Snapshot, view: &View) -> Formula {
    let is_http = speaker.is_http();
    let has_user = speaker.has_user();
    let mut accepted = Vec::new();
    let mut unreadable = false;
    let mut parts = Vec::new();
    for name in &view.authentications {
        let Some(authentication) = snapshot.authentication(name) else {
            unreadable = true;
            continue;
        };
        unreadable |= authentication.is_unreadable;
        for rule in &authentication.rules {
            if let KeySource::Inline(keys) = &rule.keys
                && keys.trim().is_empty()
            {
                continue;
            }
            let issuer = match &rule.issuer {
                Some(issuer) => speaker.issuer(TextAtom::Exact(issuer.to_string())),
                None => Formula::Always,
            };
            let audiences: Vec<Formula> = rule
                .audiences
                .iter()
                .map(|audience| speaker.claim(&[Arc::from("aud")], TextAtom::Exact(audience.to_string())))
                .collect();
            let audience = if audiences.is_empty() {
                Formula::Always
            } else {
                Formula::any(audiences)
            };
            accepted.push(issuer.and(audience));
            // What a client sends in such a header is dropped; only a token fills it.
            let handed_on = rule
                .output_claims
                .iter()
                .map(|output| &output.header)
                .chain(&rule.output_payload_to_header);
            for header in handed_on.collect::<Vec<_>>() {
                parts.push(speaker.header(header, TextAtom::There).implies(has_user.clone()));
            }
        }
    }
    parts.push(has_user.clone().implies(is_http.clone()));
    parts.push(has_user.implies(Formula::any(accepted)));
    if unreadable {
        parts.push(is_http.not());
    }
    Formula::all(parts)
}

/// What the profile refuses for want of a user.
fn nobody(speaker: &mut Speaker<'_>, snapshot: &Snapshot, view: &View, profile: &Profile) -> Formula {
    let is_http = speaker.is_http();
    let has_user = speaker.has_user();
    // A request that no route of a gateway takes goes nowhere, so where all routes are marked every request is.
    let all_routes_are = view.gateway.as_ref().is_some_and(|gateway| {
        let mut routes = snapshot
            .routes()
            .filter(|route| route.parents.iter().any(|(parent, _)| parent == gateway))
            .peekable();
        routes.peek().is_some() && routes.all(|route| route.is_for_people)
    });
    let is_wanted = match (profile.user_credentials, view.is_for_people) {
        (UserCredentials::WhereMarked | UserCredentials::Everywhere, true) => Formula::Always,
        (UserCredentials::Everywhere, false) => is_http,
        (UserCredentials::WhereMarked, false) if all_routes_are => is_http,
        (UserCredentials::Optional, _) | (UserCredentials::WhereMarked, false) => Formula::Never,
    };
    is_wanted.and(has_user.not())
}
