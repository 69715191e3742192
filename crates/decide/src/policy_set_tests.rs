//! Laws of the indexed rules, and what they cost.
