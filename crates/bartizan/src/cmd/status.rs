//! `bartizan status`: what runs, with identities, readiness, mTLS state and versions.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::bail;
use bartizan_control::Status;
use bartizan_control::status::{KeySetStatus, ServiceStatus, WorkloadStatus};
use bartizan_mesh::MtlsMode;
use bartizan_types::PodPhase;
use serde_json::{Value, json};

use crate::args::{Output, StatusArgs};
use crate::place::Place;
use crate::text::table;
use crate::{admin, with_runtime};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Prints the status, or what proxies are told.
///
/// # Errors
/// When no mesh runs here, or `--wait` ends before everything is ready.
pub(crate) fn run(place: &Place, args: &StatusArgs) -> anyhow::Result<ExitCode> {
    place.must_run()?;
    if let Some(workload) = &args.dump {
        let workload = if workload == "all" {
            String::new()
        } else {
            let status = with_runtime(admin::status(place))?;
            let pod = status
                .workloads
                .iter()
                .map(|pod| &pod.name)
                .find(|name| super::logs::fits(workload, name.namespace.as_str(), name.name.as_str()));
            match pod {
                Some(pod) => pod.to_string(),
                None => bail!("no workload `{workload}` is known; `bartizan status` lists them"),
            }
        };
        let dump = with_runtime(admin::dump(place, &workload))?;
        let resources: serde_json::Map<String, Value> = dump
            .resources
            .iter()
            .map(|resource| Ok((resource.key.clone(), serde_json::from_slice(&resource.body)?)))
            .collect::<Result<_, serde_json::Error>>()?;
        println!(
            "{}",
            serde_json::to_string_pretty(&json!({ "version": dump.version, "resources": resources }))?
        );
        return Ok(ExitCode::SUCCESS);
    }
    let deadline = args.wait.map(|wait| Instant::now() + wait);
    let status = with_runtime(async {
        loop {
            let status = admin::status(place).await?;
            match deadline {
                Some(deadline) if !settled(&status) => {
                    if Instant::now() > deadline {
                        bail!("{}", missing(&status));
                    }
                    tokio::time::sleep(LOOK_EVERY).await;
                }
                Some(_) | None => return Ok(status),
            }
        }
    })?;
    match args.output {
        Output::Json => println!("{}", serde_json::to_string_pretty(&status)?),
        Output::Text => print!("{}", drawn(&status)),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether every workload is ready, every proxy serves the newest version, and every issuer was asked for its keys, whatever
/// it has answered.
pub(crate) fn settled(status: &Status) -> bool {
    status.node.is_some()
        && !status.refused
        && status.key_sets.iter().all(was_asked)
        && status.workloads.iter().all(|workload| is_up(status, workload))
}

fn was_asked(set: &KeySetStatus) -> bool {
    set.checked_at.is_some() || set.problem.is_some()
}

fn is_up(status: &Status, workload: &WorkloadStatus) -> bool {
    let over = matches!(workload.phase, Some(PodPhase::Succeeded));
    let serves = workload
        .proxy
        .as_ref()
        .is_some_and(|proxy| proxy.acknowledged == Some(status.version));
    over || (workload.ready && serves)
}

/// What is not up, a line each.
pub(crate) fn missing(status: &Status) -> String {
    let mut out = String::from("not everything is up");
    if status.refused {
        out += ": the documents have errors; an older version is served";
    }
    for workload in status
        .workloads
        .iter()
        .filter(|workload| !is_up(status, workload))
    {
        let why = match (&workload.message, &workload.proxy) {
            (Some(message), _) => message.clone(),
            (None, Some(proxy)) => match &proxy.refused {
                Some(refused) => format!("its proxy refuses version {}: {refused}", status.version),
                None => state(status, workload),
            },
            (None, None) => state(status, workload),
        };
        out += &format!("\n  {}: {why}", workload.name);
    }
    for set in status.key_sets.iter().filter(|set| !was_asked(set)) {
        out += &format!("\n  {}: its keys are being fetched", set.source);
    }
    out
}

fn state(status: &Status, workload: &WorkloadStatus) -> String {
    let behind = workload
        .proxy
        .as_ref()
        .is_some_and(|proxy| proxy.acknowledged != Some(status.version));
    match workload.phase {
        None => "waiting".to_owned(),
        Some(PodPhase::Pending) => "starting".to_owned(),
        Some(PodPhase::Running) if workload.ready && behind => "ready, an older version".to_owned(),
        Some(PodPhase::Running) if workload.ready => "ready".to_owned(),
        Some(PodPhase::Running) => "not ready".to_owned(),
        Some(PodPhase::Terminating) => "ending".to_owned(),
        Some(PodPhase::Succeeded) => "done".to_owned(),
        Some(PodPhase::Failed) => "failed".to_owned(),
    }
}

/// The workloads as a table.
pub(crate) fn workloads(status: &Status) -> String {
    let rows: Vec<Vec<String>> = status
        .workloads
        .iter()
        .map(|workload| {
            let proxy = workload.proxy.as_ref();
            let away = if proxy.is_some_and(|proxy| !proxy.connected) {
                ", on its own"
            } else {
                ""
            };
            vec![
                workload.name.to_string(),
                workload.identity.principal().to_owned(),
                workload
                    .address
                    .map(|address| address.to_string())
                    .unwrap_or_default(),
                state(status, workload),
                mtls(workload),
                proxy
                    .and_then(|proxy| proxy.acknowledged)
                    .map_or_else(|| "-".to_owned(), |version| format!("{version}{away}")),
            ]
        })
        .collect();
    let mut out = fitting(
        &["WORKLOAD", "IDENTITY", "ADDRESS", "STATE", "MTLS", "VERSION"],
        &rows,
        super::run::terminal_width(),
    );
    let why = status
        .workloads
        .iter()
        .filter(|workload| !workload.ready)
        .filter_map(|workload| Some(format!("  {}: {}\n", workload.name, workload.message.as_ref()?)));
    let why: String = why.collect();
    if !why.is_empty() {
        out += &format!("\nnot ready:\n{why}");
    }
    out
}

/// A table; where the terminal is too narrow for it, the second column stands below each row.
fn fitting(head: &[&str], rows: &[Vec<String>], width: Option<usize>) -> String {
    let whole = table(head, rows);
    if width.is_none_or(|width| whole.lines().all(|line| line.chars().count() <= width)) {
        return whole;
    }
    let but_second = |cells: &[String]| -> Vec<String> {
        let kept = cells.iter().enumerate().filter(|(column, _)| *column != 1);
        kept.map(|(_, cell)| cell.clone()).collect()
    };
    let head: Vec<&str> = head
        .iter()
        .enumerate()
        .filter_map(|(column, cell)| (column != 1).then_some(*cell))
        .collect();
    let narrow: Vec<Vec<String>> = rows.iter().map(|row| but_second(row)).collect();
    let narrow = table(&head, &narrow);
    let mut lines = narrow.lines();
    let mut out = format!("{}\n", lines.next().unwrap_or_default());
    for (line, row) in lines.zip(rows) {
        let below = row.get(1).map(String::as_str).unwrap_or_default();
        out += &format!("{line}\n  {below}\n");
    }
    out
}

/// The mode, and ports whose mode differs: `STRICT, 9000 PERMISSIVE`.
fn mtls(workload: &WorkloadStatus) -> String {
    let mut out = mode(workload.mtls).to_owned();
    for (port, other) in &workload.port_mtls {
        out += &format!(", {port} {}", mode(*other));
    }
    out
}

fn mode(mode: MtlsMode) -> &'static str {
    match mode {
        MtlsMode::Strict => "STRICT",
        MtlsMode::Permissive => "PERMISSIVE",
        MtlsMode::Disable => "DISABLE",
    }
}

fn ports(service: &ServiceStatus) -> String {
    let ports: Vec<String> = service
        .ports
        .iter()
        .map(|port| match &port.name {
            Some(name) => format!("{} {name}", port.port),
            None => port.port.to_string(),
        })
        .collect();
    ports.join(", ")
}

fn drawn(status: &Status) -> String {
    let mut out = format!(
        "version {}, trust domain {}, profile {}\n{}: {}\n\n{}",
        status.version,
        status.trust_domain,
        status.profile,
        status.authority.kind,
        status.authority.notice,
        workloads(status)
    );
    if !status.gateways.is_empty() {
        let rows: Vec<Vec<String>> = status
            .gateways
            .iter()
            .map(|gateway| {
                let addresses: Vec<String> = gateway
                    .addresses
                    .iter()
                    .map(|address| format!("http://{address}"))
                    .collect();
                vec![gateway.name.to_string(), addresses.join(" ")]
            })
            .collect();
        out += &format!("\n{}", table(&["GATEWAY", "ADDRESS"], &rows));
    }
    let rows: Vec<Vec<String>> = status
        .services
        .iter()
        .map(|service| {
            vec![
                service.hostname.clone(),
                ports(service),
                format!("{}/{}", service.ready, service.endpoints),
            ]
        })
        .collect();
    out += &format!("\n{}", table(&["SERVICE", "PORTS", "READY"], &rows));
    out += &key_sets(status, now());
    if status.refused {
        out += "\nthe documents on disk have errors; the version above is served until they are mended\n";
    }
    for finding in &status.findings {
        out += &format!("\n{}", finding.text);
    }
    out
}

/// The keys of issuers as a table, then what is wrong with them; nothing when no document speaks of any.
fn key_sets(status: &Status, now: i64) -> String {
    if status.key_sets.is_empty() {
        return String::new();
    }
    let rows: Vec<Vec<String>> = status
        .key_sets
        .iter()
        .map(|set| {
            vec![
                set.source.clone(),
                set.keys.to_string(),
                age(set.checked_at, now),
                age(set.failing_since, now),
            ]
        })
        .collect();
    let mut out = format!(
        "\n{}",
        table(&["KEYS OF", "KEYS", "CONFIRMED AGO", "AWAY FOR"], &rows)
    );
    for set in &status.key_sets {
        if let Some(problem) = &set.problem {
            out += &format!("  {}: {problem}", set.source);
            out += match (set.evicted, set.keys) {
                (true, _) => "; its keys are too old to be believed, and its tokens are refused\n",
                (false, 0) => "; its tokens are refused\n",
                (false, _) => "; the keys above are used\n",
            };
        }
        for skipped in &set.skipped {
            out += &format!("  {}: not used: {skipped}\n", set.source);
        }
    }
    out
}

fn now() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |passed| i64::try_from(passed.as_secs()).unwrap_or(i64::MAX))
}

/// How long ago, in the largest unit that says something.
fn age(at: Option<i64>, now: i64) -> String {
    let Some(at) = at else {
        return "-".to_owned();
    };
    let seconds = now.saturating_sub(at).max(0);
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn ages_are_in_the_largest_unit_that_says_something() {
        for (at, text) in [
            (Some(1_000_000), "0 s"),
            (Some(1_000_010), "0 s"),
            (Some(999_881), "119 s"),
            (Some(999_880), "2 min"),
            (Some(992_800), "2 h"),
            (Some(827_200), "2 d"),
            (None, "-"),
        ] {
            assert_eq!(super::age(at, 1_000_000), text);
        }
    }

    #[test]
    fn a_narrow_terminal_gets_the_second_column_below() {
        let rows = [vec![
            "shop/cart-0".to_owned(),
            "cluster.local/ns/shop/sa/cart".to_owned(),
            "ready".to_owned(),
        ]];
        let head = ["WORKLOAD", "IDENTITY", "STATE"];
        let whole = super::fitting(&head, &rows, Some(80));
        assert_eq!(whole, super::fitting(&head, &rows, None));
        assert_eq!(whole.lines().count(), 2);
        assert_eq!(
            super::fitting(&head, &rows, Some(40)),
            "WORKLOAD     STATE\nshop/cart-0  ready\n  cluster.local/ns/shop/sa/cart\n"
        );
    }
}
