//! From the application into the mesh: the original destination says where to, and what is declared or comes first says
//! as what.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bartizan_decide::{Destination, outbound};
use bartizan_types::{Peer, Protocol};
use bartizan_wire::sniff::{self, FirstBytes};
use bartizan_wire::stream::MaybeTls;
use bytes::BytesMut;
use tokio::io::AsyncRead;
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::connection::{Connection, Door, Established};
use crate::drain::Stage;
use crate::http::{HEAD, IDLE};
use crate::upstream::Carried;
use crate::worker::{Registration, What, Worker};

/// How long a client may be silent before it is taken for one that waits for its server, where that is allowed.
pub(crate) const SILENCE: Duration = Duration::from_millis(100);

/// Finds out what a captured connection is; `None` when it ended before that.
pub(crate) async fn establish(
    worker: &Rc<Worker>,
    registration: &Registration,
    tcp: TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
) -> Option<Established> {
    let connection = Connection::new(worker, Door::Outbound, Peer::Plaintext, remote, local, None);
    let protocol = match outbound(worker.engine().snapshot(), local) {
        Destination::Service { port, .. } => port.protocol,
        Destination::Workload { protocol, .. } => protocol,
        // What is refused is told in the client's own words, when it speaks first.
        Destination::Refused(_) => Protocol::Detect,
    };
    let mut io = MaybeTls::from(tcp);
    let mut read = BytesMut::new();
    let carried = if matches!(protocol, Protocol::Tcp | Protocol::Tls) {
        Carried::Tcp
    } else {
        let patience = (protocol == Protocol::Detect).then_some(SILENCE);
        let first = await_first(&connection, registration, &mut io, &mut read, patience).await?;
        kind_of(protocol, &first)
    };
    Some(Established {
        connection,
        io,
        read,
        carried,
    })
}

/// The client's first bytes. With `patience`, silence is an answer too; without, a client may take as long as between two
/// requests, and then as long as for a head. `None` when the connection ended, was silent for too long, or the proxy goes.
pub(crate) async fn await_first<IO: AsyncRead + Unpin>(
    connection: &Connection,
    registration: &Registration,
    io: &mut IO,
    read: &mut BytesMut,
    patience: Option<Duration>,
) -> Option<FirstBytes> {
    if let Some(patience) = patience {
        return match timeout(patience, sniff::read_first(io, read)).await {
            Ok(Ok(first)) => Some(first),
            Ok(Err(_)) => None,
            Err(_) => Some(FirstBytes::Other),
        };
    }
    registration.set(What::Waiting, Some(IDLE));
    let first = {
        let begun = || registration.set(What::Waiting, Some(HEAD));
        let mut reading = pin!(sniff::read_first_and(io, &mut *read, begun));
        poll_fn(|cx| {
            if let Poll::Ready(first) = reading.as_mut().poll(cx) {
                return Poll::Ready(first.ok());
            }
            if registration.is_over() || connection.worker.stage() >= Stage::Draining {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await
    };
    // A client that leaves without a word has nothing to be served.
    first.filter(|_| !read.is_empty())
}

/// As what a connection is carried: a port that is declared HTTP is HTTP whatever comes, and its codec says what is wrong.
pub(crate) fn kind_of(protocol: Protocol, first: &FirstBytes) -> Carried {
    match first {
        FirstBytes::Http2Preface => Carried::Http2,
        FirstBytes::Http1 => Carried::Http1,
        FirstBytes::NeedMore | FirstBytes::Tls(_) | FirstBytes::Other if protocol.is_http() => Carried::Http1,
        FirstBytes::NeedMore | FirstBytes::Tls(_) | FirstBytes::Other => Carried::Tcp,
    }
}
