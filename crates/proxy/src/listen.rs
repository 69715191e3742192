//! Accepts connections of one listener on one worker and gives each a task; a panic ends one task and is counted.

use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bartizan_telemetry::families;
use bartizan_types::Port;
use bartizan_wire::socket::{original_destination, reset_on_drop, tune_accepted};
use bartizan_wire::stream::Prefixed;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinError, JoinSet};

use crate::connection::{App, Established};
use crate::drain::Stage;
use crate::http::{serve_http1, serve_http2};
use crate::upstream::Carried;
use crate::worker::{Registration, Worker};
use crate::{gateway, inbound, outbound, tcp};

/// Connections of one listener on one worker at most; above that the kernel keeps them waiting.
const MOST_CONNECTIONS: usize = 100_000;
/// Silence after which the kernel asks whether a client is there.
const KEEPALIVE: Duration = Duration::from_mins(1);
/// After a failed accept (no descriptors left): until some are free.
const AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How long a listener that nobody takes over still looks for connections that wait in it.
const LAST_LOOK: Duration = Duration::from_millis(100);

/// The ports of a pod where its proxy listens for the pod itself: captured connections and DNS. From the network nobody has
/// business there, whatever policy says.
const PROXY_PORTS: [u16; 3] = [15001, 15006, 15053];

/// What a listener's connections are.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Captured, from the application.
    CapturedOutbound {
        /// The pod's own address.
        own: IpAddr,
    },
    /// Captured, to the application.
    CapturedInbound {
        /// The pod's own address.
        own: IpAddr,
    },
    /// From the application; the listener's address is the destination.
    Outbound,
    /// To the application; the listener's address is the destination.
    Inbound {
        /// The application.
        to: SocketAddr,
    },
    /// From outside.
    Gateway {
        /// The port in the `Gateway` document.
        port: Port,
        /// Whether the socket is the supervisor's, and a successor goes on with what waits in it.
        is_inherited: bool,
    },
}

impl Role {
    fn direction(self) -> &'static str {
        match self {
            Self::CapturedOutbound { .. } | Self::Outbound => "outbound",
            Self::CapturedInbound { .. } | Self::Inbound { .. } => "inbound",
            Self::Gateway { .. } => "gateway",
        }
    }

    fn is_inherited(self) -> bool {
        match self {
            Self::CapturedOutbound { .. } | Self::CapturedInbound { .. } => true,
            Self::Outbound | Self::Inbound { .. } => false,
            Self::Gateway { is_inherited, .. } => is_inherited,
        }
    }
}

/// Accepts until the proxy drains, and returns when every connection has ended.
pub(crate) async fn accept(worker: Rc<Worker>, listener: TcpListener, role: Role) {
    let mut draining = pin!(worker.shared.drain.reached(Stage::Draining));
    tokio::select! {
        () = worker.shared.until_ready() => {}
        // What waits is for a successor that gets as far.
        () = &mut draining => return,
    }
    let accepted = worker
        .metrics
        .counter(&families::CONNECTIONS, &[role.direction()]);
    let own_port = listener.local_addr().map_or(0, |address| address.port());
    let mut tasks = JoinSet::new();
    loop {
        tokio::select! {
            connection = listener.accept(), if tasks.len() < MOST_CONNECTIONS => match connection {
                Ok((tcp, remote)) => {
                    accepted.increment();
                    tasks.spawn_local(serve(Rc::clone(&worker), tcp, remote, role, own_port));
                }
                Err(error) => {
                    worker.count(&families::CONNECTIONS_REFUSED, &[role.direction(), "accept"]);
                    tracing::warn!("accept a connection: {error}");
                    tokio::time::sleep(AFTER_FAILURE).await;
                }
            },
            Some(ended) = tasks.join_next() => note(&worker, ended),
            () = &mut draining => break,
        }
    }
    while !role.is_inherited()
        && let Ok(Ok((tcp, remote))) = tokio::time::timeout(LAST_LOOK, listener.accept()).await
    {
        accepted.increment();
        tasks.spawn_local(serve(Rc::clone(&worker), tcp, remote, role, own_port));
    }
    drop(listener);
    while let Some(ended) = tasks.join_next().await {
        note(&worker, ended);
    }
}

fn note(worker: &Worker, ended: Result<(), JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        worker.count(&families::PANICS, &[]);
    }
}

async fn serve(worker: Rc<Worker>, tcp: TcpStream, remote: SocketAddr, role: Role, own_port: u16) {
    let (Ok(()), Ok(local)) = (tune_accepted(&tcp, Some(KEEPALIVE)), tcp.local_addr()) else {
        return; // gone already
    };
    let refuse = |reason| {
        worker.count(&families::CONNECTIONS_REFUSED, &[role.direction(), reason]);
        // A connection that is gone already needs no reset.
        let _ = reset_on_drop(&tcp);
    };
    let local = match role {
        Role::CapturedOutbound { .. } | Role::CapturedInbound { .. } => match original_destination(&tcp) {
            Ok(Some(original)) => original,
            Ok(None) => return refuse("not_captured"),
            Err(_) => return,
        },
        Role::Outbound | Role::Inbound { .. } | Role::Gateway { .. } => local,
    };
    let registration = worker.register(remote, local).await;
    if let Role::CapturedOutbound { own } = role
        && local.port() == own_port
        && (local.ip().is_loopback() || local.ip() == own)
    {
        // Straight to the proxy's own socket: there is no destination behind it.
        return refuse("own_listener");
    }
    if let Role::CapturedInbound { own } = role
        && (local.ip() != own || local.port() == own_port || PROXY_PORTS.contains(&local.port()))
    {
        return refuse("own_listener");
    }
    // Boxed one after the other, so that an open connection holds only what it needs.
    let established = Box::pin(establish(&worker, &registration, tcp, (remote, local), role)).await;
    let Some(Established {
        connection,
        io,
        read,
        carried,
    }) = established
    else {
        return;
    };
    match carried {
        Carried::Http1 => Box::pin(serve_http1(connection, registration, io, read)).await,
        Carried::Http2 => {
            let io = Prefixed::new(io, read.freeze());
            Box::pin(serve_http2(connection, registration, io)).await;
        }
        Carried::Tcp => {
            let io = Prefixed::new(io, read.freeze());
            Box::pin(tcp::serve(connection, registration, io)).await;
        }
    }
}

async fn establish(
    worker: &Rc<Worker>,
    registration: &Registration,
    tcp: TcpStream,
    addresses: (SocketAddr, SocketAddr),
    role: Role,
) -> Option<Established> {
    match role {
        Role::CapturedOutbound { .. } | Role::Outbound => {
            outbound::establish(worker, registration, tcp, addresses).await
        }
        Role::CapturedInbound { own } => {
            inbound::establish(worker, registration, tcp, addresses, App::Pod(own)).await
        }
        Role::Inbound { to } => inbound::establish(worker, registration, tcp, addresses, App::At(to)).await,
        Role::Gateway { port, .. } => gateway::establish(worker, registration, tcp, addresses, port).await,
    }
}
