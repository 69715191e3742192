//! What people read: tables, colours where there is a terminal, quantities.

use std::io::IsTerminal as _;

use bartizan_types::DateTime;

/// Rows in columns that are as wide as their widest cell; the last column is free.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let last = head.len().saturating_sub(1);
    let mut out = String::new();
    let mut line = |cells: &mut dyn Iterator<Item = &str>| {
        for (column, (cell, width)) in cells.zip(&widths).enumerate() {
            if column > 0 {
                out.push_str("  ");
            }
            out.push_str(cell);
            if column < last {
                out.extend(std::iter::repeat_n(' ', width - cell.chars().count()));
            }
        }
        while out.ends_with(' ') {
            out.pop();
        }
        out.push('\n');
    };
    line(&mut head.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
    out
}

/// How findings are drawn on standard error.
pub(crate) fn paint() -> bartizan_config::finding::Paint {
    if std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none() {
        bartizan_config::finding::Paint::Ansi
    } else {
        bartizan_config::finding::Paint::Plain
    }
}

/// `3m12s`, `5 ms`.
pub(crate) fn duration(duration: std::time::Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{} ms", duration.as_millis()),
        1..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{}m{}s", seconds / 60, seconds % 60),
        _ => format!("{}h{}m", seconds / 3600, seconds / 60 % 60),
    }
}

/// Seconds since 1970 of an RFC 3339 time in UTC, such as `2026-01-05T12:00:00Z`; fractions do not count.
pub(crate) fn parse_time(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-');
    let mut time = time.split('.').next()?.splitn(3, ':');
    let mut part = |most: u8| -> Option<u8> { time.next()?.parse().ok().filter(|part| *part <= most) };
    let (hour, minute, second) = (part(23)?, part(59)?, part(59)?);
    let (year, month, day) = (date.next()?, date.next()?, date.next()?);
    let moment = DateTime {
        year: year.parse().ok()?,
        month: month.parse().ok()?,
        day: day.parse().ok()?,
        hour,
        minute,
        second,
        millisecond: 0,
    };
    // A day that is not in the calendar comes back as another one.
    let seconds = moment.to_unix();
    (DateTime::from_unix(seconds, 0) == moment).then_some(seconds)
}

/// [`parse_time`] for the command line.
pub(crate) fn time(text: &str) -> Result<i64, String> {
    parse_time(text).ok_or_else(|| format!("`{text}` is not a time such as 2026-01-05T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    #[test]
    fn columns_line_up_and_nothing_trails() {
        let rows = [
            vec!["a".to_owned(), "bb".to_owned()],
            vec!["ccc".to_owned(), String::new()],
        ];
        assert_eq!(super::table(&["x", "y"], &rows), "x    y\na    bb\nccc\n");
    }
}
