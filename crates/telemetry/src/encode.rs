//! Prometheus' text format, with Istio's standard metrics under Istio's names, labels and buckets.

use std::fmt::Write as _;

use crate::cells::{BOUNDS, FoldedHistogram};
use crate::families::Family;
use crate::labels::{EdgeLabels, UNKNOWN};
use crate::metrics::{Folded, RequestKey, is_counter};

/// The content type of what [`crate::Registry::encode`] and [`crate::merge()`] write.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

pub(crate) fn encode(folded: &Folded) -> String {
    let mut text = String::with_capacity(4096 + 4096 * folded.requests.len());
    requests(&mut text, folded);
    connections(&mut text, folded);
    messages(&mut text, folded);
    own(&mut text, folded);
    text
}

fn requests(text: &mut String, folded: &Folded) {
    if folded.requests.is_empty() {
        return;
    }
    let lines: Vec<_> = folded
        .requests
        .iter()
        .map(|((labels, key), numbers)| (request_labels(labels, *key), numbers))
        .collect();
    family(text, "istio_requests_total", "Requests that ended.", "counter");
    for (labels, numbers) in &lines {
        sample(text, "istio_requests_total", labels, numbers.requests);
    }
    let name = "istio_request_duration_milliseconds";
    family(text, name, "Duration of requests in milliseconds.", "histogram");
    for (labels, numbers) in &lines {
        histogram(text, name, labels, &numbers.duration);
    }
    let name = "istio_request_bytes";
    family(
        text,
        name,
        "Size of requests in bytes, head included.",
        "histogram",
    );
    for (labels, numbers) in &lines {
        histogram(text, name, labels, &numbers.request_bytes);
    }
    let name = "istio_response_bytes";
    family(
        text,
        name,
        "Size of responses in bytes, head included.",
        "histogram",
    );
    for (labels, numbers) in &lines {
        histogram(text, name, labels, &numbers.response_bytes);
    }
}

fn connections(text: &mut String, folded: &Folded) {
    if folded.connections.is_empty() {
        return;
    }
    let lines: Vec<_> = folded
        .connections
        .iter()
        .map(|((labels, flags), numbers)| {
            let mut out = String::new();
            edge_labels(&mut out, labels);
            label(&mut out, "request_protocol", "tcp");
            label(&mut out, "response_flags", &flags.to_string());
            label(&mut out, "connection_security_policy", labels.security.as_str());
            (out, numbers)
        })
        .collect();
    let mut one = |name: &str, help: &str, number: &dyn Fn(&crate::metrics::FoldedConnections) -> u64| {
        family(text, name, help, "counter");
        for (labels, numbers) in &lines {
            sample(text, name, labels, number(numbers));
        }
    };
    one(
        "istio_tcp_connections_opened_total",
        "TCP connections that began.",
        &|numbers| numbers.opened,
    );
    one(
        "istio_tcp_connections_closed_total",
        "TCP connections that ended.",
        &|numbers| numbers.closed,
    );
    one(
        "istio_tcp_sent_bytes_total",
        "Bytes sent to the client over TCP.",
        &|numbers| numbers.sent,
    );
    one(
        "istio_tcp_received_bytes_total",
        "Bytes received from the client over TCP.",
        &|numbers| numbers.received,
    );
}

fn messages(text: &mut String, folded: &Folded) {
    if folded.messages.is_empty() {
        return;
    }
    let lines: Vec<_> = folded
        .messages
        .iter()
        .map(|(labels, numbers)| {
            let mut out = String::new();
            edge_labels(&mut out, labels);
            (out, numbers)
        })
        .collect();
    let name = "istio_request_messages_total";
    family(text, name, "gRPC messages from clients.", "counter");
    for (labels, numbers) in &lines {
        sample(text, name, labels, numbers.0);
    }
    let name = "istio_response_messages_total";
    family(text, name, "gRPC messages to clients.", "counter");
    for (labels, numbers) in &lines {
        sample(text, name, labels, numbers.1);
    }
}

fn own(text: &mut String, folded: &Folded) {
    let mut before: Option<&'static Family> = None;
    for ((own, values), number) in &folded.values {
        if before != Some(*own) {
            let kind = if is_counter(own) { "counter" } else { "gauge" };
            family(text, own.name, own.help, kind);
            before = Some(own);
        }
        let mut labels = String::new();
        for (name, value) in own.labels.iter().zip(values) {
            label(&mut labels, name, value);
        }
        sample(text, own.name, &labels, number);
    }
}

fn request_labels(labels: &EdgeLabels, key: RequestKey) -> String {
    let mut out = String::with_capacity(1024);
    edge_labels(&mut out, labels);
    label(&mut out, "request_protocol", key.protocol.as_str());
    label(&mut out, "response_code", &key.response_code.to_string());
    label(
        &mut out,
        "grpc_response_status",
        &key.grpc_status
            .map(|status| status.to_string())
            .unwrap_or_default(),
    );
    label(&mut out, "response_flags", &key.flags.to_string());
    label(&mut out, "connection_security_policy", labels.security.as_str());
    out
}

/// The labels that every standard metric has, in Istio's order. None is ever absent or empty: Kiali drops a series that lacks one.
fn edge_labels(out: &mut String, labels: &EdgeLabels) {
    let (source, destination, service) = (&labels.source, &labels.destination, &labels.service);
    for (name, value) in [
        ("reporter", labels.reporter.as_str()),
        ("source_workload", &*source.name),
        ("source_canonical_service", &*source.canonical_service),
        ("source_canonical_revision", &*source.canonical_revision),
        ("source_workload_namespace", &*source.namespace),
        ("source_principal", &*source.principal),
        ("source_app", &*source.app),
        ("source_version", &*source.version),
        ("source_cluster", &*source.cluster),
        ("destination_workload", &*destination.name),
        ("destination_workload_namespace", &*destination.namespace),
        ("destination_principal", &*destination.principal),
        ("destination_app", &*destination.app),
        ("destination_version", &*destination.version),
        ("destination_service", &*service.host),
        ("destination_canonical_service", &*destination.canonical_service),
        ("destination_canonical_revision", &*destination.canonical_revision),
        ("destination_service_name", &*service.name),
        ("destination_service_namespace", &*service.namespace),
        ("destination_cluster", &*destination.cluster),
    ] {
        label(out, name, if value.is_empty() { UNKNOWN } else { value });
    }
}

pub(crate) fn label(out: &mut String, name: &str, value: &str) {
    if !out.is_empty() {
        out.push(',');
    }
    out.push_str(name);
    out.push_str("=\"");
    for character in value.chars() {
        match character {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            other => out.push(other),
        }
    }
    out.push('"');
}

pub(crate) fn family(text: &mut String, name: &str, help: &str, kind: &str) {
    // Writing into a string cannot fail, here and below.
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

pub(crate) fn sample(text: &mut String, name: &str, labels: &str, value: impl std::fmt::Display) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

fn histogram(text: &mut String, name: &str, labels: &str, folded: &FoldedHistogram) {
    let mut so_far = 0;
    for (at, count) in folded.buckets.iter().enumerate() {
        so_far += count;
        match BOUNDS.get(at) {
            Some(bound) => {
                let _ = writeln!(
                    text,
                    "{name}_bucket{{{labels},le=\"{}\"}} {so_far}",
                    thousandths(u128::from(*bound))
                );
            }
            None => {
                let _ = writeln!(text, "{name}_bucket{{{labels},le=\"+Inf\"}} {so_far}");
            }
        }
    }
    let _ = writeln!(
        text,
        "{name}_sum{{{labels}}} {}\n{name}_count{{{labels}}} {so_far}",
        thousandths(folded.sum_thousandths)
    );
}

/// A number of thousandths as a decimal without trailing zeros.
fn thousandths(value: u128) -> String {
    let (whole, rest) = (value / 1000, value % 1000);
    if rest == 0 {
        whole.to_string()
    } else {
        format!("{whole}.{rest:03}").trim_end_matches('0').to_owned()
    }
}
