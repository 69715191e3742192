//! The tree of one document: scalars, lists and mappings, each with its place in the file.

mod json;
mod scalar;
mod yaml;

pub(crate) use scalar::{Quotes, Scalar, ScalarKind};
pub(crate) use yaml::parse;

use crate::source::Spot;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) spot: Spot,
    pub(crate) kind: NodeKind,
}

#[derive(Clone, Debug)]
pub(crate) enum NodeKind {
    Scalar(Scalar),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// A key and its value; keys are unique in their mapping.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) key: Box<str>,
    pub(crate) key_spot: Spot,
    pub(crate) value: Node,
}

impl Node {
    pub(crate) fn is_null(&self) -> bool {
        matches!(&self.kind, NodeKind::Scalar(scalar) if scalar.kind == ScalarKind::Null)
    }

    /// Where a finding about this value points: the value itself where it is a word, else the key it stands under.
    pub(crate) fn shown_at(&self, key: Spot) -> Spot {
        match &self.kind {
            NodeKind::Scalar(scalar) if !scalar.text.is_empty() => self.spot,
            NodeKind::Scalar(_) | NodeKind::List(_) | NodeKind::Map(_) => key,
        }
    }
}
