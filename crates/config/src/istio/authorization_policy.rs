//! AuthorizationPolicy: who may do what (Istio `security.istio.io` AuthorizationPolicy).

use std::sync::Arc;

use bartizan_types::{Cidr, NamespacedName, Port, StringMatch};

mod condition;
mod custom;
mod operation;
mod source;

pub(crate) use condition::claim_names;
pub(crate) use operation::{read_method, read_path};

use super::matcher::Matcher;
use super::target::{PolicyTarget, read_target};
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kinds::Owner;
use crate::marks;
use crate::source::Spot;

/// Istio AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Which workloads it is for.
    pub target: PolicyTarget,
    /// `action`; none is ALLOW.
    pub action: Option<Action>,
    /// `provider.name`: which of the mesh's `extensionProviders` is asked. Set exactly where the action is CUSTOM.
    pub provider: Option<Arc<str>>,
    /// The annotation `istio.io/dry-run` is `"true"`: what the policy would do is recorded and changes nothing.
    pub dry_run: bool,
    /// `rules` in order; none never matches.
    pub rules: Vec<Rule>,
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets the request pass unless a DENY matches.
    Allow,
    /// Refuses the request.
    Deny,
    /// Marks the request in the log.
    Audit,
    /// Asks an authorizer, before everything else.
    Custom,
}

/// Matches iff (`from` is empty or one of it matches) and (`to` is empty or one of it matches) and every `when` matches.
/// Indices are those of the document.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// `from[].source`.
    pub from: Vec<Source>,
    /// `to[].operation`.
    pub to: Vec<Operation>,
    /// `when`.
    pub when: Vec<Condition>,
}

/// Who asks; all fields that are set must match. At least one is set.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Source {
    /// `principals`, without `spiffe://`.
    pub principals: Matcher<StringMatch>,
    /// `namespaces`; `*` stands for any run of characters anywhere in the text.
    pub namespaces: Matcher<Arc<str>>,
    /// `serviceAccounts`; a short name is completed with the policy's namespace.
    pub service_accounts: Matcher<NamespacedName>,
    /// `trustDomains`.
    pub trust_domains: Matcher<StringMatch>,
    /// `ipBlocks`: the connection's own remote address.
    pub ip_blocks: Matcher<Cidr>,
    /// `remoteIpBlocks`: the client's address as trusted proxies tell it.
    pub remote_ip_blocks: Matcher<Cidr>,
    /// `requestPrincipals`: `issuer/subject` of the verified token. HTTP only.
    pub request_principals: Matcher<StringMatch>,
}

/// What is asked; all fields that are set must match. At least one is set. All but `ports` exist only in HTTP.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Operation {
    /// `hosts`: `:authority` with its port text, ASCII case ignored.
    pub hosts: Matcher<StringMatch>,
    /// `ports`: the workload's port.
    pub ports: Matcher<Port>,
    /// `methods`.
    pub methods: Matcher<StringMatch>,
    /// `paths`.
    pub paths: Matcher<PathMatch>,
}

/// A path: Istio's string match, or a template with `{*}` and `{**}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    /// Exact, prefix, suffix or presence.
    Text(StringMatch),
    /// Whole-segment operators, checked: `{*}` is one non-empty segment, `{**}` zero or more and the last operator.
    Template(Arc<str>),
}

/// A condition of `when`: `key` with `values` and `notValues`, at least one of them.
#[derive(Clone, Debug, PartialEq)]
pub enum Condition {
    /// `request.headers[name]`, the name in lower case. HTTP only.
    Header(Arc<str>, Matcher<StringMatch>),
    /// `source.ip`.
    SourceIp(Matcher<Cidr>),
    /// `source.namespace`; `*` stands for any run of characters anywhere in the text.
    SourceNamespace(Matcher<Arc<str>>),
    /// `source.principal`, without `spiffe://`.
    SourcePrincipal(Matcher<StringMatch>),
    /// `source.serviceAccount`; a short name is completed with the policy's namespace.
    SourceServiceAccount(Matcher<NamespacedName>),
    /// `source.trustDomain`.
    SourceTrustDomain(Matcher<StringMatch>),
    /// `destination.ip`.
    DestinationIp(Matcher<Cidr>),
    /// `destination.port`.
    DestinationPort(Matcher<Port>),
    /// `connection.sni`.
    Sni(Matcher<StringMatch>),
    /// `remote.ip`.
    RemoteIp(Matcher<Cidr>),
    /// `request.auth.principal`. HTTP only.
    RequestPrincipal(Matcher<StringMatch>),
    /// `request.auth.audiences`. HTTP only.
    RequestAudiences(Matcher<StringMatch>),
    /// `request.auth.presenter`. HTTP only.
    RequestPresenter(Matcher<StringMatch>),
    /// `request.auth.claims[a][b]`: the names from the outside in. HTTP only.
    RequestClaim(Vec<Arc<str>>, Matcher<StringMatch>),
}

/// The most rules of a policy, and the most entries of `from` (Istio's CRD).
pub(crate) const MOST_RULES: usize = 512;

pub(crate) fn read(fields: &Fields<'_>, owner: &Owner<'_>) -> Option<AuthorizationPolicy> {
    let dry_run = marks::read_dry_run(fields);
    let Some(spec) = fields.get("spec") else {
        // Istio: a policy without a spec is ALLOW without rules, which allows nothing.
        return Some(AuthorizationPolicy {
            target: PolicyTarget::default(),
            action: None,
            provider: None,
            dry_run,
            rules: Vec::new(),
        });
    };
    spec.map(|spec| {
        let target = read_target(spec);
        let action_value = spec.get("action");
        let action = action_value.and_then(|value| {
            value.choice(&[
                ("ALLOW", Action::Allow),
                ("DENY", Action::Deny),
                ("AUDIT", Action::Audit),
                ("CUSTOM", Action::Custom),
            ])
        });
        let provider = custom::read_provider(spec, action);
        let rules_value = spec.get("rules");
        let rules = rules_value
            .map(|value| value.list_of_at_most(MOST_RULES, |rule| read_rule(rule, owner)))
            .unwrap_or_default();
        if action == Some(Action::Custom) {
            custom::refuse_identities(spec);
        }
        if rules_value.is_none_or(|value| value.is_list() && value.items().is_empty()) {
            let at = rules_value.or(action_value).map_or(spec.spot, |value| value.spot);
            report_no_rules(spec, at, action);
        }
        Some(AuthorizationPolicy {
            target: target?,
            action,
            provider,
            dry_run,
            rules,
        })
    })
}

/// ALLOW without rules allows nothing, on purpose; every other action without rules does nothing at all.
fn report_no_rules(spec: &Fields<'_>, at: Spot, action: Option<Action>) {
    let (what, help) = match action {
        None | Some(Action::Allow) => return,
        Some(Action::Deny) => (
            "a DENY policy without rules denies nothing",
            "write `rules: [{}]` to deny everything",
        ),
        Some(Action::Audit) => (
            "an AUDIT policy without rules marks nothing",
            "write `rules: [{}]` to mark everything",
        ),
        Some(Action::Custom) => (
            "a CUSTOM policy without rules asks nobody",
            "write `rules: [{}]` to ask about every request",
        ),
    };
    spec.sink.error_help(codes::POINTLESS_RULE, at, what, help);
}

fn read_rule(value: Value<'_>, owner: &Owner<'_>) -> Option<Rule> {
    value.map(|fields| {
        let from = read_alternatives(fields, "from", |value| source::read(value, owner));
        let to = read_alternatives(fields, "to", operation::read);
        let when = read_alternatives(fields, "when", |value| condition::read(value, owner));
        Some(Rule { from, to, when })
    })
}

/// A list that must not be empty where it is written: `from: []` would look like nobody and mean everybody.
pub(crate) fn read_alternatives<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    read: impl FnMut(Value<'a>) -> Option<T>,
) -> Vec<T> {
    let Some(value) = fields.get(name) else {
        return Vec::new();
    };
    if value.is_list() && value.items().is_empty() {
        value.error_help(
            codes::EMPTY,
            format!("`{name}` is empty"),
            format!("leave `{name}` out to ask for nothing, or say what is asked for"),
        );
    }
    value.list_of_at_most(MOST_RULES, read)
}
