//! bartizan-telemetry
