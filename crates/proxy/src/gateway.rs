//! From outside into the mesh: HTTP in plaintext, of either version. What is not HTTP is told so and closed.

use std::net::SocketAddr;
use std::rc::Rc;

use bartizan_types::{Peer, Port, Protocol};
use bartizan_wire::stream::MaybeTls;
use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::connection::{Connection, Door, Established};
use crate::outbound::{await_first, kind_of};
use crate::worker::{Registration, Worker};

/// Finds out which version a connection from outside speaks; `None` when it ended before that.
pub(crate) async fn establish(
    worker: &Rc<Worker>,
    registration: &Registration,
    tcp: TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
    port: Port,
) -> Option<Established> {
    let door = Door::Gateway { port };
    let connection = Connection::new(worker, door, Peer::Plaintext, remote, local, None);
    let mut io = MaybeTls::from(tcp);
    let mut read = BytesMut::new();
    let first = await_first(&connection, registration, &mut io, &mut read, None).await?;
    Some(Established {
        connection,
        io,
        read,
        carried: kind_of(Protocol::Http, &first),
    })
}
