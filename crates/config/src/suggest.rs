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

/// Letters inserted, left out, replaced or swapped with a neighbour (optimal string alignment distance).
fn distance(left: &[char], right: &[char]) -> usize {
    let mut row: Vec<usize> = (0..=right.len()).collect();
    let mut row_before: Vec<usize> = Vec::new();
    let mut letter_before = None;
    for (i, a) in left.iter().enumerate() {
        let mut next = vec![i + 1];
        let mut right_before = None;
        for (j, b) in right.iter().enumerate() {
            let at = |row: &[usize], index: usize| row.get(index).copied().unwrap_or(usize::MAX - 1);
            let replaced = at(&row, j) + usize::from(a != b);
            let mut best = replaced.min(at(&row, j + 1) + 1).min(at(&next, j) + 1);
            if letter_before == Some(b) && right_before == Some(a) && j > 0 {
                best = best.min(at(&row_before, j - 1) + 1);
            }
            next.push(best);
            right_before = Some(b);
        }
        row_before = std::mem::replace(&mut row, next);
        letter_before = Some(a);
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
        assert_eq!(nearest("tpm", ["tmp"]), Some("tmp"));
        assert_eq!(nearest("", known), None);
    }
}
