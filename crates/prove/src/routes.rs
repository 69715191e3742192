//! The requests that a gateway may send on to a service. More specific routes that take some of them away are left out, so
//! the set may be larger than what is sent: what is proven of it holds.

use std::collections::BTreeSet;

use bartizan_mesh::{PathSelector, RouteMatch, Snapshot};
use bartizan_types::{HostPattern, NamespacedName};

use crate::formula::Formula;
use crate::machine::{Piece, Set};
use crate::rule::canonical;
use crate::speaker::Speaker;
use crate::text::TextAtom;

/// The requests to a gateway that some route of it may send on to one of these services.
pub(crate) fn sent_on(
    speaker: &mut Speaker<'_>,
    snapshot: &Snapshot,
    gateway: &NamespacedName,
    services: &[NamespacedName],
) -> Formula {
    let is_http = speaker.is_http();
    let mut parts = Vec::new();
    for listener in snapshot.listeners_of(gateway) {
        let here = speaker.port(listener.port.get());
        for route in snapshot.routes() {
            let is_attached = route
                .parents
                .iter()
                .any(|(parent, section)| parent == gateway && *section == listener.section);
            if !is_attached {
                continue;
            }
            let hosts = if route.hostnames.is_empty() {
                host(speaker, &listener.hostname)
            } else {
                let any: BTreeSet<_> = route.hostnames.iter().collect();
                Formula::any(any.into_iter().map(|one| host(speaker, one)).collect::<Vec<_>>())
            };
            for rule in &route.rules {
                let leads_there = rule.backends.iter().any(|backend| {
                    backend
                        .service
                        .as_ref()
                        .is_some_and(|(service, _)| services.contains(service))
                });
                if leads_there {
                    let any: Vec<Formula> = rule.matches.iter().map(|one| matched(speaker, one)).collect();
                    parts.push(Formula::all([
                        here.clone(),
                        is_http.clone(),
                        hosts.clone(),
                        Formula::any(any),
                    ]));
                }
            }
        }
    }
    Formula::any(parts)
}

/// A host with any port.
fn host(speaker: &mut Speaker<'_>, pattern: &HostPattern) -> Formula {
    match pattern {
        HostPattern::Any => Formula::Always,
        HostPattern::Exact(name) => {
            let alone = speaker.host(TextAtom::Exact(name.to_string()));
            alone.or(speaker.host(TextAtom::Prefix(format!("{name}:"))))
        }
        HostPattern::Suffix(name) => {
            let end = format!(".{name}");
            let alone = speaker.host(TextAtom::Suffix(end.clone()));
            let mut pieces = vec![Piece::Run(Set::Any)];
            pieces.extend(
                end.chars()
                    .chain([':'])
                    .map(|character| Piece::One(Set::Character(character))),
            );
            pieces.push(Piece::Run(Set::Any));
            alone.or(speaker.host(TextAtom::Pattern(pieces)))
        }
    }
}

fn matched(speaker: &mut Speaker<'_>, wanted: &RouteMatch) -> Formula {
    let rule = speaker.ground.path_rule;
    let plain = |text: &str| canonical(text, rule).unwrap_or_else(|| text.to_owned());
    let path = match &wanted.path {
        PathSelector::Exact(text) => speaker.path(TextAtom::Exact(plain(text))),
        PathSelector::Prefix(text) => {
            let text = plain(text);
            let text = text.trim_end_matches('/');
            let alone = speaker.path(TextAtom::Exact(text.to_owned()));
            alone.or(speaker.path(TextAtom::Prefix(format!("{text}/"))))
        }
        PathSelector::Regex(_) => Formula::Always,
    };
    let mut parts = vec![path];
    if let Some(method) = &wanted.method {
        parts.push(speaker.method(TextAtom::Exact(method.clone())));
    }
    for header in wanted.headers.iter().filter(|header| !header.regex) {
        parts.push(speaker.header(&header.name, TextAtom::There));
    }
    for query in wanted.query.iter().filter(|query| !query.regex) {
        parts.push(speaker.query(&query.name, TextAtom::There));
    }
    Formula::all(parts)
}
