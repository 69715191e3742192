//! From text to trees: one pass over the parser's events, everything bounded.

use std::collections::HashMap;

use granit_parser::{ErrorKind, Event, Parser, ScalarStyle, Span, Tag};

use super::{Entry, Node, NodeKind, Quotes, Scalar, ScalarKind};
use crate::finding::codes;
use crate::sink::Sink;
use crate::source::{Position, Spot};

/// Lists and mappings inside each other, after aliases are expanded.
const DEEPEST: usize = 64;
/// Values in a file, after aliases are expanded.
const MOST_NODES: usize = 500_000;
/// Broken documents in a file that are reported one by one.
const MOST_BROKEN: usize = 50;

/// The root of a document.
pub(crate) struct Root {
    pub(crate) node: Node,
    /// Nothing was wrong with it so far; a document that lost a part must not be used.
    pub(crate) whole: bool,
}

/// The documents of `text`; broken ones are findings and are skipped up to the next `---`.
pub(crate) fn parse(text: &str, sink: &Sink) -> Vec<Root> {
    let mut options = granit_parser::Options::default();
    options.flow_nesting_limit = DEEPEST;
    options.block_nesting_limit = DEEPEST;
    options.set_emit_comments(false);
    // A JSON document on one line may have keys that start far into the line, and long keys in data maps.
    options.simple_key_max_lookahead = 4096;
    let mut parser = Parser::new_from_str_with_options(text, options);
    let mut builder = Builder::new(sink);
    let mut broken = 0;
    loop {
        match parser.next_event() {
            None => break,
            Some(Ok((event, span))) => {
                if !builder.take(event, span) {
                    break;
                }
            }
            Some(Err(error)) => {
                let at = *error.marker();
                let spot = spot(Span::new(at, at));
                if matches!(error.kind(), ErrorKind::RecursionLimitExceeded) {
                    sink.error(
                        codes::TOO_COMPLEX,
                        spot,
                        format!("nested more than {DEEPEST} levels deep"),
                    );
                } else {
                    let what = format!("not well-formed YAML: {}", lower_first(&error.info()));
                    match yaml_help(error.kind()) {
                        Some(help) => sink.error_help(codes::BROKEN_YAML, spot, what, help),
                        None => sink.error(codes::BROKEN_YAML, spot, what),
                    }
                }
                builder.abandon();
                broken += 1;
                if broken >= MOST_BROKEN || !matches!(parser.proceed_next_document(), Ok(true)) {
                    break;
                }
            }
        }
    }
    builder.documents
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars
        .next()
        .map(|first| first.to_lowercase().chain(chars).collect())
        .unwrap_or_default()
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "the parser's own list of errors, open to additions"
)]
fn yaml_help(kind: &ErrorKind) -> Option<&'static str> {
    match kind {
        ErrorKind::TabNotAllowed
        | ErrorKind::TabInBlockIndentation
        | ErrorKind::TabInIndentation
        | ErrorKind::TabAtBlockScalarStart => Some("indent with spaces; YAML does not allow tabs there"),
        ErrorKind::UnclosedQuotedScalar => Some("close the quote"),
        ErrorKind::UnknownAnchor => Some("define it with `&name` earlier in the same document"),
        _ => None,
    }
}

fn spot(span: Span) -> Spot {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    let length = if span.start.line() == span.end.line() {
        span.end.col().saturating_sub(span.start.col())
    } else {
        1
    };
    Spot {
        position: Position {
            line: number(span.start.line()).max(1),
            column: number(span.start.col()).saturating_add(1),
        },
        length: number(length).max(1),
    }
}

/// A list or mapping that is not closed yet.
enum Open {
    List {
        spot: Spot,
        anchor: usize,
        items: Vec<Node>,
    },
    Map {
        spot: Spot,
        anchor: usize,
        entries: Vec<Entry>,
        seen: HashMap<Box<str>, Position>,
        merges: Vec<Node>,
        key: Option<Key>,
    },
}

enum Key {
    Field(Box<str>, Spot),
    Merge(Spot),
    /// Reported already; its value is dropped.
    Refused,
}

struct Anchored {
    node: Node,
    nodes: usize,
    depth: usize,
}

struct Builder<'s> {
    sink: &'s Sink,
    open: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    nodes: usize,
    /// The errors before the open document.
    errors: usize,
    documents: Vec<Root>,
}

impl<'s> Builder<'s> {
    fn new(sink: &'s Sink) -> Self {
        Self {
            sink,
            open: Vec::new(),
            anchors: HashMap::new(),
            nodes: 0,
            errors: 0,
            documents: Vec::new(),
        }
    }

    /// Drops what is open after a syntax error.
    fn abandon(&mut self) {
        self.open.clear();
        self.anchors.clear();
    }

    /// Whether there is room for `more` nodes.
    fn room(&mut self, more: usize, spot: Spot) -> bool {
        self.nodes = self.nodes.saturating_add(more);
        if self.nodes > MOST_NODES {
            let what = format!("more than {MOST_NODES} values in one file, aliases expanded");
            self.sink.error(codes::TOO_COMPLEX, spot, what);
            return false;
        }
        true
    }

    /// Takes one event; false when the file is too big to go on.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "anchor names, unresolved aliases and comments are not asked for, and the parser may get more events"
    )]
    fn take(&mut self, event: Event<'_>, span: Span) -> bool {
        let spot = spot(span);
        match event {
            Event::DocumentStart(..) => {
                self.abandon();
                self.errors = self.sink.errors();
            }
            Event::Scalar(text, style, anchor, tag) => {
                let kind = self.scalar_kind(&text, style, tag.as_deref(), spot);
                let text = text.into();
                let quotes = match style {
                    ScalarStyle::SingleQuoted => Quotes::Single,
                    ScalarStyle::DoubleQuoted => Quotes::Double,
                    ScalarStyle::Plain | ScalarStyle::Literal | ScalarStyle::Folded => Quotes::None,
                };
                let kind = NodeKind::Scalar(Scalar { text, kind, quotes });
                return self.room(1, spot) && self.place(Node { spot, kind }, anchor);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), "seq", spot);
                self.open.push(Open::List {
                    spot,
                    anchor,
                    items: Vec::new(),
                });
                return self.room(1, spot);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.check_tag(tag.as_deref(), "map", spot);
                self.open.push(Open::Map {
                    spot,
                    anchor,
                    entries: Vec::new(),
                    seen: HashMap::new(),
                    merges: Vec::new(),
                    key: None,
                });
                return self.room(1, spot);
            }
            Event::SequenceEnd | Event::MappingEnd => match self.open.pop() {
                Some(Open::List { spot, anchor, items }) => {
                    let kind = NodeKind::List(items);
                    return self.place(Node { spot, kind }, anchor);
                }
                Some(Open::Map {
                    spot,
                    anchor,
                    mut entries,
                    mut seen,
                    merges,
                    key: _,
                }) => {
                    for merged in merges {
                        if !self.merge(&mut entries, &mut seen, merged) {
                            return false;
                        }
                    }
                    let kind = NodeKind::Map(entries);
                    return self.place(Node { spot, kind }, anchor);
                }
                None => {}
            },
            Event::Alias(anchor) => {
                let Some(anchored) = self.anchors.get(&anchor) else {
                    self.sink.error(
                        codes::BROKEN_YAML,
                        spot,
                        "the alias is inside of what it stands for",
                    );
                    let (text, kind) = (Box::default(), ScalarKind::Null);
                    let quotes = Quotes::None;
                    let kind = NodeKind::Scalar(Scalar { text, kind, quotes });
                    return self.place(Node { spot, kind }, 0);
                };
                let (nodes, depth) = (anchored.nodes, anchored.depth);
                if self.open.len() + depth > 2 * DEEPEST {
                    let what = "aliases are nested too deep";
                    self.sink.error(codes::TOO_COMPLEX, spot, what);
                    return false;
                }
                if !self.room(nodes, spot) {
                    return false;
                }
                if let Some(node) = self.anchors.get(&anchor).map(|anchored| anchored.node.clone()) {
                    return self.place(node, 0);
                }
            }
            _ => {}
        }
        true
    }

    fn scalar_kind(&self, text: &str, style: ScalarStyle, tag: Option<&Tag>, spot: Spot) -> ScalarKind {
        match tag {
            None if style == ScalarStyle::Plain => ScalarKind::of_plain(text),
            None => ScalarKind::Text,
            Some(tag) => match tag.core_suffix() {
                Some("str") => ScalarKind::Text,
                Some("int" | "bool" | "float" | "null") => ScalarKind::of_plain(text),
                _ => {
                    self.refuse_tag(tag, spot);
                    ScalarKind::Text
                }
            },
        }
    }

    fn check_tag(&self, tag: Option<&Tag>, expected: &str, spot: Spot) {
        if let Some(tag) = tag
            && tag.core_suffix() != Some(expected)
        {
            self.refuse_tag(tag, spot);
        }
    }

    fn refuse_tag(&self, tag: &Tag, spot: Spot) {
        let what = format!(
            "the tag {} has no meaning in a resource",
            self.sink.quoted(&tag.original())
        );
        self.sink.error(codes::BROKEN_YAML, spot, what);
    }

    /// Puts a finished node where it belongs. False when an anchored copy does not fit.
    fn place(&mut self, node: Node, anchor: usize) -> bool {
        if anchor != 0 {
            let (nodes, depth) = measure(&node);
            if !self.room(nodes, node.spot) {
                return false;
            }
            let copy = node.clone();
            self.anchors.insert(
                anchor,
                Anchored {
                    node: copy,
                    nodes,
                    depth,
                },
            );
        }
        match self.open.last_mut() {
            None => {
                let whole = self.sink.errors() == self.errors;
                self.documents.push(Root { node, whole });
            }
            Some(Open::List { items, .. }) => items.push(node),
            Some(Open::Map {
                entries,
                seen,
                merges,
                key,
                ..
            }) => match key.take() {
                None => *key = Some(read_key(node, seen, self.sink)),
                Some(Key::Field(key, key_spot)) => entries.push(Entry {
                    key,
                    key_spot,
                    value: node,
                }),
                Some(Key::Merge(spot)) => match node.kind {
                    NodeKind::Map(_) => merges.push(node),
                    NodeKind::List(items) => merges.extend(items),
                    NodeKind::Scalar(_) => {
                        self.sink.error(
                            codes::BROKEN_YAML,
                            spot,
                            "`<<` takes a mapping or a list of mappings",
                        );
                    }
                },
                Some(Key::Refused) => {}
            },
        }
        true
    }

    /// Adds what `merged` has and the mapping has not (YAML 1.1 merge key, which Kubernetes reads).
    fn merge(&self, entries: &mut Vec<Entry>, seen: &mut HashMap<Box<str>, Position>, merged: Node) -> bool {
        let NodeKind::Map(more) = merged.kind else {
            self.sink.error(
                codes::BROKEN_YAML,
                merged.spot,
                "`<<` takes a mapping or a list of mappings",
            );
            return true;
        };
        for entry in more {
            if !seen.contains_key(&entry.key) {
                seen.insert(entry.key.clone(), entry.key_spot.position);
                entries.push(entry);
            }
        }
        true
    }
}

fn read_key(node: Node, seen: &mut HashMap<Box<str>, Position>, sink: &Sink) -> Key {
    let NodeKind::Scalar(scalar) = node.kind else {
        sink.error(
            codes::WRONG_TYPE,
            node.spot,
            "a key is a text, not a list or a mapping",
        );
        return Key::Refused;
    };
    if scalar.kind == ScalarKind::Text && &*scalar.text == "<<" {
        return Key::Merge(node.spot);
    }
    match scalar.kind {
        ScalarKind::Null => {
            sink.error(codes::WRONG_TYPE, node.spot, "a key is empty");
            return Key::Refused;
        }
        ScalarKind::Ambiguous => {
            let what = format!(
                "the key `{}` is a boolean in YAML 1.1 and a text in YAML 1.2",
                scalar.text
            );
            let help = format!("quote it: \"{}\"", scalar.text);
            sink.error_help(codes::AMBIGUOUS_WORD, node.spot, what, help);
        }
        ScalarKind::Text | ScalarKind::Boolean(_) | ScalarKind::Integer(_) | ScalarKind::Number => {}
    }
    if let Some(first) = seen.insert(scalar.text.clone(), node.spot.position) {
        let key = sink.quoted(&scalar.text);
        // Places of a text inside of a file are not those that a reader sees.
        let what = if sink.is_inner() {
            format!("{key} is written twice")
        } else {
            format!("{key} is written twice; the first is at {first}")
        };
        sink.error_help(codes::DUPLICATE_KEY, node.spot, what, "keep one of the two");
        return Key::Refused;
    }
    Key::Field(scalar.text, node.spot)
}

/// How many nodes there are in the tree, and how many levels.
fn measure(node: &Node) -> (usize, usize) {
    let below = |parts: &mut dyn Iterator<Item = &Node>| {
        parts.map(measure).fold((1, 1), |(nodes, depth), (more, levels)| {
            (nodes + more, depth.max(levels + 1))
        })
    };
    match &node.kind {
        NodeKind::Scalar(_) => (1, 1),
        NodeKind::List(items) => below(&mut items.iter()),
        NodeKind::Map(entries) => below(&mut entries.iter().map(|entry| &entry.value)),
    }
}
