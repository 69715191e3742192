//! The control plane's own metrics, behind the proxies' on the merged page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use bartizan_mesh::MtlsMode;
use bartizan_types::{Name, NamespacedName, SpiffeId, TrustDomain, Version};

use super::scrape::Merged;
use crate::status::{AuthorityStatus, Counts, KeyCounts, KeySetStatus, Status, WorkloadStatus};

/// Appends the control plane's own families.
pub(super) fn write(status: &Status, merged: &mut Merged) {
    write_status(status, merged.answered, merged.failed, &mut merged.text);
}

/// The control plane's own families with a sample of each, for the reference page of metrics. `None` would mean that one
/// of its literals does not parse.
pub fn metrics_reference() -> Option<String> {
    let name = NamespacedName::parse("namespace/pod").ok()?;
    let reasons = BTreeMap::from([("reason".to_owned(), 1)]);
    let status = Status {
        build: String::new(),
        started_at: 0,
        uptime_seconds: 0,
        version: Version::default(),
        accepted_at: None,
        profile: Name::parse("zero-trust").ok()?,
        trust_domain: TrustDomain::parse("cluster.local").ok()?,
        authority: AuthorityStatus::default(),
        node: None,
        workloads: vec![WorkloadStatus {
            workload: name.name.to_string(),
            app: None,
            identity: SpiffeId::parse("spiffe://cluster.local/ns/namespace/sa/pod").ok()?,
            name,
            address: None,
            phase: None,
            ready: false,
            gateway: None,
            planned: true,
            message: None,
            mtls: MtlsMode::Strict,
            port_mtls: BTreeMap::new(),
            allow: 0,
            deny: 0,
            services: Vec::new(),
            containers: Vec::new(),
            proxy_restarts: 0,
            udp_dropped: 0,
            proxy: None,
        }],
        services: Vec::new(),
        gateways: Vec::new(),
        service_accounts: Vec::new(),
        key_sets: vec![KeySetStatus {
            name: "jwks/https://issuer.example/jwks".to_owned(),
            checked_at: Some(0),
            ..KeySetStatus::default()
        }],
        documents: 0,
        refused: false,
        findings: Vec::new(),
        findings_left_out: 0,
        counts: Counts {
            sign_refused: reasons.clone(),
            hello_refused: reasons,
            keys: KeyCounts {
                fetches: BTreeMap::from([("ok".to_owned(), 1)]),
                unknown_keys: 0,
            },
            ..Counts::default()
        },
    };
    let mut text = String::new();
    write_status(&status, 0, 0, &mut text);
    Some(text)
}

fn write_status(status: &Status, answered: usize, failed: usize, text: &mut String) {
    let mut page = Families(text);
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
    page.gauge(
        "bartizan_control_root_expiry_timestamp_seconds",
        "When the authority's root ends.",
        u64::try_from(status.authority.root_not_after).unwrap_or(0),
    );
    page.family(
        "bartizan_udp_dropped_packets_total",
        "counter",
        "Datagrams of an application, other than DNS, that capture dropped.",
    );
    for workload in &status.workloads {
        let name = &workload.name;
        page.sample(
            "bartizan_udp_dropped_packets_total",
            &[
                ("namespace", name.namespace.as_str()),
                ("pod", name.name.as_str()),
            ],
            workload.udp_dropped,
        );
    }
    write_keys(&mut page, status);
    write_counts(&mut page, &status.counts);
}

fn write_keys(page: &mut Families<'_>, status: &Status) {
    let known = "bartizan_control_key_set_keys";
    page.family(
        known,
        "gauge",
        "Keys of an issuer of users' tokens that can be used; with none, all of its tokens are refused.",
    );
    for set in &status.key_sets {
        page.sample(known, &[("key_set", &set.name)], set.keys as u64);
    }
    let checked = "bartizan_control_key_set_checked_timestamp_seconds";
    page.family(
        checked,
        "gauge",
        "When the issuer was last asked for its keys with success; 0: never.",
    );
    for set in &status.key_sets {
        let at = u64::try_from(set.checked_at.unwrap_or(0)).unwrap_or(0);
        page.sample(checked, &[("key_set", &set.name)], at);
    }
    let fetches = "bartizan_control_key_fetches_total";
    page.family(
        fetches,
        "counter",
        "Fetches of issuers' keys, by what became of them.",
    );
    for (result, count) in &status.counts.keys.fetches {
        page.sample(fetches, &[("result", result)], *count);
    }
    page.counter(
        "bartizan_control_unknown_keys_total",
        "How often a proxy has seen a token of a key that its issuer is not known to have.",
        status.counts.keys.unknown_keys,
    );
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

/// Writes Prometheus' text format 0.0.4.
struct Families<'a>(&'a mut String);

impl Families<'_> {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}"); // a String takes everything
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: u64) {
        let labels: Vec<_> = labels
            .iter()
            .map(|(name, value)| format!("{name}=\"{}\"", escaped(value)))
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

/// A label's value; an issuer's URI is a document's text, not ours.
fn escaped(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
