//! Asking the control plane: the `Admin` and `Node` services over the mesh's control socket.

use std::path::Path;

use anyhow::Context as _;
use bartizan_control::Status;
use bartizan_proto::v1alpha1::{DumpReply, DumpRequest, StatusRequest};
use hyper_util::rt::TokioIo;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::place::Place;

#[expect(
    clippy::allow_attributes_without_reason,
    unreachable_pub,
    reason = "generated; the .proto file has the comments"
)]
mod rpc {
    include!("gen/bartizan.v1alpha1.rs");
}

pub(crate) use rpc::node_client::NodeClient;

/// A dump of a large mesh is many megabytes.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

/// Connects to the control plane; waits in its socket's backlog while it restarts.
///
/// # Errors
/// When nobody listens there.
pub(crate) async fn channel(socket: &Path) -> anyhow::Result<Channel> {
    let path = socket.to_owned();
    let connect = tower::service_fn(move |_: Uri| {
        let path = path.clone();
        async move { tokio::net::UnixStream::connect(path).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://control")
        .connect_with_connector(connect)
        .await
        .with_context(|| format!("connect to {}", socket.display()))
}

/// What runs.
///
/// # Errors
/// When no mesh runs here, or the control plane does not answer.
pub(crate) async fn status(place: &Place) -> anyhow::Result<Status> {
    let channel = channel(&place.control_socket()).await?;
    let reply = rpc::admin_client::AdminClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .status(StatusRequest {})
        .await
        .context("ask the control plane for its status")?;
    serde_json::from_slice(&reply.into_inner().status).context("read the control plane's status")
}

/// What one workload's proxy is told, or everything with an empty name.
///
/// # Errors
/// When no mesh runs here, or there is no such workload.
pub(crate) async fn dump(place: &Place, workload: &str) -> anyhow::Result<DumpReply> {
    let channel = channel(&place.control_socket()).await?;
    let reply = rpc::admin_client::AdminClient::new(channel)
        .max_decoding_message_size(LARGEST_MESSAGE)
        .dump(DumpRequest {
            workload: workload.to_owned(),
        })
        .await
        .map_err(|status| anyhow::anyhow!("{}", status.message()))
        .with_context(|| format!("ask the control plane for what `{workload}` is told"))?;
    Ok(reply.into_inner())
}
