//! Times as RFC 3339 in UTC with milliseconds, cheaply: what belongs to the second is kept for the next line.

use std::time::{SystemTime, UNIX_EPOCH};

use bartizan_types::DateTime;

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
            let seconds = i64::try_from(since.as_secs()).unwrap_or_default();
            let text = DateTime::from_unix(seconds, 0).to_string();
            let text = text.strip_suffix("000Z").unwrap_or_default();
            self.prefix.push(b'"');
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
}
