//! "Did you mean": the known word that is nearest to a misspelt one.

/// The nearest of `known` within a distance that a slip of the hand makes, if there is one.
pub(crate) fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower: Vec<char> = word
        .to_lowercase()
        .chars()
        .filter(|c| !matches!(c, '_' | '-'))
        .take(64)
        .collect();
    let most = (lower.len() / 3).clamp(1, 3);
    known
        .into_iter()
        .filter_map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().take(64).collect();
            let distance = distance(&lower, &letters);
            (distance <= most).then_some((distance, candidate))
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein distance.
fn distance(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, a) in left.iter().enumerate() {
        let mut diagonal = i;
        let mut before = i + 1;
        let mut next = Vec::with_capacity(row.len());
        next.push(before);
        for (b, &above) in right.iter().zip(row.iter().skip(1)) {
            let cost = usize::from(a != b);
            before = (diagonal + cost).min(above + 1).min(before + 1);
            diagonal = above;
            next.push(before);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::nearest;

    #[test]
    fn slips_are_found_and_other_words_are_not() {
        let known = ["principals", "notPrincipals", "namespaces", "ipBlocks"];
        assert_eq!(nearest("principal", known), Some("principals"));
        assert_eq!(nearest("ip_blocks", known), Some("ipBlocks"));
        assert_eq!(nearest("NAMESPACES", known), Some("namespaces"));
        assert_eq!(nearest("nmaespace", known), Some("namespaces"));
        assert_eq!(nearest("selector", known), None);
        assert_eq!(nearest("", known), None);
    }
}
