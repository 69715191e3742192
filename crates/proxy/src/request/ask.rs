//! Asks an external authorizer about a request or a connection: reads the body ahead as far as it wants to see it, calls it
//! as a service of this mesh, and says what it said. What that means for the request, `decide` says.
//!
//! The authorizer is called with mutual TLS as this workload, and must prove to be the endpoint that the control plane told.
//! Whatever goes wrong is no answer, never a yes: what is not reached, is late, is too large or cannot be read.

mod check;
pub mod says;

use std::cell::Cell;
use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use bartizan_decide::{Ask, AuthorizerSays, Destination, Engine, Refusal, backend};
use bartizan_mesh::{BodyInCheck, Provider, ProviderProtocol, Service};
use bartizan_telemetry::{ResponseFlags, families};
use bartizan_types::{NamespacedName, Protocol};
use bartizan_wire::exchange::{Cause, Downstream as _, Frame, next_frame, send_request_bytes};
use bartizan_wire::head::{BodyLength, Headers, RequestHead, ResponseHead};
use bytes::{Bytes, BytesMut};
use http::StatusCode;
use smallvec::SmallVec;

use super::answer::{Answer, Client};
use super::headers;
use super::held::{Excerpt, Held};
use super::outcome::Outcome;
use crate::connection::{Connection, Objection};
use crate::upstream::{self, Carried, ConnectError, InFlightGuard, Target, Warrant};
use crate::worker::Worker;
use check::{Check, End, Ends};
use says::{MOST_ANSWER_BYTES, Said, Unusable};

/// How often an authorizer is called at most: asking twice does no harm.
const MOST_TRIES: u32 = 3;
/// Questions of one worker that wait for an answer at most. More are not asked and count as not answered.
const MOST_WAITING: u32 = 1024;

/// What came of asking.
pub(crate) enum Answered {
    /// The authorizer's word; the head is changed as it wants.
    Says(AuthorizerSays),
    /// The question could not be put, and this is for the client.
    Reply(Box<Answer>),
    /// The client has gone.
    Gone,
    /// A change came meanwhile, by which the request is refused whatever the authorizer says.
    Objection(Objection),
}

/// The changes that a request was judged by, and how it is judged after the next.
pub(crate) struct Meanwhile<J> {
    pub(crate) seen: u64,
    pub(crate) judge: J,
}

impl<J: Fn(&RequestHead) -> Result<(), Objection>> Meanwhile<J> {
    /// Does `work` for as long as the request could still be allowed.
    async fn during<T>(
        &mut self,
        worker: &Worker,
        head: &RequestHead,
        mut work: Pin<&mut impl Future<Output = T>>,
    ) -> Result<T, Objection> {
        poll_fn(|cx| {
            if worker.changes() != self.seen {
                self.seen = worker.changes();
                (self.judge)(head)?;
            }
            work.as_mut().poll(cx).map(Ok)
        })
        .await
    }
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum Silence {
    #[error("did not answer within {0:?}")]
    Late(Duration),
    #[error("is not reached: {0}")]
    Refused(Refusal),
    #[error("has no endpoint that is ready")]
    NoEndpoint,
    #[error("is not reached: {0}")]
    Connect(#[from] ConnectError),
    #[error("did not answer: {0}")]
    Exchange(Cause),
    #[error(transparent)]
    Unusable(#[from] Unusable),
    #[error("is not asked: {MOST_WAITING} questions wait for an answer already")]
    Busy,
    #[error("is this workload itself, which would ask itself about the question")]
    Itself,
    #[error("cannot be asked: prefix and path make no target")]
    NoTarget,
}

/// Asks about a request.
pub(crate) async fn ask<D: Client>(
    connection: &Connection,
    engine: &Engine,
    down: &mut Held<'_, D>,
    head: &mut RequestHead,
    ask: &Ask,
    outcome: &mut Outcome<'_>,
    mut meanwhile: Meanwhile<impl Fn(&RequestHead) -> Result<(), Objection>>,
) -> Answered {
    let provider = &*ask.provider;
    let worker = &connection.worker;
    let excerpt = {
        let reading = pin!(excerpt(down, head, provider.body));
        match meanwhile.during(worker, head, reading).await {
            Ok(Ok(excerpt)) => excerpt,
            Ok(Err(stopped)) => return stopped.into_answered(outcome),
            Err(objection) => return Answered::Objection(objection),
        }
    };
    if excerpt.is_some() && head.expect_continue {
        // The body has been asked for; the application has nothing to say about it any more.
        head.expect_continue = false;
        head.headers.remove("expect");
    }
    let begun = Instant::now();
    let answer = {
        let question = Some((&*head, excerpt.as_ref()));
        let mut asking = pin!(consult(connection, engine, provider, outcome.remote, question));
        let asking = pin!(poll_fn(|cx| match asking.as_mut().poll(cx) {
            Poll::Ready(answer) => Poll::Ready(Some(answer)),
            // Who has gone needs no answer, and the authorizer need not look for one.
            Poll::Pending => down.poll_gone(cx).map(|_| None),
        }));
        match meanwhile.during(worker, head, asking).await {
            Ok(Some(answer)) => answer,
            Ok(None) => return Stopped::Gone.into_answered(outcome),
            Err(objection) => return Answered::Objection(objection),
        }
    };
    outcome.authorizer = Some(note(connection, provider, begun, &answer));
    Answered::Says(match answer {
        Ok(Said::Allowed(changes)) => {
            changes.apply(&mut head.headers);
            if let Some(target) = changes.target(&head.target) {
                outcome.retarget(head, target);
            }
            outcome.response_fields.extend(changes.response);
            AuthorizerSays::Allowed
        }
        Ok(Said::Denied(denial)) => {
            outcome.authorizer_reply = Some(Box::new(Answer::of_authorizer(&denial)));
            AuthorizerSays::Denied
        }
        Err(_) => {
            if !provider.fail_open {
                outcome.flags |= ResponseFlags::UAEX;
            }
            AuthorizerSays::NoAnswer
        }
    })
}

/// Asks about a connection of bytes, and says what is to be logged of it.
pub(crate) async fn ask_tcp(connection: &Connection, engine: &Engine, ask: &Ask) -> (AuthorizerSays, String) {
    let provider = &*ask.provider;
    let begun = Instant::now();
    let answer = consult(connection, engine, provider, connection.client.ip(), None).await;
    let says = match &answer {
        Ok(Said::Allowed(_)) => AuthorizerSays::Allowed,
        Ok(Said::Denied(_)) => AuthorizerSays::Denied,
        Err(_) => AuthorizerSays::NoAnswer,
    };
    (says, note(connection, provider, begun, &answer))
}

/// Why a question was not put.
enum Stopped {
    TooLarge,
    Malformed,
    Gone,
}

impl Stopped {
    fn into_answered(self, outcome: &mut Outcome<'_>) -> Answered {
        match self {
            Self::TooLarge => Answered::Reply(Box::new(Answer::too_large())),
            Self::Malformed => Answered::Reply(Box::new(Answer::malformed_body())),
            Self::Gone => {
                outcome.flags |= ResponseFlags::DC;
                outcome.details = "downstream_remote_disconnect".into();
                Answered::Gone
            }
        }
    }
}

/// What the authorizer sees of the body; `None` where it is to see nothing.
async fn excerpt<D: Client>(
    down: &mut Held<'_, D>,
    head: &RequestHead,
    wanted: Option<BodyInCheck>,
) -> Result<Option<Excerpt>, Stopped> {
    // What follows an upgrade is no body.
    let Some(wanted) = wanted.filter(|_| head.upgrade.is_none()) else {
        return Ok(None);
    };
    let limit = usize::try_from(wanted.max_bytes).unwrap_or(usize::MAX);
    if !wanted.allow_partial
        && matches!(head.body, BodyLength::Known(length) if length > u64::from(wanted.max_bytes))
    {
        return Err(Stopped::TooLarge);
    }
    let stopped = |cause| match cause {
        Cause::Body(_) | Cause::Parse(_) | Cause::Length => Stopped::Malformed,
        Cause::Io(_) | Cause::Closed | Cause::Desynchronized | Cause::Bridge(_) | Cause::Http2(_) => {
            Stopped::Gone
        }
    };
    if head.expect_continue && !matches!(head.body, BodyLength::Empty) {
        down.call_for_body().await.map_err(stopped)?;
    }
    let excerpt = down.excerpt(limit).await.map_err(stopped)?;
    if excerpt.is_partial && !wanted.allow_partial {
        return Err(Stopped::TooLarge);
    }
    Ok(Some(excerpt))
}

/// Puts the question, within the provider's time.
async fn consult(
    connection: &Connection,
    engine: &Engine,
    provider: &Provider,
    client: IpAddr,
    request: Option<(&RequestHead, Option<&Excerpt>)>,
) -> Result<Said, Silence> {
    let _turn = Turn::begin().ok_or(Silence::Busy)?;
    let limit = Duration::from_millis(provider.timeout_ms);
    match tokio::time::timeout(limit, put(connection, engine, provider, client, request, limit)).await {
        Ok(said) => said,
        Err(_) => Err(Silence::Late(limit)),
    }
}

async fn put(
    connection: &Connection,
    engine: &Engine,
    provider: &Provider,
    client: IpAddr,
    request: Option<(&RequestHead, Option<&Excerpt>)>,
    limit: Duration,
) -> Result<Said, Silence> {
    let destination = backend(engine.snapshot(), &provider.service, provider.port);
    let (service, protocol) = match &destination {
        Destination::Service {
            service,
            port,
            endpoints,
        } => {
            let own = &connection.worker.shared.workload;
            if endpoints
                .endpoints
                .iter()
                .any(|endpoint| endpoint.workload == *own)
            {
                return Err(Silence::Itself);
            }
            (*service, port.protocol)
        }
        // A named service leads to a service or nowhere.
        Destination::Workload { .. } => return Err(Silence::NoEndpoint),
        Destination::Refused(refusal) => return Err(Silence::Refused(refusal.clone())),
    };
    match (&provider.protocol, request) {
        (ProviderProtocol::Http(http), Some((head, excerpt))) => {
            let check = check::over_http(http, head, excerpt).ok_or(Silence::NoTarget)?;
            let carried = match protocol {
                Protocol::Http2 | Protocol::Grpc => Carried::Http2,
                Protocol::Http | Protocol::Detect | Protocol::Tcp | Protocol::Tls => Carried::Http1,
            };
            let reply = call(connection, engine, &destination, carried, &check).await?;
            Ok(says::over_http(
                http,
                reply.head.status,
                &reply.head.headers,
                reply.body,
            )?)
        }
        // `decide` asks no HTTP authorizer about bytes.
        (ProviderProtocol::Http(_), None) => Err(Silence::NoTarget),
        (ProviderProtocol::Grpc, request) => {
            let check = grpc_check(connection, service, provider, client, request, limit);
            let reply = call(connection, engine, &destination, Carried::Http2, &check).await?;
            reply.grpc_status()?;
            let message = says::grpc_message(&reply.body)?;
            Ok(says::over_grpc(&message)?)
        }
    }
}

fn grpc_check(
    connection: &Connection,
    service: &Service,
    provider: &Provider,
    client: IpAddr,
    request: Option<(&RequestHead, Option<&Excerpt>)>,
    limit: Duration,
) -> Check {
    let own = connection.worker.shared.identity.get();
    // Behind a proxy only the client's address is known, not its port.
    let port = if client == connection.client.ip() {
        connection.client.port()
    } else {
        0
    };
    let ends = Ends {
        source: End {
            address: SocketAddr::new(client, port),
            identity: connection.peer.identity(),
        },
        destination: End {
            address: connection.facts().destination,
            identity: own.map(|identity| &identity.id),
        },
        sni: connection.sni.as_deref(),
        is_tls: connection.peer.identity().is_some(),
        now: check::since_1970(SystemTime::now()),
    };
    check::over_grpc(service.hostname.as_str(), &ends, request, provider.body, limit)
}

/// An authorizer's whole answer.
struct Reply {
    head: ResponseHead,
    body: Bytes,
    trailers: Option<Headers>,
}

impl Reply {
    /// The call's own status, in the trailers or, where nothing else was said, in the head.
    fn grpc_status(&self) -> Result<(), Unusable> {
        if self.head.status != StatusCode::OK {
            return Err(Unusable::Status(self.head.status.as_u16()));
        }
        let trailers = self.trailers.as_ref().unwrap_or(&self.head.headers);
        match trailers.get_str("grpc-status") {
            Some("0") => Ok(()),
            Some(status) => Err(Unusable::GrpcStatus(status.chars().take(4).collect())),
            None => Err(Unusable::Message),
        }
    }
}

/// Calls the authorizer, on another endpoint where one does not answer.
async fn call(
    connection: &Connection,
    engine: &Engine,
    destination: &Destination<'_>,
    carried: Carried,
    check: &Check,
) -> Result<Reply, Silence> {
    let mut tried: SmallVec<[NamespacedName; 2]> = SmallVec::new();
    let mut last = Silence::NoEndpoint;
    for _ in 0..MOST_TRIES {
        let Some(target) =
            upstream::select_authorizer(&connection.worker, engine, destination, carried, &tried)
        else {
            break;
        };
        let _busy = InFlightGuard::new(&target);
        match call_once(connection, &target, check).await {
            Ok(reply) if headers::is_unsent(&reply.head) => last = Silence::NoEndpoint,
            Ok(reply) => return Ok(reply),
            Err(Silence::Unusable(unusable)) => return Err(unusable.into()),
            // What a kept connection lost on its way is no reason to leave the endpoint.
            Err(error @ Silence::Exchange(_)) => {
                last = error;
                continue;
            }
            Err(error) => last = error,
        }
        tried.push(target.id.workload.clone());
    }
    Err(last)
}

async fn call_once(connection: &Connection, target: &Rc<Target>, check: &Check) -> Result<Reply, Silence> {
    let worker = &connection.worker;
    let now = Instant::now();
    // The control plane tells where an authorizer is served to whom its own policy could let in.
    let warrant = Warrant::Reachable;
    let mut lease = match worker.upstreams.kept(&warrant, target, now) {
        Some(lease) => lease,
        None => Box::pin(worker.upstreams.lease(&warrant, worker, target)).await?,
    };
    let head = send_request_bytes(&mut lease.up, &check.head, check.body.clone())
        .await
        .map_err(|error| Silence::Exchange(error.cause))?;
    let mut body = BytesMut::new();
    let mut trailers = None;
    while let Some(frame) = next_frame(&mut lease.up).await.map_err(Silence::Exchange)? {
        match frame {
            Frame::Data(data) if body.len() + data.len() > MOST_ANSWER_BYTES => {
                return Err(Unusable::TooLarge.into());
            }
            Frame::Data(data) => body.extend_from_slice(&data),
            Frame::Trailers(fields) => trailers = Some(fields),
        }
    }
    worker.upstreams.keep(target, lease, now);
    Ok(Reply {
        head,
        body: body.freeze(),
        trailers,
    })
}

/// Counts a question and its answer, and words them for the log.
fn note(
    connection: &Connection,
    provider: &Provider,
    begun: Instant,
    answer: &Result<Said, Silence>,
) -> String {
    let took = begun.elapsed();
    let (result, allowed, status, error) = match answer {
        Ok(Said::Allowed(_)) => ("allowed", Some(true), None, None),
        Ok(Said::Denied(denial)) => ("denied", Some(false), Some(denial.status.as_u16()), None),
        Err(silence) => ("error", None, None, Some(silence.to_string())),
    };
    let worker = &connection.worker;
    worker.count(&families::AUTHORIZER_CHECKS, &[&provider.name, result]);
    let microseconds = worker
        .metrics
        .counter(&families::AUTHORIZER_MICROSECONDS, &[&provider.name]);
    microseconds.add(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
    let mut note = serde_json::json!({
        "provider": &*provider.name,
        "milliseconds": u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    });
    let fields = [
        ("allowed", allowed.map(serde_json::Value::from)),
        ("status", status.map(serde_json::Value::from)),
        ("error", error.map(serde_json::Value::from)),
    ];
    if let Some(note) = note.as_object_mut() {
        for (name, value) in fields {
            note.extend(value.map(|value| (name.to_owned(), value)));
        }
    }
    note.to_string()
}

thread_local! {
    /// Questions of this worker that wait for an answer.
    static WAITING: Cell<u32> = const { Cell::new(0) };
}

/// A place among the questions that wait.
struct Turn;

impl Turn {
    fn begin() -> Option<Self> {
        let waiting = WAITING.get();
        (waiting < MOST_WAITING).then(|| {
            WAITING.set(waiting + 1);
            Self
        })
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        WAITING.set(WAITING.get().saturating_sub(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_questions_wait_and_no_more() {
        let mut turns: Vec<Turn> = (0..MOST_WAITING).map_while(|_| Turn::begin()).collect();
        assert_eq!(turns.len(), MOST_WAITING as usize);
        assert!(Turn::begin().is_none());
        turns.pop();
        let again = Turn::begin();
        assert!(again.is_some() && Turn::begin().is_none());
        drop((again, turns));
        assert_eq!(WAITING.get(), 0);
    }
}
