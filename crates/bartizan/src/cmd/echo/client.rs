//! The plain client behind `bartizan call` and `bartizan echo --then`: one request, one connection, no mesh in it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::{frame_message, unframe_message};

/// A larger answer is an error.
const LARGEST_ANSWER: usize = 64 * 1024 * 1024;

/// How to speak, and to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// http, h2c, grpc, tcp or store.
    pub(crate) scheme: Scheme,
    /// Name or address.
    pub(crate) host: String,
    /// Its port.
    pub(crate) port: u16,
    /// Path and query; `/` where the URL has none.
    pub(crate) path: String,
}

/// How a target is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scheme {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 with prior knowledge.
    H2c,
    /// gRPC: one message, one answer.
    Grpc,
    /// A line, answered by a line.
    Tcp,
    /// The example's line store.
    Store,
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status; 200 for lines, and for gRPC the HTTP status.
    pub(crate) status: StatusCode,
    /// Headers, then trailers.
    pub(crate) headers: HeaderMap,
    /// `grpc-status`, for gRPC.
    pub(crate) grpc_status: Option<String>,
    /// The body, or the message, or the lines.
    pub(crate) body: Bytes,
    /// From the start to the open connection.
    pub(crate) connected: Duration,
    /// From the start to the whole answer.
    pub(crate) finished: Duration,
    /// Who was connected to.
    pub(crate) peer: std::net::SocketAddr,
}

impl Target {
    /// # Errors
    /// When the URL has another scheme or no host.
    pub(crate) fn parse(url: &str) -> anyhow::Result<Self> {
        let (scheme, rest) = url
            .split_once("://")
            .with_context(|| format!("`{url}` is not a URL such as http://name:8080/path"))?;
        let (scheme, default_port) = match scheme {
            "http" => (Scheme::Http, Some(80)),
            "h2c" => (Scheme::H2c, Some(80)),
            "grpc" => (Scheme::Grpc, None),
            "tcp" => (Scheme::Tcp, None),
            "store" => (Scheme::Store, None),
            other => bail!("`{url}`: `{other}` is none of http, h2c, grpc, tcp, store"),
        };
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let uri: http::uri::Authority = authority
            .parse()
            .with_context(|| format!("`{url}`: `{authority}` is not a host with a port"))?;
        let port = uri
            .port_u16()
            .or(default_port)
            .with_context(|| format!("`{url}` has no port"))?;
        Ok(Self {
            scheme,
            host: uri.host().to_owned(),
            port,
            path: path.to_owned(),
        })
    }

    fn authority(&self) -> String {
        if self.port == 80 {
            self.host.clone()
        } else {
            format!("{}:{}", self.host, self.port)
        }
    }
}

/// Sends one request and reads the whole answer.
///
/// # Errors
/// When the name is not known, the connection fails or breaks, or the answer is too large.
pub(crate) async fn send(
    target: &Target,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> anyhow::Result<Answer> {
    send_from(target, method, headers, body, &mut None).await
}

/// The same, and tells from which address, when a connection was made.
///
/// # Errors
/// As [`send`].
pub(crate) async fn send_from(
    target: &Target,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
    local: &mut Option<std::net::SocketAddr>,
) -> anyhow::Result<Answer> {
    let start = Instant::now();
    let host = target.host.trim_start_matches('[').trim_end_matches(']');
    let address = tokio::net::lookup_host((host, target.port))
        .await
        .with_context(|| format!("look up `{}`", target.host))?
        .next()
        .with_context(|| format!("`{}` has no address", target.host))?;
    let stream = TcpStream::connect(address)
        .await
        .with_context(|| format!("connect to {address} (`{}`)", target.host))?;
    stream.set_nodelay(true).ok();
    *local = stream.local_addr().ok();
    let connected = start.elapsed();
    let mut answer = match target.scheme {
        Scheme::Tcp => lines(stream, body, false).await?,
        Scheme::Store => lines(stream, store_command(&method, &body), method == Method::GET).await?,
        Scheme::Http | Scheme::H2c | Scheme::Grpc => request(target, stream, method, headers, body).await?,
    };
    answer.connected = connected;
    answer.finished = start.elapsed();
    answer.peer = address;
    Ok(answer)
}

fn store_command(method: &Method, body: &Bytes) -> Bytes {
    if method == Method::GET {
        Bytes::from_static(b"LIST")
    } else {
        [b"PUT ", &body[..]].concat().into()
    }
}

async fn lines(mut stream: TcpStream, line: Bytes, until_dot: bool) -> anyhow::Result<Answer> {
    stream.write_all(&line).await.context("write to the connection")?;
    stream.write_all(b"\n").await.context("write to the connection")?;
    let mut read = BufReader::new(stream).take(LARGEST_ANSWER as u64);
    let mut body = String::new();
    loop {
        let mut next = String::new();
        let count = read
            .read_line(&mut next)
            .await
            .context("read from the connection")?;
        if count == 0 {
            bail!("the connection was closed before the answer");
        }
        if until_dot && next == ".\n" {
            break;
        }
        body.push_str(&next);
        if !until_dot {
            break;
        }
    }
    Ok(answer(StatusCode::OK, HeaderMap::new(), None, body.into()))
}

async fn request(
    target: &Target,
    stream: TcpStream,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> anyhow::Result<Answer> {
    let grpc = target.scheme == Scheme::Grpc;
    let uri: Uri = if target.scheme == Scheme::Http {
        target.path.parse()
    } else {
        format!("http://{}{}", target.authority(), target.path).parse()
    }
    .with_context(|| format!("`{}` is not a path", target.path))?;
    let mut request = Request::builder()
        .method(if grpc { Method::POST } else { method })
        .uri(uri);
    if target.scheme == Scheme::Http && !headers.contains_key(http::header::HOST) {
        request = request.header(http::header::HOST, target.authority());
    }
    if grpc {
        request = request
            .header("content-type", "application/grpc")
            .header("te", "trailers");
    }
    for (name, value) in &headers {
        request = request.header(name, value);
    }
    let body = if grpc { frame_message(&body) } else { body };
    let request = request.body(Full::new(body)).context("build the request")?;
    let io = TokioIo::new(stream);
    let mut driver = tokio::task::JoinSet::new();
    let response = if target.scheme == Scheme::Http {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
            .await
            .context("start HTTP/1.1")?;
        driver.spawn(async move { connection.await.ok() });
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io)
            .await
            .context("start HTTP/2")?;
        driver.spawn(async move { connection.await.ok() });
        sender.send_request(request).await
    }
    .context("send the request")?;
    let (parts, body) = response.into_parts();
    let collected = Limited::new(body, LARGEST_ANSWER)
        .collect()
        .await
        .map_err(|error| anyhow::anyhow!("read the answer: {error}"))?;
    let mut headers = parts.headers;
    if let Some(trailers) = collected.trailers() {
        headers.extend(trailers.clone());
    }
    let grpc_status = headers
        .get("grpc-status")
        .and_then(|value| value.to_str().ok())
        .map(str::to_owned);
    let body = collected.to_bytes();
    let body = if grpc {
        unframe_message(&body).unwrap_or(body)
    } else {
        body
    };
    Ok(answer(parts.status, headers, grpc_status, body))
}

fn answer(status: StatusCode, headers: HeaderMap, grpc_status: Option<String>, body: Bytes) -> Answer {
    Answer {
        status,
        headers,
        grpc_status,
        body,
        connected: Duration::ZERO,
        finished: Duration::ZERO,
        peer: std::net::SocketAddr::from(([0, 0, 0, 0], 0)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_target_has_scheme_host_port_and_path() {
        let target =
            Target::parse("grpc://data-processor.mission-services:9090/telemetry.v1.Readings/Post").unwrap();
        assert_eq!(
            (
                target.scheme,
                target.host.as_str(),
                target.port,
                target.path.as_str()
            ),
            (
                Scheme::Grpc,
                "data-processor.mission-services",
                9090,
                "/telemetry.v1.Readings/Post"
            )
        );
        assert_eq!(Target::parse("http://a").unwrap().port, 80);
        for bad in ["a:80", "ftp://a:1", "tcp://a", "http://"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
