//! Conversions between types: `int("1")`, `string(1.5)`.

use crate::error::Reason;
use crate::expression::Function;
use crate::time::{Duration, Timestamp};
use crate::value::Value;

/// # Errors
/// When the value's type has no such conversion, or the value cannot be converted.
pub(crate) fn convert(function: Function, value: Value<'_>) -> Result<Value<'_>, Reason> {
    match (function, value) {
        (Function::Dyn, value)
        | (Function::Bool, value @ Value::Bool(_))
        | (Function::Int, value @ Value::Int(_))
        | (Function::Double, value @ Value::Double(_))
        | (Function::String, value @ Value::String(_))
        | (Function::Timestamp, value @ Value::Timestamp(_))
        | (Function::Duration, value @ Value::Duration(_)) => Ok(value),

        (Function::Bool, Value::String(text)) => match text.as_str() {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(Value::Bool(false)),
            _ => Err(Reason::BadText),
        },
        (Function::Int, Value::Double(double)) => whole(double),
        (Function::Int, Value::String(text)) => {
            text.as_str().parse().map(Value::Int).map_err(|_| Reason::BadText)
        }
        (Function::Int, Value::Timestamp(time)) => Ok(Value::Int(time.seconds())),
        #[expect(
            clippy::cast_precision_loss,
            reason = "CEL: the nearest double of a whole number"
        )]
        (Function::Double, Value::Int(whole)) => Ok(Value::Double(whole as f64)),
        (Function::Double, Value::String(text)) => double(text.as_str()),
        (Function::String, Value::Bool(truth)) => Ok(Value::from(if truth { "true" } else { "false" })),
        (Function::String, Value::Int(whole)) => Ok(Value::from(whole.to_string())),
        (Function::String, Value::Double(double)) => Ok(Value::from(written(double))),
        (Function::String, Value::Timestamp(time)) => Ok(Value::from(time.to_string())),
        (Function::String, Value::Duration(span)) => Ok(Value::from(span.to_string())),
        (Function::Timestamp, Value::Int(seconds)) => Timestamp::new(seconds, 0)
            .map(Value::Timestamp)
            .ok_or(Reason::OutOfRange),
        (Function::Timestamp, Value::String(text)) => Timestamp::parse(text.as_str())
            .map(Value::Timestamp)
            .ok_or(Reason::BadText),
        (Function::Duration, Value::String(text)) => Duration::parse(text.as_str())
            .map(Value::Duration)
            .ok_or(Reason::BadText),
        _ => Err(Reason::NoSuchOverload),
    }
}

/// Towards zero. The two ends of the range are left out, as cel-go does: a double there may stand for a number beyond.
fn whole<'a>(double: f64) -> Result<Value<'a>, Reason> {
    const END: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() || double <= -END || double >= END {
        return Err(Reason::OutOfRange);
    }
    #[expect(
        clippy::cast_possible_truncation,
        reason = "between the ends, and the fraction is to go"
    )]
    let whole = double as i64;
    Ok(Value::Int(whole))
}

fn double<'a>(text: &str) -> Result<Value<'a>, Reason> {
    let double: f64 = text.parse().map_err(|_| Reason::BadText)?;
    let has_digits = text.bytes().any(|byte| byte.is_ascii_digit());
    if double.is_infinite() && has_digits {
        return Err(Reason::OutOfRange);
    }
    Ok(Value::Double(double))
}

/// The shortest text that reads as the same double; with an exponent below 10⁻⁴ and from 10²¹ on, as cel-go writes it.
fn written(double: f64) -> String {
    if double.is_nan() {
        return "NaN".to_owned();
    }
    if double.is_infinite() {
        return if double > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{double:e}");
    let Some((mantissa, exponent)) = scientific.split_once('e') else {
        return scientific;
    };
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if double != 0.0 && !(-4..21).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{mantissa}e{sign}{:02}", exponent.unsigned_abs());
    }
    double.to_string()
}

#[cfg(test)]
mod tests {
    use super::written;

    #[test]
    fn doubles_are_written_as_cel_go_writes_them() {
        for (double, text) in [
            (1.0, "1"),
            (-0.0, "-0"),
            (1.5, "1.5"),
            (0.0001, "0.0001"),
            (0.000_01, "1e-05"),
            (1e20, "100000000000000000000"),
            (1e21, "1e+21"),
            (1.25e300, "1.25e+300"),
            (f64::NAN, "NaN"),
            (f64::NEG_INFINITY, "-Inf"),
        ] {
            assert_eq!(written(double), text);
        }
    }
}
