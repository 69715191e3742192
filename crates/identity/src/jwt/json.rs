//! Reads one JSON object so that no two readers can see two different ones: a name that occurs twice, nesting beyond a
//! bound, another kind of value, and anything behind it are refused.

use std::cell::RefCell;
use std::fmt;

use serde::de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep objects and lists may stand in each other; the outermost object is 1.
pub(super) const DEEPEST: usize = 32;

/// Why a text is not such an object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum JsonError {
    /// No JSON, or no object, or not only that.
    Malformed,
    /// A name occurs twice in one object.
    Duplicate(String),
    /// Deeper than [`DEEPEST`].
    TooDeep,
}

/// The object that `bytes` are.
pub(super) fn object(bytes: &[u8]) -> Result<Map<String, Value>, JsonError> {
    let defect = RefCell::new(None);
    let mut reader = serde_json::Deserializer::from_slice(bytes);
    let read = Strict {
        left: DEEPEST,
        defect: &defect,
    }
    .deserialize(&mut reader)
    .and_then(|value| reader.end().map(|()| value));
    match read {
        Ok(Value::Object(object)) => Ok(object),
        Ok(_) => Err(JsonError::Malformed),
        Err(_) => Err(defect.into_inner().unwrap_or(JsonError::Malformed)),
    }
}

/// One value, with as many levels left below it. serde's errors are texts, so what matters is kept beside them.
#[derive(Clone, Copy)]
struct Strict<'a> {
    left: usize,
    defect: &'a RefCell<Option<JsonError>>,
}

impl Strict<'_> {
    fn deeper<E: de::Error>(self) -> Result<Self, E> {
        match self.left.checked_sub(1) {
            Some(left) => Ok(Self { left, ..self }),
            None => Err(self.refuse(JsonError::TooDeep)),
        }
    }

    fn refuse<E: de::Error>(self, defect: JsonError) -> E {
        self.defect.replace(Some(defect));
        E::custom("refused")
    }
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.into()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| self.refuse(JsonError::Malformed))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let inner = self.deeper()?;
        let mut object = Map::new();
        while let Some(name) = members.next_key::<String>()? {
            if object.contains_key(&name) {
                return Err(self.refuse(JsonError::Duplicate(name)));
            }
            let value = members.next_value_seed(inner)?;
            object.insert(name, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nested(depth: usize) -> String {
        format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1))
    }

    #[test]
    fn names_occur_once_at_every_level() {
        assert_eq!(object(br#"{"a":1,"a":1}"#), Err(JsonError::Duplicate("a".into())));
        assert_eq!(
            object(br#"{"a":1,"\u0061":2}"#),
            Err(JsonError::Duplicate("a".into()))
        );
        assert_eq!(
            object(br#"{"x":[{"a":1,"a":2}]}"#),
            Err(JsonError::Duplicate("a".into()))
        );
        assert!(object(br#"{"a":{"a":1},"A":2}"#).is_ok());
    }

    #[test]
    fn depth_is_bounded_exactly() {
        assert!(object(nested(DEEPEST).as_bytes()).is_ok());
        assert_eq!(object(nested(DEEPEST + 1).as_bytes()), Err(JsonError::TooDeep));
        assert_eq!(object(nested(4000).as_bytes()), Err(JsonError::TooDeep));
    }

    #[test]
    fn only_one_object_and_nothing_else() {
        for text in [
            &b"[]"[..],
            b"1",
            b"\"a\"",
            b"null",
            b"",
            b"{} {}",
            b"{}x",
            b"{\"a\":1,}",
            b"{'a':1}",
            b"{\"a\":NaN}",
            b"{\"a\":1e999}",
            b"{\"a\":\"\xff\"}",
            b"{\"a\":\"\\ud800\"}",
            b"\xef\xbb\xbf{}",
            b"{\"a\":01}",
            b"{\"a\":1}\0",
            b"{\"a\":\"\n\"}",
        ] {
            assert_eq!(
                object(text),
                Err(JsonError::Malformed),
                "{:?}",
                String::from_utf8_lossy(text)
            );
        }
        assert_eq!(
            object(b" {\"a\":[1,-2,1.5,true,null,\"x\"]} \n").unwrap()["a"],
            serde_json::json!([1, -2, 1.5, true, null, "x"])
        );
    }
}
