//! Reads every proxy's metrics over its unix socket and merges them into one page.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bartizan_telemetry::merge::{Target, merge};
use bartizan_types::pod::proxy_socket_name;
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::task::JoinSet;

use crate::status::{Status, WorkloadStatus};

/// The time of one proxy's answer.
const LONGEST: Duration = Duration::from_secs(2);
/// The largest answer of one proxy.
const LARGEST: usize = 16 * 1024 * 1024;
/// How many proxies are asked at once.
const AT_ONCE: usize = 16;

/// A page of metrics, and how it came about.
#[derive(Debug, Default)]
pub(super) struct Merged {
    pub(super) text: String,
    pub(super) answered: usize,
    pub(super) failed: usize,
}

/// All proxies' metrics. A proxy that does not answer is missing, and counted.
pub(super) async fn merged(run_directory: &Path, status: &Status) -> Merged {
    let mut waiting: Vec<_> = status
        .workloads
        .iter()
        .filter(|workload| workload.address.is_some())
        .map(|workload| (target(workload), socket(run_directory, workload)))
        .collect();
    let mut pages: Vec<(Target, Option<String>)> = Vec::with_capacity(waiting.len());
    let mut asked = JoinSet::new();
    let mut failed = 0;
    loop {
        while asked.len() < AT_ONCE
            && let Some((target, socket)) = waiting.pop()
        {
            asked.spawn(async move {
                let page = tokio::time::timeout(LONGEST, scrape(&socket)).await;
                (target, page.unwrap_or_else(|_| Err("no answer in time".into())))
            });
        }
        match asked.join_next().await {
            None => break,
            Some(Ok((target, Ok(page)))) => pages.push((target, Some(page))),
            Some(Ok((target, Err(error)))) => {
                failed += 1;
                tracing::debug!(namespace = target.namespace, pod = target.pod, %error, "read a proxy's metrics");
                pages.push((target, None));
            }
            Some(Err(_)) => failed += 1,
        }
    }
    let answered = pages.iter().filter(|(_, page)| page.is_some()).count();
    pages.sort_by(|(a, _), (b, _)| (&a.namespace, &a.pod).cmp(&(&b.namespace, &b.pod)));
    let text = tokio::task::spawn_blocking(move || {
        merge(
            pages
                .iter()
                .map(|(target, page)| (target.clone(), page.as_deref())),
        )
    });
    Merged {
        text: text.await.unwrap_or_default(),
        answered,
        failed,
    }
}

fn target(workload: &WorkloadStatus) -> Target {
    Target {
        namespace: workload.name.namespace.to_string(),
        pod: workload.name.name.to_string(),
        app: workload.app.clone().unwrap_or_default(),
    }
}

fn socket(run_directory: &Path, workload: &WorkloadStatus) -> PathBuf {
    run_directory.join(proxy_socket_name(&workload.name))
}

type ScrapeError = Box<dyn std::error::Error + Send + Sync>;

async fn scrape(socket: &Path) -> Result<String, ScrapeError> {
    let stream = UnixStream::connect(socket).await?;
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await?;
    let request = Request::get("/metrics")
        .header(http::header::HOST, "localhost")
        .body(Empty::<Bytes>::new())?;
    let read = async {
        let response = sender.send_request(request).await?;
        if !response.status().is_success() {
            return Err(format!("status {}", response.status()).into());
        }
        let body = Limited::new(response.into_body(), LARGEST).collect().await?;
        String::from_utf8(body.to_bytes().to_vec()).map_err(ScrapeError::from)
    };
    let mut connection = std::pin::pin!(connection);
    let mut read = std::pin::pin!(read);
    tokio::select! {
        page = read.as_mut() => page,
        ended = connection.as_mut() => {
            ended?;
            read.await
        }
    }
}
