//! Equality and order of values (CEL `Equality`, `Ordering`): values of different kinds are not equal and have no order,
//! but numbers are compared as numbers.

use std::cmp::Ordering;

use crate::error::Reason;
use crate::evaluate::Meter;
use crate::extent::BYTES_A_STEP;
use crate::value::{List, Map, Value};

/// Whether two values are equal. Every value that is looked at is a step; `None` when there were none left.
pub(crate) fn equal(left: &Value<'_>, right: &Value<'_>, meter: &mut Meter) -> Option<bool> {
    meter.spend(1)?;
    Some(match (left, right) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(left), Value::Bool(right)) => left == right,
        (Value::String(left), Value::String(right)) => {
            let (left, right) = (left.as_str(), right.as_str());
            if left.len() != right.len() {
                return Some(false);
            }
            meter.spend(left.len() as u64 / BYTES_A_STEP)?;
            left == right
        }
        (Value::Timestamp(left), Value::Timestamp(right)) => left == right,
        (Value::Duration(left), Value::Duration(right)) => left == right,
        (Value::List(left), Value::List(right)) => equal_lists(left, right, meter)?,
        (Value::Map(left), Value::Map(right)) => equal_maps(left, right, meter)?,
        (left, right) => numbers(left, right) == Some(Ordering::Equal),
    })
}

fn equal_lists(left: &List<'_>, right: &List<'_>, meter: &mut Meter) -> Option<bool> {
    if left.len() != right.len() {
        return Some(false);
    }
    for index in 0..left.len() {
        let same = match (left.at(index), right.at(index)) {
            (Some(left), Some(right)) => equal(&left, &right, meter)?,
            _ => false,
        };
        if !same {
            return Some(false);
        }
    }
    Some(true)
}

fn equal_maps(left: &Map<'_>, right: &Map<'_>, meter: &mut Meter) -> Option<bool> {
    if left.len() != right.len() {
        return Some(false);
    }
    let mut same = |key: &Value<'_>, value: &Value<'_>| {
        if let Map::Owned(entries) = right {
            meter.spend(entries.len() as u64)?;
        }
        match find(right, key) {
            Some(other) => equal(value, &other, meter),
            None => Some(false),
        }
    };
    match left {
        Map::Owned(entries) => {
            for (key, value) in entries.iter() {
                if !same(key, value)? {
                    return Some(false);
                }
            }
        }
        Map::Borrowed(map) => {
            for key in map.keys() {
                let value = map.find(key);
                if !value.map_or(Some(false), |value| same(&Value::from(key), &value))? {
                    return Some(false);
                }
            }
        }
    }
    Some(true)
}

/// The value of a key. One that is no text is in no map of the caller's.
pub(crate) fn find<'a>(map: &Map<'a>, key: &Value<'_>) -> Option<Value<'a>> {
    match (map, key) {
        (Map::Borrowed(map), Value::String(key)) => map.find(key.as_str()),
        (Map::Borrowed(_), _) => None,
        (Map::Owned(entries), key) => entries
            .iter()
            .find(|(known, _)| is_same_key(known, key))
            .map(|(_, value)| value.clone()),
    }
}

fn is_same_key(known: &Value<'_>, key: &Value<'_>) -> bool {
    match (known, key) {
        (Value::String(known), Value::String(key)) => known.as_str() == key.as_str(),
        (Value::Bool(known), Value::Bool(key)) => known == key,
        (known, key) => numbers(known, key) == Some(Ordering::Equal),
    }
}

/// The order of two values; `None` with a NaN, for every comparison with it is false.
///
/// # Errors
/// When values of such types have no order.
pub(crate) fn order(left: &Value<'_>, right: &Value<'_>) -> Result<Option<Ordering>, Reason> {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Ok(Some(left.cmp(right))),
        (Value::String(left), Value::String(right)) => Ok(Some(left.as_str().cmp(right.as_str()))),
        (Value::Timestamp(left), Value::Timestamp(right)) => Ok(Some(left.cmp(right))),
        (Value::Duration(left), Value::Duration(right)) => Ok(Some(left.cmp(right))),
        (Value::Int(_) | Value::Double(_), Value::Int(_) | Value::Double(_)) => Ok(numbers(left, right)),
        _ => Err(Reason::NoSuchOverload),
    }
}

/// The order of two numbers on the number line; `None` when one is no number or NaN.
fn numbers(left: &Value<'_>, right: &Value<'_>) -> Option<Ordering> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Some(left.cmp(right)),
        (Value::Double(left), Value::Double(right)) => left.partial_cmp(right),
        (Value::Int(left), Value::Double(right)) => whole_and_double(*left, *right),
        (Value::Double(left), Value::Int(right)) => whole_and_double(*right, *left).map(Ordering::reverse),
        _ => None,
    }
}

fn whole_and_double(whole: i64, double: f64) -> Option<Ordering> {
    /// 2⁶³, exactly.
    const END: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= END {
        return Some(Ordering::Less);
    }
    if double < -END {
        return Some(Ordering::Greater);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "a double without fraction from -2⁶³ up to and without 2⁶³ is an i64 exactly"
    )]
    let cut = double.trunc() as i64;
    let rest = double.fract();
    Some(whole.cmp(&cut).then(if rest > 0.0 {
        Ordering::Less
    } else if rest < 0.0 {
        Ordering::Greater
    } else {
        Ordering::Equal
    }))
}
