//! A tree as JSON, for values whose shape the user chooses (the claims of a token).

use serde_json::{Map, Number, Value as Json};

use super::{Node, NodeKind, ScalarKind};
use crate::field::Value;
use crate::finding::codes;

impl Value<'_> {
    /// The value as JSON. A word that YAML versions read differently, and a number that JSON has not, are reported.
    pub(crate) fn json(self) -> Option<Json> {
        let mut problems = Vec::new();
        let json = json(self.node(), &mut problems);
        for node in &problems {
            let text = match &node.kind {
                NodeKind::Scalar(scalar) => &*scalar.text,
                NodeKind::List(_) | NodeKind::Map(_) => "",
            };
            let what = format!(
                "{} is neither a text nor a number of JSON without doubt",
                self.sink.quoted(text)
            );
            self.sink
                .error_help(codes::AMBIGUOUS_WORD, node.spot, what, "put it in quotes");
        }
        problems.is_empty().then_some(json)
    }
}

/// The tree is at most as deep as the parser lets it be.
fn json<'a>(node: &'a Node, problems: &mut Vec<&'a Node>) -> Json {
    match &node.kind {
        NodeKind::List(items) => Json::Array(items.iter().map(|item| json(item, problems)).collect()),
        NodeKind::Map(entries) => {
            let mut map = Map::new();
            for entry in entries {
                map.insert(entry.key.to_string(), json(&entry.value, problems));
            }
            Json::Object(map)
        }
        NodeKind::Scalar(scalar) => match scalar.kind {
            ScalarKind::Text => Json::String(scalar.text.to_string()),
            ScalarKind::Null => Json::Null,
            ScalarKind::Boolean(value) => Json::Bool(value),
            ScalarKind::Integer(number) => Json::Number(number.into()),
            ScalarKind::Number => match scalar.text.parse().ok().and_then(Number::from_f64) {
                Some(number) => Json::Number(number),
                None => {
                    problems.push(node);
                    Json::Null
                }
            },
            ScalarKind::Ambiguous => {
                problems.push(node);
                Json::Null
            }
        },
    }
}
