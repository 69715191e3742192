//! One request, top to bottom: the snapshot is loaded once, then whose it is, where to, whether, and on.
//!
//! No rules are here: `decide` has them all. What it says is carried out and told to telemetry.

mod answer;
pub(crate) mod ask;
mod authenticate;
mod forward;
pub(crate) mod grpc;
pub(crate) mod headers;
mod held;
pub(crate) mod outcome;
mod remote;

use std::cell::RefCell;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use bartizan_decide::{
    ConnectionFacts, Denied, Destination, Engine, Forward, HttpFacts, Permit, Plan, Reason, Refusal, User,
    Verdict, authorize_after, authorize_http, backend, forwarded_target, judge_again_http, outbound, route,
};
use bartizan_types::Port;
use bartizan_wire::head::RequestHead;
use bytes::Bytes;
use http::Method;

pub(crate) use answer::{Answer, Client};
pub(crate) use ask::ask_tcp;
pub(crate) use authenticate::Accepted;
pub(crate) use forward::Upgraded;

use crate::connection::{App, Connection, Door, Objection};
use crate::http::count_judged;
use crate::upstream::Warrant;
use ask::{Answered, Meanwhile};
use headers::Fields;
use held::Held;
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

/// What a request is judged by.
struct Judged {
    engine: Arc<Engine>,
    /// The changes that the engine knew of.
    seen: u64,
    /// None where nothing is judged: on the way out of an application.
    accepted: Option<Accepted>,
}

/// Serves one request.
pub(crate) async fn serve<D: Client>(connection: &Connection, down: &mut D, mut head: RequestHead) -> After {
    let start = Instant::now();
    let seen = connection.worker.changes();
    let engine = connection.worker.engine();
    headers::prepare(connection, &engine, &mut head);
    let is_grpc = headers::is_grpc(&head.headers);
    let mut outcome = Outcome::begin(connection, &engine, start, is_grpc);
    let judged = Judged {
        engine,
        seen,
        accepted: None,
    };
    let after = if is_grpc {
        let mut observed = grpc::Observed::new(&mut *down);
        let after = decide_and_carry(connection, judged, &mut observed, &mut head, &mut outcome).await;
        outcome.messages = observed.messages();
        after
    } else {
        decide_and_carry(connection, judged, down, &mut head, &mut outcome).await
    };
    outcome.end(&head, down.counters());
    after
}

async fn decide_and_carry<D: Client>(
    connection: &Connection,
    mut judged: Judged,
    down: &mut D,
    head: &mut RequestHead,
    outcome: &mut Outcome<'_>,
) -> After {
    if !is_readable(head) {
        return answer::give(down, outcome, Answer::malformed()).await;
    }
    if head.method == Method::CONNECT {
        return answer::give(down, outcome, Answer::no_connect()).await;
    }
    outcome.remote = remote(connection, &judged.engine, head);
    if connection.door.is_judged() {
        judged.accepted = match authenticate::who(connection, &mut judged, head, outcome).await {
            Ok(accepted) => Some(accepted),
            Err(answer) => return answer::give(down, outcome, *answer).await,
        };
        // Istio's modes forward the path that policy has matched.
        let target = std::str::from_utf8(&head.target).unwrap_or_default();
        if let Some(target) = forwarded_target(target, judged.engine.path_rule()) {
            outcome.retarget(head, Bytes::from(target));
        }
    }
    let engine = &judged.engine;
    match decide(connection, engine, head, judged.accepted.as_ref(), outcome) {
        Ok(Decided::Way(way, warrant)) => {
            forward::forward(connection, &judged, down, head, way, warrant, outcome).await
        }
        Ok(Decided::Ask(asking)) => {
            // Boxed: rare, and large.
            Box::pin(ask_and_carry(
                connection,
                &judged,
                down,
                head,
                Box::new(asking),
                outcome,
            ))
            .await
        }
        Err(answer) => answer::give(down, outcome, *answer).await,
    }
}

/// Asks authorizers until no more want to be asked, and goes on with what they and policy say.
async fn ask_and_carry<D: Client>(
    connection: &Connection,
    judged: &Judged,
    down: &mut D,
    head: &mut RequestHead,
    mut asking: Box<Asking<'_>>,
    outcome: &mut Outcome<'_>,
) -> After {
    let engine = &judged.engine;
    let user = judged.accepted.as_ref().and_then(Accepted::user);
    let mut down = Held::new(down);
    let permit = loop {
        let ask = asking.ask;
        let route_is_for_people = is_for_people(asking.plan.as_ref());
        let remote = outcome.remote;
        let meanwhile = Meanwhile {
            seen: judged.seen,
            judge: |head: &RequestHead| {
                connection.judge_trust()?;
                let fields = Fields(&head.headers);
                let facts = HttpFacts {
                    route_is_for_people,
                    ..facts(connection, head, &fields, remote, user.map(|user| &**user))
                };
                // What is refused now is refused whatever the authorizer says.
                Ok(authorize_http(&connection.worker.engine(), &facts).map(drop)?)
            },
        };
        let asked = ask::ask(connection, engine, &mut down, head, &ask, outcome, meanwhile).await;
        let says = match asked {
            Answered::Says(says) => says,
            Answered::Objection(objection) => {
                count_judged(connection, &objection);
                let answer = match &objection {
                    Objection::Denied(denied) => deny(outcome, &connection.worker.engine(), head, denied),
                    Objection::Untrusted(_) => Answer::untrusted(outcome.distrust(&objection)),
                };
                return answer::give(&mut down, outcome, answer).await;
            }
            Answered::Reply(answer) => return answer::give(&mut down, outcome, *answer).await,
            Answered::Gone => return After::Abort,
        };
        if ask.provider.clear_route_cache && says == bartizan_decide::AuthorizerSays::Allowed {
            asking.plan = plan(connection, engine, head, user, outcome);
        }
        let fields = Fields(&head.headers);
        let facts = HttpFacts {
            route_is_for_people: is_for_people(asking.plan.as_ref()),
            ..facts(
                connection,
                head,
                &fields,
                outcome.remote,
                user.map(|user| &**user),
            )
        };
        match authorize_after(engine, &facts, ask, says) {
            Ok(Verdict::Permit(permit)) => break permit,
            Ok(Verdict::Ask(next)) => asking.ask = next,
            Err(denied) => {
                let answer = deny(outcome, engine, head, &denied);
                return answer::give(&mut down, outcome, answer).await;
            }
        }
    };
    outcome.allow(engine, &permit);
    match way(connection, engine, asking.plan.as_ref(), permit, outcome) {
        Ok((way, warrant)) => {
            Box::pin(forward::forward(
                connection, judged, &mut down, head, way, warrant, outcome,
            ))
            .await
        }
        Err(answer) => answer::give(&mut down, outcome, *answer).await,
    }
}

/// Whether a request that `old` let through may go on by `new`.
///
/// # Errors
/// [`Denied`] with the reason.
fn judge_again(
    connection: &Connection,
    request: &InFlight<'_>,
    accepted: &Accepted,
    old: &Engine,
    new: &Engine,
) -> Result<(), Denied> {
    let fields = Fields(&request.head.headers);
    let user = accepted.user().map(|user| &**user);
    let facts = HttpFacts {
        route_is_for_people: request.route_is_for_people,
        ..facts(connection, request.head, &fields, request.remote, user)
    };
    judge_again_http(old, new, &facts, &accepted.authenticated, |rule, token| {
        accepted.verify_again(&connection.worker, rule, token)
    })
}

/// A request that was let through, as it is judged again.
#[derive(Clone, Copy)]
struct InFlight<'a> {
    head: &'a RequestHead,
    remote: IpAddr,
    route_is_for_people: bool,
}

/// What a connection of bytes was as a request: by it, it is judged again.
pub(crate) struct UpgradedRequest {
    head: RequestHead,
    remote: IpAddr,
    route_is_for_people: bool,
    /// None where nothing is judged: on the way out of an application.
    accepted: Option<Accepted>,
    /// The changes that were judged before.
    pub(crate) seen: u64,
    engine: RefCell<Arc<Engine>>,
}

impl UpgradedRequest {
    fn new(request: InFlight<'_>, accepted: Option<Accepted>, engine: Arc<Engine>, seen: u64) -> Self {
        Self {
            head: request.head.clone(),
            remote: request.remote,
            route_is_for_people: request.route_is_for_people,
            accepted,
            seen,
            engine: RefCell::new(engine),
        }
    }

    /// Whether it would be let through by the present engine.
    ///
    /// # Errors
    /// [`Denied`] with the reason.
    pub(crate) fn judge_again(&self, connection: &Connection, new: &Arc<Engine>) -> Result<(), Denied> {
        let Some(accepted) = &self.accepted else {
            return Ok(());
        };
        let request = InFlight {
            head: &self.head,
            remote: self.remote,
            route_is_for_people: self.route_is_for_people,
        };
        judge_again(connection, &request, accepted, &self.engine.borrow(), new)?;
        *self.engine.borrow_mut() = Arc::clone(new);
        Ok(())
    }
}

/// Whether `decide` can be told of a request: its target and authority are text, and its method has no small letters: `post`
/// is not `POST` to policy, and is to some applications.
fn is_readable(head: &RequestHead) -> bool {
    let has_small = head.method.as_str().bytes().any(|byte| byte.is_ascii_lowercase());
    !has_small && std::str::from_utf8(head.authority()).is_ok() && std::str::from_utf8(&head.target).is_ok()
}

/// What `decide` is told of a readable request.
fn facts<'a>(
    connection: &'a Connection,
    head: &'a RequestHead,
    fields: &'a Fields<'a>,
    remote: IpAddr,
    user: Option<&'a User>,
) -> HttpFacts<'a, Fields<'a>> {
    HttpFacts {
        connection: ConnectionFacts {
            remote,
            ..connection.facts()
        },
        method: head.method.as_str(),
        authority: match head.authority() {
            [] => None,
            authority => std::str::from_utf8(authority).ok(),
        },
        target: std::str::from_utf8(&head.target).unwrap_or_default(),
        headers: fields,
        user,
        route_is_for_people: false,
    }
}

/// The client's address, as far as the door believes what is said of it.
fn remote(connection: &Connection, engine: &Engine, head: &RequestHead) -> IpAddr {
    let client = connection.client.ip();
    match connection.door {
        Door::Inbound { .. } => remote::at_sidecar(&head.headers, client),
        Door::Outbound => client,
        Door::Gateway { .. } => {
            let trusted = headers::trusted_proxies(connection, engine);
            remote::at_gateway(&head.headers, client, trusted)
        }
    }
}

/// What is decided of a request at first.
enum Decided<'e> {
    Way(Way<'e>, Warrant),
    Ask(Asking<'e>),
}

/// A request that an authorizer is asked about.
struct Asking<'e> {
    ask: bartizan_decide::Ask,
    plan: Option<Plan<'e>>,
}

/// Where to and whether.
fn decide<'e>(
    connection: &Connection,
    engine: &'e Engine,
    head: &RequestHead,
    accepted: Option<&Accepted>,
    outcome: &mut Outcome<'_>,
) -> Result<Decided<'e>, Box<Answer>> {
    if let Door::Outbound = connection.door {
        return match outbound(engine.snapshot(), connection.local) {
            Destination::Refused(refusal) => Err(Box::new(refuse(outcome, engine, &refusal))),
            destination @ (Destination::Service { .. } | Destination::Workload { .. }) => {
                Ok(Decided::Way(Way::Mesh(destination, None), Warrant::Reachable))
            }
        };
    }
    let user = accepted.and_then(Accepted::user);
    let plan = plan(connection, engine, head, user, outcome);
    let fields = Fields(&head.headers);
    let facts = HttpFacts {
        route_is_for_people: is_for_people(plan.as_ref()),
        ..facts(
            connection,
            head,
            &fields,
            outcome.remote,
            user.map(|user| &**user),
        )
    };
    match authorize_http(engine, &facts) {
        Ok(Verdict::Permit(permit)) => {
            outcome.allow(engine, &permit);
            way(connection, engine, plan.as_ref(), permit, outcome)
                .map(|(way, warrant)| Decided::Way(way, warrant))
        }
        Ok(Verdict::Ask(ask)) => Ok(Decided::Ask(Asking { ask, plan })),
        Err(denied) => Err(Box::new(deny(outcome, engine, head, &denied))),
    }
}

/// The route at a gateway.
fn plan<'e>(
    connection: &Connection,
    engine: &'e Engine,
    head: &RequestHead,
    user: Option<&Arc<User>>,
    outcome: &Outcome<'_>,
) -> Option<Plan<'e>> {
    let Door::Gateway { port } = connection.door else {
        return None;
    };
    let view = engine.snapshot().view(&connection.worker.shared.workload)?;
    let gateway = view.gateway.as_ref()?;
    let fields = Fields(&head.headers);
    let facts = facts(
        connection,
        head,
        &fields,
        outcome.remote,
        user.map(|user| &**user),
    );
    Some(route(engine, gateway, port, &facts, connection.worker.random()))
}

fn is_for_people(plan: Option<&Plan<'_>>) -> bool {
    match plan {
        Some(Plan::Forward(forward)) => forward.is_for_people,
        Some(Plan::Reply(_)) | None => false,
    }
}

/// Where an allowed request goes.
fn way<'e>(
    connection: &Connection,
    engine: &'e Engine,
    plan: Option<&Plan<'e>>,
    permit: Permit,
    outcome: &mut Outcome<'_>,
) -> Result<(Way<'e>, Warrant), Box<Answer>> {
    if let Door::Inbound { port, app } = &connection.door {
        return Ok((Way::Application(*port, *app), Warrant::Permitted(permit)));
    }
    match plan {
        None => Err(Box::new(Answer::route(404, "route_not_found"))),
        Some(Plan::Reply(reply)) => Err(Box::new(Answer::route(reply.status, reply.reason))),
        Some(Plan::Forward(forward)) => {
            outcome.route = Some(format!("{}.rule[{}]", forward.route, forward.rule_index).into());
            match backend(engine.snapshot(), forward.service, forward.port) {
                Destination::Refused(refusal) => Err(Box::new(refuse(outcome, engine, &refusal))),
                destination @ (Destination::Service { .. } | Destination::Workload { .. }) => {
                    Ok((Way::Mesh(destination, Some(*forward)), Warrant::Permitted(permit)))
                }
            }
        }
    }
}

fn deny(outcome: &mut Outcome<'_>, engine: &Engine, head: &RequestHead, denied: &Denied) -> Answer {
    let id = outcome.deny(engine, denied);
    if let Reason::AuthorizerDenied { .. } = denied.reason
        && let Some(reply) = outcome.authorizer_reply.take()
    {
        return Answer {
            decision: Some(id),
            ..*reply
        };
    }
    Answer::denied(denied, &authenticate::realm(head), id)
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
