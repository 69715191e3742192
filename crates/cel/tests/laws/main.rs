//! Laws of expressions, and agreement with another implementation.
#![expect(clippy::panic, reason = "a test fails by a panic")]

mod generate;

use std::collections::{BTreeMap, HashMap};

use bartizan_cel::{Activation, Environment, Extent, Found, Program, Reason, Type, Value, check};
use generate::Choices;
use proptest::prelude::*;

/// The values of the generated expressions' variables.
#[derive(Clone, Debug)]
struct Given {
    b: bool,
    i: i64,
    j: i64,
    s: String,
    t: String,
    l: Vec<i64>,
    u: Vec<String>,
    m: BTreeMap<String, i64>,
}

/// An `i64` as an element of a list of the caller's.
struct Ints(Vec<i64>);

impl bartizan_cel::Sequence for Ints {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn at(&self, index: usize) -> Option<Value<'_>> {
        self.0.get(index).map(|whole| Value::Int(*whole))
    }
}

struct Asked<'g>(&'g Given, Ints);

impl Activation for Asked<'_> {
    fn resolve<'a>(&'a self, path: &str, key: Option<&str>) -> Found<'a> {
        match (path, key) {
            ("b", None) => self.0.b.into(),
            ("i", None) => self.0.i.into(),
            ("j", None) => self.0.j.into(),
            ("s", None) => self.0.s.as_str().into(),
            ("t", None) => self.0.t.as_str().into(),
            ("l", None) => Value::list(&self.1).into(),
            ("u", None) => Value::list(&self.0.u).into(),
            ("m", Some(key)) => self.0.m.get(key).copied().into(),
            ("m", None) => Value::map_of(
                self.0
                    .m
                    .iter()
                    .map(|(key, value)| (Value::from(key.as_str()), Value::Int(*value))),
            )
            .into(),
            _ => Found::Unavailable,
        }
    }
}

fn environment() -> Environment {
    let text = Extent::text(8);
    Environment::new()
        .declare("b", Type::Bool, Extent::SCALAR)
        .declare("i", Type::Int, Extent::SCALAR)
        .declare("j", Type::Int, Extent::SCALAR)
        .declare("s", Type::String, text.clone())
        .declare("t", Type::String, text.clone())
        .declare("l", Type::list_of(Type::Int), Extent::entries(3, Extent::SCALAR))
        .declare("u", Type::list_of(Type::String), Extent::entries(3, text))
        .declare(
            "m",
            Type::map_of(Type::String, Type::Int),
            Extent::entries(3, Extent::text(8)),
        )
}

fn given() -> impl Strategy<Value = Given> {
    let text = || prop::sample::select(vec!["", "a", "b", "ab", "é", "42"]).prop_map(str::to_owned);
    (
        any::<bool>(),
        -2_i64..5,
        prop_oneof![-2_i64..5, Just(i64::MAX), Just(i64::MIN)],
        text(),
        text(),
        prop::collection::vec(-1_i64..4, 0..=3),
        prop::collection::vec(text(), 0..=3),
        prop::collection::btree_map(text(), -1_i64..4, 0..=3),
    )
        .prop_map(|(b, i, j, s, t, l, u, m)| Given {
            b,
            i,
            j,
            s,
            t,
            l,
            u,
            m,
        })
}

/// What another implementation says; `None` for an error.
fn other(text: &str, given: &Given) -> Option<bool> {
    let program = cel::Program::compile(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    let mut context = cel::Context::default();
    context.add_variable_from_value("b", given.b);
    context.add_variable_from_value("i", given.i);
    context.add_variable_from_value("j", given.j);
    context.add_variable_from_value("s", given.s.clone());
    context.add_variable_from_value("t", given.t.clone());
    context.add_variable_from_value("l", given.l.clone());
    context.add_variable_from_value("u", given.u.clone());
    context.add_variable_from_value("m", given.m.clone().into_iter().collect::<HashMap<_, _>>());
    match program.execute(&context) {
        Ok(cel::Value::Bool(truth)) => Some(truth),
        _ => None,
    }
}

fn checked(text: &str) -> Program {
    check(text, &environment()).unwrap_or_else(|problems| panic!("{text}: {problems:?}"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Where both implementations have an answer, it is the same; and one has an answer where the other has one.
    #[test]
    fn another_implementation_agrees(bytes in prop::collection::vec(any::<u8>(), 0..60), given in given()) {
        let text = Choices::new(&bytes).condition(4);
        let own = checked(&text).evaluate(&Asked(&given, Ints(given.l.clone()))).ok();
        prop_assert_eq!(own, other(&text, &given), "{}", text);
    }

    /// Inputs of the declared sizes never use the budget up.
    #[test]
    fn the_bound_on_cost_holds(bytes in prop::collection::vec(any::<u8>(), 0..120), given in given()) {
        let text = Choices::new(&bytes).condition(6);
        let program = match check(&text, &environment()) {
            Ok(program) => program,
            Err(problems) => {
                prop_assert!(problems.iter().all(|problem| problem.what.contains("steps")), "{}: {:?}", text, problems);
                return Ok(());
            }
        };
        let result = program.evaluate(&Asked(&given, Ints(given.l.clone())));
        prop_assert!(!matches!(result, Err(error) if error.reason() == Reason::Budget), "{}", text);
    }

    /// De Morgan, with errors.
    #[test]
    fn not_and_is_or_of_nots(left in prop::collection::vec(any::<u8>(), 0..30),
                             right in prop::collection::vec(any::<u8>(), 0..30), given in given()) {
        let (left, right) = (Choices::new(&left).condition(3), Choices::new(&right).condition(3));
        let asked = Asked(&given, Ints(given.l.clone()));
        let one = checked(&format!("!({left} && {right})")).evaluate(&asked).map_err(|error| error.reason());
        let two = checked(&format!("!{left} || !{right}")).evaluate(&asked).map_err(|error| error.reason());
        prop_assert_eq!(one, two);
    }

    /// Nothing that is written makes the reader fail, and every problem lies in the text.
    #[test]
    fn any_text_is_read_or_refused(text in r#"[a-z0-9 .,()\[\]{}"'!&|<>=+\-*/%?:\\é]{0,60}"#) {
        if let Err(problems) = check(&text, Environment::access_rule()) {
            prop_assert!(!problems.is_empty());
            for problem in problems {
                prop_assert!(text.get(problem.range.clone()).is_some(), "{:?} in {:?}", problem, text);
            }
        }
    }

    /// A timestamp is read as it is written.
    #[test]
    fn times_are_read_as_they_are_written(seconds in -62_135_596_800_i64..=253_402_300_799, nanos in 0_u32..1_000_000_000) {
        let time = bartizan_cel::Timestamp::new(seconds, nanos).expect("in range");
        prop_assert_eq!(bartizan_cel::Timestamp::parse(&time.to_string()), Some(time));
    }

    /// A duration is read as it is written.
    #[test]
    fn spans_are_read_as_they_are_written(nanos in any::<i64>()) {
        let span = bartizan_cel::Duration::from_nanos(nanos);
        prop_assert_eq!(bartizan_cel::Duration::parse(&span.to_string()), Some(span));
    }
}

/// A list that is longer than declared ends the evaluation with an error instead of taking its time.
#[test]
fn larger_inputs_than_declared_use_the_budget_up() {
    let program = checked("l.all(x, l.all(y, x + y < 100000))");
    let given = Given {
        b: true,
        i: 0,
        j: 0,
        s: String::new(),
        t: String::new(),
        l: vec![1; 1000],
        u: Vec::new(),
        m: BTreeMap::new(),
    };
    let error = program
        .evaluate(&Asked(&given, Ints(given.l.clone())))
        .expect_err("too many steps");
    assert_eq!(error.reason(), Reason::Budget);
}

#[test]
fn a_program_knows_which_attributes_it_uses() {
    let program = check(
        r#"request.headers["x"] == source.namespace || has(auth.claims.a) || auth.audiences.exists(a, a == "")"#,
        Environment::access_rule(),
    )
    .expect("a condition");
    let used: Vec<&str> = program.attributes().collect();
    assert_eq!(
        used,
        [
            "auth.audiences",
            "auth.claims",
            "request.headers",
            "source.namespace"
        ]
    );
    assert!(program.uses("request") && program.uses("request.headers") && program.uses("auth"));
    assert!(!program.uses("connection") && !program.uses("req") && !program.uses("request.head"));
}

/// The deepest expression that is read can be evaluated and dropped on a small stack.
#[test]
fn the_deepest_expression_needs_little_stack() {
    let deepest = (1..100)
        .map(|depth| format!("{}b{}", "(b && ".repeat(depth), ")".repeat(depth)))
        .take_while(|text| check(text, &environment()).is_ok())
        .last()
        .expect("one is not too deep");
    let thread = std::thread::Builder::new().stack_size(1024 * 1024);
    let result = thread
        .spawn(move || {
            let given = Given {
                b: true,
                i: 0,
                j: 0,
                s: String::new(),
                t: String::new(),
                l: Vec::new(),
                u: Vec::new(),
                m: BTreeMap::new(),
            };
            checked(&deepest).evaluate(&Asked(&given, Ints(Vec::new())))
        })
        .expect("a thread")
        .join()
        .expect("no overflow");
    assert_eq!(result, Ok(true));
}
