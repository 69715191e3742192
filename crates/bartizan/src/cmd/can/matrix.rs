//! The authorization matrix: callers by callees, with the policy behind each cell (NIST SP 800-53 AC-3, AC-4, AC-6), as a
//! table, CSV, JSON and a picture.

use serde_json::{Value, json};

use super::ways::{Map, Way};
use crate::text;

/// As tables for people: who may call whom, then what each cell means.
pub(super) fn table(map: &Map) -> String {
    let head: Vec<String> = std::iter::once("CALLER".to_owned())
        .chain((1..=map.callees.len()).map(|number| format!("[{number}]")))
        .collect();
    let rows: Vec<Vec<String>> = map
        .callers
        .iter()
        .map(|from| {
            let cells = map.callees.iter().map(|callee| {
                let count = map.between(from, &callee.name).count();
                if count == 0 { "-" } else { "x" }.to_owned()
            });
            std::iter::once(from.clone()).chain(cells).collect()
        })
        .collect();
    let mut out = String::new();
    for (number, callee) in (1..).zip(&map.callees) {
        let note = match (callee.policies, callee.is_gateway) {
            (0, _) => "  (no policy selects it)",
            (_, true) => "  (gateway)",
            (_, false) => "",
        };
        out += &format!("[{number}] {}{note}\n", callee.name);
    }
    out.push('\n');
    let head: Vec<&str> = head.iter().map(String::as_str).collect();
    out += &text::table(&head, &rows);
    out.push('\n');
    let rows: Vec<Vec<String>> = map
        .ways
        .iter()
        .map(|way| vec![way.from.clone(), way.to.clone(), way.asked(), way.ruled()])
        .collect();
    out += &text::table(&["CALLER", "CALLEE", "MAY ASK", "BY"], &rows);
    for problem in &map.problems {
        out += &format!("not looked through: {problem}\n");
    }
    out
}

/// One line for each way (RFC 4180).
pub(super) fn csv(map: &Map) -> String {
    let mut out = String::from("caller,callee,may_ask,rule,place,depends_on\r\n");
    for way in &map.ways {
        let rule = way
            .rule
            .as_ref()
            .map_or_else(|| "profile".to_owned(), crate::cmd::prove::example::rule_words);
        let cells = [
            way.from.clone(),
            way.to.clone(),
            way.asked(),
            rule,
            way.place.clone().unwrap_or_default(),
            way.unless.join("; "),
        ];
        out += &cells.map(|cell| csv_cell(&cell)).join(",");
        out += "\r\n";
    }
    out
}

/// A spreadsheet must not take what a document says for a formula.
fn csv_cell(cell: &str) -> String {
    let cell = if cell.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{cell}")
    } else {
        cell.to_owned()
    };
    if cell.contains([',', '"', '\n', '\r']) {
        format!("\"{}\"", cell.replace('"', "\"\""))
    } else {
        cell
    }
}

/// For programs.
pub(super) fn to_json(map: &Map) -> Value {
    json!({
        "callers": map.callers,
        "callees": map.callees.iter().map(|callee| json!({
            "name": callee.name,
            "identity": callee.identity,
            "gateway": callee.is_gateway,
            "policies": callee.policies,
        })).collect::<Vec<_>>(),
        "ways": map.ways.iter().map(Way::to_json).collect::<Vec<_>>(),
        "notLookedThrough": map.problems,
    })
}

const CELL: usize = 26;
const LETTER: usize = 8;
const TOP: usize = 40;

/// As a picture: a filled cell is a way, its title tells what and by which line.
pub(super) fn svg(map: &Map) -> String {
    let longest = |names: &mut dyn Iterator<Item = usize>| names.max().unwrap_or_default() * LETTER;
    let left = longest(&mut map.callers.iter().map(|name| name.chars().count())) + 30;
    // The names stand at sixty degrees.
    let slanted = longest(&mut map.callees.iter().map(|callee| callee.name.chars().count()));
    let above = slanted * 4 / 5 + TOP;
    let width = left + map.callees.len() * CELL + 40 + slanted / 2;
    let height = above + map.callers.len() * CELL + 60;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"13\">\n<title>Who may call whom</title>\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#ffffff\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"16\" font-weight=\"bold\">Who may call whom</text>\n"
    );
    for (at, callee) in map.callees.iter().enumerate() {
        let (x, y) = (left + at * CELL + CELL / 2, above - 8);
        let weight = if callee.is_gateway {
            " font-weight=\"bold\""
        } else {
            ""
        };
        out += &format!(
            "<text x=\"{x}\" y=\"{y}\" transform=\"rotate(-60 {x} {y})\"{weight}>{}</text>\n",
            escaped(&callee.name)
        );
    }
    for (row, from) in map.callers.iter().enumerate() {
        let y = above + row * CELL;
        out += &format!(
            "<text x=\"{}\" y=\"{}\" text-anchor=\"end\">{}</text>\n",
            left - 8,
            y + CELL / 2 + 5,
            escaped(from)
        );
        for (column, callee) in map.callees.iter().enumerate() {
            let ways: Vec<&Way> = map.between(from, &callee.name).collect();
            let fill = match ways.as_slice() {
                [] => "#f1f3f5",
                ways if ways.iter().any(|way| way.what.is_empty()) => "#c2410c",
                _ => "#1d6fa5",
            };
            let told: Vec<String> = ways
                .iter()
                .map(|way| format!("{}: {}", way.asked(), way.ruled()))
                .collect();
            let told = if told.is_empty() {
                "nothing".to_owned()
            } else {
                told.join("\n")
            };
            out += &format!(
                "<rect x=\"{}\" y=\"{y}\" width=\"{}\" height=\"{}\" fill=\"{fill}\" stroke=\"#ffffff\"><title>{}</title></rect>\n",
                left + column * CELL,
                CELL,
                CELL,
                escaped(&format!("{from} to {}: {told}", callee.name))
            );
        }
    }
    let y = above + map.callers.len() * CELL + 24;
    for (at, (fill, word)) in [
        ("#1d6fa5", "what a rule limits"),
        ("#c2410c", "anything"),
        ("#f1f3f5", "nothing"),
    ]
    .into_iter()
    .enumerate()
    {
        let x = 20 + at * 160;
        out += &format!(
            "<rect x=\"{x}\" y=\"{y}\" width=\"14\" height=\"14\" fill=\"{fill}\"/><text x=\"{}\" y=\"{}\">{word}</text>\n",
            x + 20,
            y + 12
        );
    }
    out += "</svg>\n";
    out
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            // XML has no other control characters.
            character if character.is_control() && character != '\n' => out.push(' '),
            character => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_stay_cells_and_texts_stay_texts() {
        assert_eq!(csv_cell("a"), "a");
        assert_eq!(csv_cell("a,\"b\""), "\"a,\"\"b\"\"\"");
        assert_eq!(csv_cell("=cmd()"), "'=cmd()");
        assert_eq!(escaped("<a & \"b\">\u{1}"), "&lt;a &amp; &quot;b&quot;&gt; ");
    }
}
