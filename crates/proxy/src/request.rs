//! One request, top to bottom: the snapshot is loaded once, then who asks, where to, whether, and on.
//!
//! No rules are here: `decide` has them all. What it says is carried out and told to telemetry.

mod answer;
mod forward;
pub(crate) mod grpc;
pub(crate) mod headers;
pub(crate) mod outcome;

use std::sync::Arc;
use std::time::Instant;

use bartizan_decide::{
    Denied, Destination, Engine, Forward, HttpFacts, Permit, Plan, Refusal, authorize_http, backend,
    outbound, route,
};
use bartizan_types::Port;
use bartizan_wire::head::RequestHead;
use http::Method;

pub(crate) use answer::{Answer, Client};
pub(crate) use forward::Upgraded;

use crate::connection::{App, Connection, Door};
use crate::upstream::Warrant;
use headers::Fields;
use outcome::Outcome;

/// What becomes of the connection or stream after a request.
pub(crate) enum After {
    /// The exchange is complete; whether another request may follow, the codec knows.
    Done,
    /// It ended in the middle: the client has to see that.
    Abort,
    /// It has become a connection of bytes.
    Upgraded(Box<Upgraded>),
}

/// Where an allowed request goes.
enum Way<'e> {
    /// To the application of this workload.
    Application(Port, App),
    /// Into the mesh.
    Mesh(Destination<'e>, Option<Forward<'e>>),
}

/// Serves one request.
pub(crate) async fn serve<D: Client>(connection: &Connection, down: &mut D, mut head: RequestHead) -> After {
    let start = Instant::now();
    let engine = connection.worker.engine();
    headers::prepare(connection, &mut head);
    let is_grpc = headers::is_grpc(&head.headers);
    let mut outcome = Outcome::begin(connection, &engine, start, is_grpc);
    let after = if is_grpc {
        let mut observed = grpc::Observed::new(&mut *down);
        let after = decide_and_carry(connection, &engine, &mut observed, &head, &mut outcome).await;
        outcome.messages = observed.messages();
        after
    } else {
        decide_and_carry(connection, &engine, down, &head, &mut outcome).await
    };
    outcome.end(&head, down.counters());
    after
}

async fn decide_and_carry<D: Client>(
    connection: &Connection,
    engine: &Arc<Engine>,
    down: &mut D,
    head: &RequestHead,
    outcome: &mut Outcome<'_>,
) -> After {
    let fields = Fields(&head.headers);
    let Some(facts) = facts(connection, head, &fields) else {
        return answer::give(down, outcome, Answer::malformed()).await;
    };
    if head.method == Method::CONNECT {
        return answer::give(down, outcome, Answer::no_connect()).await;
    }
    match decide(connection, engine, &facts, outcome) {
        Ok((way, warrant)) => {
            forward::forward(connection, engine, down, head, &facts, way, warrant, outcome).await
        }
        Err(answer) => answer::give(down, outcome, answer).await,
    }
}

/// Whether a request that has become a connection of bytes would be let through by `engine`.
///
/// # Errors
/// [`Denied`] with the reason.
pub(crate) fn judge_upgraded(
    connection: &Connection,
    head: &RequestHead,
    engine: &Engine,
) -> Result<(), Denied> {
    let fields = Fields(&head.headers);
    // It was served, so there are facts of it.
    facts(connection, head, &fields).map_or(Ok(()), |facts| authorize_http(engine, &facts).map(drop))
}

/// What `decide` is told of a request; `None` when its target is not text, or its method has small letters: `post` is not
/// `POST` to policy, and is to some applications.
fn facts<'a>(
    connection: &'a Connection,
    head: &'a RequestHead,
    fields: &'a Fields<'a>,
) -> Option<HttpFacts<'a, Fields<'a>>> {
    let authority = head.authority();
    if head.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase()) {
        return None;
    }
    Some(HttpFacts {
        connection: connection.facts(),
        method: head.method.as_str(),
        authority: match authority {
            [] => None,
            authority => Some(std::str::from_utf8(authority).ok()?),
        },
        target: std::str::from_utf8(&head.target).ok()?,
        headers: fields,
    })
}

/// Where to and whether.
fn decide<'e>(
    connection: &Connection,
    engine: &'e Engine,
    facts: &HttpFacts<'_, Fields<'_>>,
    outcome: &mut Outcome<'_>,
) -> Result<(Way<'e>, Warrant), Answer> {
    let snapshot = engine.snapshot();
    match &connection.door {
        Door::Inbound { port, app } => {
            let permit = authorize(engine, facts, outcome)?;
            Ok((Way::Application(*port, *app), Warrant::Permitted(permit)))
        }
        Door::Outbound => match outbound(snapshot, connection.local) {
            Destination::Refused(refusal) => Err(refuse(outcome, engine, &refusal)),
            destination @ (Destination::Service { .. } | Destination::Workload { .. }) => {
                Ok((Way::Mesh(destination, None), Warrant::Reachable))
            }
        },
        Door::Gateway { port } => {
            let gateway = snapshot
                .view(&connection.worker.shared.workload)
                .and_then(|view| view.gateway.as_ref());
            let plan =
                gateway.map(|gateway| route(engine, gateway, *port, facts, connection.worker.random()));
            let permit = authorize(engine, facts, outcome)?;
            match plan {
                None => Err(Answer::route(404, "route_not_found")),
                Some(Plan::Reply(reply)) => Err(Answer::route(reply.status, reply.reason)),
                Some(Plan::Forward(forward)) => {
                    outcome.route = Some(format!("{}.rule[{}]", forward.route, forward.rule_index).into());
                    match backend(snapshot, forward.service, forward.port) {
                        Destination::Refused(refusal) => Err(refuse(outcome, engine, &refusal)),
                        destination @ (Destination::Service { .. } | Destination::Workload { .. }) => {
                            Ok((Way::Mesh(destination, Some(forward)), Warrant::Permitted(permit)))
                        }
                    }
                }
            }
        }
    }
}

fn authorize(
    engine: &Engine,
    facts: &HttpFacts<'_, Fields<'_>>,
    outcome: &mut Outcome<'_>,
) -> Result<Permit, Answer> {
    match authorize_http(engine, facts) {
        Ok(permit) => {
            outcome.allowed = Some(true);
            Ok(permit)
        }
        Err(denied) => Err(deny(outcome, &denied)),
    }
}

fn deny(outcome: &mut Outcome<'_>, denied: &Denied) -> Answer {
    let id = outcome.deny(denied);
    Answer::denied(denied, id)
}

fn refuse(outcome: &mut Outcome<'_>, engine: &Engine, refusal: &Refusal) -> Answer {
    use crate::labels;
    let (Refusal::NotReachable(name)
    | Refusal::NoSuchPort { service: name, .. }
    | Refusal::NoSuchService(name)) = refusal
    else {
        outcome.service = Some(labels::nowhere());
        outcome.route = Some("block_all".into());
        return Answer::no_way_out(refusal);
    };
    outcome.service = engine
        .snapshot()
        .service(name)
        .map(|service| labels::service_of(service));
    match refusal {
        Refusal::NotReachable(_) => {
            let id = outcome.connection.worker.decision_id();
            outcome.decision = Some(id);
            outcome.allowed = Some(false);
            outcome.connection.worker.count(
                &bartizan_telemetry::families::POLICY_DENIED,
                &["reachability", "", "", ""],
            );
            Answer::not_reachable(refusal, id)
        }
        Refusal::NoWayOut(_) | Refusal::NoSuchPort { .. } | Refusal::NoSuchService(_) => {
            Answer::no_way_out(refusal)
        }
    }
}
