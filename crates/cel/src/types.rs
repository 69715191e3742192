//! The types of expressions.

use std::fmt;
use std::sync::Arc;

/// The type of an expression or of a declared attribute (CEL `Types`).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Type {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool,
    /// A whole number of 64 bits with sign.
    Int,
    /// A floating-point number of 64 bits.
    Double,
    /// A text.
    String,
    /// A point in time.
    Timestamp,
    /// A span of time.
    Duration,
    /// A list of one type.
    List(Arc<Type>),
    /// A map from keys of one type to values of one type.
    Map(Arc<Type>, Arc<Type>),
    /// A group of declared attributes: the dotted name. Not a value.
    Object(Arc<str>),
    /// Known when it is evaluated only.
    Dyn,
}

impl Type {
    /// `list(element)`.
    pub fn list_of(element: Type) -> Self {
        Self::List(Arc::new(element))
    }

    /// `map(key, value)`.
    pub fn map_of(key: Type, value: Type) -> Self {
        Self::Map(Arc::new(key), Arc::new(value))
    }

    /// Whether a value of one type may stand where the other is wanted: the same type, or one is `dyn`.
    pub fn agrees_with(&self, other: &Type) -> bool {
        match (self, other) {
            (Self::Dyn, _) | (_, Self::Dyn) => true,
            (Self::List(left), Self::List(right)) => left.agrees_with(right),
            (Self::Map(left_key, left), Self::Map(right_key, right)) => {
                left_key.agrees_with(right_key) && left.agrees_with(right)
            }
            (left, right) => left == right,
        }
    }

    /// The type of a value that is one or the other: `dyn` where they differ.
    pub(crate) fn joined(&self, other: &Type) -> Type {
        match (self, other) {
            (left, right) if left == right => left.clone(),
            (Self::List(left), Self::List(right)) => Self::list_of(left.joined(right)),
            (Self::Map(left_key, left), Self::Map(right_key, right)) => {
                Self::map_of(left_key.joined(right_key), left.joined(right))
            }
            _ => Self::Dyn,
        }
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Bool => f.write_str("bool"),
            Self::Int => f.write_str("int"),
            Self::Double => f.write_str("double"),
            Self::String => f.write_str("string"),
            Self::Timestamp => f.write_str("timestamp"),
            Self::Duration => f.write_str("duration"),
            Self::List(element) => write!(f, "list({element})"),
            Self::Map(key, value) => write!(f, "map({key}, {value})"),
            Self::Object(path) => write!(f, "object `{path}`"),
            Self::Dyn => f.write_str("dyn"),
        }
    }
}
