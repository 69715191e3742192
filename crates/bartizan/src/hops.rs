//! The hops of a request, found in the proxies' access logs by decision id or request id.

use std::collections::BTreeMap;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::place::Place;

/// Of each log, this much of its end is looked through.
const MOST_OF_A_LOG: u64 = 64 * 1024 * 1024;

/// One line of an access log.
#[derive(Clone, Debug)]
pub(crate) struct Hop {
    /// `namespace/pod` of the proxy that wrote it.
    pub(crate) written_by: String,
    /// The line.
    pub(crate) record: Value,
}

impl Hop {
    /// A field as text; empty when it is absent.
    pub(crate) fn text(&self, field: &str) -> String {
        match self.record.get(field) {
            None | Some(Value::Null) => String::new(),
            Some(Value::String(text)) => text.clone(),
            Some(other) => other.to_string(),
        }
    }

    /// Whether something was refused here.
    pub(crate) fn is_denied(&self) -> bool {
        self.text("decision") == "deny"
    }

    /// A line for people: who wrote it, what was asked of whom, what came of it.
    pub(crate) fn line(&self) -> String {
        let or = |text: String, other: &str| if text.is_empty() { other.to_owned() } else { text };
        let what = match self.text("method") {
            method if method.is_empty() => format!("TCP to {}", self.text("downstream_local_address")),
            method => format!("{method} {} {}", self.text("authority"), self.text("path")),
        };
        let side = if self.text("reporter") == "source" {
            "sent by"
        } else {
            "received by"
        };
        let mut line = format!(
            "{side} {}: {what} from {}",
            self.written_by,
            or(self.text("source_principal"), "a client without an identity")
        );
        let code = self.text("response_code");
        let outcome = if code == "0" || code.is_empty() {
            "closed".to_owned()
        } else {
            code
        };
        line += &format!(" -> {outcome} in {} ms", self.text("duration"));
        for (field, word) in [
            ("upstream_host", "endpoint"),
            ("response_flags", "flags"),
            ("response_code_details", "because"),
            ("connection_termination_details", "because"),
            ("decision_id", "decision"),
        ] {
            let text = self.text(field);
            if !text.is_empty() && text != "-" && text != "via_upstream" {
                line += &format!(", {word} {text}");
            }
        }
        line
    }
}

/// How long each log was at a moment.
pub(crate) struct Mark(BTreeMap<PathBuf, u64>);

impl Mark {
    /// Now.
    pub(crate) fn now(place: &Place) -> Self {
        Self(
            logs(place)
                .filter_map(|(_, path)| Some((path.clone(), std::fs::metadata(path).ok()?.len())))
                .collect(),
        )
    }

    /// The hops of one request, of what was written since: those with its id, those of the connection from `local`, and
    /// everything that hangs together with them by an id or by a connection between two proxies.
    pub(crate) fn since(&self, place: &Place, id: &str, local: Option<&str>) -> Vec<Hop> {
        let mut rest = Vec::new();
        for (written_by, path) in logs(place) {
            let from = self.0.get(&path).copied().unwrap_or_default();
            if let Some(text) = end_of(&path, from) {
                rest.extend(text.lines().filter_map(|line| {
                    Some(Hop {
                        written_by: written_by.clone(),
                        record: serde_json::from_str(line).ok()?,
                    })
                }));
            }
        }
        let mut found = hanging_together(rest, id, local);
        found.sort_by_key(order);
        found
    }
}

fn hanging_together(mut rest: Vec<Hop>, id: &str, local: Option<&str>) -> Vec<Hop> {
    let mut ids = vec![id.to_owned()];
    let mut clients: Vec<String> = local.into_iter().map(str::to_owned).collect();
    let mut found: Vec<Hop> = Vec::new();
    loop {
        let (chosen, others): (Vec<Hop>, Vec<Hop>) = rest.into_iter().partition(|hop| {
            ids.contains(&hop.text("request_id")) || clients.contains(&hop.text("downstream_remote_address"))
        });
        if chosen.is_empty() {
            return found;
        }
        for hop in &chosen {
            let (id, client) = (hop.text("request_id"), hop.text("upstream_local_address"));
            if id.is_empty() {
                // Of HTTP a connection between proxies carries many requests, which their ids tell apart.
                clients.extend((!client.is_empty()).then_some(client));
            } else {
                ids.push(id);
            }
        }
        found.extend(chosen);
        rest = others;
    }
}

fn order(hop: &Hop) -> (String, bool) {
    (hop.text("start_time"), hop.text("reporter") != "source")
}

/// All lines with this decision id or request id, in the order of their time.
pub(crate) fn find(place: &Place, id: &str) -> Vec<Hop> {
    let mut hops = scan(place, id, |hop| {
        hop.text("decision_id") == id || hop.text("request_id") == id
    });
    hops.sort_by_key(order);
    hops
}

/// The newest refusal of all.
pub(crate) fn last_denied(place: &Place) -> Option<Hop> {
    scan(place, "\"deny\"", Hop::is_denied)
        .into_iter()
        .max_by_key(|hop| hop.text("start_time"))
}

fn scan(place: &Place, needle: &str, wanted: impl Fn(&Hop) -> bool) -> Vec<Hop> {
    let mut hops = Vec::new();
    for (written_by, path) in logs(place) {
        let Some(text) = end_of(&path, 0) else { continue };
        for line in text.lines().filter(|line| line.contains(needle)) {
            if let Ok(record) = serde_json::from_str(line) {
                let hop = Hop {
                    written_by: written_by.clone(),
                    record,
                };
                if wanted(&hop) {
                    hops.push(hop);
                }
            }
        }
    }
    hops
}

/// Every access log, with the name of the pod that writes it.
fn logs(place: &Place) -> impl Iterator<Item = (String, PathBuf)> {
    entries(&place.logs())
        .into_iter()
        .flat_map(|namespace| {
            entries(&namespace)
                .into_iter()
                .map(move |pod| (namespace.clone(), pod))
        })
        .map(|(namespace, pod)| {
            let name = |path: &Path| {
                path.file_name()
                    .unwrap_or_default()
                    .to_string_lossy()
                    .into_owned()
            };
            (
                format!("{}/{}", name(&namespace), name(&pod)),
                pod.join("access.jsonl"),
            )
        })
}

fn entries(folder: &Path) -> Vec<std::path::PathBuf> {
    std::fs::read_dir(folder)
        .map(|entries| {
            entries
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| path.is_dir())
                .collect()
        })
        .unwrap_or_default()
}

/// What a log holds after `from`, but not more than the end of it that is looked through.
fn end_of(path: &Path, from: u64) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(from.max(length.saturating_sub(MOST_OF_A_LOG))))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_OF_A_LOG).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn hops_hang_together_by_ids_and_by_connections_between_proxies() {
        let hop = |name: &str, id: &str, from: &str, to: &str| Hop {
            written_by: name.to_owned(),
            record: json!({ "request_id": id, "downstream_remote_address": from, "upstream_local_address": to }),
        };
        let all = || {
            vec![
                hop("received", "", "10.66.0.1:9", "127.0.0.1:8"),
                hop("other", "", "10.66.0.1:10", "127.0.0.1:9"),
                hop("sent", "", "10.66.0.1:5", "10.66.0.1:9"),
                hop("edge", "made-by-the-edge", "127.0.0.1:4", "10.66.0.2:1"),
                hop("behind", "made-by-the-edge", "10.66.0.2:1", "127.0.0.1:3"),
                hop("next request", "another", "10.66.0.2:1", "127.0.0.1:3"),
            ]
        };
        let names = |local: &str| -> Vec<String> {
            hanging_together(all(), "mine", Some(local))
                .into_iter()
                .map(|hop| hop.written_by)
                .collect()
        };
        assert_eq!(names("10.66.0.1:5"), ["sent", "received"]);
        assert_eq!(names("127.0.0.1:4"), ["edge", "behind"]);
        assert!(names("127.0.0.1:1").is_empty());
    }
}
