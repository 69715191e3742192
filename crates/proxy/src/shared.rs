//! What all threads of a proxy share: the snapshot cell, the credentials, the counters, the way out.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use bartizan_identity::{
    ClientTls, Clock, Credentials, CredentialsError, ServerTls, Svid, TlsVersions, TrustBundle,
};
use bartizan_telemetry::{AccessLog, Registry, families};
use bartizan_types::{NamespacedName, SpiffeId};
use tokio::sync::watch;

use crate::drain::Drain;
use crate::snapshot_cell::SnapshotCell;
use crate::tokens::keyring::Keyring;
use crate::tokens::unknown_keys::UnknownKeys;

/// What all threads of a proxy share.
#[derive(Debug)]
pub(crate) struct Shared {
    /// The workload that this proxy serves.
    pub(crate) workload: NamespacedName,
    /// Its own address; none in static mode, where nothing is captured.
    pub(crate) address: Option<IpAddr>,
    /// What it serves from.
    pub(crate) cell: SnapshotCell,
    /// What the served snapshot says for users' tokens.
    pub(crate) keyring: Keyring,
    /// The keys that the control plane is asked for.
    pub(crate) unknown_keys: UnknownKeys,
    /// What it proves; empty until the first SVID.
    pub(crate) identity: OnceLock<Identity>,
    /// The time that certificates are judged by.
    pub(crate) clock: Clock,
    /// What it counts.
    pub(crate) registry: Arc<Registry>,
    /// Where it writes what happened.
    pub(crate) log: Option<AccessLog>,
    /// How far it is on its way out.
    pub(crate) drain: Drain,
    /// Whether it has what it needs to serve; true once and for all.
    pub(crate) ready: watch::Sender<bool>,
}

/// The proxy's credentials and the TLS configurations that follow them.
#[derive(Debug)]
pub(crate) struct Identity {
    /// Who the proxy is; rotation never changes it.
    pub(crate) id: SpiffeId,
    pub(crate) credentials: Arc<Credentials>,
    pub(crate) server: ServerTls,
    pub(crate) client: ClientTls,
}

impl Shared {
    /// Uses these credentials from now on.
    ///
    /// # Errors
    /// When they speak for somebody else than the present ones, or cannot verify the own trust domain.
    pub(crate) fn put_credentials(&self, svid: Svid, bundle: TrustBundle) -> Result<(), CredentialsError> {
        let expiry = svid
            .not_after()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        if let Some(identity) = self.identity.get() {
            identity.credentials.replace(svid, bundle)?;
        } else {
            let id = svid.id().clone();
            let credentials = Credentials::new(svid, bundle)?;
            let server = ServerTls::new(&credentials, &self.clock, TlsVersions::Only13)
                .expect("the provider has suites for TLS 1.3");
            let client = ClientTls::new(&credentials, &self.clock, TlsVersions::Only13);
            // Only the one keeper of credentials calls this.
            let _ = self.identity.set(Identity {
                id,
                credentials,
                server,
                client,
            });
        }
        self.registry
            .gauge(&families::CERTIFICATE_EXPIRY, &[])
            .set(i64::try_from(expiry.as_secs()).unwrap_or(i64::MAX));
        self.cell.nudge();
        self.note_readiness();
        Ok(())
    }

    /// Notes whether all is there that is needed to serve.
    pub(crate) fn note_readiness(&self) {
        if self.missing().is_none() {
            self.ready
                .send_if_modified(|ready| !std::mem::replace(ready, true));
        }
    }

    /// What is still missing to serve.
    pub(crate) fn missing(&self) -> Option<&'static str> {
        let engine = self.cell.load();
        if self.identity.get().is_none() {
            Some("no SVID yet")
        } else if engine.snapshot().settings().is_none() || engine.snapshot().view(&self.workload).is_none() {
            Some("no configuration yet")
        } else {
            None
        }
    }

    /// Ends when all is there that is needed to serve.
    pub(crate) async fn until_ready(&self) {
        // The sender is in self: the wait cannot fail.
        let _ = self.ready.subscribe().wait_for(|ready| *ready).await;
    }
}
