//! Evaluation: a walk over the typed tree, whose depth was bounded when it was read. Every node and every so many bytes are
//! a step, and the steps are counted.

use std::cmp::Ordering;
use std::net::IpAddr;

use crate::compare::{equal, find, order};
use crate::convert::convert;
use crate::error::{EvalError, Reason};
use crate::expression::{Expression, Function, Kind, Literal, Macro, Operator, TimeField};
use crate::extent::BYTES_A_STEP;
use crate::operators::arithmetic;
use crate::value::{Activation, Found, List, Map, Text, Value};

/// Whether a condition holds, in at most so many steps.
pub(crate) fn evaluate<A: Activation + ?Sized>(
    expression: &Expression,
    activation: &A,
    most: u64,
) -> Result<bool, EvalError> {
    let mut evaluation = Evaluation {
        activation,
        locals: Vec::new(),
        meter: Meter { left: most },
    };
    match evaluation.value(expression)? {
        Value::Bool(truth) => Ok(truth),
        _ => Err(EvalError::new(Reason::NoSuchOverload, &expression.range)),
    }
}

/// The steps that are left.
pub(crate) struct Meter {
    left: u64,
}

impl Meter {
    /// `None` when there are not so many left.
    pub(crate) fn spend(&mut self, steps: u64) -> Option<()> {
        self.left = self.left.checked_sub(steps)?;
        Some(())
    }
}

struct Evaluation<'a, A: ?Sized> {
    activation: &'a A,
    /// The variables of the macros around, from the outside in.
    locals: Vec<Value<'a>>,
    meter: Meter,
}

type Evaluated<'a> = Result<Value<'a>, EvalError>;

impl<'a, A: Activation + ?Sized> Evaluation<'a, A> {
    fn value(&mut self, expression: &'a Expression) -> Evaluated<'a> {
        let range = &expression.range;
        self.spend(1, expression)?;
        match &expression.kind {
            Kind::Literal(literal) => Ok(literal.value()),
            Kind::Attribute(path) => self.attribute(path, None, expression),
            Kind::Local(slot) => match self.locals.get(*slot) {
                Some(value) => Ok(value.clone()),
                None => Err(EvalError::new(Reason::NoSuchAttribute, range)),
            },
            Kind::Index { of, key } => self.index(expression, of, key),
            Kind::Has { of, key } => self.has(expression, of, key).map(Value::Bool),
            Kind::HasAttribute(path) => match self.activation.resolve(path, None) {
                Found::Value(_) => Ok(Value::Bool(true)),
                Found::Absent => Ok(Value::Bool(false)),
                Found::Unavailable => Err(EvalError::new(Reason::Unavailable, range)),
            },
            Kind::List(all) => {
                let all: Result<Vec<_>, _> = all.iter().map(|element| self.value(element)).collect();
                Ok(Value::list_of(all?))
            }
            Kind::Map(entries) => {
                let entries: Result<Vec<_>, _> = entries
                    .iter()
                    .map(|(key, value)| Ok((key.value(), self.value(value)?)))
                    .collect();
                Ok(Value::map_of(entries?))
            }
            Kind::And(all) => self.logic(all, false).map(Value::Bool),
            Kind::Or(all) => self.logic(all, true).map(Value::Bool),
            Kind::Not(of) => Ok(Value::Bool(!self.truth(of)?)),
            Kind::Negate(of) => match self.value(of)? {
                Value::Int(whole) => whole
                    .checked_neg()
                    .map(Value::Int)
                    .ok_or(EvalError::new(Reason::OutOfRange, range)),
                Value::Double(double) => Ok(Value::Double(-double)),
                _ => Err(EvalError::new(Reason::NoSuchOverload, range)),
            },
            Kind::Binary {
                operator,
                left,
                right,
            } => self.binary(expression, *operator, left, right),
            Kind::Conditional {
                condition,
                then,
                otherwise,
            } => {
                if self.truth(condition)? {
                    self.value(then)
                } else {
                    self.value(otherwise)
                }
            }
            Kind::Call { function, arguments } => self.call(expression, *function, arguments),
            Kind::Matches { text, pattern } => {
                let text = self.text(text)?;
                self.spend(text.as_str().len() as u64, expression)?;
                Ok(Value::Bool(pattern.is_match(text.as_str())))
            }
            Kind::InBlock { address, block } => {
                let text = self.text(address)?;
                let address: IpAddr = text
                    .as_str()
                    .parse()
                    .map_err(|_| EvalError::new(Reason::NotAnAddress, &address.range))?;
                Ok(Value::Bool(block.contains(address)))
            }
            Kind::Getter {
                field,
                of,
                offset_seconds,
            } => self.getter(expression, *field, of, *offset_seconds),
            Kind::Comprehension {
                of,
                over,
                slot: _,
                condition,
                transform,
            } => {
                let over = self.elements(over)?;
                match of {
                    Macro::All => self
                        .quantified(expression, &over, condition, false)
                        .map(Value::Bool),
                    Macro::Exists => self
                        .quantified(expression, &over, condition, true)
                        .map(Value::Bool),
                    Macro::ExistsOne => {
                        let found = self.selected(expression, &over, condition, None)?;
                        Ok(Value::Bool(found.len() == 1))
                    }
                    Macro::Map | Macro::Filter => {
                        let made = self.selected(expression, &over, condition, transform.as_deref())?;
                        Ok(Value::list_of(made))
                    }
                }
            }
        }
    }

    fn spend(&mut self, steps: u64, at: &Expression) -> Result<(), EvalError> {
        self.meter
            .spend(steps)
            .ok_or_else(|| EvalError::new(Reason::Budget, &at.range))
    }

    fn attribute(&self, path: &str, key: Option<&str>, at: &Expression) -> Evaluated<'a> {
        let missing = if key.is_some() {
            Reason::NoSuchKey
        } else {
            Reason::NoSuchAttribute
        };
        match self.activation.resolve(path, key) {
            Found::Value(value) => Ok(value),
            Found::Absent => Err(EvalError::new(missing, &at.range)),
            Found::Unavailable => Err(EvalError::new(Reason::Unavailable, &at.range)),
        }
    }

    fn truth(&mut self, expression: &'a Expression) -> Result<bool, EvalError> {
        match self.value(expression)? {
            Value::Bool(truth) => Ok(truth),
            _ => Err(EvalError::new(Reason::NoSuchOverload, &expression.range)),
        }
    }

    fn text(&mut self, expression: &'a Expression) -> Result<Text<'a>, EvalError> {
        match self.value(expression)? {
            Value::String(text) => Ok(text),
            _ => Err(EvalError::new(Reason::NoSuchOverload, &expression.range)),
        }
    }

    /// `&&` (which ends with the first false) and `||` (with the first true): what ends it wins over errors, an error over
    /// what is left. A budget that is used up ends everything.
    fn logic(&mut self, all: &'a [Expression], ends_with: bool) -> Result<bool, EvalError> {
        let mut error = None;
        for each in all {
            match self.truth(each) {
                Ok(truth) if truth == ends_with => return Ok(ends_with),
                Ok(_) => {}
                Err(budget) if budget.reason() == Reason::Budget => return Err(budget),
                Err(other) => error = error.or(Some(other)),
            }
        }
        error.map_or(Ok(!ends_with), Err)
    }

    fn index(&mut self, at: &'a Expression, of: &'a Expression, key: &'a Expression) -> Evaluated<'a> {
        if let (Kind::Attribute(path), crate::Type::Map(..)) = (&of.kind, &of.of) {
            let key = self.text(key)?;
            return self.attribute(path, Some(key.as_str()), at);
        }
        let of = self.value(of)?;
        let key = self.value(key)?;
        match of {
            Value::Map(map) => {
                self.spend_search(&map, at)?;
                find(&map, &key).ok_or_else(|| EvalError::new(Reason::NoSuchKey, &at.range))
            }
            Value::List(list) => {
                let index =
                    index_of(&key).ok_or_else(|| EvalError::new(Reason::NoSuchOverload, &at.range))?;
                usize::try_from(index)
                    .ok()
                    .and_then(|index| list.at(index))
                    .ok_or_else(|| EvalError::new(Reason::OutOfBounds, &at.range))
            }
            _ => Err(EvalError::new(Reason::NoSuchOverload, &at.range)),
        }
    }

    fn has(
        &mut self,
        at: &'a Expression,
        of: &'a Expression,
        key: &'a Expression,
    ) -> Result<bool, EvalError> {
        if let (Kind::Attribute(path), crate::Type::Map(..)) = (&of.kind, &of.of) {
            let Value::String(key) = self.value(key)? else {
                return Ok(false);
            };
            return match self.activation.resolve(path, Some(key.as_str())) {
                Found::Value(_) => Ok(true),
                Found::Absent => Ok(false),
                Found::Unavailable => Err(EvalError::new(Reason::Unavailable, &at.range)),
            };
        }
        let key = self.value(key)?;
        match self.value(of)? {
            Value::Map(map) => {
                self.spend_search(&map, at)?;
                Ok(find(&map, &key).is_some())
            }
            _ => Err(EvalError::new(Reason::NoSuchOverload, &at.range)),
        }
    }

    /// A map that was made here is searched from the start.
    fn spend_search(&mut self, map: &Map<'a>, at: &Expression) -> Result<(), EvalError> {
        match map {
            Map::Borrowed(_) => Ok(()),
            Map::Owned(entries) => self.spend(entries.len() as u64, at),
        }
    }

    fn binary(
        &mut self,
        at: &'a Expression,
        operator: Operator,
        left: &'a Expression,
        right: &'a Expression,
    ) -> Evaluated<'a> {
        let left = self.value(left)?;
        let right = self.value(right)?;
        let budget = || EvalError::new(Reason::Budget, &at.range);
        let truth = match operator {
            Operator::Equal => equal(&left, &right, &mut self.meter).ok_or_else(budget)?,
            Operator::NotEqual => !equal(&left, &right, &mut self.meter).ok_or_else(budget)?,
            Operator::Less => self.ordered(at, &left, &right)? == Some(Ordering::Less),
            Operator::LessOrEqual => self.ordered(at, &left, &right)?.is_some_and(Ordering::is_le),
            Operator::Greater => self.ordered(at, &left, &right)? == Some(Ordering::Greater),
            Operator::GreaterOrEqual => self.ordered(at, &left, &right)?.is_some_and(Ordering::is_ge),
            Operator::In => self.membership(at, &left, &right)?,
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => {
                self.spend(entries_and_bytes(&left) + entries_and_bytes(&right), at)?;
                return arithmetic(operator, left, right).map_err(|reason| EvalError::new(reason, &at.range));
            }
        };
        Ok(Value::Bool(truth))
    }

    fn ordered(
        &mut self,
        at: &Expression,
        left: &Value<'a>,
        right: &Value<'a>,
    ) -> Result<Option<Ordering>, EvalError> {
        if let (Value::String(left), Value::String(right)) = (left, right) {
            let bytes = left.as_str().len().min(right.as_str().len());
            self.spend(bytes as u64 / BYTES_A_STEP, at)?;
        }
        order(left, right).map_err(|reason| EvalError::new(reason, &at.range))
    }

    fn membership(
        &mut self,
        at: &Expression,
        wanted: &Value<'a>,
        within: &Value<'a>,
    ) -> Result<bool, EvalError> {
        match within {
            Value::List(list) => {
                for index in 0..list.len() {
                    let Some(element) = list.at(index) else { break };
                    let same = equal(wanted, &element, &mut self.meter)
                        .ok_or_else(|| EvalError::new(Reason::Budget, &at.range))?;
                    if same {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
            Value::Map(map) => {
                self.spend_search(map, at)?;
                Ok(find(map, wanted).is_some())
            }
            _ => Err(EvalError::new(Reason::NoSuchOverload, &at.range)),
        }
    }

    fn call(&mut self, at: &'a Expression, function: Function, arguments: &'a [Expression]) -> Evaluated<'a> {
        let wrong = || EvalError::new(Reason::NoSuchOverload, &at.range);
        let (first, second) = match arguments {
            [first] => (first, None),
            [first, second] => (first, Some(second)),
            _ => return Err(wrong()),
        };
        if let Some(second) = second {
            let (text, other) = (self.text(first)?, self.text(second)?);
            return self.two_texts(at, function, &text, other.as_str());
        }
        let value = self.value(first)?;
        if let Value::String(text) = &value {
            self.spend(text.as_str().len() as u64 / BYTES_A_STEP, at)?;
        }
        match (function, value) {
            (Function::Size, value) => {
                let size = match &value {
                    Value::String(text) => text.as_str().chars().count(),
                    Value::List(list) => list.len(),
                    Value::Map(map) => map.len(),
                    _ => return Err(wrong()),
                };
                Ok(Value::Int(i64::try_from(size).unwrap_or(i64::MAX)))
            }
            (Function::LowerAscii, Value::String(text)) => {
                Ok(changed(text, |c| c.is_ascii_uppercase(), str::to_ascii_lowercase))
            }
            (Function::UpperAscii, Value::String(text)) => {
                Ok(changed(text, |c| c.is_ascii_lowercase(), str::to_ascii_uppercase))
            }
            (Function::Trim, Value::String(Text::Borrowed(text))) => Ok(Value::from(text.trim())),
            (Function::Trim, Value::String(Text::Owned(text))) => Ok(Value::from(text.trim().to_owned())),
            (Function::LowerAscii | Function::UpperAscii | Function::Trim, _) => Err(wrong()),
            (function, value) => convert(function, value).map_err(|reason| EvalError::new(reason, &at.range)),
        }
    }

    fn two_texts(
        &mut self,
        at: &Expression,
        function: Function,
        text: &Text<'a>,
        other: &str,
    ) -> Evaluated<'a> {
        let (text_bytes, other_bytes) = (text.as_str().len() as u64, other.len() as u64);
        match function {
            Function::StartsWith | Function::EndsWith => {
                self.spend(other_bytes / BYTES_A_STEP, at)?;
                let is_start = function == Function::StartsWith;
                Ok(Value::Bool(if is_start {
                    text.as_str().starts_with(other)
                } else {
                    text.as_str().ends_with(other)
                }))
            }
            Function::Contains => {
                self.spend(text_bytes + other_bytes, at)?;
                Ok(Value::Bool(text.as_str().contains(other)))
            }
            Function::Split => {
                self.spend(text_bytes * 2 + other_bytes + 1, at)?;
                Ok(Value::list_of(match text {
                    Text::Borrowed(text) => parts(text, other)
                        .into_iter()
                        .map(Value::from)
                        .collect::<Vec<_>>(),
                    Text::Owned(text) => parts(text, other)
                        .into_iter()
                        .map(|part| Value::from(part.to_owned()))
                        .collect(),
                }))
            }
            Function::Size
            | Function::LowerAscii
            | Function::UpperAscii
            | Function::Trim
            | Function::Bool
            | Function::Int
            | Function::Double
            | Function::String
            | Function::Timestamp
            | Function::Duration
            | Function::Dyn => Err(EvalError::new(Reason::NoSuchOverload, &at.range)),
        }
    }

    fn getter(
        &mut self,
        at: &'a Expression,
        field: TimeField,
        of: &'a Expression,
        offset_seconds: i32,
    ) -> Evaluated<'a> {
        match self.value(of)? {
            Value::Timestamp(time) => Ok(Value::Int(time.part(field, offset_seconds))),
            Value::Duration(span) => span
                .whole(field)
                .map(Value::Int)
                .ok_or_else(|| EvalError::new(Reason::NoSuchOverload, &at.range)),
            _ => Err(EvalError::new(Reason::NoSuchOverload, &at.range)),
        }
    }

    /// What a macro goes over: the elements of a list, the keys of a map.
    fn elements(&mut self, over: &'a Expression) -> Result<List<'a>, EvalError> {
        match self.value(over)? {
            Value::List(list) => Ok(list),
            Value::Map(map) => Ok(List::Owned(map.keys().into())),
            _ => Err(EvalError::new(Reason::NoSuchOverload, &over.range)),
        }
    }

    /// One round of a macro: the variable is the element.
    fn round<T>(
        &mut self,
        at: &Expression,
        element: Value<'a>,
        inner: impl FnOnce(&mut Self) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        self.spend(1, at)?;
        self.locals.push(element);
        let result = inner(self);
        self.locals.pop();
        result
    }

    /// `all` (which ends with the first false) and `exists` (with the first true), as `&&` and `||` of the elements.
    fn quantified(
        &mut self,
        at: &Expression,
        over: &List<'a>,
        condition: &'a Expression,
        ends_with: bool,
    ) -> Result<bool, EvalError> {
        let mut error = None;
        for index in 0..over.len() {
            let Some(element) = over.at(index) else { break };
            match self.round(at, element, |run| run.truth(condition)) {
                Ok(truth) if truth == ends_with => return Ok(ends_with),
                Ok(_) => {}
                Err(budget) if budget.reason() == Reason::Budget => return Err(budget),
                Err(other) => error = error.or(Some(other)),
            }
        }
        error.map_or(Ok(!ends_with), Err)
    }

    /// The elements that satisfy the condition, transformed; the first error ends it.
    fn selected(
        &mut self,
        at: &Expression,
        over: &List<'a>,
        condition: &'a Expression,
        transform: Option<&'a Expression>,
    ) -> Result<Vec<Value<'a>>, EvalError> {
        let mut selected = Vec::new();
        for index in 0..over.len() {
            let Some(element) = over.at(index) else { break };
            let same = element.clone();
            let made = self.round(at, element, |run| {
                if !run.truth(condition)? {
                    return Ok(None);
                }
                match transform {
                    Some(transform) => run.value(transform).map(Some),
                    None => Ok(Some(same)),
                }
            })?;
            selected.extend(made);
        }
        Ok(selected)
    }
}

impl Literal {
    /// The value that is written down.
    pub fn value(&self) -> Value<'_> {
        match self {
            Self::Null => Value::Null,
            Self::Bool(truth) => Value::Bool(*truth),
            Self::Int(whole) => Value::Int(*whole),
            Self::Double(double) => Value::Double(*double),
            Self::String(text) => Value::from(text.as_ref()),
            Self::Timestamp(time) => Value::Timestamp(*time),
            Self::Duration(span) => Value::Duration(*span),
        }
    }
}

/// A list's index: an int, or a double that is a whole number.
fn index_of(key: &Value<'_>) -> Option<i64> {
    match key {
        Value::Int(index) => Some(*index),
        #[expect(clippy::cast_possible_truncation, reason = "a whole number far below 2⁵³")]
        Value::Double(double) if double.fract() == 0.0 && double.abs() < 1e15 => Some(*double as i64),
        _ => None,
    }
}

fn entries_and_bytes(value: &Value<'_>) -> u64 {
    match value {
        Value::String(text) => text.as_str().len() as u64 / BYTES_A_STEP,
        Value::List(list) => list.len() as u64,
        Value::Map(_)
        | Value::Null
        | Value::Bool(_)
        | Value::Int(_)
        | Value::Double(_)
        | Value::Timestamp(_)
        | Value::Duration(_) => 0,
    }
}

/// The text itself where nothing is to change.
fn changed(text: Text<'_>, changes: impl Fn(char) -> bool, change: impl Fn(&str) -> String) -> Value<'_> {
    if text.as_str().contains(changes) {
        Value::from(change(text.as_str()))
    } else {
        Value::String(text)
    }
}

/// The parts between separators; of an empty separator, the code points.
fn parts<'t>(text: &'t str, separator: &str) -> Vec<&'t str> {
    if separator.is_empty() {
        text.split_inclusive(|_: char| true).collect()
    } else {
        text.split(separator).collect()
    }
}
