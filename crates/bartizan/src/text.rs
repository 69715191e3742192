//! What people read: tables, colours where there is a terminal, quantities.

use std::io::IsTerminal as _;

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
