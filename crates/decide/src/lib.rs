//! bartizan-decide
