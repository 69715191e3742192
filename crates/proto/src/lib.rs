//! bartizan-proto
