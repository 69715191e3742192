//! What the expressions of AccessRules speak of. Their meaning is `decide`'s.

/// Whether an expression speaks of this variable (`request`) or field (`source.labels`). Rather once too often: a text in
/// quotes counts.
pub(crate) fn uses(expression: &str, name: &str) -> bool {
    let is_word = |character: char| character.is_alphanumeric() || character == '_';
    expression.match_indices(name).any(|(at, found)| {
        let before = expression.get(..at).and_then(|text| text.chars().next_back());
        let after = expression
            .get(at + found.len()..)
            .and_then(|text| text.chars().next());
        !before.is_some_and(|character| is_word(character) || character == '.') && !after.is_some_and(is_word)
    })
}

#[cfg(test)]
mod tests {
    use super::uses;

    #[test]
    fn whole_names_count() {
        assert!(uses("source.labels[\"tier\"] != 'batch'", "source.labels"));
        assert!(uses("!has(request.headers.a)", "request"));
        assert!(!uses("destination.labels.a == 'x'", "source.labels"));
        assert!(!uses("source.authenticated", "auth"));
        assert!(!uses("connection.request == 1", "request"));
    }
}
