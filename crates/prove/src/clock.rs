//! All times, divided by what expressions ask of the clock: fields that come again each week, and limits.

use std::collections::BTreeSet;

use crate::address::{NumberAtom, divide};
use crate::text::Classes;

/// A field of the clock that comes again each week.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum ClockField {
    /// 0 to 6, from Sunday.
    DayOfWeek,
    /// 0 to 23.
    Hours,
    /// 0 to 59.
    Minutes,
}

/// What is asked of the time.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum ClockAtom {
    /// A field, read so many seconds east of UTC, compared with a number.
    Field(ClockField, i32, NumberAtom),
    /// Before this second since 1970.
    Before(i64),
}

const MINUTE: i64 = 60;
const DAY: i64 = 86_400;
const WEEK: i64 = 7 * DAY;
/// Monday, 2026-01-05, at noon: where a week of examples begins.
const A_MONDAY: i64 = 1_767_614_400;

impl ClockAtom {
    pub(crate) fn holds(self, time: i64) -> bool {
        match self {
            Self::Before(limit) => time < limit,
            Self::Field(field, east, number) => {
                let time = time.saturating_add(i64::from(east));
                number.holds(match field {
                    // The first day of 1970 was a Thursday.
                    ClockField::DayOfWeek => (time.div_euclid(DAY) + 4).rem_euclid(7),
                    ClockField::Hours => time.rem_euclid(DAY) / 3600,
                    ClockField::Minutes => time.rem_euclid(3600) / MINUTE,
                })
            }
        }
    }
}

/// Divides all times. Between two limits every minute of a week is tried; all offsets are whole minutes.
pub(crate) fn divide_times(atoms: &[ClockAtom]) -> Classes<i64> {
    let limits: BTreeSet<i64> = atoms
        .iter()
        .filter_map(|atom| match atom {
            ClockAtom::Before(limit) => Some(*limit),
            ClockAtom::Field(..) => None,
        })
        .collect();
    let limits: Vec<i64> = limits.into_iter().collect();
    let mut candidates = Vec::new();
    let mut week = |from: i64, to: Option<i64>| {
        candidates.push(from);
        let mut time = (from.div_euclid(MINUTE) + 1) * MINUTE;
        let end = from.saturating_add(WEEK + MINUTE);
        let end = to.map_or(end, |to| to.min(end));
        while time < end {
            candidates.push(time);
            time += MINUTE;
        }
    };
    match limits.as_slice() {
        [] => week(A_MONDAY, None),
        [first, ..] => {
            week(first.saturating_sub(WEEK + 2 * MINUTE), Some(*first));
            for (at, limit) in limits.iter().enumerate() {
                week(*limit, limits.get(at + 1).copied());
            }
        }
    }
    divide(&candidates, atoms.len(), |time, atom| {
        atoms.get(atom).is_some_and(|atom| atom.holds(*time))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_and_days_are_those_of_the_calendar() {
        let noon = A_MONDAY;
        let field = |field, number| ClockAtom::Field(field, 0, NumberAtom::Is(number));
        assert!(field(ClockField::DayOfWeek, 1).holds(noon));
        assert!(field(ClockField::Hours, 12).holds(noon));
        assert!(ClockAtom::Field(ClockField::Hours, 7200, NumberAtom::Is(14)).holds(noon));
        let classes = divide_times(&[
            ClockAtom::Field(ClockField::Hours, 0, NumberAtom::Below(6)),
            field(ClockField::DayOfWeek, 0),
            ClockAtom::Before(noon),
        ]);
        assert_eq!(classes.examples.len(), 8, "every combination can be");
    }
}
