//! Authorization policies as a proxy holds them. The meaning is Istio's (`AuthorizationPolicy`); `decide::authorize` has it.

use std::sync::Arc;

use bartizan_types::{Cidr, NamespacedName, Port, StringMatch};
use serde::{Deserialize, Serialize};

/// One authorization policy, resolved: trust-domain forms expanded, names filled in, order kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// Namespace and name as written.
    pub name: NamespacedName,
    /// What a match does.
    pub action: Action,
    /// The rules in the order of the document; none never matches.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// A policy of this name that refuses everything: what stands for one that is missing or cannot be decoded.
    pub fn deny_everything(name: NamespacedName) -> Self {
        Self {
            name,
            action: Action::Deny,
            rules: vec![Rule::default()],
        }
    }
}

/// What a matching rule does.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// Lets the request pass unless a DENY matches.
    Allow,
    /// Refuses the request.
    Deny,
}

/// Matches iff (`from` is empty or one of it matches) and (`to` is empty or one of it matches) and every `when` matches.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Rule {
    /// Sources, any of which may match.
    pub from: Vec<Source>,
    /// Operations, any of which may match.
    pub to: Vec<Operation>,
    /// Conditions, all of which must match.
    pub when: Vec<Condition>,
}

/// A list of values with its negation: at least one of `any` (where there is one) and none of `none`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
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

/// Who asks; all fields that are set must match.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Source {
    /// Istio `principals`, without `spiffe://`, aliases expanded.
    pub principals: Matcher<StringMatch>,
    /// Istio `namespaces`; `*` stands for any run of characters anywhere in the text.
    pub namespaces: Matcher<Arc<str>>,
    /// Istio `serviceAccounts`, always as `namespace/service-account`.
    pub service_accounts: Matcher<NamespacedName>,
    /// Istio `trustDomains`.
    pub trust_domains: Matcher<StringMatch>,
    /// Istio `ipBlocks`: the connection's own remote address.
    pub ip_blocks: Matcher<Cidr>,
}

/// What is asked; all fields that are set must match. All but `ports` exist only in HTTP.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Operation {
    /// Istio `hosts`: `:authority` with its port text, ASCII case ignored.
    pub hosts: Matcher<StringMatch>,
    /// Istio `ports`: the workload's port.
    pub ports: Matcher<Port>,
    /// Istio `methods`.
    pub methods: Matcher<StringMatch>,
    /// Istio `paths`, on the canonical path without query.
    pub paths: Matcher<PathMatch>,
}

/// A path: Istio's string match, or a template with `{*}` and `{**}`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathMatch {
    /// Exact, prefix, suffix or presence.
    Text(StringMatch),
    /// Whole-segment operators: `{*}` one non-empty segment, `{**}` zero or more. Validated by `config`.
    Template(Arc<str>),
}

/// A condition of `when`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "key", content = "match")]
pub enum Condition {
    /// `request.headers[name]`, the name in lower case; several values are joined with `,`. HTTP only.
    Header(Arc<str>, Matcher<StringMatch>),
    /// `source.ip`.
    SourceIp(Matcher<Cidr>),
    /// `source.namespace`.
    SourceNamespace(Matcher<Arc<str>>),
    /// `source.principal`.
    SourcePrincipal(Matcher<StringMatch>),
    /// `source.serviceAccount`.
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
