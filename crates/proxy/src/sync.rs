//! Keeps the snapshot in step with the control plane: says what it has, applies each transaction whole, swaps once,
//! answers, and leaves the last good snapshot on disk. While the control plane is away the proxy serves on.

mod last_good;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bartizan_identity::crypto::random_unit;
use bartizan_identity::{KeyError, Proof, hello_transcript};
use bartizan_mesh::wire_format::{self, DecodeError};
use bartizan_mesh::{Key, Snapshot, Transaction};
use bartizan_proto::v1alpha1::{self as proto, ProxyMessage, proxy_message};
use bartizan_telemetry::families;
use bartizan_types::Version;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

pub(crate) use last_good::LastGood;

use crate::back_off::wait_after;
use crate::control_plane;
use crate::credentials::possession;
use crate::shared::Shared;
use crate::tokens::unknown_keys::UnknownKey;

/// The last good snapshot is written at most this often.
const WRITE_EVERY: Duration = Duration::from_millis(250);
/// After a failed write: until it is tried again.
const WRITE_AGAIN: Duration = Duration::from_secs(1);
/// Applied transactions that wait to be written; above that the control plane waits for its answer.
pub(crate) const MOST_WAITING_TRANSACTIONS: usize = 64;
/// Answers that may wait to be sent; the control plane sends the next transaction after an answer.
const MOST_WAITING_ANSWERS: usize = 16;

/// Why a session with the control plane ended.
#[derive(Debug, thiserror::Error)]
enum SyncError {
    #[error("connect to the control plane: {0}")]
    Connect(#[from] tonic::transport::Error),
    #[error("the control plane: {}", .0.message())]
    Call(Box<tonic::Status>),
    #[error("the control plane has ended")]
    Ended,
    #[error(transparent)]
    Key(#[from] KeyError),
    #[error("there are no credentials yet")]
    NoCredentials,
}

impl From<tonic::Status> for SyncError {
    fn from(status: tonic::Status) -> Self {
        Self::Call(Box::new(status))
    }
}

/// Follows the control plane for as long as the proxy lives. The only writer of the snapshot cell.
pub(crate) async fn follow(
    shared: Arc<Shared>,
    control: PathBuf,
    applied: mpsc::Sender<proto::Transaction>,
    mut unknown_keys: mpsc::Receiver<UnknownKey>,
) {
    let connected = shared.registry.gauge(&families::CONTROL_CONNECTED, &[]);
    let mut failures = 0;
    loop {
        let mut heard = false;
        let ended = session(&shared, &control, &applied, &mut unknown_keys, || {
            heard = true;
            connected.set(1);
        })
        .await;
        connected.set(0);
        failures = if heard { 1 } else { failures + 1 };
        if let Err(error) = ended {
            tracing::warn!(
                "{error}; serving on from version {}",
                shared.cell.load().snapshot().version()
            );
        }
        tokio::time::sleep(wait_after(failures, random_unit())).await;
    }
}

async fn session(
    shared: &Shared,
    control: &std::path::Path,
    applied: &mpsc::Sender<proto::Transaction>,
    unknown_keys: &mut mpsc::Receiver<UnknownKey>,
    mut heard: impl FnMut(),
) -> Result<(), SyncError> {
    let mut client = control_plane::connect(control).await?;
    let (answers, sent) = mpsc::channel(MOST_WAITING_ANSWERS);
    let say = |kind| {
        let message = ProxyMessage { kind: Some(kind) };
        let answers = answers.clone();
        async move { answers.send(message).await.map_err(|_| SyncError::Ended) }
    };
    say(proxy_message::Kind::Hello(hello(shared)?)).await?;
    let mut transactions = client.connect(ReceiverStream::new(sent)).await?.into_inner();
    heard();
    loop {
        let received = tokio::select! {
            received = transactions.message() => received?,
            // Its sender is in `shared`.
            Some(unknown) = unknown_keys.recv() => {
                say(proxy_message::Kind::UnknownKey(proto::UnknownKey {
                    key_set: unknown.set.to_string(),
                    kid: unknown.kid.to_string(),
                }))
                .await?;
                continue;
            }
        };
        let Some(transaction) = received else { break };
        heard();
        let version = transaction.version;
        let answer = match apply(&shared.cell.load(), &transaction) {
            Ok(snapshot) => {
                shared.serve(snapshot);
                // Its keeper has ended only when the proxy does.
                let _ = applied.send(transaction).await;
                proxy_message::Kind::Ack(proto::Ack { version })
            }
            Err(error) => {
                tracing::error!("version {version} is refused: {error}");
                shared.registry.counter(&families::CONFIG_REFUSED, &[]).add(1);
                let reason = error.to_string();
                proxy_message::Kind::Nack(proto::Nack { version, reason })
            }
        };
        say(answer).await?;
    }
    Err(SyncError::Ended)
}

fn hello(shared: &Shared) -> Result<proto::Hello, SyncError> {
    let identity = shared.identity.get().ok_or(SyncError::NoCredentials)?;
    let workload = shared.workload.to_string();
    let now = shared.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let signed_at = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    let current = identity.credentials.current();
    let proof = Proof::sign(current.svid(), &hello_transcript(&workload, signed_at))?;
    let engine = shared.cell.load();
    let digests = engine
        .snapshot()
        .store()
        .iter()
        .map(|(key, resource)| (key.0.to_string(), wire_format::digest(resource).to_string()))
        .collect();
    Ok(proto::Hello {
        workload,
        proof: Some(possession(proof)),
        signed_at,
        version: engine.snapshot().version().0,
        digests,
        build: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// The snapshot after the transaction.
fn apply(engine: &bartizan_decide::Engine, sent: &proto::Transaction) -> Result<Snapshot, DecodeError> {
    let mut transaction = Transaction {
        version: Version(sent.version),
        upserts: Vec::with_capacity(sent.upserts.len()),
        removals: sent.removals.iter().map(|key| Key(key.as_str().into())).collect(),
    };
    for upsert in &sent.upserts {
        let key = Key(upsert.key.as_str().into());
        let (resource, replaced) = wire_format::decode_or_deny(&key, &upsert.body)?;
        if let Some(error) = replaced {
            tracing::error!("policy `{key}` denies everything: {error}");
        }
        transaction.upserts.push(resource);
    }
    Ok(engine.snapshot().apply(&transaction))
}

impl Shared {
    /// Serves from `snapshot` from now on.
    pub(crate) fn serve(&self, snapshot: Snapshot) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let version = i64::try_from(snapshot.version().0).unwrap_or(i64::MAX);
        for problem in self.keyring.follow(&snapshot) {
            tracing::error!("{problem}");
        }
        self.cell.swap(snapshot);
        for problem in self.cell.load().problems() {
            tracing::error!("{problem}");
        }
        self.registry.gauge(&families::CONFIG_VERSION, &[]).set(version);
        self.registry
            .gauge(&families::CONFIG_APPLIED, &[])
            .set(i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        self.note_readiness();
    }
}

/// Leaves each applied transaction on disk, for as long as the proxy lives: as a line, or with everything before it.
pub(crate) async fn keep_last_good(
    shared: Arc<Shared>,
    mut file: LastGood,
    mut applied: mpsc::Receiver<proto::Transaction>,
) {
    let mut failures = 0_u32;
    let mut transactions = Vec::new();
    loop {
        let received = applied.recv_many(&mut transactions, MOST_WAITING_TRANSACTIONS);
        let is_owing = failures > 0;
        let count = if is_owing {
            // What could not be written is tried again, with or without anything new.
            tokio::time::timeout(WRITE_AGAIN, received).await
        } else {
            Ok(received.await)
        };
        if count == Ok(0) {
            return;
        }
        let batch = std::mem::take(&mut transactions);
        // Taken after the transactions, so that it holds them all.
        let engine = shared.cell.load();
        let writing = tokio::task::spawn_blocking(move || {
            let is_added = !is_owing
                && batch
                    .iter()
                    .all(|transaction| file.add(transaction).unwrap_or(false));
            let kept = if is_added {
                Ok(())
            } else {
                file.write(&engine.snapshot().store())
            };
            (file, kept)
        });
        let Ok((back, kept)) = writing.await else {
            return;
        };
        file = back;
        match kept {
            Ok(()) => failures = 0,
            Err(error) => {
                if failures.is_multiple_of(60) {
                    tracing::warn!("write the last good snapshot: {error}");
                }
                failures += 1;
            }
        }
        tokio::time::sleep(WRITE_EVERY).await;
    }
}
