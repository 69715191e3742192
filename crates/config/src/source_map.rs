//! From a field's path to its place in the file.

use std::sync::Arc;

use crate::node::{Node, NodeKind};
use crate::source::{Position, SourceFile, Spot};

/// Where each field of a document stands.
///
/// A path is written as people do: `spec.rules[0].from[1].source.principals[0]`, and a key that has dots or brackets in
/// quotes: `metadata.annotations["istio.io/dry-run"]`. YAML inside of a text goes on below it:
/// `data.mesh.extensionProviders[0].name`.
#[derive(Clone, Debug, PartialEq)]
pub struct SourceMap {
    file: SourceFile,
    root: Arc<Place>,
}

#[derive(Debug, PartialEq)]
struct Place {
    key: Spot,
    value: Spot,
    below: Below,
}

#[derive(Debug, PartialEq)]
enum Below {
    Nothing,
    Fields(Vec<(Box<str>, Place)>),
    Items(Vec<Place>),
}

impl SourceMap {
    /// The places of `root`, and those of documents in texts of it, each below the keys that lead to its text.
    pub(crate) fn new(file: &SourceFile, root: &Node, inner: &[(&[&str], Node)]) -> Self {
        let mut root = place(root, root.spot);
        for (path, node) in inner {
            let mut here = Some(&mut root);
            for key in *path {
                here = here.and_then(|place| match &mut place.below {
                    Below::Fields(fields) => fields
                        .iter_mut()
                        .find(|(name, _)| **name == **key)
                        .map(|(_, place)| place),
                    Below::Nothing | Below::Items(_) => None,
                });
            }
            if let Some(here) = here {
                here.below = place(node, here.key).below;
            }
        }
        Self {
            file: file.clone(),
            root: Arc::new(root),
        }
    }

    /// The file.
    pub fn file(&self) -> &SourceFile {
        &self.file
    }

    /// Where the value at `path` starts, or its nearest ancestor that exists. For a mapping or list under a key, where
    /// the key stands.
    pub fn position(&self, path: &str) -> Position {
        self.spot(path).position
    }

    /// [`SourceMap::position`] with the length to underline.
    pub fn spot(&self, path: &str) -> Spot {
        self.nearest(path).value
    }

    /// Where the key of the field at `path` stands, or of its nearest ancestor that exists; the item for a list item.
    pub fn key_spot(&self, path: &str) -> Spot {
        self.nearest(path).key
    }

    fn nearest(&self, path: &str) -> &Place {
        let mut here = &*self.root;
        for step in (Steps { rest: path }) {
            let next = match (&here.below, step) {
                (Below::Fields(fields), Step::Key(key)) => fields
                    .iter()
                    .find(|(name, _)| **name == *key)
                    .map(|(_, place)| place),
                (Below::Items(items), Step::Index(index)) => items.get(index),
                (Below::Nothing | Below::Fields(_) | Below::Items(_), _) => None,
            };
            match next {
                Some(next) => here = next,
                None => break,
            }
        }
        here
    }
}

fn place(node: &Node, key: Spot) -> Place {
    let below = match &node.kind {
        NodeKind::Scalar(_) => Below::Nothing,
        NodeKind::List(items) => Below::Items(items.iter().map(|item| place(item, item.spot)).collect()),
        NodeKind::Map(entries) => Below::Fields(
            entries
                .iter()
                .map(|entry| (entry.key.clone(), place(&entry.value, entry.key_spot)))
                .collect(),
        ),
    };
    let value = node.shown_at(key);
    Place { key, value, below }
}

enum Step<'a> {
    Key(&'a str),
    Index(usize),
}

struct Steps<'a> {
    rest: &'a str,
}

impl<'a> Iterator for Steps<'a> {
    type Item = Step<'a>;

    fn next(&mut self) -> Option<Step<'a>> {
        let rest = self.rest.strip_prefix('.').unwrap_or(self.rest);
        if let Some(inside) = rest.strip_prefix("[\"") {
            let (key, tail) = inside.split_once("\"]")?;
            self.rest = tail;
            return Some(Step::Key(key));
        }
        if let Some(inside) = rest.strip_prefix('[') {
            let (index, tail) = inside.split_once(']')?;
            self.rest = tail;
            return index.parse().ok().map(Step::Index);
        }
        if rest.is_empty() {
            return None;
        }
        let (key, tail) = rest.split_at(rest.find(['.', '[']).unwrap_or(rest.len()));
        self.rest = tail;
        Some(Step::Key(key))
    }
}
