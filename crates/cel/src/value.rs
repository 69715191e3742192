//! Values, and where they come from. What the caller holds is borrowed; only what an expression makes is allocated.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::time::{Duration, Timestamp};

/// What an expression is evaluated over.
pub trait Activation {
    /// The value of a declared attribute by its dotted name, such as `source.namespace`; with a key, the entry of that map
    /// only. A key is given for attributes of a map type only, so that `request.headers["x"]` costs one look-up.
    /// A name that the caller does not know is [`Found::Unavailable`].
    fn resolve<'a>(&'a self, path: &str, key: Option<&str>) -> Found<'a>;
}

/// What an activation says to a question.
#[derive(Clone, Debug)]
pub enum Found<'a> {
    /// The value.
    Value(Value<'a>),
    /// There is no such key, or the attribute is not there: `has` says false, and using it is an error.
    Absent,
    /// The attribute does not exist for what is judged, so that nothing can be said about it, not even by `has`.
    Unavailable,
}

impl<'a, T: Into<Value<'a>>> From<T> for Found<'a> {
    fn from(value: T) -> Self {
        Self::Value(value.into())
    }
}

impl<'a, T: Into<Value<'a>>> From<Option<T>> for Found<'a> {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Absent, |value| Self::Value(value.into()))
    }
}

/// A value of CEL.
#[derive(Clone, Debug)]
pub enum Value<'a> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A floating-point number.
    Double(f64),
    /// A text.
    String(Text<'a>),
    /// A point in time.
    Timestamp(Timestamp),
    /// A span of time.
    Duration(Duration),
    /// A list.
    List(List<'a>),
    /// A map.
    Map(Map<'a>),
}

impl<'a> Value<'a> {
    /// A list of the caller's.
    pub fn list(list: &'a dyn Sequence) -> Self {
        Self::List(List::Borrowed(list))
    }

    /// A map of the caller's.
    pub fn map(map: &'a dyn Table) -> Self {
        Self::Map(Map::Borrowed(map))
    }

    /// A list made here.
    pub fn list_of(elements: impl IntoIterator<Item = Value<'a>>) -> Self {
        Self::List(List::Owned(elements.into_iter().collect()))
    }

    /// A map made here. Of entries with the same key the first counts.
    pub fn map_of(entries: impl IntoIterator<Item = (Value<'a>, Value<'a>)>) -> Self {
        Self::Map(Map::Owned(entries.into_iter().collect()))
    }
}

/// A text, borrowed or made by the expression.
#[derive(Clone, Debug)]
pub enum Text<'a> {
    /// The caller's, or a literal.
    Borrowed(&'a str),
    /// Made here.
    Owned(Arc<str>),
}

impl Text<'_> {
    /// The text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Owned(text) => text,
        }
    }
}

/// A list, borrowed or made by the expression.
#[derive(Clone)]
pub enum List<'a> {
    /// The caller's.
    Borrowed(&'a dyn Sequence),
    /// Made here.
    Owned(Arc<[Value<'a>]>),
}

impl<'a> List<'a> {
    /// How many elements it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Borrowed(list) => list.len(),
            Self::Owned(list) => list.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element, from 0.
    pub fn at(&self, index: usize) -> Option<Value<'a>> {
        match self {
            Self::Borrowed(list) => list.at(index),
            Self::Owned(list) => list.get(index).cloned(),
        }
    }
}

/// A map, borrowed or made by the expression.
#[derive(Clone)]
pub enum Map<'a> {
    /// The caller's: its keys are texts.
    Borrowed(&'a dyn Table),
    /// Made here.
    Owned(Arc<[(Value<'a>, Value<'a>)]>),
}

impl<'a> Map<'a> {
    /// How many entries it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Borrowed(map) => map.len(),
            Self::Owned(map) => map.len(),
        }
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The keys, in the map's own order.
    pub fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Borrowed(map) => map.keys().map(Value::from).collect(),
            Self::Owned(map) => map.iter().map(|(key, _)| key.clone()).collect(),
        }
    }
}

impl std::fmt::Debug for List<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries((0..self.len()).filter_map(|index| self.at(index)))
            .finish()
    }
}

impl std::fmt::Debug for Map<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.keys()).finish()
    }
}

/// A list of the caller's that values are read from.
pub trait Sequence {
    /// How many elements it has.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An element, from 0.
    fn at(&self, index: usize) -> Option<Value<'_>>;
}

/// A map of the caller's, from texts to values.
pub trait Table {
    /// How many entries it has.
    fn len(&self) -> usize;

    /// Whether it has none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The value of a key.
    fn find(&self, key: &str) -> Option<Value<'_>>;

    /// The keys, each once.
    fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_>;
}

impl<T> Sequence for Vec<T>
where
    for<'v> Value<'v>: From<&'v T>,
{
    fn len(&self) -> usize {
        Vec::len(self)
    }

    fn at(&self, index: usize) -> Option<Value<'_>> {
        self.get(index).map(Value::from)
    }
}

impl<T> Sequence for Arc<[T]>
where
    for<'v> Value<'v>: From<&'v T>,
{
    fn len(&self) -> usize {
        self.as_ref().len()
    }

    fn at(&self, index: usize) -> Option<Value<'_>> {
        self.get(index).map(Value::from)
    }
}

impl<K, T> Table for BTreeMap<K, T>
where
    K: Ord + std::borrow::Borrow<str>,
    for<'v> Value<'v>: From<&'v T>,
{
    fn len(&self) -> usize {
        BTreeMap::len(self)
    }

    fn find(&self, key: &str) -> Option<Value<'_>> {
        self.get(key).map(Value::from)
    }

    fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(BTreeMap::keys(self).map(std::borrow::Borrow::borrow))
    }
}

impl Table for serde_json::Map<String, serde_json::Value> {
    fn len(&self) -> usize {
        serde_json::Map::len(self)
    }

    fn find(&self, key: &str) -> Option<Value<'_>> {
        self.get(key).map(Value::from)
    }

    fn keys(&self) -> Box<dyn Iterator<Item = &str> + '_> {
        Box::new(serde_json::Map::keys(self).map(String::as_str))
    }
}

impl<'a> From<&'a serde_json::Value> for Value<'a> {
    /// A number is an int when it is a whole number that fits, written without a fraction; otherwise a double.
    fn from(json: &'a serde_json::Value) -> Self {
        match json {
            serde_json::Value::Null => Self::Null,
            serde_json::Value::Bool(truth) => Self::Bool(*truth),
            serde_json::Value::Number(number) => match number.as_i64() {
                Some(whole) => Self::Int(whole),
                None => Self::Double(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Self::from(text.as_str()),
            serde_json::Value::Array(list) => Self::list(list),
            serde_json::Value::Object(map) => Self::map(map),
        }
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::from(text.as_str())
    }
}

impl<'a> From<&'a Arc<str>> for Value<'a> {
    fn from(text: &'a Arc<str>) -> Self {
        Self::from(text.as_ref())
    }
}

impl From<String> for Value<'_> {
    fn from(text: String) -> Self {
        Self::String(Text::Owned(text.into()))
    }
}

impl From<Arc<str>> for Value<'_> {
    fn from(text: Arc<str>) -> Self {
        Self::String(Text::Owned(text))
    }
}

impl From<bool> for Value<'_> {
    fn from(truth: bool) -> Self {
        Self::Bool(truth)
    }
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<f64> for Value<'_> {
    fn from(number: f64) -> Self {
        Self::Double(number)
    }
}

impl From<Timestamp> for Value<'_> {
    fn from(time: Timestamp) -> Self {
        Self::Timestamp(time)
    }
}

impl From<Duration> for Value<'_> {
    fn from(span: Duration) -> Self {
        Self::Duration(span)
    }
}
