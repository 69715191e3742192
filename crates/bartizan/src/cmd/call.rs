//! `bartizan call`: one request, and what happened to it hop by hop.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde_json::{Value, json};

use super::can::headers;
use super::echo::{Scheme, Target, send_from};
use crate::args::{CallArgs, Output};
use crate::exit::DENIED;
use crate::hops;
use crate::place::Place;
use crate::{text, with_runtime};

/// The proxies write their logs a moment after the answer; this long is waited for the first line.
const LOGS_WITHIN: Duration = Duration::from_millis(1500);
/// Then this long for the others.
const LOGS_SETTLE: Duration = Duration::from_millis(250);

/// Makes the request, from here or as a workload.
///
/// # Errors
/// When the URL cannot be read or the request cannot be sent.
pub(crate) fn run(place: &Place, args: &CallArgs) -> anyhow::Result<ExitCode> {
    let target = Target::parse(&args.url)?;
    if args.bare {
        let result = with_runtime(bare(args, &target))?;
        println!("{result}");
        return Ok(ExitCode::SUCCESS);
    }
    let id = request_id()?;
    let mark = hops::Mark::now(place);
    let result = match &args.identity {
        None => with_runtime(bare(&with_id(args, &id), &target))?,
        Some(identity) => as_workload(place, identity, &with_id(args, &id))?,
    };
    let local = result.get("local").and_then(Value::as_str);
    let hops = if place.is_occupied() && local.is_some() {
        logged(place, &mark, &id, local)
    } else {
        Vec::new()
    };
    // A gateway takes no id from outside, so the hops' own is the one to ask with.
    let id = hops
        .first()
        .map(|hop| hop.text("request_id"))
        .filter(|id| !id.is_empty())
        .unwrap_or(id);
    let failed = result.get("error").is_some();
    let denied = hops.iter().any(hops::Hop::is_denied);
    match args.output {
        Output::Json => println!(
            "{}",
            json!({
                "requestId": id,
                "result": result,
                "hops": hops.iter().map(|hop| json!({ "writtenBy": hop.written_by, "record": hop.record })).collect::<Vec<_>>(),
            })
        ),
        Output::Text => {
            print!("{}", drawn(args, &result));
            if !hops.is_empty() {
                match target.scheme {
                    Scheme::Http | Scheme::H2c | Scheme::Grpc => println!("\nhops (x-request-id {id}):"),
                    Scheme::Tcp | Scheme::Store => println!("\nhops:"),
                }
                for hop in &hops {
                    println!("  {}", hop.line());
                }
            }
            if let Some(denied) = hops.iter().find(|hop| hop.is_denied()) {
                println!(
                    "\nwhy: {} explain {}",
                    crate::up::named(place),
                    denied.text("decision_id")
                );
            }
        }
    }
    Ok(if denied {
        ExitCode::from(DENIED)
    } else if failed {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn request_id() -> anyhow::Result<String> {
    let token = crate::up::token()?;
    let part = |from: usize, to: usize| token.get(from..to).unwrap_or_default().to_owned();
    Ok(format!(
        "{}-{}-4{}-a{}-{}",
        part(0, 8),
        part(8, 12),
        part(12, 15),
        part(15, 18),
        part(18, 30)
    ))
}

fn with_id(args: &CallArgs, id: &str) -> CallArgs {
    let mut args = args.clone();
    args.headers.push(format!("x-request-id: {id}"));
    args
}

/// The request itself: the answer, or the error, as JSON.
async fn bare(args: &CallArgs, target: &Target) -> anyhow::Result<Value> {
    let mut map = HeaderMap::new();
    for (name, value) in headers(&args.headers)? {
        let name: HeaderName = name.parse().with_context(|| format!("header name `{name}`"))?;
        map.append(
            name,
            HeaderValue::from_str(&value).with_context(|| format!("header value `{value}`"))?,
        );
    }
    let mut method: Method = args
        .method
        .parse()
        .with_context(|| format!("method `{}`", args.method))?;
    if args.data.is_some() && method == Method::GET {
        method = Method::POST;
    }
    let body = Bytes::from(args.data.clone().unwrap_or_default());
    let mut local = None;
    let result = send_from(target, method, map, body, &mut local).await;
    Ok(match result {
        Ok(answer) => {
            let http = !matches!(target.scheme, Scheme::Tcp | Scheme::Store);
            let headers: Vec<Value> = answer
                .headers
                .iter()
                .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
                .collect();
            json!({
                "local": local,
                "peer": answer.peer,
                "connectedMicros": u64::try_from(answer.connected.as_micros()).unwrap_or(u64::MAX),
                "finishedMicros": u64::try_from(answer.finished.as_micros()).unwrap_or(u64::MAX),
                "status": http.then(|| answer.status.as_u16()),
                "grpcStatus": answer.grpc_status,
                "headers": headers,
                "body": String::from_utf8_lossy(&answer.body),
            })
        }
        Err(error) => json!({ "local": local, "error": format!("{error:#}") }),
    })
}

/// The same request from inside the mesh: this binary again, as a workload of that identity.
fn as_workload(place: &Place, identity: &str, args: &CallArgs) -> anyhow::Result<Value> {
    place.must_run()?;
    let mut command = std::process::Command::new(std::env::current_exe().context("find this program")?);
    command
        .args(["--mesh", &place.mesh, "--state"])
        .arg(&place.state)
        .args([
            "run",
            "--as",
            identity,
            "--",
            bartizan_sandbox::CONTAINER_BINARY,
            "call",
            "--bare",
            "-X",
            &args.method,
        ]);
    for header in &args.headers {
        command.args(["-H", header]);
    }
    if let Some(data) = &args.data {
        command.args(["-d", data]);
    }
    let output = command
        .arg(&args.url)
        .stdin(std::process::Stdio::null())
        .output()
        .context("run this program as a workload")?;
    if !output.status.success() {
        let words = String::from_utf8_lossy(&output.stderr);
        bail!("{}", words.trim().trim_start_matches("error: "));
    }
    serde_json::from_slice(&output.stdout).context("read the answer of the call inside the mesh")
}

fn logged(place: &Place, mark: &hops::Mark, id: &str, local: Option<&str>) -> Vec<hops::Hop> {
    let deadline = Instant::now() + LOGS_WITHIN;
    while mark.since(place, id, local).is_empty() {
        if Instant::now() > deadline {
            return Vec::new();
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(LOGS_SETTLE);
    mark.since(place, id, local)
}

fn drawn(args: &CallArgs, result: &Value) -> String {
    let field = |name: &str| result.get(name).cloned().unwrap_or_default();
    if let Some(error) = result.get("error").and_then(Value::as_str) {
        return format!("{}: {error}\n", args.url);
    }
    let micros = |name: &str| text::duration(Duration::from_micros(field(name).as_u64().unwrap_or_default()));
    let mut out = format!(
        "{} at {}: connected in {}, answered in {}\n",
        args.url,
        field("peer").as_str().unwrap_or_default(),
        micros("connectedMicros"),
        micros("finishedMicros")
    );
    if let Some(status) = field("status").as_u64() {
        out += &format!("status {status}\n");
    }
    if let Some(status) = field("grpcStatus").as_str() {
        out += &format!("grpc-status {status}\n");
    }
    for header in field("headers").as_array().into_iter().flatten() {
        if let (Some(name), Some(value)) = (
            header.get(0).and_then(Value::as_str),
            header.get(1).and_then(Value::as_str),
        ) {
            out += &format!("  {name}: {value}\n");
        }
    }
    out += field("body").as_str().unwrap_or_default().trim_end();
    out.push('\n');
    out
}
