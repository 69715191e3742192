//! bartizan-compile
