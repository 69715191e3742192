//! Differences put apart, so that their words say them: callers that may ask for different things, and methods with
//! different paths, are not said in one breath.

use std::collections::BTreeSet;

use crate::bits::Bits;
use crate::diagram::{EMPTY, FULL, Set};
use crate::problem::{Dimension, TooLarge};
use crate::sealed::Sealed;

/// A difference comes apart into so many at most; else it is said as one, with a note that it is less than its words.
const MOST_PARTS: usize = 16;
/// Edges that putting one difference apart may make.
const EDGES: usize = 200_000;

/// A thing and its values, in words.
pub(crate) type Words = Vec<(String, Vec<String>)>;

impl Sealed {
    /// The parts of a set, each with its words. Where the words of a part would be of more requests than it has, the last of
    /// them says so.
    pub(crate) fn apart(&mut self, set: Set, all: Set) -> Result<Vec<(Set, Words)>, TooLarge> {
        let withheld = self.diagrams.withhold_beyond(EDGES);
        let parts = self.try_apart(set, all);
        self.diagrams.give_back(withheld);
        if parts.is_ok() {
            return parts;
        }
        let mut words = self.words(set, all, None)?;
        words.push(less_than_said());
        Ok(vec![(set, words)])
    }

    fn try_apart(&mut self, set: Set, all: Set) -> Result<Vec<(Set, Words)>, TooLarge> {
        let mut parts = vec![set];
        for dimension in [Dimension::Identity, Dimension::Method, Dimension::Port] {
            let mut next = Vec::new();
            let mut waiting = parts.len();
            for part in parts {
                waiting -= 1;
                if self.is_as_said(part, all)? {
                    next.push(part);
                    continue;
                }
                let mut groups: Vec<(Words, Set)> = Vec::new();
                for (_, one) in self.split(part, &dimension)? {
                    let words = self.words(one, all, Some(&dimension))?;
                    match groups.iter_mut().find(|(own, _)| *own == words) {
                        Some((_, group)) => *group = self.diagrams.or(*group, one)?,
                        None => groups.push((words, one)),
                    }
                }
                if groups.is_empty() || next.len() + groups.len() + waiting > MOST_PARTS {
                    next.push(part);
                } else {
                    next.extend(groups.into_iter().map(|(_, group)| group));
                }
            }
            parts = next;
        }
        let mut said = Vec::new();
        for part in parts {
            let mut words = self.words(part, all, None)?;
            if !self.is_as_said(part, all)? {
                words.push(less_than_said());
            }
            said.push((part, words));
        }
        Ok(said)
    }

    /// What the requests of a set have in common, but for one thing.
    fn words(&mut self, set: Set, all: Set, but: Option<&Dimension>) -> Result<Words, TooLarge> {
        let mut ordered: Vec<Dimension> = self
            .dimensions()
            .filter(|dimension| is_said(dimension) && Some(*dimension) != but)
            .cloned()
            .collect();
        ordered.sort();
        // `CONNECT` has no path, and only `OPTIONS` has the path `*`: a method says so already, and a path does.
        let within = self.alike(set, all, &Dimension::Method)?;
        let paths = self.in_words(&Dimension::Path, set, within);
        let within = match &paths {
            Some(_) => self.alike(set, all, &Dimension::Path)?,
            None => all,
        };
        let methods = self.in_words(&Dimension::Method, set, within);
        let mut words = Vec::new();
        for dimension in ordered {
            let values = if dimension == Dimension::Path {
                paths.clone()
            } else if dimension == Dimension::Method {
                methods.clone()
            } else {
                self.in_words(&dimension, set, all)
            };
            if let Some(values) = values {
                words.push((dimension.words(), values));
            }
        }
        Ok(words)
    }

    /// Those of `all` which have a value of a dimension that occurs in a set.
    fn alike(&mut self, set: Set, all: Set, dimension: &Dimension) -> Result<Set, TooLarge> {
        let Some(variable) = self.variable(dimension) else {
            return Ok(all);
        };
        let values = self.diagrams.values(set, variable);
        let alike = self.diagrams.where_in(variable, &values)?;
        Ok(self.diagrams.and(all, alike)?)
    }

    /// Whether every combination of the callers and the things that are said is in the set: for some value of what is not
    /// said.
    fn is_as_said(&mut self, set: Set, all: Set) -> Result<bool, TooLarge> {
        let said: BTreeSet<usize> = self
            .dimensions()
            .filter(|dimension| is_said(dimension) || **dimension == Dimension::Identity)
            .filter_map(|dimension| self.variable(dimension))
            .collect();
        let (mut seen, mut possible) = (set, all);
        for variable in (0..self.diagrams.variables()).rev() {
            if !said.contains(&variable) {
                seen = self.diagrams.forget(seen, variable, false)?;
                possible = self.diagrams.forget(possible, variable, false)?;
            }
        }
        let mut product = FULL;
        for variable in said.into_iter().rev() {
            let values: Bits = self.diagrams.values(seen, variable);
            let here = self.diagrams.where_in(variable, &values)?;
            product = self.diagrams.and(product, here)?;
        }
        product = self.diagrams.and(product, possible)?;
        Ok(self.diagrams.minus(product, seen)? == EMPTY)
    }
}

fn less_than_said() -> (String, Vec<String>) {
    ("only".to_owned(), vec!["some combinations of these".to_owned()])
}

/// Whether a difference is said in values of this.
fn is_said(dimension: &Dimension) -> bool {
    match dimension {
        Dimension::Port
        | Dimension::Method
        | Dimension::Path
        | Dimension::Host
        | Dimension::Header(_)
        | Dimension::Source
        | Dimension::Remote
        | Dimension::Sni
        | Dimension::Issuer
        | Dimension::Subject => true,
        Dimension::Http
        | Dimension::Identity
        | Dimension::Destination
        | Dimension::Query(_)
        | Dimension::User
        | Dimension::Presenter
        | Dimension::Shape(_)
        | Dimension::Claim(_)
        | Dimension::Tls
        | Dimension::TlsVersion
        | Dimension::Cipher
        | Dimension::Group
        | Dimension::Now
        | Dimension::Opaque(_) => false,
    }
}
