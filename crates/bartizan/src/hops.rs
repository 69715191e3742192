//! The hops of a request, found in the proxies' access logs by decision id or request id.

use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

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

/// All lines with this decision id or request id, in the order of their time.
pub(crate) fn find(place: &Place, id: &str) -> Vec<Hop> {
    let mut hops = scan(place, id, |hop| {
        hop.text("decision_id") == id || hop.text("request_id") == id
    });
    hops.sort_by_key(|hop| (hop.text("start_time"), hop.text("reporter") != "source"));
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
    for namespace in entries(&place.logs()) {
        for pod in entries(&namespace) {
            let Some(text) = end_of(&pod.join("access.jsonl")) else {
                continue;
            };
            let written_by = format!(
                "{}/{}",
                namespace.file_name().unwrap_or_default().to_string_lossy(),
                pod.file_name().unwrap_or_default().to_string_lossy()
            );
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
    }
    hops
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

fn end_of(path: &Path) -> Option<String> {
    let mut file = std::fs::File::open(path).ok()?;
    let length = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(MOST_OF_A_LOG)))
        .ok()?;
    let mut bytes = Vec::new();
    file.take(MOST_OF_A_LOG).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}
