//! `docs/metrics.md`: Istio's families as a registry writes them after one request and one connection, and our own table.

use std::fmt::Write as _;
use std::time::Duration;

use bartizan_telemetry::families::{self, Kind};
use bartizan_telemetry::{
    EdgeLabels, Limits, Registry, Reporter, RequestDone, RequestProtocol, ResponseFlags,
};

/// The page.
pub(super) fn page() -> String {
    let mut page = super::head("Metrics");
    page.push_str(
        "\nWhere to read them, what they mean together and how labels are filled: [observe.md](observe.md).\n\n\
         ## Istio's standard metrics\n\n\
         Each edge between two workloads is told by both proxies, as `reporter=\"source\"` and `reporter=\"destination\"`.\n\n\
         | name | type | what |\n|---|---|---|\n",
    );
    let exposition = exposition();
    let all = families_of(&exposition);
    let standard: Vec<_> = all
        .into_iter()
        .filter(|family| family.name.starts_with("istio_") && family.name != families::BUILD.name)
        .collect();
    for family in &standard {
        writeln!(page, "| `{}` | {} | {} |", family.name, family.kind, family.help).unwrap_or_default();
    }
    page.push_str("\nTheir labels:\n\n| metrics | labels |\n|---|---|\n");
    let mut groups: Vec<(Vec<&str>, &[&str])> = Vec::new();
    for family in &standard {
        match groups.iter_mut().find(|(_, labels)| *labels == family.labels) {
            Some((names, _)) => names.push(family.name),
            None => groups.push((vec![family.name], &family.labels)),
        }
    }
    for (names, labels) in groups {
        writeln!(page, "| {} | {} |", code(&names), code(labels)).unwrap_or_default();
    }
    page.push_str("\n## A proxy's own\n\n| name | type | labels | what |\n|---|---|---|---|\n");
    for family in families::ALL {
        let kind = match family.kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        line(&mut page, family.name, kind, family.labels, family.help);
    }
    page.push_str("\n## The control plane's own\n\n| name | type | labels | what |\n|---|---|---|---|\n");
    let control = bartizan_control::metrics_reference().unwrap_or_default();
    for family in families_of(&control) {
        line(&mut page, family.name, family.kind, &family.labels, family.help);
    }
    page
}

fn line(page: &mut String, name: &str, kind: &str, labels: &[&str], help: &str) {
    writeln!(page, "| `{name}` | {kind} | {} | {help} |", code(labels)).unwrap_or_default();
}

/// A family as a page of metrics tells it.
struct Told<'t> {
    name: &'t str,
    kind: &'t str,
    help: &'t str,
    labels: Vec<&'t str>,
}

fn families_of(exposition: &str) -> Vec<Told<'_>> {
    exposition
        .lines()
        .filter_map(|line| line.strip_prefix("# HELP ")?.split_once(' '))
        .map(|(name, help)| Told {
            name,
            help,
            kind: exposition
                .lines()
                .find_map(|line| {
                    line.strip_prefix("# TYPE ")?
                        .strip_prefix(name)?
                        .strip_prefix(' ')
                })
                .unwrap_or_default(),
            labels: labels_of(exposition, name),
        })
        .collect()
}

/// What is written after one gRPC request and one TCP connection.
fn exposition() -> String {
    let registry = Registry::new(Limits::default());
    let worker = registry.worker();
    let edge = worker.edge(&EdgeLabels {
        reporter: Reporter::Destination,
        source: std::sync::Arc::default(),
        destination: std::sync::Arc::default(),
        service: std::sync::Arc::default(),
        security: bartizan_telemetry::SecurityPolicy::MutualTls,
    });
    edge.request(&RequestDone {
        protocol: RequestProtocol::Grpc,
        response_code: 200,
        grpc_status: Some(0),
        flags: ResponseFlags::NONE,
        duration: Some(Duration::from_millis(1)),
        request_bytes: 1,
        response_bytes: 1,
        request_messages: 1,
        response_messages: 1,
    });
    edge.tcp_opened();
    edge.tcp_bytes(1, 1, ResponseFlags::NONE);
    edge.tcp_closed(ResponseFlags::NONE);
    registry.encode()
}

/// The labels of a family's first sample; a bucket's bound is none.
fn labels_of<'t>(exposition: &'t str, name: &str) -> Vec<&'t str> {
    exposition
        .lines()
        .find_map(|line| {
            let rest = line.strip_prefix(name)?;
            let rest = rest.strip_prefix("_bucket").unwrap_or(rest);
            rest.strip_prefix('{')?.rsplit_once('}')
        })
        .into_iter()
        .flat_map(|(labels, _)| labels.split(','))
        .filter_map(|label| Some(label.split_once('=')?.0))
        .filter(|label| *label != "le")
        .collect()
}

fn code(words: &[&str]) -> String {
    words
        .iter()
        .map(|word| format!("`{word}`"))
        .collect::<Vec<_>>()
        .join(", ")
}
