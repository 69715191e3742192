//! HTTP routes: which listeners they are attached to, and their backends.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bartizan_config::gateway_api::{
    BackendRef, HeaderChange, HeaderFilter, HttpRoute, HttpRouteMatch, NamedMatch, ParentRef, PathPattern,
    ReferenceGrant, RouteNamespaces, ValuePattern,
};
use bartizan_config::{Document, Finding, Severity, Users};
use bartizan_mesh::{
    Backend, HeaderEdit, HeaderMatch, PathSelector, QueryMatch, Resource, Route, RouteFilter, RouteMatch,
    RouteRule,
};
use bartizan_types::{HostPattern, Labels, Name, Namespace, NamespacedName};

use crate::codes;
use crate::gateways::{Gateways, ListenerEntry};
use crate::library::Library;
use crate::people::MarkedServices;
use crate::services::Services;

/// A route that is attached somewhere.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RouteEntry {
    pub(crate) resource: Arc<Resource>,
    pub(crate) gateways: BTreeSet<NamespacedName>,
}

pub(crate) type Routes = BTreeMap<NamespacedName, Arc<RouteEntry>>;

/// All routes that are attached to a gateway of ours.
pub(crate) fn build(
    library: &Library,
    gateways: &Gateways,
    services: &Services,
    findings: &mut Vec<Finding>,
) -> Routes {
    let mut grants: BTreeMap<&Namespace, Vec<&ReferenceGrant>> = BTreeMap::new();
    for document in library.iter() {
        if let bartizan_config::Resource::ReferenceGrant(grant) = &document.resource
            && let Some(namespace) = document.namespace()
        {
            grants.entry(namespace).or_default().push(grant);
        }
    }
    let mut routes = Routes::new();
    for document in library.iter() {
        let bartizan_config::Resource::HttpRoute(route) = &document.resource else {
            continue;
        };
        let Some(name) = document.namespaced_name() else {
            continue;
        };
        let reader = Reader {
            document,
            library,
            gateways,
            services,
            grants: &grants,
            name: &name,
        };
        let parents = reader.parents(route, findings);
        let rules = reader.rules(route, findings);
        if parents.is_empty() {
            continue;
        }
        let entry = RouteEntry {
            gateways: parents.iter().map(|(gateway, _)| gateway.clone()).collect(),
            resource: Arc::new(Resource::Route(Route {
                name: name.clone(),
                parents,
                hostnames: route.hostnames.clone(),
                rules,
                is_for_people: route.users == Some(Users::Required),
            })),
        };
        routes.insert(name, Arc::new(entry));
    }
    routes
}

/// The services behind the routes that are marked for people.
pub(crate) fn marked_services(routes: &Routes) -> MarkedServices {
    let mut services = MarkedServices::new();
    for entry in routes.values() {
        if let Resource::Route(route) = &*entry.resource
            && route.is_for_people
        {
            let backends = route.rules.iter().flat_map(|rule| &rule.backends);
            services.extend(backends.filter_map(|backend| Some(backend.service.as_ref()?.0.clone())));
        }
    }
    services
}

struct Reader<'a> {
    document: &'a Document,
    library: &'a Library,
    gateways: &'a Gateways,
    services: &'a Services,
    grants: &'a BTreeMap<&'a Namespace, Vec<&'a ReferenceGrant>>,
    name: &'a NamespacedName,
}

impl Reader<'_> {
    /// Gateway and listener of every place where the route is attached.
    fn parents(&self, route: &HttpRoute, findings: &mut Vec<Finding>) -> Vec<(NamespacedName, Name)> {
        let mut parents = Vec::new();
        for (index, parent) in route.parents.iter().enumerate() {
            match self.attach(route, parent) {
                Ok(attached) => parents.extend(attached),
                Err(Detached { what, help }) => {
                    let path = format!("spec.parentRefs[{index}]");
                    let finding =
                        self.document
                            .finding(codes::ROUTE_NOT_ATTACHED, Severity::Warning, &path, what);
                    findings.push(finding.help(help));
                }
            }
        }
        parents.sort();
        parents.dedup();
        parents
    }

    fn attach(&self, route: &HttpRoute, parent: &ParentRef) -> Result<Vec<(NamespacedName, Name)>, Detached> {
        let namespace = parent.namespace.as_ref().unwrap_or(&self.name.namespace);
        let gateway = NamespacedName::new(namespace.clone(), parent.name.clone());
        let Some(entry) = self.gateways.get(&gateway) else {
            let what = format!("gateway `{gateway}` does not exist, or is of a class that is not ours");
            let names: Vec<_> = self.gateways.keys().map(|name| format!("`{name}`")).collect();
            let help = if names.is_empty() {
                "add a Gateway".to_owned()
            } else {
                format!("gateways are {}", names.join(", "))
            };
            return Err(Detached { what, help });
        };
        let named: Vec<&ListenerEntry> = entry
            .listeners
            .iter()
            .filter(|entry| {
                parent
                    .section
                    .as_ref()
                    .is_none_or(|section| *section == entry.listener.section)
            })
            .filter(|entry| parent.port.is_none_or(|port| port == entry.listener.port))
            .collect();
        if named.is_empty() {
            return Err(Detached {
                what: format!("gateway `{gateway}` has no listener of this section and port"),
                help: format!("its listeners are {}", listed(&entry.listeners)),
            });
        }
        let open: Vec<_> = named.into_iter().filter(|entry| self.is_allowed(entry)).collect();
        if open.is_empty() {
            return Err(Detached {
                what: format!(
                    "gateway `{gateway}` does not let routes of namespace `{}` attach",
                    self.name.namespace
                ),
                help: "set `allowedRoutes.namespaces.from` of its listener to `All` or `Selector`".to_owned(),
            });
        }
        let attached: Vec<_> = open
            .into_iter()
            .filter(|entry| {
                route.hostnames.is_empty()
                    || route
                        .hostnames
                        .iter()
                        .any(|host| intersect(host, &entry.listener.hostname))
            })
            .map(|entry| (gateway.clone(), entry.listener.section.clone()))
            .collect();
        if attached.is_empty() {
            return Err(Detached {
                what: format!("no listener of gateway `{gateway}` serves a host of this route"),
                help: format!("its listeners are {}", listed(&entry.listeners)),
            });
        }
        Ok(attached)
    }

    fn is_allowed(&self, entry: &ListenerEntry) -> bool {
        match &entry.routes_from {
            RouteNamespaces::Same => self.name.namespace == entry.listener.gateway.namespace,
            RouteNamespaces::All => true,
            RouteNamespaces::Selector(selector) => {
                let nothing = Labels::new();
                selector.matches(
                    self.library
                        .namespaces
                        .get(&self.name.namespace)
                        .unwrap_or(&nothing),
                )
            }
        }
    }

    fn rules(&self, route: &HttpRoute, findings: &mut Vec<Finding>) -> Vec<RouteRule> {
        let mut rules = Vec::new();
        for (index, rule) in route.rules.iter().enumerate() {
            let mut backends = Vec::new();
            for (place, backend) in rule.backends.iter().enumerate() {
                let path = format!("spec.rules[{index}].backendRefs[{place}]");
                backends.push(self.backend(backend, &path, findings));
            }
            let mut matches: Vec<_> = rule.matches.iter().map(route_match).collect();
            if matches.is_empty() {
                matches.push(route_match(&HttpRouteMatch::default()));
            }
            rules.push(RouteRule {
                name: rule.name.as_ref().map(ToString::to_string),
                matches,
                filters: filters(&rule.filters),
                backends,
                request_timeout_ms: milliseconds(rule.timeouts.request),
                backend_timeout_ms: milliseconds(rule.timeouts.backend_request),
            });
        }
        rules
    }

    fn backend(&self, backend: &BackendRef, path: &str, findings: &mut Vec<Finding>) -> Backend {
        let namespace = backend.namespace.as_ref().unwrap_or(&self.name.namespace);
        let name = NamespacedName::new(namespace.clone(), backend.name.clone());
        let problem = self.problem(backend, &name);
        if let Some((field, what, help)) = problem.clone() {
            let finding = self.document.finding(
                codes::BACKEND_NOT_RESOLVED,
                Severity::Warning,
                &format!("{path}.{field}"),
                what,
            );
            findings.push(
                finding
                    .why("this share of the requests is answered 500")
                    .help(help),
            );
        }
        Backend {
            service: problem.is_none().then_some((name, backend.port)),
            weight: backend.weight.unwrap_or(1),
            filters: filters(&backend.filters),
        }
    }

    /// Why a backend cannot be resolved: the field, what is wrong, how to fix it.
    fn problem(&self, backend: &BackendRef, name: &NamespacedName) -> Option<(&'static str, String, String)> {
        let namespace = &self.name.namespace;
        if name.namespace != *namespace {
            let grants = self.grants.get(&name.namespace);
            let granted = grants.into_iter().flatten().any(|grant| {
                grant.allows(
                    ("gateway.networking.k8s.io", "HTTPRoute", namespace),
                    ("", "Service", &name.name),
                )
            });
            if !granted {
                let what =
                    format!("no ReferenceGrant lets routes of `{namespace}` point at service `{name}`");
                let help = format!(
                    "add a document:\n  apiVersion: gateway.networking.k8s.io/v1beta1\n  kind: ReferenceGrant\n  metadata: {{ name: routes, namespace: {} }}\n  spec:\n    from: [{{ group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: {namespace} }}]\n    to: [{{ group: \"\", kind: Service }}]",
                    name.namespace
                );
                return Some(("namespace", what, help));
            }
        }
        let Some(service) = self.services.get(name) else {
            let what = format!("service `{name}` does not exist");
            return Some(("name", what, "add the Service, or correct the name".to_owned()));
        };
        if service.service.port(backend.port).is_none() {
            let ports: Vec<_> = service
                .service
                .ports
                .iter()
                .map(|port| port.port.to_string())
                .collect();
            let what = format!("service `{name}` has no port {}", backend.port);
            return Some(("port", what, format!("its ports are {}", ports.join(", "))));
        }
        None
    }
}

/// Why a route is not attached to a parent.
struct Detached {
    what: String,
    help: String,
}

fn listed(listeners: &[ListenerEntry]) -> String {
    let texts: Vec<_> = listeners
        .iter()
        .map(|entry| {
            let listener = &entry.listener;
            format!(
                "`{}` (port {}, host `{}`)",
                listener.section, listener.port, listener.hostname
            )
        })
        .collect();
    texts.join(", ")
}

/// Whether some host is covered by both.
fn intersect(one: &HostPattern, other: &HostPattern) -> bool {
    match (one, other) {
        (HostPattern::Any, _) | (_, HostPattern::Any) => true,
        (HostPattern::Exact(host), pattern) | (pattern, HostPattern::Exact(host)) => {
            pattern.matches(host.as_str())
        }
        (HostPattern::Suffix(one), HostPattern::Suffix(other)) => {
            let covers = |short: &str, long: &str| {
                long == short || long.strip_suffix(short).is_some_and(|rest| rest.ends_with('.'))
            };
            covers(one.as_str(), other.as_str()) || covers(other.as_str(), one.as_str())
        }
    }
}

fn route_match(written: &HttpRouteMatch) -> RouteMatch {
    RouteMatch {
        path: match &written.path {
            None => PathSelector::Prefix("/".to_owned()),
            Some(PathPattern::Exact(path)) => PathSelector::Exact(path.clone()),
            Some(PathPattern::Prefix(path)) => PathSelector::Prefix(path.clone()),
            Some(PathPattern::Regex(path)) => PathSelector::Regex(path.clone()),
        },
        method: written.method.clone(),
        headers: written
            .headers
            .iter()
            .map(|header| {
                let (name, value, regex) = named(header);
                HeaderMatch { name, value, regex }
            })
            .collect(),
        query: written
            .query
            .iter()
            .map(|parameter| {
                let (name, value, regex) = named(parameter);
                QueryMatch { name, value, regex }
            })
            .collect(),
    }
}

fn named(written: &NamedMatch) -> (String, String, bool) {
    match &written.value {
        ValuePattern::Exact(value) => (written.name.clone(), value.clone(), false),
        ValuePattern::Regex(value) => (written.name.clone(), value.clone(), true),
    }
}

fn filters(written: &[HeaderFilter]) -> Vec<RouteFilter> {
    written
        .iter()
        .map(|filter| match filter {
            HeaderFilter::Request(change) => RouteFilter::RequestHeaders(edit(change)),
            HeaderFilter::Response(change) => RouteFilter::ResponseHeaders(edit(change)),
        })
        .collect()
}

fn edit(change: &HeaderChange) -> HeaderEdit {
    HeaderEdit {
        set: change.set.clone(),
        add: change.add.clone(),
        remove: change.remove.clone(),
    }
}

/// Zero is "no timeout", as in Gateway API.
fn milliseconds(duration: Option<Duration>) -> Option<u64> {
    let milliseconds = u64::try_from(duration?.as_millis()).unwrap_or(u64::MAX);
    (milliseconds > 0).then_some(milliseconds)
}
