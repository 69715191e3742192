//! Times as RFC 3339 in UTC with milliseconds, cheaply: what belongs to the second is kept for the next line.

use std::time::{SystemTime, UNIX_EPOCH};

/// Writes times; keeps the text of the last second.
#[derive(Debug, Default)]
pub(crate) struct Timestamps {
    second: Option<u64>,
    prefix: Vec<u8>,
}

impl Timestamps {
    /// Appends `"2026-01-02T03:04:05.678Z"` with quotes. Times before 1970 are written as 1970.
    pub(crate) fn write(&mut self, out: &mut Vec<u8>, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if self.second != Some(since.as_secs()) {
            self.second = Some(since.as_secs());
            self.prefix.clear();
            let (days, rest) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
            let (year, month, day) = civil(days);
            let text = format!(
                "\"{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.",
                rest / 3600,
                rest / 60 % 60,
                rest % 60
            );
            self.prefix.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(&self.prefix);
        let millis = since.subsec_millis();
        for digit in [millis / 100, millis / 10 % 10, millis % 10] {
            out.push(b'0' + u8::try_from(digit).unwrap_or_default());
        }
        out.extend_from_slice(b"Z\"");
    }
}

/// Year, month and day of the Gregorian calendar, from days since 1970 (Howard Hinnant, "chrono-compatible low-level date algorithms").
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468; // from 0000-03-01
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn known_times_print_as_known() {
        let mut timestamps = Timestamps::default();
        let mut print = |millis: u64| {
            let mut out = Vec::new();
            timestamps.write(&mut out, UNIX_EPOCH + Duration::from_millis(millis));
            String::from_utf8(out).unwrap()
        };
        assert_eq!(print(0), "\"1970-01-01T00:00:00.000Z\"");
        assert_eq!(print(1_767_322_998_678), "\"2026-01-02T03:03:18.678Z\"");
        assert_eq!(print(1_767_322_998_999), "\"2026-01-02T03:03:18.999Z\"");
        assert_eq!(print(1_709_164_800_000), "\"2024-02-29T00:00:00.000Z\"");
        assert_eq!(print(4_107_542_399_001), "\"2100-02-28T23:59:59.001Z\"");
        assert_eq!(print(4_107_542_400_000), "\"2100-03-01T00:00:00.000Z\"");
    }

    #[test]
    fn every_day_is_the_day_after_the_day_before() {
        let mut before = civil(0);
        for days in 1..80_000 {
            let now = civil(days);
            assert!(now > before && now.1 <= 12 && now.2 <= 31, "{now:?}");
            assert!(now.2 == before.2 + 1 || now.2 == 1);
            before = now;
        }
    }
}
