//! AuthorizationPolicy: who may do what (Istio `security.istio.io` AuthorizationPolicy).

use std::sync::Arc;

use bartizan_types::{Cidr, Name, NamespacedName, Port, Selector, StringMatch};

mod condition;
mod operation;
mod source;

use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kinds::Owner;
use crate::names;

/// Istio AuthorizationPolicy with action ALLOW or DENY.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    /// Which workloads it is for.
    pub target: PolicyTarget,
    /// `action`; none is ALLOW.
    pub action: Option<Action>,
    /// `rules` in order; none never matches.
    pub rules: Vec<Rule>,
}

/// Which workloads a policy is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PolicyTarget {
    /// `selector.matchLabels`; empty is the whole namespace, or the mesh in the root namespace.
    Selector(Selector),
    /// `targetRefs` of kind Gateway, in the policy's own namespace.
    Gateways(Vec<Name>),
}

/// What a matching rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Lets the request pass unless a DENY matches.
    Allow,
    /// Refuses the request.
    Deny,
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

/// A list of values with its negation (`principals` and `notPrincipals`). Indices are those of the document.
#[derive(Clone, Debug, PartialEq)]
pub struct Matcher<T> {
    /// Values, any of which may match; empty asks for nothing.
    pub any: Vec<T>,
    /// Values, none of which may match.
    pub none: Vec<T>,
}

impl<T> Default for Matcher<T> {
    fn default() -> Self {
        Self {
            any: Vec::new(),
            none: Vec::new(),
        }
    }
}

impl<T> Matcher<T> {
    /// Whether nothing is asked for.
    pub fn is_empty(&self) -> bool {
        self.any.is_empty() && self.none.is_empty()
    }
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
    /// `ipBlocks`.
    pub ip_blocks: Matcher<Cidr>,
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
}

/// The most rules of a policy, and the most entries of `from` (Istio's CRD).
const MOST_RULES: usize = 512;
/// The most entries of `targetRefs` (Istio's CRD).
const MOST_TARGETS: usize = 16;

pub(crate) fn read(fields: &Fields<'_>, owner: &Owner) -> Option<AuthorizationPolicy> {
    let Some(spec) = fields.get("spec") else {
        // Istio: a policy without a spec is ALLOW without rules, which allows nothing.
        return Some(AuthorizationPolicy {
            target: PolicyTarget::Selector(Selector::default()),
            action: None,
            rules: Vec::new(),
        });
    };
    spec.map(|spec| {
        let target = read_target(spec);
        let action_value = spec.get("action");
        let action = action_value.and_then(read_action);
        spec.not_supported(&["provider"]);
        let rules_value = spec.get("rules");
        let rules = rules_value
            .map(|value| value.list_of_at_most(MOST_RULES, |rule| read_rule(rule, owner)))
            .unwrap_or_default();
        let none = rules_value.is_none_or(|value| value.is_list() && value.items().is_empty());
        if none && action == Some(Action::Deny) {
            let at = rules_value.or(action_value).map_or(spec.spot, |value| value.spot);
            spec.sink.error_help(
                codes::POINTLESS_RULE,
                at,
                "a DENY policy without rules denies nothing",
                "write `rules: [{}]` to deny everything",
            );
        }
        Some(AuthorizationPolicy {
            target: target?,
            action,
            rules,
        })
    })
}

fn read_action(value: Value<'_>) -> Option<Action> {
    match value.choice(&[
        ("ALLOW", Some(Action::Allow)),
        ("DENY", Some(Action::Deny)),
        ("AUDIT", None),
        ("CUSTOM", None),
    ])? {
        Some(action) => Some(action),
        None => {
            let action = value.raw().unwrap_or_default();
            value.not_supported(format!("action {action} is not supported yet"));
            None
        }
    }
}

fn read_target(spec: &Fields<'_>) -> Option<PolicyTarget> {
    let selector = spec.get("selector");
    let one = spec.get("targetRef");
    let several = spec.get("targetRefs");
    if [selector, one, several].iter().flatten().count() > 1 {
        let what = "`selector`, `targetRef` and `targetRefs` exclude each other";
        spec.sink.error(codes::CONFLICT, spec.spot, what);
    }
    let selector = selector.map(Value::selector);
    let mut gateways: Option<Vec<Name>> = None;
    if let Some(value) = one {
        gateways = Some(read_gateway(value).into_iter().collect());
    }
    if let Some(value) = several {
        if value.is_list() && value.items().is_empty() {
            value.error(codes::EMPTY, "`targetRefs` is empty");
        }
        gateways = Some(value.list_of_at_most(MOST_TARGETS, read_gateway));
    }
    match (gateways, selector) {
        (Some(gateways), _) => Some(PolicyTarget::Gateways(gateways)),
        (None, Some(selector)) => Some(PolicyTarget::Selector(selector?)),
        (None, None) => Some(PolicyTarget::Selector(Selector::default())),
    }
}

fn read_gateway(value: Value<'_>) -> Option<Name> {
    value.map(|fields| {
        let group = fields.get("group").and_then(Value::text).unwrap_or_default();
        let kind_value = fields.required("kind");
        let kind = kind_value.and_then(Value::text);
        if let Some(namespace) = fields.get("namespace").filter(|value| value.raw() != Some("")) {
            namespace.error_help(
                codes::CONFLICT,
                "a target is in the policy's own namespace",
                "remove `namespace`",
            );
        }
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_name));
        if let (Some(value), Some(kind)) = (kind_value, kind)
            && (group, kind) != ("gateway.networking.k8s.io", "Gateway")
        {
            let what = format!(
                "a target of kind {} in group {} is not supported yet",
                fields.sink.quoted(kind),
                fields.sink.quoted(group)
            );
            let help =
                "`Gateway` in group `gateway.networking.k8s.io` is; workloads are picked with `selector`";
            value.error_help(codes::NOT_SUPPORTED, what, help);
        }
        name
    })
}

fn read_rule(value: Value<'_>, owner: &Owner) -> Option<Rule> {
    value.map(|fields| {
        let from = read_alternatives(fields, "from", |value| source::read(value, owner));
        let to = read_alternatives(fields, "to", operation::read);
        let when = read_alternatives(fields, "when", |value| condition::read(value, owner));
        Some(Rule { from, to, when })
    })
}

/// A list that must not be empty where it is written: `from: []` would look like nobody and mean everybody.
fn read_alternatives<'a, T>(
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

/// `name` and `notName`: at least one value where they are written.
fn read_matcher<'a, T>(
    fields: &Fields<'a>,
    name: &'static str,
    not_name: &'static str,
    read: impl Fn(Value<'a>) -> Option<T>,
) -> Matcher<T> {
    let values = |name: &'static str| {
        let Some(value) = fields.get(name) else {
            return Vec::new();
        };
        if value.is_list() && value.items().is_empty() {
            value.error_help(
                codes::EMPTY,
                format!("`{name}` is empty, which would ask for nothing"),
                format!("remove `{name}`, or name at least one value"),
            );
        }
        value.list(&read)
    };
    Matcher {
        any: values(name),
        none: values(not_name),
    }
}

/// Any of Istio's four string forms; an empty text matches nothing and is refused by Istio's webhook.
fn read_string(value: Value<'_>) -> Option<StringMatch> {
    let text = read_present(value)?;
    if text.len() > 2 && text.starts_with('*') && text.ends_with('*') {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} is a suffix that ends in a literal `*`",
                value.sink.quoted(text)
            ),
            "only one `*` works, at the start (suffix) or at the end (prefix)",
        );
    }
    Some(StringMatch::parse(text))
}

fn read_present(value: Value<'_>) -> Option<&str> {
    let text = value.text()?;
    if text.is_empty() {
        value.error(codes::EMPTY, format!("`{}` has an empty text", value.name));
        return None;
    }
    Some(text)
}

/// A principal, which policies write without its scheme.
fn read_principal(value: Value<'_>) -> Option<StringMatch> {
    let text = read_present(value)?;
    if let Some(rest) = text.strip_prefix("spiffe://") {
        value.error_help(
            codes::POINTLESS_RULE,
            "a principal is written without `spiffe://`; with it, it never matches",
            format!("write {}", value.sink.quoted(rest)),
        );
        return None;
    }
    let text_match = read_string(value)?;
    if let StringMatch::Exact(exact) = &text_match
        && bartizan_types::SpiffeId::parse(&format!("spiffe://{exact}")).is_err()
    {
        value.warn(
            codes::POINTLESS_RULE,
            format!(
                "{} is not an identity, so it never matches",
                value.sink.quoted(exact)
            ),
            "an identity reads `cluster.local/ns/NAMESPACE/sa/SERVICEACCOUNT`",
        );
    }
    Some(text_match)
}

/// A namespace, in which `*` stands for any run of characters.
fn read_namespace(value: Value<'_>) -> Option<Arc<str>> {
    let text = read_present(value)?;
    let fine = text
        .bytes()
        .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'.' | b'*'));
    if !fine {
        let what = format!(
            "{} is not a namespace, with or without `*`",
            value.sink.quoted(text)
        );
        value.error(codes::INVALID_VALUE, what);
        return None;
    }
    Some(text.into())
}

/// `namespace/service-account`, or a service account of the policy's own namespace.
fn read_service_account(value: Value<'_>, owner: &Owner) -> Option<NamespacedName> {
    value.parse(|text| {
        if text.contains('*') {
            return Err(format!("`{text}` has a `*`; service accounts are named in full"));
        }
        let (namespace, account) = match text.split_once('/') {
            Some((namespace, account)) => (names::dns_label(namespace)?, account),
            None => (owner.namespace.clone(), text),
        };
        Ok(NamespacedName::new(namespace, names::dns_name(account)?))
    })
}

/// A trust domain, with `*` at one end at most.
fn read_trust_domain(value: Value<'_>) -> Option<StringMatch> {
    let text = read_present(value)?;
    let inner = text
        .strip_prefix('*')
        .or_else(|| text.strip_suffix('*'))
        .unwrap_or(text);
    if !inner.is_empty() && bartizan_types::TrustDomain::parse(inner).is_err() {
        let what = format!(
            "{} is not a trust domain: a-z, 0-9, `.`, `-`, `_`",
            value.sink.quoted(text)
        );
        value.error(codes::INVALID_VALUE, what);
        return None;
    }
    Some(StringMatch::parse(text))
}

fn read_block(value: Value<'_>) -> Option<Cidr> {
    value.parse(Cidr::parse)
}

/// A port as Istio wants it: a text.
fn read_port(value: Value<'_>) -> Option<Port> {
    value.parse(Port::parse)
}
