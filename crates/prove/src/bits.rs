//! A set of small numbers: classes of values, as bits.

/// A set of numbers below a width that its user knows.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Bits(Vec<u64>);

impl Bits {
    pub(crate) fn none() -> Self {
        Self::default()
    }

    pub(crate) fn one(number: usize) -> Self {
        let mut bits = Self::none();
        bits.insert(number);
        bits
    }

    pub(crate) fn insert(&mut self, number: usize) {
        let word = number / 64;
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        if let Some(word) = self.0.get_mut(word) {
            *word |= 1 << (number % 64);
        }
    }

    pub(crate) fn has(&self, number: usize) -> bool {
        self.0
            .get(number / 64)
            .is_some_and(|word| word >> (number % 64) & 1 == 1)
    }

    pub(crate) fn without(&self, other: &Self) -> Self {
        let words = self.0.iter().enumerate();
        let mut left = Self(
            words
                .map(|(at, word)| word & !other.0.get(at).copied().unwrap_or_default())
                .collect(),
        );
        while left.0.last() == Some(&0) {
            left.0.pop();
        }
        left
    }
}
