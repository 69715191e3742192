//! One accepted connection: through which door it came, who is at its other end, and what its requests have in common.

use std::cell::RefCell;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;

use bartizan_decide::{
    ConnectionFacts, Denied, Engine, Reason, TlsFacts, authorize_connection, judge_again_tcp,
};
use bartizan_telemetry::{
    AccessRecord, Edge, EdgeLabels, OpenGuard, Reporter, ResponseFlags, SecurityPolicy, TlsRecord, families,
};
use bartizan_types::{Peer, Port, RuleId, SpiffeId};
use bartizan_wire::stream::MaybeTls;
use bytes::BytesMut;

use crate::labels;
use crate::request::UpgradedRequest;
use crate::upstream::{Carried, Target};
use crate::worker::Worker;

/// Through which door a connection came.
#[derive(Clone, Debug)]
pub(crate) enum Door {
    /// From the network to the application.
    Inbound {
        /// The workload's port.
        port: Port,
        /// Where the application is.
        app: App,
    },
    /// From the application into the mesh.
    Outbound,
    /// From outside into the mesh.
    Gateway {
        /// The port in the `Gateway` document.
        port: Port,
    },
}

/// Where an application listens.
#[derive(Clone, Copy, Debug)]
pub(crate) enum App {
    /// In this pod: on its loopback, else on its own address.
    Pod(IpAddr),
    /// There.
    At(SocketAddr),
}

impl Door {
    /// Whether policy judges what comes through it. On the way out of an application the other side does.
    pub(crate) fn is_judged(&self) -> bool {
        match self {
            Self::Inbound { .. } | Self::Gateway { .. } => true,
            Self::Outbound => false,
        }
    }

    /// The label's value.
    pub(crate) fn direction(&self) -> &'static str {
        match self {
            Self::Inbound { .. } => "inbound",
            Self::Outbound => "outbound",
            Self::Gateway { .. } => "gateway",
        }
    }

    /// Which side of a hop is reported.
    pub(crate) fn reporter(&self) -> Reporter {
        match self {
            Self::Inbound { .. } => Reporter::Destination,
            Self::Outbound | Self::Gateway { .. } => Reporter::Source,
        }
    }
}

/// One accepted connection.
pub(crate) struct Connection {
    pub(crate) worker: Rc<Worker>,
    pub(crate) door: Door,
    /// Who is at the other end.
    pub(crate) peer: Peer,
    /// The other end's address.
    pub(crate) remote: SocketAddr,
    /// Whom the other end speaks for: what a PROXY protocol header says, else itself.
    pub(crate) client: SocketAddr,
    /// What it called: its original destination.
    pub(crate) local: SocketAddr,
    /// The server name of its TLS handshake.
    pub(crate) sni: Option<String>,
    /// What else its TLS handshake agreed on.
    pub(crate) tls: Option<Box<Handshake>>,
    /// What `x-forwarded-client-cert` says of it.
    pub(crate) forwarded: Option<Box<str>>,
    /// Where its last request went.
    pub(crate) last: RefCell<Option<(u64, Rc<Target>)>>,
    edge: RefCell<Option<(u64, Edge, Arc<bartizan_telemetry::Workload>)>>,
    policy: RefCell<Option<(RuleId, Rc<str>)>>,
    _open: OpenGuard,
}

/// What a TLS handshake agreed on.
#[derive(Debug)]
pub(crate) struct Handshake {
    pub(crate) version: &'static str,
    pub(crate) cipher: &'static str,
    pub(crate) group: String,
}

/// Why an open connection or a request in flight may not go on after a change.
#[derive(Debug)]
pub(crate) enum Objection {
    /// Policy denies it now.
    Denied(Denied),
    /// The bundle has the peer's trust domain no more.
    Untrusted(SpiffeId),
}

impl From<Denied> for Objection {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied)
    }
}

impl Objection {
    /// The label's value.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denied) if matches!(denied.reason, Reason::TokenRefused(_)) => "token",
            Self::Denied(_) => "policy",
            Self::Untrusted(_) => "trust",
        }
    }
}

impl fmt::Display for Objection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(denied) => write!(f, "{denied}"),
            Self::Untrusted(peer) => {
                write!(f, "untrusted_peer{{trust domain of `{peer}` is trusted no more}}")
            }
        }
    }
}

/// A connection of which it is known what it carries.
pub(crate) struct Established {
    /// The connection.
    pub(crate) connection: Connection,
    /// Its stream.
    pub(crate) io: MaybeTls,
    /// What was read from it already.
    pub(crate) read: BytesMut,
    /// What it carries.
    pub(crate) carried: Carried,
}

impl Connection {
    /// A connection that was accepted and, where it is so, authenticated.
    pub(crate) fn new(
        worker: &Rc<Worker>,
        door: Door,
        peer: Peer,
        remote: SocketAddr,
        local: SocketAddr,
        sni: Option<String>,
    ) -> Self {
        let forwarded = match (&peer, worker.shared.identity.get()) {
            (Peer::Authenticated(peer), Some(identity)) => {
                let own = &identity.id;
                Some(format!("By={own};Subject=\"\";URI={peer}").into())
            }
            _ => None,
        };
        Self {
            _open: worker
                .metrics
                .open(&families::CONNECTIONS_OPEN, &[door.direction()]),
            worker: Rc::clone(worker),
            door,
            peer,
            remote,
            client: remote,
            local,
            sni,
            tls: None,
            forwarded,
            last: RefCell::default(),
            edge: RefCell::default(),
            policy: RefCell::default(),
        }
    }

    /// What is known of it when it is decided.
    pub(crate) fn facts(&self) -> ConnectionFacts<'_> {
        let port = match &self.door {
            Door::Inbound { port, .. } | Door::Gateway { port } => port.get(),
            Door::Outbound => self.local.port(),
        };
        ConnectionFacts {
            local: &self.worker.shared.workload,
            peer: &self.peer,
            source: self.remote.ip(),
            destination: SocketAddr::new(self.local.ip(), port),
            remote: self.client.ip(),
            sni: self.sni.as_deref(),
            tls: self.tls.as_deref().map(|tls| TlsFacts {
                version: tls.version,
                cipher: tls.cipher,
                group: &tls.group,
            }),
            now: self.worker.now_seconds(),
        }
    }

    /// What its handshake agreed on, for the log.
    pub(crate) fn tls_record(&self) -> Option<TlsRecord<'_>> {
        self.tls.as_deref().map(|tls| TlsRecord {
            version: tls.version,
            cipher: tls.cipher,
            group: &tls.group,
        })
    }

    /// Whether it may stay open between two requests, by the present engine and trust bundle.
    ///
    /// # Errors
    /// [`Objection`] when it is to be closed.
    pub(crate) fn judge_again(&self, engine: &Engine) -> Result<(), Objection> {
        self.judge_trust()?;
        match self.door {
            Door::Inbound { .. } => Ok(authorize_connection(engine, &self.facts())?),
            Door::Outbound | Door::Gateway { .. } => Ok(()),
        }
    }

    /// Whether a connection of bytes that `old` let through may stay open.
    ///
    /// # Errors
    /// [`Objection`] when it is to be closed.
    pub(crate) fn judge_bytes_again(&self, old: &Engine, new: &Engine) -> Result<(), Objection> {
        self.judge_trust()?;
        match self.door {
            Door::Inbound { .. } => Ok(judge_again_tcp(old, new, &self.facts())?),
            Door::Outbound | Door::Gateway { .. } => Ok(()),
        }
    }

    /// Whether a connection that an HTTP request has become may stay open.
    ///
    /// # Errors
    /// [`Objection`] when it is to be closed.
    pub(crate) fn judge_upgraded_again(
        &self,
        request: &UpgradedRequest,
        engine: &Arc<Engine>,
    ) -> Result<(), Objection> {
        self.judge_trust()?;
        Ok(request.judge_again(self, engine)?)
    }

    /// Whether the peer's trust domain is still trusted. A trust domain that was taken out of the bundle closes what it opened.
    pub(crate) fn judge_trust(&self) -> Result<(), Objection> {
        let Some(identity) = self.worker.shared.identity.get() else {
            return Ok(());
        };
        match self.peer.identity() {
            Some(id) if !identity.credentials.current().bundle().trusts(id.trust_domain()) => {
                Err(Objection::Untrusted(id.clone()))
            }
            _ => Ok(()),
        }
    }

    /// Where this connection's requests are counted when the reporter is the server's side.
    pub(crate) fn inbound_edge(&self, port: Port) -> (Edge, Arc<bartizan_telemetry::Workload>) {
        let changes = self.worker.changes();
        if let Some((at, edge, source)) = &*self.edge.borrow()
            && *at == changes
        {
            return (edge.clone(), Arc::clone(source));
        }
        let engine = self.worker.engine();
        let snapshot = engine.snapshot();
        let local = &self.worker.shared.workload;
        let source = labels::caller_side(snapshot, &self.peer, self.remote.ip());
        let edge = self.worker.metrics.edge(&EdgeLabels {
            reporter: Reporter::Destination,
            source: Arc::clone(&source),
            destination: self.worker.own_side(),
            service: labels::inbound_service(snapshot, local, port),
            security: match self.peer {
                Peer::Authenticated(_) => SecurityPolicy::MutualTls,
                Peer::Plaintext => SecurityPolicy::None,
            },
        });
        *self.edge.borrow_mut() = Some((changes, edge.clone(), Arc::clone(&source)));
        (edge, source)
    }

    /// The text of a rule for the log, made once as long as it is the same.
    pub(crate) fn policy_text(&self, rule: &RuleId) -> Rc<str> {
        if let Some((known, text)) = &*self.policy.borrow()
            && known == rule
        {
            return Rc::clone(text);
        }
        let text: Rc<str> = rule.to_string().into();
        *self.policy.borrow_mut() = Some((rule.clone(), Rc::clone(&text)));
        text
    }

    /// Writes a line about a connection that was refused before anything was carried.
    pub(crate) fn log_refused(&self, flags: ResponseFlags, details: &str) {
        self.worker.count(
            &families::CONNECTIONS_REFUSED,
            &[self.door.direction(), reason_label(details)],
        );
        let refused = AccessRecord {
            response_flags: flags,
            ..self.record(details)
        };
        if let Some(log) = &self.worker.log {
            log.write(&refused);
        }
    }

    /// Writes a line about an open connection that a change has closed.
    pub(crate) fn log_judged(&self, objection: &Objection) {
        let details = format!("closed by a change: {objection}");
        self.worker.count(
            &families::CONNECTIONS_REFUSED,
            &[self.door.direction(), reason_label(&details)],
        );
        let Some(log) = &self.worker.log else { return };
        let rule = match objection {
            Objection::Denied(denied) => denied.rule().map(|rule| self.policy_text(rule)),
            Objection::Untrusted(_) => None,
        };
        log.write(&AccessRecord {
            decision_id: Some(self.worker.decision_id()),
            allowed: Some(false),
            policy: rule.as_deref(),
            ..self.record(&details)
        });
    }

    /// A line about the connection itself.
    fn record<'a>(&'a self, details: &'a str) -> AccessRecord<'a> {
        let now = std::time::Instant::now();
        AccessRecord {
            connection_termination_details: Some(details),
            downstream_local_address: Some(self.local),
            downstream_remote_address: Some(self.remote),
            requested_server_name: self.sni.as_deref().map(str::as_bytes),
            config_version: self.worker.engine().snapshot().version().0,
            ..AccessRecord::new(self.worker.wall_time(now), self.door.reporter())
        }
    }
}

/// A label has few values: what stands before the first `:` or `{`.
fn reason_label(details: &str) -> &str {
    details.split([':', '{', '[']).next().unwrap_or_default()
}
