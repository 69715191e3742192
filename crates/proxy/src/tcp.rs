//! Connections that carry bytes: decided once, judged again after each change, counted while they run and logged at their
//! end. A refused one is reset.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;
use std::time::{Duration, Instant};

use bartizan_decide::{
    Denied, Destination, Engine, Failure, Permit, Reason, Refusal, Retry, Verdict, authorize_tcp,
    authorize_tcp_after, outbound, retry,
};
use bartizan_telemetry::{AccessRecord, Edge, EdgeLabels, ResponseFlags, SecurityPolicy, families};
use bartizan_types::{DecisionId, NamespacedName};
use bartizan_wire::head::RequestHead;
use bartizan_wire::relay::{Ended, RelayCounters, relay};
use bartizan_wire::socket::reset_on_drop;
use bartizan_wire::stream::{MaybeTls, Prefixed};
use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::connection::{Connection, Door, Objection};
use crate::http::count_judged;
use crate::noted::Noted;
use crate::request::outcome::count_denied;
use crate::request::{Upgraded, ask_tcp};
use crate::tokens::Known;
use crate::upstream::{Carried, ConnectError, InFlightGuard, Target, Warrant, application, select};
use crate::worker::{Registration, What};

/// How long both sides may be silent (Istio's default).
const IDLE: Duration = Duration::from_hours(1);
/// Endpoints that are tried at most.
const MOST_TRIES: u32 = 3;

/// The bytes of a running connection, reported every few seconds.
#[derive(Debug)]
pub(crate) struct Flow {
    counters: RelayCounters,
    told: Cell<(u64, u64)>,
    edge: Edge,
}

impl Flow {
    /// Counts what has come since the last report.
    pub(crate) fn report(&self) {
        self.report_with(ResponseFlags::NONE);
    }

    fn report_with(&self, flags: ResponseFlags) {
        let (received, sent) = self.bytes();
        let (told_received, told_sent) = self.told.replace((received, sent));
        if (received, sent) != (told_received, told_sent) {
            self.edge
                .tcp_bytes(received - told_received, sent - told_sent, flags);
        }
    }

    fn bytes(&self) -> (u64, u64) {
        (
            self.counters.from_a.load(Ordering::Relaxed),
            self.counters.from_b.load(Ordering::Relaxed),
        )
    }
}

/// What became of a connection; told at its end, also when its task was dropped.
struct Outcome<'c> {
    connection: &'c Connection,
    start: Instant,
    flags: ResponseFlags,
    details: Option<Cow<'static, str>>,
    transport_failure: Option<String>,
    target: Option<Rc<Target>>,
    upstream_local: Option<std::net::SocketAddr>,
    flow: Option<Rc<Flow>>,
    allowed: Option<bool>,
    policy: Option<Rc<str>>,
    decision: Option<DecisionId>,
    authorizer: Option<String>,
    noted: Option<Box<Noted>>,
    attempts: u32,
    version: u64,
    cluster: Option<String>,
    /// The changes that the decision knew of.
    seen: u64,
    /// The request that the connection was, where it was one.
    upgraded: Option<Upgrade<'c>>,
    token_refused: Option<String>,
}

/// The request that has become a connection of bytes.
struct Upgrade<'c> {
    head: &'c RequestHead,
    user: Option<&'c Known>,
}

/// Serves a connection of bytes, from the decision to the last byte.
pub(crate) async fn serve(connection: Connection, registration: Registration, mut io: Prefixed<MaybeTls>) {
    let (connection, registration) = (&connection, &registration);
    // What has changed while the upstream was opened counts, too.
    let seen = connection.worker.changes();
    let engine = connection.worker.engine();
    let mut outcome = Outcome::begin(connection, engine.snapshot().version().0, seen);
    let opened = Box::pin(open(connection, &engine, &mut outcome)).await;
    let judged = RefCell::new(engine);
    match opened {
        Some((mut up, target)) => {
            let _busy = InFlightGuard::new(&target);
            let judge = |engine: &Arc<Engine>| {
                connection.judge_bytes_again(&judged.borrow(), engine)?;
                *judged.borrow_mut() = Arc::clone(engine);
                Ok(())
            };
            let ended = outcome
                .carry(registration, &mut io, &mut up, &target, judge)
                .await;
            if !matches!(ended, Some(Ended::Closed)) {
                reset(&io);
                let _ = reset_on_drop(up.tcp());
            }
        }
        None => reset(&io),
    }
}

/// Carries what follows a 101 answer.
pub(crate) async fn carry_upgraded(
    connection: &Connection,
    registration: &Registration,
    mut io: Prefixed<MaybeTls>,
    upgraded: Upgraded,
) {
    let version = connection.worker.engine().snapshot().version().0;
    let (request, user) = (upgraded.request, upgraded.user);
    let mut outcome = Outcome::begin(connection, version, request.seen);
    outcome.upgraded = Some(Upgrade {
        head: request.head(),
        user: user.as_deref(),
    });
    let target = Rc::clone(&upgraded.target);
    let _busy = InFlightGuard::new(&target);
    let mut up = Prefixed::new(upgraded.up, upgraded.bytes);
    outcome.target = Some(Rc::clone(&target));
    outcome.attempts = 1;
    let judge = |engine: &Arc<Engine>| connection.judge_upgraded_again(&request, engine);
    outcome
        .carry(registration, &mut io, &mut up, &target, judge)
        .await;
}

/// Resets a connection that is not served.
pub(crate) fn reset(io: &Prefixed<MaybeTls>) {
    // A connection that is gone already needs no reset.
    let _ = reset_on_drop(io.get_ref().tcp());
}

/// The upstream's side, where the connection is allowed and something answers.
async fn open(
    connection: &Connection,
    engine: &Engine,
    outcome: &mut Outcome<'_>,
) -> Option<(MaybeTls, Rc<Target>)> {
    let (destination, warrant) = match &connection.door {
        Door::Inbound { .. } => match authorize(connection, engine, outcome).await {
            Ok(permit) => {
                outcome.allowed = Some(true);
                outcome.noted = Noted::of(&connection.worker, engine, permit.marks());
                (None, Warrant::Permitted(permit))
            }
            Err(denied) => {
                outcome.deny(engine, &denied);
                return None;
            }
        },
        Door::Outbound => match outbound(engine.snapshot(), connection.local) {
            Destination::Refused(refusal) => {
                outcome.refuse(&refusal);
                return None;
            }
            destination @ (Destination::Service { .. } | Destination::Workload { .. }) => {
                (Some(destination), Warrant::Reachable)
            }
        },
        Door::Gateway { .. } => {
            outcome.flags = ResponseFlags::NR;
            outcome.details = Some(Cow::Borrowed("not_http"));
            return None;
        }
    };
    outcome.policy = warrant.rule(engine).map(|rule| connection.policy_text(rule));
    let mut tried: SmallVec<[NamespacedName; 2]> = SmallVec::new();
    loop {
        let target = match (&destination, &connection.door) {
            (Some(destination), _) => select(connection, engine, destination, Carried::Tcp, &tried),
            (None, Door::Inbound { port, app }) if tried.len() < 2 => {
                application(connection, *port, *app, Carried::Tcp, !tried.is_empty())
            }
            (None, _) => None,
        };
        let Some(target) = target else {
            if outcome.attempts == 0 {
                outcome.flags = ResponseFlags::UH;
                outcome.details = Some(Cow::Borrowed("no_healthy_upstream"));
            }
            return None;
        };
        outcome.attempts += 1;
        outcome.target = Some(Rc::clone(&target));
        let worker = &connection.worker;
        match worker.upstreams.open(&warrant, worker, &target).await {
            Ok(up) => {
                if let Door::Inbound { port, app } = connection.door
                    && outcome.attempts > 1
                {
                    worker.upstreams.note_application(port, app, target.id.address);
                }
                outcome.flags = ResponseFlags::NONE;
                outcome.details = None;
                outcome.upstream_local = up.tcp().local_addr().ok();
                return Some((up, target));
            }
            Err(error) => {
                outcome.connect_failed(&error);
                if retry(outcome.attempts, MOST_TRIES, Failure::Connect) != Retry::Again {
                    return None;
                }
                tried.push(target.id.workload.clone());
            }
        }
    }
}

/// Whether policy, and the authorizers that it asks, let the connection pass.
async fn authorize(
    connection: &Connection,
    engine: &Engine,
    outcome: &mut Outcome<'_>,
) -> Result<Permit, Denied> {
    let mut verdict = authorize_tcp(engine, &connection.facts())?;
    loop {
        let ask = match verdict {
            Verdict::Permit(permit) => return Ok(permit),
            Verdict::Ask(ask) => ask,
        };
        let (says, said) = Box::pin(ask_tcp(connection, engine, &ask)).await;
        outcome.authorizer = Some(said);
        verdict = authorize_tcp_after(engine, &connection.facts(), ask, says)?;
    }
}

impl<'c> Outcome<'c> {
    fn begin(connection: &'c Connection, version: u64, seen: u64) -> Self {
        Self {
            connection,
            start: Instant::now(),
            flags: ResponseFlags::NONE,
            details: None,
            transport_failure: None,
            target: None,
            upstream_local: None,
            flow: None,
            allowed: None,
            policy: None,
            decision: None,
            authorizer: None,
            noted: None,
            attempts: 0,
            version,
            cluster: None,
            seen,
            upgraded: None,
            token_refused: None,
        }
    }

    fn deny(&mut self, engine: &Engine, denied: &Denied) {
        self.noted = Noted::of(&self.connection.worker, engine, denied.marks());
        self.decision = Some(self.connection.worker.decision_id());
        self.allowed = Some(false);
        self.details = Some(denied.to_string().into());
        self.policy = denied.rule().map(|rule| self.connection.policy_text(rule));
        if let Reason::AuthorizerDenied { .. } | Reason::AuthorizerSilent { .. } = denied.reason {
            self.flags |= ResponseFlags::UAEX;
        }
        if let Reason::TokenRefused(why) = &denied.reason {
            self.token_refused = Some(why.clone());
        }
        let layer = if self.upgraded.is_some() { "http" } else { "tcp" };
        count_denied(self.connection, layer, denied);
    }

    fn refuse(&mut self, refusal: &Refusal) {
        let worker = &self.connection.worker;
        let reason = match refusal {
            Refusal::NotReachable(name) => {
                self.decision = Some(worker.decision_id());
                self.allowed = Some(false);
                self.cluster = Some(name.to_string());
                worker.count(&families::POLICY_DENIED, &["reachability", "", "", ""]);
                "not_reachable"
            }
            Refusal::NoWayOut(_) | Refusal::NoSuchPort { .. } | Refusal::NoSuchService(_) => {
                self.flags = ResponseFlags::NR;
                self.cluster = Some("BlackHoleCluster".to_owned());
                "no_way_out"
            }
        };
        worker.count(
            &families::CONNECTIONS_REFUSED,
            &[self.connection.door.direction(), reason],
        );
        self.details = Some(format!("{reason}{{{refusal}}}").into());
    }

    fn connect_failed(&mut self, error: &ConnectError) {
        self.flags = ResponseFlags::UF;
        self.transport_failure = error.transport_failure();
        self.details = Some(Cow::Owned(error.to_string()));
    }

    fn edge(&self, target: &Target) -> Edge {
        match (&self.connection.door, &target.edge) {
            (Door::Inbound { port, .. }, _) => self.connection.inbound_edge(*port).0,
            (_, Some(edge)) => edge.clone(),
            (_, None) => {
                let worker = &self.connection.worker;
                worker.metrics.edge(&EdgeLabels {
                    reporter: self.connection.door.reporter(),
                    source: worker.own_side(),
                    destination: Arc::clone(&target.destination),
                    service: Arc::default(),
                    security: SecurityPolicy::Unknown,
                })
            }
        }
    }

    /// Carries bytes until one side ends it or a change denies it, which is `None`.
    async fn carry<A, B>(
        &mut self,
        registration: &Registration,
        io: &mut A,
        up: &mut B,
        target: &Target,
        judge: impl Fn(&Arc<Engine>) -> Result<(), Objection>,
    ) -> Option<Ended>
    where
        A: AsyncRead + AsyncWrite + Unpin,
        B: AsyncRead + AsyncWrite + Unpin,
    {
        let connection = self.connection;
        let worker = &connection.worker;
        registration.set(What::Bytes, None);
        let edge = self.edge(target);
        edge.tcp_opened();
        let flow = Rc::new(Flow {
            counters: RelayCounters::default(),
            told: Cell::default(),
            edge,
        });
        self.flow = Some(Rc::clone(&flow));
        worker.report(&flow);
        let mut seen = self.seen;
        let mut relayed = pin!(relay(io, up, Some(IDLE), &flow.counters));
        let ended = poll_fn(|cx| {
            if worker.changes() != seen {
                seen = worker.changes();
                if let Err(objection) = judge(&worker.engine()) {
                    return Poll::Ready(Err(objection));
                }
            }
            relayed.as_mut().poll(cx).map(Ok)
        })
        .await;
        match ended {
            Ok(ended) => {
                self.flags |= match &ended {
                    Ended::Closed => ResponseFlags::NONE,
                    Ended::Idle => ResponseFlags::SI,
                    Ended::FailedA(_) => ResponseFlags::DC,
                    Ended::FailedB(_) => ResponseFlags::UC,
                };
                Some(ended)
            }
            Err(objection) => {
                match &objection {
                    Objection::Denied(denied) => self.deny(&worker.engine(), denied),
                    Objection::Untrusted(_) => {
                        self.decision = Some(worker.decision_id());
                        self.allowed = Some(false);
                        self.details = Some(objection.to_string().into());
                    }
                }
                count_judged(connection, &objection);
                None
            }
        }
    }
}

impl Drop for Outcome<'_> {
    fn drop(&mut self) {
        let worker = &self.connection.worker;
        let (received, sent) = self.flow.as_ref().map_or((0, 0), |flow| {
            flow.report_with(ResponseFlags::NONE);
            flow.edge.tcp_closed(self.flags);
            flow.bytes()
        });
        let Some(log) = &worker.log else { return };
        let own = worker.shared.identity.get().map(|identity| identity.id.as_str());
        let peer = self
            .connection
            .peer
            .identity()
            .map(bartizan_types::SpiffeId::as_str);
        let target = self.target.as_deref();
        let (source_principal, destination_principal) = match self.connection.door {
            Door::Inbound { .. } => (peer, own.filter(|_| peer.is_some())),
            Door::Outbound | Door::Gateway { .. } => {
                let proven = target.and_then(|target| target.id.identity.as_ref());
                (own, proven.map(bartizan_types::SpiffeId::as_str))
            }
        };
        let noted = self.noted.as_deref();
        let own_side = worker.own_side();
        let source = match self.connection.door {
            Door::Inbound { port, .. } => self.connection.inbound_edge(port).1,
            Door::Outbound | Door::Gateway { .. } => Arc::clone(&own_side),
        };
        // Its own line has all of the request; this one says which it was, and who asked.
        let head = self.upgraded.as_ref().map(|upgraded| upgraded.head);
        let shown = head.and_then(|head| worker.shared.keyring.without_tokens(&head.target));
        let user = self
            .upgraded
            .as_ref()
            .and_then(|upgraded| upgraded.user)
            .map(|known| known.said(worker.changes(), &worker.shared.keyring));
        log.write(&AccessRecord {
            method: head.map(|head| head.method.as_str().as_bytes()),
            path: shown.as_deref().or(head.map(|head| &head.target[..])),
            authority: head.map(RequestHead::authority),
            user_agent: head.and_then(|head| head.headers.get("user-agent")),
            request_id: head.and_then(|head| head.headers.get("x-request-id")),
            request_auth: user.as_deref(),
            request_auth_error: self.token_refused.as_deref(),
            response_flags: self.flags,
            connection_termination_details: self.details.as_deref(),
            upstream_transport_failure_reason: self.transport_failure.as_deref(),
            bytes_received: received,
            bytes_sent: sent,
            duration: self.start.elapsed(),
            upstream_host: target.map(|target| target.id.address),
            upstream_cluster: target.map(|target| &*target.cluster).or(self.cluster.as_deref()),
            upstream_local_address: self.upstream_local,
            downstream_local_address: Some(self.connection.local),
            downstream_remote_address: Some(self.connection.remote),
            requested_server_name: self.connection.sni.as_deref().map(str::as_bytes),
            source_principal,
            destination_principal,
            source_workload: Some(&source.name),
            destination_workload: match self.connection.door {
                Door::Inbound { .. } => Some(&own_side.name),
                Door::Outbound | Door::Gateway { .. } => target.map(|target| &*target.destination.name),
            },
            decision_id: self.decision,
            allowed: self.allowed,
            policy: self.policy.as_deref(),
            remote_address: (self.connection.client != self.connection.remote)
                .then(|| self.connection.client.ip()),
            tls: self.connection.tls_record(),
            authorizer: self.authorizer.as_deref(),
            audited: noted.map_or(&[], |noted| &noted.audited),
            dry_run_allow: noted.and_then(Noted::dry_run_allow),
            dry_run_deny: noted.and_then(Noted::dry_run_deny),
            config_version: self.version,
            attempts: self.attempts,
            ..AccessRecord::new(worker.wall_time(self.start), self.connection.door.reporter())
        });
    }
}
