//! The access log with real files and threads.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a failure in a test's own support code is a failed test"
)]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bartizan_telemetry::{AccessLog, AccessLogLimits, AccessRecord, Limits, Registry, Reporter, Sink};

const SOON: Duration = Duration::from_secs(20);

fn start(path: &Path, limits: AccessLogLimits) -> (AccessLog, Arc<Registry>) {
    let registry = Registry::new(Limits::default());
    let log = AccessLog::start(Sink::File(path.to_owned()), limits, &registry).unwrap();
    (log, registry)
}

fn record(id: &[u8]) -> AccessRecord<'_> {
    AccessRecord {
        request_id: Some(id),
        ..AccessRecord::new(SystemTime::UNIX_EPOCH, Reporter::Destination)
    }
}

fn ids(path: &Path) -> Vec<String> {
    fs::read_to_string(path)
        .unwrap_or_default()
        .lines()
        .map(|line| {
            let value: serde_json::Value = serde_json::from_str(line).unwrap();
            value["request_id"].as_str().unwrap().to_owned()
        })
        .collect()
}

fn until(what: &str, mut happens: impl FnMut() -> bool) {
    let end = Instant::now() + SOON;
    while !happens() {
        assert!(Instant::now() < end, "{what} did not happen");
        std::thread::yield_now();
    }
}

#[test]
fn every_line_of_every_thread_arrives_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let (log, registry) = start(&path, AccessLogLimits::default());
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let log = &log;
            scope.spawn(move || {
                let worker = log.worker();
                for at in 0..2_500 {
                    worker.write(&record(format!("{thread}-{at}").as_bytes()));
                }
            });
        }
    });
    assert!(log.flush(SOON));
    let mut found = ids(&path);
    assert_eq!(found.len(), 10_000);
    found.sort();
    found.dedup();
    assert_eq!(found.len(), 10_000);
    assert!(
        registry
            .encode()
            .contains("bartizan_access_log_lines_total 10000\n")
    );
}

#[test]
fn a_single_line_arrives_without_being_asked_for() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let (log, _) = start(&path, AccessLogLimits::default());
    let worker = log.worker();
    for round in 1..=3 {
        // Each round finds the writer asleep or about to be.
        worker.write(&record(b"x"));
        until("the line", || ids(&path).len() == round);
    }
}

#[test]
fn a_removed_file_is_made_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let (log, _) = start(&path, AccessLogLimits::default());
    let worker = log.worker();
    worker.write(&record(b"before"));
    assert!(log.flush(SOON));
    fs::remove_file(&path).unwrap();
    until("a new file", || {
        worker.write(&record(b"after"));
        log.flush(SOON);
        path.exists()
    });
    assert!(ids(&path).iter().all(|id| id == "after"));
}

#[test]
fn a_large_file_is_turned_over_once() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let limits = AccessLogLimits {
        rotate_at: 10_000,
        ..AccessLogLimits::default()
    };
    let (log, _) = start(&path, limits);
    let worker = log.worker();
    for at in 0..20 {
        worker.write(&record(format!("{at}").as_bytes()));
        assert!(log.flush(SOON));
    }
    let old = dir.path().join("access.jsonl.1");
    assert!(fs::metadata(&old).unwrap().len() >= 10_000);
    assert!(fs::metadata(&path).unwrap().len() < 12_000);
    let all: Vec<_> = ids(&old).into_iter().chain(ids(&path)).collect();
    assert_eq!(all, (0..20).map(|at| at.to_string()).collect::<Vec<_>>());
}

#[test]
fn what_does_not_fit_is_counted() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let limits = AccessLogLimits {
        delay: Duration::from_hours(1),
        batch: usize::MAX,
        buffer: 10_000,
        ..AccessLogLimits::default()
    };
    let (log, registry) = start(&path, limits);
    let worker = log.worker();
    for _ in 0..1_000 {
        worker.write(&record(b"x"));
    }
    assert!(log.flush(SOON));
    let written = ids(&path).len();
    assert!(written < 1_000);
    let dropped = format!(
        "bartizan_access_log_dropped_total{{reason=\"full\"}} {}\n",
        1_000 - written
    );
    assert!(registry.encode().contains(&dropped));
}

#[test]
fn a_full_disk_loses_lines_and_counts_them() {
    let Ok(full) = fs::OpenOptions::new().write(true).open("/dev/full") else {
        panic!("/dev/full is part of every Linux");
    };
    let registry = Registry::new(Limits::default());
    let log = AccessLog::start(Sink::Open(full), AccessLogLimits::default(), &registry).unwrap();
    let worker = log.worker();
    worker.write(&record(b"x"));
    assert!(log.flush(SOON));
    assert!(
        registry
            .encode()
            .contains("bartizan_access_log_dropped_total{reason=\"write_failed\"} 1\n")
    );
}

#[test]
fn dropping_the_log_writes_what_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("access.jsonl");
    let limits = AccessLogLimits {
        delay: Duration::from_hours(1),
        ..AccessLogLimits::default()
    };
    let (log, _) = start(&path, limits);
    log.worker().write(&record(b"last"));
    drop(log);
    assert_eq!(ids(&path), ["last"]);
}
