//! A question whose dimensions are divided into classes: sets of requests, and examples of them.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use crate::bits::Bits;
use crate::diagram::{Diagrams, EMPTY, FULL, Set};
use crate::formula::Formula;
use crate::problem::{Dimension, Entry, TooLarge};
use crate::text::Classes;

#[derive(Debug)]
pub(crate) enum Divided {
    Text(Classes<String>),
    Elements(Classes<String>),
    Addresses(Classes<IpAddr>),
    Numbers(Classes<i64>),
    Times(Classes<i64>),
}

#[derive(Debug)]
pub(crate) struct Level {
    /// The first of its variables.
    pub(crate) first: usize,
    pub(crate) classes: Divided,
}

/// A question whose dimensions are divided.
#[derive(Debug)]
pub(crate) struct Sealed {
    pub(crate) diagrams: Diagrams,
    pub(crate) entries: Vec<Entry>,
    pub(crate) numbers: HashMap<Dimension, usize>,
    pub(crate) levels: BTreeMap<usize, Level>,
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
            .filter_map(|(at, level)| {
                if let Dimension::Opaque(text) = &self.entries.get(*at)?.dimension {
                    Some((Arc::clone(text), level.first))
                } else {
                    None
                }
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
                        .map(|atom| matches!(atom, crate::problem::Atom::Block(block) if block.contains(*address)))
                        .collect();
                    classes[level.first] = find(&divided.accepted, divided.examples.len(), 0, &vector)?;
                }
                (Divided::Numbers(divided), Value::Number(number)) => {
                    let vector: Vec<bool> = entry
                        .atoms
                        .iter()
                        .map(|atom| matches!(atom, crate::problem::Atom::Number(atom) if atom.holds(*number)))
                        .collect();
                    classes[level.first] = find(&divided.accepted, divided.examples.len(), 0, &vector)?;
                }
                (Divided::Times(divided), Value::Number(time)) => {
                    let vector: Vec<bool> = entry
                        .atoms
                        .iter()
                        .map(|atom| matches!(atom, crate::problem::Atom::Clock(atom) if atom.holds(*time)))
                        .collect();
                    classes[level.first] = find(&divided.accepted, divided.examples.len(), 0, &vector)?;
                }
                _ => return None,
            }
        }
        Some(classes)
    }
}
