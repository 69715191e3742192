//! Carries an allowed request to an upstream and its response back. Tried again, on another endpoint, is only what was
//! provably not sent; while it lasts, it is judged again after each change.

use std::borrow::Cow;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bartizan_decide::{Destination, Engine, Failure, Forward, Retry, retry};
use bartizan_identity::HandshakeFailure;
use bartizan_telemetry::{ResponseFlags, families};
use bartizan_types::{NamespacedName, Protocol};
use bartizan_wire::exchange::{Cause, ExchangeError, Sent, Side, send_request, send_response};
use bartizan_wire::head::{RequestHead, ResponseHead};
use bartizan_wire::stream::MaybeTls;
use bartizan_wire::upstream::AnyUpstream;
use bytes::Bytes;
use http::{StatusCode, Version};
use smallvec::SmallVec;

use super::answer::{self, Answer, Client};
use super::headers;
use super::outcome::Outcome;
use super::{After, InFlight, Judged, UpgradedRequest, Way, judge_again};
use crate::connection::{Connection, Door, Objection};
use crate::http::count_judged;
use crate::tokens::Known;
use crate::upstream::{Carried, ConnectError, InFlightGuard, Lease, Target, Warrant, application, select};

/// How often a request is sent at most (Istio's default: two retries).
const MOST_TRIES: u32 = 3;

/// The upstream's side of a connection that has become one of bytes.
pub(crate) struct Upgraded {
    /// The upstream.
    pub(crate) up: MaybeTls,
    /// What it has sent already.
    pub(crate) bytes: Bytes,
    /// Where that is.
    pub(crate) target: Rc<Target>,
    /// The request that it was: by it the connection is judged again.
    pub(crate) request: UpgradedRequest,
    /// Whose token was accepted.
    pub(crate) user: Option<Rc<Known>>,
}

impl UpgradedRequest {
    /// What was asked for.
    pub(crate) fn head(&self) -> &RequestHead {
        &self.head
    }
}

/// How a try ended.
#[expect(clippy::large_enum_variant, reason = "the large one is the common one")]
enum Tried {
    Answered(Lease, ResponseHead),
    Connect(ConnectError),
    Exchange(ExchangeError),
    TimedOut,
    Objection(Objection),
}

pub(super) async fn forward<D: Client>(
    connection: &Connection,
    judged: &Judged,
    down: &mut D,
    head: &RequestHead,
    way: Way<'_>,
    warrant: Warrant,
    outcome: &mut Outcome<'_>,
) -> After {
    outcome.policy = warrant
        .rule(&judged.engine)
        .map(|rule| connection.policy_text(rule));
    let route = match &way {
        Way::Mesh(_, route) => route.as_ref(),
        Way::Application(..) => None,
    };
    let deadline = route
        .and_then(Forward::request_timeout)
        .and_then(|limit| outcome.start.checked_add(limit));
    let mut watch = Watch {
        connection,
        request: InFlight {
            head,
            remote: outcome.remote,
            route_is_for_people: route.is_some_and(|route| route.is_for_people),
        },
        judged,
        engine: Arc::clone(&judged.engine),
        seen: judged.seen,
    };
    let head = edited(head, route);
    let mut tried: SmallVec<[NamespacedName; 2]> = SmallVec::new();
    let mut failed = false;
    let (lease, mut response, target, _busy) = loop {
        let Some(target) = pick(connection, &watch.engine, &way, head.version, &tried) else {
            let none = if failed {
                Answer::connect_failure(tried.len() > 1)
            } else {
                Answer::no_healthy_upstream()
            };
            return answer::give(down, outcome, none).await;
        };
        outcome.attempts += 1;
        outcome.target = Some(Rc::clone(&target));
        let busy = InFlightGuard::new(&target);
        let until = sooner(deadline, route.and_then(Forward::backend_timeout));
        let (failure, answer) = match send(
            connection, &mut watch, down, &warrant, &target, &head, until, outcome,
        )
        .await
        {
            // The other side's proxy could not hand it to its application: as if nobody had listened there.
            Tried::Answered(_, response)
                if headers::is_unsent(&response) && is_of_a_proxy(&target) && down.is_body_untouched() =>
            {
                failed = true;
                (Failure::Connect, Answer::connect_failure(outcome.attempts > 1))
            }
            Tried::Answered(lease, response) => break (lease, response, target, busy),
            Tried::Objection(objection) => {
                let answer = watch.objected(&objection, outcome);
                return answer::give(down, outcome, answer).await;
            }
            Tried::TimedOut => return answer::give(down, outcome, Answer::timeout()).await,
            Tried::Connect(error) => {
                failed = true;
                outcome.transport_failure = error.transport_failure();
                (Failure::Connect, Answer::connect_failure(outcome.attempts > 1))
            }
            Tried::Exchange(error) if error.side == Side::Downstream => {
                return client_failed(down, outcome, &error.cause).await;
            }
            Tried::Exchange(error) => {
                let again = error.sent == Sent::Nothing && down.is_body_untouched();
                let failure = if again {
                    Failure::ClosedUnwritten
                } else {
                    Failure::Sent
                };
                (failure, upstream_failed(connection, outcome, &error))
            }
        };
        match retry(outcome.attempts, MOST_TRIES, failure) {
            Retry::Again => {
                let reason = if failure == Failure::Connect {
                    "connect"
                } else {
                    "unsent"
                };
                connection.worker.count(&families::RETRIES, &[reason]);
                // What a kept connection lost on its way is no reason to leave the endpoint, which may be the only one.
                if failure == Failure::Connect {
                    tried.push(target.id.workload.clone());
                }
            }
            Retry::Stop(_) => return answer::give(down, outcome, answer).await,
        }
    };
    outcome.service_time = Some(outcome.start.elapsed());
    outcome.code = response.status.as_u16();
    headers::finish(&mut response);
    for edit in route.into_iter().flat_map(Forward::response_edits) {
        headers::edit(&mut response.headers, edit);
    }
    outcome.add_response_fields(&mut response.headers);
    give_back(
        connection, &mut watch, down, target, lease, &response, deadline, outcome,
    )
    .await
}

/// One try: a connection, the request, the head of the response.
#[expect(clippy::too_many_arguments, reason = "the first half of `forward`")]
async fn send<D: Client>(
    connection: &Connection,
    watch: &mut Watch<'_>,
    down: &mut D,
    warrant: &Warrant,
    target: &Rc<Target>,
    head: &RequestHead,
    until: Option<Instant>,
    outcome: &mut Outcome<'_>,
) -> Tried {
    let worker = &connection.worker;
    let kept = worker.upstreams.kept(warrant, target, outcome.start);
    let mut lease = if let Some(lease) = kept {
        worker.reused.increment();
        lease
    } else {
        // Boxed: once for a connection, and large.
        let opening = Box::pin(worker.upstreams.lease(warrant, worker, target));
        let opened = match until {
            Some(until) => tokio::time::timeout_at(until.into(), opening).await,
            None => Ok(opening.await),
        };
        match opened {
            Err(_) => return Tried::TimedOut,
            Ok(Err(error)) => return Tried::Connect(error),
            Ok(Ok(lease)) => lease,
        }
    };
    if let Door::Inbound { port, app } = connection.door
        && outcome.attempts > 1
    {
        worker.upstreams.note_application(port, app, target.id.address);
    }
    outcome.upstream_local = lease.local;
    let sent = {
        let sending = pin!(send_request(down, &mut lease.up, head));
        watch.during(until, sending).await
    };
    match sent {
        Err(Stopped::TimedOut) => Tried::TimedOut,
        Err(Stopped::Objection(objection)) => Tried::Objection(objection),
        Ok(Err(error)) => Tried::Exchange(error),
        Ok(Ok(response)) => Tried::Answered(lease, response),
    }
}

/// The response, and what is left of the request.
#[expect(clippy::too_many_arguments, reason = "the second half of `forward`")]
async fn give_back<D: Client>(
    connection: &Connection,
    watch: &mut Watch<'_>,
    down: &mut D,
    target: Rc<Target>,
    mut lease: Lease,
    response: &ResponseHead,
    deadline: Option<Instant>,
    outcome: &mut Outcome<'_>,
) -> After {
    let sent = {
        let sending = pin!(send_response(down, &mut lease.up, response));
        watch.during(deadline, sending).await
    };
    match sent {
        Ok(Ok(())) => {
            outcome.completed = true;
            if response.status == StatusCode::SWITCHING_PROTOCOLS
                && let AnyUpstream::Http1(up) = lease.up
            {
                let (up, bytes) = up.into_upgraded();
                let accepted = watch.judged.accepted.clone();
                let request =
                    UpgradedRequest::new(watch.request, accepted, Arc::clone(&watch.engine), watch.seen);
                return After::Upgraded(Box::new(Upgraded {
                    up,
                    bytes,
                    target,
                    request,
                    user: outcome.user.clone(),
                }));
            }
            connection.worker.upstreams.keep(&target, lease, outcome.start);
            return After::Done;
        }
        Err(Stopped::TimedOut) => {
            outcome.flags |= ResponseFlags::UT;
            outcome.details = Cow::Borrowed("response_timeout");
        }
        Err(Stopped::Objection(objection)) => {
            count_judged(connection, &objection);
            match &objection {
                Objection::Denied(denied) => {
                    outcome.deny(&watch.engine, denied);
                }
                Objection::Untrusted(_) => {
                    outcome.distrust(&objection);
                }
            }
        }
        Ok(Err(error)) if error.side == Side::Downstream => {
            outcome.flags |= ResponseFlags::DC;
            outcome.details = Cow::Borrowed("downstream_remote_disconnect");
        }
        Ok(Err(error)) => {
            outcome.flags |= ResponseFlags::UC;
            outcome.details = Cow::Borrowed("upstream_reset_after_response_started{connection_termination}");
            outcome.transport_failure = transport_failure(&error.cause);
        }
    }
    After::Abort
}

/// Whether what comes from there was said by another proxy of the mesh, and not by an application.
fn is_of_a_proxy(target: &Target) -> bool {
    target.id.identity.is_some()
}

/// The target of the next try.
fn pick(
    connection: &Connection,
    engine: &Engine,
    way: &Way<'_>,
    version: Version,
    tried: &[NamespacedName],
) -> Option<Rc<Target>> {
    let same = if version == Version::HTTP_2 {
        Carried::Http2
    } else {
        Carried::Http1
    };
    match way {
        Way::Application(..) if tried.len() > 1 => None,
        Way::Application(port, app) => application(connection, *port, *app, same, !tried.is_empty()),
        Way::Mesh(destination, route) => {
            let protocol = match destination {
                Destination::Service { port, .. } => port.protocol,
                Destination::Workload { protocol, .. } => *protocol,
                Destination::Refused(_) => return None,
            };
            let carried = match protocol {
                Protocol::Http2 | Protocol::Grpc => Carried::Http2,
                // A gateway speaks what the service has declared, a sidecar what its application speaks.
                Protocol::Http if route.is_some() => Carried::Http1,
                Protocol::Http | Protocol::Detect | Protocol::Tcp | Protocol::Tls => same,
            };
            select(connection, engine, destination, carried, tried)
        }
    }
}

/// The head as the upstream shall see it.
fn edited<'h>(head: &'h RequestHead, route: Option<&Forward<'_>>) -> Cow<'h, RequestHead> {
    let mut edits = route.into_iter().flat_map(Forward::request_edits).peekable();
    if edits.peek().is_none() {
        return Cow::Borrowed(head);
    }
    let mut head = head.clone();
    for edit in edits {
        headers::edit(&mut head.headers, edit);
    }
    Cow::Owned(head)
}

async fn client_failed<D: Client>(down: &mut D, outcome: &mut Outcome<'_>, cause: &Cause) -> After {
    match cause {
        Cause::Body(_) | Cause::Parse(_) | Cause::Length => {
            // A body that is cut or malformed; the connection ends after the answer.
            answer::give(down, outcome, Answer::malformed_body()).await;
        }
        Cause::Io(_) | Cause::Closed | Cause::Desynchronized | Cause::Bridge(_) | Cause::Http2(_) => {
            outcome.flags |= ResponseFlags::DC;
            outcome.details = Cow::Borrowed("downstream_remote_disconnect");
        }
    }
    After::Abort
}

fn upstream_failed(connection: &Connection, outcome: &mut Outcome<'_>, error: &ExchangeError) -> Answer {
    outcome.transport_failure = transport_failure(&error.cause);
    if let Cause::Io(io) = &error.cause
        && let failure @ (HandshakeFailure::Refused(_) | HandshakeFailure::RefusedByPeer(_)) =
            HandshakeFailure::of(io)
    {
        // TLS 1.3: a server's refusal comes after the client's handshake.
        connection
            .worker
            .count(&families::TLS_REFUSED, &["client", failure.reason()]);
        return Answer::connect_failure(false);
    }
    match error.cause {
        Cause::Parse(_) | Cause::Body(_) | Cause::Desynchronized | Cause::Bridge(_) => {
            Answer::protocol_error()
        }
        Cause::Io(_) | Cause::Closed | Cause::Length | Cause::Http2(_) => Answer::connection_termination(),
    }
}

fn transport_failure(cause: &Cause) -> Option<String> {
    match cause {
        Cause::Io(error) => match HandshakeFailure::of(error) {
            HandshakeFailure::Connection(_) => None,
            failure @ (HandshakeFailure::Refused(_)
            | HandshakeFailure::RefusedByPeer(_)
            | HandshakeFailure::Protocol(_)) => Some(failure.to_string()),
        },
        Cause::Closed
        | Cause::Parse(_)
        | Cause::Body(_)
        | Cause::Length
        | Cause::Desynchronized
        | Cause::Bridge(_)
        | Cause::Http2(_) => None,
    }
}

/// Judges a request again after each change.
struct Watch<'a> {
    connection: &'a Connection,
    request: InFlight<'a>,
    judged: &'a Judged,
    engine: Arc<Engine>,
    seen: u64,
}

/// Why a request ended before its time.
enum Stopped {
    TimedOut,
    Objection(Objection),
}

impl Watch<'_> {
    /// Does `work` for as long as the request is allowed and its time is not over.
    async fn during<T>(
        &mut self,
        until: Option<Instant>,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Stopped> {
        let mut timer = until.map(|until| Box::pin(tokio::time::sleep_until(until.into())));
        poll_fn(|cx| {
            if self.connection.worker.changes() != self.seen {
                self.judge().map_err(Stopped::Objection)?;
            }
            if let Some(timer) = &mut timer
                && timer.as_mut().poll(cx).is_ready()
            {
                return Poll::Ready(Err(Stopped::TimedOut));
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }

    /// The answer where nothing of the response has been sent yet.
    fn objected(&self, objection: &Objection, outcome: &mut Outcome<'_>) -> Answer {
        count_judged(self.connection, objection);
        match objection {
            Objection::Denied(denied) => super::deny(outcome, &self.engine, self.request.head, denied),
            Objection::Untrusted(_) => Answer::untrusted(outcome.distrust(objection)),
        }
    }

    fn judge(&mut self) -> Result<(), Objection> {
        self.seen = self.connection.worker.changes();
        self.connection.judge_trust()?;
        let new = self.connection.worker.engine();
        if let Some(accepted) = &self.judged.accepted {
            judge_again(self.connection, &self.request, accepted, &self.engine, &new)?;
        }
        self.engine = new;
        Ok(())
    }
}

fn sooner(deadline: Option<Instant>, limit: Option<Duration>) -> Option<Instant> {
    let limit = limit.and_then(|limit| Instant::now().checked_add(limit));
    match (deadline, limit) {
        (Some(deadline), Some(limit)) => Some(deadline.min(limit)),
        (one, other) => one.or(other),
    }
}
