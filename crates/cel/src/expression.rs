//! The typed tree of a checked expression. What is evaluated, and what the prover reads.

use std::ops::Range;
use std::sync::Arc;

use bartizan_types::Cidr;

use crate::pattern::Pattern;
use crate::time::{Duration, Timestamp};
use crate::types::Type;

/// An expression whose types agree. Its depth is bounded, so a walk may recurse.
#[derive(Clone, PartialEq, Debug)]
pub struct Expression {
    /// Where it stands in the text, in bytes.
    pub range: Range<usize>,
    /// Its type.
    pub of: Type,
    /// What it is.
    pub kind: Kind,
}

/// What an expression is.
#[derive(Clone, PartialEq, Debug)]
pub enum Kind {
    /// A value that is written down. `timestamp("…")` and `duration("…")` of a literal are literals.
    Literal(Literal),
    /// A declared attribute by its dotted name, such as `source.namespace`.
    Attribute(Arc<str>),
    /// A variable of a macro that this is inside of, counted from the outermost macro, from 0.
    Local(usize),
    /// `of[key]`, and `of.key` where `of` is a map or `dyn`.
    Index {
        /// A list, a map or `dyn`.
        of: Box<Expression>,
        /// The index, or the key.
        key: Box<Expression>,
    },
    /// Whether a map has a key: `key in of`, and `has(of.key)` where `of` is a map or `dyn`.
    Has {
        /// A map, or `dyn` (from `has` only).
        of: Box<Expression>,
        /// The key.
        key: Box<Expression>,
    },
    /// `has(source.version)`: whether a declared attribute is there, by its dotted name.
    HasAttribute(Arc<str>),
    /// `[a, b]`.
    List(Vec<Expression>),
    /// `{"a": b}`; the keys are literals and differ.
    Map(Vec<(Literal, Expression)>),
    /// All of these, at least two: false if one is false, whatever the others are; otherwise an error if one is.
    And(Vec<Expression>),
    /// Any of these, at least two: true if one is true, whatever the others are; otherwise an error if one is.
    Or(Vec<Expression>),
    /// `!a`.
    Not(Box<Expression>),
    /// `-a`.
    Negate(Box<Expression>),
    /// `left operator right`.
    Binary {
        /// Which.
        operator: Operator,
        /// What stands before it.
        left: Box<Expression>,
        /// What stands after it.
        right: Box<Expression>,
    },
    /// `condition ? then : otherwise`.
    Conditional {
        /// What decides.
        condition: Box<Expression>,
        /// If it is true.
        then: Box<Expression>,
        /// If it is false.
        otherwise: Box<Expression>,
    },
    /// A function; of a method, the receiver is the first argument.
    Call {
        /// Which.
        function: Function,
        /// As many as the function has.
        arguments: Vec<Expression>,
    },
    /// `text.matches("pattern")`.
    Matches {
        /// What is searched.
        text: Box<Expression>,
        /// What for.
        pattern: Pattern,
    },
    /// `inBlock(address, "10.0.0.0/8")`.
    InBlock {
        /// A text that is an IP address.
        address: Box<Expression>,
        /// The block.
        block: Cidr,
    },
    /// `now.getHours("+02:00")`, or a getter of a duration.
    Getter {
        /// Which part.
        field: TimeField,
        /// A timestamp, a duration or `dyn`.
        of: Box<Expression>,
        /// The offset of the clock that is read, in seconds east of UTC; 0 for a duration.
        offset_seconds: i32,
    },
    /// A macro over the elements of a list, or over the keys of a map.
    Comprehension {
        /// Which.
        of: Macro,
        /// A list, a map or `dyn`.
        over: Box<Expression>,
        /// The variable's slot, as [`Kind::Local`] has it.
        slot: usize,
        /// The condition; `true` for a map macro without one.
        condition: Box<Expression>,
        /// What a map macro makes of an element; `None` for the others.
        transform: Option<Box<Expression>>,
    },
}

/// A value that is written down.
#[derive(Clone, PartialEq, Debug)]
pub enum Literal {
    /// `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// `1`.
    Int(i64),
    /// `1.0`.
    Double(f64),
    /// `"a"`.
    String(Arc<str>),
    /// `timestamp("2026-01-01T00:00:00Z")`.
    Timestamp(Timestamp),
    /// `duration("1h")`.
    Duration(Duration),
}

/// The operators with two sides, except `&&` and `||`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operator {
    /// `==`.
    Equal,
    /// `!=`.
    NotEqual,
    /// `<`.
    Less,
    /// `<=`.
    LessOrEqual,
    /// `>`.
    Greater,
    /// `>=`.
    GreaterOrEqual,
    /// `+`.
    Add,
    /// `-`.
    Subtract,
    /// `*`.
    Multiply,
    /// `/`.
    Divide,
    /// `%`.
    Remainder,
    /// `in` where the right side is a list or `dyn`; of a map it is [`Kind::Has`].
    In,
}

impl Operator {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "==",
            Self::NotEqual => "!=",
            Self::Less => "<",
            Self::LessOrEqual => "<=",
            Self::Greater => ">",
            Self::GreaterOrEqual => ">=",
            Self::Add => "+",
            Self::Subtract => "-",
            Self::Multiply => "*",
            Self::Divide => "/",
            Self::Remainder => "%",
            Self::In => "in",
        }
    }
}

/// The functions whose arguments may be any expression.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Function {
    /// Code points of a text, entries of a list or map.
    Size,
    /// `text.startsWith(prefix)`.
    StartsWith,
    /// `text.endsWith(suffix)`.
    EndsWith,
    /// `text.contains(part)`.
    Contains,
    /// ASCII letters to lower case.
    LowerAscii,
    /// ASCII letters to upper case.
    UpperAscii,
    /// Without white space at both ends.
    Trim,
    /// `text.split(separator)`.
    Split,
    /// `bool(…)`.
    Bool,
    /// `int(…)`.
    Int,
    /// `double(…)`.
    Double,
    /// `string(…)`.
    String,
    /// `timestamp(…)`.
    Timestamp,
    /// `duration(…)`.
    Duration,
    /// `dyn(…)`: the same value, no longer checked before it is evaluated.
    Dyn,
}

/// The parts of a timestamp or duration that can be asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TimeField {
    /// `getFullYear`.
    FullYear,
    /// `getMonth`, from 0.
    Month,
    /// `getDayOfMonth`, from 0.
    DayOfMonth,
    /// `getDate`: the day of the month from 1.
    Date,
    /// `getDayOfWeek`, from Sunday as 0.
    DayOfWeek,
    /// `getDayOfYear`, from 0.
    DayOfYear,
    /// `getHours`; of a duration: all of it in hours.
    Hours,
    /// `getMinutes`; of a duration: all of it in minutes.
    Minutes,
    /// `getSeconds`; of a duration: all of it in seconds.
    Seconds,
    /// `getMilliseconds`: the thousandths of the second.
    Milliseconds,
}

/// The macros over lists and maps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Macro {
    /// The condition holds for every element; `&&` of them.
    All,
    /// The condition holds for an element; `||` of them.
    Exists,
    /// The condition holds for exactly one element.
    ExistsOne,
    /// The list of what the elements (that satisfy the condition) are turned into.
    Map,
    /// The list of the elements that satisfy the condition.
    Filter,
}

impl Expression {
    /// The expressions directly below it, in the order of the text.
    pub fn children(&self) -> Vec<&Expression> {
        match &self.kind {
            Kind::Literal(_) | Kind::Attribute(_) | Kind::Local(_) | Kind::HasAttribute(_) => Vec::new(),
            Kind::Index { of, key } | Kind::Has { of, key } => vec![of, key],
            Kind::List(all) | Kind::And(all) | Kind::Or(all) | Kind::Call { arguments: all, .. } => {
                all.iter().collect()
            }
            Kind::Map(entries) => entries.iter().map(|(_, value)| value).collect(),
            Kind::Not(of)
            | Kind::Negate(of)
            | Kind::Matches { text: of, .. }
            | Kind::InBlock { address: of, .. }
            | Kind::Getter { of, .. } => vec![of],
            Kind::Binary { left, right, .. } => vec![left, right],
            Kind::Conditional {
                condition,
                then,
                otherwise,
            } => vec![condition, then, otherwise],
            Kind::Comprehension {
                over,
                condition,
                transform,
                ..
            } => {
                let mut all: Vec<&Expression> = vec![over, condition];
                all.extend(transform.as_deref());
                all
            }
        }
    }
}
