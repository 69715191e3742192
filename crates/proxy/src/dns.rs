//! The pod's name service: mesh names over UDP and TCP, and nothing else. It forwards no question, so that no name is a way
//! out.

mod answer;
mod log;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bartizan_telemetry::families;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::shared::Shared;
use answer::{Transport, answer};
use log::OutsideNames;

/// The largest question over UDP, in bytes; honest ones have less than 512.
const MOST_QUESTION_BYTES: usize = 4096;
/// Questions over TCP that are served beside each other; above that the kernel keeps them waiting.
const MOST_CONNECTIONS: usize = 64;
/// Silence after which a TCP connection is closed (RFC 7766 §6.2.3).
const IDLE: Duration = Duration::from_secs(10);
/// Questions on one TCP connection.
const MOST_QUESTIONS: u32 = 1000;

/// One process, one log.
static OUTSIDE: OutsideNames = OutsideNames::new();

/// Answers over UDP for as long as the proxy lives.
pub(crate) async fn serve_udp(shared: Arc<Shared>, socket: UdpSocket) {
    let mut question = [0; MOST_QUESTION_BYTES];
    loop {
        let (length, from) = match socket.recv_from(&mut question).await {
            Ok(received) => received,
            Err(error) => {
                // A client that went away is told here as an error of the socket (ICMP).
                tracing::debug!("receive a DNS question: {error}");
                continue;
            }
        };
        let question = question.get(..length).unwrap_or_default();
        if let Some(reply) = reply(&shared, question, Transport::Udp)
            && let Err(error) = socket.send_to(&reply, from).await
        {
            tracing::debug!("send a DNS answer: {error}");
        }
    }
}

/// Answers over TCP for as long as the proxy lives.
pub(crate) async fn serve_tcp(shared: Arc<Shared>, listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MOST_CONNECTIONS => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(serve_connection(Arc::clone(&shared), stream));
                }
                Err(error) => {
                    tracing::warn!("accept a DNS connection: {error}");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(ended) = connections.join_next() => {
                if ended.is_err_and(|error| error.is_panic()) {
                    shared.registry.counter(&families::PANICS, &[]).add(1);
                }
            }
        }
    }
}

async fn serve_connection(shared: Arc<Shared>, mut stream: TcpStream) {
    for _ in 0..MOST_QUESTIONS {
        let exchange = async {
            let length = stream.read_u16().await?;
            let mut question = vec![0; usize::from(length)];
            stream.read_exact(&mut question).await?;
            let Some(reply) = reply(&shared, &question, Transport::Tcp) else {
                return Err(std::io::ErrorKind::InvalidData.into());
            };
            let length = u16::try_from(reply.len()).map_err(|_| std::io::ErrorKind::FileTooLarge)?;
            let mut framed = Vec::with_capacity(reply.len() + 2);
            framed.extend_from_slice(&length.to_be_bytes());
            framed.extend_from_slice(&reply);
            stream.write_all(&framed).await
        };
        match timeout(IDLE, exchange).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

/// The answer to a message; `None` where none may be given.
fn reply(shared: &Shared, question: &[u8], transport: Transport) -> Option<Vec<u8>> {
    let engine = shared.cell.load();
    // Before the first configuration nothing is known, and that is not the same as that a name does not exist.
    let snapshot = engine.snapshot();
    let is_known = snapshot.settings().is_some();
    let seed = bartizan_identity::crypto::random_u64();
    let answered = answer(question, transport, is_known, seed, |name| {
        bartizan_decide::resolve_name(snapshot, &shared.workload.namespace, name)
    })?;
    shared
        .registry
        .counter(&families::DNS_QUERIES, &[answered.kind, answered.result])
        .add(1);
    if let (Some(name), Some(settings)) = (answered.missing, snapshot.settings())
        && OUTSIDE.is_news(&name, settings.cluster_domain.as_str(), Instant::now())
    {
        tracing::info!(
            ?name,
            "no way out: the application asked for a name outside the mesh"
        );
    }
    Some(answered.message)
}
