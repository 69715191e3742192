//! Patterns of `matches`: RE2 syntax with RE2's meaning, on a regex engine that needs linear time too.

use std::sync::Arc;

/// A compiled pattern. Two are equal when they are written alike.
#[derive(Clone, Debug)]
pub struct Pattern {
    written: Arc<str>,
    regex: regex::Regex,
}

/// Bytes of memory that a compiled pattern may take.
const MOST_BYTES: usize = 256 * 1024;

impl Pattern {
    /// # Errors
    /// Why the text is no pattern of RE2, or that it needs too much memory.
    pub(crate) fn compile(text: &str) -> Result<Self, String> {
        let regex = regex::RegexBuilder::new(&translated(text)?)
            .size_limit(MOST_BYTES)
            .nest_limit(64)
            .build()
            .map_err(|error| match error {
                regex::Error::CompiledTooBig(_) => "it needs too much memory".to_owned(),
                error => error
                    .to_string()
                    .lines()
                    .last()
                    .unwrap_or_default()
                    .trim_start_matches("error: ")
                    .to_owned(),
            })?;
        Ok(Self {
            written: text.into(),
            regex,
        })
    }

    /// As written, in RE2 syntax.
    pub fn as_str(&self) -> &str {
        &self.written
    }

    /// The same for the `regex` crate, whose classes are Unicode where RE2's are ASCII.
    pub fn translated(&self) -> &str {
        self.regex.as_str()
    }

    /// Whether any part of `text` matches.
    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

/// RE2's `\d`, `\s`, `\w`, `\b` are ASCII, and inside brackets it knows neither classes nor set operations.
fn translated(text: &str) -> Result<String, String> {
    let mut out = String::with_capacity(text.len() + 16);
    let mut rest = text;
    let mut is_in_class = false;
    while let Some(next) = rest.chars().next() {
        let (head, tail) = rest.split_at(next.len_utf8());
        if next == '\\' {
            let Some(letter) = tail.chars().next() else {
                return Err("it ends with a backslash".to_owned());
            };
            rest = tail.get(letter.len_utf8()..).unwrap_or_default();
            match letter {
                'd' => out.push_str("[0-9]"),
                'D' => out.push_str("[^0-9]"),
                's' => out.push_str(r"[\t\n\f\r ]"),
                'S' => out.push_str(r"[^\t\n\f\r ]"),
                'w' => out.push_str("[0-9A-Za-z_]"),
                'W' => out.push_str("[^0-9A-Za-z_]"),
                'b' if !is_in_class => out.push_str(r"(?-u:\b)"),
                'B' | 'C' | 'Q' | 'E' | '<' | '>' => return Err(format!(r"`\{letter}` is not supported")),
                letter => {
                    out.push('\\');
                    out.push(letter);
                }
            }
            continue;
        }
        rest = tail;
        if !is_in_class {
            if next == '[' {
                is_in_class = true;
                out.push('[');
                let negation = tail.strip_prefix('^');
                if negation.is_some() {
                    out.push('^');
                }
                rest = negation.unwrap_or(tail);
                // A bracket right at the start is itself.
                if let Some(after) = rest.strip_prefix(']') {
                    out.push_str(r"\]");
                    rest = after;
                }
                continue;
            }
        } else if next == ']' {
            is_in_class = false;
        } else if next == '[' {
            match tail.strip_prefix(':').and_then(|name| name.split_once(":]")) {
                Some((name, after)) => {
                    out.push_str(&format!("[:{name}:]"));
                    rest = after;
                }
                None => out.push_str(r"\["),
            }
            continue;
        } else if ["&&", "--", "~~"]
            .iter()
            .any(|sign| rest_starts(head, tail, sign))
        {
            return Err(format!(
                "write `\\{next}` for `{next}` inside brackets where it stands twice"
            ));
        }
        out.push(next);
    }
    Ok(out)
}

fn rest_starts(head: &str, tail: &str, sign: &str) -> bool {
    sign.strip_prefix(head)
        .is_some_and(|second| tail.starts_with(second))
}

#[cfg(test)]
mod tests {
    use super::Pattern;

    #[test]
    fn classes_are_ascii_as_in_re2() {
        for (pattern, text, expected) in [
            (r"^\d+$", "12", true),
            (r"^\d+$", "१२", false),
            (r"^\w$", "é", false),
            (r"^[\w-]+$", "a-b_1", true),
            (r"^[^\d]$", "x", true),
            (r"^[\D]$", "1", false),
            (r"\bfoo\b", "a foo b", true),
            (r"^[[:alpha:]]+$", "abc", true),
            (r"^[[]$", "[", true),
            (r"^[]a]+$", "]a", true),
            ("(?i)^GET$", "get", true),
            ("a.c", "xabcx", true),
            ("^.$", "é", true),
        ] {
            let compiled = Pattern::compile(pattern).unwrap_or_else(|error| panic!("{pattern}: {error}"));
            assert_eq!(compiled.is_match(text), expected, "{pattern} on {text}");
        }
    }

    #[test]
    fn what_the_engines_read_differently_is_refused() {
        for pattern in [
            "(",
            r"\",
            r"[a&&b]",
            r"[a--b]",
            r"\Qa\E",
            r"(a)\1",
            "(?=a)",
            "a{1,100000}",
        ] {
            assert!(Pattern::compile(pattern).is_err(), "{pattern}");
        }
    }
}
