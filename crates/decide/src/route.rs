//! Which backend a request at a gateway goes to (Gateway API `HTTPRoute`): listener, host, path, method, headers, query,
//! in its order of precedence, then a backend by weight.

use std::time::Duration;

use bartizan_mesh::{Backend, HeaderEdit, RouteFilter, RouteRule};
use bartizan_types::{NamespacedName, Port};

use crate::engine::Engine;
use crate::facts::{Headers, HttpFacts};
use crate::path::{canonical_path, query_of};

pub(crate) use self::table::WaysIn;

mod hosts;
mod table;

/// What becomes of a request at a gateway.
#[derive(Clone, PartialEq, Debug)]
pub enum Plan<'e> {
    /// It goes to a service.
    Forward(Forward<'e>),
    /// It is answered here.
    Reply(Reply),
}

/// Where a request goes, and what is changed on the way.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Forward<'e> {
    /// The route that matched.
    pub route: &'e NamespacedName,
    /// The index of its rule, from 0.
    pub rule_index: usize,
    /// The service.
    pub service: &'e NamespacedName,
    /// The service's port.
    pub port: Port,
    /// The route is marked for people: goes into [`HttpFacts::route_is_for_people`].
    pub is_for_people: bool,
    rule: &'e RouteRule,
    backend: &'e Backend,
}

impl<'e> Forward<'e> {
    /// Changes of the request's headers in the order that they are applied in: the rule's, then the backend's.
    pub fn request_edits(&self) -> impl Iterator<Item = &'e HeaderEdit> {
        self.filters().filter_map(|filter| match filter {
            RouteFilter::RequestHeaders(edit) => Some(edit),
            RouteFilter::ResponseHeaders(_) => None,
        })
    }

    /// Changes of the response's headers in the order that they are applied in.
    pub fn response_edits(&self) -> impl Iterator<Item = &'e HeaderEdit> {
        self.filters().filter_map(|filter| match filter {
            RouteFilter::ResponseHeaders(edit) => Some(edit),
            RouteFilter::RequestHeaders(_) => None,
        })
    }

    /// For the whole request, retries included; `None` is no limit.
    pub fn request_timeout(&self) -> Option<Duration> {
        self.rule.request_timeout_ms.map(Duration::from_millis)
    }

    /// For one try.
    pub fn backend_timeout(&self) -> Option<Duration> {
        self.rule.backend_timeout_ms.map(Duration::from_millis)
    }

    fn filters(&self) -> impl Iterator<Item = &'e RouteFilter> + use<'e> {
        self.rule.filters.iter().chain(&self.backend.filters)
    }
}

/// An answer that the gateway itself gives.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reply {
    /// 400, 404 or 500.
    pub status: u16,
    /// For the log.
    pub reason: &'static str,
}

/// Routes a request that came in at a port of a gateway. `random` is uniform over all of `u64`.
pub fn route<'e, H: Headers + ?Sized>(
    engine: &'e Engine,
    gateway: &NamespacedName,
    port: Port,
    facts: &HttpFacts<'_, H>,
    random: u64,
) -> Plan<'e> {
    let Ok(path) = canonical_path(facts.target, engine.path_rule()) else {
        return reply(400, "ambiguous_path");
    };
    let host = facts.authority.map(without_port).unwrap_or_default();
    let request = table::Request {
        method: facts.method,
        path: path.as_str(),
        query: query_of(facts.target).unwrap_or_default(),
        headers: facts.headers,
    };
    let Some(found) = engine.ways_in().find(gateway, port, host, &request) else {
        return reply(404, "route_not_found");
    };
    let Some(backend) = by_weight(&found.rule.backends, random) else {
        return reply(500, "no_backend");
    };
    match &backend.service {
        Some((service, port)) if is_known(engine, service, *port) => Plan::Forward(Forward {
            route: found.route,
            rule_index: found.rule_index,
            service,
            port: *port,
            is_for_people: found.is_for_people,
            rule: found.rule,
            backend,
        }),
        _ => reply(500, "backend_not_resolved"),
    }
}

fn is_known(engine: &Engine, service: &NamespacedName, port: Port) -> bool {
    engine
        .snapshot()
        .service(service)
        .is_some_and(|service| service.port(port).is_some())
}

/// A backend with the probability of its share; `None` when there is no share at all.
fn by_weight(backends: &[Backend], random: u64) -> Option<&Backend> {
    let total: u64 = backends.iter().map(|backend| u64::from(backend.weight)).sum();
    let mut rest = random.checked_rem(total)?;
    backends.iter().find(|backend| {
        let weight = u64::from(backend.weight);
        let is_in = rest < weight;
        rest = rest.saturating_sub(weight);
        is_in
    })
}

/// `host` of `host:8080` and `[::1]` of `[::1]:80`.
fn without_port(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
            if host.contains(':') && !host.ends_with(']') {
                authority // a bare IPv6 address
            } else {
                host
            }
        }
        _ => authority,
    }
}

fn reply(status: u16, reason: &'static str) -> Plan<'static> {
    Plan::Reply(Reply { status, reason })
}

#[cfg(test)]
#[path = "route/tests.rs"]
mod tests;
