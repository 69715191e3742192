//! Walks over maps that are ordered by namespace and name.

use std::collections::BTreeMap;

use bartizan_types::{Name, Namespace, NamespacedName};

/// The entries of one namespace, in the order of their names.
pub(crate) fn in_namespace<'a, T>(
    map: &'a BTreeMap<NamespacedName, T>,
    namespace: &'a Namespace,
) -> impl Iterator<Item = (&'a NamespacedName, &'a T)> {
    // `0` sorts before every other name: names start with a digit or a letter.
    Name::parse("0")
        .ok()
        .map(|least| NamespacedName::new(namespace.clone(), least))
        .into_iter()
        .flat_map(move |start| map.range(start..))
        .take_while(move |(name, _)| name.namespace == *namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_namespace_and_in_order() {
        let map: BTreeMap<_, _> = ["a/z", "b/0", "b/0a", "b/z", "ba/a", "c/a"]
            .map(|text| (NamespacedName::parse(text).unwrap(), text))
            .into();
        let found: Vec<_> = in_namespace(&map, &Name::parse("b").unwrap())
            .map(|(_, text)| *text)
            .collect();
        assert_eq!(found, ["b/0", "b/0a", "b/z"]);
    }
}
