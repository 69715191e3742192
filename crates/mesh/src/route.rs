//! The way in: gateway listeners and HTTP routes as a gateway's proxy holds them. The meaning is Gateway API's.

use bartizan_types::{HostPattern, Name, NamespacedName, Port};
use serde::{Deserialize, Serialize};

/// One listener of a `Gateway`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Listener {
    /// The gateway.
    pub gateway: NamespacedName,
    /// The listener's name in the gateway (`sectionName`).
    pub section: Name,
    /// The port that people outside call.
    pub port: Port,
    /// The hosts that it serves.
    pub hostname: HostPattern,
}

/// One `HTTPRoute`, attached to listeners.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// Namespace and name.
    pub name: NamespacedName,
    /// Where it is attached: gateway and section, already resolved and allowed.
    pub parents: Vec<(NamespacedName, Name)>,
    /// The hosts; empty means those of the listener.
    pub hostnames: Vec<HostPattern>,
    /// In the order of the document.
    pub rules: Vec<RouteRule>,
    /// Marked for people (annotation `bartizan.dev/users: required`): see [`UserCredentials`](crate::UserCredentials).
    pub is_for_people: bool,
}

/// One rule of a route: any match, then filters, then a backend by weight.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteRule {
    /// The rule's name, if it has one.
    pub name: Option<String>,
    /// Any of these; never empty (the default is the prefix `/`).
    pub matches: Vec<RouteMatch>,
    /// Applied in order.
    pub filters: Vec<RouteFilter>,
    /// By weight; a backend that cannot be resolved keeps its share and answers 500.
    pub backends: Vec<Backend>,
    /// The whole request, retries included, in milliseconds; `None` is no limit.
    pub request_timeout_ms: Option<u64>,
    /// One try, in milliseconds.
    pub backend_timeout_ms: Option<u64>,
}

/// All of these must match.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct RouteMatch {
    /// The path, on its canonical form without query.
    pub path: PathSelector,
    /// The method, exact.
    pub method: Option<String>,
    /// All of them.
    pub headers: Vec<HeaderMatch>,
    /// All of them.
    pub query: Vec<QueryMatch>,
}

/// How a route matches a path.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum PathSelector {
    /// The whole path.
    Exact(String),
    /// By path elements: `/abc` matches `/abc`, `/abc/` and `/abc/d`, not `/abcd`.
    Prefix(String),
    /// RE2 syntax over the whole path.
    Regex(String),
}

/// How a header must look.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct HeaderMatch {
    /// Lower case.
    pub name: String,
    /// The text, or the expression over the whole value.
    pub value: String,
    /// `type: RegularExpression`.
    pub regex: bool,
}

/// How a query parameter must look.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct QueryMatch {
    /// Case-sensitive.
    pub name: String,
    /// The text, or the expression over the whole value.
    pub value: String,
    /// `type: RegularExpression`.
    pub regex: bool,
}

/// A filter of a route.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum RouteFilter {
    /// `RequestHeaderModifier`.
    RequestHeaders(HeaderEdit),
    /// `ResponseHeaderModifier`.
    ResponseHeaders(HeaderEdit),
}

/// Header changes: `set` replaces, `add` appends, `remove` drops. Names in lower case.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct HeaderEdit {
    /// Name and value.
    pub set: Vec<(String, String)>,
    /// Name and value.
    pub add: Vec<(String, String)>,
    /// Names.
    pub remove: Vec<String>,
}

/// Where a share of a rule's requests goes.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Backend {
    /// The service and its port; `None` where the reference cannot be resolved: answers 500.
    pub service: Option<(NamespacedName, Port)>,
    /// The share, 0 to 1,000,000.
    pub weight: u32,
    /// Filters of this backend only.
    pub filters: Vec<RouteFilter>,
}
