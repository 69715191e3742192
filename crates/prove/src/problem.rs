//! One question: the dimensions of the requests that it is about, the atoms that are asked of each, and its answer as a
//! set.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_types::Cidr;

use crate::address::{NumberAtom, divide_addresses, divide_numbers};
use crate::bits::Bits;
use crate::clock::{ClockAtom, divide_times};
use crate::diagram::{Diagrams, EMPTY, Exhausted, FULL, Set};
use crate::formula::Formula;
use crate::text::{Classes, TextAtom, Texts};

/// How many edges of decision diagrams one question may make.
const BUDGET: usize = 40_000_000;

/// What requests differ in. The order is that of the levels of the diagrams.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Dimension {
    /// Whether the proxy sees HTTP.
    Http,
    /// The workload's port; at a gateway the listener's.
    Port,
    /// The proven identity, without `spiffe://`; absent in plaintext.
    Identity,
    /// The connection's own remote address.
    Source,
    /// The client's address.
    Remote,
    /// The workload's address.
    Destination,
    Sni,
    Method,
    Path,
    Host,
    /// A header by its name in lower case: its values joined.
    Header(Arc<str>),
    /// A query parameter.
    Query(Arc<str>),
    /// Whether there is a verified token.
    User,
    Issuer,
    Subject,
    Presenter,
    /// What a claim is: see [`Shape`].
    Shape(Vec<Arc<str>>),
    /// Texts that a claim is or contains.
    Claim(Vec<Arc<str>>),
    /// Whether the connection has TLS, and its version, cipher and group.
    Tls,
    TlsVersion,
    Cipher,
    Group,
    /// When it is decided.
    Now,
    /// A part of an expression that is not looked into: true, false, or an error.
    Opaque(Arc<str>),
}

/// What a claim is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Shape {
    Absent,
    Text,
    List,
    Other,
}

impl Shape {
    pub(crate) fn number(self) -> i64 {
        match self {
            Self::Absent => 0,
            Self::Text => 1,
            Self::List => 2,
            Self::Other => 3,
        }
    }
}

/// What is asked of a dimension.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum Atom {
    Text(TextAtom),
    Block(Cidr),
    Number(NumberAtom),
    Clock(ClockAtom),
}

/// What values a dimension has.
#[derive(Clone, Debug)]
pub(crate) enum Values {
    Text {
        texts: Texts,
        preferred: Vec<String>,
        /// There may be none.
        optional: bool,
    },
    /// Any set of texts.
    Elements,
    Addresses {
        preferred: Vec<IpAddr>,
        among: Option<Vec<IpAddr>>,
    },
    Numbers {
        preferred: Vec<i64>,
        range: (i64, i64),
    },
    Times,
}

#[derive(Debug)]
struct Entry {
    dimension: Dimension,
    values: Values,
    atoms: Vec<Atom>,
    numbers: HashMap<Atom, usize>,
}

/// A question while it is put together.
#[derive(Debug, Default)]
pub(crate) struct Problem {
    entries: Vec<Entry>,
    numbers: HashMap<Dimension, usize>,
}

/// Why a question has no answer.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TooLarge {
    /// The texts of a dimension fall into too many classes.
    #[error("{0} has too many patterns to compare")]
    Patterns(String),
    /// The sets need too much room.
    #[error("the policies are too many or too intertwined to compare within the budget")]
    Sets,
}

impl From<Exhausted> for TooLarge {
    fn from(_: Exhausted) -> Self {
        Self::Sets
    }
}

impl Problem {
    /// The requests that an atom accepts; `values` says what the dimension has, the first time that it is spoken of.
    pub(crate) fn atom(
        &mut self,
        dimension: Dimension,
        atom: Atom,
        values: impl FnOnce() -> Values,
    ) -> Formula {
        let number = self.dimension(dimension, values);
        let Some(entry) = self.entries.get_mut(number) else {
            return Formula::Never;
        };
        let new = entry.atoms.len();
        let at = *entry.numbers.entry(atom.clone()).or_insert(new);
        if at == new {
            entry.atoms.push(atom);
        }
        Formula::Atom(number, at)
    }

    fn dimension(&mut self, dimension: Dimension, values: impl FnOnce() -> Values) -> usize {
        let new = self.entries.len();
        let number = *self.numbers.entry(dimension.clone()).or_insert(new);
        if number == new {
            self.entries.push(Entry {
                dimension,
                values: values(),
                atoms: Vec::new(),
                numbers: HashMap::new(),
            });
        }
        number
    }

    /// Divides every dimension into classes. No atom can be added any more.
    pub(crate) fn seal(self) -> Result<Sealed, TooLarge> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|at| self.entries.get(*at).map(|entry| entry.dimension.clone()));
        let mut widths = Vec::new();
        let mut levels: BTreeMap<usize, Level> = BTreeMap::new();
        for at in order {
            let Some(entry) = self.entries.get(at) else {
                continue;
            };
            let first = widths.len();
            let classes = entry.divide()?;
            match &classes {
                Divided::Elements(classes) => widths.extend(std::iter::repeat_n(2, classes.examples.len())),
                Divided::Text(classes) => widths.push(classes.examples.len()),
                Divided::Addresses(classes) => widths.push(classes.examples.len()),
                Divided::Numbers(classes) | Divided::Times(classes) => widths.push(classes.examples.len()),
            }
            levels.insert(at, Level { first, classes });
        }
        Ok(Sealed {
            diagrams: Diagrams::new(widths, BUDGET),
            entries: self.entries,
            numbers: self.numbers,
            levels,
        })
    }
}

impl Entry {
    fn divide(&self) -> Result<Divided, TooLarge> {
        let texts = || -> Vec<TextAtom> {
            self.atoms
                .iter()
                .map(|atom| match atom {
                    Atom::Text(atom) => atom.clone(),
                    Atom::Block(_) | Atom::Number(_) | Atom::Clock(_) => TextAtom::There,
                })
                .collect()
        };
        let many = |_| TooLarge::Patterns(self.dimension.words());
        Ok(match &self.values {
            Values::Text {
                texts: kind,
                preferred,
                optional,
            } => Divided::Text(kind.divide(&texts(), preferred, *optional).map_err(many)?),
            Values::Elements => Divided::Elements(Texts::Any.divide(&texts(), &[], false).map_err(many)?),
            Values::Addresses { preferred, among } => {
                let blocks: Vec<Cidr> = self
                    .atoms
                    .iter()
                    .filter_map(|atom| match atom {
                        Atom::Block(block) => Some(*block),
                        Atom::Text(_) | Atom::Number(_) | Atom::Clock(_) => None,
                    })
                    .collect();
                Divided::Addresses(divide_addresses(&blocks, preferred, among.as_deref()))
            }
            Values::Numbers { preferred, range } => {
                let atoms: Vec<NumberAtom> = self
                    .atoms
                    .iter()
                    .filter_map(|atom| match atom {
                        Atom::Number(atom) => Some(*atom),
                        Atom::Text(_) | Atom::Block(_) | Atom::Clock(_) => None,
                    })
                    .collect();
                Divided::Numbers(divide_numbers(&atoms, preferred, *range))
            }
            Values::Times => {
                let atoms: Vec<ClockAtom> = self
                    .atoms
                    .iter()
                    .filter_map(|atom| match atom {
                        Atom::Clock(atom) => Some(*atom),
                        Atom::Text(_) | Atom::Block(_) | Atom::Number(_) => None,
                    })
                    .collect();
                Divided::Times(divide_times(&atoms))
            }
        })
    }
}

impl Dimension {
    /// For people.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::Http => "the protocol".to_owned(),
            Self::Port => "the port".to_owned(),
            Self::Identity => "the caller".to_owned(),
            Self::Source => "the source address".to_owned(),
            Self::Remote => "the remote address".to_owned(),
            Self::Destination => "the destination address".to_owned(),
            Self::Sni => "the server name".to_owned(),
            Self::Method => "the method".to_owned(),
            Self::Path => "the path".to_owned(),
            Self::Host => "the host".to_owned(),
            Self::Header(name) => format!("header `{name}`"),
            Self::Query(name) => format!("query parameter `{name}`"),
            Self::User => "the token".to_owned(),
            Self::Issuer => "the issuer".to_owned(),
            Self::Subject => "the subject".to_owned(),
            Self::Presenter => "the presenter".to_owned(),
            Self::Shape(path) | Self::Claim(path) => format!("claim `{}`", path.join(".")),
            Self::Tls => "TLS".to_owned(),
            Self::TlsVersion => "the TLS version".to_owned(),
            Self::Cipher => "the TLS cipher".to_owned(),
            Self::Group => "the TLS group".to_owned(),
            Self::Now => "the time".to_owned(),
            Self::Opaque(text) => format!("`{text}`"),
        }
    }
}

#[derive(Debug)]
enum Divided {
    Text(Classes<String>),
    Elements(Classes<String>),
    Addresses(Classes<IpAddr>),
    Numbers(Classes<i64>),
    Times(Classes<i64>),
}

#[derive(Debug)]
struct Level {
    /// The first of its variables.
    first: usize,
    classes: Divided,
}

/// A question whose dimensions are divided.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) diagrams: Diagrams,
    entries: Vec<Entry>,
    numbers: HashMap<Dimension, usize>,
    levels: BTreeMap<usize, Level>,
}

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

/// A value of a dimension in an example.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Value {
    Text(Option<String>),
    Elements(Vec<String>),
    Address(IpAddr),
    Number(i64),
}

impl Sealed {
    /// The set of a formula.
    pub(crate) fn set(&mut self, formula: &Formula) -> Result<Set, TooLarge> {
        Ok(match formula {
            Formula::Always => FULL,
            Formula::Never => EMPTY,
            Formula::Atom(dimension, atom) => self.atom(*dimension, *atom)?,
            Formula::Not(inner) => {
                let inner = self.set(inner)?;
                self.diagrams.minus(FULL, inner)?
            }
            Formula::All(parts) => self.joined(parts, true)?,
            Formula::Any(parts) => self.joined(parts, false)?,
        })
    }

    /// Two halves at a time, so that a long list makes small steps.
    fn joined(&mut self, parts: &[Formula], is_all: bool) -> Result<Set, TooLarge> {
        match parts {
            [] => Ok(if is_all { FULL } else { EMPTY }),
            [one] => self.set(one),
            _ => {
                let (left, right) = parts.split_at(parts.len() / 2);
                let (left, right) = (self.joined(left, is_all)?, self.joined(right, is_all)?);
                Ok(if is_all {
                    self.diagrams.and(left, right)?
                } else {
                    self.diagrams.or(left, right)?
                })
            }
        }
    }

    fn atom(&mut self, dimension: usize, atom: usize) -> Result<Set, TooLarge> {
        let Some(level) = self.levels.get(&dimension) else {
            return Ok(EMPTY);
        };
        let none = Bits::none();
        let first = level.first;
        let bits = match &level.classes {
            Divided::Elements(classes) => {
                let accepted = classes.accepted.get(atom).unwrap_or(&none);
                let having: Vec<usize> = (0..classes.examples.len())
                    .filter(|class| accepted.has(*class))
                    .map(|class| first + class)
                    .collect();
                let mut any = EMPTY;
                for variable in having {
                    let has = self.diagrams.where_in(variable, &Bits::one(1))?;
                    any = self.diagrams.or(any, has)?;
                }
                return Ok(any);
            }
            Divided::Text(classes) => classes.accepted.get(atom),
            Divided::Addresses(classes) => classes.accepted.get(atom),
            Divided::Numbers(classes) | Divided::Times(classes) => classes.accepted.get(atom),
        }
        .cloned()
        .unwrap_or(none);
        Ok(self.diagrams.where_in(first, &bits)?)
    }

    pub(crate) fn dimensions(&self) -> impl Iterator<Item = &Dimension> {
        self.entries.iter().map(|entry| &entry.dimension)
    }

    /// The first variable of a dimension.
    pub(crate) fn variable(&self, dimension: &Dimension) -> Option<usize> {
        let at = self.numbers.get(dimension)?;
        Some(self.levels.get(at)?.first)
    }

    /// The variable of a dimension of few numbers, and the classes of this number: those whose example it is.
    pub(crate) fn classes_where(&self, dimension: &Dimension, number: i64) -> Option<(usize, Bits)> {
        let level = self.levels.get(self.numbers.get(dimension)?)?;
        let (Divided::Numbers(classes) | Divided::Times(classes)) = &level.classes else {
            return None;
        };
        let mut bits = Bits::none();
        for (class, example) in classes.examples.iter().enumerate() {
            if *example == Some(number) {
                bits.insert(class);
            }
        }
        Some((level.first, bits))
    }

    /// The requests without a path: `CONNECT`. Their class has no other text.
    pub(crate) fn without_path(&mut self) -> Result<Set, TooLarge> {
        let at = self.numbers.get(&Dimension::Path);
        let Some(level) = at.and_then(|at| self.levels.get(at)) else {
            return Ok(EMPTY);
        };
        let Divided::Text(classes) = &level.classes else {
            return Ok(EMPTY);
        };
        let mut bits = Bits::none();
        for (class, example) in classes.examples.iter().enumerate() {
            if example.as_deref() == Some("") {
                bits.insert(class);
            }
        }
        Ok(self.diagrams.where_in(level.first, &bits)?)
    }

    /// Exactly one text is in this claim.
    pub(crate) fn one_element(&mut self, claim: &Dimension) -> Result<Set, TooLarge> {
        let Some(level) = self.numbers.get(claim).and_then(|at| self.levels.get(at)) else {
            return Ok(FULL);
        };
        let Divided::Elements(classes) = &level.classes else {
            return Ok(FULL);
        };
        let variables: Vec<usize> = (0..classes.examples.len())
            .map(|class| level.first + class)
            .collect();
        // From the last level up: no text among those below, and exactly one among those below.
        let (mut none, mut one) = (FULL, EMPTY);
        for variable in variables.into_iter().rev() {
            let has = self.diagrams.where_in(variable, &Bits::one(1))?;
            let has_not = self.diagrams.where_in(variable, &Bits::one(0))?;
            let here = self.diagrams.and(has, none)?;
            let below = self.diagrams.and(has_not, one)?;
            one = self.diagrams.or(here, below)?;
            none = self.diagrams.and(has_not, none)?;
        }
        Ok(one)
    }

    /// No text is in this claim.
    pub(crate) fn no_element(&mut self, claim: &Dimension) -> Result<Set, TooLarge> {
        let Some(level) = self.numbers.get(claim).and_then(|at| self.levels.get(at)) else {
            return Ok(FULL);
        };
        let Divided::Elements(classes) = &level.classes else {
            return Ok(FULL);
        };
        let mut none = FULL;
        for variable in (0..classes.examples.len())
            .map(|class| level.first + class)
            .collect::<Vec<_>>()
        {
            let has_not = self.diagrams.where_in(variable, &Bits::one(0))?;
            none = self.diagrams.and(none, has_not)?;
        }
        Ok(none)
    }

    /// An example of a set: a value for each dimension that the problem speaks of.
    pub(crate) fn example(&self, set: Set) -> Option<BTreeMap<Dimension, Value>> {
        let classes = self.diagrams.first(set)?;
        let mut values = BTreeMap::new();
        for (at, level) in &self.levels {
            let entry = self.entries.get(*at)?;
            let class = classes.get(level.first).copied().unwrap_or_default();
            let value = match &level.classes {
                Divided::Text(divided) => Value::Text(divided.examples.get(class).cloned().flatten()),
                Divided::Addresses(divided) => {
                    Value::Address(divided.examples.get(class).copied().flatten()?)
                }
                Divided::Numbers(divided) | Divided::Times(divided) => {
                    Value::Number(divided.examples.get(class).copied().flatten()?)
                }
                Divided::Elements(divided) => Value::Elements(
                    divided
                        .examples
                        .iter()
                        .enumerate()
                        .filter(|(class, _)| classes.get(level.first + class) == Some(&1))
                        .filter_map(|(_, example)| example.clone())
                        .collect(),
                ),
            };
            values.insert(entry.dimension.clone(), value);
        }
        Some(values)
    }

    /// The classes of a text dimension that occur in a set, each with its example and the set of those of its requests.
    pub(crate) fn split(&mut self, set: Set, dimension: &Dimension) -> Result<Vec<(Value, Set)>, TooLarge> {
        let Some(level) = self.numbers.get(dimension).and_then(|at| self.levels.get(at)) else {
            return Ok(Vec::new());
        };
        let variable = level.first;
        let examples: Vec<Option<Value>> = match &level.classes {
            Divided::Text(classes) => classes
                .examples
                .iter()
                .map(|example| Some(Value::Text(example.clone())))
                .collect(),
            Divided::Addresses(classes) => classes
                .examples
                .iter()
                .map(|example| example.map(Value::Address))
                .collect(),
            Divided::Numbers(classes) | Divided::Times(classes) => classes
                .examples
                .iter()
                .map(|example| example.map(Value::Number))
                .collect(),
            Divided::Elements(_) => Vec::new(),
        };
        let mut parts = Vec::new();
        for (class, example) in examples.into_iter().enumerate() {
            let here = self.diagrams.where_in(variable, &Bits::one(class))?;
            let part = self.diagrams.and(set, here)?;
            if part != EMPTY
                && let Some(example) = example
            {
                parts.push((example, part));
            }
        }
        Ok(parts)
    }

    /// The set as it is for who does not look at tokens: what passes without one passes with any.
    pub(crate) fn blind_to_tokens(&mut self, set: Set) -> Result<Set, TooLarge> {
        let Some(user) = self.variable(&Dimension::User) else {
            return Ok(set);
        };
        let (_, nobody) = self.classes_where(&Dimension::User, 0).unwrap_or_default();
        let without = self.diagrams.where_in(user, &nobody)?;
        let mut seen = self.diagrams.and(set, without)?;
        for (at, first, many) in self.token_variables() {
            let _ = at;
            for variable in first..first + many {
                seen = self.diagrams.forget(seen, variable, false)?;
            }
        }
        Ok(seen)
    }

    fn token_variables(&self) -> Vec<(usize, usize, usize)> {
        self.levels
            .iter()
            .filter_map(|(at, level)| {
                let many = match &level.classes {
                    Divided::Elements(classes) => classes.examples.len(),
                    Divided::Text(_) | Divided::Addresses(_) | Divided::Numbers(_) | Divided::Times(_) => 1,
                };
                match &self.entries.get(*at)?.dimension {
                    Dimension::User
                    | Dimension::Issuer
                    | Dimension::Subject
                    | Dimension::Presenter
                    | Dimension::Shape(_)
                    | Dimension::Claim(_) => Some((*at, level.first, many)),
                    Dimension::Http
                    | Dimension::Port
                    | Dimension::Identity
                    | Dimension::Source
                    | Dimension::Remote
                    | Dimension::Destination
                    | Dimension::Sni
                    | Dimension::Method
                    | Dimension::Path
                    | Dimension::Host
                    | Dimension::Header(_)
                    | Dimension::Query(_)
                    | Dimension::Tls
                    | Dimension::TlsVersion
                    | Dimension::Cipher
                    | Dimension::Group
                    | Dimension::Now
                    | Dimension::Opaque(_) => None,
                }
            })
            .collect()
    }

    /// The values of a text or number dimension that occur in a set, in the words of the patterns that divide it. `None`
    /// when every value that occurs in `all` does.
    pub(crate) fn in_words(
        &mut self,
        dimension: &Dimension,
        set: Set,
        all: Set,
    ) -> Result<Option<Vec<String>>, TooLarge> {
        let Some((at, variable)) = self.numbers.get(dimension).copied().zip(self.variable(dimension)) else {
            return Ok(None);
        };
        let here = self.diagrams.values(set, variable)?;
        let possible = self.diagrams.values(all, variable)?;
        if here == possible {
            return Ok(None);
        }
        let (Some(entry), Some(level)) = (self.entries.get(at), self.levels.get(&at)) else {
            return Ok(None);
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
                return Ok(Some(vec![format!("all but {}", but.join(", "))]));
            }
            words.extend(
                (0..width)
                    .filter(|class| left.has(*class))
                    .take(3)
                    .filter_map(|class| examples.get(class))
                    .map(|example| format!("others such as {example}")),
            );
        }
        Ok(Some(words))
    }

    /// The callers of a set: those of `known` (principals), whether there is one in plaintext, and an example of those that
    /// are not known, if any identity that is not known is among them.
    pub(crate) fn callers(&mut self, set: Set, all: Set, known: &[String]) -> Result<Callers, TooLarge> {
        let mut callers = Callers {
            everybody: match self.variable(&Dimension::Identity) {
                Some(variable) => {
                    self.diagrams.values(set, variable)? == self.diagrams.values(all, variable)?
                }
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

    /// What is in a set whatever the parts of expressions say that are not looked into.
    pub(crate) fn certain(&mut self, set: Set) -> Result<Set, TooLarge> {
        let variables: Vec<usize> = self.opaque().into_iter().map(|(_, variable)| variable).collect();
        let mut certain = set;
        for variable in variables {
            certain = self.diagrams.forget(certain, variable, true)?;
        }
        Ok(certain)
    }

    /// The parts of expressions that a set depends on and that are not looked into.
    pub(crate) fn undecided_by(&mut self, set: Set) -> Result<Vec<Arc<str>>, TooLarge> {
        let mut texts = Vec::new();
        for (text, variable) in self.opaque() {
            if self.diagrams.forget(set, variable, false)? != set {
                texts.push(text);
            }
        }
        Ok(texts)
    }

    fn opaque(&self) -> Vec<(Arc<str>, usize)> {
        self.levels
            .iter()
            .filter_map(|(at, level)| match &self.entries.get(*at)?.dimension {
                Dimension::Opaque(text) => Some((Arc::clone(text), level.first)),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
impl Sealed {
    /// The classes of a request, found by asking each atom about its values.
    pub(crate) fn classes_of(&self, values: &BTreeMap<Dimension, Value>) -> Option<Vec<usize>> {
        let width = self
            .levels
            .values()
            .map(|level| match &level.classes {
                Divided::Elements(classes) => classes.examples.len(),
                Divided::Text(_) | Divided::Addresses(_) | Divided::Numbers(_) | Divided::Times(_) => 1,
            })
            .sum();
        let mut classes = vec![0; width];
        let find = |accepted: &[Bits], many: usize, least: usize, vector: &[bool]| {
            (least..many).find(|class| {
                accepted
                    .iter()
                    .map(|bits| bits.has(*class))
                    .eq(vector.iter().copied())
            })
        };
        for (at, level) in &self.levels {
            let entry = self.entries.get(*at)?;
            let value = values.get(&entry.dimension)?;
            let vector = |text: &str| -> Vec<bool> {
                entry.atoms.iter().map(|atom| atom.accepts_text(text)).collect()
            };
            match (&level.classes, value) {
                (Divided::Text(divided), Value::Text(None)) => {
                    divided.examples.first().filter(|example| example.is_none())?;
                }
                (Divided::Text(divided), Value::Text(Some(text))) => {
                    let least = usize::from(divided.examples.first()?.is_none());
                    classes[level.first] =
                        find(&divided.accepted, divided.examples.len(), least, &vector(text))?;
                }
                (Divided::Elements(divided), Value::Elements(texts)) => {
                    for text in texts {
                        let class = find(&divided.accepted, divided.examples.len(), 0, &vector(text))?;
                        classes[level.first + class] = 1;
                    }
                }
                (Divided::Addresses(divided), Value::Address(address)) => {
                    let vector: Vec<bool> = entry
                        .atoms
                        .iter()
                        .map(|atom| matches!(atom, Atom::Block(block) if block.contains(*address)))
                        .collect();
                    classes[level.first] = find(&divided.accepted, divided.examples.len(), 0, &vector)?;
                }
                (Divided::Numbers(divided), Value::Number(number)) => {
                    let vector: Vec<bool> = entry
                        .atoms
                        .iter()
                        .map(|atom| matches!(atom, Atom::Number(atom) if atom.holds(*number)))
                        .collect();
                    classes[level.first] = find(&divided.accepted, divided.examples.len(), 0, &vector)?;
                }
                (Divided::Times(divided), Value::Number(time)) => {
                    let vector: Vec<bool> = entry
                        .atoms
                        .iter()
                        .map(|atom| matches!(atom, Atom::Clock(atom) if atom.holds(*time)))
                        .collect();
                    classes[level.first] = find(&divided.accepted, divided.examples.len(), 0, &vector)?;
                }
                _ => return None,
            }
        }
        Some(classes)
    }
}

impl Atom {
    /// For people.
    fn words(&self) -> String {
        match self {
            Self::Text(atom) => atom.words(),
            Self::Block(block) => block.to_string(),
            Self::Number(NumberAtom::Is(number)) => number.to_string(),
            Self::Number(NumberAtom::Below(number)) => format!("below {number}"),
            Self::Clock(_) => "some times".to_owned(),
        }
    }

    pub(crate) fn accepts_text(&self, text: &str) -> bool {
        match self {
            Self::Text(atom) => atom.accepts(text),
            Self::Block(_) | Self::Number(_) | Self::Clock(_) => false,
        }
    }
}
