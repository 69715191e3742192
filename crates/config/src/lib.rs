//! bartizan-config
