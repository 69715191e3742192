//! The route index against the order of precedence, applied to every match in turn.

use std::cmp::Reverse;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use bartizan_mesh::{
    HeaderMatch, Listener, PathSelector, QueryMatch, Resource, Route, RouteMatch, Service, ServicePort,
    Snapshot, Transaction,
};
use bartizan_types::{HostPattern, Hostname, Name, Peer, Protocol, Version};
use proptest::prelude::*;
use proptest::sample::select;

use super::*;
use crate::facts::ConnectionFacts;

fn name(text: &str) -> NamespacedName {
    NamespacedName::parse(text).unwrap()
}

fn path() -> impl Strategy<Value = PathSelector> {
    prop_oneof![
        select(&["/", "/a", "/a/", "/a/b", "/b"][..]).prop_map(|path| PathSelector::Prefix(path.to_owned())),
        select(&["/", "/a", "/a/b"][..]).prop_map(|path| PathSelector::Exact(path.to_owned())),
        select(&["/a.*", "/[ab]", ".*"][..]).prop_map(|path| PathSelector::Regex(path.to_owned())),
    ]
}

fn wanted() -> impl Strategy<Value = RouteMatch> {
    let pairs = || prop::collection::vec((select(&["x", "y"][..]), select(&["1", "2"][..])), 0..3);
    (
        path(),
        prop::option::of(select(&["GET", "POST"][..])),
        pairs(),
        pairs(),
    )
        .prop_map(|(path, method, headers, query)| RouteMatch {
            path,
            method: method.map(str::to_owned),
            headers: headers
                .into_iter()
                .map(|(name, value)| HeaderMatch {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    regex: false,
                })
                .collect(),
            query: query
                .into_iter()
                .map(|(name, value)| QueryMatch {
                    name: name.to_owned(),
                    value: value.to_owned(),
                    regex: false,
                })
                .collect(),
        })
}

fn routes() -> impl Strategy<Value = Vec<Route>> {
    let rules = prop::collection::vec(prop::collection::vec(wanted(), 1..4), 1..4);
    prop::collection::vec(rules, 1..4).prop_map(|routes| {
        routes
            .into_iter()
            .enumerate()
            .map(|(at, rules)| Route {
                name: name(&format!("shop/r{at}")),
                parents: vec![(name("edge/gateway"), Name::parse("web").unwrap())],
                hostnames: Vec::new(),
                is_for_people: false,
                rules: rules
                    .into_iter()
                    .map(|matches| RouteRule {
                        name: None,
                        matches,
                        filters: Vec::new(),
                        backends: vec![Backend {
                            service: Some((name("shop/s"), Port::new(80).unwrap())),
                            weight: 1,
                            filters: Vec::new(),
                        }],
                        request_timeout_ms: None,
                        backend_timeout_ms: None,
                    })
                    .collect(),
            })
            .collect()
    })
}

type Pairs = Vec<(String, String)>;

fn first<'p>(pairs: &'p Pairs, name: &str) -> Option<&'p str> {
    pairs
        .iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.as_str())
}

/// Names that count: of several entries for one name only the first.
fn distinct<T>(entries: &[T], key: impl Fn(&T) -> (&str, &str)) -> Vec<(String, String)> {
    let mut distinct: Pairs = Vec::new();
    for (name, value) in entries.iter().map(key) {
        if first(&distinct, name).is_none() {
            distinct.push((name.to_owned(), value.to_owned()));
        }
    }
    distinct
}

/// The route and rule that come first by precedence.
fn model(
    routes: &[Route],
    method: &str,
    path: &str,
    headers: &Pairs,
    query: &Pairs,
) -> Option<(String, usize)> {
    let mut found = Vec::new();
    for (order, route) in routes.iter().enumerate() {
        for (rule_at, rule) in route.rules.iter().enumerate() {
            for wanted in &rule.matches {
                let rank = match &wanted.path {
                    PathSelector::Exact(text) if text == path => (0, 0),
                    PathSelector::Prefix(text) => {
                        let text = text.trim_end_matches('/');
                        if path == text || path.starts_with(&format!("{text}/")) {
                            (1, usize::MAX - text.len())
                        } else {
                            continue;
                        }
                    }
                    PathSelector::Regex(text)
                        if regex::Regex::new(&format!("^({text})$")).unwrap().is_match(path) =>
                    {
                        (2, 0)
                    }
                    PathSelector::Exact(_) | PathSelector::Regex(_) => continue,
                };
                let wanted_headers = distinct(&wanted.headers, |header| (&header.name, &header.value));
                let wanted_query = distinct(&wanted.query, |query| (&query.name, &query.value));
                let joined = |name: &str| {
                    let values: Vec<&str> = headers
                        .iter()
                        .filter(|(key, _)| key == name)
                        .map(|(_, value)| value.as_str())
                        .collect();
                    values.join(",")
                };
                let fits = wanted.method.as_deref().is_none_or(|wanted| wanted == method)
                    && wanted_headers.iter().all(|(name, value)| joined(name) == *value)
                    && wanted_query
                        .iter()
                        .all(|(name, value)| first(query, name) == Some(value.as_str()));
                if fits {
                    let rank = (
                        rank,
                        wanted.method.is_none(),
                        Reverse(wanted_headers.len()),
                        Reverse(wanted_query.len()),
                        order,
                        rule_at,
                    );
                    found.push((rank, (route.name.to_string(), rule_at)));
                }
            }
        }
    }
    found.sort();
    found.into_iter().next().map(|(_, found)| found)
}

fn engine(routes: &[Route]) -> Engine {
    let mut upserts: Vec<Resource> = routes.iter().cloned().map(Resource::Route).collect();
    upserts.push(Resource::Listener(Listener {
        gateway: name("edge/gateway"),
        section: Name::parse("web").unwrap(),
        port: Port::new(80).unwrap(),
        hostname: HostPattern::Any,
    }));
    upserts.push(Resource::Service(Service {
        name: name("shop/s"),
        hostname: Hostname::parse("s.shop.svc.cluster.local").unwrap(),
        addresses: Vec::new(),
        headless: false,
        alias_of: None,
        ports: vec![ServicePort {
            port: Port::new(80).unwrap(),
            name: None,
            protocol: Protocol::Http,
        }],
    }));
    Engine::build(Arc::new(Snapshot::default().apply(&Transaction {
        version: Version(1),
        upserts,
        removals: Vec::new(),
    })))
}

fn facts<'a>(
    method: &'a str,
    target: &'a str,
    headers: &'a Pairs,
    local: &'a NamespacedName,
) -> HttpFacts<'a, Pairs> {
    HttpFacts {
        connection: ConnectionFacts {
            local,
            peer: &Peer::Plaintext,
            source: IpAddr::from([192, 0, 2, 1]),
            destination: SocketAddr::from(([10, 66, 0, 1], 80)),
            remote: IpAddr::from([10, 66, 0, 1]),
            sni: None,
            tls: None,
            now: 0,
        },
        method,
        authority: Some("any.example"),
        target,
        headers,
        user: None,
        route_is_for_people: false,
    }
}

proptest! {
    #[test]
    fn the_index_finds_what_precedence_says(
        routes in routes(),
        method in select(&["GET", "POST", "PUT"][..]),
        path in select(&["/", "/a", "/a/", "/a/b", "/a/b/c", "/ab", "/b"][..]),
        headers in prop::collection::vec((select(&["x", "y"][..]), select(&["1", "2"][..])), 0..3),
        query in prop::collection::vec((select(&["x", "y"][..]), select(&["1", "2"][..])), 0..3),
    ) {
        let owned = |pairs: Vec<(&str, &str)>| -> Pairs {
            pairs.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
        };
        let (headers, query) = (owned(headers), owned(query));
        let text: Vec<String> = query.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let target = format!("{path}?{}", text.join("&"));
        let engine = engine(&routes);
        let local = name("edge/gateway-0");
        let plan = route(&engine, &name("edge/gateway"), Port::new(80).unwrap(), &facts(method, &target, &headers, &local), 0);
        let found = match plan {
            Plan::Forward(forward) => Some((forward.route.to_string(), forward.rule_index)),
            Plan::Reply(reply) => {
                prop_assert_eq!(reply.status, 404);
                None
            }
        };
        prop_assert_eq!(found, model(&routes, method, path, &headers, &query));
    }
}

#[test]
fn shares_follow_weights() {
    let backend = |service: &str, weight| Backend {
        service: Some((name(service), Port::new(80).unwrap())),
        weight,
        filters: Vec::new(),
    };
    let backends = [backend("a/a", 1), backend("a/none", 0), backend("a/b", 3)];
    let count = |wanted: &str| {
        (0..400_u64)
            .filter_map(|random| by_weight(&backends, random))
            .filter(|backend| {
                backend
                    .service
                    .as_ref()
                    .is_some_and(|(service, _)| service.to_string() == wanted)
            })
            .count()
    };
    assert_eq!((count("a/a"), count("a/none"), count("a/b")), (100, 0, 300));
    assert!(by_weight(&backends[1..2], 7).is_none());
    assert!(by_weight(&[], 7).is_none());
}

#[test]
fn an_expression_that_cannot_be_compiled_is_a_problem_and_matches_nothing() {
    let mut route = Route {
        name: name("shop/r"),
        parents: vec![(name("edge/gateway"), Name::parse("web").unwrap())],
        hostnames: Vec::new(),
        is_for_people: false,
        rules: Vec::new(),
    };
    route.rules.push(RouteRule {
        name: None,
        matches: vec![RouteMatch {
            path: PathSelector::Regex("/(".to_owned()),
            method: None,
            headers: Vec::new(),
            query: Vec::new(),
        }],
        filters: Vec::new(),
        backends: Vec::new(),
        request_timeout_ms: None,
        backend_timeout_ms: None,
    });
    let engine = engine(&[route]);
    assert!(
        engine.problems()[0].starts_with("HTTPRoute `shop/r` rules[0].matches[0] matches nothing: path `/(`")
    );
    let (local, headers) = (name("edge/gateway-0"), Pairs::new());
    let plan = super::route(
        &engine,
        &name("edge/gateway"),
        Port::new(80).unwrap(),
        &facts("GET", "/(", &headers, &local),
        0,
    );
    assert_eq!(
        plan,
        Plan::Reply(Reply {
            status: 404,
            reason: "route_not_found"
        })
    );
}

#[test]
fn a_port_is_no_part_of_the_host() {
    for (authority, host) in [
        ("a.b:80", "a.b"),
        ("a.b", "a.b"),
        ("[::1]:80", "[::1]"),
        ("[::1]", "[::1]"),
        ("::1", "::1"),
        ("a:b", "a:b"),
        ("a:", "a"),
        ("", ""),
    ] {
        assert_eq!(without_port(authority), host, "{authority}");
    }
}
