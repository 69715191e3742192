//! The proxy's own HTTP endpoint: whether it serves, what it counts, what it serves from, what is open. On a unix socket that
//! no application sees (in static mode where the document says). Not for bodies, and never in the way of requests.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bartizan_telemetry::{CONTENT_TYPE, families};
use bartizan_wire::h1::{Limits, ServerConnection};
use bartizan_wire::head::ResponseHead;
use bartizan_wire::socket::{self, Bind};
use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use crate::drain::Stage;
use crate::shared::Shared;
use crate::workers::Open;

/// Connections that are served beside each other; more wait.
const MOST_CONNECTIONS: usize = 32;
/// How long a client may take for its next request, and a worker for its answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// Ways to ask the workers what is open.
pub(crate) type Questions = Vec<mpsc::Sender<oneshot::Sender<Open>>>;

/// Where it listens.
pub(crate) enum Admin {
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Admin {
    /// At a path, for the own user only. What a predecessor left there is removed.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn unix(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Err(_) | Ok(()) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
        Ok(Self::Unix(listener))
    }

    /// At an address.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn tcp(address: SocketAddr) -> io::Result<Self> {
        let options = Bind {
            reuse_port: false,
            ..Bind::default()
        };
        socket::bind(address, options).map(Self::Tcp)
    }
}

/// Serves for as long as the proxy lives.
pub(crate) async fn serve(shared: Arc<Shared>, admin: Admin, questions: Questions) {
    let permits = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else {
            return;
        };
        while let Some(ended) = connections.try_join_next() {
            if ended.is_err_and(|error: tokio::task::JoinError| error.is_panic()) {
                shared.registry.counter(&families::PANICS, &[]).add(1);
            }
        }
        let accepted = match &admin {
            Admin::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                let serving = converse(Arc::clone(&shared), questions.clone(), stream);
                connections.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }),
            Admin::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                let serving = converse(Arc::clone(&shared), questions.clone(), stream);
                connections.spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }),
        };
        if let Err(error) = accepted {
            tracing::warn!("accept a connection to the proxy's own endpoint: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

async fn converse<IO: AsyncRead + AsyncWrite + Unpin>(shared: Arc<Shared>, questions: Questions, io: IO) {
    let mut down = ServerConnection::new(io, Limits::default());
    while let Ok(Ok(Some(head))) = timeout(PATIENCE, down.read_head()).await {
        let path = String::from_utf8_lossy(head.path()).into_owned();
        let (status, kind, body) = respond(&shared, &questions, &head.method, &path).await;
        let mut response = ResponseHead::new(status);
        // A literal name and value.
        let _ = response.headers.append("content-type", kind.as_bytes());
        if down.reply(response, Bytes::from(body)).await.is_err() || !down.keep_alive() {
            break;
        }
    }
    down.close(Instant::now() + Duration::from_secs(1)).await;
}

async fn respond(
    shared: &Shared,
    questions: &Questions,
    method: &Method,
    path: &str,
) -> (StatusCode, &'static str, String) {
    const TEXT: &str = "text/plain; charset=utf-8";
    const JSON: &str = "application/json";
    match (method, path) {
        (&Method::GET, "/healthz") => match shared.missing() {
            None => (StatusCode::OK, TEXT, "ready\n".to_owned()),
            Some(missing) => (StatusCode::SERVICE_UNAVAILABLE, TEXT, format!("{missing}\n")),
        },
        (&Method::GET, "/metrics") => (StatusCode::OK, CONTENT_TYPE, shared.registry.encode()),
        (&Method::GET, "/config") => (StatusCode::OK, JSON, config(shared).to_string()),
        (&Method::GET, "/connections") => (StatusCode::OK, JSON, open(questions).await.to_string()),
        (&Method::POST, "/drain") => {
            shared.drain.advance(Stage::Announcing);
            (StatusCode::OK, TEXT, "draining\n".to_owned())
        }
        (_, "/healthz" | "/metrics" | "/config" | "/connections" | "/drain") => (
            StatusCode::METHOD_NOT_ALLOWED,
            TEXT,
            "method not allowed\n".to_owned(),
        ),
        _ => (StatusCode::NOT_FOUND, TEXT, "not found\n".to_owned()),
    }
}

/// What it serves from. There is no secret in it.
fn config(shared: &Shared) -> serde_json::Value {
    let engine = shared.cell.load();
    let snapshot = engine.snapshot();
    let seconds = |time: std::time::SystemTime| {
        time.duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default()
            .as_secs()
    };
    let svid = shared.identity.get().map(|identity| {
        let current = identity.credentials.current();
        let svid = current.svid();
        json!({
            "identity": svid.id(),
            "serial": svid.serial(),
            "notBefore": seconds(svid.not_before()),
            "notAfter": seconds(svid.not_after()),
            "generation": current.generation(),
            "trustDomains": current.bundle().iter().map(|(domain, _)| domain.to_string()).collect::<Vec<_>>(),
        })
    });
    let store = snapshot.store();
    let resources: Vec<_> = store.sorted().into_iter().map(|(_, resource)| resource).collect();
    json!({
        "workload": shared.workload.to_string(),
        "version": snapshot.version(),
        "stage": format!("{:?}", shared.drain.stage()).to_lowercase(),
        "svid": svid,
        "problems": engine.problems(),
        "resources": resources,
    })
}

async fn open(questions: &Questions) -> serde_json::Value {
    let mut all = Vec::new();
    for question in questions {
        let (answer, answered) = oneshot::channel();
        if question.send(answer).await.is_ok()
            && let Ok(Ok(open)) = timeout(PATIENCE, answered).await
        {
            all.extend(open);
        }
    }
    json!(all)
}
