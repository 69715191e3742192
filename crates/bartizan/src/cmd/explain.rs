//! `bartizan explain`: why a request was denied or allowed, from the proxy's log, what its proxy was told, and the same
//! code that decided.

mod draw;
mod user;

pub(crate) use draw::{drawn, places};

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bartizan_types::{NamespacedName, Peer, Port, SpiffeId};
use serde_json::json;

use crate::args::{ExplainArgs, Output};
use crate::evaluate::{HttpQuestion, Judged, Picture, Question};
use crate::hops::{self, Hop};
use crate::place::Place;
use crate::{admin, with_runtime};

/// A line of the access log is on disk within this time.
const LOGS_WITHIN: Duration = Duration::from_millis(1500);
/// Proxies write their logs at least this often.
const LOGS_FLUSHED: Duration = Duration::from_millis(200);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Finds the request's hops and explains the one that was refused, or the last one that was decided.
///
/// # Errors
/// When nothing with this id is in the logs.
pub(crate) fn run(place: &Place, args: &ExplainArgs) -> anyhow::Result<ExitCode> {
    let hops = look(place, args.id.as_deref());
    if hops.is_empty() && args.last_denied {
        bail!("nothing was denied yet");
    }
    let Some(judged) = hops
        .iter()
        .find(|hop| hop.is_denied())
        .or_else(|| hops.iter().rev().find(|hop| !hop.text("decision").is_empty()))
        .or(hops.last())
    else {
        bail!(
            "nothing with the id `{}` is in the access logs below {}",
            args.id.as_deref().unwrap_or_default(),
            place.logs().display()
        );
    };
    let answer = explain(place, judged);
    match args.output {
        Output::Json => {
            let (explanation, positions, problem) = match &answer {
                Ok(answer) => (
                    Some(&answer.judged.explanation),
                    Some(&answer.picture.positions),
                    None,
                ),
                Err(error) => (None, None, Some(format!("{error:#}"))),
            };
            println!(
                "{}",
                json!({
                    "hops": hops.iter().map(|hop| json!({ "writtenBy": hop.written_by, "record": hop.record })).collect::<Vec<_>>(),
                    "judged": judged.record,
                    "explanation": explanation,
                    "places": explanation.zip(positions).map(|(explanation, positions)| places(explanation, positions)),
                    "problem": problem,
                })
            );
        }
        Output::Text => {
            println!("hops:");
            for hop in &hops {
                println!("  {}", hop.line());
            }
            println!();
            match answer {
                Ok(answer) => print!("{}", answer.drawn(judged)),
                Err(error) => println!("how it would be decided now cannot be told: {error:#}"),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The hops of a request. The proxies write their logs a moment after the answer, so a question that comes at once waits.
fn look(place: &Place, id: Option<&str>) -> Vec<Hop> {
    let deadline = Instant::now() + LOGS_WITHIN;
    if id.is_none() && place.is_occupied() {
        // An older denial is found at once: give the newest the time to be written.
        std::thread::sleep(LOGS_FLUSHED);
    }
    loop {
        let found = match id {
            Some(id) => hops::find(place, id),
            None => match hops::last_denied(place) {
                Some(denied) => match denied.text("request_id") {
                    id if id.is_empty() => vec![denied],
                    id => hops::find(place, &id),
                },
                None => Vec::new(),
            },
        };
        if !found.is_empty() || !place.is_occupied() || Instant::now() > deadline {
            return found;
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// A line of a log, judged again.
struct Answer {
    judged: Judged,
    picture: Picture,
    callee: NamespacedName,
}

impl Answer {
    fn drawn(&self, hop: &Hop) -> String {
        let mut out = String::new();
        let explanation = &self.judged.explanation;
        let was_refused = !hop.text("request_auth_error").is_empty();
        if was_refused {
            // The token itself is not written down, so it is not judged again.
            out += &format!(
                "denied: {}: {}\n",
                hop.text("response_code"),
                hop.text("response_code_details")
            );
        } else if explanation.allowed && hop.is_denied() {
            out += &match hop.text("authorizer") {
                answer if answer.is_empty() => {
                    "since then something has changed; now it would be:\n".to_owned()
                }
                answer => format!("policy lets it pass, and the authorizer did not: {answer}\n"),
            };
        }
        out += &user::drawn(
            &self.picture,
            &self.callee,
            self.judged.user.as_deref(),
            Some(hop),
        );
        if !was_refused {
            out += &drawn(explanation, &self.picture.positions);
        }
        out
    }
}

/// Judges again what this line of a log is about, by what the proxy is told now.
fn explain(place: &Place, hop: &Hop) -> anyhow::Result<Answer> {
    place.must_run()?;
    let writer = NamespacedName::parse(&hop.written_by)?;
    // Everything that any proxy is told: the writer may be gone, as what `bartizan run` started is.
    let picture = Picture::of_dump(&with_runtime(admin::dump(place, ""))?)?;
    let peer = match hop.text("source_principal") {
        principal if principal.is_empty() => Peer::Plaintext,
        principal => Peer::Authenticated(SpiffeId::parse(&principal)?),
    };
    let destination: std::net::SocketAddr = hop
        .text("downstream_local_address")
        .parse()
        .context("the log's line has no address that was called")?;
    let mut callee = writer.clone();
    let mut port = Port::new(u32::from(destination.port()))?;
    let gateway = picture
        .snapshot()
        .view(&writer)
        .and_then(|view| view.gateway.clone());
    if let Some(gateway) = gateway {
        // The host's address may stand for a listener with another port, and policies speak of the listener's.
        let status = with_runtime(admin::status(place))?;
        port = listener_port(&status, &gateway, destination)
            // Of an earlier run with another address: what its first listener would decide.
            .or_else(|| {
                picture
                    .snapshot()
                    .listeners_of(&gateway)
                    .next()
                    .map(|listener| listener.port)
            })
            .unwrap_or(port);
    } else if hop.text("reporter") == "source" {
        // A sidecar refuses at the caller's side what policy can never let through; the callee's policies say why.
        (callee, port) = picture.behind(destination).with_context(|| {
            format!(
                "it was refused at the caller's side: {}",
                hop.text("response_code_details")
            )
        })?;
    }
    let source: Option<std::net::SocketAddr> = hop.text("downstream_remote_address").parse().ok();
    let (method, authority, path) = (hop.text("method"), hop.text("authority"), hop.text("path"));
    let headers = vec![
        ("user-agent".to_owned(), hop.text("user_agent")),
        ("x-request-id".to_owned(), hop.text("request_id")),
    ];
    let claims = user::claims(hop);
    let judged = picture.judge(&Question {
        peer: &peer,
        source: source.map(|source| source.ip()),
        remote: hop.text("remote_address").parse().ok(),
        at: user::time(hop),
        callee: &callee,
        port,
        http: (!method.is_empty()).then(|| HttpQuestion {
            method: &method,
            authority: Some(&authority),
            target: &path,
            headers: &headers,
            claims: claims.as_ref(),
        }),
    })?;
    Ok(Answer {
        judged,
        picture,
        callee,
    })
}

fn listener_port(
    status: &bartizan_control::Status,
    gateway: &NamespacedName,
    called: std::net::SocketAddr,
) -> Option<Port> {
    let gateway = status.gateways.iter().find(|other| other.name == *gateway)?;
    let of = |same_ip: bool| {
        gateway.listeners.iter().find(move |listen| {
            listen.address.port() == called.port() && (!same_ip || listen.address.ip() == called.ip())
        })
    };
    Some(of(true).or_else(|| of(false))?.port)
}
