//! The registry and its workers' handles.
//!
//! A worker thread asks once for the [`Edge`] of a hop and keeps it with the connection; recording a request then finds its
//! series by comparing a few numbers. Handles cannot leave their thread; the registry reads what they write when it is scraped.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smallvec::SmallVec;

use crate::cells::{FoldedHistogram, Histogram, Level, Tally};
use crate::encode;
use crate::families::{self, Family, Kind};
use crate::flags::ResponseFlags;
use crate::labels::{EdgeLabels, RequestProtocol, SecurityPolicy, Service, Workload};

/// How much may be remembered.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The most series of a kind (requests, connections, own metrics) over all workers; what is beyond is counted under `overflow`.
    pub series: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { series: 20_000 }
    }
}

/// Everything that a process counts.
#[derive(Debug)]
pub struct Registry {
    limits: Limits,
    series: AtomicUsize,
    workers: Mutex<Vec<Arc<Shared>>>,
    shared_values: Mutex<BTreeMap<FamilyKey, Arc<SharedCell>>>,
    overflow: SharedCounter,
}

/// What one worker writes and the registry reads. The locks are taken when a series is new and when it is scraped.
#[derive(Debug, Default)]
struct Shared {
    edges: Mutex<Vec<Arc<EdgeCells>>>,
    values: Mutex<Vec<(FamilyKey, Arc<ValueCell>)>>,
}

#[derive(Debug)]
struct EdgeCells {
    labels: EdgeLabels,
    requests: Mutex<Vec<Arc<RequestCells>>>,
    connections: Mutex<Vec<Arc<ConnectionCells>>>,
    request_messages: Tally,
    response_messages: Tally,
}

#[derive(Debug, Default)]
struct RequestCells {
    key: RequestKey,
    requests: Tally,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// What distinguishes the request series of one edge.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) struct RequestKey {
    pub(crate) protocol: RequestProtocol,
    pub(crate) response_code: u16,
    pub(crate) grpc_status: Option<u32>,
    pub(crate) flags: ResponseFlags,
}

impl Default for RequestKey {
    fn default() -> Self {
        Self {
            protocol: RequestProtocol::Http,
            response_code: 0,
            grpc_status: None,
            flags: ResponseFlags::NONE,
        }
    }
}

#[derive(Debug, Default)]
struct ConnectionCells {
    flags: ResponseFlags,
    opened: Tally,
    closed: Tally,
    sent: Tally,
    received: Tally,
}

pub(crate) type LabelValues = SmallVec<[Arc<str>; 4]>;
pub(crate) type FamilyKey = (&'static Family, LabelValues);

/// A worker's counter or level of a family of our own.
#[derive(Debug, Default)]
struct ValueCell {
    count: Tally,
    level: Level,
}

/// A value of a family of our own that any thread may change.
#[derive(Debug, Default)]
struct SharedCell {
    count: AtomicU64,
    level: AtomicI64,
}

/// A counter for threads that are not workers.
#[derive(Clone, Debug)]
pub struct SharedCounter(Arc<SharedCell>);

impl SharedCounter {
    /// Adds.
    pub fn add(&self, amount: u64) {
        self.0.count.fetch_add(amount, Ordering::Relaxed);
    }

    /// Takes over a total that is counted elsewhere, such as by the kernel; it never goes back.
    pub fn raise_to(&self, total: u64) {
        self.0.count.fetch_max(total, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> u64 {
        self.0.count.load(Ordering::Relaxed)
    }
}

/// A gauge for threads that are not workers.
#[derive(Clone, Debug)]
pub struct SharedGauge(Arc<SharedCell>);

impl SharedGauge {
    /// Sets.
    pub fn set(&self, value: i64) {
        self.0.level.store(value, Ordering::Relaxed);
    }

    /// Adds or takes away.
    pub fn add(&self, amount: i64) {
        self.0.level.fetch_add(amount, Ordering::Relaxed);
    }

    /// The value.
    pub fn get(&self) -> i64 {
        self.0.level.load(Ordering::Relaxed)
    }
}

impl Registry {
    /// An empty registry.
    pub fn new(limits: Limits) -> Arc<Self> {
        let overflow = Arc::new(SharedCell::default());
        let values = BTreeMap::from([(
            (&families::METRICS_OVERFLOW, LabelValues::new()),
            Arc::clone(&overflow),
        )]);
        Arc::new(Self {
            limits,
            series: AtomicUsize::new(0),
            workers: Mutex::new(Vec::new()),
            shared_values: Mutex::new(values),
            overflow: SharedCounter(overflow),
        })
    }

    /// The handle for one more worker thread; make it on that thread.
    pub fn worker(self: &Arc<Self>) -> WorkerMetrics {
        let shared = Arc::new(Shared::default());
        lock(&self.workers).push(Arc::clone(&shared));
        WorkerMetrics(Rc::new(Worker {
            registry: Arc::clone(self),
            shared,
            edges: RefCell::default(),
            values: RefCell::default(),
        }))
    }

    /// A counter that any thread may raise, with one value for each of the family's labels (missing ones are empty).
    pub fn counter(&self, family: &'static Family, values: &[&str]) -> SharedCounter {
        SharedCounter(self.shared_cell(family, values))
    }

    /// A gauge that any thread may set, with one value for each of the family's labels (missing ones are empty).
    pub fn gauge(&self, family: &'static Family, values: &[&str]) -> SharedGauge {
        SharedGauge(self.shared_cell(family, values))
    }

    fn shared_cell(&self, family: &'static Family, values: &[&str]) -> Arc<SharedCell> {
        let mut cells = lock(&self.shared_values);
        let key = (family, label_values(family, values));
        if let Some(cell) = cells.get(&key) {
            return Arc::clone(cell);
        }
        let key = if self.admit_series() {
            key
        } else {
            (family, overflow_values(family))
        };
        Arc::clone(cells.entry(key).or_default())
    }

    /// Whether one more series may be made.
    fn admit_series(&self) -> bool {
        let fine = self.series.load(Ordering::Relaxed) < self.limits.series;
        if fine {
            self.series.fetch_add(1, Ordering::Relaxed);
        } else {
            self.overflow.add(1);
        }
        fine
    }

    /// Everything, added up over the workers, in Prometheus' text format ([`crate::CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        let mut text = encode::encode(&self.fold());
        crate::own_process::encode(&mut text);
        text
    }

    fn fold(&self) -> Folded {
        let mut folded = Folded::default();
        for (key, cell) in lock(&self.shared_values).iter() {
            let value = folded.values.entry(key.clone()).or_default();
            *value += i128::from(cell.count.load(Ordering::Relaxed))
                + i128::from(cell.level.load(Ordering::Relaxed));
        }
        let workers = lock(&self.workers).clone();
        for worker in workers {
            for (key, cell) in lock(&worker.values).iter() {
                let value = folded.values.entry(key.clone()).or_default();
                *value += i128::from(cell.count.get()) + i128::from(cell.level.get());
            }
            let edges = lock(&worker.edges).clone();
            for edge in edges {
                fold_edge(&edge, &mut folded);
            }
        }
        folded
    }
}

fn fold_edge(edge: &EdgeCells, folded: &mut Folded) {
    let (asked, answered) = (edge.request_messages.get(), edge.response_messages.get());
    if asked + answered > 0 {
        // The message counters have no label for protection, so edges that differ only in it are one series.
        let mut labels = edge.labels.clone();
        labels.security = SecurityPolicy::Unknown;
        let messages = folded.messages.entry(labels).or_default();
        messages.0 += asked;
        messages.1 += answered;
    }
    for cells in lock(&edge.requests).iter() {
        let into = folded
            .requests
            .entry((edge.labels.clone(), cells.key))
            .or_default();
        into.requests += cells.requests.get();
        cells.duration.fold_into(&mut into.duration);
        cells.request_bytes.fold_into(&mut into.request_bytes);
        cells.response_bytes.fold_into(&mut into.response_bytes);
    }
    for cells in lock(&edge.connections).iter() {
        let into = folded
            .connections
            .entry((edge.labels.clone(), cells.flags))
            .or_default();
        into.opened += cells.opened.get();
        into.closed += cells.closed.get();
        into.sent += cells.sent.get();
        into.received += cells.received.get();
    }
}

/// All workers' numbers, added up and sorted.
#[derive(Debug, Default)]
pub(crate) struct Folded {
    pub(crate) requests: BTreeMap<(EdgeLabels, RequestKey), FoldedRequests>,
    pub(crate) connections: BTreeMap<(EdgeLabels, ResponseFlags), FoldedConnections>,
    pub(crate) messages: BTreeMap<EdgeLabels, (u64, u64)>,
    pub(crate) values: BTreeMap<FamilyKey, i128>,
}

#[derive(Debug, Default)]
pub(crate) struct FoldedRequests {
    pub(crate) requests: u64,
    pub(crate) duration: FoldedHistogram,
    pub(crate) request_bytes: FoldedHistogram,
    pub(crate) response_bytes: FoldedHistogram,
}

#[derive(Debug, Default)]
pub(crate) struct FoldedConnections {
    pub(crate) opened: u64,
    pub(crate) closed: u64,
    pub(crate) sent: u64,
    pub(crate) received: u64,
}

/// One worker thread's handle. Cheap to clone, cannot leave its thread.
#[derive(Clone, Debug)]
pub struct WorkerMetrics(Rc<Worker>);

#[derive(Debug)]
struct Worker {
    registry: Arc<Registry>,
    shared: Arc<Shared>,
    edges: RefCell<HashMap<EdgeLabels, Edge>>,
    values: RefCell<HashMap<FamilyKey, Arc<ValueCell>>>,
}

impl WorkerMetrics {
    /// The handle of a hop, looked up by its whole labels. Ask once for a connection or a route's destination and keep it.
    pub fn edge(&self, labels: &EdgeLabels) -> Edge {
        if let Some(edge) = self.0.edges.borrow().get(labels) {
            return edge.clone();
        }
        let labels = if self.0.registry.admit_series() {
            labels.clone()
        } else {
            overflow_labels(labels)
        };
        if let Some(edge) = self.0.edges.borrow().get(&labels) {
            return edge.clone();
        }
        let cells = Arc::new(EdgeCells {
            labels: labels.clone(),
            requests: Mutex::default(),
            connections: Mutex::default(),
            request_messages: Tally::default(),
            response_messages: Tally::default(),
        });
        lock(&self.0.shared.edges).push(Arc::clone(&cells));
        let edge = Edge(Rc::new(WorkerEdge {
            registry: Arc::clone(&self.0.registry),
            cells,
            requests: RefCell::default(),
            connections: RefCell::default(),
        }));
        self.0.edges.borrow_mut().insert(labels, edge.clone());
        edge
    }

    /// This worker's counter of a family, with one value for each of its labels (missing ones are empty).
    pub fn counter(&self, family: &'static Family, values: &[&str]) -> Counter {
        Counter {
            cell: self.value(family, values),
            _here: std::marker::PhantomData,
        }
    }

    /// Raises a gauge of a family until the guard is dropped.
    pub fn open(&self, family: &'static Family, values: &[&str]) -> OpenGuard {
        let cell = self.value(family, values);
        cell.level.add(1);
        OpenGuard {
            cell,
            _here: std::marker::PhantomData,
        }
    }

    fn value(&self, family: &'static Family, values: &[&str]) -> Arc<ValueCell> {
        let key = (family, label_values(family, values));
        if let Some(cell) = self.0.values.borrow().get(&key) {
            return Arc::clone(cell);
        }
        let key = if self.0.registry.admit_series() {
            key
        } else {
            (family, overflow_values(family))
        };
        let mut cells = self.0.values.borrow_mut();
        let cell = cells.entry(key.clone()).or_insert_with(|| {
            let cell = Arc::new(ValueCell::default());
            lock(&self.0.shared.values).push((key, Arc::clone(&cell)));
            cell
        });
        Arc::clone(cell)
    }
}

/// A worker's counter.
#[derive(Clone, Debug)]
pub struct Counter {
    cell: Arc<ValueCell>,
    _here: std::marker::PhantomData<Rc<()>>,
}

impl Counter {
    /// Adds one.
    pub fn increment(&self) {
        self.cell.count.add(1);
    }

    /// Adds.
    pub fn add(&self, amount: u64) {
        self.cell.count.add(amount);
    }
}

/// Something that is open as long as this exists.
#[derive(Debug)]
pub struct OpenGuard {
    cell: Arc<ValueCell>,
    _here: std::marker::PhantomData<Rc<()>>,
}

impl Drop for OpenGuard {
    fn drop(&mut self) {
        self.cell.level.add(-1);
    }
}

/// A hop as one worker sees it. Cheap to clone, cannot leave its thread.
#[derive(Clone, Debug)]
pub struct Edge(Rc<WorkerEdge>);

#[derive(Debug)]
struct WorkerEdge {
    registry: Arc<Registry>,
    cells: Arc<EdgeCells>,
    requests: RefCell<Vec<Arc<RequestCells>>>,
    connections: RefCell<Vec<Arc<ConnectionCells>>>,
}

/// A request that has ended.
#[derive(Clone, Copy, Debug)]
pub struct RequestDone {
    /// HTTP or gRPC.
    pub protocol: RequestProtocol,
    /// The status code; 0 when the stream ended before a head.
    pub response_code: u16,
    /// The gRPC status that was received.
    pub grpc_status: Option<u32>,
    /// What went wrong.
    pub flags: ResponseFlags,
    /// From the first byte in to the last byte out; none when the request was not completed, which is then in no duration bucket.
    pub duration: Option<Duration>,
    /// Bytes received from the client, head and framing included.
    pub request_bytes: u64,
    /// Bytes sent to the client, head and framing included.
    pub response_bytes: u64,
    /// gRPC messages from the client.
    pub request_messages: u64,
    /// gRPC messages to the client.
    pub response_messages: u64,
}

impl Edge {
    /// Counts a request.
    pub fn request(&self, done: &RequestDone) {
        let key = RequestKey {
            protocol: done.protocol,
            response_code: done.response_code,
            grpc_status: done.grpc_status,
            flags: done.flags,
        };
        self.with_requests(key, |cells| {
            cells.requests.add(1);
            if let Some(duration) = done.duration {
                let micros = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
                cells.duration.observe_thousandths(micros);
            }
            cells.request_bytes.observe_units(done.request_bytes);
            cells.response_bytes.observe_units(done.response_bytes);
        });
        if done.protocol == RequestProtocol::Grpc {
            self.messages(done.request_messages, done.response_messages);
        }
    }

    /// Counts gRPC messages of a stream that goes on; [`RequestDone`] then says only what came after.
    pub fn messages(&self, from_client: u64, to_client: u64) {
        self.0.cells.request_messages.add(from_client);
        self.0.cells.response_messages.add(to_client);
    }

    /// Counts a TCP connection that has begun.
    pub fn tcp_opened(&self) {
        self.with_connections(ResponseFlags::NONE, |cells| cells.opened.add(1));
    }

    /// Counts a TCP connection that has ended.
    pub fn tcp_closed(&self, flags: ResponseFlags) {
        self.with_connections(flags, |cells| cells.closed.add(1));
    }

    /// Counts bytes of TCP connections, as seen from the client's side of the proxy: `received` came from the client, `sent`
    /// went to it (Istio's meaning, which dashboards rely on). Call it every few seconds and at the end.
    pub fn tcp_bytes(&self, received: u64, sent: u64, flags: ResponseFlags) {
        self.with_connections(flags, |cells| {
            cells.received.add(received);
            cells.sent.add(sent);
        });
    }

    fn with_requests(&self, key: RequestKey, record: impl FnOnce(&RequestCells)) {
        if let Some(cells) = self.0.requests.borrow().iter().find(|cells| cells.key == key) {
            return record(cells);
        }
        let key = if self.0.registry.admit_series() {
            key
        } else {
            // Status codes come from upstreams and flags from their behaviour; past the limit they are told together.
            RequestKey {
                protocol: key.protocol,
                ..RequestKey::default()
            }
        };
        if let Some(cells) = self.0.requests.borrow().iter().find(|cells| cells.key == key) {
            return record(cells);
        }
        let cells = Arc::new(RequestCells {
            key,
            ..RequestCells::default()
        });
        lock(&self.0.cells.requests).push(Arc::clone(&cells));
        record(&cells);
        self.0.requests.borrow_mut().push(cells);
    }

    fn with_connections(&self, flags: ResponseFlags, record: impl FnOnce(&ConnectionCells)) {
        if let Some(cells) = self
            .0
            .connections
            .borrow()
            .iter()
            .find(|cells| cells.flags == flags)
        {
            return record(cells);
        }
        let cells = Arc::new(ConnectionCells {
            flags,
            ..ConnectionCells::default()
        });
        lock(&self.0.cells.connections).push(Arc::clone(&cells));
        record(&cells);
        self.0.connections.borrow_mut().push(cells);
    }
}

fn label_values(family: &'static Family, values: &[&str]) -> LabelValues {
    (0..family.labels.len())
        .map(|at| Arc::from(values.get(at).copied().unwrap_or_default()))
        .collect()
}

fn overflow_values(family: &'static Family) -> LabelValues {
    family.labels.iter().map(|_| Arc::from(OVERFLOW)).collect()
}

const OVERFLOW: &str = "overflow";

fn overflow_labels(labels: &EdgeLabels) -> EdgeLabels {
    let name: Arc<str> = OVERFLOW.into();
    let workload = Arc::new(Workload {
        name: Arc::clone(&name),
        ..Workload::default()
    });
    EdgeLabels {
        reporter: labels.reporter,
        source: Arc::clone(&workload),
        destination: workload,
        service: Arc::new(Service {
            name,
            ..Service::default()
        }),
        security: labels.security,
    }
}

/// Which of a family's two numbers is told: both are kept in one cell, and only one of them is used.
pub(crate) fn is_counter(family: &Family) -> bool {
    family.kind == Kind::Counter
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
