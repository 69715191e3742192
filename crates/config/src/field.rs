//! Small readers over a document's tree: each takes one value, or says what is wrong with it where it stands.
//!
//! `None` from a reader of a value always comes with an error finding, and a document with an error is not returned.
//! [`Value::map`] reports every field that its reader did not ask for, so a reader asks for all of its fields before it
//! gives up on one.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;

use bartizan_types::{Labels, Selector};

use crate::finding::{Severity, codes};
use crate::node::{Entry, Node, NodeKind, ScalarKind};
use crate::sink::Sink;
use crate::source::Spot;
use crate::suggest;

/// A value, the field it belongs to, and where a finding about it points.
#[derive(Clone, Copy)]
pub(crate) struct Value<'a> {
    pub(crate) sink: &'a Sink,
    pub(crate) name: &'a str,
    pub(crate) spot: Spot,
    node: &'a Node,
}

impl<'a> Value<'a> {
    pub(crate) fn root(node: &'a Node, sink: &'a Sink) -> Self {
        Self {
            sink,
            name: "document",
            spot: node.spot,
            node,
        }
    }

    /// The root of a document that stands inside of the text `parent`.
    pub(crate) fn below(node: &'a Node, parent: Value<'a>) -> Self {
        Self {
            sink: parent.sink,
            name: parent.name,
            spot: node.shown_at(parent.spot),
            node,
        }
    }

    pub(crate) fn node(self) -> &'a Node {
        self.node
    }

    pub(crate) fn is_null(self) -> bool {
        self.node.is_null()
    }

    pub(crate) fn is_map(self) -> bool {
        matches!(self.node.kind, NodeKind::Map(_))
    }

    pub(crate) fn is_text(self) -> bool {
        matches!(&self.node.kind, NodeKind::Scalar(scalar) if scalar.kind == ScalarKind::Text)
    }

    pub(crate) fn is_list(self) -> bool {
        matches!(self.node.kind, NodeKind::List(_))
    }

    pub(crate) fn is_empty_map(self) -> bool {
        matches!(&self.node.kind, NodeKind::Map(entries) if entries.is_empty())
    }

    /// A field of a mapping, without asking for the others.
    pub(crate) fn peek(self, name: &'static str) -> Option<Value<'a>> {
        self.fields()?.get(name)
    }

    /// The items of a list below, without asking for other fields; none where it is not a list.
    pub(crate) fn peek_items(self, name: &'static str) -> Vec<Value<'a>> {
        let list = self.peek(name).filter(|value| value.is_list());
        list.map(Value::items).unwrap_or_default()
    }

    /// The word as written, whatever it means.
    pub(crate) fn raw(self) -> Option<&'a str> {
        match &self.node.kind {
            NodeKind::Scalar(scalar) => Some(&scalar.text),
            NodeKind::List(_) | NodeKind::Map(_) => None,
        }
    }

    /// The number, where it is an integer.
    pub(crate) fn as_integer(self) -> Option<i64> {
        match &self.node.kind {
            NodeKind::Scalar(scalar) => match scalar.kind {
                ScalarKind::Integer(number) => Some(number),
                ScalarKind::Text
                | ScalarKind::Null
                | ScalarKind::Boolean(_)
                | ScalarKind::Number
                | ScalarKind::Ambiguous => None,
            },
            NodeKind::List(_) | NodeKind::Map(_) => None,
        }
    }

    fn found(self) -> &'static str {
        match &self.node.kind {
            NodeKind::List(_) => "a list",
            NodeKind::Map(_) => "a mapping",
            NodeKind::Scalar(scalar) => match scalar.kind {
                ScalarKind::Text => "a text",
                ScalarKind::Null => "empty",
                ScalarKind::Boolean(_) => "a boolean",
                ScalarKind::Integer(_) | ScalarKind::Number => "a number",
                ScalarKind::Ambiguous => "a word that is a boolean only in YAML 1.1",
            },
        }
    }

    pub(crate) fn error(self, code: crate::Code, what: impl Into<String>) {
        self.sink.error(code, self.spot, what);
    }

    pub(crate) fn error_help(self, code: crate::Code, what: impl Into<String>, help: impl Into<String>) {
        self.sink.error_help(code, self.spot, what, help);
    }

    pub(crate) fn warn(self, code: crate::Code, what: impl Into<String>, help: impl Into<String>) {
        self.sink
            .push(Severity::Warning, code, self.spot, what, None, Some(help.into()));
    }

    /// A field of the mesh that this version does not have yet.
    pub(crate) fn not_supported(self, what: impl Into<String>) {
        self.error_help(
            codes::NOT_SUPPORTED,
            what,
            "remove it, or leave the document out until a version supports it",
        );
    }

    fn wrong_type(self, wanted: &str) {
        let what = format!("`{}` is {}; {wanted} is needed", self.name, self.found());
        self.error(codes::WRONG_TYPE, what);
    }

    pub(crate) fn text(self) -> Option<&'a str> {
        if let NodeKind::Scalar(scalar) = &self.node.kind {
            let code = match scalar.kind {
                ScalarKind::Text => return Some(&scalar.text),
                ScalarKind::Ambiguous => codes::AMBIGUOUS_WORD,
                ScalarKind::Boolean(_) | ScalarKind::Integer(_) | ScalarKind::Number | ScalarKind::Null => {
                    codes::WRONG_TYPE
                }
            };
            if scalar.kind != ScalarKind::Null {
                let what = format!("`{}` is {}; a text is needed", self.name, self.found());
                let help = if self.sink.is_secret() {
                    "put it in quotes".to_owned()
                } else {
                    format!(
                        "put it in quotes: \"{}\"",
                        self.sink.quoted(&scalar.text).trim_matches('`')
                    )
                };
                self.error_help(code, what, help);
                return None;
            }
        }
        self.wrong_type("a text");
        None
    }

    pub(crate) fn boolean(self) -> Option<bool> {
        if let NodeKind::Scalar(scalar) = &self.node.kind {
            match scalar.kind {
                ScalarKind::Boolean(value) => return Some(value),
                ScalarKind::Ambiguous => {
                    let what = format!("`{}` is {}", self.name, self.found());
                    self.error_help(codes::AMBIGUOUS_WORD, what, "write `true` or `false`");
                    return None;
                }
                ScalarKind::Text | ScalarKind::Null | ScalarKind::Integer(_) | ScalarKind::Number => {}
            }
            if matches!(&*scalar.text, "true" | "false") {
                let what = format!("`{}` is a text; a boolean is needed", self.name);
                self.error_help(codes::WRONG_TYPE, what, "write it without quotes");
                return None;
            }
        }
        self.wrong_type("`true` or `false`");
        None
    }

    pub(crate) fn integer(self, range: RangeInclusive<i64>) -> Option<i64> {
        let Some(number) = self.as_integer() else {
            self.wrong_type("a whole number");
            return None;
        };
        if range.contains(&number) {
            return Some(number);
        }
        let what = format!(
            "`{}` is {number}; it goes from {} to {}",
            self.name,
            range.start(),
            range.end()
        );
        self.error(codes::OUT_OF_RANGE, what);
        None
    }

    pub(crate) fn u32(self, range: RangeInclusive<u32>) -> Option<u32> {
        let number = self.integer(i64::from(*range.start())..=i64::from(*range.end()))?;
        u32::try_from(number).ok()
    }

    /// A text in the form that `parse` knows.
    pub(crate) fn parse<T, E: Display>(self, parse: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text()?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(error) => {
                let what = if self.sink.is_secret() {
                    format!("`{}` is not valid", self.name)
                } else {
                    format!("`{}`: {error}", self.name)
                };
                self.error(codes::INVALID_VALUE, what);
                None
            }
        }
    }

    /// One of a few words.
    pub(crate) fn choice<T: Clone>(self, choices: &[(&str, T)]) -> Option<T> {
        let text = self.text()?;
        if let Some((_, value)) = choices.iter().find(|(word, _)| *word == text) {
            return Some(value.clone());
        }
        let words: Vec<String> = choices.iter().map(|(word, _)| format!("`{word}`")).collect();
        let what = format!(
            "`{}` is {}; it is one of {}",
            self.name,
            self.sink.quoted(text),
            words.join(", ")
        );
        match suggest::nearest(text, choices.iter().map(|(word, _)| *word)) {
            Some(near) => self.error_help(codes::UNKNOWN_CHOICE, what, format!("did you mean `{near}`?")),
            None => self.error(codes::UNKNOWN_CHOICE, what),
        }
        None
    }

    /// The items of a list, each with the list's name.
    pub(crate) fn items(self) -> Vec<Value<'a>> {
        let NodeKind::List(items) = &self.node.kind else {
            let what = format!("`{}` is {}; a list is needed", self.name, self.found());
            if self.raw().is_some() {
                self.error_help(codes::WRONG_TYPE, what, "put it in brackets: [ … ]");
            } else {
                self.error(codes::WRONG_TYPE, what);
            }
            return Vec::new();
        };
        let item = |node: &'a Node| Value {
            sink: self.sink,
            name: self.name,
            spot: node.spot,
            node,
        };
        items.iter().map(item).collect()
    }

    /// The items that `read` can make something of.
    pub(crate) fn list<T>(self, read: impl FnMut(Value<'a>) -> Option<T>) -> Vec<T> {
        self.items().into_iter().filter_map(read).collect()
    }

    /// [`Value::list`] of at most `most` items.
    pub(crate) fn list_of_at_most<T>(self, most: usize, read: impl FnMut(Value<'a>) -> Option<T>) -> Vec<T> {
        let items = self.items();
        if items.len() > most {
            let what = format!(
                "`{}` has {} items; at most {most} are allowed",
                self.name,
                items.len()
            );
            self.error(codes::OUT_OF_RANGE, what);
        }
        items.into_iter().filter_map(read).collect()
    }

    /// Reads the fields of a mapping; those that `read` does not ask for are errors.
    pub(crate) fn map<T>(self, read: impl FnOnce(&Fields<'a>) -> Option<T>) -> Option<T> {
        let Some(fields) = self.fields() else {
            self.wrong_type("a mapping");
            return None;
        };
        let result = read(&fields);
        fields.report_unknown();
        result
    }

    /// The fields of a mapping, for a reader that calls [`Fields::report_unknown`] itself.
    pub(crate) fn fields(self) -> Option<Fields<'a>> {
        let NodeKind::Map(entries) = &self.node.kind else {
            return None;
        };
        Some(Fields {
            sink: self.sink,
            name: self.name,
            spot: self.spot,
            entries,
            known: RefCell::default(),
        })
    }

    /// The entries of a mapping whose keys the user chooses.
    pub(crate) fn entries(self) -> Vec<(&'a str, Spot, Value<'a>)> {
        let NodeKind::Map(entries) = &self.node.kind else {
            self.wrong_type("a mapping");
            return Vec::new();
        };
        let value = |entry: &'a Entry| {
            (
                &*entry.key,
                entry.key_spot,
                Value {
                    sink: self.sink,
                    name: &entry.key,
                    spot: entry.value.shown_at(entry.key_spot),
                    node: &entry.value,
                },
            )
        };
        entries.iter().map(value).collect()
    }

    /// A mapping of texts to texts.
    pub(crate) fn text_map(self) -> BTreeMap<String, String> {
        self.entries()
            .into_iter()
            .filter_map(|(key, _, value)| Some((key.to_owned(), value.text()?.to_owned())))
            .collect()
    }

    /// Labels, checked as Kubernetes does (label syntax and character set).
    pub(crate) fn labels(self) -> Labels {
        let mut labels = Labels::new();
        for (key, key_spot, value) in self.entries() {
            if let Some(reason) = label_key_problem(key) {
                let what = format!("{} is not a label key: {reason}", self.sink.quoted(key));
                self.sink.error(codes::INVALID_VALUE, key_spot, what);
            }
            let Some(text) = value.text() else { continue };
            if !is_label_text(text, true) {
                let what = format!(
                    "{} is not a label value: at most 63 of A-Z a-z 0-9 `-` `_` `.`, first and last a letter or digit",
                    self.sink.quoted(text)
                );
                value.error(codes::INVALID_VALUE, what);
            }
            labels.insert(key.to_owned(), text.to_owned());
        }
        labels
    }

    /// `{matchLabels: {…}}`.
    pub(crate) fn selector(self) -> Option<Selector> {
        self.map(|fields| {
            let match_labels = fields.get("matchLabels").map(Value::labels).unwrap_or_default();
            if let Some(expressions) = fields.get("matchExpressions") {
                expressions.not_supported("`matchExpressions` is not supported yet; `matchLabels` is");
            }
            Some(Selector { match_labels })
        })
    }
}

fn is_label_text(text: &str, may_be_empty: bool) -> bool {
    let edge = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    if bytes.is_empty() {
        return may_be_empty;
    }
    bytes.len() <= 63
        && edge(bytes.first())
        && edge(bytes.last())
        && bytes
            .iter()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn label_key_problem(key: &str) -> Option<&'static str> {
    let name = match key.split_once('/') {
        Some((prefix, name)) => {
            if bartizan_types::Name::parse(prefix).is_err() {
                return Some("what stands before `/` is a DNS name");
            }
            name
        }
        None => key,
    };
    if is_label_text(name, false) {
        None
    } else {
        Some("at most 63 of A-Z a-z 0-9 `-` `_` `.`, first and last a letter or digit")
    }
}

/// The fields of one mapping.
pub(crate) struct Fields<'a> {
    pub(crate) sink: &'a Sink,
    pub(crate) name: &'a str,
    /// Where a finding about the mapping as a whole points.
    pub(crate) spot: Spot,
    entries: &'a [Entry],
    known: RefCell<Vec<&'static str>>,
}

impl<'a> Fields<'a> {
    fn find(&self, name: &'static str) -> Option<(&'a Entry, Value<'a>)> {
        self.known.borrow_mut().push(name);
        let entry = self.entries.iter().find(|entry| *entry.key == *name)?;
        let value = Value {
            sink: self.sink,
            name,
            spot: entry.value.shown_at(entry.key_spot),
            node: &entry.value,
        };
        Some((entry, value))
    }

    /// The field, where it is set. An explicit `null` is not set, as in Kubernetes.
    pub(crate) fn get(&self, name: &'static str) -> Option<Value<'a>> {
        self.find(name)
            .map(|(_, value)| value)
            .filter(|value| !value.is_null())
    }

    /// The field, where it is set to something else than an empty text, which Kubernetes takes as not set.
    pub(crate) fn filled(&self, name: &'static str) -> Option<Value<'a>> {
        self.get(name).filter(|value| value.raw() != Some(""))
    }

    /// The field, which must be set.
    pub(crate) fn required(&self, name: &'static str) -> Option<Value<'a>> {
        let value = self.get(name);
        if value.is_none() {
            let what = format!("`{}` has no `{name}`", self.name);
            self.sink.error(codes::MISSING_FIELD, self.spot, what);
        }
        value
    }

    /// Whether the field is set.
    pub(crate) fn has(&self, name: &'static str) -> bool {
        self.get(name).is_some()
    }

    /// The key that looks most like `name`, where it is misspelt.
    pub(crate) fn nearest_key(&self, name: &str) -> Option<(&'a str, Spot)> {
        let near = suggest::nearest(name, self.entries.iter().map(|entry| &*entry.key))?;
        let entry = self.entries.iter().find(|entry| *entry.key == *near)?;
        Some((&entry.key, entry.key_spot))
    }

    /// Whether nothing is set.
    pub(crate) fn is_empty(&self) -> bool {
        self.entries.iter().all(|entry| entry.value.is_null())
    }

    pub(crate) fn text(&self, name: &'static str) -> Option<String> {
        self.get(name)?.text().map(str::to_owned)
    }

    pub(crate) fn required_text(&self, name: &'static str) -> Option<String> {
        self.required(name)?.text().map(str::to_owned)
    }

    pub(crate) fn boolean(&self, name: &'static str) -> Option<bool> {
        self.get(name)?.boolean()
    }

    /// Fields that are right, but have no effect on this machine.
    pub(crate) fn no_meaning(&self, names: &[&'static str]) {
        for &name in names {
            if let Some((entry, value)) = self.find(name)
                && !value.is_null()
            {
                let what = format!("`{name}` has no meaning here");
                self.sink.push(
                    Severity::Note,
                    codes::NO_MEANING,
                    entry.key_spot,
                    what,
                    None,
                    None,
                );
            }
        }
    }

    /// Fields that cannot be honoured unless their value is one of `harmless`.
    pub(crate) fn refuse(&self, name: &'static str, harmless: &[&str], why: &str) {
        if let Some((entry, value)) = self.find(name)
            && !value.is_null()
            && !value.raw().is_some_and(|text| harmless.contains(&text))
        {
            let what = format!("`{name}` cannot be honoured");
            let spot = if value.raw().is_some() {
                value.spot
            } else {
                entry.key_spot
            };
            self.sink.push(
                Severity::Error,
                codes::CHANGES_MEANING,
                spot,
                what,
                Some(why.to_owned()),
                None,
            );
        }
    }

    /// Fields of the mesh that this version does not have yet.
    pub(crate) fn not_supported(&self, names: &[&'static str]) {
        for &name in names {
            if let Some((entry, value)) = self.find(name)
                && !value.is_null()
            {
                self.sink.error_help(
                    codes::NOT_SUPPORTED,
                    entry.key_spot,
                    format!("`{name}` is not supported yet"),
                    "remove it, or leave the document out until a version supports it",
                );
            }
        }
    }

    /// Reports the fields that nobody asked for.
    pub(crate) fn report_unknown(&self) {
        let known = self.known.borrow();
        for entry in self.entries {
            if self.sink.is_full() {
                break;
            }
            if known.iter().any(|name| *entry.key == **name) {
                continue;
            }
            let what = format!(
                "{} is not a field of `{}`",
                self.sink.quoted(&entry.key),
                self.name
            );
            match suggest::nearest(&entry.key, known.iter().copied()) {
                Some(near) => {
                    let help = format!("did you mean `{near}`?");
                    self.sink
                        .error_help(codes::UNKNOWN_FIELD, entry.key_spot, what, help);
                }
                None => self.sink.error(codes::UNKNOWN_FIELD, entry.key_spot, what),
            }
        }
    }
}
