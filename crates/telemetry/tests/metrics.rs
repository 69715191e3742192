//! The exposition, compared with a golden page, and the exactness of counts over threads.

#![expect(
    clippy::unwrap_used,
    reason = "a failure in a test's own support code is a failed test"
)]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bartizan_telemetry::families;
use bartizan_telemetry::merge::Exposition;
use bartizan_telemetry::{
    EdgeLabels, Limits, Registry, Reporter, RequestDone, RequestProtocol, ResponseFlags, SecurityPolicy,
    Service, Workload,
};
use bartizan_types::SpiffeId;

fn edge() -> EdgeLabels {
    let workload = |name: &str, account: &str| {
        let labels = [
            ("app".to_owned(), name.to_owned()),
            ("version".to_owned(), "v1".to_owned()),
        ]
        .into();
        let id = SpiffeId::parse(&format!(
            "spiffe://cluster.local/ns/mission-services/sa/{account}"
        ))
        .unwrap();
        Arc::new(Workload::from_labels(
            name,
            "mission-services",
            "Kubernetes",
            &labels,
            Some(&id),
        ))
    };
    EdgeLabels {
        reporter: Reporter::Destination,
        source: workload("processor", "data-processor"),
        destination: workload("telemetry-ingest", "telemetry-ingest"),
        service: Arc::new(Service {
            host: "telemetry-ingest.mission-services.svc.cluster.local".into(),
            name: "telemetry-ingest".into(),
            namespace: "mission-services".into(),
        }),
        security: SecurityPolicy::MutualTls,
    }
}

fn done(response_code: u16) -> RequestDone {
    RequestDone {
        protocol: RequestProtocol::Http,
        response_code,
        grpc_status: None,
        flags: ResponseFlags::NONE,
        duration: Some(Duration::from_micros(1_500)),
        request_bytes: 300,
        response_bytes: 1_200,
        request_messages: 0,
        response_messages: 0,
    }
}

/// The page without what the machine says about the process.
fn page(registry: &Registry) -> String {
    let text = registry.encode();
    let end = text.find("# HELP process_").unwrap_or(text.len());
    text[..end].to_owned()
}

#[test]
fn the_page_is_istios() {
    let registry = Registry::new(Limits::default());
    let worker = registry.worker();
    let edge = worker.edge(&edge());
    edge.request(&done(200));
    edge.request(&RequestDone {
        duration: None,
        response_code: 0,
        flags: ResponseFlags::DC,
        ..done(0)
    });
    edge.request(&RequestDone {
        protocol: RequestProtocol::Grpc,
        grpc_status: Some(7),
        request_messages: 1,
        response_messages: 1,
        ..done(200)
    });
    edge.messages(1, 2);
    edge.tcp_opened();
    edge.tcp_bytes(10, 20, ResponseFlags::NONE);
    edge.tcp_closed(ResponseFlags::NONE);
    worker
        .counter(
            &families::POLICY_DENIED,
            &["http", "mission-services", "telemetry-ingest-policy", "0"],
        )
        .increment();
    registry.gauge(&families::CONFIG_VERSION, &[]).set(12);
    registry
        .counter(&families::ACCESS_LOG_DROPPED, &["a \"quoted\\\nname"])
        .add(2);

    let expected = include_str!("metrics.golden.txt");
    let found = page(&registry);
    if std::env::var_os("BLESS").is_some() {
        std::fs::write(
            concat!(env!("CARGO_MANIFEST_DIR"), "/tests/metrics.golden.txt"),
            &found,
        )
        .unwrap();
    }
    // Told by lines: a whole page is unreadable in a failure.
    for (found, expected) in found.lines().zip(expected.lines()) {
        assert_eq!(
            found, expected,
            "BLESS=1 writes the golden file; read the difference"
        );
    }
    assert_eq!(found.lines().count(), expected.lines().count());
}

#[test]
fn the_labels_are_istios_in_istios_order() {
    let registry = Registry::new(Limits::default());
    let worker = registry.worker();
    worker.edge(&edge()).request(&done(200));
    worker.edge(&edge()).tcp_opened();
    let text = page(&registry);
    let parsed = Exposition::parse(&text).unwrap();
    let names = |metric: &str| -> Vec<&str> {
        let sample = parsed
            .samples
            .iter()
            .find(|sample| sample.name == metric)
            .unwrap();
        sample.labels.iter().map(|(name, _)| *name).collect()
    };
    let both = [
        "reporter",
        "source_workload",
        "source_canonical_service",
        "source_canonical_revision",
        "source_workload_namespace",
        "source_principal",
        "source_app",
        "source_version",
        "source_cluster",
        "destination_workload",
        "destination_workload_namespace",
        "destination_principal",
        "destination_app",
        "destination_version",
        "destination_service",
        "destination_canonical_service",
        "destination_canonical_revision",
        "destination_service_name",
        "destination_service_namespace",
        "destination_cluster",
        "request_protocol",
    ];
    let http = [
        both.as_slice(),
        &[
            "response_code",
            "grpc_response_status",
            "response_flags",
            "connection_security_policy",
        ],
    ]
    .concat();
    assert_eq!(names("istio_requests_total"), http);
    let tcp = [both.as_slice(), &["response_flags", "connection_security_policy"]].concat();
    assert_eq!(names("istio_tcp_connections_opened_total"), tcp);
}

#[test]
fn a_million_requests_of_four_threads_are_a_million() {
    let registry = Registry::new(Limits::default());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let registry = Arc::clone(&registry);
            std::thread::spawn(move || {
                let worker = registry.worker();
                let edge = worker.edge(&edge());
                let denied = worker.counter(&families::POLICY_DENIED, &["http", "a", "b", "0"]);
                let shared = registry.counter(&families::PANICS, &[]);
                for at in 0..250_000u32 {
                    edge.request(&done(if at % 5 == 0 { 503 } else { 200 }));
                    if at % 100 == 0 {
                        denied.increment();
                        shared.add(1);
                    }
                }
            })
        })
        .collect();
    // Reading while it is written must neither stop nor disturb the writers.
    for _ in 0..20 {
        registry.encode();
    }
    for thread in threads {
        thread.join().unwrap();
    }
    let text = registry.encode();
    let parsed = Exposition::parse(&text).unwrap();
    let sum = |name: &str, code: &str| -> u64 {
        parsed
            .samples
            .iter()
            .filter(|sample| sample.name == name)
            .filter(|sample| code.is_empty() || sample.labels.contains(&("response_code", code)))
            .map(|sample| sample.value.parse::<u64>().unwrap())
            .sum()
    };
    assert_eq!(sum("istio_requests_total", "200"), 800_000);
    assert_eq!(sum("istio_requests_total", "503"), 200_000);
    assert_eq!(sum("istio_request_duration_milliseconds_count", ""), 1_000_000);
    assert_eq!(sum("istio_response_bytes_sum", ""), 1_200_000_000);
    assert_eq!(sum("bartizan_policy_denied_total", ""), 10_000);
    assert_eq!(sum("bartizan_panics_total", ""), 10_000);
}

#[test]
fn an_open_connection_is_counted_until_it_is_dropped() {
    let registry = Registry::new(Limits::default());
    let worker = registry.worker();
    let one = worker.open(&families::CONNECTIONS_OPEN, &["inbound"]);
    let two = worker.open(&families::CONNECTIONS_OPEN, &["inbound"]);
    assert!(page(&registry).contains("bartizan_connections_open{direction=\"inbound\"} 2\n"));
    drop(one);
    assert!(page(&registry).contains("bartizan_connections_open{direction=\"inbound\"} 1\n"));
    drop(two);
    assert!(page(&registry).contains("bartizan_connections_open{direction=\"inbound\"} 0\n"));
}

#[test]
fn series_are_bounded_and_no_request_is_lost() {
    let registry = Registry::new(Limits { series: 10 });
    let worker = registry.worker();
    for code in 0..100 {
        let mut labels = edge();
        labels.source = Arc::new(Workload {
            name: format!("client-{code}").into(),
            ..Workload::default()
        });
        worker.edge(&labels).request(&done(200 + code));
        worker
            .counter(&families::TLS_REFUSED, &["server", &format!("reason-{code}")])
            .increment();
        registry
            .counter(&families::DNS_QUERIES, &["A", &format!("result-{code}")])
            .add(1);
    }
    let text = page(&registry);
    let parsed = Exposition::parse(&text).unwrap();
    let mut sums: BTreeMap<&str, (usize, u64)> = BTreeMap::new();
    for sample in &parsed.samples {
        let entry = sums.entry(sample.name).or_default();
        entry.0 += 1;
        entry.1 += sample.value.parse::<u64>().unwrap_or(0);
    }
    for name in [
        "istio_requests_total",
        "bartizan_tls_refused_total",
        "bartizan_dns_queries_total",
    ] {
        let (series, total) = sums[name];
        assert_eq!(total, 100, "{name}");
        assert!(series <= 12, "{name} has {series} series");
    }
    assert!(sums["bartizan_metrics_overflow_total"].1 > 0);
}

#[test]
fn the_user_page_names_every_family() {
    let page = include_str!("../../../docs/observe.md");
    for family in families::ALL {
        let labels = family.labels.join(", ");
        let row = format!("| `{}` | {}", family.name, labels);
        // The merged page adds its own labels to a family that has none.
        assert!(
            page.contains(row.trim_end()) || family.name == "bartizan_scrape_up",
            "docs/observe.md lacks `{}` with labels `{labels}`",
            family.name
        );
    }
}
