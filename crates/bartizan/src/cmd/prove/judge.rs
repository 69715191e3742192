//! One claim against everything that the mesh's workloads let in.

mod ways;

use std::sync::Arc;

use bartizan_config::native::{ClaimCallees, EveryWay, Never, PolicyClaim};
use bartizan_mesh::{Matcher, MtlsMode, Operation, PathMatch, Source, View};
use bartizan_prove::{Answer, Needs, TooLarge};
use bartizan_types::NamespacedName;

use super::example::Example;
use crate::evaluate::Picture;

/// What came of a claim.
pub(crate) enum Outcome {
    /// No request breaks it.
    Holds {
        /// The workloads that it was decided for.
        over: String,
        /// What was left out, and why that is right.
        notes: Vec<String>,
    },
    /// This request breaks it.
    False {
        /// The request, confirmed by `decide`.
        example: Box<Example>,
        /// What else is to know.
        notes: Vec<String>,
    },
    /// These ports take plaintext.
    Plain {
        /// Each in words.
        ports: Vec<String>,
        /// What was left out.
        notes: Vec<String>,
    },
    /// It could not be decided.
    Undecided {
        /// Why.
        reasons: Vec<String>,
        /// A request that could break it.
        example: Option<Box<Example>>,
    },
}

impl Outcome {
    /// Whether it was proven.
    pub(crate) fn holds(&self) -> bool {
        matches!(self, Self::Holds { .. })
    }

    /// Whether it was refuted.
    pub(crate) fn is_false(&self) -> bool {
        matches!(self, Self::False { .. } | Self::Plain { .. })
    }
}

/// Judges a claim.
pub(crate) fn judge(picture: &Picture, claim: &PolicyClaim) -> Outcome {
    match claim {
        PolicyClaim::Never(claim) => never(picture, claim),
        PolicyClaim::EveryWay(claim) => every_way(picture, claim),
        PolicyClaim::NoPlaintext => no_plaintext(picture),
    }
}

fn never(picture: &Picture, claim: &Never) -> Outcome {
    let from = Source {
        principals: matcher(&claim.from.principals),
        namespaces: matcher(&claim.from.namespaces),
        service_accounts: matcher(&claim.from.service_accounts),
        ..Source::default()
    };
    let request = claim.request.as_ref().map(|request| Operation {
        methods: Matcher {
            any: request.methods.clone(),
            none: Vec::new(),
        },
        paths: Matcher {
            any: request.paths.iter().map(path).collect(),
            none: Vec::new(),
        },
        ..Operation::default()
    });
    each(picture, &claim.to, |view| {
        bartizan_prove::never(picture.snapshot(), view, &from, request.as_ref())
    })
}

fn matcher<T: Clone>(written: &bartizan_config::istio::Matcher<T>) -> Matcher<T> {
    Matcher {
        any: written.any.clone(),
        none: written.none.clone(),
    }
}

fn path(written: &bartizan_config::istio::PathMatch) -> PathMatch {
    match written {
        bartizan_config::istio::PathMatch::Text(text) => PathMatch::Text(text.clone()),
        bartizan_config::istio::PathMatch::Template(pattern) => PathMatch::Template(Arc::clone(pattern)),
    }
}

/// Every request that the workload lets in; where it is about a user's claims, every way from outside to it.
fn every_way(picture: &Picture, claim: &EveryWay) -> Outcome {
    let needs = Needs {
        claims: claim.needs.claims.clone(),
        principals: claim.needs.principals.clone(),
        namespaces: claim.needs.namespaces.clone(),
        mtls: claim.needs.mtls,
    };
    let direct = each(picture, &claim.to, |view| {
        bartizan_prove::every_way(picture.snapshot(), view, &needs)
    });
    match direct {
        Outcome::False { .. } | Outcome::Undecided { .. } if !needs.claims.is_empty() => {
            let (views, unknown) = callees(picture, &claim.to);
            if unknown.is_empty() && !views.is_empty() {
                ways::from_outside(picture, &views, &needs)
            } else {
                direct
            }
        }
        Outcome::Holds { .. } | Outcome::False { .. } | Outcome::Plain { .. } | Outcome::Undecided { .. } => {
            direct
        }
    }
}

/// Asks about each workload of `to`, of those that are alike only one.
fn each(picture: &Picture, to: &ClaimCallees, ask: impl Fn(&View) -> Result<Answer, TooLarge>) -> Outcome {
    let snapshot = picture.snapshot();
    let (views, unknown) = callees(picture, to);
    let mut reasons: Vec<String> = unknown;
    if views.is_empty() && reasons.is_empty() {
        reasons.push("no workload is what the claim is about".to_owned());
    }
    let mut candidate = None;
    let mut asked: Vec<&View> = Vec::new();
    let mut has_authorizers = false;
    for view in &views {
        if asked
            .iter()
            .any(|one| bartizan_prove::is_alike(snapshot, one, view))
        {
            continue;
        }
        asked.push(view);
        match ask(view) {
            Ok(Answer::Holds) => {}
            Ok(Answer::Broken {
                request,
                unless,
                authorizers,
            }) => {
                has_authorizers |= !authorizers.is_empty();
                let example = Example::judged(picture, &view.workload, *request);
                if example.allowed {
                    let notes = authorizers
                        .iter()
                        .filter(|_| example.asks)
                        .map(|policy| format!("{policy} asks an authorizer first, which may refuse it"))
                        .collect();
                    return Outcome::False {
                        example: Box::new(example),
                        notes,
                    };
                }
                for text in &unless {
                    reasons.push(format!(
                        "not decided: it depends on `{text}`, which is not looked into"
                    ));
                }
                if unless.is_empty() {
                    reasons.push(format!(
                        "not decided: the request that was found is refused at {} ({})",
                        view.workload, example.reason
                    ));
                }
                candidate.get_or_insert(Box::new(example));
            }
            Err(error) => reasons.push(format!("{}: {error}", view.workload)),
        }
    }
    if !reasons.is_empty() {
        return Outcome::Undecided {
            reasons,
            example: candidate,
        };
    }
    let mut notes = Vec::new();
    let asks = views.iter().any(|view| {
        view.policies.iter().any(|name| {
            snapshot
                .policy(name)
                .is_some_and(|policy| policy.action == bartizan_mesh::Action::Custom && !policy.dry_run)
        })
    });
    if asks || has_authorizers {
        notes.push("without regard to external authorizers, which can only refuse".to_owned());
    }
    Outcome::Holds {
        over: words(&views),
        notes,
    }
}

/// The workloads that a claim is about, and what is not known.
fn callees<'p>(picture: &'p Picture, to: &ClaimCallees) -> (Vec<&'p View>, Vec<String>) {
    let snapshot = picture.snapshot();
    let mut unknown = Vec::new();
    let mut names: Vec<NamespacedName> = Vec::new();
    for service in &to.services {
        match snapshot.endpoints(service) {
            Some(endpoints) if !endpoints.endpoints.is_empty() => {
                names.extend(
                    endpoints
                        .endpoints
                        .iter()
                        .map(|endpoint| endpoint.workload.clone()),
                );
            }
            Some(_) => unknown.push(format!(
                "service `{}.{}` has no workload",
                service.name, service.namespace
            )),
            None => unknown.push(format!(
                "no service `{}.{}` is in these documents",
                service.name, service.namespace
            )),
        }
    }
    let is_all = to.services.is_empty() && to.namespaces.is_empty();
    let mut views = Vec::new();
    for view in snapshot.views() {
        let namespace = view.workload.namespace.as_str();
        if is_all || names.contains(&view.workload) || to.namespaces.iter().any(|one| **one == *namespace) {
            views.push(&**view);
        }
    }
    for namespace in &to.namespaces {
        if !views
            .iter()
            .any(|view| view.workload.namespace.as_str() == &**namespace)
        {
            unknown.push(format!("no workload is in namespace `{namespace}`"));
        }
    }
    (views, unknown)
}

pub(super) fn words(views: &[&View]) -> String {
    let names: Vec<String> = views.iter().map(|view| view.workload.to_string()).collect();
    match names.as_slice() {
        [] => "no workload".to_owned(),
        [one] => one.clone(),
        [first, .., last] if names.len() > 4 => format!("{} workloads, {first} to {last}", names.len()),
        _ => names.join(", "),
    }
}

fn no_plaintext(picture: &Picture) -> Outcome {
    let snapshot = picture.snapshot();
    let views: Vec<&View> = snapshot.views().map(|view| &**view).collect();
    let mut notes: Vec<String> = snapshot
        .listeners()
        .map(|listener| {
            format!(
                "left out: listener `{}` of gateway {} on port {}, which is for people outside",
                listener.section, listener.gateway, listener.port
            )
        })
        .collect();
    notes.sort();
    let ports: Vec<String> = bartizan_prove::plain_ports(snapshot)
        .iter()
        .map(|plain| {
            let port = plain
                .port
                .map_or("every other port".to_owned(), |port| format!("port {port}"));
            let mode = match plain.mtls {
                MtlsMode::Disable => "DISABLE: TLS is not ended there",
                MtlsMode::Permissive => "PERMISSIVE",
                MtlsMode::Strict => "STRICT",
            };
            format!("{} takes plaintext on {port} (mTLS mode {mode})", plain.workload)
        })
        .collect();
    if views.is_empty() {
        return Outcome::Undecided {
            reasons: vec!["there is no workload".to_owned()],
            example: None,
        };
    }
    if ports.is_empty() {
        Outcome::Holds {
            over: words(&views),
            notes,
        }
    } else {
        Outcome::Plain { ports, notes }
    }
}
