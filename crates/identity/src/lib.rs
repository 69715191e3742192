//! bartizan-identity
