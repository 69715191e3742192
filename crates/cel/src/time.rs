//! Points in time and spans of time: reading, writing, adding, and the parts of a calendar date.

use std::fmt;

use bartizan_types::calendar::{civil_from_days, days_from_civil};

use crate::expression::TimeField;

const NANOS: i64 = 1_000_000_000;
/// 0001-01-01T00:00:00Z.
const FIRST_SECOND: i64 = -62_135_596_800;
/// 9999-12-31T23:59:59Z.
const LAST_SECOND: i64 = 253_402_300_799;

/// A point in time from 0001-01-01 to 9999-12-31, to the nanosecond (CEL `google.protobuf.Timestamp`).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Timestamp {
    /// Since 1970-01-01T00:00:00Z.
    seconds: i64,
    /// Of the second, below 10⁹.
    nanos: u32,
}

/// A span of time in nanoseconds, positive or negative: up to about 292 years (CEL `google.protobuf.Duration`, with cel-go's range).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Duration {
    nanos: i64,
}

impl Timestamp {
    /// From seconds since 1970; what is before year 1 or after 9999 becomes the first or last second.
    pub fn from_seconds(seconds: i64) -> Self {
        Self {
            seconds: seconds.clamp(FIRST_SECOND, LAST_SECOND),
            nanos: 0,
        }
    }

    /// From seconds since 1970 and nanoseconds after them; `None` out of range.
    pub fn new(seconds: i64, nanos: u32) -> Option<Self> {
        let fits = (FIRST_SECOND..=LAST_SECOND).contains(&seconds) && i64::from(nanos) < NANOS;
        fits.then_some(Self { seconds, nanos })
    }

    /// Seconds since 1970, rounded down.
    pub fn seconds(self) -> i64 {
        self.seconds
    }

    /// Nanoseconds after that second.
    pub fn nanos(self) -> u32 {
        self.nanos
    }

    /// Reads `2026-01-02T03:04:05.678+02:00` (RFC 3339 §5.6). `None` when it is not that, or out of range.
    pub fn parse(text: &str) -> Option<Self> {
        let (year, rest) = number(text, 4)?;
        let (month, rest) = number(rest.strip_prefix('-')?, 2)?;
        let (day, rest) = number(rest.strip_prefix('-')?, 2)?;
        let (hour, rest) = number(rest.strip_prefix('T')?, 2)?;
        let (minute, rest) = number(rest.strip_prefix(':')?, 2)?;
        let (second, rest) = number(rest.strip_prefix(':')?, 2)?;
        let (nanos, rest) = match rest.strip_prefix('.') {
            Some(rest) => fraction(rest)?,
            None => (0, rest),
        };
        let offset = match rest {
            "Z" => 0,
            offset if offset.starts_with(['+', '-']) => parse_offset(offset)?,
            _ => return None,
        };
        let valid = (1..=12).contains(&month)
            && (1..=days_of_month(year, month)).contains(&day)
            && hour < 24
            && minute < 60
            && second < 60;
        if !valid {
            return None;
        }
        let seconds =
            days_from_civil(year, small(month), small(day)) * 86_400 + hour * 3600 + minute * 60 + second;
        Self::new(seconds - i64::from(offset), nanos)
    }

    pub(crate) fn plus(self, span: Duration) -> Option<Self> {
        let nanos = i64::from(self.nanos) + span.nanos.rem_euclid(NANOS);
        let seconds = self
            .seconds
            .checked_add(span.nanos.div_euclid(NANOS))?
            .checked_add(nanos / NANOS)?;
        Self::new(seconds, u32::try_from(nanos % NANOS).ok()?)
    }

    pub(crate) fn since(self, earlier: Self) -> Option<Duration> {
        let seconds = self.seconds.checked_sub(earlier.seconds)?;
        let nanos = seconds
            .checked_mul(NANOS)?
            .checked_add(i64::from(self.nanos) - i64::from(earlier.nanos))?;
        Some(Duration { nanos })
    }

    /// A part of its date or time of day, on a clock `offset_seconds` east of UTC.
    pub fn part(self, field: TimeField, offset_seconds: i32) -> i64 {
        let local = self.seconds + i64::from(offset_seconds);
        let (days, second) = (local.div_euclid(86_400), local.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        let (month, day) = (i64::from(month), i64::from(day));
        match field {
            TimeField::FullYear => year,
            TimeField::Month => month - 1,
            TimeField::DayOfMonth => day - 1,
            TimeField::Date => day,
            TimeField::DayOfWeek => (days + 4).rem_euclid(7), // 1970-01-01 was a Thursday
            TimeField::DayOfYear => days - days_from_civil(year, 1, 1),
            TimeField::Hours => second / 3600,
            TimeField::Minutes => second / 60 % 60,
            TimeField::Seconds => second % 60,
            TimeField::Milliseconds => i64::from(self.nanos / 1_000_000),
        }
    }
}

impl fmt::Display for Timestamp {
    /// `2026-01-02T03:04:05.678Z`: RFC 3339 in UTC, with as many digits of the second as there are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |field| self.part(field, 0);
        write!(
            f,
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}",
            part(TimeField::FullYear),
            part(TimeField::Month) + 1,
            part(TimeField::Date),
            part(TimeField::Hours),
            part(TimeField::Minutes),
            part(TimeField::Seconds)
        )?;
        if self.nanos > 0 {
            write!(f, ".{}", format!("{:09}", self.nanos).trim_end_matches('0'))?;
        }
        f.write_str("Z")
    }
}

impl Duration {
    /// From nanoseconds.
    pub fn from_nanos(nanos: i64) -> Self {
        Self { nanos }
    }

    /// In nanoseconds.
    pub fn nanos(self) -> i64 {
        self.nanos
    }

    /// Reads `1h30m`, `-1.5s`, `100ms` (the text of Go's `time.ParseDuration`, which CEL takes). `None` when it is not that, or out of range.
    pub fn parse(text: &str) -> Option<Self> {
        let (is_negative, mut rest) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        if rest == "0" {
            return Some(Self { nanos: 0 });
        }
        if rest.is_empty() {
            return None;
        }
        let mut nanos: i128 = 0;
        while !rest.is_empty() {
            let (whole, after) = digits(rest);
            let (part, after) = match after.strip_prefix('.') {
                Some(after) => digits(after),
                None => ("", after),
            };
            if (whole.is_empty() && part.is_empty()) || whole.len() > 18 || part.len() > 18 {
                return None;
            }
            let (unit, after) = [
                ("ns", 1_i128),
                ("us", 1000),
                ("µs", 1000),
                ("μs", 1000),
                ("ms", 1_000_000),
                ("s", 1_000_000_000),
                ("m", 60_000_000_000),
                ("h", 3_600_000_000_000),
            ]
            .into_iter()
            .find_map(|(name, unit)| after.strip_prefix(name).map(|after| (unit, after)))?;
            rest = after;
            let read = |digits: &str| {
                if digits.is_empty() {
                    Some(0)
                } else {
                    digits.parse::<i128>().ok()
                }
            };
            let places = 10_i128.pow(u32::try_from(part.len()).ok()?);
            nanos += read(whole)? * unit + read(part)? * unit / places;
        }
        let nanos = i64::try_from(if is_negative { -nanos } else { nanos }).ok()?;
        Some(Self { nanos })
    }

    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        let nanos = self.nanos.checked_add(other.nanos)?;
        Some(Self { nanos })
    }

    pub(crate) fn negated(self) -> Option<Self> {
        let nanos = self.nanos.checked_neg()?;
        Some(Self { nanos })
    }

    pub(crate) fn minus(self, other: Self) -> Option<Self> {
        let nanos = self.nanos.checked_sub(other.nanos)?;
        Some(Self { nanos })
    }

    /// All of it in whole hours, minutes or seconds; `None` for a part that only a date has.
    pub fn whole(self, field: TimeField) -> Option<i64> {
        match field {
            TimeField::Hours => Some(self.nanos / (3600 * NANOS)),
            TimeField::Minutes => Some(self.nanos / (60 * NANOS)),
            TimeField::Seconds => Some(self.nanos / NANOS),
            TimeField::FullYear
            | TimeField::Month
            | TimeField::DayOfMonth
            | TimeField::Date
            | TimeField::DayOfWeek
            | TimeField::DayOfYear
            | TimeField::Milliseconds => None,
        }
    }
}

impl fmt::Display for Duration {
    /// In seconds, as `string(duration)` gives it: `5400s`, `-0.5s`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, nanos) = (
            self.nanos.unsigned_abs() / NANOS.unsigned_abs(),
            self.nanos.unsigned_abs() % NANOS.unsigned_abs(),
        );
        let sign = if self.nanos < 0 { "-" } else { "" };
        write!(f, "{sign}{seconds}")?;
        if nanos > 0 {
            write!(f, ".{}", format!("{nanos:09}").trim_end_matches('0'))?;
        }
        f.write_str("s")
    }
}

/// Seconds east of UTC of `UTC`, `+02:00`, `-02:30` or `02:00`; `None` for anything else.
pub(crate) fn parse_offset(text: &str) -> Option<i32> {
    if text == "UTC" {
        return Some(0);
    }
    let (sign, rest) = match text.strip_prefix('-') {
        Some(rest) => (-1, rest),
        None => (1, text.strip_prefix('+').unwrap_or(text)),
    };
    let (hours, rest) = number(rest, 2)?;
    let (minutes, rest) = number(rest.strip_prefix(':')?, 2)?;
    let valid = rest.is_empty() && hours < 24 && minutes < 60;
    let seconds = i32::try_from(hours * 3600 + minutes * 60).ok()?;
    valid.then_some(sign * seconds)
}

/// Exactly `count` digits, and what follows.
fn number(text: &str, count: usize) -> Option<(i64, &str)> {
    let (head, rest) = text.split_at_checked(count)?;
    if !head.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((head.parse().ok()?, rest))
}

/// The digits at the start, and what follows.
fn digits(text: &str) -> (&str, &str) {
    let end = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    text.split_at(end)
}

/// One to nine digits behind the point as nanoseconds, and what follows.
fn fraction(text: &str) -> Option<(u32, &str)> {
    let (digits, rest) = digits(text);
    if digits.is_empty() || digits.len() > 9 {
        return None;
    }
    let nanos = format!("{digits:0<9}").parse().ok()?;
    Some((nanos, rest))
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_of_month(year: i64, month: i64) -> i64 {
    match month {
        2 if is_leap(year) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// A part of a date that was found to be in the calendar.
fn small(part: i64) -> u8 {
    u8::try_from(part).unwrap_or_default()
}
