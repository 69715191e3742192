//! The words everybody uses, parsed once.
//!
//! A value of one of these types is valid by construction: parse at the edge, trust it inside.
//! Nothing here does IO, reads a clock or knows about a document format.

pub mod calendar;
pub mod cidr;
pub mod decision;
pub mod fnv;
pub mod hostname;
pub mod labels;
pub mod name;
pub mod peer;
pub mod pod;
pub mod port;
pub mod protocol;
pub mod resource_ref;
pub mod secret;
pub mod spiffe;
pub mod string_match;
pub mod version;

pub use calendar::DateTime;
pub use cidr::{Cidr, CidrError};
pub use decision::{DecisionId, RuleId};
pub use fnv::fnv1a;
pub use hostname::{HostPattern, Hostname, HostnameError};
pub use labels::{Labels, Selector};
pub use name::{Name, NameError, Namespace, NamespacedName};
pub use peer::Peer;
pub use pod::{
    ContainerPort, ContainerReport, ContainerSpec, EnvironmentValue, EnvironmentVariable, GatewayListen,
    Mount, PodPhase, PodReport, PodRole, PodSpec, Probe, ProbeAction, RestartPolicy, VolumeFile,
    VolumeSource, VolumeSpec, proxy_socket_name,
};
pub use port::{Port, PortError};
pub use protocol::Protocol;
pub use resource_ref::{Kind, ResourceRef};
pub use secret::Secret;
pub use spiffe::{SpiffeId, SpiffeIdError, TrustDomain, TrustDomainError};
pub use string_match::StringMatch;
pub use version::Version;
