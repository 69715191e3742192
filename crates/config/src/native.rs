//! Kinds of our own (`bartizan.dev/v1alpha1`). Every unknown field is an error.

pub mod local_run;
pub mod static_proxy;

pub use local_run::{LocalGateway, LocalListen, LocalRun, LocalTarget, LocalWorkload};
pub use static_proxy::{StaticEndpoint, StaticInbound, StaticOutbound, StaticProxy};
