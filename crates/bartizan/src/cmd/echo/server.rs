//! The echo workload's HTTP, gRPC and line servers.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited, StreamBody, combinators::BoxBody};
use hyper::body::{Body as _, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpListener;
use tokio::sync::watch;

use super::{Behaviour, Target, frame_message, send, unframe_message};

/// A larger request is answered with 413.
const LARGEST_BODY: usize = 16 * 1024 * 1024;
/// A longer line ends the connection.
const LONGEST_LINE: u64 = 64 * 1024;
/// Handed on with a request, so that the hops of one reading can be found together.
const HANDED_ON: [&str; 3] = ["x-request-id", "traceparent", "tracestate"];

type Body = BoxBody<Bytes, std::convert::Infallible>;

/// Serves HTTP/1.1, h2c and gRPC until told to stop, then finishes what is open.
pub(crate) async fn serve_http(
    listener: TcpListener,
    behaviour: Arc<Behaviour>,
    mut stopped: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => {
                let Ok((stream, peer)) = accepted else { continue };
                stream.set_nodelay(true).ok();
                let behaviour = Arc::clone(&behaviour);
                let service = service_fn(move |request| {
                    let behaviour = Arc::clone(&behaviour);
                    async move { Ok::<_, std::convert::Infallible>(answer(request, &behaviour, peer).await) }
                });
                let builder = auto::Builder::new(TokioExecutor::new());
                let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned();
                let connection = graceful.watch(connection);
                connections.spawn(async move { connection.await.ok() });
            }
        }
    }
    graceful.shutdown().await;
    connections.shutdown().await;
}

/// The answer; to HEAD its head alone, with the length that GET's would have (over HTTP/2 hyper would send the body).
async fn answer(
    request: Request<Incoming>,
    behaviour: &Behaviour,
    peer: std::net::SocketAddr,
) -> Response<Body> {
    let is_head = request.method() == Method::HEAD;
    let mut response = whole_answer(request, behaviour, peer).await;
    if is_head {
        if let Some(length) = response.body().size_hint().exact() {
            response
                .headers_mut()
                .insert(http::header::CONTENT_LENGTH, HeaderValue::from(length));
        }
        *response.body_mut() = Full::default().boxed();
    }
    response
}

async fn whole_answer(
    request: Request<Incoming>,
    behaviour: &Behaviour,
    peer: std::net::SocketAddr,
) -> Response<Body> {
    let (parts, body) = request.into_parts();
    let Ok(collected) = Limited::new(body, LARGEST_BODY).collect().await else {
        return plain(
            StatusCode::PAYLOAD_TOO_LARGE,
            "the body is larger than 16 MiB\n".into(),
        );
    };
    let body = collected.to_bytes();
    let grpc = parts
        .headers
        .get("content-type")
        .is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"));
    if grpc {
        return answer_grpc(&parts, &body, behaviour).await;
    }
    if parts.method == Method::GET && parts.uri.path() == "/healthz" {
        return plain(StatusCode::OK, "ok\n".into());
    }
    let reads = parts.method == Method::GET || parts.method == Method::HEAD;
    let target = if reads { &behaviour.from } else { &behaviour.then };
    match target {
        Some(target) => hand_on(&parts, &body, behaviour, target).await,
        None if reads && parts.uri.path() == "/v1/stored" => json(
            StatusCode::OK,
            &serde_json::json!({ "service": behaviour.name, "stored": behaviour.store.list() }),
        ),
        None => {
            if parts.method == Method::POST {
                behaviour.store.put(String::from_utf8_lossy(&body).into_owned());
            }
            let headers: serde_json::Map<String, serde_json::Value> = parts
                .headers
                .iter()
                .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into()))
                .collect();
            json(
                StatusCode::OK,
                &serde_json::json!({
                    "service": behaviour.name,
                    "host": hostname(),
                    "method": parts.method.as_str(),
                    "path": parts.uri.path_and_query().map_or("/", |path| path.as_str()),
                    "version": format!("{:?}", parts.version),
                    "peer": peer.to_string(),
                    "headers": headers,
                    "bodyBytes": body.len(),
                    "body": String::from_utf8_lossy(body.get(..body.len().min(4096)).unwrap_or_default()),
                }),
            )
        }
    }
}

async fn hand_on(
    parts: &http::request::Parts,
    body: &Bytes,
    behaviour: &Behaviour,
    target: &Target,
) -> Response<Body> {
    let body = enriched(body, &behaviour.enrich);
    let mut headers = handed_on(&parts.headers);
    if !body.is_empty() {
        headers.insert("content-type", HeaderValue::from_static("application/json"));
    }
    match send(target, parts.method.clone(), headers, body).await {
        Ok(answer) => {
            let bad = answer.grpc_status.as_deref().is_some_and(|status| status != "0");
            let status = if bad {
                StatusCode::BAD_GATEWAY
            } else {
                answer.status
            };
            let text = String::from_utf8_lossy(&answer.body);
            let result: serde_json::Value = serde_json::from_str(&text)
                .unwrap_or_else(|_| text.lines().map(parsed_line).collect::<Vec<_>>().into());
            let told = if behaviour.show.is_empty() {
                serde_json::json!({ "service": behaviour.name, "answer": result })
            } else {
                let got = shown(&parts.headers, &behaviour.show);
                serde_json::json!({ "service": behaviour.name, "answer": result, "got": got })
            };
            let mut reply = json(status, &told);
            if let Some(decision) = answer.headers.get("x-bartizan-decision") {
                reply
                    .headers_mut()
                    .insert("x-bartizan-decision", decision.clone());
            }
            reply
        }
        Err(error) => json(
            StatusCode::BAD_GATEWAY,
            &serde_json::json!({ "service": behaviour.name, "error": format!("{error:#}") }),
        ),
    }
}

/// These headers as the service got them; one that did not come is null.
fn shown(headers: &HeaderMap, names: &[String]) -> serde_json::Value {
    let value = |name: &String| {
        headers
            .get(name)
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    names.iter().map(|name| (name.clone(), value(name))).collect()
}

async fn answer_grpc(parts: &http::request::Parts, body: &Bytes, behaviour: &Behaviour) -> Response<Body> {
    let Some(message) = unframe_message(body) else {
        return grpc_reply(None, "3", "one uncompressed message is expected");
    };
    let message = enriched(&message, &behaviour.enrich);
    let Some(target) = &behaviour.then else {
        behaviour
            .store
            .put(String::from_utf8_lossy(&message).into_owned());
        return grpc_reply(Some(&message), "0", "");
    };
    let mut headers = handed_on(&parts.headers);
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    match send(target, Method::POST, headers, message).await {
        Ok(answer) if answer.status.is_success() => grpc_reply(Some(&answer.body), "0", ""),
        Ok(answer) => grpc_reply(None, "13", &format!("{} answered {}", target.host, answer.status)),
        Err(error) => grpc_reply(None, "14", &format!("{error:#}")),
    }
}

fn enriched(body: &Bytes, fields: &[(String, String)]) -> Bytes {
    if fields.is_empty() {
        return body.clone();
    }
    let Ok(serde_json::Value::Object(mut object)) = serde_json::from_slice(body) else {
        return body.clone();
    };
    for (key, value) in fields {
        object.insert(key.clone(), value.clone().into());
    }
    serde_json::Value::Object(object).to_string().into()
}

fn handed_on(headers: &HeaderMap) -> HeaderMap {
    HANDED_ON
        .into_iter()
        .filter_map(|name| Some((HeaderName::from_static(name), headers.get(name)?.clone())))
        .collect()
}

fn parsed_line(line: &str) -> serde_json::Value {
    serde_json::from_str(line).unwrap_or_else(|_| line.into())
}

fn hostname() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .unwrap_or_default()
}

fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::from(text)).boxed());
    *response.status_mut() = status;
    response
}

fn json(status: StatusCode, value: &serde_json::Value) -> Response<Body> {
    let mut response = plain(status, format!("{value}\n"));
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/json"));
    response
}

fn grpc_reply(message: Option<&[u8]>, status: &str, text: &str) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    if let Ok(value) = HeaderValue::from_str(status) {
        trailers.insert("grpc-status", value);
    }
    if let (false, Ok(value)) = (text.is_empty(), HeaderValue::from_str(text)) {
        trailers.insert("grpc-message", value);
    }
    let mut frames = Vec::new();
    if let Some(message) = message {
        frames.push(Ok(Frame::data(frame_message(message))));
    }
    frames.push(Ok(Frame::trailers(trailers)));
    let body = StreamBody::new(Frames(frames.into_iter())).boxed();
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// A body whose frames are all there already.
struct Frames(std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>);

impl tokio_stream::Stream for Frames {
    type Item = Result<Frame<Bytes>, std::convert::Infallible>;

    fn poll_next(
        mut self: std::pin::Pin<&mut Self>,
        _context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Self::Item>> {
        std::task::Poll::Ready(self.0.next())
    }
}

/// Echoes lines with the service's name in front until told to stop.
pub(crate) async fn serve_lines(
    listener: TcpListener,
    behaviour: Arc<Behaviour>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = tokio::task::JoinSet::new();
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            accepted = listener.accept() => {
                let Ok((mut stream, _)) = accepted else { continue };
                let behaviour = Arc::clone(&behaviour);
                connections.spawn(async move {
                    let (read, mut write) = stream.split();
                    let mut read = BufReader::new(read);
                    let mut line = String::new();
                    while (&mut read).take(LONGEST_LINE).read_line(&mut line).await.is_ok_and(|count| count > 0) {
                        let answer = format!("{}: {line}", behaviour.name);
                        if write.write_all(answer.as_bytes()).await.is_err() {
                            break;
                        }
                        line.clear();
                    }
                });
            }
        }
    }
    connections.shutdown().await;
}
