//! Claims, decided over all requests to one workload.

use std::sync::Arc;

use bartizan_mesh::{Condition, MtlsMode, Operation, PolicyName, Snapshot, Source, View};
use bartizan_types::{NamespacedName, Port, StringMatch};

use crate::diagram::{EMPTY, Set};
use crate::formula::Formula;
use crate::problem::{Problem, TooLarge};
use crate::request::Request;
use crate::routes;
use crate::rule;
use crate::sealed::Sealed;
use crate::side::Side;
use crate::speaker::{Ground, Speaker, text_atom};
use crate::text::TextAtom;
use crate::words::Callers;

/// What was found out about a claim and one workload.
#[derive(Clone, PartialEq, Debug)]
pub enum Answer {
    /// No request breaks it.
    Holds,
    /// This request breaks it; whoever prints it lets `decide` confirm it.
    Broken {
        /// The request.
        request: Box<Request>,
        /// Parts of expressions that are not looked into and on which it depends; empty where it depends on none.
        unless: Vec<Arc<str>>,
        /// Policies that ask an authorizer, which may refuse the request.
        authorizers: Vec<PolicyName>,
    },
}

/// What every request that is let in must have: all that is set.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Needs {
    /// Claims of the user's token, from the outside in, and the values of which it has one.
    pub claims: Vec<(Vec<Arc<str>>, Vec<StringMatch>)>,
    /// The caller has one of these principals.
    pub principals: Vec<StringMatch>,
    /// The caller is in one of these namespaces; `*` stands for any run of characters.
    pub namespaces: Vec<Arc<str>>,
    /// The caller has proven an identity.
    pub mtls: bool,
}

/// Whether a workload lets nobody of `from` in, with no such request. `request` restricts the claim to HTTP.
///
/// # Errors
/// When the policies cannot be compared within the budget.
pub fn never(
    snapshot: &Snapshot,
    view: &View,
    from: &Source,
    request: Option<&Operation>,
) -> Result<Answer, TooLarge> {
    ask(snapshot, view, |speaker| {
        let is_http = speaker.is_http();
        let http = rule::source(speaker, from, true);
        match request {
            Some(request) => Formula::all([is_http, http, rule::operation(speaker, request, true)]),
            None => http,
        }
    })
}

/// Whether everything that a workload lets in has what is needed, at the workload itself.
///
/// # Errors
/// When the policies cannot be compared within the budget.
pub fn every_way(snapshot: &Snapshot, view: &View, needs: &Needs) -> Result<Answer, TooLarge> {
    ask(snapshot, view, |speaker| needed(speaker, needs).not())
}

/// Whether everything that a gateway lets in and may send on to one of these services has what is needed.
///
/// # Errors
/// When the policies cannot be compared within the budget.
pub fn every_way_on_to(
    snapshot: &Snapshot,
    gateway: &View,
    needs: &Needs,
    services: &[NamespacedName],
) -> Result<Answer, TooLarge> {
    ask(snapshot, gateway, |speaker| {
        let sent_on = match &gateway.gateway {
            Some(name) => routes::sent_on(speaker, snapshot, name, services),
            None => Formula::Always,
        };
        needed(speaker, needs).not().and(sent_on)
    })
}

/// As [`every_way`], of one caller: a principal (without `spiffe://`), or somebody without an identity.
///
/// # Errors
/// When the policies cannot be compared within the budget.
pub fn every_way_of(
    snapshot: &Snapshot,
    view: &View,
    needs: &Needs,
    caller: Option<&str>,
) -> Result<Answer, TooLarge> {
    ask(snapshot, view, |speaker| {
        let is_caller = match caller {
            Some(principal) => speaker.identity(TextAtom::Exact(principal.to_owned())),
            None => speaker.has_identity().not(),
        };
        needed(speaker, needs).not().and(is_caller)
    })
}

/// Whom a workload lets in without what is needed.
///
/// # Errors
/// When the policies cannot be compared within the budget.
pub fn callers_without(snapshot: &Snapshot, view: &View, needs: &Needs) -> Result<Callers, TooLarge> {
    let ground = Ground::of(snapshot, view);
    let mut problem = Problem::default();
    let mut speaker = Speaker::new(&mut problem, &ground, view);
    let side = Side::of(&mut speaker, snapshot, view);
    let formula = side.allowed().and(needed(&mut speaker, needs).not());
    let mut sealed = problem.seal()?;
    let laws = sealed.laws()?;
    let without = sealed.set(&formula)?;
    let without = sealed.diagrams.and(without, laws)?;
    sealed.callers(without, laws, &ground.identities)
}

/// The requests that have what is needed.
fn needed(speaker: &mut Speaker<'_>, needs: &Needs) -> Formula {
    let mut parts = Vec::new();
    for (path, values) in &needs.claims {
        let one: Vec<Formula> = values
            .iter()
            .map(|value| speaker.claim(path, text_atom(value)))
            .collect();
        parts.push(Formula::any(one));
    }
    if !needs.principals.is_empty() {
        let one: Vec<Formula> = needs
            .principals
            .iter()
            .map(|principal| speaker.identity(text_atom(principal)))
            .collect();
        parts.push(Formula::any(one));
    }
    if !needs.namespaces.is_empty() {
        let one: Vec<Formula> = needs
            .namespaces
            .iter()
            .map(|namespace| rule::namespace(speaker, namespace))
            .collect();
        parts.push(Formula::any(one));
    }
    if needs.mtls {
        parts.push(speaker.has_identity());
    }
    Formula::all(parts)
}

/// Whether a workload lets in no request of `wrong`.
fn ask(
    snapshot: &Snapshot,
    view: &View,
    wrong: impl FnOnce(&mut Speaker<'_>) -> Formula,
) -> Result<Answer, TooLarge> {
    let ground = Ground::of(snapshot, view);
    let mut problem = Problem::default();
    let mut speaker = Speaker::new(&mut problem, &ground, view);
    let side = Side::of(&mut speaker, snapshot, view);
    let wrong = wrong(&mut speaker);
    let mut sealed = problem.seal()?;
    let laws = sealed.laws()?;
    let formula = side.allowed().and(wrong);
    let broken = sealed.set(&formula)?;
    let broken = sealed.diagrams.and(broken, laws)?;
    Ok(match example(&mut sealed, &ground, broken)? {
        None => Answer::Holds,
        Some((request, unless)) => Answer::Broken {
            request: Box::new(request),
            unless,
            authorizers: side.authorizers,
        },
    })
}

/// A request, and what it depends on that is not looked into.
pub(crate) type Shown = (Request, Vec<Arc<str>>);

/// A request of a set: where one can be had, one that depends on nothing that is not looked into.
pub(crate) fn example(sealed: &mut Sealed, ground: &Ground, set: Set) -> Result<Option<Shown>, TooLarge> {
    if set == EMPTY {
        return Ok(None);
    }
    let certain = sealed.certain(set)?;
    let (from, unless) = if certain == EMPTY {
        (set, sealed.undecided_by(set)?)
    } else {
        (certain, Vec::new())
    };
    Ok(sealed
        .example(from)
        .and_then(|values| Request::of(&values, ground.path_rule))
        .map(|request| (request, unless)))
}

/// Whether two workloads let in exactly the same, so that what holds for one holds for the other: replicas do.
pub fn is_alike(snapshot: &Snapshot, one: &View, other: &View) -> bool {
    let speaks_of_callee = |name: &PolicyName| {
        snapshot.policy(name).is_some_and(|policy| {
            policy.rules.iter().any(|rule| {
                rule.expression.is_some()
                    || rule
                        .when
                        .iter()
                        .any(|condition| matches!(condition, Condition::DestinationIp(_)))
            })
        })
    };
    one.identity == other.identity
        && one.policies == other.policies
        && one.authentications == other.authentications
        && one.is_for_people == other.is_for_people
        && one.remote == other.remote
        && one.mtls == other.mtls
        && one.inbound == other.inbound
        && one.gateway == other.gateway
        && !one.policies.iter().any(speaks_of_callee)
}

/// A port that takes plaintext.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PlainPort {
    /// The workload.
    pub workload: NamespacedName,
    /// The port; `None` stands for every port that nothing names.
    pub port: Option<Port>,
    /// Its mode.
    pub mtls: MtlsMode,
}

/// The ports of all workloads that take plaintext. Listeners of gateways are left out: they are for people outside, who
/// have no identity.
pub fn plain_ports(snapshot: &Snapshot) -> Vec<PlainPort> {
    let mut plain = Vec::new();
    for view in snapshot.views() {
        let listeners: Vec<Port> = view
            .gateway
            .iter()
            .flat_map(|gateway| snapshot.listeners_of(gateway))
            .map(|listener| listener.port)
            .collect();
        let named = view
            .inbound
            .iter()
            .filter(|inbound| !listeners.contains(&inbound.port))
            .map(|inbound| (Some(inbound.port), inbound.mtls));
        for (port, mtls) in named.chain([(None, view.mtls)]) {
            if mtls != MtlsMode::Strict {
                plain.push(PlainPort {
                    workload: view.workload.clone(),
                    port,
                    mtls,
                });
            }
        }
    }
    plain
}
