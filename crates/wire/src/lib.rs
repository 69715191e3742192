//! bartizan-wire
