//! `bartizan echo`: the built-in test workload, so that an example needs nothing installed.
//!
//! One process listens for HTTP/1.1, HTTP/2 (prior knowledge), gRPC and line-based TCP, and can hand on what it gets:
//! with `--then` a POST (or a gRPC message) is sent on, with `--from` a GET is answered by asking another, with neither it
//! tells the caller what it saw. It is an ordinary program that knows nothing of the mesh.

mod client;
mod message;
mod server;
mod store;

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use clap::Args;

pub(crate) use client::{Scheme, Target, send, send_from};
use message::{frame_message, unframe_message};

/// Runs a test service.
#[derive(Args, Debug, Clone)]
pub(crate) struct EchoArgs {
    /// Where to listen: `http://0.0.0.0:8080` (HTTP/1.1 and h2c, gRPC too), `tcp://0.0.0.0:7000` (a line is echoed), or
    /// `store://0.0.0.0:7000` (`PUT text`, `LIST`)
    #[arg(long = "listen", value_name = "URL", required = true)]
    listen: Vec<String>,
    /// The name that it answers with
    #[arg(long, default_value = "echo")]
    name: String,
    /// Where a POST is sent on to: http://, h2c://, grpc:// or store://
    #[arg(long, value_name = "URL")]
    then: Option<String>,
    /// Where a GET is answered from: http://, h2c:// or store://
    #[arg(long, value_name = "URL")]
    from: Option<String>,
    /// A field that is added to JSON objects on their way (KEY=VALUE)
    #[arg(long = "enrich", value_name = "KEY=VALUE")]
    enrich: Vec<String>,
    /// A request header that answers show, where something is handed on
    #[arg(long = "show", value_name = "HEADER")]
    show: Vec<String>,
}

/// What a service does with a request.
#[derive(Debug)]
pub(crate) struct Behaviour {
    name: String,
    then: Option<Target>,
    from: Option<Target>,
    enrich: Vec<(String, String)>,
    show: Vec<String>,
    store: store::Store,
}

/// Runs until the process is told to end; connections that are open then are served to their end.
///
/// # Errors
/// When an address cannot be parsed or listened on.
pub(crate) async fn run(args: EchoArgs) -> anyhow::Result<()> {
    let mut enrich = Vec::new();
    for pair in &args.enrich {
        let Some((key, value)) = pair.split_once('=') else {
            bail!("--enrich `{pair}`: it has the form KEY=VALUE");
        };
        enrich.push((key.to_owned(), value.to_owned()));
    }
    let behaviour = Arc::new(Behaviour {
        name: args.name,
        then: args.then.as_deref().map(Target::parse).transpose()?,
        from: args.from.as_deref().map(Target::parse).transpose()?,
        enrich,
        show: args.show.iter().map(|name| name.to_ascii_lowercase()).collect(),
        store: store::Store::default(),
    });
    let mut tasks = tokio::task::JoinSet::new();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    for url in &args.listen {
        let Some((scheme, address)) = url.split_once("://") else {
            bail!("--listen `{url}`: it has the form http://0.0.0.0:8080");
        };
        let address: SocketAddr = address
            .parse()
            .with_context(|| format!("--listen `{url}`: `{address}` is not an address with a port"))?;
        let listener = tokio::net::TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address}"))?;
        println!("{} listens on {url}", behaviour.name);
        let (behaviour, stopped) = (Arc::clone(&behaviour), stopped.clone());
        match scheme {
            "http" => tasks.spawn(server::serve_http(listener, behaviour, stopped)),
            "tcp" => tasks.spawn(server::serve_lines(listener, behaviour, stopped)),
            "store" => tasks.spawn(store::serve(listener, behaviour, stopped)),
            other => bail!("--listen `{url}`: `{other}` is none of http, tcp, store"),
        };
    }
    crate::signals::ended().await?;
    stop.send(true).ok();
    while tasks.join_next().await.is_some() {}
    Ok(())
}
