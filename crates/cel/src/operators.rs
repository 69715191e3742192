//! The operators with two sides: for which types they are defined, and arithmetic.

use std::sync::Arc;

use crate::error::Reason;
use crate::expression::Operator;
use crate::types::Type;
use crate::value::{List, Text, Value};

/// The type of `left operator right`; `None` where it is not defined. `in` is none of these.
pub(crate) fn result(operator: Operator, left: &Type, right: &Type) -> Option<Type> {
    use Type::{Bool, Double, Duration, Dyn, Int, String, Timestamp};
    let of = match (operator, left, right) {
        (Operator::Equal | Operator::NotEqual, left, right) if left.agrees_with(right) => Bool,
        (
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual,
            left,
            right,
        ) => return are_ordered(left, right).then_some(Bool),
        (Operator::Add | Operator::Subtract, Timestamp, Duration) | (Operator::Add, Duration, Timestamp) => {
            Timestamp
        }
        (Operator::Add | Operator::Subtract, Duration, Duration)
        | (Operator::Subtract, Timestamp, Timestamp) => Duration,
        (Operator::Add, String, String) => String,
        (Operator::Add, Type::List(left), Type::List(right)) => Type::list_of(left.joined(right)),
        (Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide, Double, Double) => {
            Double
        }
        (
            Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder,
            Int,
            Int,
        ) => Int,
        // What comes out is known from the other side where only one type goes with it.
        (
            Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder,
            Dyn,
            other,
        )
        | (
            Operator::Add | Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder,
            other,
            Dyn,
        ) => {
            let same = match other {
                Int | Double | String | Duration | Timestamp | Type::List(_) | Dyn => other,
                Type::Null | Bool | Type::Map(..) | Type::Object(_) => return None,
            };
            return match (operator, same) {
                (_, Int) => Some(Int),
                (Operator::Remainder, Double)
                | (
                    Operator::Subtract | Operator::Multiply | Operator::Divide | Operator::Remainder,
                    String | Type::List(_),
                )
                | (Operator::Multiply | Operator::Divide | Operator::Remainder, Duration | Timestamp) => None,
                (_, Double) => Some(Double),
                (_, String) => Some(String),
                _ => Some(Dyn),
            };
        }
        _ => return None,
    };
    Some(of)
}

fn are_ordered(left: &Type, right: &Type) -> bool {
    let is_orderable = |of: &Type| {
        matches!(
            of,
            Type::Bool
                | Type::Int
                | Type::Double
                | Type::String
                | Type::Timestamp
                | Type::Duration
                | Type::Dyn
        )
    };
    let are_numbers = matches!(left, Type::Int | Type::Double) && matches!(right, Type::Int | Type::Double);
    is_orderable(left) && is_orderable(right) && (are_numbers || left.agrees_with(right))
}

/// `left operator right` of the arithmetic operators, on whatever the values are.
pub(crate) fn arithmetic<'a>(
    operator: Operator,
    left: Value<'a>,
    right: Value<'a>,
) -> Result<Value<'a>, Reason> {
    let value = match (operator, left, right) {
        (_, Value::Int(left), Value::Int(right)) => Value::Int(whole(operator, left, right)?),
        (Operator::Add, Value::Double(left), Value::Double(right)) => Value::Double(left + right),
        (Operator::Subtract, Value::Double(left), Value::Double(right)) => Value::Double(left - right),
        (Operator::Multiply, Value::Double(left), Value::Double(right)) => Value::Double(left * right),
        (Operator::Divide, Value::Double(left), Value::Double(right)) => Value::Double(left / right),
        (Operator::Add, Value::String(left), Value::String(right)) => {
            let mut text = String::with_capacity(left.as_str().len() + right.as_str().len());
            text.push_str(left.as_str());
            text.push_str(right.as_str());
            Value::String(Text::Owned(text.into()))
        }
        (Operator::Add, Value::List(left), Value::List(right)) => appended(&left, &right),
        (Operator::Add, Value::Timestamp(time), Value::Duration(span))
        | (Operator::Add, Value::Duration(span), Value::Timestamp(time)) => {
            Value::Timestamp(time.plus(span).ok_or(Reason::OutOfRange)?)
        }
        (Operator::Add, Value::Duration(left), Value::Duration(right)) => {
            Value::Duration(left.plus(right).ok_or(Reason::OutOfRange)?)
        }
        (Operator::Subtract, Value::Duration(left), Value::Duration(right)) => {
            Value::Duration(left.minus(right).ok_or(Reason::OutOfRange)?)
        }
        (Operator::Subtract, Value::Timestamp(time), Value::Duration(span)) => {
            let earlier = span.negated().and_then(|back| time.plus(back));
            Value::Timestamp(earlier.ok_or(Reason::OutOfRange)?)
        }
        (Operator::Subtract, Value::Timestamp(left), Value::Timestamp(right)) => {
            Value::Duration(left.since(right).ok_or(Reason::OutOfRange)?)
        }
        _ => return Err(Reason::NoSuchOverload),
    };
    Ok(value)
}

fn whole(operator: Operator, left: i64, right: i64) -> Result<i64, Reason> {
    let result = match operator {
        Operator::Add => left.checked_add(right),
        Operator::Subtract => left.checked_sub(right),
        Operator::Multiply => left.checked_mul(right),
        Operator::Divide | Operator::Remainder if right == 0 => return Err(Reason::DivisionByZero),
        Operator::Divide => left.checked_div(right),
        Operator::Remainder => left.checked_rem(right),
        Operator::Equal
        | Operator::NotEqual
        | Operator::Less
        | Operator::LessOrEqual
        | Operator::Greater
        | Operator::GreaterOrEqual
        | Operator::In => return Err(Reason::NoSuchOverload),
    };
    result.ok_or(Reason::OutOfRange)
}

fn appended<'a>(left: &List<'a>, right: &List<'a>) -> Value<'a> {
    let all: Arc<[Value<'a>]> = (0..left.len())
        .filter_map(|index| left.at(index))
        .chain((0..right.len()).filter_map(|index| right.at(index)))
        .collect();
    Value::List(List::Owned(all))
}
