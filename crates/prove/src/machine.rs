//! Small automata over characters: many beginnings at once, many ends at once, and one pattern.

use std::collections::{BTreeMap, HashMap, VecDeque};

/// Characters that a piece of a pattern takes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Set {
    /// This one.
    Character(char),
    /// Any but `/`.
    NotSlash,
    /// Any.
    Any,
}

impl Set {
    pub(crate) fn has(self, character: char) -> bool {
        match self {
            Self::Character(own) => own == character,
            Self::NotSlash => character != '/',
            Self::Any => true,
        }
    }
}

/// A piece of a pattern.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Piece {
    /// Exactly one character.
    One(Set),
    /// Any number of them, none too.
    Run(Set),
}

/// An automaton whose start is state 0.
#[derive(Debug)]
pub(crate) enum Machine {
    Trie(Trie),
    Suffixes(Suffixes),
    Pattern(Pattern),
}

impl Machine {
    pub(crate) fn pattern(pieces: Vec<Piece>, atom: usize) -> Self {
        let mut pattern = Pattern {
            pieces,
            atom,
            numbers: HashMap::new(),
            states: Vec::new(),
        };
        let start = pattern.closed(vec![0]);
        pattern.number(start);
        Self::Pattern(pattern)
    }

    pub(crate) fn step(&mut self, state: u32, character: char) -> u32 {
        match self {
            Self::Trie(trie) => trie.step(state, character),
            Self::Suffixes(suffixes) => suffixes.step(state, character),
            Self::Pattern(pattern) => pattern.step(state, character),
        }
    }

    pub(crate) fn accepted(&self, state: u32, atoms: &mut Vec<usize>) {
        match self {
            Self::Trie(trie) => trie.accepted(state, atoms),
            Self::Suffixes(suffixes) => atoms.extend(
                suffixes
                    .nodes
                    .get(index(state))
                    .into_iter()
                    .flat_map(|node| &node.ends),
            ),
            Self::Pattern(pattern) => {
                let end = pattern.pieces.len();
                if pattern
                    .states
                    .get(index(state))
                    .is_some_and(|places| places.contains(&end))
                {
                    atoms.push(pattern.atom);
                }
            }
        }
    }
}

/// Whole texts and beginnings. A state is twice a node, and one more when the text has left the trie below it.
#[derive(Default, Debug)]
pub(crate) struct Trie {
    nodes: Vec<TrieNode>,
}

#[derive(Default, Debug)]
struct TrieNode {
    next: BTreeMap<char, usize>,
    whole: Vec<usize>,
    /// Beginnings that end here; once finished, those above too.
    begun: Vec<usize>,
    /// The nearest node at or above this one where a beginning ends.
    last_begun: usize,
}

impl Trie {
    pub(crate) fn add(&mut self, text: &str, atom: usize, is_whole: bool) {
        if self.nodes.is_empty() {
            self.nodes.push(TrieNode::default());
        }
        let mut at = 0;
        for character in text.chars() {
            let new = self.nodes.len();
            let next = self
                .nodes
                .get_mut(at)
                .map_or(0, |node| *node.next.entry(character).or_insert(new));
            if next == new {
                self.nodes.push(TrieNode::default());
            }
            at = next;
        }
        if let Some(node) = self.nodes.get_mut(at) {
            if is_whole {
                node.whole.push(atom);
            } else {
                node.begun.push(atom);
            }
        }
    }

    pub(crate) fn finished(mut self) -> Self {
        let mut queue = VecDeque::from([(0, 0, Vec::new())]);
        while let Some((at, above, inherited)) = queue.pop_front() {
            let Some(node) = self.nodes.get_mut(at) else {
                continue;
            };
            node.last_begun = if node.begun.is_empty() { above } else { at };
            node.begun.extend(inherited);
            queue.extend(
                node.next
                    .values()
                    .map(|next| (*next, node.last_begun, node.begun.clone())),
            );
        }
        self
    }

    fn step(&self, state: u32, character: char) -> u32 {
        if state % 2 == 1 {
            return state;
        }
        let Some(node) = self.nodes.get(index(state / 2)) else {
            return state;
        };
        match node.next.get(&character) {
            Some(next) => 2 * narrow(*next),
            None => 2 * narrow(node.last_begun) + 1,
        }
    }

    fn accepted(&self, state: u32, atoms: &mut Vec<usize>) {
        let Some(node) = self.nodes.get(index(state / 2)) else {
            return;
        };
        atoms.extend(&node.begun);
        if state.is_multiple_of(2) {
            atoms.extend(&node.whole);
        }
    }
}

/// Ends, by Aho and Corasick: a state is the longest end of the text that begins one of them.
#[derive(Debug)]
pub(crate) struct Suffixes {
    nodes: Vec<SuffixNode>,
}

#[derive(Default, Debug)]
struct SuffixNode {
    next: BTreeMap<char, usize>,
    fall: usize,
    ends: Vec<usize>,
}

impl Suffixes {
    pub(crate) fn of(texts: &[(String, usize)]) -> Self {
        let mut nodes = vec![SuffixNode::default()];
        for (text, atom) in texts {
            let mut at = 0;
            for character in text.chars() {
                let new = nodes.len();
                let next = nodes.get_mut(at).map_or(0, |node: &mut SuffixNode| {
                    *node.next.entry(character).or_insert(new)
                });
                if next == new {
                    nodes.push(SuffixNode::default());
                }
                at = next;
            }
            if let Some(node) = nodes.get_mut(at) {
                node.ends.push(*atom);
            }
        }
        let mut all = Self { nodes };
        let mut queue: VecDeque<(usize, char, usize)> = VecDeque::new();
        let children = |all: &Self, at: usize| -> Vec<(usize, char, usize)> {
            all.nodes
                .get(at)
                .into_iter()
                .flat_map(|node| {
                    node.next
                        .iter()
                        .map(move |(character, next)| (at, *character, *next))
                })
                .collect()
        };
        queue.extend(children(&all, 0));
        while let Some((parent, character, at)) = queue.pop_front() {
            let fall = if parent == 0 {
                0
            } else {
                let above = all.nodes.get(parent).map_or(0, |node| node.fall);
                index(all.step(narrow(above), character))
            };
            let inherited = all
                .nodes
                .get(fall)
                .map(|node| node.ends.clone())
                .unwrap_or_default();
            if let Some(node) = all.nodes.get_mut(at) {
                node.fall = fall;
                node.ends.extend(inherited);
            }
            queue.extend(children(&all, at));
        }
        // The empty end is an end of everything; the root has it and every node inherits it once.
        all
    }

    fn step(&self, state: u32, character: char) -> u32 {
        let mut at = index(state);
        loop {
            let Some(node) = self.nodes.get(at) else {
                return 0;
            };
            if let Some(next) = node.next.get(&character) {
                return narrow(*next);
            }
            if at == 0 {
                return 0;
            }
            at = node.fall;
        }
    }
}

/// One pattern, as the set of places where a match may have come to.
#[derive(Debug)]
pub(crate) struct Pattern {
    pieces: Vec<Piece>,
    atom: usize,
    numbers: HashMap<Vec<usize>, u32>,
    states: Vec<Vec<usize>>,
}

impl Pattern {
    fn step(&mut self, state: u32, character: char) -> u32 {
        let mut after = Vec::new();
        for place in self.states.get(index(state)).into_iter().flatten() {
            match self.pieces.get(*place) {
                Some(Piece::One(set)) if set.has(character) => after.push(place + 1),
                Some(Piece::Run(set)) if set.has(character) => after.push(*place),
                Some(Piece::One(_) | Piece::Run(_)) | None => {}
            }
        }
        let after = self.closed(after);
        self.number(after)
    }

    /// A run may end before it begins.
    fn closed(&self, mut places: Vec<usize>) -> Vec<usize> {
        let mut at = 0;
        while let Some(place) = places.get(at).copied() {
            if matches!(self.pieces.get(place), Some(Piece::Run(_))) && !places.contains(&(place + 1)) {
                places.push(place + 1);
            }
            at += 1;
        }
        places.sort_unstable();
        places.dedup();
        places
    }

    fn number(&mut self, places: Vec<usize>) -> u32 {
        let new = narrow(self.states.len());
        let number = *self.numbers.entry(places.clone()).or_insert(new);
        if number == new {
            self.states.push(places);
        }
        number
    }
}

fn index(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn narrow(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
