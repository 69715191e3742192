//! A load generator: keep-alive connections on threads of their own, each failure recorded with its time and reason.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::http::{Answer, Client};

/// More failures are only counted.
const MOST_FAILURES: usize = 200;

/// What is judged of an answer: `Err` says what is wrong with it.
pub type Judge = fn(path: &str, answer: &Answer) -> Result<(), String>;

/// What is sent.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// Where to.
    pub address: String,
    /// One after the other, from each connection.
    pub paths: Vec<String>,
    /// Connections, each on a thread.
    pub connections: usize,
    /// Between an answer and the next request of a connection.
    pub pause: Duration,
    /// Requests before a connection is closed and another opened.
    pub requests_per_connection: u64,
    /// Whether an answer is right.
    pub judge: Judge,
}

/// One request that was not answered as it should be.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Since the load began.
    pub at: Duration,
    /// The request's path.
    pub path: String,
    /// What happened.
    pub reason: String,
}

/// What has become of the load.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Requests that were answered rightly.
    pub answered: u64,
    /// Those that were not.
    pub failures: Vec<Failure>,
    /// How many were not.
    pub failed: u64,
    /// Requests sent again because a kept connection turned out to be closed before a byte of an answer came.
    pub stale: u64,
    /// The slowest answer.
    pub slowest: Duration,
}

/// Running load.
#[derive(Debug)]
pub struct Load {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    outcome: Arc<Mutex<Outcome>>,
    threads: Vec<JoinHandle<()>>,
}

/// Takes 200 only.
///
/// # Errors
/// What else came.
pub fn only_200(_path: &str, answer: &Answer) -> Result<(), String> {
    match answer.status {
        200 => Ok(()),
        other => Err(format!("status {other}: {}", answer.text())),
    }
}

impl LoadPlan {
    /// Four connections, a request every few milliseconds each, 200 is right.
    pub fn new(address: &str, paths: &[&str]) -> Self {
        Self {
            address: address.to_owned(),
            paths: paths.iter().map(|path| (*path).to_owned()).collect(),
            connections: 4,
            pause: Duration::from_millis(3),
            requests_per_connection: 200,
            judge: only_200,
        }
    }
}

impl Load {
    /// Starts.
    pub fn start(plan: &LoadPlan) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let outcome = Arc::new(Mutex::new(Outcome::default()));
        let start = Instant::now();
        let threads = (0..plan.connections)
            .map(|number| {
                let sender = Sender {
                    plan: plan.clone(),
                    stop: Arc::clone(&stop),
                    answered: Arc::clone(&answered),
                    outcome: Arc::clone(&outcome),
                    start,
                };
                std::thread::spawn(move || sender.run(number))
            })
            .collect();
        Self {
            stop,
            answered,
            outcome,
            threads,
        }
    }

    /// How many requests have been answered rightly until now.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Waits until so many more have been answered.
    pub fn more(&self, count: u64) {
        let aim = self.answered() + count;
        crate::eventually("requests are answered", Duration::from_secs(20), || {
            self.answered() >= aim
        });
    }

    /// What has gone wrong until now.
    pub fn failed(&self) -> u64 {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner).failed
    }

    /// Ends it, when every request that was begun has its answer.
    pub fn finish(mut self) -> Outcome {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a sender ends");
        }
        let mut outcome = self
            .outcome
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        outcome.answered = self.answered();
        outcome
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Outcome {
    /// Asserts that nothing was lost.
    ///
    /// # Panics
    /// With every failure.
    pub fn assert_nothing_lost(&self, context: impl FnOnce() -> String) {
        eprintln!(
            "{} answered, {} failed, {} stale, slowest {:?}",
            self.answered, self.failed, self.stale, self.slowest
        );
        assert!(
            self.failed == 0 && self.answered > 0,
            "{} answered, {} lost:\n{}\n{}",
            self.answered,
            self.failed,
            self.failures
                .iter()
                .map(|failure| format!("  {:?} {}: {}", failure.at, failure.path, failure.reason))
                .collect::<Vec<_>>()
                .join("\n"),
            context()
        );
    }
}

struct Sender {
    plan: LoadPlan,
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    outcome: Arc<Mutex<Outcome>>,
    start: Instant,
}

impl Sender {
    fn run(self, number: usize) {
        let mut open: Option<(Client<TcpStream>, u64)> = None;
        for path in self.plan.paths.iter().cycle().skip(number) {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            self.one(&mut open, path);
            std::thread::sleep(self.plan.pause);
        }
    }

    fn one(&self, open: &mut Option<(Client<TcpStream>, u64)>, path: &str) {
        let began = Instant::now();
        let mut result = Err(String::new());
        // A kept connection may have been closed in the moment in which this request was sent: every client of HTTP/1.1 has
        // to send it again then (RFC 9112 §9.3.1), once, over a new connection.
        for _ in 0..2 {
            let is_new = open.is_none();
            let (mut client, sent) = match open.take() {
                Some(kept) => kept,
                None => match Client::connect(&self.plan.address) {
                    Ok(client) => (client, 0),
                    Err(error) => {
                        result = Err(format!("connect: {error}"));
                        break;
                    }
                },
            };
            match client.request("GET", path, &[], b"") {
                Ok(answer) => {
                    if client.keep_alive && sent + 1 < self.plan.requests_per_connection {
                        *open = Some((client, sent + 1));
                    }
                    result = (self.plan.judge)(path, &answer);
                    break;
                }
                Err(error) => {
                    result = Err(format!(
                        "{} connection: {error}{}",
                        if is_new { "new" } else { "kept" },
                        if client.heard { " amid the answer" } else { "" }
                    ));
                    if is_new || client.heard {
                        break;
                    }
                    self.locked().stale += 1;
                }
            }
        }
        match result {
            Ok(()) => {
                self.answered.fetch_add(1, Ordering::Relaxed);
                let took = began.elapsed();
                let mut outcome = self.locked();
                outcome.slowest = outcome.slowest.max(took);
            }
            Err(reason) => {
                let mut outcome = self.locked();
                outcome.failed += 1;
                if outcome.failures.len() < MOST_FAILURES {
                    outcome.failures.push(Failure {
                        at: self.start.elapsed(),
                        path: path.to_owned(),
                        reason,
                    });
                }
            }
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Outcome> {
        self.outcome.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
