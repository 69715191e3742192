//! Where a request or connection is sent, as one whole value: the key of kept connections, with everything that is the
//! same for all requests there.

use std::cell::Cell;
use std::fmt;
use std::hash::{BuildHasher as _, Hash, Hasher, RandomState};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use bartizan_identity::ClientAlpn;
use bartizan_telemetry::{self as telemetry, Edge};
use bartizan_types::{NamespacedName, Port, SpiffeId};

/// What is spoken to an upstream.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum Carried {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Bytes.
    Tcp,
}

impl Carried {
    /// What is offered in the handshake.
    pub(crate) fn alpn(self) -> ClientAlpn {
        match self {
            Self::Http1 => ClientAlpn::Http1,
            Self::Http2 => ClientAlpn::Http2,
            Self::Tcp => ClientAlpn::Tcp,
        }
    }
}

/// Everything that makes one upstream differ from another.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct TargetId {
    /// Who serves there.
    pub(crate) workload: NamespacedName,
    /// Where.
    pub(crate) address: SocketAddr,
    /// Who it must prove to be; none is plaintext.
    pub(crate) identity: Option<SpiffeId>,
    /// As what it is called.
    pub(crate) service: Option<(NamespacedName, Port)>,
    /// What is spoken.
    pub(crate) carried: Carried,
}

/// An upstream with what is the same for all requests there.
pub(crate) struct Target {
    pub(crate) id: TargetId,
    hash: u64,
    /// The host in the server name of the handshake, and the port.
    pub(crate) server: (Box<str>, u16),
    /// The mark of its sockets.
    pub(crate) mark: Option<u32>,
    /// Envoy's name for it: `outbound|8080||cart.shop.svc.cluster.local`.
    pub(crate) cluster: Box<str>,
    /// Who it is, for the log.
    pub(crate) destination: Arc<telemetry::Workload>,
    /// Where requests are counted; at the server's side the connection knows.
    pub(crate) edge: Option<Edge>,
    /// Requests and connections there, from this worker.
    pub(crate) in_flight: Rc<Cell<u32>>,
    /// When it was last sent to, for HTTP/2 connections.
    pub(crate) used: Cell<Instant>,
}

thread_local! {
    static HASHING: RandomState = RandomState::new();
}

impl Target {
    /// Completes an id.
    pub(crate) fn new(
        id: TargetId,
        server: (Box<str>, u16),
        mark: Option<u32>,
        cluster: Box<str>,
        destination: Arc<telemetry::Workload>,
        edge: Option<Edge>,
        in_flight: Rc<Cell<u32>>,
    ) -> Self {
        Self {
            hash: HASHING.with(|hashing| hashing.hash_one(&id)),
            id,
            server,
            mark,
            cluster,
            destination,
            edge,
            in_flight,
            used: Cell::new(Instant::now()),
        }
    }
}

impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.id, f)
    }
}

/// The key of kept connections: compared as a whole value, hashed once.
#[derive(Clone, Debug)]
pub(crate) struct TargetKey(pub(crate) Rc<Target>);

impl PartialEq for TargetKey {
    fn eq(&self, other: &Self) -> bool {
        Rc::ptr_eq(&self.0, &other.0) || (self.0.id == other.0.id && self.0.mark == other.0.mark)
    }
}

impl Eq for TargetKey {}

impl Hash for TargetKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.0.hash);
    }
}

/// Counts one request or connection at a target for as long as it exists.
#[derive(Debug)]
pub(crate) struct InFlightGuard(Rc<Cell<u32>>);

impl InFlightGuard {
    pub(crate) fn new(target: &Target) -> Self {
        target.in_flight.set(target.in_flight.get().saturating_add(1));
        Self(Rc::clone(&target.in_flight))
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}
