//! `bartizan can`: whether one workload may call another, who may call it, what it may reach, and the whole matrix, on the
//! running mesh or on a folder.

mod directions;
mod matrix;
mod ways;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use bartizan_decide::{Destination, backend};
use bartizan_types::{Name, NamespacedName, Peer, Port, SpiffeId, TrustDomain};
use serde_json::{Map, Value, json};

use super::explain::{drawn, places};
use crate::args::{CanArgs, CanOutput};
use crate::evaluate::{HttpQuestion, Picture, Question};
use crate::exit::{DENIED, Exit, USAGE};
use crate::folder::Folder;
use crate::place::Place;
use crate::{admin, with_runtime};

/// Says whether, and which line of which file says so.
///
/// # Errors
/// When the caller or the callee is not known, or the folder has errors.
pub(crate) fn run(place: impl FnOnce() -> anyhow::Result<Place>, args: &CanArgs) -> anyhow::Result<ExitCode> {
    let picture = if args.folder.is_empty() {
        let place = place()?;
        place.must_run()?;
        Picture::of_dump(&with_runtime(admin::dump(&place, ""))?)?
    } else {
        Picture::of_folder(
            Folder::read(&args.folder, &args.documents)?,
            args.documents.strict,
        )?
    };
    if args.who.is_some() || args.reach.is_some() || args.matrix {
        return mapped(&picture, args);
    }
    let (Some(from), Some(to)) = (&args.from, &args.to) else {
        return Err(Exit::error(
            USAGE,
            "say who calls whom, or ask with --who, --reach or --matrix",
        ));
    };
    let peer = caller(from, picture.trust_domain())?;
    let headers = headers(&args.headers)?;
    let claims = claims(&args.claims)?;
    if !args.path.starts_with('/') && args.path != "*" {
        return Err(Exit::error(
            USAGE,
            format!("path `{}`: it begins with `/`, such as /v1/things", args.path),
        ));
    }
    let callee = Callee::find(&picture, to)?;
    if let Some(identity) = peer.identity()
        && !picture
            .snapshot()
            .workloads()
            .any(|workload| workload.identity == *identity)
    {
        eprintln!("note: no workload has the identity {} now", identity.principal());
    }
    let http = args.method.as_deref().map(|method| HttpQuestion {
        method,
        authority: Some(&callee.authority),
        target: &args.path,
        headers: &headers,
        claims: claims.as_ref(),
    });
    let judged = picture.judge(&Question {
        peer: &peer,
        source: args.source_ip,
        remote: args.remote_ip,
        at: args.at.unwrap_or_else(now),
        callee: &callee.workload,
        port: callee.port,
        http,
    })?;
    let explanation = &judged.explanation;
    match args.output {
        CanOutput::Json => println!(
            "{}",
            json!({
                "from": from,
                "to": callee.workload.to_string(),
                "port": callee.port,
                "allowed": explanation.allowed,
                "status": judged.status,
                "asksAuthorizer": judged.asks,
                "explanation": explanation,
                "places": places(explanation, &picture.positions),
            })
        ),
        CanOutput::Csv | CanOutput::Svg => return Err(only_the_matrix()),
        CanOutput::Text => {
            if claims.is_some() && picture.token_rules(&callee.workload).next().is_none() {
                println!("the claims count for nothing here: no RequestAuthentication selects the workload");
            }
            if judged.is_token_refused {
                println!("denied: {}", explanation.reason);
            } else {
                print!("{}", drawn(explanation, &picture.positions));
            }
        }
    }
    Ok(if explanation.allowed {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(DENIED)
    })
}

/// Who may call a callee, what a caller may reach, or the whole matrix: over all requests.
fn mapped(picture: &Picture, args: &CanArgs) -> anyhow::Result<ExitCode> {
    if matches!(args.output, CanOutput::Csv | CanOutput::Svg) && !args.matrix {
        return Err(only_the_matrix());
    }
    let map = ways::Map::of(picture);
    for problem in &map.problems {
        eprintln!("warning: not looked through: {problem}");
    }
    let (text, json) = match (&args.who, &args.reach) {
        (Some(to), _) => directions::who(&map, &callee_group(picture, to)?),
        (None, Some(from)) => directions::reach(&map, from, args.transitive)?,
        (None, None) => (
            match args.output {
                CanOutput::Csv => matrix::csv(&map),
                CanOutput::Svg => matrix::svg(&map),
                CanOutput::Text | CanOutput::Json => matrix::table(&map),
            },
            matrix::to_json(&map),
        ),
    };
    match args.output {
        CanOutput::Json => println!("{json}"),
        CanOutput::Text | CanOutput::Csv | CanOutput::Svg => print!("{text}"),
    }
    Ok(ExitCode::SUCCESS)
}

fn only_the_matrix() -> anyhow::Error {
    Exit::error(USAGE, "only the matrix is told as CSV or SVG")
}

/// `NAMESPACE/CONTROLLER` of who is called.
fn callee_group(picture: &Picture, text: &str) -> anyhow::Result<String> {
    Ok(ways::controller(picture, &Callee::find(picture, text)?.workload))
}

/// `NAMESPACE/SERVICEACCOUNT`, `spiffe://…`, or `outside`.
///
/// # Errors
/// When it is none of these.
pub(crate) fn caller(text: &str, trust_domain: Option<&TrustDomain>) -> anyhow::Result<Peer> {
    if text == "outside" {
        return Ok(Peer::Plaintext);
    }
    if text.starts_with("spiffe://") {
        return Ok(Peer::Authenticated(SpiffeId::parse(text)?));
    }
    let Some((namespace, account)) = text.split_once('/') else {
        return Err(Exit::error(
            USAGE,
            format!("caller `{text}`: it has the form NAMESPACE/SERVICEACCOUNT, spiffe://…, or `outside`"),
        ));
    };
    let trust_domain = trust_domain.context("the mesh has told nothing yet")?;
    let (namespace, account) = (Name::parse(namespace)?, Name::parse(account)?);
    Ok(Peer::Authenticated(SpiffeId::workload(
        trust_domain,
        &namespace,
        &account,
    )))
}

pub(crate) fn headers(texts: &[String]) -> anyhow::Result<Vec<(String, String)>> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text
                .split_once(':')
                .with_context(|| format!("header `{text}`: it has the form NAME: VALUE"))?;
            Ok((name.trim().to_ascii_lowercase(), value.trim().to_owned()))
        })
        .collect()
}

/// The claims of `--claim`; none when there are none.
pub(crate) fn claims(texts: &[String]) -> anyhow::Result<Option<Map<String, Value>>> {
    if texts.is_empty() {
        return Ok(None);
    }
    let claims = texts.iter().map(|text| {
        let (name, value) = super::token::claim(text)?;
        Ok((name.to_owned(), value))
    });
    claims.collect::<anyhow::Result<_>>().map(Some)
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_secs()).unwrap_or_default())
}

fn unknown_service(snapshot: &bartizan_mesh::Snapshot, name: &str) -> String {
    let mut known: Vec<String> = snapshot
        .services()
        .map(|service| format!("{}.{}", service.name.name, service.name.namespace))
        .collect();
    known.sort_unstable();
    known.truncate(20);
    let known = if known.is_empty() {
        "there is none".to_owned()
    } else {
        format!("such as {}", known.join(", "))
    };
    format!(
        "no service `{name}` is known; write NAME.NAMESPACE[:PORT] of a service ({known}), or NAMESPACE/NAME[:PORT] of a workload or gateway"
    )
}

/// Who is called.
pub(crate) struct Callee {
    /// The workload that answers.
    pub(crate) workload: NamespacedName,
    /// Its port.
    pub(crate) port: Port,
    /// What a client writes into `Host`.
    pub(crate) authority: String,
}

impl Callee {
    /// `NAME.NAMESPACE[:PORT]` of a service (any of its DNS names), or `NAMESPACE/WORKLOAD[:PORT]`.
    ///
    /// # Errors
    /// When there is no such callee.
    pub(crate) fn find(picture: &Picture, text: &str) -> anyhow::Result<Self> {
        let snapshot = picture.snapshot();
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name, Some(Port::parse(port)?)),
            None => (text, None),
        };
        if name.contains('/') {
            let named = NamespacedName::parse(name)?;
            let workload = snapshot
                .workloads()
                .find(|workload| {
                    workload.name == named
                        || (workload.name.namespace == named.namespace
                            && workload.workload_name == named.name)
                        || snapshot
                            .view(&workload.name)
                            .is_some_and(|view| view.gateway.as_ref() == Some(&named))
                })
                .with_context(|| format!("no workload `{name}` is known"))?;
            let port = match port {
                Some(port) => port,
                None => snapshot
                    .view(&workload.name)
                    .and_then(|view| view.inbound.first())
                    .map(|inbound| inbound.port)
                    .with_context(|| {
                        format!("workload `{name}` has no port that a service targets: write {name}:PORT")
                    })?,
            };
            return Ok(Self {
                workload: workload.name.clone(),
                port,
                authority: format!("{name}:{port}"),
            });
        }
        let default = Name::parse("default")?;
        let service = snapshot
            .service_named(&default, &name.to_ascii_lowercase())
            .with_context(|| unknown_service(snapshot, name))?;
        let port = match port {
            Some(port) => port,
            None => service
                .ports
                .first()
                .map(|port| port.port)
                .with_context(|| format!("service `{name}` has no ports"))?,
        };
        let authority = format!("{name}:{port}");
        let endpoints = match backend(snapshot, &service.name, port) {
            Destination::Service { endpoints, .. } => endpoints,
            Destination::Workload { .. } => {
                bail!("service `{name}` is a name for a workload: write NAMESPACE/WORKLOAD")
            }
            Destination::Refused(refusal) => bail!("{authority}: {refusal}"),
        };
        let endpoint = endpoints
            .endpoints
            .iter()
            .max_by_key(|endpoint| endpoint.ready)
            .with_context(|| format!("service `{name}` has no endpoints: its selector selects nothing"))?;
        let target = endpoint.ports.get(&port).copied().unwrap_or(port);
        Ok(Self {
            workload: endpoint.workload.clone(),
            port: target,
            authority,
        })
    }
}
