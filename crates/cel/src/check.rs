//! Names, types and cost: from what is written to what can be evaluated. All problems are collected, not only the first.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use crate::environment::Environment;
use crate::expression::{Expression, Kind, Literal, Operator};
use crate::extent::{BYTES_A_STEP, Extent};
use crate::problem::Problem;
use crate::suggest::hint;
use crate::syntax::{Node, Syntax, Word};
use crate::types::Type;

/// Checks one expression over one environment.
pub(crate) struct Checker<'e> {
    environment: &'e Environment,
    problems: Vec<Problem>,
    attributes: BTreeSet<Arc<str>>,
    /// The variables of the macros around what is being checked, from the outside in.
    locals: Vec<Local>,
}

pub(crate) struct Local {
    pub(crate) name: String,
    pub(crate) of: Type,
    pub(crate) extent: Extent,
}

/// A checked expression, how large its value can be, and the most steps that it takes.
pub(crate) struct Checked {
    pub(crate) expression: Expression,
    pub(crate) extent: Extent,
    pub(crate) cost: u64,
}

impl<'e> Checker<'e> {
    pub(crate) fn new(environment: &'e Environment) -> Self {
        Self {
            environment,
            problems: Vec::new(),
            attributes: BTreeSet::new(),
            locals: Vec::new(),
        }
    }

    /// What was found wrong, and the attributes that were named.
    pub(crate) fn finish(self) -> (Vec<Problem>, BTreeSet<Arc<str>>) {
        (self.problems, self.attributes)
    }

    pub(crate) fn report(&mut self, problem: Problem) {
        self.problems.push(problem);
    }

    /// Stands for what is wrong, so that the rest can be checked.
    pub(crate) fn unknown(range: &Range<usize>) -> Checked {
        checked(range, Type::Dyn, Kind::Literal(Literal::Null), Extent::SCALAR, 1)
    }

    /// Reports a problem and stands for it.
    pub(crate) fn wrong(&mut self, range: &Range<usize>, problem: Problem) -> Checked {
        self.report(problem);
        Self::unknown(range)
    }

    /// A value; an object is none.
    pub(crate) fn check(&mut self, node: &Node) -> Checked {
        let checked = self.any(node);
        let Type::Object(path) = &checked.expression.of else {
            return checked;
        };
        let what = format!("`{path}` is no value");
        let fields = self
            .environment
            .object(path)
            .map(|(_, fields)| fields)
            .unwrap_or_default();
        let fields: Vec<String> = fields.iter().map(|field| format!("`{field}`")).collect();
        let help = format!("use one of its fields: {}", fields.join(", "));
        self.wrong(&node.range, Problem::new(node.range.clone(), what).help(help))
    }

    /// A value of this type; `what` says what it is used as.
    pub(crate) fn check_as(&mut self, node: &Node, wanted: &Type, what: &str) -> Checked {
        let checked = self.check(node);
        let found = &checked.expression.of;
        if !found.agrees_with(wanted) {
            let problem = Problem::new(
                node.range.clone(),
                format!("{what} is a {found} where a {wanted} is wanted"),
            );
            let problem = match (wanted, found) {
                (Type::Bool, Type::String) => problem.help("compare it, for example with `== \"\"`"),
                (Type::String, Type::Int | Type::Double | Type::Timestamp | Type::Duration) => {
                    problem.help("`string(…)` converts it")
                }
                _ => problem,
            };
            self.report(problem);
        }
        checked
    }

    fn any(&mut self, node: &Node) -> Checked {
        let range = &node.range;
        match &node.syntax {
            Syntax::Literal(literal) => literal_of(range, literal.clone()),
            Syntax::Name(name) => self.name(range, name),
            Syntax::Select { of, field } => {
                let of = self.any(of);
                self.select(range, of, field)
            }
            Syntax::Index { of, key } => {
                let of = self.check(of);
                let key = self.check(key);
                self.index(range, of, key)
            }
            Syntax::Call {
                receiver,
                function,
                arguments,
            } => self.call(range, receiver.as_deref(), function, arguments),
            Syntax::List(all) => self.list(range, all),
            Syntax::Map(entries) => self.map(range, entries),
            Syntax::And(all) => self.logic(range, all, "&&", Kind::And),
            Syntax::Or(all) => self.logic(range, all, "||", Kind::Or),
            Syntax::Not(of) => {
                let of = self.check_as(of, &Type::Bool, "what `!` negates");
                let kind = Kind::Not(Box::new(of.expression));
                checked(range, Type::Bool, kind, Extent::SCALAR, steps([1, of.cost]))
            }
            Syntax::Negate(of) => self.negate(range, of),
            Syntax::Binary {
                operator: Operator::In,
                left,
                right,
            } => self.membership(range, left, right),
            Syntax::Binary {
                operator,
                left,
                right,
            } => self.binary(range, *operator, left, right),
            Syntax::Conditional {
                condition,
                then,
                otherwise,
            } => self.conditional(range, condition, then, otherwise),
        }
    }

    fn name(&mut self, range: &Range<usize>, name: &str) -> Checked {
        let local = self
            .locals
            .iter()
            .enumerate()
            .rev()
            .find(|(_, local)| local.name == name);
        if let Some((slot, local)) = local {
            let (of, extent) = (local.of.clone(), local.extent.clone());
            return checked(range, of, Kind::Local(slot), extent, 1);
        }
        if let Some(attribute) = self.attribute(range, name) {
            return attribute;
        }
        let known: Vec<&str> = self
            .locals
            .iter()
            .map(|local| local.name.as_str())
            .chain(self.environment.roots())
            .collect();
        let problem = Problem::new(range.clone(), format!("`{name}` is not declared"))
            .help(hint(name, known.iter().copied()));
        self.wrong(range, problem)
    }

    /// A declared attribute or object by its dotted name.
    fn attribute(&mut self, range: &Range<usize>, path: &str) -> Option<Checked> {
        if let Some((path, declared)) = self.environment.attribute(path) {
            self.attributes.insert(Arc::clone(path));
            let kind = Kind::Attribute(Arc::clone(path));
            return Some(checked(
                range,
                declared.of.clone(),
                kind,
                declared.extent.clone(),
                1,
            ));
        }
        let (path, _) = self.environment.object(path)?;
        let kind = Kind::Attribute(Arc::clone(path));
        Some(checked(
            range,
            Type::Object(Arc::clone(path)),
            kind,
            Extent::SCALAR,
            1,
        ))
    }

    /// `of.field`.
    pub(crate) fn select(&mut self, range: &Range<usize>, of: Checked, field: &Word) -> Checked {
        match &of.expression.of {
            Type::Object(path) => {
                let path = Arc::clone(path);
                match self.attribute(range, &format!("{path}.{}", field.text)) {
                    Some(attribute) => attribute,
                    None => self.no_field(range, &path, field),
                }
            }
            Type::Map(..) | Type::Dyn => {
                let key = literal_of(&field.range, Literal::String(field.text.as_str().into()));
                self.index(range, of, key)
            }
            other => {
                let what = format!("a {other} has no fields");
                let mut problem = Problem::new(field.range.clone(), what);
                if let Some(call) = crate::calls::method_named(&field.text) {
                    problem = problem.help(format!("`{call}` is a function: write `{call}(…)`"));
                }
                self.wrong(range, problem)
            }
        }
    }

    pub(crate) fn no_field(&mut self, range: &Range<usize>, path: &str, field: &Word) -> Checked {
        let environment = self.environment;
        let fields = environment
            .object(path)
            .map(|(_, fields)| fields)
            .unwrap_or_default();
        let what = format!("`{path}` has no field `{}`", field.text);
        let help = hint(&field.text, fields.iter().map(AsRef::as_ref));
        self.wrong(range, Problem::new(field.range.clone(), what).help(help))
    }

    /// An object's field, if `of` is an object that has it.
    pub(crate) fn field_of(
        &mut self,
        range: &Range<usize>,
        of: &Node,
        field: &Word,
    ) -> Result<Arc<str>, Box<Checked>> {
        let of = self.any(of);
        let Type::Object(path) = &of.expression.of else {
            return Err(Box::new(of));
        };
        let full = format!("{path}.{}", field.text);
        match self.environment.attribute(&full) {
            Some((full, _)) => {
                self.attributes.insert(Arc::clone(full));
                Ok(Arc::clone(full))
            }
            None => {
                let path = Arc::clone(path);
                Err(Box::new(self.no_field(range, &path, field)))
            }
        }
    }

    fn index(&mut self, range: &Range<usize>, of: Checked, key: Checked) -> Checked {
        let wanted = match &of.expression.of {
            Type::List(element) => Some((Type::Int, element.as_ref().clone())),
            Type::Map(key, value) => Some((key.as_ref().clone(), value.as_ref().clone())),
            Type::Dyn => Some((Type::Dyn, Type::Dyn)),
            _ => None,
        };
        let Some((wanted, value)) = wanted else {
            let what = format!("a {} has no entries", of.expression.of);
            let at = of.expression.range.clone();
            return self.wrong(range, Problem::new(at, what));
        };
        if !wanted.agrees_with(&key.expression.of) {
            let what = format!("the key is a {}, not a {wanted}", key.expression.of);
            self.report(Problem::new(key.expression.range.clone(), what));
        }
        self.key_in_its_case(&of.expression, &key.expression);
        let cost = steps([1, of.cost, key.cost, of.look_up()]);
        let extent = of.extent.element();
        let kind = Kind::Index {
            of: Box::new(of.expression),
            key: Box::new(key.expression),
        };
        checked(range, value, kind, extent, cost)
    }

    /// A map with names in lower case never has a key with capitals: what asks for one would never match, or always.
    pub(crate) fn key_in_its_case(&mut self, of: &Expression, key: &Expression) {
        if let Kind::Attribute(path) = &of.kind
            && crate::environment::IN_LOWER_CASE.contains(&path.as_ref())
            && let Kind::Literal(Literal::String(name)) = &key.kind
            && name.chars().any(|character| character.is_ascii_uppercase())
        {
            let what = format!("`{path}` has names in lower case only, so `{name}` is never there");
            let help = format!("write `{}`", name.to_ascii_lowercase());
            self.report(Problem::new(key.range.clone(), what).help(help));
        }
    }

    fn list(&mut self, range: &Range<usize>, all: &[Node]) -> Checked {
        let all: Vec<Checked> = all.iter().map(|node| self.check(node)).collect();
        let element = all
            .iter()
            .map(|element| element.expression.of.clone())
            .reduce(|before, next| before.joined(&next))
            .unwrap_or(Type::Dyn);
        let extent = Extent::of_all(all.iter().map(|element| &element.extent));
        let cost = steps(all.iter().map(|element| element.cost).chain([1]));
        let kind = Kind::List(all.into_iter().map(|element| element.expression).collect());
        checked(range, Type::list_of(element), kind, extent, cost)
    }

    fn map(&mut self, range: &Range<usize>, entries: &[(Node, Node)]) -> Checked {
        let mut keys: Vec<Literal> = Vec::new();
        let mut values = Vec::new();
        for (key, value) in entries {
            let checked_key = self.check(key);
            match checked_key.expression.kind {
                Kind::Literal(literal @ (Literal::Bool(_) | Literal::Int(_) | Literal::String(_))) => {
                    if keys.contains(&literal) {
                        let what = "the key is there twice";
                        self.report(Problem::new(key.range.clone(), what));
                    }
                    keys.push(literal);
                }
                _ => {
                    let what = "a key of a map must be a text, a whole number or a bool that is written down";
                    self.report(Problem::new(key.range.clone(), what));
                    keys.push(Literal::Null);
                }
            }
            values.push(self.check(value));
        }
        let key = keys
            .iter()
            .map(type_of)
            .reduce(|before, next| before.joined(&next))
            .unwrap_or(Type::Dyn);
        let value = values
            .iter()
            .map(|value| value.expression.of.clone())
            .reduce(|before, next| before.joined(&next))
            .unwrap_or(Type::Dyn);
        // Keys are values too when a macro goes over them.
        let key_extents: Vec<Extent> = keys.iter().map(extent_of).collect();
        let extents = values.iter().map(|value| &value.extent);
        let extent = Extent::of_all(extents.chain(&key_extents))
            .with_entries(keys.len())
            .for_a_map();
        let cost = steps(values.iter().map(|value| value.cost).chain([1]));
        let kind = Kind::Map(
            keys.into_iter()
                .zip(values.into_iter().map(|value| value.expression))
                .collect(),
        );
        checked(range, Type::map_of(key, value), kind, extent, cost)
    }

    fn logic(
        &mut self,
        range: &Range<usize>,
        all: &[Node],
        sign: &str,
        kind: fn(Vec<Expression>) -> Kind,
    ) -> Checked {
        let what = format!("a side of `{sign}`");
        let all: Vec<Checked> = all
            .iter()
            .map(|node| self.check_as(node, &Type::Bool, &what))
            .collect();
        let cost = steps(all.iter().map(|side| side.cost).chain([1]));
        let kind = kind(all.into_iter().map(|side| side.expression).collect());
        checked(range, Type::Bool, kind, Extent::SCALAR, cost)
    }

    fn negate(&mut self, range: &Range<usize>, of: &Node) -> Checked {
        let of = self.check(of);
        let found = of.expression.of.clone();
        if !matches!(found, Type::Int | Type::Double | Type::Dyn) {
            let what = format!("a {found} cannot be negated with `-`");
            return self.wrong(range, Problem::new(range.clone(), what));
        }
        let kind = Kind::Negate(Box::new(of.expression));
        checked(range, found, kind, Extent::SCALAR, steps([1, of.cost]))
    }

    fn membership(&mut self, range: &Range<usize>, left: &Node, right: &Node) -> Checked {
        let left = self.check(left);
        let right = self.check(right);
        let element = match &right.expression.of {
            Type::List(element) => Some(element.as_ref().clone()),
            Type::Map(key, _) => Some(key.as_ref().clone()),
            Type::Dyn => Some(Type::Dyn),
            _ => None,
        };
        let Some(element) = element else {
            let at = right.expression.range.clone();
            let what = format!(
                "`in` looks into a list or a map, not into a {}",
                right.expression.of
            );
            let problem = Problem::new(at, what);
            let is_text = right.expression.of == Type::String;
            let problem = if is_text {
                problem.help("`text.contains(part)` looks into a text")
            } else {
                problem
            };
            return self.wrong(range, problem);
        };
        if !element.agrees_with(&left.expression.of) {
            let what = format!("a {} is never in a {}", left.expression.of, right.expression.of);
            self.report(Problem::new(range.clone(), what));
        }
        let sides = [1, left.cost, right.cost, right.look_up()];
        if matches!(right.expression.of, Type::Map(..)) {
            self.key_in_its_case(&right.expression, &left.expression);
            let kind = Kind::Has {
                of: Box::new(right.expression),
                key: Box::new(left.expression),
            };
            return checked(range, Type::Bool, kind, Extent::SCALAR, steps(sides));
        }
        // Each element is compared as far as the smaller one goes, and what is looked for may be large each time.
        let each = right.extent.element().total.min(left.extent.total);
        let compared = right.extent.entries.saturating_mul(each.saturating_add(1));
        let kind = Kind::Binary {
            operator: Operator::In,
            left: Box::new(left.expression),
            right: Box::new(right.expression),
        };
        let cost = steps(sides.into_iter().chain([compared]));
        checked(range, Type::Bool, kind, Extent::SCALAR, cost)
    }

    fn binary(&mut self, range: &Range<usize>, operator: Operator, left: &Node, right: &Node) -> Checked {
        let left = self.check(left);
        let right = self.check(right);
        let (left_type, right_type) = (left.expression.of.clone(), right.expression.of.clone());
        let Some(of) = crate::operators::result(operator, &left_type, &right_type) else {
            let sign = operator.as_str();
            let what = format!("`{sign}` is not defined for a {left_type} and a {right_type}");
            let problem = Problem::new(range.clone(), what);
            let problem = match (&left_type, &right_type) {
                (Type::String, Type::Int) => {
                    problem.help("`int(…)` reads a number from a text, a text stands in quotes")
                }
                (Type::Int, Type::String) => problem.help("`int(…)` reads a number from a text"),
                (Type::Int, Type::Double) | (Type::Double, Type::Int) => problem
                    .help("`double(…)` turns an int into a double; a double is written with a point: `1.0`"),
                (Type::Null, _) | (_, Type::Null) => {
                    problem.help("only a dyn can be null; `has(…)` says whether something is there")
                }
                _ => problem,
            };
            return self.wrong(range, problem);
        };
        let (extent, work) = match operator {
            Operator::Equal | Operator::NotEqual => {
                (Extent::SCALAR, left.extent.total.min(right.extent.total))
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => (
                Extent::SCALAR,
                left.extent.bytes.min(right.extent.bytes) / BYTES_A_STEP,
            ),
            Operator::Add => {
                let both = left.extent.appended(&right.extent);
                let work = both.entries.saturating_add(both.bytes / BYTES_A_STEP);
                (both, work)
            }
            Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder
            | Operator::In => (Extent::SCALAR, 0),
        };
        let cost = steps([1, left.cost, right.cost, work]);
        let kind = Kind::Binary {
            operator,
            left: Box::new(left.expression),
            right: Box::new(right.expression),
        };
        checked(range, of, kind, extent, cost)
    }

    fn conditional(
        &mut self,
        range: &Range<usize>,
        condition: &Node,
        then: &Node,
        otherwise: &Node,
    ) -> Checked {
        let condition = self.check_as(condition, &Type::Bool, "the condition before `?`");
        let then = self.check(then);
        let otherwise = self.check(otherwise);
        let (left, right) = (&then.expression.of, &otherwise.expression.of);
        if !left.agrees_with(right) {
            let what = format!("one value is a {left}, the other a {right}");
            self.report(Problem::new(range.clone(), what));
        }
        let of = left.joined(right);
        let extent = then.extent.joined(&otherwise.extent);
        let cost = steps([1, condition.cost, then.cost.max(otherwise.cost)]);
        let kind = Kind::Conditional {
            condition: Box::new(condition.expression),
            then: Box::new(then.expression),
            otherwise: Box::new(otherwise.expression),
        };
        checked(range, of, kind, extent, cost)
    }

    /// Checks with one more variable; its slot is the number of those around it.
    pub(crate) fn with_local<T>(&mut self, local: Local, inner: impl FnOnce(&mut Self) -> T) -> (usize, T) {
        let slot = self.locals.len();
        self.locals.push(local);
        let result = inner(self);
        self.locals.pop();
        (slot, result)
    }

    /// Whether a declared name or the variable of a macro around this has that name.
    pub(crate) fn is_taken(&self, name: &str) -> bool {
        self.environment.roots().any(|root| root == name)
            || self.locals.iter().any(|local| local.name == name)
    }
}

impl Checked {
    /// Steps to find a key: an attribute's map is looked into by the caller, one that was made here is searched.
    pub(crate) fn look_up(&self) -> u64 {
        match (&self.expression.kind, &self.expression.of) {
            (Kind::Attribute(_), Type::Map(..)) => 0,
            _ => self.extent.entries,
        }
    }
}

pub(crate) fn checked(range: &Range<usize>, of: Type, kind: Kind, extent: Extent, cost: u64) -> Checked {
    Checked {
        expression: Expression {
            range: range.clone(),
            of,
            kind,
        },
        extent,
        cost,
    }
}

pub(crate) fn literal_of(range: &Range<usize>, literal: Literal) -> Checked {
    let extent = extent_of(&literal);
    checked(range, type_of(&literal), Kind::Literal(literal), extent, 1)
}

pub(crate) fn steps(all: impl IntoIterator<Item = u64>) -> u64 {
    all.into_iter().fold(0, u64::saturating_add)
}

fn extent_of(literal: &Literal) -> Extent {
    match literal {
        Literal::String(text) => Extent::text(u64::try_from(text.len()).unwrap_or(u64::MAX)),
        Literal::Null
        | Literal::Bool(_)
        | Literal::Int(_)
        | Literal::Double(_)
        | Literal::Timestamp(_)
        | Literal::Duration(_) => Extent::SCALAR,
    }
}

fn type_of(literal: &Literal) -> Type {
    match literal {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Timestamp(_) => Type::Timestamp,
        Literal::Duration(_) => Type::Duration,
    }
}
