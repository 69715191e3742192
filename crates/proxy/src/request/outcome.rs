//! What became of one request: collected on its way, counted and logged once at its end, also when the request was dropped.

use std::borrow::Cow;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bartizan_decide::{CanonicalPath, Denied, Engine, Permit, Reason, Unauthenticated, canonical_path};
use bartizan_mesh::PathRule;
use bartizan_telemetry::{
    AccessRecord, EdgeLabels, RequestDone, RequestProtocol, ResponseFlags, SecurityPolicy, Service, Workload,
    families,
};
use bartizan_types::DecisionId;
use bartizan_wire::exchange::Counters;
use bartizan_wire::head::{Headers, RequestHead};
use bytes::Bytes;

use super::answer::Answer;
use super::ask::says::Edit;
use super::grpc::Messages;
use crate::connection::{Connection, Door, Objection};
use crate::noted::Noted;
use crate::tokens::Known;
use crate::upstream::Target;

/// What became of one request.
pub(crate) struct Outcome<'c> {
    pub(crate) connection: &'c Connection,
    pub(crate) start: Instant,
    pub(crate) version: u64,
    /// How policy reads paths.
    pub(crate) paths: PathRule,
    pub(crate) is_grpc: bool,
    pub(crate) code: u16,
    pub(crate) flags: ResponseFlags,
    pub(crate) details: Cow<'static, str>,
    pub(crate) transport_failure: Option<String>,
    pub(crate) target: Option<Rc<Target>>,
    pub(crate) upstream_local: Option<std::net::SocketAddr>,
    /// As what it was called, where no target was found.
    pub(crate) service: Option<Service>,
    pub(crate) route: Option<Box<str>>,
    pub(crate) allowed: Option<bool>,
    pub(crate) policy: Option<Rc<str>>,
    pub(crate) decision: Option<DecisionId>,
    /// The client's address as the door believes it.
    pub(crate) remote: IpAddr,
    /// Whose token was accepted.
    pub(crate) user: Option<Rc<Known>>,
    /// Why a token was refused.
    pub(crate) token_refused: Option<Box<str>>,
    /// What an authorizer answered, as a JSON object.
    pub(crate) authorizer: Option<String>,
    /// What the client reads when policy follows an authorizer that refused.
    pub(crate) authorizer_reply: Option<Box<Answer>>,
    /// Fields that an authorizer adds to the response.
    pub(crate) response_fields: Vec<Edit>,
    /// What the decision leaves for the log.
    noted: Option<Box<Noted>>,
    /// The target as the client sent it, where it was changed.
    sent_target: Option<Bytes>,
    pub(crate) attempts: u32,
    pub(crate) service_time: Option<Duration>,
    pub(crate) completed: bool,
    pub(crate) messages: Messages,
    is_told: bool,
}

impl<'c> Outcome<'c> {
    /// A request has begun.
    pub(crate) fn begin(connection: &'c Connection, engine: &Engine, start: Instant, is_grpc: bool) -> Self {
        Self {
            connection,
            start,
            version: engine.snapshot().version().0,
            paths: engine.path_rule(),
            is_grpc,
            code: 0,
            flags: ResponseFlags::NONE,
            details: Cow::Borrowed("via_upstream"),
            transport_failure: None,
            target: None,
            upstream_local: None,
            service: None,
            route: None,
            allowed: None,
            policy: None,
            decision: None,
            remote: connection.client.ip(),
            user: None,
            token_refused: None,
            authorizer: None,
            authorizer_reply: None,
            response_fields: Vec::new(),
            noted: None,
            sent_target: None,
            attempts: 0,
            service_time: None,
            completed: false,
            messages: Messages::default(),
            is_told: false,
        }
    }

    /// It is judged by another engine than at its beginning.
    pub(crate) fn judged_by(&mut self, engine: &Engine) {
        self.version = engine.snapshot().version().0;
        self.paths = engine.path_rule();
    }

    /// Gives the request another target; the log keeps the one that was sent.
    pub(crate) fn retarget(&mut self, head: &mut RequestHead, target: Bytes) {
        let sent = std::mem::replace(&mut head.target, target);
        self.sent_target.get_or_insert(sent);
    }

    /// Policy has allowed it.
    pub(crate) fn allow(&mut self, engine: &Engine, permit: &Permit) {
        self.allowed = Some(true);
        self.noted = Noted::of(&self.connection.worker, engine, permit.marks());
    }

    /// Policy has denied it.
    pub(crate) fn deny(&mut self, engine: &Engine, denied: &Denied) -> DecisionId {
        let worker = &self.connection.worker;
        let id = worker.decision_id();
        self.decision = Some(id);
        self.allowed = Some(false);
        self.details = denied.to_string().into();
        if let Reason::TokenRefused(why) = &denied.reason {
            self.token_refused = Some(why.as_str().into());
        }
        self.policy = denied.rule().map(|rule| self.connection.policy_text(rule));
        count_denied(self.connection, "http", denied);
        self.noted = Noted::of(worker, engine, denied.marks());
        id
    }

    /// The peer is trusted no more.
    pub(crate) fn distrust(&mut self, objection: &Objection) -> DecisionId {
        let id = self.connection.worker.decision_id();
        self.decision = Some(id);
        self.allowed = Some(false);
        self.details = objection.to_string().into();
        id
    }

    /// Its token was refused.
    pub(crate) fn refuse_token(&mut self, unauthenticated: &Unauthenticated) -> DecisionId {
        let id = self.connection.worker.decision_id();
        self.decision = Some(id);
        self.allowed = Some(false);
        self.details = unauthenticated.to_string().into();
        self.token_refused = Some(unauthenticated.why().into());
        id
    }

    /// Fields that an authorizer adds to the response, once.
    pub(crate) fn add_response_fields(&mut self, headers: &mut Headers) {
        for edit in self.response_fields.drain(..) {
            edit.apply(headers);
        }
    }

    /// Counts and logs it.
    pub(crate) fn end(mut self, head: &RequestHead, bytes: Counters) {
        self.tell(Some(head), bytes);
    }

    fn tell(&mut self, head: Option<&RequestHead>, bytes: Counters) {
        self.is_told = true;
        let duration = self.start.elapsed();
        let own = self.connection.worker.own_side();
        let source = self.count(&own, bytes, duration);
        self.log(&source, &own, head, bytes, duration);
    }

    /// Counts it, and says who asked.
    fn count(&mut self, own: &Arc<Workload>, bytes: Counters, duration: Duration) -> Arc<Workload> {
        let worker = &self.connection.worker;
        let known = self.target.as_ref().and_then(|target| target.edge.clone());
        let (edge, source) = match (&self.connection.door, known) {
            (Door::Inbound { port, .. }, _) => self.connection.inbound_edge(*port),
            (Door::Outbound | Door::Gateway { .. }, Some(edge)) => (edge, Arc::clone(own)),
            (Door::Outbound | Door::Gateway { .. }, None) => {
                let edge = worker.metrics.edge(&EdgeLabels {
                    reporter: self.connection.door.reporter(),
                    source: Arc::clone(own),
                    destination: Arc::new(Workload::default()),
                    service: Arc::new(self.service.take().unwrap_or_default()),
                    security: SecurityPolicy::Unknown,
                });
                (edge, Arc::clone(own))
            }
        };
        edge.request(&RequestDone {
            protocol: if self.is_grpc {
                RequestProtocol::Grpc
            } else {
                RequestProtocol::Http
            },
            response_code: self.code,
            grpc_status: self.messages.status,
            flags: self.flags,
            duration: self.completed.then_some(duration),
            request_bytes: bytes.head_received + bytes.body_received,
            response_bytes: bytes.head_sent + bytes.body_sent,
            request_messages: self.messages.requests,
            response_messages: self.messages.responses,
        });
        source
    }

    fn log(
        &self,
        source: &Workload,
        own_side: &Workload,
        head: Option<&RequestHead>,
        bytes: Counters,
        duration: Duration,
    ) {
        let worker = &self.connection.worker;
        let Some(log) = &worker.log else { return };
        let sent = head.map(|head| self.sent_target.as_ref().unwrap_or(&head.target));
        let canonical = sent.and_then(|target| other_form(target, self.paths));
        let shown = sent.and_then(|target| worker.shared.keyring.without_tokens(target));
        let user = self
            .user
            .as_ref()
            .map(|known| known.said(worker.changes(), &worker.shared.keyring));
        let noted = self.noted.as_deref();
        let header = |name| head.and_then(|head| head.headers.get(name));
        let own = worker.shared.identity.get().map(|identity| identity.id.as_str());
        let target = self.target.as_deref();
        let (source_principal, destination_principal) = match &self.connection.door {
            Door::Inbound { .. } => (
                self.connection
                    .peer
                    .identity()
                    .map(bartizan_types::SpiffeId::as_str),
                own.filter(|_| self.connection.peer.identity().is_some()),
            ),
            Door::Outbound => {
                let proven = target.and_then(|target| target.id.identity.as_ref());
                (own, proven.map(bartizan_types::SpiffeId::as_str))
            }
            // What a gateway refuses was asked by somebody outside, not by the gateway.
            Door::Gateway { .. } => {
                let proven = target.and_then(|target| target.id.identity.as_ref());
                (
                    own.filter(|_| proven.is_some()),
                    proven.map(bartizan_types::SpiffeId::as_str),
                )
            }
        };
        log.write(&AccessRecord {
            method: head.map(|head| head.method.as_str().as_bytes()),
            path: shown.as_deref().or(sent.map(|target| &target[..])),
            canonical_path: canonical.as_ref().map(|path| path.as_str().as_bytes()),
            protocol: head.map(|head| version_text(head.version)),
            response_code: self.code,
            grpc_status: self.messages.status,
            response_flags: self.flags,
            response_code_details: Some(&self.details),
            upstream_transport_failure_reason: self.transport_failure.as_deref(),
            bytes_received: bytes.body_received,
            bytes_sent: bytes.body_sent,
            duration,
            upstream_service_time: self.service_time,
            x_forwarded_for: header("x-forwarded-for"),
            user_agent: header("user-agent"),
            request_id: header("x-request-id"),
            authority: head.map(RequestHead::authority),
            upstream_host: target.map(|target| target.id.address),
            upstream_cluster: target.map(|target| &*target.cluster),
            upstream_local_address: self.upstream_local,
            downstream_local_address: Some(self.connection.local),
            downstream_remote_address: Some(self.connection.remote),
            requested_server_name: self.connection.sni.as_deref().map(str::as_bytes),
            route_name: self.route.as_deref().or(Some("default")),
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
            remote_address: (self.remote != self.connection.remote.ip()).then_some(self.remote),
            tls: self.connection.tls_record(),
            request_auth: user.as_deref(),
            request_auth_error: self.token_refused.as_deref(),
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

impl Drop for Outcome<'_> {
    /// The request's task was dropped: its connection broke or the proxy stops.
    fn drop(&mut self) {
        if !self.is_told {
            self.flags |= ResponseFlags::DC;
            self.details = Cow::Borrowed("dropped");
            self.tell(None, Counters::default());
        }
    }
}

/// The form of a path that policy has matched, where it is not the one that was sent.
fn other_form(target: &[u8], paths: PathRule) -> Option<CanonicalPath<'_>> {
    let path = target.split(|byte| *byte == b'?').next().unwrap_or_default();
    let is_plain = !path.iter().any(|byte| matches!(byte, b'%' | b'\\' | b';'))
        && !path.windows(2).any(|two| matches!(two, b"//" | b"/."));
    if is_plain {
        return None;
    }
    let canonical = canonical_path(std::str::from_utf8(target).ok()?, paths).ok()?;
    (canonical.as_str().as_bytes() != path).then_some(canonical)
}

/// Counts a denial under the policy that denied.
pub(crate) fn count_denied(connection: &Connection, layer: &str, denied: &Denied) {
    let worker = &connection.worker;
    match denied.rule() {
        Some(rule) => worker.count(
            &families::POLICY_DENIED,
            &[
                layer,
                rule.namespace.as_str(),
                rule.policy.as_str(),
                &rule.rule.to_string(),
            ],
        ),
        None => worker.count(&families::POLICY_DENIED, &[layer, "", "", ""]),
    }
}

fn version_text(version: http::Version) -> &'static str {
    match version {
        http::Version::HTTP_10 => "HTTP/1.0",
        http::Version::HTTP_2 => "HTTP/2",
        _ => "HTTP/1.1",
    }
}
