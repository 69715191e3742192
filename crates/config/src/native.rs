//! Kinds of our own (`bartizan.dev/v1alpha1`). Every unknown field is an error.

pub mod access_rule;
pub mod local_run;
pub mod policy_claim;
pub mod policy_test;
pub mod profile;
pub mod static_proxy;

pub use access_rule::{AccessRule, AccessRuleRule};
pub use local_run::{LocalGateway, LocalListen, LocalRun, LocalTarget, LocalWorkload};
pub use policy_claim::{ClaimCallees, ClaimCallers, ClaimNeeds, ClaimRequest, EveryWay, Never, PolicyClaim};
pub use policy_test::{Expectation, PolicyTest, PolicyTestCase, TestRequest, TestRule, TestToken};
pub use profile::{AcrossNamespaces, PathRule, Profile, Reach, UserCredentials, WayOut, WithoutPolicy};
pub use static_proxy::{StaticEndpoint, StaticInbound, StaticOutbound, StaticProxy};
