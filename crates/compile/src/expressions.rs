//! What the expressions of AccessRules speak of. Their meaning is `decide`'s.

use bartizan_cel::{Environment, check};

/// Whether an expression speaks of this variable (`request`) or field (`source.labels`). One that cannot be read, which
/// `config` refuses, speaks of everything.
pub(crate) fn uses(expression: &str, name: &str) -> bool {
    check(expression, Environment::access_rule()).map_or(true, |program| program.uses(name))
}

#[cfg(test)]
mod tests {
    use super::uses;

    #[test]
    fn names_are_found_however_they_are_written() {
        assert!(uses("source.labels[\"tier\"] != 'batch'", "source.labels"));
        assert!(uses("source . labels.tier == 'batch'", "source.labels"));
        assert!(uses("!has(request.headers.a)", "request"));
        assert!(!uses("destination.labels.a == 'source.labels'", "source.labels"));
        assert!(!uses("source.authenticated", "auth"));
        assert!(uses("nonsense(", "request"));
    }
}
