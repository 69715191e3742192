//! Laws of reading: it never panics on any text, findings point into the file, and drawing them always works.

use std::sync::LazyLock;

use bartizan_config::finding::{Paint, render_all, to_json};
use bartizan_config::{Reading, SourceFile, read};
use proptest::prelude::*;

const TABLES: &[&str] = &[
    include_str!("../../../../cases/config/access_rule.yaml"),
    include_str!("../../../../cases/config/authorization_policy.yaml"),
    include_str!("../../../../cases/config/gateway_api.yaml"),
    include_str!("../../../../cases/config/kinds.yaml"),
    include_str!("../../../../cases/config/marks.yaml"),
    include_str!("../../../../cases/config/mesh_config.yaml"),
    include_str!("../../../../cases/config/native.yaml"),
    include_str!("../../../../cases/config/peer_authentication.yaml"),
    include_str!("../../../../cases/config/profiles_tests_and_claims.yaml"),
    include_str!("../../../../cases/config/request_authentication.yaml"),
    include_str!("../../../../cases/config/services.yaml"),
    include_str!("../../../../cases/config/workloads.yaml"),
    include_str!("../../../../cases/config/yaml.yaml"),
];

#[derive(serde::Deserialize)]
struct Table {
    cases: Vec<Case>,
}

#[derive(serde::Deserialize)]
struct Case {
    text: String,
}

/// The text of every case.
static TEXTS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let table =
        |text: &&str| serde_saphyr::from_str::<Table>(text).expect("the tables are read by their own test");
    let cases = TABLES.iter().flat_map(|text| table(text).cases);
    cases.map(|case| case.text).collect()
});

/// The texts without an error.
static GOOD: LazyLock<Vec<&str>> = LazyLock::new(|| {
    let good = |text: &&str| !check(text).has_errors();
    TEXTS.iter().map(String::as_str).filter(good).collect()
});

/// Texts of one document each, and the JSON of the same values.
static AS_JSON: LazyLock<Vec<(&str, serde_json::Value)>> = LazyLock::new(|| {
    let json = |text: &&'static str| Some((*text, serde_saphyr::from_str(text).ok()?));
    // Where serde_saphyr reads a value otherwise: merge keys and octal numbers.
    let same = |text: &&&str| !text.contains("<<") && !text.contains("0600") && !text.contains("kind: List");
    let pairs: Vec<_> = GOOD.iter().filter(same).filter_map(json).collect();
    let pairs: Vec<_> = pairs
        .into_iter()
        .filter(|(text, _)| check(text).documents.len() == 1)
        .collect();
    assert!(pairs.len() > 10, "{}", pairs.len());
    pairs
});

fn check(text: &str) -> Reading {
    let file = SourceFile::new("f.yaml", text);
    let reading = read(&file);
    // YAML breaks lines at `\n`, `\r\n` and `\r`; the end of the text may be one further line.
    let lines = text.replace("\r\n", "\n").split(['\n', '\r']).count();
    for finding in &reading.findings {
        let line = usize::try_from(finding.position.line).expect("a line number fits");
        assert!(
            line >= 1 && line <= lines + 1,
            "line {line} of {lines}: {finding:?}"
        );
        assert!(
            finding.position.column >= 1 && finding.length != Some(0),
            "{finding:?}"
        );
    }
    let drawn = render_all(&reading.findings, Paint::Plain);
    assert!(
        !drawn.contains(|c: char| c.is_control() && c != '\n'),
        "{drawn:?}"
    );
    assert!(drawn.len() <= reading.findings.len() * 8_000, "{}", drawn.len());
    assert!(to_json(&reading.findings).is_array());
    for document in &reading.documents {
        document
            .positions
            .position("spec.rules[0].from[1].source.principals[0]");
        document.positions.position("metadata.labels[\"a.b/c\"]");
    }
    reading
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in any::<String>()) {
        check(&text);
    }

    #[test]
    fn text_of_yaml_characters_is_read_or_refused(text in "[-a:{}\\[\\]\"'#&*!|>%@ ,?\n\r\t0~\u{feff}é]{0,200}") {
        check(&text);
    }

    #[test]
    fn documents_with_a_changed_piece_are_read_or_refused(
        which in any::<prop::sample::Index>(),
        at in any::<prop::sample::Index>(),
        length in 0usize..12,
        piece in prop_oneof![
            "[-a:{}\\[\\]\"'#&*!|>%@ ,?\n\t0~]{0,8}",
            Just("null".to_owned()), Just("yes".to_owned()), Just("[]".to_owned()), Just("{}".to_owned()),
            Just("-1".to_owned()), Just("99999999999999999999".to_owned()), Just("&a *a".to_owned()), Just("\"\\e[2J\"".to_owned()),
        ],
    ) {
        let text = which.get(&TEXTS);
        let chars: Vec<char> = text.chars().collect();
        let start = at.index(chars.len() + 1);
        let end = (start + length).min(chars.len());
        let changed: String = chars[..start].iter().copied().chain(piece.chars()).chain(chars[end..].iter().copied()).collect();
        check(&changed);
    }

    /// A file's documents do not depend on what stands before them.
    #[test]
    fn files_can_be_joined(left in any::<prop::sample::Index>(), right in any::<prop::sample::Index>()) {
        let (left, right) = (left.get(&GOOD), right.get(&GOOD));
        let joined = check(&format!("{left}\n---\n{right}"));
        let apart: Vec<_> = [left, right].iter().flat_map(|text| check(text).documents).collect();
        prop_assert_eq!(joined.documents.len(), apart.len());
        for (one, other) in joined.documents.iter().zip(&apart) {
            prop_assert_eq!(&one.reference, &other.reference);
            prop_assert_eq!(&one.resource, &other.resource);
        }
    }

    /// YAML and the JSON of the same values are the same documents.
    #[test]
    fn json_is_read_as_yaml_is(which in any::<prop::sample::Index>(), pretty in any::<bool>()) {
        let (text, value) = which.get(&AS_JSON);
        let json = if pretty { serde_json::to_string_pretty(value) } else { serde_json::to_string(value) };
        let from_json = check(&json.expect("a value is JSON"));
        let from_yaml = check(text);
        prop_assert_eq!(from_json.documents.len(), 1, "{:?}", from_json.findings);
        prop_assert_eq!(&from_json.documents[0].resource, &from_yaml.documents[0].resource);
    }
}

#[test]
fn bombs_are_findings() {
    let levels = 200;
    let deep = format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    assert_eq!(check(&deep).findings[0].code.id, "BZ0104");
    let mut deep = String::new();
    for level in 0..levels {
        deep += &format!("{}a:\n", " ".repeat(level));
    }
    assert_eq!(check(&deep).findings[0].code.id, "BZ0104");

    let mut laughs = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let alias = format!("*a{}, ", level - 1).repeat(10);
        laughs += &format!("a{level}: &a{level} [{alias}]\n");
    }
    let reading = check(&laughs);
    assert!(reading.findings.iter().any(|finding| finding.code.id == "BZ0104"));

    let mut stairs = String::from("a0: &a0 [x]\n");
    for level in 1..2000 {
        stairs += &format!("a{level}: &a{level} [*a{}]\n", level - 1);
    }
    assert!(
        check(&stairs)
            .findings
            .iter()
            .any(|finding| finding.code.id == "BZ0104")
    );

    let many = "- a\n---\n".repeat(20_000);
    let reading = check(&many);
    assert!(
        reading.has_errors() && reading.findings.len() <= 1_001,
        "{}",
        reading.findings.len()
    );

    let large = " ".repeat(bartizan_config::LARGEST_FILE_BYTES + 1);
    assert_eq!(check(&large).findings[0].code.id, "BZ0101");
}

#[test]
fn long_lines_are_read() {
    let data: Vec<String> = (0..5_000)
        .map(|key| format!("\"key-{key}\": \"{}\"", "x".repeat(100)))
        .collect();
    let text = format!(
        "{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"c\"}}, \"data\": {{{}}}}}",
        data.join(", ")
    );
    let reading = check(&text);
    assert!(reading.findings.is_empty(), "{:?}", reading.findings);
}

#[test]
fn texts_inside_of_documents_are_bounded() {
    let mesh = |text: &str| {
        let text = serde_json::to_string(text).expect("a text is JSON");
        check(&format!(
            "{{\"apiVersion\": \"v1\", \"kind\": \"ConfigMap\", \"metadata\": {{\"name\": \"istio\"}}, \"data\": {{\"mesh\": {text}}}}}"
        ))
    };
    let found = |reading: Reading| {
        reading
            .findings
            .into_iter()
            .map(|finding| finding.code.id)
            .collect::<Vec<_>>()
    };
    assert_eq!(found(mesh(&" ".repeat(1 << 20))), Vec::<&str>::new());
    assert_eq!(found(mesh(&" ".repeat((1 << 20) + 1))), ["BZ0101"]);
    assert_eq!(found(mesh(&"[".repeat(200))), ["BZ0104"]);
    let many = "a: b\n".repeat(1000);
    assert_eq!(
        found(mesh(&many)).len(),
        21,
        "20 of a thousand, and the field that does not exist"
    );

    let token = |jwks: &str| {
        let jwks = serde_json::to_string(jwks).expect("a text is JSON");
        check(&format!(
            "apiVersion: security.istio.io/v1\nkind: RequestAuthentication\nmetadata: {{name: a}}\nspec: {{jwtRules: [{{issuer: a, audiences: [b], jwks: {jwks}}}]}}\n"
        ))
    };
    let key = r#"{"kty":"OKP","crv":"Ed25519","x":"AA"}"#;
    let set = |keys: usize| format!("{{\"keys\": [{}]}}", vec![key; keys].join(","));
    assert_eq!(found(token(&set(256))), Vec::<&str>::new());
    assert_eq!(found(token(&set(257))), ["BZ0116"]);
    assert_eq!(found(token(&" ".repeat((1 << 20) + 1))), ["BZ0101"]);
    assert_eq!(found(token(&"[".repeat(100_000))), ["BZ0114"]);

    let expression = "!".repeat(100_000);
    let reading = check(&format!(
        "apiVersion: bartizan.dev/v1alpha1\nkind: AccessRule\nmetadata: {{name: a}}\nspec: {{action: DENY, rules: [{{when: '{expression}'}}, {{when: '{}'}}]}}\n",
        "(".repeat(8_000)
    ));
    assert_eq!(found(reading), ["BZ0125", "BZ0125"]);
}
