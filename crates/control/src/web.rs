//! The admin page on the host's loopback: status for people, JSON and merged metrics for programs.
//!
//! Everybody on the machine can reach a loopback port, and so can any page in the user's browser: hence the token of the
//! run, and the checks in `guard`. Only GET and HEAD; nothing here changes anything.

mod guard;
mod metrics;
mod page;
mod scrape;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bartizan_types::Secret;
use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::admin::AdminService;
use crate::tasks::drained;
use guard::{Guard, Verdict};
pub use metrics::metrics_reference;

/// The most connections; others wait in the listener's backlog.
const MOST_CONNECTIONS: usize = 64;
/// A request's head must come within this time, and an idle connection ends after it.
const HEAD: Duration = Duration::from_secs(15);
/// How long open answers may take when the control plane ends.
const DRAIN: Duration = Duration::from_secs(1);

/// What the page needs.
pub(crate) struct Web {
    pub(crate) admin: AdminService,
    pub(crate) run_directory: PathBuf,
    pub(crate) token: Secret<String>,
}

type Answer = Response<Full<Bytes>>;

/// Serves until the drain.
pub(crate) async fn serve(listener: TcpListener, web: Web, mut drain: watch::Receiver<bool>) {
    let port = listener
        .local_addr()
        .map_or(0, |address: SocketAddr| address.port());
    let page = Arc::new(Page {
        guard: Guard::new(port, web.token),
        admin: web.admin,
        run_directory: web.run_directory,
    });
    let places = Arc::new(Semaphore::new(MOST_CONNECTIONS));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = drained(&mut drain) => break,
            Some(_) = connections.join_next() => continue,
            accepted = accept(&listener, &places) => accepted,
        };
        let Some((stream, place)) = accepted else { continue };
        let (page, mut drain) = (Arc::clone(&page), drain.clone());
        connections.spawn(async move {
            let service = hyper::service::service_fn(move |request| {
                let page = Arc::clone(&page);
                async move { Ok::<_, Infallible>(page.answer(&request).await) }
            });
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_buf_size(32 * 1024)
                .serve_connection(TokioIo::new(stream), service);
            let mut connection = std::pin::pin!(connection);
            let ended = tokio::select! {
                ended = connection.as_mut() => ended,
                () = drained(&mut drain) => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "an admin connection ends");
            }
            drop(place);
        });
    }
    let all = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN, all).await.is_err() {
        connections.shutdown().await;
    }
}

async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(tokio::net::TcpStream, tokio::sync::OwnedSemaphorePermit)> {
    let place = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(error) => {
            tracing::warn!(%error, "accept an admin connection");
            tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: do not spin
            None
        }
    }
}

struct Page {
    guard: Guard,
    admin: AdminService,
    run_directory: PathBuf,
}

impl Page {
    async fn answer(&self, request: &Request<Incoming>) -> Answer {
        let mut answer = self.answer_bare(request).await;
        for (name, value) in [
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::X_FRAME_OPTIONS, "DENY"),
            (header::REFERRER_POLICY, "no-referrer"),
            (header::CACHE_CONTROL, "no-store"),
            (
                header::CONTENT_SECURITY_POLICY,
                "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
            ),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        for (name, value) in [
            ("cross-origin-resource-policy", "same-origin"),
            ("cross-origin-opener-policy", "same-origin"),
        ] {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        }
        answer
    }

    async fn answer_bare(&self, request: &Request<Incoming>) -> Answer {
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD");
            answer
                .headers_mut()
                .insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return answer;
        }
        if let Err(reason) = self.guard.origin(request.headers()) {
            return text(StatusCode::MISDIRECTED_REQUEST, reason);
        }
        let path = request.uri().path();
        if path == "/healthz" {
            return self.health().await;
        }
        let set_cookie = match self.guard.token(request.uri(), request.headers()) {
            Verdict::Allowed => None,
            Verdict::Entered(cookie) => Some(cookie),
            Verdict::Refused => {
                return text(
                    StatusCode::UNAUTHORIZED,
                    "a token is needed: open the address that `bartizan status` shows",
                );
            }
        };
        let mut answer = match path {
            // The token leaves the address bar and the history.
            "/" if set_cookie.is_some() => redirect("/"),
            "/" => self.page().await,
            "/status.json" => self.status().await,
            "/metrics" => self.metrics().await,
            _ => text(
                StatusCode::NOT_FOUND,
                "there are /, /status.json, /metrics and /healthz",
            ),
        };
        if let Some(cookie) = set_cookie {
            answer.headers_mut().insert(header::SET_COOKIE, cookie);
        }
        answer
    }

    async fn health(&self) -> Answer {
        match self.admin.current().await {
            Ok(_) => text(StatusCode::OK, "ok"),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }

    async fn page(&self) -> Answer {
        match self.admin.current().await {
            Ok(status) => typed("text/html; charset=utf-8", page::render(&status)),
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }

    async fn status(&self) -> Answer {
        let status = match self.admin.current().await {
            Ok(status) => status,
            Err(error) => return text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        };
        match serde_json::to_string_pretty(&status) {
            Ok(json) => typed("application/json", json),
            Err(error) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        }
    }

    async fn metrics(&self) -> Answer {
        match self.admin.current().await {
            Ok(status) => {
                let mut merged = scrape::merged(&self.run_directory, &status).await;
                metrics::write(&status, &mut merged);
                typed(bartizan_telemetry::CONTENT_TYPE, merged.text)
            }
            Err(error) => text(StatusCode::SERVICE_UNAVAILABLE, &error.to_string()),
        }
    }
}

fn text(status: StatusCode, words: &str) -> Answer {
    let mut answer = typed("text/plain; charset=utf-8", format!("{words}\n"));
    *answer.status_mut() = status;
    answer
}

fn typed(content_type: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    answer
}

fn redirect(to: &'static str) -> Answer {
    let mut answer = text(StatusCode::SEE_OTHER, to);
    answer
        .headers_mut()
        .insert(header::LOCATION, HeaderValue::from_static(to));
    answer
}
