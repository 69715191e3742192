//! Routes, compiled: what a request costs follows the depth of its path and not the number of routes.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::sync::Arc;

use bartizan_mesh::{FieldHashing, Listener, PathRule, PathSelector, Route, RouteMatch, RouteRule, Snapshot};
use bartizan_types::{NamespacedName, Port};
use regex::bytes::{Regex, RegexBuilder};

use super::hosts::{Hosts, intersection};
use crate::facts::Headers;
use crate::matching::joined;
use crate::path::canonical_value;

/// All ways in: gateways' listeners with the routes that are attached to them.
#[derive(Debug, Default)]
pub(crate) struct WaysIn {
    /// By port; a proxy has the listeners of its own gateway, or none.
    ports: HashMap<Port, Vec<(NamespacedName, Hosts<ListenerRoutes>)>, FieldHashing>,
    problems: Vec<String>,
}

/// The routes of a listener by their effective host. Routes of another listener are not asked (listener isolation).
#[derive(Debug, Default)]
struct ListenerRoutes {
    by_host: Hosts<RouteTable>,
}

/// The matches of all rules for one host.
#[derive(Debug, Default)]
struct RouteTable {
    exact: HashMap<String, Vec<Arc<Entry>>, FieldHashing>,
    /// Without the trailing slash; the prefix `/` is the empty text.
    prefix: HashMap<String, Vec<Arc<Entry>>, FieldHashing>,
    /// Lengths of the prefixes, longest first.
    prefix_lengths: Vec<usize>,
    regex: Vec<(Regex, Arc<Entry>)>,
}

/// One match of a rule, compiled once for all hosts and listeners.
#[derive(Debug)]
struct Compiled {
    path: CompiledPath,
    entry: Arc<Entry>,
}

#[derive(Debug)]
enum CompiledPath {
    Exact(String),
    Prefix(String),
    Regex(Regex),
}

/// One match of a rule, apart from its path.
#[derive(Debug)]
struct Entry {
    route: Arc<Route>,
    rule: usize,
    matched: usize,
    method: Option<String>,
    headers: Vec<(String, Value)>,
    query: Vec<(String, Value)>,
    /// The order of the routes.
    order: usize,
}

#[derive(Debug)]
enum Value {
    Exact(String),
    Regex(Regex),
}

/// What routes look at.
pub(super) struct Request<'a, H: ?Sized> {
    pub(super) method: &'a str,
    pub(super) path: &'a str,
    pub(super) query: &'a str,
    pub(super) headers: &'a H,
}

/// The rule that a request belongs to.
pub(super) struct Found<'e> {
    pub(super) route: &'e NamespacedName,
    pub(super) rule_index: usize,
    pub(super) rule: &'e RouteRule,
    pub(super) is_for_people: bool,
}

impl WaysIn {
    pub(crate) fn build(snapshot: &Snapshot, paths: PathRule) -> Self {
        let mut ways = Self::default();
        // No creation times here: the order of routes is the order of their names.
        let routes: Vec<(&Arc<Route>, Vec<Compiled>)> = snapshot
            .routes()
            .enumerate()
            .map(|(order, route)| (route, compile(route, order, paths, &mut ways.problems)))
            .collect();
        for listener in snapshot.listeners() {
            let port = ways.ports.entry(listener.port).or_default();
            let at = port
                .iter()
                .position(|(gateway, _)| *gateway == listener.gateway)
                .unwrap_or_else(|| {
                    port.push((listener.gateway.clone(), Hosts::default()));
                    port.len() - 1
                });
            let Some((_, hosts)) = port.get_mut(at) else {
                continue;
            };
            let of_listener = hosts.entry(&listener.hostname);
            for (route, matches) in routes.iter().filter(|(route, _)| is_attached(route, listener)) {
                of_listener.add(listener, route, matches);
            }
        }
        for (_, hosts) in ways.ports.values_mut().flatten() {
            for table in hosts.values_mut().flat_map(|routes| routes.by_host.values_mut()) {
                table.sort();
            }
        }
        ways
    }

    pub(crate) fn problems(&self) -> &[String] {
        &self.problems
    }

    pub(crate) fn has_listener(&self, gateway: &NamespacedName, port: Port) -> bool {
        self.hosts(gateway, port).is_some()
    }

    pub(super) fn find<H: Headers + ?Sized>(
        &self,
        gateway: &NamespacedName,
        port: Port,
        host: &str,
        request: &Request<'_, H>,
    ) -> Option<Found<'_>> {
        self.hosts(gateway, port)?
            .find(host)?
            .by_host
            .find(host)?
            .find(request)
    }

    fn hosts(&self, gateway: &NamespacedName, port: Port) -> Option<&Hosts<ListenerRoutes>> {
        let (_, hosts) = self.ports.get(&port)?.iter().find(|(name, _)| name == gateway)?;
        Some(hosts)
    }
}

fn is_attached(route: &Route, listener: &Listener) -> bool {
    route
        .parents
        .iter()
        .any(|(gateway, section)| *gateway == listener.gateway && *section == listener.section)
}

impl ListenerRoutes {
    fn add(&mut self, listener: &Listener, route: &Route, matches: &[Compiled]) {
        let mut hosts: Vec<_> = if route.hostnames.is_empty() {
            vec![listener.hostname.clone()]
        } else {
            route
                .hostnames
                .iter()
                .filter_map(|hostname| intersection(&listener.hostname, hostname))
                .collect()
        };
        hosts.sort_unstable();
        hosts.dedup();
        for host in &hosts {
            let table = self.by_host.entry(host);
            for matched in matches {
                table.add(matched);
            }
        }
    }
}

/// All matches of a route; those that cannot be compiled match nothing and are told.
fn compile(route: &Arc<Route>, order: usize, paths: PathRule, problems: &mut Vec<String>) -> Vec<Compiled> {
    let mut compiled = Vec::new();
    for (rule, matched, wanted) in route.rules.iter().enumerate().flat_map(|(at, rule)| {
        rule.matches
            .iter()
            .enumerate()
            .map(move |(matched, wanted)| (at, matched, wanted))
    }) {
        let mut problem = |what: &str, pattern: &str, error: &regex::Error| {
            problems.push(format!(
                "HTTPRoute `{}` rules[{rule}].matches[{matched}] matches nothing: {what} `{pattern}`: {error}",
                route.name
            ));
        };
        let canonical = |path: &str| canonical_value(path, paths).unwrap_or_else(|| path.to_owned());
        let path = match &wanted.path {
            PathSelector::Exact(path) => CompiledPath::Exact(canonical(path)),
            PathSelector::Prefix(path) => {
                let path = canonical(path);
                CompiledPath::Prefix(path.strip_suffix('/').unwrap_or(&path).to_owned())
            }
            PathSelector::Regex(pattern) => match whole(pattern) {
                Ok(regex) => CompiledPath::Regex(regex),
                Err(error) => {
                    problem("path", pattern, &error);
                    continue;
                }
            },
        };
        if let Some(entry) = Entry::compile(route, (rule, matched, order), wanted, &mut problem) {
            let entry = Arc::new(entry);
            compiled.push(Compiled { path, entry });
        }
    }
    compiled
}

impl RouteTable {
    fn add(&mut self, matched: &Compiled) {
        let entry = Arc::clone(&matched.entry);
        match &matched.path {
            CompiledPath::Exact(path) => self.exact.entry(path.clone()).or_default().push(entry),
            CompiledPath::Prefix(path) => self.prefix.entry(path.clone()).or_default().push(entry),
            CompiledPath::Regex(regex) => self.regex.push((regex.clone(), entry)),
        }
    }

    fn sort(&mut self) {
        for entries in self.exact.values_mut().chain(self.prefix.values_mut()) {
            entries.sort_by_key(|entry| entry.rank());
        }
        self.regex.sort_by_key(|(_, entry)| entry.rank());
        self.prefix_lengths = self.prefix.keys().map(String::len).collect();
        self.prefix_lengths
            .sort_unstable_by_key(|length| Reverse(*length));
        self.prefix_lengths.dedup();
    }

    /// Exact path, then the longest prefix, then expressions; within a path by [`Entry::rank`].
    fn find<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> Option<Found<'_>> {
        let path = request.path;
        let exact = self.exact.get(path).into_iter().flatten();
        let prefix = self
            .prefix_lengths
            .iter()
            .filter(|length| {
                path.len() >= **length && matches!(path.as_bytes().get(**length), None | Some(b'/'))
            })
            .filter_map(|length| self.prefix.get(path.get(..*length)?))
            .flatten();
        let regex = self
            .regex
            .iter()
            .filter(|(regex, _)| regex.is_match(path.as_bytes()))
            .map(|(_, entry)| entry);
        let entry = exact
            .chain(prefix)
            .chain(regex)
            .find(|entry| entry.matches(request))?;
        Some(Found {
            route: &entry.route.name,
            rule_index: entry.rule,
            rule: entry.route.rules.get(entry.rule)?,
            is_for_people: entry.route.is_for_people,
        })
    }
}

impl Entry {
    fn compile(
        route: &Arc<Route>,
        (rule, matched, order): (usize, usize, usize),
        wanted: &RouteMatch,
        problem: &mut impl FnMut(&str, &str, &regex::Error),
    ) -> Option<Self> {
        let mut headers: Vec<(String, Value)> = Vec::new();
        for header in &wanted.headers {
            // Of several entries for one name only the first counts.
            if !headers.iter().any(|(name, _)| *name == header.name) {
                headers.push((
                    header.name.clone(),
                    value(&header.value, header.regex, "header", problem)?,
                ));
            }
        }
        let mut query: Vec<(String, Value)> = Vec::new();
        for parameter in &wanted.query {
            if !query.iter().any(|(name, _)| *name == parameter.name) {
                query.push((
                    parameter.name.clone(),
                    value(&parameter.value, parameter.regex, "query parameter", problem)?,
                ));
            }
        }
        Some(Self {
            route: Arc::clone(route),
            rule,
            matched,
            method: wanted.method.clone(),
            headers,
            query,
            order,
        })
    }

    /// Lower goes first: a method, more headers, more query parameters, then the order of the documents.
    fn rank(&self) -> (bool, Reverse<usize>, Reverse<usize>, usize, usize, usize) {
        (
            self.method.is_none(),
            Reverse(self.headers.len()),
            Reverse(self.query.len()),
            self.order,
            self.rule,
            self.matched,
        )
    }

    fn matches<H: Headers + ?Sized>(&self, request: &Request<'_, H>) -> bool {
        self.method
            .as_deref()
            .is_none_or(|method| method == request.method)
            && self
                .headers
                .iter()
                .all(|(name, value)| joined(request.headers, name).is_some_and(|found| value.matches(&found)))
            && self.query.iter().all(|(name, value)| {
                parameter(request.query, name).is_some_and(|found| value.matches(&found))
            })
    }
}

impl Value {
    fn matches(&self, found: &[u8]) -> bool {
        match self {
            Self::Exact(text) => text.as_bytes() == found,
            Self::Regex(regex) => regex.is_match(found),
        }
    }
}

fn value(
    text: &str,
    is_regex: bool,
    what: &str,
    problem: &mut impl FnMut(&str, &str, &regex::Error),
) -> Option<Value> {
    if !is_regex {
        return Some(Value::Exact(text.to_owned()));
    }
    match whole(text) {
        Ok(regex) => Some(Value::Regex(regex)),
        Err(error) => {
            problem(what, text, &error);
            None
        }
    }
}

/// An expression over the whole value, on bytes and with ASCII classes, as RE2 has them.
fn whole(pattern: &str) -> Result<Regex, regex::Error> {
    RegexBuilder::new(&format!("^(?:{pattern})$"))
        .unicode(false)
        .size_limit(1 << 20)
        .build()
}

/// The first value of a query parameter, decoded.
fn parameter<'q>(query: &'q str, wanted: &str) -> Option<Cow<'q, [u8]>> {
    query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .find(|(name, _)| *name == wanted || *decoded(name) == *wanted.as_bytes())
        .map(|(_, value)| decoded(value))
}

/// `application/x-www-form-urlencoded`: `+` is a space; an escape without two digits stands for itself.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text.as_bytes());
    }
    let mut plain = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        rest = tail;
        match (byte, crate::path::escape(rest)) {
            (b'%', Some((value, tail))) => {
                plain.push(value);
                rest = tail;
            }
            (b'+', _) => plain.push(b' '),
            _ => plain.push(byte),
        }
    }
    Cow::Owned(plain)
}
