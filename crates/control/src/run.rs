//! Starts the control plane's parts, watches over them, and ends them.

use std::sync::Arc;
use std::time::Duration;

use bartizan_compile::Options as CompileOptions;
use bartizan_identity::Clock;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;

use crate::admin::AdminService;
use crate::issue::{Issuer, renew_intermediate};
use crate::keys::store::KeyStore;
use crate::keys::{KeysHandle, keys};
use crate::node::NodeService;
use crate::options::{ControlError, Options, SHORTEST_TTL};
use crate::push::MeshService;
use crate::rpc::admin_server::AdminServer;
use crate::rpc::mesh_server::MeshServer;
use crate::rpc::node_server::NodeServer;
use crate::source::file::read_folder;
use crate::source::watch::watch;
use crate::state::{Message, Owner, OwnerHandle, Setup};
use crate::status::unix_seconds;
use crate::store::ca::AuthorityStore;
use crate::store::private_folder;
use crate::store::versions::VersionStore;
use crate::tasks::{Tasks, drained};
use crate::web::{self, Web};

/// The largest message of a node or proxy.
const LARGEST_MESSAGE: usize = 64 * 1024 * 1024;
/// How long open streams may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Runs a control plane until its drain is asked for.
///
/// Must be called in a tokio runtime with IO and time. Ends at most about three seconds after the drain.
///
/// # Errors
/// [`ControlError`] when it cannot start, with everything undone but the state directory, or when a part of it has failed.
pub async fn run(options: Options) -> Result<(), ControlError> {
    if options.svid_ttl < SHORTEST_TTL {
        return Err(ControlError::ShortLife(options.svid_ttl));
    }
    let control = control_socket(options.control)?;
    let admin = options.admin.map(admin_socket).transpose()?;
    let clock = Clock::system();

    let mut compile = CompileOptions::new(options.settings.clone());
    compile.gateway_address = options.gateway_address;
    compile.profile_is_chosen = options.profile_is_chosen;
    let (state_directory, sources, strict) = (options.state_directory, options.sources, options.strict);
    let key_times = options.key_times;
    let started = {
        let (sources, clock) = (sources.clone(), clock.clone());
        tokio::task::spawn_blocking(move || {
            private_folder(&state_directory)?;
            let authorities = AuthorityStore::new(&state_directory);
            let authority = authorities.open(&compile.settings.trust_domain, clock.now())?;
            let key_store = KeyStore::open(
                &state_directory,
                key_times,
                unix_seconds(std::time::SystemTime::now()),
            )?;
            let setup = Setup {
                compile,
                strict,
                versions: VersionStore::open(&state_directory)?,
                keys: key_store.clone(),
                now: std::time::SystemTime::now,
            };
            let owner = Owner::new(setup, read_folder(&sources));
            Ok::<_, ControlError>((authorities, authority, key_store, owner))
        })
    };
    let (authorities, authority, key_store, (owner, handle, messages)) = started
        .await
        .map_err(|error| ControlError::Owner(error.to_string()))??;

    let (authority, newest_authority) = watch::channel(Arc::new(authority));
    let issuer = Arc::new(Issuer::new(
        newest_authority,
        options.svid_ttl,
        clock.clone(),
        handle.clone(),
    )?);
    let owner = tokio::task::spawn_blocking(move || owner.work(messages));
    let ending = handle.messages.clone();

    let (keeper, keys) = keys(crate::keys::Setup {
        store: key_store,
        times: key_times,
        roots: options.jwks_ca,
        origins: handle.origins.clone(),
        owner: handle.messages.clone(),
    });
    let mut parts = JoinSet::new();
    parts.spawn(keeper.work());
    parts.spawn(watch(sources, handle.messages.clone()));
    parts.spawn(renew_intermediate(authorities, authority, clock));
    let tasks = Tasks::default();
    // Asked for from outside, or because a part has failed: then the others end, too.
    let (end, drain) = watch::channel(false);
    let end = Arc::new(end);
    let (asked, mut outside) = (Arc::clone(&end), options.drain);
    parts.spawn(async move {
        drained(&mut outside).await;
        asked.send_replace(true);
    });
    let admin_service = AdminService::new(Arc::clone(&issuer), handle.clone(), keys.clone());
    let page = admin.map(|listener| {
        let web = Web {
            admin: admin_service.clone(),
            run_directory: options.run_directory,
            token: options.admin_token,
        };
        tokio::spawn(web::serve(listener, web, drain.clone()))
    });
    let served = serve(
        control,
        Services {
            issuer,
            owner: handle,
            admin: admin_service,
            keys,
            tasks: tasks.clone(),
            supervisor: options.supervisor,
        },
        drain,
    )
    .await;

    end.send_replace(true);
    tasks.finish(DRAIN).await;
    if let Some(page) = page {
        let _ = page.await; // it ends by the same drain; its own panic has been reported
    }
    parts.shutdown().await;
    let _ = ending.send(Message::End).await; // it may have ended by itself: then this says so
    owner
        .await
        .map_err(|error| ControlError::Owner(error.to_string()))?;
    served
}

struct Services {
    issuer: Arc<Issuer>,
    owner: OwnerHandle,
    admin: AdminService,
    keys: KeysHandle,
    tasks: Tasks,
    supervisor: Option<i32>,
}

/// Serves the control socket until the drain, or until the owner of the world is gone.
async fn serve(
    control: UnixListener,
    services: Services,
    mut drain: watch::Receiver<bool>,
) -> Result<(), ControlError> {
    let Services {
        issuer,
        owner,
        admin,
        keys,
        tasks,
        supervisor,
    } = services;
    let mesh = MeshService::new(issuer, owner.clone(), keys, tasks.clone(), drain.clone());
    let node = NodeService::new(owner.clone(), tasks, drain.clone(), supervisor);
    let ended = owner.messages.clone();
    drop(owner);
    let server = Server::builder()
        .max_concurrent_streams(64)
        .http2_max_header_list_size(16 * 1024)
        .add_service(MeshServer::new(mesh).max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(NodeServer::new(node).max_decoding_message_size(LARGEST_MESSAGE))
        .add_service(AdminServer::new(admin));
    let mut stop = drain.clone();
    let asked = async move { drained(&mut stop).await };
    let serving = server.serve_with_incoming_shutdown(UnixListenerStream::new(control), asked);
    let overdue = async {
        drained(&mut drain).await;
        tokio::time::sleep(DRAIN).await;
    };
    tokio::select! {
        served = serving => served.map_err(|error| ControlError::Serve(error.to_string())),
        () = overdue => Ok(()),
        () = ended.closed() => Err(ControlError::Owner("see the log".to_owned())),
    }
}

fn control_socket(listener: std::os::unix::net::UnixListener) -> Result<UnixListener, ControlError> {
    listener
        .set_nonblocking(true)
        .and_then(|()| UnixListener::from_std(listener))
        .map_err(|source| ControlError::Socket {
            socket: "control",
            source,
        })
}

fn admin_socket(listener: std::net::TcpListener) -> Result<TcpListener, ControlError> {
    listener
        .set_nonblocking(true)
        .and_then(|()| TcpListener::from_std(listener))
        .map_err(|source| ControlError::Socket {
            socket: "admin",
            source,
        })
}
