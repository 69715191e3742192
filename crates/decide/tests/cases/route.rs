//! `cases/route`: listeners and routes of one gateway, requests, and where they go.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;

use bartizan_decide::{ConnectionFacts, Engine, HttpFacts, Plan, route};
use bartizan_mesh::{
    Backend, HeaderEdit, HeaderMatch, Listener, PathSelector, QueryMatch, Resource, Route, RouteFilter,
    RouteMatch, RouteRule, Service, ServicePort, Snapshot, Transaction,
};
use bartizan_types::{HostPattern, Hostname, Name, NamespacedName, Peer, Port, Protocol, Version};
use serde::Deserialize;

type Failure = Box<dyn std::error::Error>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Table {
    listeners: Vec<WrittenListener>,
    /// Services with the port 80.
    services: Vec<String>,
    routes: Vec<WrittenRoute>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenListener {
    name: String,
    #[serde(default = "eighty")]
    port: u32,
    #[serde(default = "any_host")]
    hostname: String,
}

fn eighty() -> u32 {
    80
}

fn any_host() -> String {
    "*".to_owned()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenRoute {
    name: String,
    /// Sections of the gateway.
    parents: Vec<String>,
    #[serde(default)]
    hostnames: Vec<String>,
    rules: Vec<WrittenRule>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenRule {
    #[serde(default)]
    matches: Vec<WrittenMatch>,
    #[serde(default)]
    set_request_header: BTreeMap<String, String>,
    #[serde(default)]
    backend_refs: Vec<WrittenBackend>,
    request_timeout_ms: Option<u64>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenMatch {
    path: Option<WrittenValue>,
    method: Option<String>,
    #[serde(default)]
    headers: Vec<WrittenValue>,
    #[serde(default)]
    query_params: Vec<WrittenValue>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenValue {
    #[serde(default)]
    name: String,
    r#type: Option<String>,
    value: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WrittenBackend {
    /// None is a reference that could not be resolved.
    service: Option<String>,
    #[serde(default = "one")]
    weight: u32,
    #[serde(default)]
    set_request_header: BTreeMap<String, String>,
}

fn one() -> u32 {
    1
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Case {
    name: String,
    #[serde(default = "eighty")]
    port: u32,
    host: Option<String>,
    #[serde(default = "get")]
    method: String,
    target: String,
    #[serde(default)]
    headers: Vec<(String, String)>,
    #[serde(default)]
    random: u64,
    /// The route's rule, such as `shop/web[0]`,
    rule: Option<String>,
    /// the service,
    service: Option<String>,
    /// the request's headers as they are set, in order;
    set: Option<Vec<(String, String)>>,
    timeout_ms: Option<u64>,
    /// or the status of the answer.
    status: Option<u16>,
}

fn get() -> String {
    "GET".to_owned()
}

pub(crate) fn run(file: &Path) -> datatest_stable::Result<()> {
    let table: Table = crate::read(file)?;
    let gateway = NamespacedName::parse("edge/gateway")?;
    let engine = engine(&table, &gateway)?;
    let mut failures: Vec<String> = engine.problems().to_vec();
    for case in &table.cases {
        if let Err(failure) = check(&engine, &gateway, case) {
            failures.push(format!("{}: {failure}", case.name));
        }
    }
    crate::verdict(&failures)
}

fn check(engine: &Engine, gateway: &NamespacedName, case: &Case) -> Result<(), Failure> {
    let local = NamespacedName::parse("edge/gateway-0")?;
    let facts = HttpFacts {
        connection: ConnectionFacts {
            local: &local,
            peer: &Peer::Plaintext,
            source: IpAddr::from([192, 0, 2, 1]),
            destination: SocketAddr::from(([10, 66, 0, 1], 80)),
            remote: IpAddr::from([10, 66, 0, 1]),
            sni: None,
            tls: None,
            now: 0,
        },
        method: &case.method,
        authority: case.host.as_deref(),
        target: &case.target,
        headers: &case.headers,
        user: None,
        route_is_for_people: false,
    };
    let plan = route(engine, gateway, Port::new(case.port)?, &facts, case.random);
    match (plan, case.status) {
        (Plan::Reply(reply), Some(status)) if reply.status == status => Ok(()),
        (Plan::Forward(forward), None) => {
            let rule = format!("{}[{}]", forward.route, forward.rule_index);
            let service = forward.service.to_string();
            let set: Vec<(String, String)> = forward
                .request_edits()
                .flat_map(|edit| edit.set.iter().cloned())
                .collect();
            let timeout = forward.request_timeout().map(|timeout| timeout.as_millis());
            if case.rule.as_ref().is_some_and(|wanted| *wanted != rule)
                || case.service.as_ref().is_some_and(|wanted| *wanted != service)
                || case.set.as_ref().is_some_and(|wanted| *wanted != set)
                || (case.timeout_ms.is_some() && timeout != case.timeout_ms.map(u128::from))
            {
                return Err(format!("goes to {service} by {rule} with {set:?} in {timeout:?}").into());
            }
            if case.rule.is_none() && case.service.is_none() {
                return Err("a case names a rule, a service or a status".into());
            }
            Ok(())
        }
        (plan, _) => Err(format!("gives {plan:?}").into()),
    }
}

fn engine(table: &Table, gateway: &NamespacedName) -> Result<Engine, Failure> {
    let mut upserts = Vec::new();
    for listener in &table.listeners {
        upserts.push(Resource::Listener(Listener {
            gateway: gateway.clone(),
            section: Name::parse(&listener.name)?,
            port: Port::new(listener.port)?,
            hostname: HostPattern::parse(&listener.hostname)?,
        }));
    }
    for service in &table.services {
        let name = NamespacedName::parse(service)?;
        upserts.push(Resource::Service(Service {
            hostname: Hostname::parse(&format!("{}.{}.svc.cluster.local", name.name, name.namespace))?,
            addresses: Vec::new(),
            headless: false,
            alias_of: None,
            ports: vec![ServicePort {
                port: Port::new(80)?,
                name: None,
                protocol: Protocol::Http,
            }],
            name,
        }));
    }
    for route in &table.routes {
        upserts.push(Resource::Route(route.to_route(gateway)?));
    }
    let snapshot = Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts,
        removals: Vec::new(),
    });
    Ok(Engine::build(Arc::new(snapshot)))
}

impl WrittenRoute {
    fn to_route(&self, gateway: &NamespacedName) -> Result<Route, Failure> {
        Ok(Route {
            is_for_people: false,
            name: NamespacedName::parse(&self.name)?,
            parents: self
                .parents
                .iter()
                .map(|section| Ok((gateway.clone(), Name::parse(section)?)))
                .collect::<Result<_, Failure>>()?,
            hostnames: self
                .hostnames
                .iter()
                .map(|hostname| Ok(HostPattern::parse(hostname)?))
                .collect::<Result<_, Failure>>()?,
            rules: self
                .rules
                .iter()
                .map(WrittenRule::to_rule)
                .collect::<Result<_, Failure>>()?,
        })
    }
}

impl WrittenRule {
    fn to_rule(&self) -> Result<RouteRule, Failure> {
        let root = RouteMatch {
            path: PathSelector::Prefix("/".to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        };
        let mut matches = self
            .matches
            .iter()
            .map(WrittenMatch::to_match)
            .collect::<Result<Vec<_>, Failure>>()?;
        if matches.is_empty() {
            matches.push(root);
        }
        Ok(RouteRule {
            name: None,
            matches,
            filters: set(&self.set_request_header),
            backends: self
                .backend_refs
                .iter()
                .map(|backend| {
                    let service = match &backend.service {
                        Some(service) => Some((NamespacedName::parse(service)?, Port::new(80)?)),
                        None => None,
                    };
                    Ok(Backend {
                        service,
                        weight: backend.weight,
                        filters: set(&backend.set_request_header),
                    })
                })
                .collect::<Result<_, Failure>>()?,
            request_timeout_ms: self.request_timeout_ms,
            backend_timeout_ms: None,
        })
    }
}

fn set(headers: &BTreeMap<String, String>) -> Vec<RouteFilter> {
    if headers.is_empty() {
        return Vec::new();
    }
    vec![RouteFilter::RequestHeaders(HeaderEdit {
        set: headers.clone().into_iter().collect(),
        ..HeaderEdit::default()
    })]
}

impl WrittenMatch {
    fn to_match(&self) -> Result<RouteMatch, Failure> {
        let path = match &self.path {
            None => PathSelector::Prefix("/".to_owned()),
            Some(path) => match path.r#type.as_deref() {
                None | Some("PathPrefix") => PathSelector::Prefix(path.value.clone()),
                Some("Exact") => PathSelector::Exact(path.value.clone()),
                Some("RegularExpression") => PathSelector::Regex(path.value.clone()),
                Some(other) => return Err(format!("unknown type `{other}`").into()),
            },
        };
        Ok(RouteMatch {
            path,
            method: self.method.clone(),
            headers: self
                .headers
                .iter()
                .map(|header| HeaderMatch {
                    name: header.name.to_ascii_lowercase(),
                    value: header.value.clone(),
                    regex: header.r#type.as_deref() == Some("RegularExpression"),
                })
                .collect(),
            query: self
                .query_params
                .iter()
                .map(|parameter| QueryMatch {
                    name: parameter.name.clone(),
                    value: parameter.value.clone(),
                    regex: parameter.r#type.as_deref() == Some("RegularExpression"),
                })
                .collect(),
        })
    }
}
