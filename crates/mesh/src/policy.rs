//! Authorization policies as a proxy holds them. The meaning is Istio's (`AuthorizationPolicy`); `decide::authorize` has it.

use std::fmt;
use std::sync::Arc;

use bartizan_types::{Cidr, NamespacedName, Port, StringMatch};
use serde::{Deserialize, Serialize};

/// The kinds of documents that policies are written as.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub enum PolicyKind {
    /// Istio `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy,
    /// `bartizan.dev/v1alpha1` AccessRule, whose rules are expressions.
    AccessRule,
}

impl PolicyKind {
    /// The kind as documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::AuthorizationPolicy => "AuthorizationPolicy",
            Self::AccessRule => "AccessRule",
        }
    }
}

impl fmt::Display for PolicyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Which policy: its kind, namespace and name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PolicyName {
    /// The kind of its document.
    pub kind: PolicyKind,
    /// Namespace and name as written.
    pub name: NamespacedName,
}

impl fmt::Display for PolicyName {
    /// `AuthorizationPolicy mission-services/telemetry-ingest-policy`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind, self.name)
    }
}

/// One authorization policy, resolved: trust-domain forms expanded, names filled in, order kept.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Policy {
    /// The kind of its document; a resource's JSON has its own `kind`.
    #[serde(rename = "writtenAs")]
    pub kind: PolicyKind,
    /// Namespace and name as written.
    pub name: NamespacedName,
    /// What a match does.
    pub action: Action,
    /// The authorizer that a CUSTOM policy asks (the name of a [`Provider`](crate::Provider)); `None` for every other action.
    pub provider: Option<Arc<str>>,
    /// Annotation `istio.io/dry-run`: what it would do is recorded and changes nothing.
    pub dry_run: bool,
    /// The rules in the order of the document; none never matches.
    pub rules: Vec<Rule>,
}

impl Policy {
    /// A policy of this name that refuses everything: what stands for one that is missing or cannot be decoded.
    pub fn deny_everything(name: PolicyName) -> Self {
        Self {
            kind: name.kind,
            name: name.name,
            action: Action::Deny,
            provider: None,
            dry_run: false,
            rules: vec![Rule::default()],
        }
    }

    /// Its kind and name.
    pub fn id(&self) -> PolicyName {
        PolicyName {
            kind: self.kind,
            name: self.name.clone(),
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
    /// Marks the request in the log.
    Audit,
    /// Asks an authorizer, before everything else.
    Custom,
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
    /// An expression that must be true: CEL, checked by `config`. Only in rules of an AccessRule.
    pub expression: Option<Arc<str>>,
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
    /// Istio `remoteIpBlocks`: the client's address as trusted proxies tell it (X-Forwarded-For, PROXY protocol).
    pub remote_ip_blocks: Matcher<Cidr>,
    /// Istio `requestPrincipals`: `issuer/subject` of the verified token. HTTP only.
    pub request_principals: Matcher<StringMatch>,
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

impl Condition {
    /// Whether it asks for something that only a user's verified token has.
    pub fn asks_for_user(&self) -> bool {
        match self {
            Self::RequestPrincipal(_)
            | Self::RequestAudiences(_)
            | Self::RequestPresenter(_)
            | Self::RequestClaim(..) => true,
            Self::Header(..)
            | Self::SourceIp(_)
            | Self::SourceNamespace(_)
            | Self::SourcePrincipal(_)
            | Self::SourceServiceAccount(_)
            | Self::SourceTrustDomain(_)
            | Self::DestinationIp(_)
            | Self::DestinationPort(_)
            | Self::Sni(_)
            | Self::RemoteIp(_) => false,
        }
    }

    /// Whether it asks for something that only HTTP has.
    pub fn asks_for_http(&self) -> bool {
        matches!(self, Self::Header(..)) || self.asks_for_user()
    }
}

impl Rule {
    /// Whether its fields ask for something that only HTTP has; its expression is not looked into.
    pub fn asks_for_http(&self) -> bool {
        self.from
            .iter()
            .any(|source| !source.request_principals.is_empty())
            || self.to.iter().any(|operation| {
                !(operation.hosts.is_empty() && operation.methods.is_empty() && operation.paths.is_empty())
            })
            || self.when.iter().any(Condition::asks_for_http)
    }
}
