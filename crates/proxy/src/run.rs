//! Starts a proxy and lets it end: the workers on their threads, everything else on the caller's.

use std::fs::{DirBuilder, File};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bartizan_identity::{Clock, warm_up};
use bartizan_mesh::{Resource, Snapshot, Store, Transaction};
use bartizan_telemetry::{AccessLog, AccessLogLimits, Limits, Registry, Sink, families};
use bartizan_types::Version;
use nix::sys::resource::{Resource as Limit, getrlimit, setrlimit};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use crate::admin::{self, Admin};
use crate::bootstrap::{Bootstrap, StaticConfig, StaticRole};
use crate::credentials::{Keeper, MemoryFile};
use crate::dns;
use crate::drain::{Drain, Stage};
use crate::listen::Role;
use crate::shared::Shared;
use crate::snapshot_cell::SnapshotCell;
use crate::sync::{self, LastGood};
use crate::tokens::keyring::Keyring;
use crate::tokens::unknown_keys::UnknownKeys;
use crate::workers::Workers;

/// How long the last lines of the access log may take.
const LAST_LINES: Duration = Duration::from_secs(2);
/// Connections that wait to be accepted by a static proxy.
const BACKLOG: i32 = 4096;

/// Why a proxy did not start, or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Something of the system that it needs.
    #[error("{what}: {source}")]
    System {
        /// What was attempted on what.
        what: String,
        /// What the system said.
        source: io::Error,
    },
    /// It cannot prove who it is.
    #[error("{0}")]
    Credentials(String),
    /// The credentials do not go together.
    #[error(transparent)]
    Identity(#[from] bartizan_identity::CredentialsError),
}

fn system(what: impl Into<String>) -> impl FnOnce(io::Error) -> ProxyError {
    let what = what.into();
    move |source| ProxyError::System { what, source }
}

/// Runs a proxy that a supervisor has started, until SIGTERM or SIGINT and the drain after it.
///
/// # Errors
/// [`ProxyError`] when it cannot start, or when its SVID has ended and the authority does not renew it.
pub fn run(bootstrap: Bootstrap) -> Result<(), ProxyError> {
    use_small_pages();
    let inherited = Inherited::take(&bootstrap)?;
    let last_good = LastGood::new(bootstrap.snapshot.clone());
    let registry = Registry::new(Limits::default());
    let (unknown_keys, asked_keys) = UnknownKeys::new();
    let (cell, keyring) = first(last_good.read().unwrap_or_default());
    let shared = Arc::new(Shared {
        workload: bootstrap.workload.clone(),
        address: Some(bootstrap.address),
        cell,
        keyring,
        unknown_keys,
        identity: OnceLock::new(),
        clock: Clock::system(),
        log: Some(open_log(&bootstrap.access_log, &registry)?),
        registry,
        drain: Drain::new(),
        ready: watch::Sender::new(false),
    });
    prepare(&shared.registry);
    let workers = Workers::start(&shared, &inherited.listeners, bootstrap.workers)
        .map_err(system("start the worker threads"))?;
    drop(inherited.listeners);
    let keeper = Keeper {
        shared: Arc::clone(&shared),
        control: bootstrap.control.clone(),
        ttl_seconds: bootstrap.svid_ttl_seconds,
        secret: bootstrap.secret,
        file: inherited.credentials.map(MemoryFile::new),
    };
    let drain_for = Duration::from_secs(bootstrap.drain_seconds.into());
    let (dns_udp, dns_tcp) = (inherited.dns_udp, inherited.dns_tcp);
    let to_end = Arc::clone(&shared);
    control_runtime()?.block_on(run_until_drained(
        to_end,
        workers,
        drain_for,
        move |questions| async move {
            let mut tasks = JoinSet::new();
            let admin = Admin::unix(&bootstrap.admin)
                .map_err(system(format!("make the socket `{}`", bootstrap.admin.display())))?;
            tasks.spawn(admin::serve(Arc::clone(&shared), admin, questions));
            if let Some(socket) = dns_udp {
                let socket = tokio::net::UdpSocket::from_std(socket)
                    .map_err(system("use the name service's socket"))?;
                tasks.spawn(dns::serve_udp(Arc::clone(&shared), socket));
            }
            if let Some(listener) = dns_tcp {
                let listener = tokio::net::TcpListener::from_std(listener)
                    .map_err(system("use the name service's socket"))?;
                tasks.spawn(dns::serve_tcp(Arc::clone(&shared), listener));
            }
            let (applied, to_keep) = mpsc::channel(sync::MOST_WAITING_TRANSACTIONS);
            tasks.spawn(sync::keep_last_good(Arc::clone(&shared), last_good, to_keep));
            let failed = |error: &dyn std::fmt::Display| ProxyError::Credentials(error.to_string());
            let since = keeper.begin().await.map_err(|error| failed(&error))?;
            tasks.spawn(sync::follow(shared, bootstrap.control, applied, asked_keys));
            match keeper.renew(since).await {
                Ok(never) => match never {},
                Err(error) => Err(failed(&error)),
            }
        },
    ))
}

/// Runs a proxy that has everything from its documents, until SIGTERM or SIGINT and the drain after it.
///
/// # Errors
/// [`ProxyError`] when it cannot start.
pub fn run_static(config: StaticConfig) -> Result<(), ProxyError> {
    use_small_pages();
    let drain_for = config.drain;
    let (metrics, running) = (config.metrics, Running::start(config)?);
    let Running { shared, workers } = running;
    let to_end = Arc::clone(&shared);
    control_runtime()?.block_on(run_until_drained(
        to_end,
        workers,
        drain_for,
        move |questions| async move {
            match metrics {
                Some(address) => {
                    let admin = Admin::tcp(address).map_err(system(format!("listen on `{address}`")))?;
                    admin::serve(shared, admin, questions).await;
                }
                None => std::future::pending().await,
            }
            Ok(())
        },
    ))
}

/// A static proxy that was started in this process, for tests and tools.
#[derive(Debug)]
pub struct Running {
    shared: Arc<Shared>,
    workers: Workers,
}

impl Running {
    /// Starts the worker threads.
    ///
    /// # Errors
    /// [`ProxyError`] when it cannot start.
    pub fn start(config: StaticConfig) -> Result<Self, ProxyError> {
        let registry = Registry::new(Limits::default());
        let log = match &config.access_log {
            Some(path) => Some(open_log(path, &registry)?),
            None => None,
        };
        let (cell, keyring) = first(Snapshot::build(&store_of(&config.resources)));
        let shared = Arc::new(Shared {
            workload: config.workload.clone(),
            address: None,
            cell,
            keyring,
            // Without a control plane there is nobody to ask.
            unknown_keys: UnknownKeys::new().0,
            identity: OnceLock::new(),
            clock: Clock::system(),
            log,
            registry,
            drain: Drain::new(),
            ready: watch::Sender::new(false),
        });
        prepare(&shared.registry);
        let (svid, bundle) = config.svid;
        shared.put_credentials(svid, bundle)?;
        let listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let role = match listener.role {
                    StaticRole::Inbound { to } => Role::Inbound { to },
                    StaticRole::Outbound => Role::Outbound,
                    StaticRole::Gateway { port } => Role::Gateway {
                        port,
                        is_inherited: false,
                    },
                };
                listen_on(listener.address).map(|socket| (socket, role))
            })
            .collect::<Result<Vec<_>, _>>()?;
        let workers = Workers::start(&shared, &listeners, config.workers)
            .map_err(system("start the worker threads"))?;
        Ok(Self { shared, workers })
    }

    /// Applies a change, as the control plane would send it.
    pub fn apply(&self, transaction: &Transaction) {
        let next = self.shared.cell.load().snapshot().apply(transaction);
        self.shared.serve(next);
    }

    /// Replaces its credentials.
    ///
    /// # Errors
    /// When they speak for somebody else or cannot verify the own trust domain.
    pub fn replace_credentials(
        &self,
        svid: bartizan_identity::Svid,
        bundle: bartizan_identity::TrustBundle,
    ) -> Result<(), bartizan_identity::CredentialsError> {
        self.shared.put_credentials(svid, bundle)
    }

    /// What it counts, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.shared.registry.encode()
    }

    /// Writes what is still to be logged.
    pub fn flush_log(&self) {
        if let Some(log) = &self.shared.log {
            log.flush(LAST_LINES);
        }
    }

    /// Drains for at most `deadline`, stops, and says whether everything had ended by itself.
    pub fn drain(mut self, deadline: Duration) -> bool {
        self.shared.drain.advance(Stage::Draining);
        let by_itself = match control_runtime() {
            Ok(runtime) => {
                runtime.block_on(async { tokio::time::timeout(deadline, self.workers.ended()).await.is_ok() })
            }
            Err(_) => false,
        };
        self.shared.drain.advance(Stage::Stopping);
        self.workers.join();
        by_itself
    }
}

/// What the supervisor has handed over.
struct Inherited {
    listeners: Vec<(TcpListener, Role)>,
    dns_udp: Option<UdpSocket>,
    dns_tcp: Option<TcpListener>,
    credentials: Option<File>,
}

impl Inherited {
    fn take(bootstrap: &Bootstrap) -> Result<Self, ProxyError> {
        let descriptors = &bootstrap.descriptors;
        let own = bootstrap.address;
        let mut listeners = Vec::new();
        if let Some(number) = descriptors.outbound {
            listeners.push((adopt(number)?.into(), Role::CapturedOutbound { own }));
        }
        if let Some(number) = descriptors.inbound {
            listeners.push((adopt(number)?.into(), Role::CapturedInbound { own }));
        }
        for listener in &descriptors.gateway {
            let role = Role::Gateway {
                port: listener.port,
                is_inherited: true,
            };
            listeners.push((adopt(listener.descriptor)?.into(), role));
        }
        let dns_udp: Option<UdpSocket> = descriptors.dns_udp.map(adopt).transpose()?.map(Into::into);
        let dns_tcp: Option<TcpListener> = descriptors.dns_tcp.map(adopt).transpose()?.map(Into::into);
        let blocking = "use an inherited socket without blocking";
        for (listener, _) in &listeners {
            TcpListener::set_nonblocking(listener, true).map_err(system(blocking))?;
        }
        if let Some(socket) = &dns_udp {
            socket.set_nonblocking(true).map_err(system(blocking))?;
        }
        if let Some(listener) = &dns_tcp {
            listener.set_nonblocking(true).map_err(system(blocking))?;
        }
        Ok(Self {
            listeners,
            dns_udp,
            dns_tcp,
            credentials: descriptors.credentials.map(adopt).transpose()?.map(Into::into),
        })
    }
}

/// Takes ownership of an inherited descriptor.
#[expect(
    unsafe_code,
    reason = "a descriptor that is named by number can only be taken over like this"
)]
fn adopt(number: i32) -> Result<OwnedFd, ProxyError> {
    let is_open = |number| {
        nix::fcntl::fcntl(
            // SAFETY: the descriptor is only asked for its flags; a number that is not open is an error of the call.
            unsafe { std::os::fd::BorrowedFd::borrow_raw(number) },
            nix::fcntl::FcntlArg::F_GETFD,
        )
    };
    if number < 3 {
        return Err(system(format!("use the inherited descriptor {number}"))(
            io::ErrorKind::InvalidInput.into(),
        ));
    }
    is_open(number)
        .map_err(|errno| system(format!("use the inherited descriptor {number}"))(errno.into()))?;
    // SAFETY: it is open, and the supervisor gave it to this process for this use alone; `Inherited::take` is called once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// A proxy's heap is small: huge pages cost 6 MiB of the resident memory at the start and gain no CPU that can be measured.
fn use_small_pages() {
    // A kernel without them has nothing to turn off.
    let _ = nix::sys::prctl::set_thp_disable(true);
}

/// What is served at first.
fn first(snapshot: Snapshot) -> (SnapshotCell, Keyring) {
    let keyring = Keyring::default();
    for problem in keyring.follow(&snapshot) {
        tracing::error!("{problem}");
    }
    (SnapshotCell::new(snapshot), keyring)
}

/// What every proxy does before it serves.
fn prepare(registry: &Registry) {
    registry
        .gauge(&families::BUILD, &["proxy", env!("CARGO_PKG_VERSION")])
        .set(1);
    // Without more descriptors than the soft limit a few hundred connections would be the end.
    if let Ok((soft, hard)) = getrlimit(Limit::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Limit::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!("raise the limit of open files from {soft} to {hard}: {error}");
    }
    warm_up();
}

fn control_runtime() -> Result<tokio::runtime::Runtime, ProxyError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(system("start the control runtime"))
}

/// Does the work beside the workers until a signal, then drains; an error of the work ends at once.
async fn run_until_drained<F, W>(
    shared: Arc<Shared>,
    mut workers: Workers,
    drain_for: Duration,
    work: F,
) -> Result<(), ProxyError>
where
    F: FnOnce(admin::Questions) -> W,
    W: Future<Output = Result<(), ProxyError>>,
{
    let mut terminate = signal(SignalKind::terminate()).map_err(system("listen for SIGTERM"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(system("listen for SIGINT"))?;
    let questions = workers.questions();
    let mut work = std::pin::pin!(work(questions));
    let mut is_working = true;
    let mut result = tokio::select! {
        result = &mut work => {
            is_working = false;
            result
        }
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
        () = workers.ended() => Err(system("keep the worker threads")(io::Error::other("all have ended"))),
    };
    if result.is_ok() {
        shared.drain.advance(Stage::Draining);
        tokio::select! {
            () = workers.ended() => {}
            () = tokio::time::sleep(drain_for) => {}
            ended = &mut work, if is_working => result = ended,
        }
    }
    shared.drain.advance(Stage::Stopping);
    workers.join();
    if let Some(log) = &shared.log {
        log.flush(LAST_LINES);
    }
    result
}

fn listen_on(address: SocketAddr) -> Result<TcpListener, ProxyError> {
    let open = || {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    open().map_err(system(format!("listen on `{address}`")))
}

fn open_log(path: &Path, registry: &Registry) -> Result<AccessLog, ProxyError> {
    let what = || format!("write the access log `{}`", path.display());
    if let Some(directory) = path
        .parent()
        .filter(|directory| !directory.as_os_str().is_empty())
    {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(system(what()))?;
    }
    AccessLog::start(
        Sink::File(PathBuf::from(path)),
        AccessLogLimits::default(),
        registry,
    )
    .map_err(system(what()))
}

fn store_of(resources: &[Arc<Resource>]) -> Store {
    let mut store = Store::new();
    store.apply(&Transaction {
        version: Version(1),
        upserts: resources
            .iter()
            .map(|resource| Resource::clone(resource))
            .collect(),
        removals: Vec::new(),
    });
    store
}
