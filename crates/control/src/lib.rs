//! bartizan-control
