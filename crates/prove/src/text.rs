//! All texts of a kind, divided into the classes that the matchers of a problem can tell apart, each with an example.
//!
//! Matchers run side by side as one automaton over characters; two texts are of one class when the same matchers accept
//! them. A character that no matcher names stands for all others of the kind.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use crate::bits::Bits;
use crate::machine::{Machine, Piece, Set, Suffixes, Trie};

/// What a matcher asks of a text.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum TextAtom {
    /// There is a text, which may be empty.
    There,
    /// There is a text that is not empty.
    NotEmpty,
    /// Equal.
    Exact(String),
    /// Begins with.
    Prefix(String),
    /// Ends with.
    Suffix(String),
    /// As these pieces say.
    Pattern(Vec<Piece>),
    /// One of the above without regard to ASCII case; its own text is in lower case.
    AnyCase(Box<TextAtom>),
}

impl TextAtom {
    /// Whether it accepts a text, without any automaton.
    pub(crate) fn accepts(&self, text: &str) -> bool {
        match self {
            Self::There => true,
            Self::NotEmpty => !text.is_empty(),
            Self::Exact(own) => own == text,
            Self::Prefix(own) => text.starts_with(own.as_str()),
            Self::Suffix(own) => text.ends_with(own.as_str()),
            Self::Pattern(pieces) => {
                let characters: Vec<char> = text.chars().collect();
                fits(pieces, &characters)
            }
            Self::AnyCase(inner) => inner.accepts(&text.to_ascii_lowercase()),
        }
    }

    /// As policies write it.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::There => "any".to_owned(),
            Self::NotEmpty => "any that is not empty".to_owned(),
            Self::Exact(text) if text.is_empty() => "the empty one".to_owned(),
            // Not what a star means in a policy.
            Self::Exact(text) if text.starts_with('*') || text.ends_with('*') => format!("`{text}` itself"),
            Self::Exact(text) => text.clone(),
            Self::Prefix(text) => format!("{text}*"),
            Self::Suffix(text) => format!("*{text}"),
            Self::Pattern(pieces) => {
                let mut words = String::new();
                for piece in pieces {
                    match piece {
                        Piece::One(Set::Character(character)) => words.push(*character),
                        // `{*}` is one of these and a run of them.
                        Piece::One(Set::NotSlash | Set::Any) => {}
                        Piece::Run(Set::Any) => words += "{**}",
                        Piece::Run(Set::NotSlash | Set::Character(_)) => words += "{*}",
                    }
                }
                words
            }
            Self::AnyCase(inner) => inner.words(),
        }
    }
}

/// Whether a pattern matches, by trying.
fn fits(pieces: &[Piece], text: &[char]) -> bool {
    match (pieces.split_first(), text.split_first()) {
        (None, None) => true,
        (None, Some(_)) | (Some((Piece::One(_), _)), None) => false,
        (Some((Piece::One(set), rest)), Some((first, tail))) => set.has(*first) && fits(rest, tail),
        (Some((Piece::Run(set), rest)), _) => {
            fits(rest, text)
                || text
                    .split_first()
                    .is_some_and(|(first, tail)| set.has(*first) && fits(pieces, tail))
        }
    }
}

/// The texts that can be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Texts {
    /// `DOMAIN/ns/NAME/sa/NAME`: what the mesh's own CA issues.
    Identity {
        /// `DOMAIN/ns/`.
        head: String,
    },
    /// Canonical paths; see [`PathForm`].
    Path(PathForm),
    /// A method: a token (RFC 9110 §5.6.2).
    Method,
    /// `:authority` in lower case, as it is matched.
    Host,
    /// A server name.
    Sni,
    /// A header's value: no control characters, no space at its ends.
    Header,
    /// Anything.
    Any,
}

/// Which paths policies can see.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one thing that a path rule does or does not let through"
)]
pub(crate) struct PathForm {
    /// `//`.
    pub(crate) empty_segments: bool,
    /// `.` and `..` as segments.
    pub(crate) dot_segments: bool,
    /// A plain backslash.
    pub(crate) backslash: bool,
    /// Nothing is decoded: escapes and `;` are as they were sent.
    pub(crate) as_sent: bool,
    /// Characters that Envoy's normalization escapes.
    pub(crate) unsettled: bool,
}

/// The classes of one kind of text.
#[derive(Clone, Debug)]
pub(crate) struct Classes<V> {
    /// An example of each class; `None` where there is no value.
    pub(crate) examples: Vec<Option<V>>,
    /// The classes that each atom accepts.
    pub(crate) accepted: Vec<Bits>,
}

/// More classes or states than the budget.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct TooMany;

/// States of the joint automaton.
const MOST_STATES: usize = 400_000;
/// Classes of one kind of text.
const MOST_CLASSES: usize = 20_000;

/// Every kind of text begins in this state.
const START: u32 = 0;
/// Characters that may stand for all others, the first first.
const PATTERN_FILLERS: &str = "xyzwvqkjuhgmnoprstlibfeadc0123456789";

impl Texts {
    /// The state after one more character; `None` where no text of the kind goes on so.
    fn step(&self, state: u32, character: char) -> Option<u32> {
        match self {
            Self::Identity { head } => identity_step(head, state, character),
            Self::Path(form) => path_step(*form, state, character),
            Self::Method => {
                (character.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(character)).then_some(1)
            }
            Self::Host => {
                // As `wire` takes it; in lower case, because hosts have no case.
                let fine = character.is_ascii_lowercase()
                    || character.is_ascii_digit()
                    || "-._~%!$&'()*+,;=:[]".contains(character);
                fine.then_some(1)
            }
            Self::Sni => (character.is_ascii_alphanumeric() || "-._".contains(character)).then_some(1),
            Self::Header => match character {
                ' ' | '\t' if state == 0 => None,
                ' ' | '\t' => Some(2),
                '\0'..='\x1f' | '\x7f' => None,
                _ => Some(1),
            },
            Self::Any => Some(0),
        }
    }

    fn accepts(&self, state: u32) -> bool {
        match self {
            Self::Identity { head } => state == length(head) + 7,
            Self::Path(form) => path_accepts(*form, state),
            Self::Method | Self::Host | Self::Sni => state == 1,
            Self::Header => state != 2,
            Self::Any => true,
        }
    }

    /// Characters that tell states of the kind apart.
    fn own_characters(&self) -> String {
        match self {
            Self::Identity { head } => format!("{head}sa/"),
            Self::Path(_) => "/*.".to_owned(),
            Self::Method | Self::Host | Self::Sni | Self::Header | Self::Any => String::new(),
        }
    }

    fn contains(&self, text: &str) -> bool {
        let mut state = START;
        for character in text.chars() {
            match self.step(state, character) {
                Some(next) => state = next,
                None => return false,
            }
        }
        self.accepts(state)
    }

    /// Divides the texts of this kind by what the atoms accept. `preferred` texts are examples before others; `absent`
    /// adds the class of no text at all, which no atom accepts, as the first.
    pub(crate) fn divide(
        &self,
        atoms: &[TextAtom],
        preferred: &[String],
        absent: bool,
    ) -> Result<Classes<String>, TooMany> {
        let mut joint = Joint::of(atoms);
        let mut found = Found::default();
        if absent {
            found.add(Vec::new(), None);
        }
        // Absence is a class of its own: what is there and accepted by nothing is another.
        let there = atoms.len();
        for text in preferred.iter().filter(|text| self.contains(text)) {
            let mut state = joint.start();
            for character in text.chars() {
                state = joint.step(&state, character);
            }
            let key = joint.accepted(&state, !text.is_empty(), there);
            found.add(key, Some(text.clone()));
        }
        self.walk(&mut joint, &mut found, there)?;
        Ok(found.classes(atoms.len()))
    }

    fn walk(&self, joint: &mut Joint, found: &mut Found, there: usize) -> Result<(), TooMany> {
        let alphabet = self.alphabet(joint);
        let mut seen: HashMap<(u32, Box<[u32]>, bool), usize> = HashMap::new();
        let mut back: Vec<(usize, char)> = Vec::new();
        let mut queue = VecDeque::new();
        let start = (START, joint.start(), false);
        seen.insert(start.clone(), 0);
        back.push((usize::MAX, ' '));
        queue.push_back((start, 0));
        while let Some(((state, machines, is_some), at)) = queue.pop_front() {
            if self.accepts(state) {
                let key = joint.accepted(&machines, is_some, there);
                if !found.known.contains_key(&key) {
                    if found.examples.len() >= MOST_CLASSES {
                        return Err(TooMany);
                    }
                    found.add(key, Some(text_of(&back, at)));
                }
            }
            for character in &alphabet {
                let Some(state) = self.step(state, *character) else {
                    continue;
                };
                let next = (state, joint.step(&machines, *character), true);
                let number = back.len();
                if let std::collections::hash_map::Entry::Vacant(entry) = seen.entry(next) {
                    if number >= MOST_STATES {
                        return Err(TooMany);
                    }
                    queue.push_back((entry.key().clone(), number));
                    entry.insert(number);
                    back.push((at, *character));
                }
            }
        }
        Ok(())
    }

    /// Every character that a matcher or the kind names, and one that stands for all others.
    fn alphabet(&self, joint: &Joint) -> Vec<char> {
        let mut named: BTreeSet<char> = joint.characters.clone();
        named.extend(self.own_characters().chars());
        let fits = |filler: &char| !named.contains(filler);
        let filler = match self {
            Self::Method => "XYZWVQKJ".chars().chain(PATTERN_FILLERS.chars()).find(fits),
            Self::Identity { .. } | Self::Path(_) | Self::Host | Self::Sni | Self::Header | Self::Any => {
                PATTERN_FILLERS.chars().chain('A'..='Z').find(fits)
            }
        };
        // Where all letters are named, any other character does, where the kind has others.
        let rare = matches!(self, Self::Path(_) | Self::Header | Self::Any)
            .then(|| "éßñç漢字語水".chars().find(fits))
            .flatten();
        filler.or(rare).into_iter().chain(named.iter().copied()).collect()
    }
}

fn text_of(back: &[(usize, char)], mut at: usize) -> String {
    let mut text = Vec::new();
    while let Some((before, character)) = back.get(at).filter(|(before, _)| *before != usize::MAX) {
        text.push(*character);
        at = *before;
    }
    text.iter().rev().collect()
}

fn length(text: &str) -> u32 {
    u32::try_from(text.chars().count()).unwrap_or(u32::MAX)
}

fn identity_step(head: &str, state: u32, character: char) -> Option<u32> {
    let end = length(head);
    if state < end {
        let at = usize::try_from(state).ok()?;
        return (head.chars().nth(at) == Some(character)).then_some(state + 1);
    }
    let is_end = character.is_ascii_lowercase() || character.is_ascii_digit();
    let is_inner = character == '-' || character == '.';
    let next = match (state - end, character) {
        // The namespace: empty, may end here, may not end here.
        (0..=2, _) if is_end => 1,
        (1 | 2, _) if is_inner => 2,
        (1, '/') => 3,
        (3, 's') => 4,
        (4, 'a') => 5,
        (5, '/') => 6,
        // The service account, alike.
        (6..=8, _) if is_end => 7,
        (7 | 8, _) if is_inner => 8,
        _ => return None,
    };
    Some(end + next)
}

/// States of a path: 0 nothing, 1 `*`, else 2 + 3 × segment + escape, where the segment is empty (0), `.` (1), `..` (2)
/// or something else (3), and the escape is none (0), `%` (1) or `%` and a digit (2).
fn path_step(form: PathForm, state: u32, character: char) -> Option<u32> {
    let (segment, escape) = match state {
        0 => {
            return match character {
                '/' => Some(2),
                '*' => Some(1),
                _ => None,
            };
        }
        1 => return None,
        _ => ((state - 2) / 3, (state - 2) % 3),
    };
    let is_out = match character {
        '\0'..='\x1f' | '\x7f' => true,
        '\\' => !form.backslash,
        ';' => !form.as_sent,
        // Only an escape brings them, and nothing is decoded.
        '?' | '#' | ' ' => form.as_sent,
        '"' | '<' | '>' | '^' | '`' | '{' | '|' | '}' => !form.unsettled,
        _ => !form.unsettled && !character.is_ascii(),
    };
    if is_out {
        return None;
    }
    let escape = match (escape, character) {
        _ if form.as_sent => 0,
        (_, '%') => 1,
        (1, _) if character.is_ascii_hexdigit() => 2,
        (2, _) if character.is_ascii_hexdigit() => return None,
        _ => 0,
    };
    let segment = match (character, segment) {
        ('/', 0) if !form.empty_segments => return None,
        ('/', 1 | 2) if !form.dot_segments => return None,
        ('/', _) => 0,
        ('.', 0) => 1,
        ('.', 1) => 2,
        _ => 3,
    };
    Some(2 + 3 * segment + escape)
}

fn path_accepts(form: PathForm, state: u32) -> bool {
    match state {
        0 | 1 => true, // `CONNECT host:port` and `OPTIONS *`
        _ => form.dot_segments || !matches!((state - 2) / 3, 1 | 2),
    }
}

/// The classes as they are found.
#[derive(Default)]
struct Found {
    known: HashMap<Vec<usize>, usize>,
    examples: Vec<Option<String>>,
    keys: Vec<Vec<usize>>,
}

impl Found {
    fn add(&mut self, key: Vec<usize>, example: Option<String>) {
        if !self.known.contains_key(&key) {
            self.known.insert(key.clone(), self.examples.len());
            self.examples.push(example);
            self.keys.push(key);
        }
    }

    fn classes(self, atoms: usize) -> Classes<String> {
        let mut accepted = vec![Bits::none(); atoms];
        for (class, key) in self.keys.iter().enumerate() {
            for atom in key {
                if let Some(bits) = accepted.get_mut(*atom) {
                    bits.insert(class);
                }
            }
        }
        Classes {
            examples: self.examples,
            accepted,
        }
    }
}

/// All matchers as one automaton.
struct Joint {
    machines: Vec<(bool, Machine)>,
    /// Atoms that hold for every text, and for every text that is not empty.
    always: Vec<usize>,
    not_empty: Vec<usize>,
    characters: BTreeSet<char>,
}

impl Joint {
    fn of(atoms: &[TextAtom]) -> Self {
        let mut always = Vec::new();
        let mut not_empty = Vec::new();
        let mut characters = BTreeSet::new();
        // By whether case is ignored: beginnings, ends, and patterns one by one.
        let mut tries: BTreeMap<bool, Trie> = BTreeMap::new();
        let mut ends: BTreeMap<bool, Vec<(String, usize)>> = BTreeMap::new();
        let mut machines = Vec::new();
        for (number, atom) in atoms.iter().enumerate() {
            let (folds, atom) = match atom {
                TextAtom::AnyCase(inner) => (true, &**inner),
                other @ (TextAtom::There
                | TextAtom::NotEmpty
                | TextAtom::Exact(_)
                | TextAtom::Prefix(_)
                | TextAtom::Suffix(_)
                | TextAtom::Pattern(_)) => (false, other),
            };
            let mut name = |text: &str| {
                for character in text.chars() {
                    characters.insert(character);
                    if folds {
                        characters.insert(character.to_ascii_uppercase());
                    }
                }
            };
            match atom {
                TextAtom::There => always.push(number),
                TextAtom::NotEmpty => not_empty.push(number),
                TextAtom::Exact(text) => {
                    name(text);
                    tries.entry(folds).or_default().add(text, number, true);
                }
                TextAtom::Prefix(text) => {
                    name(text);
                    tries.entry(folds).or_default().add(text, number, false);
                }
                TextAtom::Suffix(text) => {
                    name(text);
                    ends.entry(folds).or_default().push((text.clone(), number));
                }
                TextAtom::Pattern(pieces) => {
                    for piece in pieces {
                        let (Piece::One(set) | Piece::Run(set)) = piece;
                        match set {
                            Set::Character(character) => name(&character.to_string()),
                            Set::NotSlash => name("/"),
                            Set::Any => {}
                        }
                    }
                    machines.push((folds, Machine::pattern(pieces.clone(), number)));
                }
                TextAtom::AnyCase(_) => {}
            }
        }
        for (folds, trie) in tries {
            machines.push((folds, Machine::Trie(trie.finished())));
        }
        for (folds, texts) in ends {
            machines.push((folds, Machine::Suffixes(Suffixes::of(&texts))));
        }
        Self {
            machines,
            always,
            not_empty,
            characters,
        }
    }

    fn start(&self) -> Box<[u32]> {
        vec![0; self.machines.len()].into()
    }

    fn step(&mut self, states: &[u32], character: char) -> Box<[u32]> {
        self.machines
            .iter_mut()
            .zip(states)
            .map(|((folds, machine), state)| {
                machine.step(
                    *state,
                    if *folds {
                        character.to_ascii_lowercase()
                    } else {
                        character
                    },
                )
            })
            .collect()
    }

    /// The atoms that accept, in order, and the mark of a text that is there.
    fn accepted(&self, states: &[u32], is_some: bool, there: usize) -> Vec<usize> {
        let mut atoms = self.always.clone();
        if is_some {
            atoms.extend(&self.not_empty);
        }
        for ((_, machine), state) in self.machines.iter().zip(states) {
            machine.accepted(*state, &mut atoms);
        }
        atoms.sort_unstable();
        atoms.push(there);
        atoms
    }
}

#[cfg(test)]
#[path = "text_tests.rs"]
mod tests;
