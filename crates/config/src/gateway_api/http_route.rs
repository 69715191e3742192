//! HTTPRoute: from a host, path, header, query or method to weighted backends.

use std::time::Duration;

use bartizan_types::{HostPattern, Name, Namespace, Port};

mod filter;
mod matching;

pub(crate) use filter::is_protected_header;

use super::gateway::read_host;
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::kube::container::read_port_number;
use crate::marks::{self, Users};
use crate::names;

// The bounds of Gateway API's CRD.
const MOST_PARENTS: usize = 32;
const MOST_HOSTNAMES: usize = 16;
const MOST_RULES: usize = 16;
const MOST_MATCHES: usize = 64;
const MOST_MATCHES_OF_A_ROUTE: usize = 128;
const MOST_FILTERS: usize = 16;
const MOST_BACKENDS: usize = 16;

/// Gateway API HTTPRoute.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// `parentRefs` of kind Gateway.
    pub parents: Vec<ParentRef>,
    /// `hostnames`; none is every host of the listener.
    pub hostnames: Vec<HostPattern>,
    /// `rules` in order.
    pub rules: Vec<HttpRouteRule>,
    /// The annotation `bartizan.dev/users`: marks the route, and the workloads behind its backends.
    pub users: Option<Users>,
}

/// A Gateway that the route attaches to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// `namespace`; none is the route's own.
    pub namespace: Option<Namespace>,
    /// `name`.
    pub name: Name,
    /// `sectionName`: one listener.
    pub section: Option<Name>,
    /// `port`: listeners of this port.
    pub port: Option<Port>,
}

/// One of `rules`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HttpRouteRule {
    /// `name`.
    pub name: Option<Name>,
    /// `matches`, any of which may match; none is every path.
    pub matches: Vec<HttpRouteMatch>,
    /// `filters` in order.
    pub filters: Vec<HeaderFilter>,
    /// `backendRefs`; none answers 500.
    pub backends: Vec<BackendRef>,
    /// `timeouts`.
    pub timeouts: Timeouts,
}

/// One of `matches`; everything that is set must match.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HttpRouteMatch {
    /// `path`; none is every path.
    pub path: Option<PathPattern>,
    /// `headers`, each name once (a later entry of the same name counts for nothing and is left out). Names in lower case.
    pub headers: Vec<NamedMatch>,
    /// `queryParams`, each name once.
    pub query: Vec<NamedMatch>,
    /// `method`.
    pub method: Option<String>,
}

/// How a path must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathPattern {
    /// `Exact`.
    Exact(String),
    /// `PathPrefix`: by path element, a trailing `/` ignored.
    Prefix(String),
    /// `RegularExpression`: the whole path; the expression compiles.
    Regex(String),
}

/// A header or query parameter and how its value must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NamedMatch {
    /// `name`.
    pub name: String,
    /// `value` and `type`.
    pub value: ValuePattern,
}

/// How a value must look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValuePattern {
    /// `Exact`.
    Exact(String),
    /// `RegularExpression`: the whole value; the expression compiles.
    Regex(String),
}

/// A filter that changes headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderFilter {
    /// `RequestHeaderModifier`.
    Request(HeaderChange),
    /// `ResponseHeaderModifier`.
    Response(HeaderChange),
}

/// What happens to headers: set, then add, then remove; each name once in all three. Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderChange {
    /// `set`: replaces.
    pub set: Vec<(String, String)>,
    /// `add`: appends.
    pub add: Vec<(String, String)>,
    /// `remove`.
    pub remove: Vec<String>,
}

/// One of `backendRefs`: a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendRef {
    /// `namespace`; none is the route's own.
    pub namespace: Option<Namespace>,
    /// `name`.
    pub name: Name,
    /// `port` of the Service.
    pub port: Port,
    /// `weight`, 0 to 1,000,000; none is 1.
    pub weight: Option<u32>,
    /// `filters` for requests to this backend only.
    pub filters: Vec<HeaderFilter>,
}

/// `timeouts` of a rule; none is no limit of the rule's own, zero is "no timeout".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// `request`: from the first byte to the last, retries included.
    pub request: Option<Duration>,
    /// `backendRequest`: one try.
    pub backend_request: Option<Duration>,
}

pub(crate) fn read(fields: &Fields<'_>) -> Option<HttpRoute> {
    let users = marks::read_route_users(fields);
    fields.required("spec")?.map(|spec| {
        spec.not_supported(&["useDefaultGateways"]);
        let parents = spec.required("parentRefs").map(|value| {
            if value.is_list() && value.items().is_empty() {
                value.error(codes::EMPTY, "a route needs a parent to have an effect");
            }
            value.list_of_at_most(MOST_PARENTS, read_parent)
        });
        let hostnames = spec
            .get("hostnames")
            .map(|value| value.list_of_at_most(MOST_HOSTNAMES, read_host))
            .unwrap_or_default();
        let rules_value = spec.required("rules");
        let rules = rules_value
            .map(|value| value.list_of_at_most(MOST_RULES, read_rule))
            .unwrap_or_default();
        if let Some(value) = rules_value {
            if value.is_list() && value.items().is_empty() {
                value.error(codes::EMPTY, "a route needs at least one rule");
            }
            if rules.iter().map(|rule| rule.matches.len()).sum::<usize>() > MOST_MATCHES_OF_A_ROUTE {
                let what = format!("the route has more than {MOST_MATCHES_OF_A_ROUTE} matches");
                value.error(codes::OUT_OF_RANGE, what);
            }
        }
        Some(HttpRoute {
            parents: parents.unwrap_or_default(),
            hostnames,
            rules,
            users,
        })
    })
}

fn read_parent(value: Value<'_>) -> Option<ParentRef> {
    value.map(|fields| {
        let (group_value, kind_value) = (fields.get("group"), fields.get("kind"));
        let group = group_value
            .and_then(Value::text)
            .unwrap_or("gateway.networking.k8s.io");
        let kind = kind_value.and_then(Value::text).unwrap_or("Gateway");
        if (group, kind) != ("gateway.networking.k8s.io", "Gateway") {
            let what = format!(
                "a parent of kind {} in group {} is not supported yet",
                fields.sink.quoted(kind),
                fields.sink.quoted(group)
            );
            kind_value.or(group_value).unwrap_or(value).not_supported(what);
        }
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_name));
        Some(ParentRef {
            namespace: fields
                .get("namespace")
                .and_then(|value| value.parse(names::dns_label)),
            section: fields
                .get("sectionName")
                .and_then(|value| value.parse(names::dns_name)),
            port: fields.get("port").and_then(read_port_number),
            name: name?,
        })
    })
}

fn read_rule(value: Value<'_>) -> Option<HttpRouteRule> {
    value.map(|fields| {
        fields.not_supported(&["retry", "sessionPersistence"]);
        let matches = fields.get("matches");
        let matches = matches.map(|value| value.list_of_at_most(MOST_MATCHES, matching::read));
        let filters = fields.get("filters");
        let filters = filters.map(|value| filter::read_all(value, MOST_FILTERS));
        let backends = fields.get("backendRefs");
        let backends = backends.map(|value| value.list_of_at_most(MOST_BACKENDS, read_backend));
        let timeouts = fields.get("timeouts").and_then(read_timeouts);
        Some(HttpRouteRule {
            name: fields.get("name").and_then(|value| value.parse(names::dns_name)),
            matches: matches.unwrap_or_default(),
            filters: filters.unwrap_or_default(),
            backends: backends.unwrap_or_default(),
            timeouts: timeouts.unwrap_or_default(),
        })
    })
}

fn read_backend(value: Value<'_>) -> Option<BackendRef> {
    value.map(|fields| {
        let group = fields.get("group").and_then(Value::text).unwrap_or_default();
        let kind = fields.get("kind");
        let kind_text = kind.and_then(Value::text).unwrap_or("Service");
        if !(matches!(group, "" | "core") && kind_text == "Service") {
            let what = format!(
                "a backend of kind {} is not supported yet",
                fields.sink.quoted(kind_text)
            );
            kind.unwrap_or(value).not_supported(what);
        }
        let name = fields
            .required("name")
            .and_then(|value| value.parse(names::dns_name));
        let port = fields.required("port").and_then(read_port_number);
        let filters = fields.get("filters");
        let filters = filters.map(|value| filter::read_all(value, MOST_FILTERS));
        Some(BackendRef {
            namespace: fields
                .get("namespace")
                .and_then(|value| value.parse(names::dns_label)),
            weight: fields.get("weight").and_then(|value| value.u32(0..=1_000_000)),
            filters: filters.unwrap_or_default(),
            name: name?,
            port: port?,
        })
    })
}

fn read_timeouts(value: Value<'_>) -> Option<Timeouts> {
    value.map(|fields| {
        let read = |name: &'static str| {
            fields
                .get(name)
                .and_then(|value| value.parse(names::gateway_duration))
        };
        let timeouts = Timeouts {
            request: read("request"),
            backend_request: read("backendRequest"),
        };
        if let (Some(request), Some(one)) = (timeouts.request, timeouts.backend_request)
            && !request.is_zero()
            && one > request
        {
            value.error(codes::CONFLICT, "`backendRequest` is longer than `request`");
        }
        Some(timeouts)
    })
}
