//! From outside into the mesh: HTTP in plaintext, of either version. What is not HTTP is told so and closed.

use std::net::SocketAddr;
use std::rc::Rc;

use bartizan_telemetry::ResponseFlags;
use bartizan_types::{Peer, Port, Protocol};
use bartizan_wire::proxy_protocol::read_header;
use bartizan_wire::socket::reset_on_drop;
use bartizan_wire::stream::MaybeTls;
use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{Connection, Door, Established};
use crate::inbound::BEGIN;
use crate::outbound::{await_first, kind_of};
use crate::worker::{Registration, Worker};

/// Finds out which version a connection from outside speaks; `None` when it ended before that.
pub(crate) async fn establish(
    worker: &Rc<Worker>,
    registration: &Registration,
    mut tcp: TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
    port: Port,
) -> Option<Established> {
    let door = Door::Gateway { port };
    let mut connection = Connection::new(worker, door, Peer::Plaintext, remote, local, None);
    let mut read = BytesMut::new();
    if is_announced(worker) {
        match announced(&mut tcp, &mut read).await {
            Ok(Some(client)) => connection.client = client,
            Ok(None) => {}
            Err(reason) => {
                connection.log_refused(ResponseFlags::NR, &format!("proxy_protocol: {reason}"));
                let _ = reset_on_drop(&tcp);
                return None;
            }
        }
    }
    let mut io = MaybeTls::from(tcp);
    let first = await_first(&connection, registration, &mut io, &mut read, None).await?;
    Some(Established {
        connection,
        io,
        read,
        carried: kind_of(Protocol::Http, &first),
    })
}

/// Whether connections begin with a PROXY protocol header (Istio `gatewayTopology.proxyProtocol`).
fn is_announced(worker: &Worker) -> bool {
    let engine = worker.engine();
    let view = engine.snapshot().view(&worker.shared.workload);
    view.is_some_and(|view| view.remote.proxy_protocol)
}

/// The client that the header names; `None` where it names none, as a load balancer that looks whether we live.
async fn announced(tcp: &mut TcpStream, read: &mut BytesMut) -> Result<Option<SocketAddr>, String> {
    match timeout(BEGIN, read_header(tcp, read)).await {
        Ok(Ok(addresses)) => Ok(addresses.map(|addresses| addresses.source)),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err("the header did not come in time".to_owned()),
    }
}
