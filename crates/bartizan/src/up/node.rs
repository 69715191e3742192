//! The node's side of `Node.Connect`: reports what runs, is told what should. While the control plane is away everything
//! goes on running, and the next connection begins with all there is.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bartizan_proto::v1alpha1::{NodeHello, NodeOrder, NodeReport, Vouch, node_report};
use bartizan_sandbox::supervise::{State, Supervisor};
use bartizan_types::{NamespacedName, PodReport, PodSpec};
use bytes::Bytes;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::admin::{NodeClient, channel};

/// Between two attempts to connect.
const AGAIN: Duration = Duration::from_millis(50);
/// Reports that wait for a slow control plane; the newest state is sent once there is room again.
const MOST_WAITING: usize = 256;
/// A plan of a large mesh is many megabytes.
const LARGEST_MESSAGE: usize = 256 * 1024 * 1024;

/// Never returns.
pub(crate) async fn keep_connected(socket: PathBuf, supervisor: Supervisor) {
    loop {
        if let Err(error) = connect(&socket, &supervisor).await {
            tracing::debug!(error = %format!("{error:#}"), "the control plane is away");
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn connect(socket: &std::path::Path, supervisor: &Supervisor) -> anyhow::Result<()> {
    let mut client = NodeClient::new(channel(socket).await?).max_decoding_message_size(LARGEST_MESSAGE);
    let mut state = supervisor.state();
    let mut sent = Sent::default();
    let (reports, receiver) = mpsc::channel(MOST_WAITING);
    let now = Arc::clone(&state.borrow_and_update());
    reports.send(sent.hello(&now)).await?;
    let mut orders = client.connect(ReceiverStream::new(receiver)).await?.into_inner();
    loop {
        tokio::select! {
            order = orders.message() => match order? {
                Some(order) => supervisor.plan(plan(&order)).await,
                None => return Ok(()),
            },
            changed = state.changed() => {
                changed?;
                let now = Arc::clone(&state.borrow_and_update());
                for report in sent.changes(&now) {
                    reports.send(report).await?;
                }
            }
        }
    }
}

fn plan(order: &NodeOrder) -> Vec<PodSpec> {
    order
        .pods
        .iter()
        .filter_map(|pod| match serde_json::from_slice(pod) {
            Ok(pod) => Some(pod),
            Err(error) => {
                tracing::error!(%error, "a planned pod cannot be read");
                None
            }
        })
        .collect()
}

/// What the control plane has been told on this connection.
#[derive(Default)]
struct Sent {
    pods: BTreeMap<NamespacedName, PodReport>,
    vouches: BTreeMap<NamespacedName, u64>,
}

impl Sent {
    fn hello(&mut self, state: &State) -> NodeReport {
        self.pods.clone_from(&state.pods);
        self.vouches = state
            .vouches
            .iter()
            .map(|(pod, vouch)| (pod.clone(), vouch.number))
            .collect();
        report(node_report::Kind::Hello(NodeHello {
            node: nix::unistd::gethostname()
                .ok()
                .and_then(|name| name.into_string().ok())
                .unwrap_or_default(),
            pods: state.pods.values().map(json).collect(),
            vouches: state
                .vouches
                .iter()
                .map(|(pod, vouch)| announced(pod, vouch))
                .collect(),
        }))
    }

    fn changes(&mut self, state: &State) -> Vec<NodeReport> {
        let mut reports = Vec::new();
        for (pod, vouch) in &state.vouches {
            if self.vouches.insert(pod.clone(), vouch.number) != Some(vouch.number) {
                reports.push(report(node_report::Kind::Vouch(announced(pod, vouch))));
            }
        }
        for (name, pod) in &state.pods {
            if self.pods.get(name) != Some(pod) {
                self.pods.insert(name.clone(), pod.clone());
                reports.push(report(node_report::Kind::Pod(json(pod))));
            }
        }
        let gone: Vec<NamespacedName> = self
            .pods
            .keys()
            .filter(|name| !state.pods.contains_key(*name))
            .cloned()
            .collect();
        for name in gone {
            self.pods.remove(&name);
            self.vouches.remove(&name);
            reports.push(report(node_report::Kind::Gone(name.to_string())));
        }
        reports
    }
}

fn report(kind: node_report::Kind) -> NodeReport {
    NodeReport { kind: Some(kind) }
}

fn json(pod: &PodReport) -> Bytes {
    serde_json::to_vec(pod).unwrap_or_default().into()
}

fn announced(pod: &NamespacedName, vouch: &bartizan_sandbox::supervise::Vouch) -> Vouch {
    Vouch {
        workload: pod.to_string(),
        bootstrap: Bytes::copy_from_slice(vouch.secret.expose()),
    }
}
