//! What one worker thread owns: its view of the snapshot, its counters and log, its upstream connections, and the slots by
//! which it reaches the tasks of its open connections. Nothing of it leaves the thread.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::task::Waker;
use std::time::{Duration, Instant, SystemTime};

use arc_swap::{ArcSwap, Cache};
use bartizan_decide::Engine;
use bartizan_identity::crypto::random_u64;
use bartizan_telemetry::{self as telemetry, AccessLogWorker, Counter, WorkerMetrics, families};
use bartizan_types::{DecisionId, Version};

use crate::drain::Stage;
use crate::labels;
use crate::shared::Shared;
use crate::tcp::Flow;
use crate::tokens::Tokens;
use crate::upstream::Upstreams;

/// The length of a tick: how exactly idle connections are noticed.
const TICK: Duration = Duration::from_secs(1);
/// Ticks between two reports of TCP connections' bytes (Istio's `tcp_reporting_duration`).
const REPORT_EVERY: u32 = 5;
/// Ticks between two looks at the idle upstream connections.
const SWEEP_EVERY: u32 = 5;

/// One worker thread's own things.
pub(crate) struct Worker {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: WorkerMetrics,
    pub(crate) log: Option<AccessLogWorker>,
    pub(crate) upstreams: Upstreams,
    pub(crate) reused: Counter,
    pub(crate) tokens: Tokens,
    /// Requests that wait for an issuer's newer keys.
    pub(crate) waiting_for_keys: Cell<u32>,
    engine: RefCell<Cache<Arc<ArcSwap<Engine>>, Arc<Engine>>>,
    changes: Cell<u64>,
    stage: Cell<Stage>,
    random: Cell<u64>,
    ticks: Cell<u32>,
    wall: Cell<(Instant, SystemTime)>,
    slots: RefCell<Slots>,
    flows: RefCell<Vec<Weak<Flow>>>,
    own: RefCell<Option<(Version, Arc<telemetry::Workload>)>>,
}

/// By which a worker reaches a task that serves a connection or a stream.
#[derive(Debug)]
pub(crate) struct Slot {
    waker: RefCell<Waker>,
    deadline: Cell<Option<u32>>,
    what: Cell<What>,
    remote: SocketAddr,
    local: SocketAddr,
    since: Instant,
}

/// What a slot's task is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum What {
    Beginning,
    Waiting,
    Request,
    Bytes,
}

/// A slot for as long as this exists.
pub(crate) struct Registration {
    worker: Rc<Worker>,
    at: usize,
    slot: Rc<Slot>,
}

/// The slots of a worker: places are used again, the last one that became free first.
#[derive(Default)]
struct Slots {
    places: Vec<Option<Rc<Slot>>>,
    free: Vec<usize>,
}

impl Slots {
    fn insert(&mut self, slot: Rc<Slot>) -> usize {
        if let Some(at) = self.free.pop()
            && let Some(place) = self.places.get_mut(at)
        {
            *place = Some(slot);
            return at;
        }
        self.places.push(Some(slot));
        self.places.len() - 1
    }

    fn remove(&mut self, at: usize) {
        if self.places.get_mut(at).and_then(Option::take).is_some() {
            self.free.push(at);
        }
        if self.free.len() == self.places.len() {
            *self = Self::default();
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Rc<Slot>> {
        self.places.iter().flatten()
    }
}

impl Worker {
    /// Made on its own thread.
    pub(crate) fn new(shared: Arc<Shared>) -> Rc<Self> {
        let metrics = shared.registry.worker();
        Rc::new(Self {
            log: shared.log.as_ref().map(bartizan_telemetry::AccessLog::worker),
            upstreams: Upstreams::default(),
            reused: metrics.counter(&families::UPSTREAM_REUSED, &[]),
            tokens: Tokens::new(&metrics),
            waiting_for_keys: Cell::new(0),
            engine: RefCell::new(Cache::new(Arc::clone(shared.cell.engine()))),
            changes: Cell::new(0),
            stage: Cell::new(shared.drain.stage()),
            random: Cell::new(random_u64()),
            ticks: Cell::new(0),
            wall: Cell::new((Instant::now(), SystemTime::now())),
            slots: RefCell::default(),
            flows: RefCell::default(),
            own: RefCell::default(),
            metrics,
            shared,
        })
    }

    /// The present engine. A request calls it once and keeps what it got.
    pub(crate) fn engine(&self) -> Arc<Engine> {
        Arc::clone(self.engine.borrow_mut().load())
    }

    /// The labels of the workload that the proxy serves.
    pub(crate) fn own_side(&self) -> Arc<telemetry::Workload> {
        let engine = self.engine();
        let version = engine.snapshot().version();
        if let Some((known, own)) = &*self.own.borrow()
            && *known == version
        {
            return Arc::clone(own);
        }
        let own = labels::own_side(engine.snapshot(), &self.shared.workload);
        *self.own.borrow_mut() = Some((version, Arc::clone(&own)));
        own
    }

    /// How often something changed that open connections are judged by.
    pub(crate) fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// How far the proxy is on its way out.
    pub(crate) fn stage(&self) -> Stage {
        self.stage.get()
    }

    /// A number uniform over all of `u64` (`SplitMix64` from a random seed): for choices and ids, not for secrets.
    pub(crate) fn random(&self) -> u64 {
        let state = self.random.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.random.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// The id of a new decision.
    pub(crate) fn decision_id(&self) -> DecisionId {
        DecisionId(self.random())
    }

    /// The wall clock's time at `instant`, without asking the wall clock.
    pub(crate) fn wall_time(&self, instant: Instant) -> SystemTime {
        let (then, wall) = self.wall.get();
        match instant.checked_duration_since(then) {
            Some(later) => wall + later,
            None => wall - then.duration_since(instant),
        }
    }

    /// The wall clock's time in seconds since 1970, as of the last tick.
    pub(crate) fn now_seconds(&self) -> i64 {
        let (_, wall) = self.wall.get();
        let since = wall.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    /// Counts one, where the counter is not worth keeping.
    pub(crate) fn count(&self, family: &'static families::Family, values: &[&str]) {
        self.metrics.counter(family, values).increment();
    }

    /// Reports the flow's bytes every few seconds from now on.
    pub(crate) fn report(&self, flow: &Rc<Flow>) {
        self.flows.borrow_mut().push(Rc::downgrade(flow));
    }

    /// Gives the calling task a slot.
    pub(crate) async fn register(self: &Rc<Self>, remote: SocketAddr, local: SocketAddr) -> Registration {
        let waker = std::future::poll_fn(|cx| std::task::Poll::Ready(cx.waker().clone())).await;
        let slot = Rc::new(Slot {
            waker: RefCell::new(waker),
            deadline: Cell::new(None),
            what: Cell::new(What::Beginning),
            remote,
            local,
            since: Instant::now(),
        });
        let at = self.slots.borrow_mut().insert(Rc::clone(&slot));
        Registration {
            worker: Rc::clone(self),
            at,
            slot,
        }
    }

    /// What is open, for people.
    pub(crate) fn open_connections(&self) -> Vec<serde_json::Value> {
        self.slots
            .borrow()
            .iter()
            .map(|slot| {
                serde_json::json!({
                    "remote": slot.remote,
                    "local": slot.local,
                    "doing": format!("{:?}", slot.what.get()).to_lowercase(),
                    "seconds": slot.since.elapsed().as_secs(),
                })
            })
            .collect()
    }

    fn wake_all(&self) {
        for slot in self.slots.borrow().iter() {
            slot.waker.borrow().wake_by_ref();
        }
    }

    /// Tells open connections of every change, and looks after what is idle, for as long as the worker lives.
    pub(crate) async fn look_after(self: Rc<Self>) {
        let mut changes = self.shared.cell.subscribe();
        let mut stages = self.shared.drain.subscribe();
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Ok(()) = changes.changed() => {
                    self.changes.set(*changes.borrow_and_update());
                    self.upstreams.forget_unused();
                    self.wake_all();
                }
                Ok(()) = stages.changed() => {
                    self.stage.set(*stages.borrow_and_update());
                    self.wake_all();
                }
                _ = ticks.tick() => self.tick(),
            }
        }
    }

    fn tick(&self) {
        let now = self.ticks.get() + 1;
        self.ticks.set(now);
        self.wall.set((Instant::now(), SystemTime::now()));
        for slot in self.slots.borrow().iter() {
            if slot.deadline.get().is_some_and(|deadline| deadline <= now) {
                slot.waker.borrow().wake_by_ref();
            }
        }
        if now.is_multiple_of(REPORT_EVERY) {
            self.flows.borrow_mut().retain(|flow| {
                flow.upgrade().is_some_and(|flow| {
                    flow.report();
                    true
                })
            });
        }
        if now.is_multiple_of(SWEEP_EVERY) {
            self.upstreams.sweep(Instant::now());
        }
    }
}

impl Registration {
    /// Says what the task does now, and for how many seconds at most; none is for ever.
    pub(crate) fn set(&self, what: What, seconds: Option<u32>) {
        self.slot.what.set(what);
        let deadline = seconds.map(|seconds| self.worker.ticks.get().saturating_add(seconds + 1));
        self.slot.deadline.set(deadline);
    }

    /// Whether the time is over. Only a wake-up of the worker's makes a task look.
    pub(crate) fn is_over(&self) -> bool {
        self.slot
            .deadline
            .get()
            .is_some_and(|deadline| deadline <= self.worker.ticks.get())
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.worker.slots.borrow_mut().remove(self.at);
    }
}
