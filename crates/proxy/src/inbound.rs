//! From the network to the application: what may come in as what, who it is, and then HTTP or bytes.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bartizan_decide::{Admission, FirstBytes, admit, authorize_tcp};
use bartizan_identity::tls::is_mesh_alpn;
use bartizan_identity::{HandshakeFailure, Negotiated, ServerAlpn, peer_of};
use bartizan_mesh::MtlsMode;
use bartizan_telemetry::{ResponseFlags, families};
use bartizan_types::{Peer, Port, Protocol};
use bartizan_wire::sniff::{self, FirstBytes as Sniffed};
use bartizan_wire::socket::reset_on_drop;
use bartizan_wire::stream::{MaybeTls, Prefixed};
use bartizan_wire::tls_stream::{self, TlsError, TlsFacts};
use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout};

use crate::connection::{App, Connection, Door, Established, Handshake};
use crate::outbound::{SILENCE, await_first, kind_of};
use crate::upstream::Carried;
use crate::worker::{Registration, What, Worker};

/// How long a client may take to begin where it has to say something first, and for its handshake.
pub(crate) const BEGIN: Duration = Duration::from_secs(10);
/// How long a PERMISSIVE port waits for a `ClientHello` where the client may also be waiting for the server.
const PERMISSIVE: Duration = Duration::from_secs(1);

/// Finds out what an accepted connection is; `None` when it is not served.
pub(crate) async fn establish(
    worker: &Rc<Worker>,
    registration: &Registration,
    mut tcp: TcpStream,
    (remote, local): (SocketAddr, SocketAddr),
    app: App,
) -> Option<Established> {
    let port = Port::new(u32::from(local.port())).ok()?;
    let engine = worker.engine();
    let view = engine.snapshot().view(&worker.shared.workload);
    let is_named = view.is_some_and(|view| view.inbound_port(port).is_some());
    let door = Door::Inbound {
        port,
        app: behind(app, port, is_named),
    };
    let plain = |peer| Connection::new(worker, door.clone(), peer, remote, local, None);
    let Some(view) = view else {
        plain(Peer::Plaintext).log_refused(ResponseFlags::NR, "no_configuration");
        let _ = reset_on_drop(&tcp);
        return None;
    };
    let mode = view.mtls_of(port);
    let protocol = view
        .inbound_port(port)
        .map_or(Protocol::Detect, |inbound| inbound.protocol);
    let is_bytes = matches!(protocol, Protocol::Tcp | Protocol::Tls);
    registration.set(What::Beginning, None);

    let mut read = BytesMut::new();
    let patience = match mode {
        MtlsMode::Disable if is_bytes => None,
        MtlsMode::Disable => Some(SILENCE),
        MtlsMode::Strict => Some(BEGIN),
        MtlsMode::Permissive => Some(PERMISSIVE),
    };
    let sniffed = match patience {
        None => Sniffed::Other,
        Some(patience) => match timeout(patience, sniff::read_first(&mut tcp, &mut read)).await {
            Ok(Ok(sniffed)) => sniffed,
            Ok(Err(_)) => return None,
            Err(_) => Sniffed::Other,
        },
    };
    if matches!(sniffed, Sniffed::Other) && read.is_empty() && patience.is_some() && mode == MtlsMode::Strict
    {
        // The client went away, or says nothing: a health checker that only connects is no attack.
        plain(Peer::Plaintext).log_refused(ResponseFlags::NR, "silent");
        let _ = reset_on_drop(&tcp);
        return None;
    }
    match admit(mode, first_bytes(&sniffed)) {
        Admission::Refuse(refused) => {
            worker.count(&families::PLAINTEXT_REFUSED, &["inbound"]);
            plain(Peer::Plaintext).log_refused(ResponseFlags::NR, &format!("plaintext_refused: {refused}"));
            let _ = reset_on_drop(&tcp);
            None
        }
        Admission::PassThrough => Some(Established {
            connection: plain(Peer::Plaintext),
            io: tcp.into(),
            read,
            carried: Carried::Tcp,
        }),
        Admission::Plaintext => {
            let connection = plain(Peer::Plaintext);
            find_out(
                connection,
                registration,
                tcp.into(),
                read,
                Some(sniffed),
                protocol,
                Negotiated::Unsaid,
            )
            .await
        }
        Admission::EndTls => {
            let Ended {
                stream,
                peer,
                facts,
                alpn,
            } = end_tls(worker, &plain, tcp, read).await?;
            let handshake = Handshake {
                version: facts.version_text().unwrap_or("unknown"),
                cipher: facts.cipher.unwrap_or("unknown"),
                group: facts.group.unwrap_or_default(),
            };
            let mut connection = Connection::new(worker, door, peer, remote, local, facts.sni);
            connection.tls = Some(Box::new(handshake));
            find_out(
                connection,
                registration,
                stream,
                BytesMut::new(),
                None,
                protocol,
                alpn,
            )
            .await
        }
    }
}

/// A handshake that was finished.
struct Ended {
    stream: MaybeTls,
    peer: Peer,
    facts: TlsFacts,
    alpn: Negotiated,
}

async fn end_tls(
    worker: &Worker,
    plain: &impl Fn(Peer) -> Connection,
    tcp: TcpStream,
    read: BytesMut,
) -> Option<Ended> {
    let config = worker.shared.identity.get()?.server.config(ServerAlpn::Any);
    let io = Prefixed::new(tcp, read.freeze());
    let (reason, text) = match tls_stream::accept(config, io, Instant::now() + BEGIN).await {
        Ok((stream, facts)) => {
            let group = facts.group.as_deref().unwrap_or("unknown");
            worker.count(&families::TLS_HANDSHAKES, &["server", group]);
            let peer = peer_of(Some(&facts.chain));
            if peer.identity().is_some() {
                let alpn = Negotiated::of(facts.alpn.as_deref());
                return Some(Ended {
                    stream: stream.into(),
                    peer,
                    facts,
                    alpn,
                });
            }
            ("no_certificate", "the client has shown no certificate".to_owned())
        }
        Err(TlsError::Handshake(error)) => {
            let failure = HandshakeFailure::of(&error);
            (failure.reason(), failure.to_string())
        }
        Err(TlsError::Deadline) => ("deadline", "the handshake was not finished in time".to_owned()),
    };
    worker.count(&families::TLS_REFUSED, &["server", reason]);
    plain(Peer::Plaintext).log_refused(ResponseFlags::NR, &format!("tls_refused: {reason}: {text}"));
    None
}

/// HTTP or bytes, by what is declared, then by what was agreed on, then by what comes first.
async fn find_out(
    connection: Connection,
    registration: &Registration,
    mut io: MaybeTls,
    mut read: BytesMut,
    sniffed: Option<Sniffed>,
    protocol: Protocol,
    negotiated: Negotiated,
) -> Option<Established> {
    let carried = match (protocol, negotiated) {
        (Protocol::Tcp | Protocol::Tls, _) => Carried::Tcp,
        (_, Negotiated::Http1) => Carried::Http1,
        (_, Negotiated::Http2) => Carried::Http2,
        (_, Negotiated::Unsaid) => {
            let first = match sniffed.filter(|_| !read.is_empty()) {
                Some(first) => first,
                None => {
                    let engine = connection.worker.engine();
                    let may_be_bytes =
                        protocol == Protocol::Detect && authorize_tcp(&engine, &connection.facts()).is_ok();
                    let patience = may_be_bytes.then_some(SILENCE);
                    await_first(&connection, registration, &mut io, &mut read, patience).await?
                }
            };
            kind_of(protocol, &first)
        }
    };
    Some(Established {
        connection,
        io,
        read,
        carried,
    })
}

/// Where the application of a port is. What listens on the pod's loopback alone is for the network only where some document
/// names its port: without one it is what an application keeps for itself, such as a debugger.
fn behind(app: App, port: Port, is_named: bool) -> App {
    match app {
        App::Pod(own) if !is_named => App::At(SocketAddr::new(own, port.get())),
        App::Pod(_) | App::At(_) => app,
    }
}

fn first_bytes(sniffed: &Sniffed) -> FirstBytes {
    match sniffed {
        Sniffed::Tls(hello) if hello.alpn.iter().any(|name| is_mesh_alpn(name)) => FirstBytes::MeshTls,
        Sniffed::Tls(_) => FirstBytes::OtherTls,
        Sniffed::NeedMore | Sniffed::Http2Preface | Sniffed::Http1 | Sniffed::Other => FirstBytes::Plaintext,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loopback_is_for_the_network_only_where_a_document_names_the_port() {
        let (own, port) = ("10.66.0.9".parse().unwrap(), Port::new(9229).unwrap());
        assert!(matches!(behind(App::Pod(own), port, true), App::Pod(at) if at == own));
        let there = "10.66.0.9:9229".parse().unwrap();
        assert!(matches!(behind(App::Pod(own), port, false), App::At(at) if at == there));
        let elsewhere = "127.0.0.1:1".parse().unwrap();
        assert!(matches!(behind(App::At(elsewhere), port, false), App::At(at) if at == elsewhere));
    }
}
