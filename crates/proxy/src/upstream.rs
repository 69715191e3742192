//! The way to upstreams: which target a request goes to, connections that are kept for the next request, and new ones.
//!
//! One worker's own. A connection is only ever used again for the same whole [`TargetId`]: address, identity, service and
//! protocol.

mod connect;
mod target;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bartizan_decide::{Destination, Engine, InFlight, Permit, choose};
use bartizan_mesh::{Endpoint, Endpoints, Service, Workload};
use bartizan_telemetry::{self as telemetry, EdgeLabels, Reporter, SecurityPolicy};
use bartizan_types::{NamespacedName, Port, RuleId, SpiffeId};
use bartizan_wire::h1;
use bartizan_wire::h2;
use bartizan_wire::pool::{Pool, PoolLimits, Reusable, SharedPool};
use bartizan_wire::stream::MaybeTls;
use bartizan_wire::upstream::AnyUpstream;
use tokio::sync::Notify;

pub(crate) use connect::{ConnectError, MARK_SELF};
pub(crate) use target::{Carried, InFlightGuard, Target, TargetId, TargetKey};

use crate::connection::{App, Connection};
use crate::labels;
use crate::worker::Worker;

/// HTTP/2 connections to one target at most.
const HTTP2_PER_TARGET: usize = 8;

/// Why a request may be sent: policy at the server's side and at gateways, a destination of the mesh at the client's.
#[derive(Debug)]
pub(crate) enum Warrant {
    /// Policy has allowed it.
    Permitted(Permit),
    /// The control plane has told where the destination is served, which it does only for what policy could let in; the
    /// server's side decides.
    Reachable,
}

/// A connection, or a stream of one, for one request.
pub(crate) struct Lease {
    pub(crate) up: AnyUpstream<MaybeTls>,
    /// The connection's own address.
    pub(crate) local: Option<SocketAddr>,
}

/// A connection that waits for its next request.
struct Kept {
    connection: h1::ClientConnection<MaybeTls>,
    local: Option<SocketAddr>,
}

impl Reusable for Kept {
    fn is_alive(&mut self) -> bool {
        self.connection.is_alive()
    }
}

impl Warrant {
    /// The rule that it stands on, for the log.
    pub(crate) fn rule<'e>(&self, engine: &'e Engine) -> Option<&'e RuleId> {
        match self {
            Self::Permitted(permit) => engine.allowed_by(permit),
            Self::Reachable => None,
        }
    }
}

/// One worker's upstreams.
pub(crate) struct Upstreams {
    http1: RefCell<Pool<TargetKey, Kept>>,
    http2: RefCell<SharedPool<TargetKey>>,
    opening: RefCell<HashMap<TargetKey, Rc<Notify>>>,
    targets: RefCell<HashMap<TargetId, Rc<Target>>>,
    load: RefCell<HashMap<NamespacedName, Rc<Cell<u32>>>>,
    /// Ports of the pod whose application listens on the pod's address and not on loopback.
    off_loopback: RefCell<HashMap<u16, SocketAddr>>,
    used: Cell<u64>,
}

impl Default for Upstreams {
    fn default() -> Self {
        let limits = PoolLimits {
            idle_timeout: Duration::from_mins(1),
            ..PoolLimits::default()
        };
        Self {
            http1: RefCell::new(Pool::new(limits)),
            http2: RefCell::new(SharedPool::new(HTTP2_PER_TARGET)),
            opening: RefCell::default(),
            targets: RefCell::default(),
            load: RefCell::default(),
            off_loopback: RefCell::default(),
            used: Cell::new(0),
        }
    }
}

impl InFlight for Upstreams {
    fn in_flight(&self, endpoint: &Endpoint) -> u32 {
        self.load
            .borrow()
            .get(&endpoint.workload)
            .map_or(0, |count| count.get())
    }
}

impl Upstreams {
    /// Keeps a connection for the next request there, when it can be used again.
    pub(crate) fn keep(&self, target: &Rc<Target>, lease: Lease, now: Instant) {
        if let AnyUpstream::Http1(connection) = lease.up
            && connection.is_reusable()
        {
            let kept = Kept {
                connection,
                local: lease.local,
            };
            self.http1
                .borrow_mut()
                .checkin(TargetKey(Rc::clone(target)), kept, now);
        }
    }

    /// A connection that other requests went over before, or a stream of one; for a request that may be sent for the
    /// warrant's sake.
    pub(crate) fn kept(&self, _warrant: &Warrant, target: &Rc<Target>, now: Instant) -> Option<Lease> {
        let key = TargetKey(Rc::clone(target));
        if target.id.carried == Carried::Http2 {
            target.used.set(now);
            let connection = self.http2.borrow_mut().checkout(&key)?;
            return Some(Lease {
                up: AnyUpstream::Http2(connection.open()),
                local: None,
            });
        }
        let kept = self.http1.borrow_mut().checkout(&key, now)?;
        Some(Lease {
            up: AnyUpstream::Http1(kept.connection),
            local: kept.local,
        })
    }

    /// As [`Self::kept`], on a new connection, or on one that another request is opening.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent.
    pub(crate) async fn lease(
        &self,
        _warrant: &Warrant,
        worker: &Worker,
        target: &Rc<Target>,
    ) -> Result<Lease, ConnectError> {
        if target.id.carried == Carried::Http2 {
            return Ok(Lease {
                up: AnyUpstream::Http2(self.stream(worker, target).await?),
                local: None,
            });
        }
        let stream = connect::open(worker, target).await?;
        Ok(Lease {
            local: stream.tcp().local_addr().ok(),
            up: AnyUpstream::Http1(h1::ClientConnection::new(stream, h1::Limits::default())),
        })
    }

    /// Closes what has been idle too long.
    pub(crate) fn sweep(&self, now: Instant) {
        self.http1.borrow_mut().sweep(now);
        // An HTTP/2 connection is unused when no stream was open at two looks in a row; a target that is used again in
        // between keeps it.
        self.http2
            .borrow_mut()
            .sweep(|key| now.saturating_duration_since(key.0.used.get()) > Duration::from_mins(1));
    }

    /// Forgets targets that nothing uses, and the labels that may have changed with the mesh. Connections that are kept
    /// hold their own target, and are found by value.
    pub(crate) fn forget_unused(&self) {
        self.targets.borrow_mut().clear();
        self.load
            .borrow_mut()
            .retain(|_, count| Rc::strong_count(count) > 1);
        self.used.set(self.used.get() + 1);
    }

    /// Grows with every [`Self::forget_unused`]: a target that was remembered before is not asked for again.
    pub(crate) fn epoch(&self) -> u64 {
        self.used.get()
    }

    /// A stream of an HTTP/2 connection that is open, or is being opened by another request.
    async fn stream(&self, worker: &Worker, target: &Rc<Target>) -> Result<h2::ClientStream, ConnectError> {
        let key = TargetKey(Rc::clone(target));
        loop {
            let open = self.http2.borrow_mut().checkout(&key);
            if let Some(connection) = open {
                return Ok(connection.open());
            }
            let waiting = self.opening.borrow().get(&key).cloned();
            if let Some(opening) = waiting {
                opening.notified().await;
                continue;
            }
            let opened = {
                let _turn = Opening::begin(self, &key);
                connect::http2(worker, target).await
            };
            let connection = opened?;
            self.http2.borrow_mut().insert(key, connection.clone());
            return Ok(connection.open());
        }
    }

    fn load_of(&self, workload: &NamespacedName) -> Rc<Cell<u32>> {
        Rc::clone(self.load.borrow_mut().entry(workload.clone()).or_default())
    }
}

/// The turn of whoever opens an HTTP/2 connection; others wait for its end.
struct Opening<'u> {
    upstreams: &'u Upstreams,
    key: TargetKey,
    others: Rc<Notify>,
}

impl<'u> Opening<'u> {
    fn begin(upstreams: &'u Upstreams, key: &TargetKey) -> Self {
        let others = Rc::new(Notify::new());
        upstreams
            .opening
            .borrow_mut()
            .insert(key.clone(), Rc::clone(&others));
        Self {
            upstreams,
            key: key.clone(),
            others,
        }
    }
}

impl Drop for Opening<'_> {
    fn drop(&mut self) {
        self.upstreams.opening.borrow_mut().remove(&self.key);
        self.others.notify_waiters();
    }
}

/// The endpoint for the next try; `None` when none is left.
pub(crate) fn select(
    connection: &Connection,
    engine: &Engine,
    destination: &Destination<'_>,
    carried: Carried,
    tried: &[NamespacedName],
) -> Option<Rc<Target>> {
    let worker = &connection.worker;
    match destination {
        Destination::Service {
            service,
            port,
            endpoints,
        } => {
            let choice = choose(endpoints, port.port, &worker.upstreams, tried, worker.random())?;
            Some(of_endpoint(
                connection,
                engine,
                service,
                port.port,
                endpoints,
                choice.endpoint,
                choice.port,
                carried,
            ))
        }
        Destination::Workload {
            workload,
            port,
            service,
            identity,
            ..
        } => {
            if tried.contains(&workload.name) {
                return None;
            }
            of_workload(connection, engine, workload, *port, *service, *identity, carried)
        }
        Destination::Refused(_) => None,
    }
}

/// The endpoint of a service that is asked about a request, and not what the request is for: a connection does not remember
/// it. `None` when none is left.
pub(crate) fn select_authorizer(
    worker: &Worker,
    engine: &Engine,
    destination: &Destination<'_>,
    carried: Carried,
    tried: &[NamespacedName],
) -> Option<Rc<Target>> {
    let Destination::Service {
        service,
        port,
        endpoints,
    } = destination
    else {
        return None;
    };
    let choice = choose(endpoints, port.port, &worker.upstreams, tried, worker.random())?;
    let id = TargetId {
        workload: choice.endpoint.workload.clone(),
        address: SocketAddr::new(choice.endpoint.address, choice.port.get()),
        identity: choice.endpoint.identity.clone(),
        service: Some((service.name.clone(), port.port)),
        carried,
    };
    Some(intern(
        worker,
        engine,
        id,
        Some(service),
        service.hostname.as_str(),
    ))
}

#[expect(clippy::too_many_arguments, reason = "the parts of one choice")]
fn of_endpoint(
    connection: &Connection,
    engine: &Engine,
    service: &Arc<Service>,
    service_port: Port,
    _endpoints: &Endpoints,
    endpoint: &Endpoint,
    port: Port,
    carried: Carried,
) -> Rc<Target> {
    let upstreams = &connection.worker.upstreams;
    if let Some((epoch, target)) = &*connection.last.borrow()
        && *epoch == upstreams.epoch()
        && target.id.address.ip() == endpoint.address
        && target.id.address.port() == port.get()
        && target.id.carried == carried
        && target.id.workload == endpoint.workload
        && target.id.identity == endpoint.identity
        && target
            .id
            .service
            .as_ref()
            .is_some_and(|(name, called)| *name == service.name && *called == service_port)
    {
        return Rc::clone(target);
    }
    let id = TargetId {
        workload: endpoint.workload.clone(),
        address: SocketAddr::new(endpoint.address, port.get()),
        identity: endpoint.identity.clone(),
        service: Some((service.name.clone(), service_port)),
        carried,
    };
    let target = intern(
        &connection.worker,
        engine,
        id,
        Some(service),
        service.hostname.as_str(),
    );
    *connection.last.borrow_mut() = Some((upstreams.epoch(), Rc::clone(&target)));
    target
}

fn of_workload(
    connection: &Connection,
    engine: &Engine,
    workload: &Arc<Workload>,
    port: Port,
    service: Option<(&Arc<Service>, Port)>,
    identity: Option<&SpiffeId>,
    carried: Carried,
) -> Option<Rc<Target>> {
    let address = *workload.addresses.first()?;
    let address = if workload.addresses.contains(&connection.local.ip()) {
        connection.local.ip()
    } else {
        address
    };
    let id = TargetId {
        workload: workload.name.clone(),
        address: SocketAddr::new(address, port.get()),
        identity: identity.cloned(),
        service: service.map(|(service, port)| (service.name.clone(), port)),
        carried,
    };
    let host = match (service, &workload.hostname) {
        (Some((service, _)), _) => service.hostname.as_str().to_owned(),
        (None, Some(hostname)) => hostname.as_str().to_owned(),
        (None, None) => format!("{}.{}.pod", workload.name.name, workload.name.namespace),
    };
    let service = service.map(|(service, _)| service);
    Some(intern(&connection.worker, engine, id, service, &host))
}

fn intern(
    worker: &Worker,
    engine: &Engine,
    id: TargetId,
    service: Option<&Arc<Service>>,
    host: &str,
) -> Rc<Target> {
    if let Some(target) = worker.upstreams.targets.borrow().get(&id) {
        return Rc::clone(target);
    }
    let snapshot = engine.snapshot();
    let destination = Arc::new(match snapshot.workload(&id.workload) {
        Some(workload) => labels::side_of(workload, id.identity.as_ref()),
        None => id
            .identity
            .as_ref()
            .map_or_else(telemetry::Workload::default, telemetry::Workload::from_identity),
    });
    let edge = worker.metrics.edge(&EdgeLabels {
        reporter: Reporter::Source,
        source: worker.own_side(),
        destination: Arc::clone(&destination),
        service: Arc::new(service.map_or_else(
            || telemetry::Service {
                host: host.into(),
                name: "PassthroughCluster".into(),
                namespace: id.workload.namespace.as_str().into(),
            },
            |service| labels::service_of(service),
        )),
        security: SecurityPolicy::Unknown,
    });
    let port = id
        .service
        .as_ref()
        .map_or(id.address.port(), |(_, port)| port.get());
    let mark = worker.shared.address.map(|own| {
        if own == id.address.ip() {
            MARK_SELF
        } else {
            bartizan_wire::socket::MARK
        }
    });
    let in_flight = worker.upstreams.load_of(&id.workload);
    let target = Rc::new(Target::new(
        id.clone(),
        (host.into(), port),
        mark,
        format!("outbound|{port}||{host}").into(),
        destination,
        Some(edge),
        in_flight,
    ));
    worker
        .upstreams
        .targets
        .borrow_mut()
        .insert(id, Rc::clone(&target));
    target
}

/// The application behind an inbound port. `elsewhere` asks for its other address, after the first one refused.
pub(crate) fn application(
    connection: &Connection,
    port: Port,
    app: App,
    carried: Carried,
    elsewhere: bool,
) -> Option<Rc<Target>> {
    let worker = &connection.worker;
    let upstreams = &worker.upstreams;
    let address = match app {
        App::At(_) if elsewhere => return None,
        App::At(address) => address,
        App::Pod(own) => {
            let loopback = match own {
                std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
                std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
            };
            let off = upstreams.off_loopback.borrow().contains_key(&port.get());
            let ip = if off == elsewhere { loopback } else { own };
            SocketAddr::new(ip, port.get())
        }
    };
    if let Some((_, target)) = &*connection.last.borrow()
        && target.id.address == address
        && target.id.carried == carried
    {
        return Some(Rc::clone(target));
    }
    let id = TargetId {
        workload: worker.shared.workload.clone(),
        address,
        identity: None,
        service: None,
        carried,
    };
    let known = upstreams.targets.borrow().get(&id).cloned();
    let target = known.unwrap_or_else(|| {
        let target = Rc::new(Target::new(
            id.clone(),
            (Box::default(), port.get()),
            worker.shared.address.map(|_| bartizan_wire::socket::MARK),
            format!("inbound|{port}||").into(),
            worker.own_side(),
            None,
            upstreams.load_of(&id.workload),
        ));
        upstreams.targets.borrow_mut().insert(id, Rc::clone(&target));
        target
    });
    *connection.last.borrow_mut() = Some((upstreams.epoch(), Rc::clone(&target)));
    Some(target)
}

impl Upstreams {
    /// Notes where an application turned out to listen.
    pub(crate) fn note_application(&self, port: Port, app: App, address: SocketAddr) {
        if let App::Pod(own) = app {
            let mut off = self.off_loopback.borrow_mut();
            if address.ip() == own {
                off.insert(port.get(), address);
            } else {
                off.remove(&port.get());
            }
        }
    }

    /// Opens a connection of bytes, which may be carried for the warrant's sake.
    ///
    /// # Errors
    /// [`ConnectError`]; nothing was sent.
    pub(crate) async fn open(
        &self,
        _warrant: &Warrant,
        worker: &Worker,
        target: &Target,
    ) -> Result<MaybeTls, ConnectError> {
        connect::open(worker, target).await
    }
}
