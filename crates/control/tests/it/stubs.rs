//! The client side, generated for the proxy.

#![expect(
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    reason = "generated"
)]

include!("../../../proxy/src/gen/bartizan.v1alpha1.rs");
