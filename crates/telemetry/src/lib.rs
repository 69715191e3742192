//! What the mesh tells about itself: Istio's metrics and access log under Istio's names, and bartizan's own beside them.
//!
//! Everything on the way of a request is written by one thread without locked instructions and folded when somebody reads.

pub mod access_log;
pub mod access_record;
mod cells;
mod encode;
pub mod families;
pub mod flags;
pub mod json;
pub mod labels;
pub mod merge;
pub mod metrics;
mod own_process;
mod timestamp;

pub use access_log::{AccessLog, AccessLogLimits, AccessLogWorker, Sink};
pub use access_record::{AccessRecord, DryRun, TlsRecord};
pub use encode::CONTENT_TYPE;
pub use families::Family;
pub use flags::ResponseFlags;
pub use labels::{EdgeLabels, Reporter, RequestProtocol, SecurityPolicy, Service, Workload};
pub use merge::{Target, merge};
pub use metrics::{
    Counter, Edge, Limits, OpenGuard, Registry, RequestDone, SharedCounter, SharedGauge, WorkerMetrics,
};
