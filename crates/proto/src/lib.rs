//! Generated protobuf messages, without gRPC: the stubs are generated into the rooms that speak them.
//!
//! Sources are in `proto/`; `cargo xtask gen` writes everything under `src/gen`, here and in `control`, `proxy` and `bartizan`.

/// What bartizan's own processes say to each other.
#[expect(missing_docs, reason = "generated; the .proto files have the comments")]
pub mod v1alpha1 {
    include!("gen/bartizan.v1alpha1.rs");
}

/// What external authorizers are asked and answer: a subset of `envoy.service.auth.v3`.
#[expect(missing_docs, reason = "generated; the .proto files have the comments")]
pub mod ext_authz {
    include!("gen/envoy.service.auth.v3.rs");
}
