//! Core Kubernetes kinds. A field is supported, or has no meaning here (a note), or would change meaning (an error).

pub mod config_map;
pub mod container;
pub mod deployment;
pub mod namespace;
pub mod pod;
pub mod probe;
pub mod secret;
pub mod service;
pub mod service_account;
pub mod stateful_set;
pub mod volume;

pub use config_map::ConfigMap;
pub use container::{
    Container, ContainerPort, EnvironmentFrom, EnvironmentValue, EnvironmentVariable, FieldReference,
    KeyReference, ObjectReference, SecurityContext,
};
pub use deployment::Deployment;
pub use pod::{Pod, PodSpec, PodTemplate, RestartPolicy};
pub use probe::{HttpGet, Probe, ProbeCheck};
pub use secret::SecretData;
pub use service::{PortReference, Service, ServiceKind, ServicePort};
pub use stateful_set::StatefulSet;
pub use volume::{KeyToPath, Volume, VolumeMount, VolumeSource};
