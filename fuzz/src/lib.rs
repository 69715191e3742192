//! What the fuzz targets share: cutting input into the parts that a socket may give, a stream in memory, asking
//! an engine everything, and a mutator that keeps JSON whole.

pub mod ask;
pub mod json;
pub mod memory;

/// Reads the first bytes of an input as choices and gives the rest; empty inputs choose 0.
pub fn choices<const N: usize>(data: &[u8]) -> ([u8; N], &[u8]) {
    match data.split_first_chunk::<N>() {
        Some((chosen, rest)) => (*chosen, rest),
        None => ([0; N], &[]),
    }
}

/// `bytes` in order, cut into parts whose lengths `pattern` says: each byte is a length, 0 stands for the rest.
pub fn parts<'a>(bytes: &'a [u8], pattern: &[u8]) -> Vec<&'a [u8]> {
    let mut parts = Vec::new();
    let mut rest = bytes;
    let mut lengths = pattern.iter().cycle();
    while !rest.is_empty() {
        let length = match lengths.next() {
            None | Some(0) => rest.len(),
            Some(length) => usize::from(*length).min(rest.len()),
        };
        let (part, after) = rest.split_at(length);
        parts.push(part);
        rest = after;
    }
    parts
}
