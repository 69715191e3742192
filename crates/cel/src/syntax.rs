//! The tree of what is written, before names and types are looked at.

use std::ops::Range;

use crate::expression::{Literal, Operator};

/// A part of the text.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) range: Range<usize>,
    pub(crate) syntax: Syntax,
    /// How many nodes lie on the longest way down, this one included.
    pub(crate) depth: usize,
}

#[derive(Clone, Debug)]
pub(crate) enum Syntax {
    Literal(Literal),
    Name(String),
    Select {
        of: Box<Node>,
        field: Word,
    },
    Index {
        of: Box<Node>,
        key: Box<Node>,
    },
    Call {
        receiver: Option<Box<Node>>,
        function: Word,
        arguments: Vec<Node>,
    },
    List(Vec<Node>),
    Map(Vec<(Node, Node)>),
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary {
        operator: Operator,
        left: Box<Node>,
        right: Box<Node>,
    },
    Conditional {
        condition: Box<Node>,
        then: Box<Node>,
        otherwise: Box<Node>,
    },
}

/// A name and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Word {
    pub(crate) text: String,
    pub(crate) range: Range<usize>,
}

impl Node {
    pub(crate) fn new(range: Range<usize>, syntax: Syntax) -> Self {
        let below = |all: &[Node]| all.iter().map(|node| node.depth).max().unwrap_or(0);
        let depth = match &syntax {
            Syntax::Literal(_) | Syntax::Name(_) => 0,
            Syntax::Select { of, .. } | Syntax::Not(of) | Syntax::Negate(of) => of.depth,
            Syntax::Index { of, key } => of.depth.max(key.depth),
            Syntax::Call {
                receiver, arguments, ..
            } => receiver
                .as_ref()
                .map_or(0, |receiver| receiver.depth)
                .max(below(arguments)),
            Syntax::List(all) | Syntax::And(all) | Syntax::Or(all) => below(all),
            Syntax::Map(entries) => entries
                .iter()
                .map(|(key, value)| key.depth.max(value.depth))
                .max()
                .unwrap_or(0),
            Syntax::Binary { left, right, .. } => left.depth.max(right.depth),
            Syntax::Conditional {
                condition,
                then,
                otherwise,
            } => condition.depth.max(then.depth).max(otherwise.depth),
        };
        Self {
            range,
            syntax,
            depth: depth + 1,
        }
    }
}
