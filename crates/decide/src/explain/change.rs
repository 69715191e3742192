//! The smallest change that would let a refused request pass, as a document to copy or a sentence in a YAML comment.

use bartizan_mesh::{Condition, MtlsMode, TokenLocation, View};
use bartizan_types::{Peer, RuleId};
use serde_json::Value;

use crate::denied::{Denied, Reason};
use crate::engine::{Engine, Local};
use crate::facts::ConnectionFacts;
use crate::user::{User, claim};

/// A request as far as a document can speak of it.
#[derive(Clone, Copy)]
pub(super) struct Request<'a> {
    pub(super) method: &'a str,
    /// In its canonical form.
    pub(super) path: &'a str,
    pub(super) user: Option<&'a User>,
    /// The rule that would allow it if it had a user's token.
    pub(super) wants_user: Option<&'a RuleId>,
}

/// The smallest change that would let it pass; `None` where no document could.
pub(super) fn change(
    engine: &Engine,
    facts: &ConnectionFacts<'_>,
    request: Option<Request<'_>>,
    denied: &Denied,
) -> Option<String> {
    let wants_user = request.and_then(|request| request.wants_user);
    let local = || engine.local(facts.local).map(|(_, local)| local);
    match &denied.reason {
        Reason::PolicyDenied(rule) => Some(format!(
            "# narrow or remove rules[{}] of {} `{}/{}`\n",
            rule.rule, rule.kind, rule.namespace, rule.policy
        )),
        Reason::NoAllowMatched if wants_user.is_some() => Some(token_change(local()?, wants_user)),
        Reason::NoAllowMatched
        | Reason::NoAllowPolicy
        | Reason::NotNamed(_)
        | Reason::OtherNamespace => Some(allow_policy(local()?, facts, request)),
        Reason::NoUser | Reason::TokenRefused(_) => Some(token_change(local()?, None)),
        Reason::NeedsUser(rule) => Some(token_change(local()?, Some(rule))),
        Reason::PlaintextRefused => Some(plaintext_change(engine, facts)),
        Reason::AmbiguousPath(_) => Some(
            "# send the path in its plain form: no encoded slashes, dot segments, `//`, `;` or double escapes\n"
                .to_owned(),
        ),
        Reason::AuthorizerDenied { provider, .. }
        | Reason::AuthorizerSilent { provider, .. }
        | Reason::AuthorizerNotAsked { provider, .. } => {
            Some(format!("# the authorizer {} decides this\n", quoted(provider)))
        }
        Reason::NoAuthorizer { provider, rule } => Some(format!(
            "# declare {} in the mesh's extensionProviders, or name one that is there in {} `{}/{}`\n",
            quoted(provider),
            rule.kind,
            rule.namespace,
            rule.policy
        )),
        Reason::NoView => None,
    }
}

/// A policy that allows this request and no other kind: the caller, the port, method and path, and where the workload's
/// policies speak of users, the user and the claims that they ask for.
fn allow_policy(local: &Local, facts: &ConnectionFacts<'_>, request: Option<Request<'_>>) -> String {
    let view = &local.view;
    let mut source = Vec::new();
    match facts.peer {
        Peer::Authenticated(id) => source.push(format!("principals: [{}]", quoted(id.principal()))),
        // A question without an address is about any.
        Peer::Plaintext if facts.source.is_unspecified() => {}
        Peer::Plaintext => source.push(format!("ipBlocks: [{}]", quoted(&facts.source.to_string()))),
    }
    let mut when = String::new();
    if let Some(user) = request.and_then(|request| request.user)
        && let Some(of_users) = OfUsers::find(local)
    {
        let principal = user.principal().filter(|text| is_literal(text));
        for path in &of_users.claims {
            let values = claim(user.claims(), path).map(literal_texts).unwrap_or_default();
            if !values.is_empty() {
                let key = path.join("][");
                when += &format!(
                    "    - key: {}\n      values: [{}]\n",
                    quoted(&format!("request.auth.claims[{key}]")),
                    values.join(", ")
                );
            }
        }
        // A change that says less of the user than the policies do would let others in as well.
        match principal {
            Some(text) if of_users.names_them || when.is_empty() => {
                source.push(format!("requestPrincipals: [{}]", quoted(text)));
            }
            None if of_users.names_them || when.is_empty() => {
                return "# no policy can name exactly this user\n".to_owned();
            }
            Some(_) | None => {}
        }
    }
    if !when.is_empty() {
        when = format!("    when:\n{when}");
    }
    let port = facts.destination.port();
    let operation = match request {
        // A path that a policy would read as a pattern must not become one by being copied.
        Some(Request { path, .. }) if !path.is_empty() && !is_literal(path) => {
            return format!("# no policy can allow exactly the path {}\n", quoted(path));
        }
        Some(Request { method, path, .. }) if !path.is_empty() => format!(
            "ports: [\"{port}\"], methods: [{}], paths: [{}]",
            quoted(method),
            quoted(path)
        ),
        Some(Request { method, .. }) => format!("ports: [\"{port}\"], methods: [{}]", quoted(method)),
        None => format!("ports: [\"{port}\"]"),
    };
    let from = if source.is_empty() {
        String::new()
    } else {
        format!("from:\n    - source: {{ {} }}\n    ", source.join(", "))
    };
    format!(
        "apiVersion: security.istio.io/v1\n\
         kind: AuthorizationPolicy\n\
         metadata: {{ name: allow-{}, namespace: {} }}\n\
         spec:\n{}  action: ALLOW\n  rules:\n  - {from}to:\n    - operation: {{ {operation} }}\n{when}",
        view.workload.name,
        view.workload.namespace,
        selector(view),
    )
}

fn is_literal(text: &str) -> bool {
    !text.starts_with('*') && !text.ends_with('*') && !text.contains('{')
}

/// The texts of a claim that a policy can name, quoted.
fn literal_texts(value: &Value) -> Vec<String> {
    let texts: Vec<&str> = match value {
        Value::String(text) => vec![text],
        Value::Array(values) => values.iter().filter_map(Value::as_str).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => Vec::new(),
    };
    texts
        .into_iter()
        .filter(|text| !text.is_empty() && is_literal(text))
        .take(16)
        .map(quoted)
        .collect()
}

/// What the ALLOW rules of a workload ask of users.
#[derive(Default)]
struct OfUsers {
    /// `requestPrincipals`, or a condition on it.
    names_them: bool,
    /// Each claim that a condition asks for, once.
    claims: Vec<Vec<std::sync::Arc<str>>>,
}

impl OfUsers {
    fn find(local: &Local) -> Option<Self> {
        let mut found = Self::default();
        let allowing = local
            .set
            .policies()
            .filter(|(_, policy)| policy.action == bartizan_mesh::Action::Allow && !policy.dry_run);
        for rule in allowing.flat_map(|(_, policy)| &policy.rules) {
            found.names_them |= rule
                .from
                .iter()
                .any(|source| !source.request_principals.is_empty());
            for condition in &rule.when {
                if let Condition::RequestPrincipal(_) = condition {
                    found.names_them = true;
                }
                if let Condition::RequestClaim(path, _) = condition
                    && !found.claims.contains(path)
                {
                    found.claims.push(path.clone());
                }
            }
        }
        (found.names_them || !found.claims.is_empty()).then_some(found)
    }
}

/// How a token is sent, or what is missing for one to be verified.
fn token_change(local: &Local, rule: Option<&RuleId>) -> String {
    let view = &local.view;
    let accepted: Vec<String> = local
        .tokens
        .rules
        .iter()
        .map(|rule| {
            let issuer = rule.rule.issuer.as_deref().unwrap_or("any issuer");
            let audiences = match rule.rule.audiences.as_slice() {
                [] => String::new(),
                audiences => format!(" for {}", audiences.join(" or ")),
            };
            let places: Vec<String> = rule.rule.locations.iter().map(place).collect();
            format!(
                "#   {issuer}{audiences}, in {} (RequestAuthentication `{}` jwtRules[{}])\n",
                places.join(" or "),
                rule.policy,
                rule.index
            )
        })
        .collect();
    if !accepted.is_empty() {
        let which = rule.map_or_else(String::new, |rule| {
            format!(
                " that {} `{}/{}` rules[{}] lets in",
                rule.kind, rule.namespace, rule.policy, rule.rule
            )
        });
        return format!(
            "# send a user's token{which}; one of these issuers:\n{}",
            accepted.concat()
        );
    }
    format!(
        "# no RequestAuthentication selects this workload, so that no token is ever verified here; name your issuer:\n\
         apiVersion: security.istio.io/v1\n\
         kind: RequestAuthentication\n\
         metadata: {{ name: users-of-{}, namespace: {} }}\n\
         spec:\n{}  jwtRules:\n  - issuer: \"https://issuer.example\"\n",
        view.workload.name,
        view.workload.namespace,
        selector(view),
    )
}

fn place(location: &TokenLocation) -> String {
    match location {
        TokenLocation::Header { name, prefix } => format!("header `{name}: {prefix}…`"),
        TokenLocation::Param(name) => format!("query parameter `{name}`"),
        TokenLocation::Cookie(name) => format!("cookie `{name}`"),
    }
}

fn plaintext_change(engine: &Engine, facts: &ConnectionFacts<'_>) -> String {
    let advice = "# call from a workload of the mesh, which proves an identity; or, while migrating, accept plaintext:\n";
    let Some((_, local)) = engine.local(facts.local) else {
        return advice.to_owned();
    };
    let view = &local.view;
    let selector = selector(view);
    let mode = match view.mtls {
        // A mode for one port needs a selector.
        MtlsMode::Permissive | MtlsMode::Disable if !selector.is_empty() => format!(
            "  portLevelMtls:\n    {}: {{ mode: PERMISSIVE }}\n",
            facts.destination.port()
        ),
        MtlsMode::Permissive | MtlsMode::Disable | MtlsMode::Strict => {
            "  mtls: { mode: PERMISSIVE }\n".to_owned()
        }
    };
    format!(
        "{advice}apiVersion: security.istio.io/v1\n\
         kind: PeerAuthentication\n\
         metadata: {{ name: permissive-{}, namespace: {} }}\n\
         spec:\n{selector}{mode}",
        view.workload.name, view.workload.namespace,
    )
}

/// By the label `app` where there is one, else by all labels.
fn selector(view: &View) -> String {
    let pairs: Vec<String> = match view.labels.get("app") {
        Some(app) => vec![format!("app: {}", quoted(app))],
        None => view
            .labels
            .iter()
            .map(|(key, value)| format!("{}: {}", quoted(key), quoted(value)))
            .collect(),
    };
    if pairs.is_empty() {
        return String::new();
    }
    format!("  selector: {{ matchLabels: {{ {} }} }}\n", pairs.join(", "))
}

/// A double-quoted YAML scalar, for text that came from a request.
fn quoted(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for character in text.chars() {
        match character {
            '"' => quoted.push_str("\\\""),
            '\\' => quoted.push_str("\\\\"),
            character if character.is_control() => {
                quoted.push_str(&format!("\\u{:04x}", u32::from(character)));
            }
            character => quoted.push(character),
        }
    }
    quoted.push('"');
    quoted
}
