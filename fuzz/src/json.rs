//! A mutator that changes JSON at its values, so that what comes out is still JSON and gets past the parser.
//!
//! Input may be one value or lines of `KEY VALUE`; one value in it is changed. Everything else is left to libFuzzer.

use serde_json::{Map, Value};

/// Scalars at which readers differ.
const INTERESTING: [&str; 16] = [
    "null",
    "true",
    "false",
    "0",
    "-1",
    "65536",
    "18446744073709551616",
    "1e400",
    "\"\"",
    "\"*\"",
    "\"a/b\"",
    "\"/..\"",
    "\"10.66.0.2\"",
    "\"::/0\"",
    "[]",
    "{}",
];

/// Changes one line of `data` in place; `None` when no line has a JSON value or the result does not fit.
pub fn mutate(data: &mut [u8], size: usize, max_size: usize, seed: u32) -> Option<usize> {
    let text = std::str::from_utf8(data.get(..size)?).ok()?;
    let mut random = Random(seed);
    let lines: Vec<&str> = text.lines().collect();
    // The whole text first, because a value may go over several lines.
    let (before, value, after) = match serde_json::from_str::<Value>(text) {
        Ok(value) => (String::new(), value, String::new()),
        Err(_) => {
            let at = random.below(lines.len());
            let line = lines.get(at)?;
            let start = line.find(['{', '['])?;
            let value = serde_json::from_str(&line[start..]).ok()?;
            let mut before = lines[..at].join("\n");
            if at > 0 {
                before.push('\n');
            }
            before.push_str(&line[..start]);
            (before, value, format!("\n{}", lines[at + 1..].join("\n")))
        }
    };
    let mut value = value;
    let donors = values(&value);
    let donor = donors
        .get(random.below(donors.len()))
        .cloned()
        .unwrap_or(Value::Null);
    let mut left = random.below(donors.len());
    change(&mut value, &mut left, &mut random, donor);
    let text = format!("{before}{value}{after}");
    if text.len() > max_size {
        return None;
    }
    data.get_mut(..text.len())?.copy_from_slice(text.as_bytes());
    Some(text.len())
}

/// Every value in this one.
fn values(value: &Value) -> Vec<Value> {
    let mut all = vec![value.clone()];
    match value {
        Value::Array(items) => all.extend(items.iter().flat_map(values)),
        Value::Object(fields) => all.extend(fields.values().flat_map(values)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    all
}

/// Goes down to the value of number `left` and changes it.
fn change(value: &mut Value, left: &mut usize, random: &mut Random, donor: Value) -> bool {
    if *left == 0 {
        at(value, random, donor);
        return true;
    }
    *left -= 1;
    match value {
        Value::Array(items) => items
            .iter_mut()
            .any(|item| change(item, left, random, donor.clone())),
        Value::Object(fields) => fields
            .values_mut()
            .any(|field| change(field, left, random, donor.clone())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => false,
    }
}

fn at(value: &mut Value, random: &mut Random, donor: Value) {
    match (random.below(6), value) {
        (0, Value::Array(items)) if !items.is_empty() => {
            items.remove(random.below(items.len()));
        }
        (1, Value::Array(items)) => items.insert(random.below(items.len() + 1), donor),
        (0, Value::Object(fields)) if !fields.is_empty() => {
            let names: Vec<String> = fields.keys().cloned().collect();
            fields.remove(&names[random.below(names.len())]);
        }
        (1, Value::Object(fields)) => insert(fields, random, donor),
        (2, Value::String(text)) => {
            let letters: Vec<char> = text.chars().collect();
            let at = random.below(letters.len() + 1);
            let new = ['a', '/', '*', '.', '-', 'A', '%', '\0', 'é', ' ', ':', '0'][random.below(12)];
            *text = letters[..at]
                .iter()
                .chain([&new])
                .chain(letters.get(at + random.below(2)..).unwrap_or_default())
                .collect();
        }
        (3, place) => *place = donor,
        (_, place) => {
            let text = INTERESTING[random.below(INTERESTING.len())];
            *place = serde_json::from_str(text).unwrap_or(Value::Null);
        }
    }
}

fn insert(fields: &mut Map<String, Value>, random: &mut Random, donor: Value) {
    let names: Vec<String> = fields.keys().cloned().collect();
    let name = names
        .get(random.below(names.len()))
        .cloned()
        .unwrap_or_else(|| "name".to_owned());
    fields.insert(name, donor);
}

/// Marsaglia's xorshift: what the same seed gives must be the same.
struct Random(u32);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.max(1);
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 17;
        self.0 ^= self.0 << 5;
        self.0 as usize % bound.max(1)
    }
}
