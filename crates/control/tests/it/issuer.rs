//! An issuer of users' tokens that is played by the test: an HTTP server whose next answers are told to it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bartizan_identity::jwt::{Algorithm, SigningKey, generate_key};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

/// What is answered to one path.
#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// A status line with headers, and a body.
    Http(String, Vec<u8>),
    /// The body with this `ETag`; nothing to whoever has it already.
    Tagged(String, Vec<u8>),
    /// Nothing, for ever.
    Silence,
    /// The connection is closed.
    Close,
}

impl Answer {
    pub(crate) fn ok(body: impl Into<Vec<u8>>) -> Self {
        Self::Http("200 OK".to_owned(), body.into())
    }

    pub(crate) fn status(line: &str) -> Self {
        Self::Http(line.to_owned(), Vec::new())
    }
}

/// The server. Ends when dropped.
pub(crate) struct IssuerServer {
    address: SocketAddr,
    scheme: &'static str,
    answers: Arc<Mutex<HashMap<String, Answer>>>,
    requests: Arc<Mutex<Vec<String>>>,
    _tasks: JoinSet<()>,
}

impl IssuerServer {
    pub(crate) async fn start() -> Self {
        Self::serve("127.0.0.1:0", None).await
    }

    /// Over HTTPS; its certificate, which nobody else has signed, is put into `file`.
    pub(crate) async fn start_tls(file: &Path) -> Self {
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
        std::fs::write(file, own.cert.pem()).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
        let config = ServerConfig::builder_with_provider(bartizan_identity::crypto::provider())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![own.cert.der().clone()], key)
            .unwrap();
        Self::serve("127.0.0.1:0", Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// At the address of one that has ended.
    pub(crate) async fn start_at(address: SocketAddr) -> Self {
        Self::serve(&address.to_string(), None).await
    }

    async fn serve(address: &str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (answers, requests) = (
            Arc::<Mutex<HashMap<_, _>>>::default(),
            Arc::<Mutex<Vec<_>>>::default(),
        );
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut tasks = JoinSet::new();
        let (told, seen) = (Arc::clone(&answers), Arc::clone(&requests));
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (told, seen, tls) = (Arc::clone(&told), Arc::clone(&seen), tls.clone());
                connections.spawn(async move {
                    match tls {
                        None => answer(stream, &told, &seen).await,
                        Some(tls) => {
                            if let Ok(stream) = tls.accept(stream).await {
                                answer(stream, &told, &seen).await;
                            }
                        }
                    }
                });
            }
        });
        Self {
            address,
            scheme,
            answers,
            requests,
            _tasks: tasks,
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn uri(&self, path: &str) -> String {
        format!("{}://{}{path}", self.scheme, self.address)
    }

    pub(crate) fn set(&self, path: &str, answer: Answer) {
        self.answers.lock().unwrap().insert(path.to_owned(), answer);
    }

    /// How often a path was asked for.
    pub(crate) fn count(&self, path: &str) -> usize {
        let start = format!("GET {path} ");
        let requests = self.requests.lock().unwrap();
        requests.iter().filter(|head| head.starts_with(&start)).count()
    }

    /// The head of the last request.
    pub(crate) fn last(&self) -> String {
        self.requests.lock().unwrap().last().unwrap().to_lowercase()
    }
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    told: &Mutex<HashMap<String, Answer>>,
    seen: &Mutex<Vec<String>>,
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let head = String::from_utf8(head).unwrap();
    let path = head.split(' ').nth(1).unwrap().to_owned();
    seen.lock().unwrap().push(head.clone());
    let answer = told.lock().unwrap().get(&path).cloned();
    let (line, body) = match answer {
        None => ("404 Not Found".to_owned(), Vec::new()),
        Some(Answer::Http(line, body)) => (line, body),
        Some(Answer::Tagged(tag, _))
            if head.to_lowercase().contains(&format!("if-none-match: {tag}\r\n")) =>
        {
            (format!("304 Not Modified\r\netag: {tag}"), Vec::new())
        }
        Some(Answer::Tagged(tag, body)) => (format!("200 OK\r\netag: {tag}"), body),
        Some(Answer::Silence) => std::future::pending().await,
        Some(Answer::Close) => return,
    };
    let head = format!(
        "HTTP/1.1 {line}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
        body.len()
    );
    // The client may have had enough of it.
    let _ = stream.write_all(head.as_bytes()).await;
    let _ = stream.write_all(&body).await;
    let _ = stream.shutdown().await;
}

/// A fresh key and its key set.
pub(crate) fn fresh_key() -> (SigningKey, String) {
    let key = generate_key(Algorithm::Es256).unwrap();
    let jwks = key.to_public_jwks().unwrap();
    (key, jwks)
}
