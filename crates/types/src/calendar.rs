//! Days and dates of the Gregorian calendar in UTC, without a clock.
//!
//! The arithmetic is that of Howard Hinnant, "chrono-compatible low-level date algorithms".

use std::fmt;

/// A date and a time of day in UTC; prints as RFC 3339 with milliseconds.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct DateTime {
    /// The year, such as 2026.
    pub year: i64,
    /// The month, from 1.
    pub month: u8,
    /// The day of the month, from 1.
    pub day: u8,
    /// The hour, from 0.
    pub hour: u8,
    /// The minute, from 0.
    pub minute: u8,
    /// The second, from 0; there are no leap seconds.
    pub second: u8,
    /// The millisecond, from 0.
    pub millisecond: u16,
}

impl DateTime {
    /// The date and time of `seconds` since 1970, and milliseconds below 1,000 on top.
    pub fn from_unix(seconds: i64, millisecond: u16) -> Self {
        let (days, of_day) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
        let (year, month, day) = civil_from_days(days);
        Self {
            year,
            month,
            day,
            hour: small(of_day / 3600),
            minute: small(of_day / 60 % 60),
            second: small(of_day % 60),
            millisecond,
        }
    }

    /// Seconds since 1970.
    pub fn to_unix(self) -> i64 {
        days_from_civil(self.year, self.month, self.day) * 86_400
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)
    }
}

impl fmt::Display for DateTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            year,
            month,
            day,
            hour,
            minute,
            second,
            millisecond,
        } = self;
        write!(
            f,
            "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z"
        )
    }
}

/// Year, month (from 1) and day (from 1) of a number of days since 1970-01-01.
pub fn civil_from_days(days: i64) -> (i64, u8, u8) {
    let shifted = days + 719_468; // from 0000-03-01
    let era = shifted.div_euclid(146_097);
    let day_of_era = shifted.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, small(month), small(day))
}

/// Days since 1970-01-01 of a date.
pub fn days_from_civil(year: i64, month: u8, day: u8) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = (i64::from(month) + 9) % 12;
    let day_of_year = (153 * month_from_march + 2) / 5 + i64::from(day) - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

fn small(value: i64) -> u8 {
    u8::try_from(value).unwrap_or_default() // every part of a date but the year is below 100
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_times_print_as_known() {
        for (seconds, milliseconds, text) in [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (-1, 0, "1969-12-31T23:59:59.000Z"),
            (951_782_400, 7, "2000-02-29T00:00:00.007Z"),
            (1_709_164_800, 0, "2024-02-29T00:00:00.000Z"),
            (1_767_322_998, 678, "2026-01-02T03:03:18.678Z"),
            (1_795_550_645, 120, "2026-11-24T20:04:05.120Z"),
            (4_107_542_399, 1, "2100-02-28T23:59:59.001Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(DateTime::from_unix(seconds, milliseconds).to_string(), text);
        }
    }

    #[test]
    fn every_day_is_the_day_after_the_day_before() {
        let mut before = civil_from_days(-1);
        for days in 0..80_000 {
            let now = civil_from_days(days);
            assert!(now > before && now.1 <= 12 && now.2 <= 31, "{now:?}");
            assert!(now.2 == before.2 + 1 || now.2 == 1);
            before = now;
        }
    }

    proptest! {
        #[test]
        fn there_and_back(seconds in -100_000_000_000_i64..200_000_000_000) {
            prop_assert_eq!(DateTime::from_unix(seconds, 0).to_unix(), seconds);
        }
    }
}
