//! Places inside of a text: a problem in an expression, in JSON or in YAML that stands in a scalar is shown at its own line
//! and column, in block scalars and quotes too.

use std::ops::Range;

use crate::field::Value;
use crate::finding::codes;
use crate::node::{Node, NodeKind, Quotes, parse};
use crate::sink::Sink;
use crate::source::{Position, SourceFile, Spot};

/// Where each character of a scalar's text stands in the file.
pub(crate) struct Inner {
    /// The byte where each character of the text starts, and where it stands; the last is the end of the text.
    places: Vec<(usize, Position)>,
}

impl Inner {
    /// The places of `text`, whose scalar starts at `start` (the first character of a block, the quote of a quoted text) and
    /// whose source goes on as `source` does.
    ///
    /// Blanks are folded, indented and escaped in ways that differ by style; all other characters stand in the source in
    /// the same order, so that those are counted.
    fn new(text: &str, source: &str, start: Position, quotes: Quotes) -> Self {
        let mut cursor = Cursor::new(source, start, quotes);
        let mut places = Vec::with_capacity(text.len() + 1);
        for (at, letter) in text.char_indices() {
            let place = if letter.is_whitespace() {
                cursor.position
            } else {
                cursor.next_visible()
            };
            places.push((at, place));
        }
        places.push((text.len(), cursor.position));
        Self { places }
    }

    /// What bytes of the text cover in the file; at least one character.
    pub(crate) fn spot(&self, range: Range<usize>) -> Spot {
        let first = self.index(range.start);
        let last = self.index(range.end.max(range.start));
        let at = |index: usize| {
            self.places
                .get(index)
                .map_or(Position::START, |(_, place)| *place)
        };
        let position = at(first);
        let end = at(last);
        let length = if last > first && end.line == position.line {
            end.column.saturating_sub(position.column)
        } else {
            1
        };
        Spot {
            position,
            length: length.max(1),
        }
    }

    /// The character that has this byte.
    fn index(&self, byte: usize) -> usize {
        self.places
            .partition_point(|(at, _)| *at < byte)
            .min(self.places.len().saturating_sub(1))
    }
}

/// A place in the source of a scalar.
struct Cursor<'a> {
    rest: &'a str,
    position: Position,
    quotes: Quotes,
}

impl<'a> Cursor<'a> {
    fn new(source: &'a str, position: Position, quotes: Quotes) -> Self {
        let mut cursor = Self {
            rest: source,
            position,
            quotes,
        };
        if quotes != Quotes::None {
            cursor.bump();
        }
        cursor
    }

    fn peek(&self) -> Option<char> {
        self.rest.chars().next()
    }

    fn bump(&mut self) -> Option<char> {
        let letter = self.peek()?;
        self.rest = self.rest.get(letter.len_utf8()..).unwrap_or_default();
        let ends_line = letter == '\n' || letter == '\r' && self.peek() != Some('\n');
        if ends_line {
            self.position.line = self.position.line.saturating_add(1);
            self.position.column = 1;
        } else {
            self.position.column = self.position.column.saturating_add(1);
        }
        Some(letter)
    }

    /// Goes behind the next character that is not blank, and says where it stands.
    fn next_visible(&mut self) -> Position {
        loop {
            let at = self.position;
            match self.next_letter() {
                Some(letter) if letter.is_whitespace() => {}
                Some(_) | None => return at,
            }
        }
    }

    /// The next character as the text has it.
    fn next_letter(&mut self) -> Option<char> {
        let letter = self.bump()?;
        match (self.quotes, letter) {
            (Quotes::Single, '\'') => {
                self.bump();
                Some('\'')
            }
            (Quotes::Double, '\\') => self.escape(),
            (Quotes::Single | Quotes::Double | Quotes::None, _) => Some(letter),
        }
    }

    /// What stands behind a backslash (YAML 1.2 §5.7).
    fn escape(&mut self) -> Option<char> {
        let digits = match self.bump()? {
            'n' | 't' | 'r' | 'v' | 'f' | '\n' | '\r' | 'N' | 'L' | 'P' | '_' => return Some(' '),
            'x' => 2,
            'u' => 4,
            'U' => 8,
            letter => return Some(letter),
        };
        let mut code = 0u32;
        for _ in 0..digits {
            let digit = self.bump()?.to_digit(16)?;
            code = code.wrapping_mul(16).wrapping_add(digit);
        }
        Some(char::from_u32(code).unwrap_or('?'))
    }
}

/// The largest text that is read as YAML; Kubernetes takes no larger ConfigMap.
const LARGEST_INNER_BYTES: usize = 1024 * 1024;

impl Value<'_> {
    /// The places of this scalar's text; the text's own start where it is not a scalar.
    pub(crate) fn inner(self) -> Inner {
        let start = self.node().spot.position;
        let (text, quotes) = match &self.node().kind {
            NodeKind::Scalar(scalar) => (&*scalar.text, scalar.quotes),
            NodeKind::List(_) | NodeKind::Map(_) => ("", Quotes::None),
        };
        Inner::new(text, self.sink.text_from(start), start, quotes)
    }

    /// The text read as one document of YAML, every place of it in the file; `None` where there is nothing in it. What is
    /// wrong with it is reported.
    pub(crate) fn inner_yaml(self) -> Option<Node> {
        let text = self.text()?;
        if text.len() > LARGEST_INNER_BYTES {
            let what = format!(
                "`{}` has {} bytes; at most {LARGEST_INNER_BYTES} are read",
                self.name,
                text.len()
            );
            self.error(codes::TOO_LARGE, what);
            return None;
        }
        let file = SourceFile::new("", text);
        let sink = Sink::inner(&file);
        let mut roots = parse(text, &sink);
        let inner = Lines {
            starts: crate::source::line_starts(text),
            text,
            inner: self.inner(),
        };
        let mut findings = sink.into_findings();
        findings.truncate(20);
        for finding in findings {
            let spot = inner.spot(Spot {
                position: finding.position,
                length: finding.length.unwrap_or(1),
            });
            self.sink.push(
                finding.severity,
                finding.code,
                spot,
                finding.what,
                finding.why,
                finding.help,
            );
        }
        if roots.len() > 1 {
            self.error(
                codes::BROKEN_YAML,
                format!("`{}` has several documents; it is one", self.name),
            );
        }
        let mut node = roots.drain(..).next().filter(|root| !root.node.is_null())?.node;
        inner.relocate(&mut node);
        Some(node)
    }
}

/// From lines and columns of a text to places in the file.
struct Lines<'a> {
    text: &'a str,
    /// Where each line of the text starts, in bytes.
    starts: Vec<usize>,
    inner: Inner,
}

impl Lines<'_> {
    fn byte(&self, position: Position) -> usize {
        let line = usize::try_from(position.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let start = self.starts.get(line).copied().unwrap_or(self.text.len());
        let column = usize::try_from(position.column.saturating_sub(1)).unwrap_or(usize::MAX);
        let rest = self.text.get(start..).unwrap_or_default();
        let within = rest.char_indices().nth(column).map_or(rest.len(), |(at, _)| at);
        start + within
    }

    fn spot(&self, spot: Spot) -> Spot {
        let start = self.byte(spot.position);
        let rest = self.text.get(start..).unwrap_or_default();
        let length = usize::try_from(spot.length).unwrap_or(usize::MAX);
        let end = rest.char_indices().nth(length).map_or(rest.len(), |(at, _)| at);
        self.inner.spot(start..start + end)
    }

    fn relocate(&self, node: &mut Node) {
        node.spot = self.spot(node.spot);
        match &mut node.kind {
            NodeKind::Scalar(_) => {}
            NodeKind::List(items) => items.iter_mut().for_each(|item| self.relocate(item)),
            NodeKind::Map(entries) => {
                for entry in entries {
                    entry.key_spot = self.spot(entry.key_spot);
                    self.relocate(&mut entry.value);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crate::field::Value;
    use crate::node::parse;
    use crate::sink::Sink;
    use crate::source::SourceFile;

    /// The place of the first `@` of the text that stands under `a`.
    fn at(source: &str) -> (u32, u32, String) {
        let file = SourceFile::new("f.yaml", source);
        let sink = Sink::new(&file);
        let roots = parse(source, &sink);
        let value = Value::root(&roots[0].node, &sink).peek("a").expect("it is there");
        let text = value.raw().expect("it is a text");
        let byte = text.find('@').expect("the text has one");
        let position = value.inner().spot(byte..byte + 1).position;
        (position.line, position.column, text.to_owned())
    }

    #[test]
    fn characters_are_found_in_every_style() {
        for (source, line, column, text) in [
            ("a: b @", 1, 6, "b @"),
            ("a: b\n     c@", 2, 7, "b c@"),
            ("a: 'it''s @'", 1, 11, "it's @"),
            ("a: 'b\n\n  c@'", 3, 4, "b\nc@"),
            (r#"a: "b \"@""#, 1, 9, "b \"@"),
            (r#"a: "b\tc@""#, 1, 9, "b\tc@"),
            (r#"a: "\x41\u0042@""#, 1, 15, "AB@"),
            ("a: \"b\\\n   c@\"", 2, 5, "bc@"),
            ("a: | # why\n      b\n        c @\n", 3, 11, "b\n  c @\n"),
            ("a: |-\r\n  b\r\n\r\n  @\r\n", 4, 3, "b\n\n@"),
            ("a: |\n\n  @\n", 3, 3, "\n@\n"),
            ("a: |2\n    b@\n", 2, 6, "  b@\n"),
            // Characters that begin a text of another style.
            ("a: |\n  \"b\" == '' @\n", 2, 13, "\"b\" == '' @\n"),
            ("a: >-\n  'b''\n  c@\n", 3, 4, "'b'' c@"),
            ("a: |\n  | b\n  > @\n", 3, 5, "| b\n> @\n"),
            ("a: \"ä@\"", 1, 6, "ä@"),
            ("b: &x 'c @'\na: *x", 1, 10, "c @"),
            ("a: !!str 'c @'", 1, 13, "c @"),
            (r#"{"a": "b \"\\@"}"#, 1, 14, "b \"\\@"),
        ] {
            assert_eq!(at(source), (line, column, text.to_owned()), "{source:?}");
        }
    }

    #[test]
    fn the_end_is_behind_the_last_character() {
        let file = SourceFile::new("f.yaml", "a: \"b + \"");
        let sink = Sink::new(&file);
        let roots = parse(&file.text, &sink);
        let value = Value::root(&roots[0].node, &sink).peek("a").expect("it is there");
        let spot = value.inner().spot(4..4);
        assert_eq!((spot.position.column, spot.length), (8, 1));
        assert_eq!(value.inner().spot(0..3).length, 3);
        assert_eq!(value.inner().spot(90..99).position.line, 1);
    }
}
