//! Fields of a head in order, in the case they were written, as spans into the bytes that were read.
//!
//! One allocation for all spans; names and values stay where the socket read put them. What a proxy adds
//! goes to a second buffer behind the first; a span's start tells which of the two it lies in.

use std::fmt;

use bytes::Bytes;
use thiserror::Error;

/// A name or value that must not be written: it could end the line or the head.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("header `{name}` has a byte that is not allowed in a {part}")]
pub struct InvalidHeader {
    name: String,
    part: &'static str,
}

/// Bytes of the virtual buffer `block ++ extra`.
#[derive(Clone, Copy, Debug, Default)]
struct Span {
    start: u32,
    len: u32,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    name: Span,
    value: Span,
}

/// Fields of a head, in order. Names are compared without ASCII case.
///
/// A value is bytes without CR, LF and NUL, and without white space at its ends. Everything is at most 4 GiB,
/// far above what the codecs let through.
#[derive(Clone, Default)]
pub struct Headers {
    block: Bytes,
    extra: Vec<u8>,
    entries: Vec<Entry>,
}

impl Headers {
    /// No fields.
    pub fn new() -> Self {
        Self::default()
    }

    /// Fields that lie in `block`; to be filled with [`Self::push_span`].
    pub(crate) fn in_block(block: Bytes, capacity: usize) -> Self {
        Self {
            block,
            extra: Vec::new(),
            entries: Vec::with_capacity(capacity),
        }
    }

    /// Adds a field that lies in the block at these ranges. The parser has checked its bytes.
    pub(crate) fn push_span(&mut self, name: (usize, usize), value: (usize, usize)) {
        let span = |(start, len): (usize, usize)| Span {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            len: u32::try_from(len).unwrap_or(0),
        };
        self.entries.push(Entry {
            name: span(name),
            value: span(value),
        });
    }

    fn bytes(&self, span: Span) -> &[u8] {
        let (start, len) = (span.start as usize, span.len as usize);
        let (buffer, start) = match start.checked_sub(self.block.len()) {
            None => (&self.block[..], start),
            Some(start) => (&self.extra[..], start),
        };
        buffer.get(start..start + len).unwrap_or_default()
    }

    fn store(&mut self, bytes: &[u8]) -> Span {
        let start = self.block.len() + self.extra.len();
        self.extra.extend_from_slice(bytes);
        Span {
            start: u32::try_from(start).unwrap_or(u32::MAX),
            len: u32::try_from(bytes.len()).unwrap_or(0),
        }
    }

    fn is_named(&self, entry: Entry, name: &[u8]) -> bool {
        entry.name.len as usize == name.len() && self.bytes(entry.name).eq_ignore_ascii_case(name)
    }

    fn position(&self, name: &[u8]) -> Option<Entry> {
        self.entries
            .iter()
            .copied()
            .find(|&entry| self.is_named(entry, name))
    }

    /// The first value of `name`.
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.position(name.as_bytes())
            .map(|entry| self.bytes(entry.value))
    }

    /// The first value of `name`, when it is UTF-8.
    pub fn get_str(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(|value| std::str::from_utf8(value).ok())
    }

    /// Every value of `name`, in order.
    pub fn get_all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> + 'a {
        self.entries
            .iter()
            .filter(move |entry| self.is_named(**entry, name.as_bytes()))
            .map(|entry| self.bytes(entry.value))
    }

    /// Whether there is a field `name`.
    pub fn contains(&self, name: &str) -> bool {
        self.position(name.as_bytes()).is_some()
    }

    /// All fields, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.entries
            .iter()
            .map(|entry| (self.bytes(entry.name), self.bytes(entry.value)))
    }

    /// How many fields.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of all names and values.
    pub fn size(&self) -> usize {
        self.entries
            .iter()
            .map(|entry| entry.name.len as usize + entry.value.len as usize)
            .sum()
    }

    /// Adds a field after all others.
    ///
    /// # Errors
    /// [`InvalidHeader`] when `name` is not a token (RFC 9110 §5.1) or `value` holds CR, LF, NUL or another
    /// control character than tab; nothing is added.
    pub fn append(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        let value = value.trim_ascii();
        check(name, value)?;
        self.append_checked(name.as_bytes(), value);
        Ok(())
    }

    /// Adds a field whose bytes a parser has already checked.
    pub(crate) fn append_checked(&mut self, name: &[u8], value: &[u8]) {
        let name = self.store(name);
        let value = self.store(value);
        self.entries.push(Entry { name, value });
    }

    /// Makes `value` the only value of `name`: in the place of the first, or after all others.
    ///
    /// # Errors
    /// As [`Self::append`]; nothing is changed.
    pub fn set(&mut self, name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
        let value = value.trim_ascii();
        check(name, value)?;
        self.set_checked(name, value);
        Ok(())
    }

    pub(crate) fn set_checked(&mut self, name: &str, value: &[u8]) {
        let first = self
            .entries
            .iter()
            .position(|entry| self.is_named(*entry, name.as_bytes()));
        let Some(first) = first else {
            return self.append_checked(name.as_bytes(), value);
        };
        let span = self.store(value);
        if let Some(entry) = self.entries.get_mut(first) {
            entry.value = span;
        }
        let mut index = 0;
        self.retain(|header, _| {
            index += 1;
            index - 1 <= first || !header.eq_ignore_ascii_case(name.as_bytes())
        });
    }

    /// Takes out every field `name` and says how many there were.
    pub fn remove(&mut self, name: &str) -> usize {
        let before = self.entries.len();
        self.retain(|header, _| !header.eq_ignore_ascii_case(name.as_bytes()));
        before - self.entries.len()
    }

    /// Keeps the fields for which `keep(name, value)` is true.
    pub fn retain(&mut self, mut keep: impl FnMut(&[u8], &[u8]) -> bool) {
        let mut entries = std::mem::take(&mut self.entries);
        entries.retain(|entry| keep(self.bytes(entry.name), self.bytes(entry.value)));
        self.entries = entries;
    }
}

/// Equal when the same fields stand in the same order with the same case.
impl PartialEq for Headers {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len() && self.iter().eq(other.iter())
    }
}

impl Eq for Headers {}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.iter().map(|(name, value)| {
                (
                    String::from_utf8_lossy(name).into_owned(),
                    String::from_utf8_lossy(value).into_owned(),
                )
            }))
            .finish()
    }
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub(crate) fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// Whether `byte` may stand in a field value (RFC 9110 §5.5): visible, space, tab, or above ASCII.
pub(crate) fn is_field_value(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

fn check(name: &str, value: &[u8]) -> Result<(), InvalidHeader> {
    let invalid = |part| InvalidHeader {
        name: name.escape_debug().take(64).collect(),
        part,
    };
    if name.is_empty() || !name.bytes().all(is_token) {
        return Err(invalid("name"));
    }
    if !value.iter().copied().all(is_field_value) {
        return Err(invalid("value"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_replaces_the_first_and_drops_the_rest() {
        let mut headers = Headers::new();
        headers.append("A", b"1").unwrap();
        headers.append("b", b"2").unwrap();
        headers.append("a", b"3").unwrap();
        headers.set("a", b"4").unwrap();
        let all: Vec<_> = headers.iter().collect();
        assert_eq!(all, [(&b"A"[..], &b"4"[..]), (b"b", b"2")]);
        headers.set("c", b" 5 ").unwrap();
        assert_eq!(headers.get("C"), Some(&b"5"[..]));
        assert_eq!(headers.remove("B"), 1);
        assert_eq!(headers.len(), 2);
    }

    #[test]
    fn what_could_end_a_line_is_refused() {
        let mut headers = Headers::new();
        for value in [&b"a\r\nx: y"[..], b"a\nb", b"a\rb", b"a\0b", b"\x7f"] {
            assert!(headers.append("x", value).is_err(), "{value:?}");
            assert!(headers.set("x", value).is_err(), "{value:?}");
        }
        for name in ["", "a b", "a:", "a\r\n", "é"] {
            assert!(headers.append(name, b"v").is_err(), "{name:?}");
        }
        assert!(headers.is_empty());
    }

    #[test]
    fn block_and_added_fields_are_told_apart() {
        let mut headers = Headers::in_block(Bytes::from_static(b"host: a"), 1);
        headers.push_span((0, 4), (6, 1));
        headers.append("x", b"y").unwrap();
        assert_eq!(headers.get("host"), Some(&b"a"[..]));
        assert_eq!(headers.get("x"), Some(&b"y"[..]));
        assert_eq!(headers.get_all("x").count(), 1);
        assert_eq!(headers.size(), 7);
    }
}
