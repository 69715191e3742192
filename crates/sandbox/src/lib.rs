//! bartizan-sandbox
