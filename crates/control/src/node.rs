//! `Node.Connect`: the supervisor says what runs and is told what should.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bartizan_identity::BootstrapSecret;
use bartizan_proto::v1alpha1::node_report::Kind;
use bartizan_proto::v1alpha1::{NodeOrder, NodeReport, Vouch};
use bartizan_types::{NamespacedName, PodReport};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::server::UdsConnectInfo;
use tonic::{Request, Response, Status as Answer, Streaming};

use crate::issue::{Outgoing, shortened, workload_name};
use crate::rpc::node_server::Node;
use crate::state::{Message, NodeHello, OwnerHandle};
use crate::tasks::{Tasks, drained};

/// The first message must come within this time.
const GREETING: Duration = Duration::from_secs(10);
/// The most pods of a node.
const MOST_PODS: usize = 10_000;

/// The service that the supervisor speaks to.
#[derive(Clone)]
pub(crate) struct NodeService {
    owner: OwnerHandle,
    tasks: Tasks,
    drain: watch::Receiver<bool>,
    /// The only process that may speak as the node.
    supervisor: Option<i32>,
    /// The connection that counts; older ones end.
    newest: Arc<watch::Sender<u64>>,
    connections: Arc<AtomicU64>,
}

impl NodeService {
    pub(crate) fn new(
        owner: OwnerHandle,
        tasks: Tasks,
        drain: watch::Receiver<bool>,
        supervisor: Option<i32>,
    ) -> Self {
        Self {
            owner,
            tasks,
            drain,
            supervisor,
            newest: Arc::new(watch::channel(0).0),
            connections: Arc::default(),
        }
    }
}

#[tonic::async_trait]
impl Node for NodeService {
    type ConnectStream = ReceiverStream<Result<NodeOrder, Answer>>;

    async fn connect(
        &self,
        request: Request<Streaming<NodeReport>>,
    ) -> Result<Response<Self::ConnectStream>, Answer> {
        self.admit(&request)?;
        let (outgoing, stream) = mpsc::channel(1);
        let service = self.clone();
        self.tasks.spawn(async move {
            let connection = service.connections.fetch_add(1, Ordering::Relaxed) + 1;
            let (mut drain, mut newest) = (service.drain.clone(), service.newest.subscribe());
            tokio::select! {
                () = outgoing.closed() => {} // the node has gone away
                ended = service.serve(connection, request.into_inner(), &outgoing) => {
                    if let Err(answer) = ended {
                        tracing::warn!(code = %answer.code(), "end the node's stream: {}", answer.message());
                        let _ = outgoing.send(Err(answer)).await; // it may have gone away
                    }
                }
                () = replaced(&mut newest, connection) => {
                    let _ = outgoing.try_send(Err(Answer::aborted("the node has connected again")));
                }
                () = drained(&mut drain) => {
                    let _ = outgoing.try_send(Err(Answer::unavailable("the control plane is ending")));
                }
            }
            let _ = service.owner.tell(Message::NodeLost { connection }).await; // the owner may have ended
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl NodeService {
    /// Only the supervisor orders pods and vouches: proxies reach the same socket.
    fn admit(&self, request: &Request<Streaming<NodeReport>>) -> Result<(), Answer> {
        let Some(supervisor) = self.supervisor else {
            return Ok(());
        };
        let info = request.extensions().get::<UdsConnectInfo>();
        let peer = info.and_then(|info| info.peer_cred).and_then(|peer| peer.pid());
        if peer == Some(supervisor) {
            return Ok(());
        }
        tracing::warn!(
            ?peer,
            supervisor,
            "refuse to be reported to by a process that is not the supervisor"
        );
        Err(Answer::permission_denied(
            "only the supervisor speaks as the node",
        ))
    }

    async fn serve(
        &self,
        connection: u64,
        mut incoming: Streaming<NodeReport>,
        outgoing: &Outgoing<NodeOrder>,
    ) -> Result<(), Answer> {
        let first = tokio::time::timeout(GREETING, incoming.message())
            .await
            .map_err(|_| Answer::deadline_exceeded("no greeting came in time"))??;
        let Some(Kind::Hello(hello)) = first.and_then(|report| report.kind) else {
            return Err(Answer::invalid_argument("the first message is not a greeting"));
        };
        if hello.pods.len() > MOST_PODS || hello.vouches.len() > MOST_PODS {
            return Err(Answer::invalid_argument(format!("more than {MOST_PODS} pods")));
        }
        let hello = NodeHello {
            connection,
            node: shortened(&hello.node),
            pods: hello
                .pods
                .iter()
                .map(|pod| report(pod))
                .collect::<Result<_, _>>()?,
            vouches: hello.vouches.iter().map(vouch).collect::<Result<_, _>>()?,
        };
        let mut plan = self.owner.plan.clone();
        plan.mark_changed();
        self.newest.send_if_modified(|newest| {
            let newer = connection > *newest;
            *newest = connection.max(*newest);
            newer
        });
        self.tell(Message::NodeHello(hello)).await?;
        loop {
            tokio::select! {
                changed = plan.changed() => {
                    changed.map_err(|_| Answer::unavailable("the control plane is ending"))?;
                    let order = plan.borrow_and_update().clone();
                    let Some(order) = order else { continue };
                    let order = NodeOrder { version: order.version.0, pods: order.pods.clone() };
                    if outgoing.send(Ok(order)).await.is_err() {
                        return Ok(());
                    }
                }
                message = incoming.message() => {
                    let Some(message) = message? else { return Ok(()) };
                    let message = match message.kind {
                        Some(Kind::Pod(pod)) => Message::Pod(Box::new(report(&pod)?)),
                        Some(Kind::Gone(pod)) => Message::Gone(name(&pod)?),
                        Some(Kind::Vouch(announced)) => {
                            let (name, secret) = vouch(&announced)?;
                            Message::Vouch(name, secret)
                        }
                        Some(Kind::Hello(_)) | None => {
                            return Err(Answer::invalid_argument("a report of a pod was expected"));
                        }
                    };
                    self.tell(message).await?;
                }
            }
        }
    }

    async fn tell(&self, message: Message) -> Result<(), Answer> {
        self.owner
            .tell(message)
            .await
            .map_err(|ending| Answer::unavailable(ending.to_string()))
    }
}

/// Waits until a newer connection counts. Cancel safe.
async fn replaced(newest: &mut watch::Receiver<u64>, connection: u64) {
    let _ = newest.wait_for(|newest| *newest > connection).await; // the sender is ours
}

fn report(json: &[u8]) -> Result<PodReport, Answer> {
    serde_json::from_slice(json)
        .map_err(|error| Answer::invalid_argument(format!("a pod's report cannot be decoded: {error}")))
}

fn name(text: &str) -> Result<NamespacedName, Answer> {
    workload_name(text).map_err(|error| {
        Answer::invalid_argument(format!("`{}` is not a pod's name: {error}", shortened(text)))
    })
}

fn vouch(announced: &Vouch) -> Result<(NamespacedName, BootstrapSecret), Answer> {
    let workload = name(&announced.workload)?;
    let secret = BootstrapSecret::from_bytes(&announced.bootstrap).ok_or_else(|| {
        Answer::invalid_argument(format!("the one-time secret for `{workload}` has a wrong length"))
    })?;
    Ok((workload, secret))
}
