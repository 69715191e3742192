//! The way to the control plane: gRPC over its unix socket. The socket outlives it, so that a call may wait in its
//! backlog while one control plane follows another.

use std::path::{Path, PathBuf};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Channel, Endpoint, Uri};
use tower::service_fn;

use crate::proto::mesh_client::MeshClient;

/// The largest message that is read, in bytes: a whole mesh in one transaction.
const MOST_MESSAGE_BYTES: usize = 256 * 1024 * 1024;
/// How long the socket may take to accept.
const CONNECT: Duration = Duration::from_secs(10);
/// How often a silent connection is asked whether it lives, and how long the answer may take.
const PING: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(20));

/// Connects to the socket.
///
/// # Errors
/// When nothing accepts there.
pub(crate) async fn connect(socket: &Path) -> Result<MeshClient<Channel>, tonic::transport::Error> {
    let socket: PathBuf = socket.to_owned();
    let channel = Endpoint::from_static("http://control")
        .connect_timeout(CONNECT)
        .http2_keep_alive_interval(PING.0)
        .keep_alive_timeout(PING.1)
        .keep_alive_while_idle(true)
        .connect_with_connector(service_fn(move |_: Uri| {
            let socket = socket.clone();
            async move { UnixStream::connect(socket).await.map(TokioIo::new) }
        }))
        .await?;
    Ok(MeshClient::new(channel).max_decoding_message_size(MOST_MESSAGE_BYTES))
}
