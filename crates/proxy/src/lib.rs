//! bartizan-proxy
