//! Conditions of AccessRules. Input: an expression. What is accepted is evaluated over values of every kind, as large as
//! declared or not there at all: it never panics, and never takes more steps than the bound that was computed for it.
#![no_main]

use std::collections::BTreeMap;

use bartizan_cel::{Activation, Environment, Found, Program, Reason, Timestamp, Type, Value, check};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    match check(text, Environment::access_rule()) {
        Ok(program) => evaluated(&program),
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(
                    text.get(problem.range.clone()).is_some(),
                    "{problem:?} is not in {text:?}"
                );
            }
        }
    }
});

fn evaluated(program: &Program) {
    for given in [Given::full(), Given::empty()] {
        if let Err(error) = program.evaluate(&given) {
            assert_ne!(error.reason(), Reason::Budget, "{}", program.text());
            assert!(program.text().get(error.range()).is_some());
        }
    }
    // What it says it uses is what it asks for.
    let given = Given::full();
    let asked = Asked(&given, std::cell::RefCell::default());
    program.evaluate(&asked).ok();
    for path in asked.1.into_inner() {
        assert!(program.uses(&path), "{} asks for {path}", program.text());
    }
}

struct Given {
    texts: BTreeMap<String, String>,
    list: Vec<String>,
    claims: serde_json::Map<String, serde_json::Value>,
    is_there: bool,
}

impl Given {
    fn full() -> Self {
        let text = |seed: usize| "aB1/é ".repeat(seed % 40);
        let list: Vec<String> = (0..20).map(text).collect();
        let claims = serde_json::json!({
            "a": "text", "b": 3, "c": 1.5, "d": null, "e": [1, 2, "x", [true]], "f": { "a": { "a": ["a"] } }, "g": list,
        });
        Self {
            texts: (0..20).map(|seed| (format!("x-{seed}"), text(seed))).collect(),
            list,
            claims: claims.as_object().cloned().unwrap_or_default(),
            is_there: true,
        }
    }

    fn empty() -> Self {
        Self {
            texts: BTreeMap::new(),
            list: Vec::new(),
            claims: serde_json::Map::new(),
            is_there: false,
        }
    }
}

impl Activation for Given {
    fn resolve<'a>(&'a self, path: &str, key: Option<&str>) -> Found<'a> {
        let of = Environment::access_rule()
            .attributes()
            .find(|(name, _)| *name == path)
            .map(|(_, of)| of)
            .expect("only what is declared is asked for");
        match (of, key) {
            (Type::Map(_, value), Some(key)) if **value == Type::Dyn => self.claims.get(key).into(),
            (Type::Map(_, value), None) if **value == Type::Dyn => Value::map(&self.claims).into(),
            (Type::Map(..), Some(key)) => self.texts.get(key).into(),
            (Type::Map(..), None) => Value::map(&self.texts).into(),
            (_, Some(_)) => panic!("a key of {path}"),
            _ if !self.is_there => Found::Absent,
            (Type::List(_), None) => Value::list(&self.list).into(),
            (Type::Bool, None) => true.into(),
            (Type::Int, None) => 8080_i64.into(),
            (Type::Timestamp, None) => Timestamp::from_seconds(1_767_225_600).into(),
            _ if path.ends_with("p") => "10.66.0.7".into(),
            _ => "aBc".into(),
        }
    }
}

/// Remembers what was asked for.
struct Asked<'g>(&'g Given, std::cell::RefCell<Vec<String>>);

impl Activation for Asked<'_> {
    fn resolve<'a>(&'a self, path: &str, key: Option<&str>) -> Found<'a> {
        self.1.borrow_mut().push(path.to_owned());
        self.0.resolve(path, key)
    }
}
