//! The law of places inside of texts: whatever the style of the scalar, what is wrong with an expression or with YAML in it is
//! shown where that stands in the file.

use bartizan_config::{SourceFile, read};
use proptest::prelude::*;

/// How a text is written.
#[derive(Clone, Copy, Debug)]
enum Style {
    Json,
    /// JSON with every letter outside of ASCII, and some within, as an escape.
    Escaped,
    Single,
    Literal,
    /// Folded, broken at single blanks.
    Folded,
}

fn written(text: &str, style: Style, indent: usize) -> String {
    let blanks = " ".repeat(indent);
    match style {
        Style::Json => serde_json::to_string(text).expect("a text is JSON"),
        Style::Escaped => {
            let escape = |c: char| match c {
                'e' => "\\x65".to_owned(),
                'o' => "\\u006f".to_owned(),
                ' ' => "\\x20".to_owned(),
                '\n' => "\\n".to_owned(),
                '"' => "\\\"".to_owned(),
                '\\' => "\\\\".to_owned(),
                c if c.is_ascii() => c.to_string(),
                c => format!("\\U{:08x}", u32::from(c)),
            };
            format!("\"{}\"", text.chars().map(escape).collect::<String>())
        }
        // A line break in quotes is folded, so that two stand for one.
        Style::Single => format!(
            "'{}'",
            text.replace('\'', "''").replace('\n', &format!("\n\n{blanks}"))
        ),
        Style::Literal => {
            let lines: Vec<String> = text.split('\n').map(|line| format!("{blanks}{line}")).collect();
            format!("|-\n{}", lines.join("\n"))
        }
        Style::Folded => {
            let lines: Vec<String> = text
                .split('\n')
                .map(|line| format!("{blanks}{}", line.replace(" && ", &format!("\n{blanks}&& "))))
                .collect();
            format!(">-\n{}", lines.join(&format!("\n{blanks}\n")))
        }
    }
}

/// What stands in the file at a finding's place.
fn shown(text: &str, line: u32, column: u32) -> String {
    let line = usize::try_from(line - 1).expect("it fits");
    let column = usize::try_from(column - 1).expect("it fits");
    let line = text.split('\n').nth(line).unwrap_or_default();
    line.chars().skip(column).collect()
}

fn styles() -> impl Strategy<Value = Style> {
    prop_oneof![
        Just(Style::Json),
        Just(Style::Escaped),
        Just(Style::Single),
        Just(Style::Literal),
        Just(Style::Folded)
    ]
}

proptest! {
    #[test]
    fn a_wrong_name_in_an_expression_is_found_in_every_style(
        parts in prop::collection::vec(prop_oneof![
            Just("source.ip != \"it's\""),
            Just("'ä€𝄞' != source.ip"),
            Just("source.labels[\"a\"] == \"b\\\\c\""),
            Just("(source.authenticated)"),
            Just("\"#|>\" == source.workload"),
        ], 0..5),
        breaks in prop::collection::vec(any::<bool>(), 6),
        style in styles(),
        indent in 12usize..20,
    ) {
        let mut expression = String::new();
        for (part, ends) in parts.iter().zip(&breaks) {
            expression += part;
            expression += if *ends { " &&\n" } else { " && " };
        }
        expression += "zzq == 1";
        let text = format!(
            "apiVersion: bartizan.dev/v1alpha1\nkind: AccessRule\nmetadata: {{name: a}}\nspec:\n  action: DENY\n  rules:\n    - when: {}\n",
            written(&expression, style, indent)
        );
        let reading = read(&SourceFile::new("f.yaml", text.as_str()));
        prop_assert_eq!(reading.findings.len(), 1, "{} {:?}", text, reading.findings);
        let finding = &reading.findings[0];
        prop_assert_eq!(finding.code.id, "BZ0125");
        let shown = shown(&text, finding.position.line, finding.position.column);
        prop_assert!(shown.starts_with("zzq"), "{} shows {:?}", text, shown);
        prop_assert_eq!(finding.length, Some(3));
    }

    #[test]
    fn an_unknown_field_of_the_mesh_is_found_in_every_style(
        before in prop::collection::vec(prop_oneof![
            Just("trustDomain: td"),
            Just("# it's a \"comment\""),
            Just("pathNormalization: {normalization: 'BASE'}"),
            Just("extensionProviders: [] # ä"),
        ], 0..4),
        style in prop_oneof![Just(Style::Json), Just(Style::Escaped), Just(Style::Single), Just(Style::Literal)],
        indent in 4usize..9,
    ) {
        let mut lines: Vec<&str> = Vec::new();
        for line in before {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        lines.push("zzq: 1");
        let text = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio}}\ndata:\n  mesh: {}\n",
            written(&lines.join("\n"), style, indent)
        );
        let reading = read(&SourceFile::new("f.yaml", text.as_str()));
        prop_assert_eq!(reading.findings.len(), 1, "{} {:?}", text, reading.findings);
        let finding = &reading.findings[0];
        prop_assert_eq!(finding.code.id, "BZ0110");
        let shown = shown(&text, finding.position.line, finding.position.column);
        prop_assert!(shown.starts_with("zzq"), "{} shows {:?}", text, shown);
    }
}
