//! What a worker remembers of tokens, by their whole value: bounded in number and bytes, the least recently used go first.
//!
//! Two generations: what is found in the old one moves to the young one; when the young one is half of what is allowed, it
//! becomes the old one, and what was old is forgotten. So nothing is searched for, and a lookup allocates nothing.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use smallvec::SmallVec;

/// Bytes at a token's end that its place is made of: a part of the signature, which for a token that somebody has signed is
/// as good as random. Tokens of one place are told apart by all their bytes.
const TAIL: usize = 48;

/// What is remembered of tokens.
#[derive(Debug)]
pub(super) struct Memory<T> {
    young: Generation<T>,
    old: Generation<T>,
    limits: MemoryLimits,
    hashing: RandomState,
}

/// How much may be remembered.
#[derive(Clone, Copy, Debug)]
pub(super) struct MemoryLimits {
    /// Entries at most.
    pub(super) entries: usize,
    /// The sum of the entries' weights at most.
    pub(super) bytes: usize,
}

#[derive(Debug)]
struct Generation<T> {
    places: HashMap<u64, SmallVec<[Entry<T>; 1]>>,
    entries: usize,
    bytes: usize,
}

#[derive(Debug)]
struct Entry<T> {
    token: Box<str>,
    weight: usize,
    /// Seconds since 1970; what is older does not count.
    until: i64,
    value: T,
}

impl<T> Default for Generation<T> {
    fn default() -> Self {
        Self {
            places: HashMap::new(),
            entries: 0,
            bytes: 0,
        }
    }
}

impl<T> Memory<T> {
    pub(super) fn new(limits: MemoryLimits) -> Self {
        Self {
            young: Generation::default(),
            old: Generation::default(),
            limits,
            hashing: RandomState::new(),
        }
    }

    /// What is remembered of `token` and still counts at `now`, of those that `is_it` takes.
    pub(super) fn get(&mut self, token: &str, now: i64, is_it: impl Fn(&T) -> bool) -> Option<&T> {
        let place = self.place(token);
        if let Some(at) = self.young.position(place, token, &is_it) {
            if self.young.until(place, at)? >= now {
                return self.young.value(place, at);
            }
            self.young.take(place, at);
            return None;
        }
        let at = self.old.position(place, token, &is_it)?;
        let entry = self.old.take(place, at)?;
        if entry.until < now {
            return None;
        }
        self.add(place, entry);
        let at = self.young.position(place, token, &is_it)?;
        self.young.value(place, at)
    }

    /// Remembers `value` until `until`. `weight` is what it holds in bytes, the token included; what is heavier than an
    /// eighth of everything is not remembered.
    pub(super) fn put(&mut self, token: &str, until: i64, weight: usize, value: T) {
        if weight > self.limits.bytes / 8 {
            return;
        }
        let entry = Entry {
            token: token.into(),
            weight,
            until,
            value,
        };
        self.add(self.place(token), entry);
    }

    fn add(&mut self, place: u64, entry: Entry<T>) {
        if self.young.entries + 1 > self.limits.entries / 2
            || self.young.bytes + entry.weight > self.limits.bytes / 2
        {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.entries += 1;
        self.young.bytes += entry.weight;
        self.young.places.entry(place).or_default().push(entry);
    }

    fn place(&self, token: &str) -> u64 {
        let bytes = token.as_bytes();
        let tail = bytes.get(bytes.len().saturating_sub(TAIL)..).unwrap_or(bytes);
        self.hashing.hash_one((bytes.len(), tail))
    }
}

impl<T> Generation<T> {
    fn position(&self, place: u64, token: &str, is_it: impl Fn(&T) -> bool) -> Option<usize> {
        let entries = self.places.get(&place)?;
        entries
            .iter()
            .position(|entry| *entry.token == *token && is_it(&entry.value))
    }

    fn until(&self, place: u64, at: usize) -> Option<i64> {
        Some(self.places.get(&place)?.get(at)?.until)
    }

    fn value(&self, place: u64, at: usize) -> Option<&T> {
        Some(&self.places.get(&place)?.get(at)?.value)
    }

    fn take(&mut self, place: u64, at: usize) -> Option<Entry<T>> {
        let entries = self.places.get_mut(&place)?;
        if at >= entries.len() {
            return None;
        }
        let entry = entries.swap_remove(at);
        if entries.is_empty() {
            self.places.remove(&place);
        }
        self.entries -= 1;
        self.bytes -= entry.weight;
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn memory(entries: usize, bytes: usize) -> Memory<u32> {
        Memory::new(MemoryLimits { entries, bytes })
    }

    #[test]
    fn tokens_with_the_same_end_are_told_apart() {
        let mut memory = memory(8, 8_000);
        let end = "x".repeat(TAIL);
        let (one, other) = (format!("a{end}"), format!("b{end}"));
        assert_eq!(memory.place(&one), memory.place(&other));
        memory.put(&one, 10, 1, 1);
        assert_eq!(memory.get(&other, 0, |_| true), None);
        memory.put(&other, 10, 1, 2);
        assert_eq!(memory.get(&one, 0, |_| true), Some(&1));
        assert_eq!(memory.get(&other, 0, |_| true), Some(&2));
        assert_eq!(memory.get(&one, 0, |value| *value == 2), None);
    }

    #[test]
    fn what_is_over_is_forgotten() {
        let mut memory = memory(8, 8_000);
        memory.put("t", 10, 1, 1);
        assert_eq!(memory.get("t", 10, |_| true), Some(&1));
        assert_eq!(memory.get("t", 11, |_| true), None);
        assert_eq!(memory.get("t", 10, |_| true), None);
    }

    #[test]
    fn what_is_used_outlives_a_flood_of_others() {
        let mut memory = memory(16, 80_000);
        memory.put("used", 10, 1, 0);
        for at in 0..1_000 {
            memory.put(&format!("flood-{at}"), 10, 1, at);
            assert_eq!(memory.get("used", 0, |_| true), Some(&0), "{at}");
        }
        assert_eq!(memory.get("flood-1", 0, |_| true), None);
    }

    proptest! {
        #[test]
        fn it_is_bounded_and_never_gives_what_was_not_put(
            steps in proptest::collection::vec((0_usize..40, 1_usize..100, any::<bool>()), 0..200)
        ) {
            let mut memory = memory(10, 500);
            let mut put = std::collections::HashMap::new();
            for (step, (token, weight, puts)) in steps.into_iter().enumerate() {
                let text = format!("token-{token}");
                let value = u32::try_from(step).unwrap();
                if puts {
                    if memory.get(&text, 0, |_| true).is_none() {
                        memory.put(&text, 1, weight, value);
                        put.insert(text, value);
                    }
                } else if let Some(found) = memory.get(&text, 0, |_| true) {
                    prop_assert_eq!(Some(found), put.get(&text));
                }
                prop_assert!(memory.young.entries + memory.old.entries <= 10);
                prop_assert!(memory.young.bytes + memory.old.bytes <= 500);
                for generation in [&memory.young, &memory.old] {
                    let (mut entries, mut bytes) = (0, 0);
                    for entry in generation.places.values().flatten() {
                        entries += 1;
                        bytes += entry.weight;
                    }
                    prop_assert_eq!((entries, bytes), (generation.entries, generation.bytes));
                }
            }
        }
    }
}
