//! What must verify, and what must not.
