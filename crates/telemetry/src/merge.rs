//! Merges the metrics of many proxies into one page, as one scrape of all of them would have stored them.

use std::collections::BTreeMap;

use crate::encode::{family, label, sample};
use crate::families;

/// Whose metrics a page is: the labels that a Prometheus with Kubernetes discovery would put on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The pod's namespace.
    pub namespace: String,
    /// The pod's name.
    pub pod: String,
    /// Its label `app`; empty when there is none.
    pub app: String,
}

/// Why a text is not in Prometheus' text format.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} is not in Prometheus' text format: {reason}")]
pub struct ParseError {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub reason: &'static str,
}

/// A page, taken apart. Text is borrowed from it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exposition<'a> {
    /// Family name to help text.
    pub help: BTreeMap<&'a str, &'a str>,
    /// Family name to type.
    pub kind: BTreeMap<&'a str, &'a str>,
    /// In the order of the page.
    pub samples: Vec<Sample<'a>>,
}

/// One line with a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sample<'a> {
    /// The name, with its suffix.
    pub name: &'a str,
    /// Names and values, the values still escaped.
    pub labels: Vec<(&'a str, &'a str)>,
    /// The value and, where there is one, the timestamp, as written.
    pub value: &'a str,
}

impl<'a> Exposition<'a> {
    /// Takes a page apart.
    ///
    /// # Errors
    /// [`ParseError`] for the first line that is neither comment nor sample.
    pub fn parse(text: &'a str) -> Result<Self, ParseError> {
        let mut page = Self::default();
        for (at, line) in text.lines().enumerate() {
            let error = |reason| ParseError { line: at + 1, reason };
            let line = line.trim();
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.trim_start().splitn(3, ' ');
                if let (Some(word), Some(name)) = (words.next(), words.next()) {
                    let rest = words.next().unwrap_or_default();
                    match word {
                        "HELP" => page.help.insert(name, rest),
                        "TYPE" => page.kind.insert(name, rest.trim()),
                        _ => None,
                    };
                }
            } else if !line.is_empty() {
                page.samples.push(parse_sample(line).map_err(error)?);
            }
        }
        Ok(page)
    }
}

fn parse_sample(line: &str) -> Result<Sample<'_>, &'static str> {
    let (name, mut rest) = split_name(line, true).ok_or("no metric name")?;
    let mut labels = Vec::new();
    if let Some(inside) = rest.trim_start().strip_prefix('{') {
        rest = inside.trim_start();
        loop {
            if let Some(after) = rest.strip_prefix('}') {
                rest = after;
                break;
            }
            let (key, after) = split_name(rest, false).ok_or("no label name")?;
            let after = after
                .trim_start()
                .strip_prefix('=')
                .ok_or("no `=` after a label name")?;
            let after = after
                .trim_start()
                .strip_prefix('"')
                .ok_or("no `\"` before a label value")?;
            let end = value_end(after).ok_or("a label value without an end")?;
            let (value, after) = (after.get(..end), after.get(end + 1..));
            let (Some(value), Some(after)) = (value, after) else {
                return Err("a label value without an end");
            };
            labels.push((key, value));
            rest = after.trim_start();
            if let Some(after) = rest.strip_prefix(',') {
                rest = after.trim_start();
            } else if !rest.starts_with('}') {
                return Err("neither `,` nor `}` after a label");
            }
        }
    } else if !rest.starts_with([' ', '\t']) {
        return Err("nothing between name and value");
    }
    let value = rest.trim();
    let mut words = value.split_ascii_whitespace();
    let number = words.next().ok_or("no value")?;
    if !is_number(number) {
        return Err("the value is not a number");
    }
    if words.next().is_some_and(|stamp| stamp.parse::<f64>().is_err()) || words.next().is_some() {
        return Err("the timestamp is not a number");
    }
    Ok(Sample { name, labels, value })
}

fn is_number(text: &str) -> bool {
    matches!(text, "+Inf" | "-Inf" | "NaN") || text.parse::<f64>().is_ok()
}

/// Splits a metric's or label's name off the front; colons belong to metric names only.
fn split_name(text: &str, metric: bool) -> Option<(&str, &str)> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || (metric && c == ':')))
        .unwrap_or(text.len());
    let (name, rest) = text.split_at_checked(end)?;
    let first = name.chars().next()?;
    (!first.is_ascii_digit()).then_some((name, rest))
}

/// Where the closing quote is.
fn value_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, byte) in text.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// Writes one page of all targets' pages: each sample gets its target's `namespace`, `pod` and `app`, and where it has such a label
/// itself, that is renamed to `exported_…`, as Prometheus does. A page that is absent or unreadable is left out, and
/// `bartizan_scrape_up` says so.
pub fn merge<'a>(pages: impl IntoIterator<Item = (Target, Option<&'a str>)>) -> String {
    let mut help: BTreeMap<&str, &str> = BTreeMap::new();
    let mut kind: BTreeMap<&str, &str> = BTreeMap::new();
    let mut lines: BTreeMap<&str, String> = BTreeMap::new();
    let mut up = String::new();
    for (target, text) in pages {
        let own = target_labels(&target);
        let page = text.and_then(|text| Exposition::parse(text).ok());
        sample(&mut up, families::SCRAPE_UP.name, &own, u8::from(page.is_some()));
        let Some(page) = page else { continue };
        for (name, text) in &page.help {
            help.entry(name).or_insert(text);
        }
        for (name, text) in &page.kind {
            kind.entry(name).or_insert(text);
        }
        for one in &page.samples {
            let labels = joined(&own, one);
            sample(
                lines.entry(family_of(one.name, &page)).or_default(),
                one.name,
                &labels,
                one.value,
            );
        }
    }
    let mut text = String::new();
    for (name, samples) in &lines {
        family(
            &mut text,
            name,
            help.get(name).copied().unwrap_or_default(),
            kind.get(name).copied().unwrap_or("untyped"),
        );
        text.push_str(samples);
    }
    if !up.is_empty() {
        family(
            &mut text,
            families::SCRAPE_UP.name,
            families::SCRAPE_UP.help,
            "gauge",
        );
        text.push_str(&up);
    }
    text
}

fn target_labels(target: &Target) -> String {
    let mut out = String::new();
    label(&mut out, "namespace", &target.namespace);
    label(&mut out, "pod", &target.pod);
    if !target.app.is_empty() {
        label(&mut out, "app", &target.app);
    }
    out
}

fn joined(own: &str, sample: &Sample<'_>) -> String {
    let mut out = String::with_capacity(own.len() + 1024);
    for (name, value) in &sample.labels {
        if matches!(*name, "namespace" | "pod" | "app") {
            out.push_str("exported_");
        }
        out.push_str(name);
        out.push_str("=\"");
        out.push_str(value);
        out.push_str("\",");
    }
    out.push_str(own);
    out
}

/// The family that a sample belongs to: histograms and summaries have suffixes.
fn family_of<'a>(name: &'a str, page: &Exposition<'a>) -> &'a str {
    for suffix in ["_bucket", "_sum", "_count"] {
        if let Some(base) = name.strip_suffix(suffix)
            && matches!(page.kind.get(base), Some(&("histogram" | "summary")))
        {
            return base;
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn target(pod: &str) -> Target {
        Target {
            namespace: "shop".to_owned(),
            pod: pod.to_owned(),
            app: "cart".to_owned(),
        }
    }

    #[test]
    fn two_pages_become_one_with_target_labels() {
        let one = "# HELP a_total Things.\n# TYPE a_total counter\na_total{x=\"1\"} 3\n";
        let two = "# TYPE a_total counter\na_total{pod=\"q\\\"\"} 4 1700000000000\nb 1\n";
        let page = merge([
            (target("p1"), Some(one)),
            (target("p2"), Some(two)),
            (target("p3"), Some("no page")),
            (target("p4"), None),
        ]);
        assert_eq!(
            page,
            "# HELP a_total Things.\n# TYPE a_total counter\n\
             a_total{x=\"1\",namespace=\"shop\",pod=\"p1\",app=\"cart\"} 3\n\
             a_total{exported_pod=\"q\\\"\",namespace=\"shop\",pod=\"p2\",app=\"cart\"} 4 1700000000000\n\
             # HELP b \n# TYPE b untyped\n\
             b{namespace=\"shop\",pod=\"p2\",app=\"cart\"} 1\n\
             # HELP bartizan_scrape_up Whether the target's metrics could be read for the merged page, 0 or 1.\n\
             # TYPE bartizan_scrape_up gauge\n\
             bartizan_scrape_up{namespace=\"shop\",pod=\"p1\",app=\"cart\"} 1\n\
             bartizan_scrape_up{namespace=\"shop\",pod=\"p2\",app=\"cart\"} 1\n\
             bartizan_scrape_up{namespace=\"shop\",pod=\"p3\",app=\"cart\"} 0\n\
             bartizan_scrape_up{namespace=\"shop\",pod=\"p4\",app=\"cart\"} 0\n"
        );
        Exposition::parse(&page).unwrap();
    }

    #[test]
    fn a_histogram_stays_together() {
        let text = "# TYPE h histogram\nh_bucket{le=\"1\"} 1\nh_bucket{le=\"+Inf\"} 2\nh_sum 3\nh_count 2\nh_other 1\n";
        let page = merge([(target("a"), Some(text)), (target("b"), Some(text))]);
        let parsed = Exposition::parse(&page).unwrap();
        let names: Vec<_> = parsed.samples.iter().map(|sample| sample.name).collect();
        assert_eq!(
            names[..8],
            [
                "h_bucket", "h_bucket", "h_sum", "h_count", "h_bucket", "h_bucket", "h_sum", "h_count"
            ]
        );
        assert_eq!(page.matches("# TYPE h histogram").count(), 1);
    }

    #[test]
    fn broken_lines_are_named() {
        for (text, line) in [
            ("a", 1),
            ("a 1\nb{", 2),
            ("a{x=1} 1", 1),
            ("a{x=\"1} 1", 1),
            ("a{x=\"1\" y=\"2\"} 1", 1),
            ("a x", 1),
            ("a 1 x", 1),
            ("a 1 2 3", 1),
            ("1a 1", 1),
        ] {
            assert_eq!(Exposition::parse(text).unwrap_err().line, line, "{text}");
        }
        assert_eq!(
            Exposition::parse("a{} +Inf\nb{x=\"\\\\\",} NaN 5")
                .unwrap()
                .samples
                .len(),
            2
        );
    }

    proptest! {
        #[test]
        fn any_page_is_merged_without_panic_into_a_readable_one(text in "([a-z{}=\"\\\\, #0-9.\n]|\\PC){0,200}") {
            let page = merge([(target("p"), Some(text.as_str()))]);
            prop_assert!(Exposition::parse(&page).is_ok());
        }

        #[test]
        fn labels_survive(values in proptest::collection::vec(".{0,20}", 0..4)) {
            let mut labels = String::new();
            for (at, value) in values.iter().enumerate() {
                label(&mut labels, &format!("l{at}"), value);
            }
            let mut text = String::new();
            sample(&mut text, "a", &labels, 1);
            // Prometheus splits lines at \n only; other line ends within a value stay.
            prop_assume!(!values.iter().any(|value| value.contains('\r')));
            let parsed = Exposition::parse(&text).unwrap();
            prop_assert_eq!(parsed.samples[0].labels.len(), values.len());
        }
    }
}
