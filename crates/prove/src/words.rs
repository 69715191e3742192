//! Sets in words: which values they have of a dimension, and who is among their callers.

use crate::bits::Bits;
use crate::diagram::Set;
use crate::problem::{Atom, Dimension, TooLarge};
use crate::sealed::{Divided, Sealed, Value};
use crate::text::TextAtom;

/// Who is among the callers of a set.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Callers {
    /// Everybody who can call at all.
    pub everybody: bool,
    /// Somebody without an identity.
    pub plaintext: bool,
    /// Principals of workloads that are known.
    pub known: Vec<String>,
    /// Principals that a policy names and no workload has.
    pub unknown: Vec<String>,
    /// Identities that no policy names are among them.
    pub others: bool,
    /// An example of those which no workload has, where one is known.
    pub other: Option<String>,
}

impl Sealed {
    /// The values of a text or number dimension that occur in a set, in the words of the patterns that divide it. `None`
    /// when every value that occurs in `all` does.
    pub(crate) fn in_words(&self, dimension: &Dimension, set: Set, all: Set) -> Option<Vec<String>> {
        let (at, variable) = self
            .numbers
            .get(dimension)
            .copied()
            .zip(self.variable(dimension))?;
        let here = self.diagrams.values(set, variable);
        let possible = self.diagrams.values(all, variable);
        if here == possible {
            return None;
        }
        let (Some(entry), Some(level)) = (self.entries.get(at), self.levels.get(&at)) else {
            return None;
        };
        let (accepted, examples): (&[Bits], Vec<String>) = match &level.classes {
            Divided::Text(classes) | Divided::Elements(classes) => (
                &classes.accepted,
                classes
                    .examples
                    .iter()
                    .map(|example| example.clone().unwrap_or_else(|| "none".to_owned()))
                    .collect(),
            ),
            Divided::Addresses(classes) => (
                &classes.accepted,
                classes
                    .examples
                    .iter()
                    .map(|example| example.map_or_else(String::new, |address| address.to_string()))
                    .collect(),
            ),
            Divided::Numbers(classes) | Divided::Times(classes) => (
                &classes.accepted,
                classes
                    .examples
                    .iter()
                    .map(|example| example.map_or_else(String::new, |number| number.to_string()))
                    .collect(),
            ),
        };
        let width = examples.len();
        let many = |bits: &Bits| (0..width).filter(|class| bits.has(*class)).count();
        // Of what is left, always the pattern that covers most of it and nothing else.
        let cover = |wanted: &Bits| -> (Vec<String>, Bits) {
            let mut left = wanted.clone();
            let mut words = Vec::new();
            loop {
                let best = accepted
                    .iter()
                    .zip(&entry.atoms)
                    .filter(|(bits, _)| {
                        (0..width).all(|class| !bits.has(class) || wanted.has(class) || !possible.has(class))
                    })
                    .max_by_key(|(bits, _)| {
                        (0..width)
                            .filter(|class| bits.has(*class) && left.has(*class))
                            .count()
                    });
                let Some((bits, atom)) = best else {
                    break;
                };
                let covers = (0..width).any(|class| bits.has(class) && left.has(class));
                if !covers {
                    break;
                }
                words.push(atom.words());
                left = left.without(bits);
            }
            (words, left)
        };
        let (mut words, left) = cover(&here);
        let rest = many(&left);
        if rest > 0 {
            let others = possible.without(&here);
            let (but, beyond) = cover(&others);
            if many(&beyond) == 0 && !but.is_empty() && but.len() <= words.len() + rest {
                return Some(if but == [TextAtom::There.words()] {
                    vec!["none".to_owned()]
                } else {
                    vec![format!("all but {}", but.join(", "))]
                });
            }
            words.extend(
                (0..width)
                    .filter(|class| left.has(*class))
                    .take(3)
                    .filter_map(|class| examples.get(class))
                    .map(|example| match example.as_str() {
                        "" => "others such as the empty one".to_owned(),
                        example => format!("others such as {example}"),
                    }),
            );
        }
        Some(words)
    }

    /// The callers of a set: those of `known` (principals), whether there is one in plaintext, and an example of those that
    /// are not known, if any identity that is not known is among them.
    pub(crate) fn callers(&mut self, set: Set, all: Set, known: &[String]) -> Result<Callers, TooLarge> {
        let mut callers = Callers {
            everybody: match self.variable(&Dimension::Identity) {
                Some(variable) => self.diagrams.values(set, variable) == self.diagrams.values(all, variable),
                None => true,
            },
            ..Callers::default()
        };
        for (value, _) in self.split(set, &Dimension::Identity)? {
            let Value::Text(example) = value else {
                continue;
            };
            match example {
                None => callers.plaintext = true,
                Some(example) => {
                    let Some(at) = self.numbers.get(&Dimension::Identity).copied() else {
                        continue;
                    };
                    let Some(entry) = self.entries.get(at) else {
                        continue;
                    };
                    let key = |text: &str| -> Vec<bool> {
                        entry.atoms.iter().map(|atom| atom.accepts_text(text)).collect()
                    };
                    let class = key(&example);
                    let is_one = entry
                        .atoms
                        .iter()
                        .any(|atom| matches!(atom, Atom::Text(TextAtom::Exact(own)) if *own == example));
                    callers
                        .known
                        .extend(known.iter().filter(|one| key(one) == class).cloned());
                    if !is_one {
                        callers.others = true;
                        if !known.contains(&example) {
                            callers.other.get_or_insert(example);
                        }
                    } else if !known.contains(&example) {
                        callers.unknown.push(example);
                    }
                }
            }
        }
        callers.known.sort();
        callers.known.dedup();
        Ok(callers)
    }
}
