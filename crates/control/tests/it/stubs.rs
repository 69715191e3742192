//! The client side, generated for the proxy.

#![expect(
    dead_code,
    unreachable_pub,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::pedantic,
    reason = "generated"
)]

include!("../../../proxy/src/gen/bartizan.v1alpha1.rs");
