//! The control plane's own metrics, behind the proxies' on the merged page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::scrape::Merged;
use crate::status::{Counts, Status};

/// Appends the control plane's own families.
pub(super) fn write(status: &Status, merged: &mut Merged) {
    let (answered, failed) = (merged.answered, merged.failed);
    let mut page = Families(&mut merged.text);
    let connected = status
        .workloads
        .iter()
        .filter(|workload| workload.proxy.as_ref().is_some_and(|proxy| proxy.connected));
    page.gauge(
        "bartizan_control_uptime_seconds",
        "How long the control plane runs.",
        status.uptime_seconds,
    );
    page.gauge(
        "bartizan_control_version",
        "The version of the mesh now.",
        status.version.0,
    );
    page.gauge(
        "bartizan_control_documents",
        "Documents of the version that is served.",
        status.documents as u64,
    );
    page.gauge(
        "bartizan_control_refused",
        "1 while what stands on disk is refused.",
        u64::from(status.refused),
    );
    let mut severities = BTreeMap::from([("error", 0), ("note", 0), ("warning", 0)]);
    for finding in &status.findings {
        *severities.entry(finding.severity.as_str()).or_insert(0) += 1;
    }
    page.family(
        "bartizan_control_findings",
        "gauge",
        "Findings about what stands on disk.",
    );
    for (severity, count) in severities {
        page.sample("bartizan_control_findings", &[("severity", severity)], count);
    }
    page.gauge(
        "bartizan_control_workloads",
        "Pods that should run or run.",
        status.workloads.len() as u64,
    );
    page.gauge(
        "bartizan_control_proxies",
        "Proxies that are connected.",
        connected.count() as u64,
    );
    page.gauge(
        "bartizan_control_scrapes",
        "Proxies whose metrics are on this page.",
        answered as u64,
    );
    page.gauge(
        "bartizan_control_scrapes_failed",
        "Proxies whose metrics could not be read.",
        failed as u64,
    );
    write_counts(&mut page, &status.counts);
}

fn write_counts(page: &mut Families<'_>, counts: &Counts) {
    page.family(
        "bartizan_svids_issued_total",
        "counter",
        "Certificates issued, by the kind of proof.",
    );
    page.sample(
        "bartizan_svids_issued_total",
        &[("proof", "bootstrap")],
        counts.issued_bootstrap,
    );
    page.sample(
        "bartizan_svids_issued_total",
        &[("proof", "possession")],
        counts.issued_renewal,
    );
    page.reasons(
        "bartizan_svids_refused_total",
        "Requests for a certificate that were refused.",
        &counts.sign_refused,
    );
    page.reasons(
        "bartizan_control_hellos_refused_total",
        "Proxies' greetings that were refused.",
        &counts.hello_refused,
    );
    page.counter(
        "bartizan_control_transactions_total",
        "Transactions sent to proxies.",
        counts.transactions,
    );
    page.counter(
        "bartizan_control_resources_total",
        "Upserts and removals sent to proxies.",
        counts.resources,
    );
    page.counter(
        "bartizan_control_acks_total",
        "Transactions that proxies have applied.",
        counts.acknowledged,
    );
    page.counter(
        "bartizan_control_nacks_total",
        "Transactions that proxies have refused.",
        counts.nacks,
    );
    page.family(
        "bartizan_control_states_total",
        "counter",
        "New states of the sources, by what became of them.",
    );
    page.sample(
        "bartizan_control_states_total",
        &[("verdict", "accepted")],
        counts.states_accepted,
    );
    page.sample(
        "bartizan_control_states_total",
        &[("verdict", "refused")],
        counts.states_refused,
    );
}

/// Writes Prometheus' text format 0.0.4. Names and label values here are our own words: nothing needs escaping.
struct Families<'a>(&'a mut String);

impl Families<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // a String takes everything
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{value}\""))
            .collect();
        let labels = if labels.is_empty() {
            String::new()
        } else {
            format!("{{{}}}", labels.join(","))
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    fn gauge(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "gauge", help);
        self.sample(name, &[], value);
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) {
        self.family(name, "counter", help);
        self.sample(name, &[], value);
    }

    fn reasons(&mut self, name: &str, help: &str, reasons: &BTreeMap<String, u64>) {
        self.family(name, "counter", help);
        for (reason, count) in reasons {
            self.sample(name, &[("reason", reason)], *count);
        }
    }
}
