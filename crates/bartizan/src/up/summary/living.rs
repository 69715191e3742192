//! What `up` says after its summary: a line for each change of the mesh, and in a terminal a last line that lives.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bartizan_control::Status;
use bartizan_control::status::WorkloadStatus;
use bartizan_types::{NamespacedName, PodPhase};

use super::Progress;
use crate::admin;
use crate::cmd::status::settled;
use crate::place::Place;

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Tells of changes for as long as it is driven.
pub(super) async fn tell(place: &Place, progress: &Progress, mut before: Status) {
    // The newest documents that were told of: only what every proxy serves counts as served.
    let mut told = before.accepted_at;
    let mut line = String::new();
    loop {
        if let Ok(now) = admin::status(place).await {
            let mut events = changes(&before, &now);
            if now.accepted_at != told && settled(&now) {
                told = now.accepted_at;
                events.push(format!(
                    "the changed documents are served by all {} proxies, version {}",
                    now.workloads.len(),
                    now.version
                ));
            }
            for event in events {
                progress.event(&format!("{} {event}", clock(SystemTime::now())));
                line.clear();
            }
            let lives = standing(&now);
            if lives != line {
                progress.stand(&lives);
                line = lives;
            }
            before = now;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The last line.
fn standing(status: &Status) -> String {
    let ready = status.workloads.iter().filter(|workload| workload.ready).count();
    let files = if status.refused { ", files have errors" } else { "" };
    format!(
        "{ready} of {} ready, version {}{files}; Ctrl-C ends it",
        status.workloads.len(),
        status.version
    )
}

/// What a person wants to know between two looks.
fn changes(before: &Status, now: &Status) -> Vec<String> {
    let mut events = Vec::new();
    if now.started_at != before.started_at {
        events.push("the control plane was started again".to_owned());
    }
    let errors = |status: &Status| -> Vec<String> {
        status
            .findings
            .iter()
            .filter(|finding| finding.is_error())
            .map(|finding| finding.text.clone())
            .collect()
    };
    let errors_now = errors(now);
    if now.refused && (!before.refused || errors_now != errors(before)) {
        let mut text = format!(
            "the documents have errors; version {} is served until they are mended",
            now.version
        );
        for error in errors_now {
            text += &format!("\n{}", error.trim_end());
        }
        events.push(text);
    } else if before.refused && !now.refused {
        events.push("the documents are without errors again".to_owned());
    }
    for workload in planned(now) {
        events.extend(of_workload(find(before, &workload.name), workload));
    }
    for workload in planned(before) {
        if find(now, &workload.name).is_none() {
            events.push(format!("{}: ended", workload.name));
        }
    }
    events
}

fn planned(status: &Status) -> impl Iterator<Item = &WorkloadStatus> {
    status.workloads.iter().filter(|workload| workload.planned)
}

fn find<'a>(status: &'a Status, name: &NamespacedName) -> Option<&'a WorkloadStatus> {
    planned(status).find(|workload| workload.name == *name)
}

fn of_workload(before: Option<&WorkloadStatus>, now: &WorkloadStatus) -> Vec<String> {
    let mut events = Vec::new();
    let mut say = |text: String| events.push(format!("{}: {text}", now.name));
    let was = |read: fn(&WorkloadStatus) -> bool| before.is_some_and(read);
    for container in &now.containers {
        let known = before
            .into_iter()
            .flat_map(|before| &before.containers)
            .find(|other| other.name == container.name);
        if known.is_some_and(|known| container.restarts > known.restarts) {
            let why = container
                .last_end
                .as_ref()
                .map_or_else(String::new, |end| format!(" ({end})"));
            say(format!("container `{}` was started again{why}", container.name));
        }
    }
    if before.is_some_and(|before| now.proxy_restarts > before.proxy_restarts) {
        say("its proxy was started again".to_owned());
    }
    if now.ready && !was(|before| before.ready) {
        say("ready".to_owned());
    } else if !now.ready {
        let message = now.message.as_deref();
        if was(|before| before.ready) {
            say(format!(
                "not ready: {}",
                message.unwrap_or("no reason is known yet")
            ));
        } else if let Some(message) = message
            && before.and_then(|before| before.message.as_deref()) != Some(message)
        {
            say(message.to_owned());
        } else if now.phase == Some(PodPhase::Succeeded)
            && before.and_then(|before| before.phase) != Some(PodPhase::Succeeded)
        {
            say("done".to_owned());
        }
    }
    events
}

/// The time of day in UTC.
fn clock(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs() % 86_400);
    format!(
        "{:02}:{:02}:{:02}Z",
        seconds / 3600,
        seconds / 60 % 60,
        seconds % 60
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn workload(ready: bool, message: Option<&str>) -> serde_json::Value {
        json!({
            "name": { "namespace": "shop", "name": "cart-0" }, "workload": "cart", "app": null,
            "identity": "spiffe://cluster.local/ns/shop/sa/cart", "address": null, "phase": "running",
            "ready": ready, "gateway": null, "planned": true, "message": message, "mtls": "strict", "portMtls": {},
            "allow": 0, "deny": 0, "services": [], "containers": [], "proxyRestarts": 0, "udpDropped": 0, "proxy": null
        })
    }

    fn status(workloads: &[serde_json::Value], errors: &[&str]) -> Status {
        let findings: Vec<_> = errors
            .iter()
            .map(|text| json!({ "code": "BZ0110", "severity": "error", "file": "a.yaml", "line": 1, "column": 1, "what": text, "text": text }))
            .collect();
        serde_json::from_value(json!({
            "build": "0", "startedAt": 1, "uptimeSeconds": 1, "version": 7, "acceptedAt": 1, "profile": "zero-trust",
            "trustDomain": "cluster.local",
            "authority": { "kind": "lab CA", "notice": "", "rootNotAfter": 0, "intermediateNotAfter": 0, "svidTtlSeconds": 0 },
            "node": null, "workloads": workloads, "services": [], "gateways": [], "serviceAccounts": [], "documents": 1,
            "refused": !errors.is_empty(), "findings": findings, "counts": bartizan_control::status::Counts::default()
        }))
        .expect("a status")
    }

    #[test]
    fn each_change_is_told_once() {
        let up = status(&[workload(true, None)], &[]);
        let down = status(&[workload(false, Some("exit code 1"))], &[]);
        assert_eq!(changes(&up, &up), Vec::<String>::new());
        assert_eq!(changes(&up, &down), ["shop/cart-0: not ready: exit code 1"]);
        assert_eq!(changes(&down, &down), Vec::<String>::new());
        assert_eq!(changes(&down, &up), ["shop/cart-0: ready"]);
        assert_eq!(changes(&up, &status(&[], &[])), ["shop/cart-0: ended"]);
    }

    #[test]
    fn errors_in_the_documents_are_told_with_their_findings() {
        let good = status(&[], &[]);
        let bad = status(&[], &["error[BZ0110]: `rulez`"]);
        let other = status(&[], &["error[BZ0110]: `rule`"]);
        let [told] = &changes(&good, &bad)[..] else {
            panic!("one event is expected")
        };
        assert!(
            told.contains("version 7 is served") && told.contains("`rulez`"),
            "{told}"
        );
        assert_eq!(changes(&bad, &bad), Vec::<String>::new());
        assert_eq!(changes(&bad, &other).len(), 1);
        assert_eq!(changes(&bad, &good), ["the documents are without errors again"]);
    }

    #[test]
    fn the_clock_is_of_the_day() {
        assert_eq!(
            clock(UNIX_EPOCH + Duration::from_secs(86_400 + 3_661)),
            "01:01:01Z"
        );
    }
}
