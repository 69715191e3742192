//! One question while it is put together: the dimensions of the requests that it is about, and the atoms that are asked of
//! each.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_types::Cidr;

use crate::address::{NumberAtom, divide_addresses, divide_numbers};
use crate::clock::{ClockAtom, divide_times};
use crate::diagram::{Diagrams, Exhausted};
use crate::formula::Formula;
use crate::sealed::{Divided, Level, Sealed};
use crate::text::{TextAtom, Texts};

/// How many edges of decision diagrams one question may make.
const BUDGET: usize = 12_000_000;

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
pub(crate) struct Entry {
    pub(crate) dimension: Dimension,
    values: Values,
    pub(crate) atoms: Vec<Atom>,
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

impl Atom {
    /// For people.
    pub(crate) fn words(&self) -> String {
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
