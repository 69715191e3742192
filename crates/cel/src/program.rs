//! A checked expression, ready to be evaluated.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::check::Checker;
use crate::environment::Environment;
use crate::error::EvalError;
use crate::evaluate::evaluate;
use crate::expression::Expression;
use crate::parse;
use crate::problem::Problem;
use crate::types::Type;
use crate::value::Activation;

/// The longest text that is read.
pub const MOST_TEXT_BYTES: usize = 8192;
/// The most steps that an expression may need at worst. A step takes some nanoseconds.
pub const MOST_STEPS: u64 = 1_000_000;

/// A condition whose types agree and whose cost is bounded.
#[derive(Clone, Debug)]
pub struct Program {
    text: Arc<str>,
    expression: Expression,
    attributes: BTreeSet<Arc<str>>,
    cost: u64,
}

/// Reads and checks a condition over the attributes of `environment`.
///
/// # Errors
/// Everything that is wrong with it: the first error of syntax, or every name that is not declared and every type that does
/// not agree, or that it could take more than [`MOST_STEPS`].
pub fn check(text: &str, environment: &Environment) -> Result<Program, Vec<Problem>> {
    if text.len() > MOST_TEXT_BYTES {
        let what = format!("the expression has {} bytes", text.len());
        return Err(vec![
            Problem::new(0..text.len(), what).help(format!("at most {MOST_TEXT_BYTES} are read")),
        ]);
    }
    let tree = parse::parse(text).map_err(|problem| vec![problem])?;
    let mut checker = Checker::new(environment);
    let checked = checker.check(&tree);
    let (mut problems, attributes) = checker.finish();
    if problems.is_empty() && checked.expression.of != Type::Bool {
        let what = format!("the expression is a {}, not a bool", checked.expression.of);
        let problem = Problem::new(tree.range.clone(), what);
        problems.push(match checked.expression.of {
            Type::Dyn => problem.help("compare it, for example with `== true`"),
            _ => problem,
        });
    }
    if problems.is_empty() && checked.cost > MOST_STEPS {
        let what = format!("the expression could take {} steps for one request", checked.cost);
        problems.push(Problem::new(tree.range.clone(), what).help(format!(
            "at most {MOST_STEPS} are allowed: avoid a macro inside a macro and texts that are joined again and again"
        )));
    }
    if problems.is_empty() {
        Ok(Program {
            text: text.into(),
            expression: checked.expression,
            attributes,
            cost: checked.cost,
        })
    } else {
        problems.sort_by_key(|problem| (problem.range.start, problem.range.end));
        Err(problems)
    }
}

impl Program {
    /// Whether the condition holds.
    ///
    /// # Errors
    /// When it has no answer, for example because a map has no such key.
    pub fn evaluate<A: Activation + ?Sized>(&self, activation: &A) -> Result<bool, EvalError> {
        evaluate(&self.expression, activation, self.cost)
    }

    /// Whether it names an attribute, or one of that object: `uses("request")`, `uses("auth.claims")`.
    pub fn uses(&self, path: &str) -> bool {
        self.attributes.iter().any(|used| {
            used.strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        })
    }

    /// The attributes that it names, by their dotted names.
    pub fn attributes(&self) -> impl Iterator<Item = &str> {
        self.attributes.iter().map(AsRef::as_ref)
    }

    /// The text as written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The typed tree.
    pub fn expression(&self) -> &Expression {
        &self.expression
    }

    /// The most steps that an evaluation takes; it ends with an error when its inputs are larger than declared and it would
    /// take more.
    pub fn cost(&self) -> u64 {
        self.cost
    }
}

impl PartialEq for Program {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text && self.expression == other.expression
    }
}
