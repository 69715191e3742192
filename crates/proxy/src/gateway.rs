//! From outside into the mesh: HTTP in plaintext, of either version. What is not HTTP is reset.

use std::net::SocketAddr;
use std::rc::Rc;

use bartizan_types::{Peer, Port, Protocol};
use bartizan_wire::stream::{MaybeTls, Prefixed};
use bytes::BytesMut;
use tokio::net::TcpStream;

use crate::connection::{Connection, Door};
use crate::http::{serve_http1, serve_http2};
use crate::outbound::{await_first, kind_of};
use crate::upstream::Carried;
use crate::worker::{Registration, Worker};

/// Serves one connection from outside.
pub(crate) async fn serve(
    worker: Rc<Worker>,
    registration: Registration,
    tcp: TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
    port: Port,
) {
    let door = Door::Gateway { port };
    let connection = Connection::new(&worker, door, Peer::Plaintext, remote, local, None);
    let mut io = MaybeTls::from(tcp);
    let mut read = BytesMut::new();
    let Some(first) = await_first(&connection, &registration, &mut io, &mut read, None).await else {
        return;
    };
    match kind_of(Protocol::Http, &first) {
        Carried::Http2 => serve_http2(connection, &registration, Prefixed::new(io, read.freeze())).await,
        Carried::Http1 | Carried::Tcp => serve_http1(&connection, &registration, io, read).await,
    }
}
