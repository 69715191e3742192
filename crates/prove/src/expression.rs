//! The requests for which an expression is true, and those for which it is false; for the others it is an error, which does
//! not allow and does deny.
//!
//! Comparisons of one attribute with what is written down become atoms of its dimension. What cannot be put so stays open: a
//! part of the expression with three answers, named in the answer of whoever asked.

mod texts;

use std::sync::Arc;

use bartizan_cel::{Environment, Expression, Function, Kind, Literal, Operator, TimeField, check};
use bartizan_mesh::{Snapshot, View};
use bartizan_types::Cidr;

use self::texts::{Asked, TextOf, asks};
use crate::address::NumberAtom;
use crate::clock::{ClockAtom, ClockField};
use crate::formula::Formula;
use crate::problem::Shape;
use crate::speaker::Speaker;
use crate::text::TextAtom;

/// Whom an expression speaks of as `destination`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Callee<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) view: &'a View,
}

/// Where an expression is true, and where it is false.
#[derive(Clone, Debug)]
pub(crate) struct Meaning {
    pub(crate) is_true: Formula,
    pub(crate) is_false: Formula,
}

impl Meaning {
    fn error() -> Self {
        Self {
            is_true: Formula::Never,
            is_false: Formula::Never,
        }
    }

    fn always(truth: bool) -> Self {
        let (is_true, is_false) = if truth {
            (Formula::Always, Formula::Never)
        } else {
            (Formula::Never, Formula::Always)
        };
        Self { is_true, is_false }
    }

    /// True where `formula` holds, else false, and an error outside of `defined`.
    fn of(formula: Formula, defined: Formula) -> Self {
        Self {
            is_true: defined.clone().and(formula.clone()),
            is_false: defined.and(formula.not()),
        }
    }

    fn not(self) -> Self {
        Self {
            is_true: self.is_false,
            is_false: self.is_true,
        }
    }

    fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let (is_true, is_false): (Vec<_>, Vec<_>) = parts
            .into_iter()
            .map(|part| (part.is_true, part.is_false))
            .unzip();
        Self {
            is_true: Formula::all(is_true),
            is_false: Formula::any(is_false),
        }
    }

    fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        Self::all(parts.into_iter().map(Self::not).collect::<Vec<_>>()).not()
    }
}

/// The meaning of an expression's text.
pub(crate) fn meaning(speaker: &mut Speaker<'_>, text: &str, callee: &Callee<'_>, is_http: bool) -> Meaning {
    let Ok(program) = check(text, Environment::access_rule()) else {
        return Meaning::error();
    };
    if !is_http && (program.uses("request") || program.uses("auth")) {
        return Meaning::error();
    }
    let mut reader = Reader {
        speaker,
        text,
        callee,
    };
    reader.truth(program.expression())
}

/// Reads one expression.
pub(crate) struct Reader<'r, 'p> {
    pub(crate) speaker: &'r mut Speaker<'p>,
    text: &'r str,
    pub(crate) callee: &'r Callee<'r>,
}

impl Reader<'_, '_> {
    fn truth(&mut self, expression: &Expression) -> Meaning {
        match &expression.kind {
            Kind::Literal(Literal::Bool(truth)) => Meaning::always(*truth),
            Kind::And(parts) => {
                let parts: Vec<Meaning> = parts.iter().map(|part| self.truth(part)).collect();
                Meaning::all(parts)
            }
            Kind::Or(parts) => {
                let parts: Vec<Meaning> = parts.iter().map(|part| self.truth(part)).collect();
                Meaning::any(parts)
            }
            Kind::Not(inner) => self.truth(inner).not(),
            Kind::Conditional {
                condition,
                then,
                otherwise,
            } => {
                let condition = self.truth(condition);
                let (then, otherwise) = (self.truth(then), self.truth(otherwise));
                Meaning {
                    is_true: Formula::any([
                        condition.is_true.clone().and(then.is_true),
                        condition.is_false.clone().and(otherwise.is_true),
                    ]),
                    is_false: Formula::any([
                        condition.is_true.and(then.is_false),
                        condition.is_false.and(otherwise.is_false),
                    ]),
                }
            }
            Kind::Attribute(path) => self.flag(path).unwrap_or_else(|| self.open(expression)),
            Kind::Binary {
                operator,
                left,
                right,
            } => self
                .compared(*operator, left, right)
                .unwrap_or_else(|| self.open(expression)),
            Kind::Call { function, arguments } => self
                .called(*function, arguments)
                .unwrap_or_else(|| self.open(expression)),
            Kind::Has { of, key } => self.has(of, key).unwrap_or_else(|| self.open(expression)),
            Kind::HasAttribute(path) => match asks(expression_of(path)) {
                Some(of) => {
                    let defined = self.is_there(&of);
                    let known = self.is_known(&of);
                    Meaning::of(defined, known)
                }
                None => self.open(expression),
            },
            Kind::InBlock { address, block } => {
                let Kind::Attribute(path) = &address.kind else {
                    return self.open(expression);
                };
                match self.address(path, *block) {
                    Some(formula) => Meaning::of(formula, Formula::Always),
                    None => self.open(expression),
                }
            }
            Kind::Literal(_)
            | Kind::Local(_)
            | Kind::Index { .. }
            | Kind::List(_)
            | Kind::Map(_)
            | Kind::Negate(_)
            | Kind::Matches { .. }
            | Kind::Getter { .. }
            | Kind::Comprehension { .. } => self.open(expression),
        }
    }

    /// A part that is not looked into.
    fn open(&mut self, expression: &Expression) -> Meaning {
        let text = self.text.get(expression.range.clone()).unwrap_or(self.text);
        let (is_true, is_false) = self.speaker.opaque(text);
        Meaning { is_true, is_false }
    }

    /// An attribute that is true or false.
    fn flag(&mut self, path: &str) -> Option<Meaning> {
        let formula = match path {
            "source.authenticated" => self.speaker.has_identity(),
            "auth.authenticated" => self.speaker.has_user(),
            "connection.tls" => self.speaker.has_tls(),
            _ => return None,
        };
        Some(Meaning::of(formula, Formula::Always))
    }

    fn address(&mut self, path: &str, block: Cidr) -> Option<Formula> {
        match path {
            "source.ip" => Some(self.speaker.source(block)),
            "source.remoteIp" => Some(self.speaker.remote(block)),
            "destination.ip" => Some(self.speaker.destination(block)),
            _ => None,
        }
    }

    fn compared(&mut self, operator: Operator, left: &Expression, right: &Expression) -> Option<Meaning> {
        match operator {
            Operator::Equal => self.equal(left, right),
            Operator::NotEqual => Some(self.equal(left, right)?.not()),
            Operator::In => self.is_in(left, right),
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                self.ordered(operator, left, right)
            }
            Operator::Add
            | Operator::Subtract
            | Operator::Multiply
            | Operator::Divide
            | Operator::Remainder => None,
        }
    }

    fn equal(&mut self, left: &Expression, right: &Expression) -> Option<Meaning> {
        // What is written down may stand on either side.
        let (value, literal) = match (&left.kind, &right.kind) {
            (_, Kind::Literal(literal)) => (left, literal),
            (Kind::Literal(literal), _) => (right, literal),
            _ => return None,
        };
        match literal {
            Literal::Bool(_) | Literal::Int(_) | Literal::Double(_)
                if matches!(value.of, bartizan_cel::Type::Dyn) =>
            {
                self.other_claim(value, left, right, true)
            }
            Literal::Bool(truth) => {
                let meaning = self.truth(value);
                Some(if *truth { meaning } else { meaning.not() })
            }
            Literal::String(text) => self.text(value, &Asked::exact(text), true),
            Literal::Int(number) => self.number(value, NumberAtom::Is(*number)),
            Literal::Null | Literal::Double(_) | Literal::Timestamp(_) | Literal::Duration(_) => None,
        }
    }

    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "what has no order here is not looked into"
    )]
    fn ordered(&mut self, operator: Operator, left: &Expression, right: &Expression) -> Option<Meaning> {
        // Turned so that the literal is on the right.
        let (value, literal, operator) = match (&left.kind, &right.kind) {
            (_, Kind::Literal(literal)) => (left, literal, operator),
            (Kind::Literal(literal), _) => {
                let turned = match operator {
                    Operator::Less => Operator::Greater,
                    Operator::LessOrEqual => Operator::GreaterOrEqual,
                    Operator::Greater => Operator::Less,
                    Operator::GreaterOrEqual => Operator::LessOrEqual,
                    _ => return None,
                };
                (right, literal, turned)
            }
            _ => return None,
        };
        // `a <= n` is `a < n + 1`; `a > n` is the opposite of that.
        let (is_after, is_not) = match operator {
            Operator::Less => (0, false),
            Operator::LessOrEqual => (1, false),
            Operator::Greater => (1, true),
            Operator::GreaterOrEqual => (0, true),
            _ => return None,
        };
        if matches!(value.of, bartizan_cel::Type::Dyn) {
            let meaning = self.other_claim(value, left, right, false)?;
            return Some(meaning);
        }
        let meaning = match literal {
            Literal::Int(number) => self.number(value, NumberAtom::Below(number.checked_add(is_after)?))?,
            Literal::Timestamp(limit)
                if limit.nanos() == 0 && matches!(&value.kind, Kind::Attribute(path) if &**path == "now") =>
            {
                let limit = limit.seconds().checked_add(is_after)?;
                Meaning::of(self.speaker.clock(ClockAtom::Before(limit)), Formula::Always)
            }
            _ => return None,
        };
        Some(if is_not { meaning.not() } else { meaning })
    }

    /// A claim that is compared with something else than a text: only one that is no text and no list can be equal to it or
    /// have an order with it, and whether it is stays open.
    fn other_claim(
        &mut self,
        value: &Expression,
        left: &Expression,
        right: &Expression,
        is_total: bool,
    ) -> Option<Meaning> {
        let path = texts::claim_path(value).filter(|path| !texts::is_always_text(path))?;
        let is_other = self.speaker.shape(&path, Shape::Other);
        let is_absent = self.speaker.shape(&path, Shape::Absent);
        let range = left.range.start.min(right.range.start)..left.range.end.max(right.range.end);
        let text = self.text.get(range).unwrap_or(self.text);
        let (is_true, is_false) = self.speaker.opaque(text);
        let elsewhere = if is_total {
            Formula::any([is_other.clone(), is_absent]).not()
        } else {
            Formula::Never
        };
        Some(Meaning {
            is_true: is_other.clone().and(is_true),
            is_false: is_other.and(is_false).or(elsewhere),
        })
    }

    /// A number that a request has.
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "every other kind is no number of a request"
    )]
    fn number(&mut self, value: &Expression, atom: NumberAtom) -> Option<Meaning> {
        let formula = match &value.kind {
            Kind::Attribute(path) if &**path == "destination.port" => self.speaker.port_atom(atom),
            Kind::Getter {
                field,
                of,
                offset_seconds,
            } if matches!(&of.kind, Kind::Attribute(path) if &**path == "now")
                && offset_seconds % 60 == 0 =>
            {
                let field = match field {
                    TimeField::DayOfWeek => ClockField::DayOfWeek,
                    TimeField::Hours => ClockField::Hours,
                    TimeField::Minutes => ClockField::Minutes,
                    TimeField::FullYear
                    | TimeField::Month
                    | TimeField::DayOfMonth
                    | TimeField::Date
                    | TimeField::DayOfYear
                    | TimeField::Seconds
                    | TimeField::Milliseconds => return None,
                };
                self.speaker.clock(ClockAtom::Field(field, *offset_seconds, atom))
            }
            _ => return None,
        };
        Some(Meaning::of(formula, Formula::Always))
    }

    fn is_in(&mut self, left: &Expression, right: &Expression) -> Option<Meaning> {
        match (&left.kind, &right.kind) {
            // `attribute in ["a", "b"]`.
            (_, Kind::List(all)) => {
                let mut parts = Vec::new();
                for element in all {
                    parts.push(self.equal(left, element)?);
                }
                if parts.is_empty() {
                    return None;
                }
                Some(Meaning::any(parts))
            }
            // `"a" in auth.audiences`, `"a" in auth.claims.groups`.
            (Kind::Literal(Literal::String(text)), _) => {
                let atom = TextAtom::Exact(text.to_string());
                if matches!(&right.kind, Kind::Attribute(path) if &**path == "auth.audiences") {
                    let formula = self.speaker.claim(&[Arc::from("aud")], atom);
                    return Some(Meaning::of(formula, Formula::Always));
                }
                let path = texts::claim_path(right)?;
                if texts::is_always_text(&path) {
                    return None;
                }
                let is_list = self.speaker.shape(&path, Shape::List);
                let other = self.speaker.shape(&path, Shape::Other);
                let has = self.speaker.claim(&path, atom);
                let open = self.speaker.opaque(&format!("\"{text}\" in {}", path.join(".")));
                Some(Meaning {
                    is_true: Formula::any([is_list.clone().and(has.clone()), other.clone().and(open.0)]),
                    is_false: Formula::any([is_list.and(has.not()), other.and(open.1)]),
                })
            }
            _ => None,
        }
    }

    fn called(&mut self, function: Function, arguments: &[Expression]) -> Option<Meaning> {
        let [value, argument] = arguments else {
            return None;
        };
        let Kind::Literal(Literal::String(text)) = &argument.kind else {
            return None;
        };
        let asked = match function {
            Function::StartsWith => Asked::prefix(text),
            Function::EndsWith => Asked::suffix(text),
            Function::Contains => Asked::part(text),
            Function::Size
            | Function::LowerAscii
            | Function::UpperAscii
            | Function::Trim
            | Function::Split
            | Function::Bool
            | Function::Int
            | Function::Double
            | Function::String
            | Function::Timestamp
            | Function::Duration
            | Function::Dyn => return None,
        };
        self.text(value, &asked, false)
    }

    /// A text that is asked about. `is_total` tells whether values of other kinds are false, and not an error.
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other kind is read as it is")]
    fn text(&mut self, value: &Expression, asked: &Asked, is_total: bool) -> Option<Meaning> {
        let (value, asked) = match &value.kind {
            Kind::Call {
                function: Function::LowerAscii,
                arguments,
            } => (arguments.first()?, asked.lower()),
            _ => (value, asked.clone()),
        };
        if let Kind::Attribute(path) = &value.kind
            && matches!(&**path, "source.ip" | "source.remoteIp" | "destination.ip")
        {
            // As a text, an address is what it prints as.
            let Asked::Exact(text) = &asked else {
                return None;
            };
            let printed = text
                .parse::<std::net::IpAddr>()
                .ok()
                .filter(|address| address.to_string() == **text && address.to_canonical() == *address);
            let formula = match printed {
                Some(address) => self.address(path, Cidr::new(address, 128))?,
                None => Formula::Never,
            };
            return Some(Meaning::of(formula, Formula::Always));
        }
        let of = asks(&value.kind)?;
        if let TextOf::Header(name) = &of
            && self.speaker.read_by_line.contains(name)
        {
            return None;
        }
        if let TextOf::Claim(path) = &of {
            let is_text = self.speaker.shape(path, Shape::Text);
            let absent = self.speaker.shape(path, Shape::Absent);
            let formula = self.asked(&of, &asked)?;
            let is_true = is_text.clone().and(formula.clone());
            let is_false = if is_total {
                absent.not().and(is_true.clone().not())
            } else {
                is_text.and(formula.not())
            };
            return Some(Meaning { is_true, is_false });
        }
        let formula = self.asked(&of, &asked)?;
        let defined = self.is_there(&of);
        Some(Meaning::of(formula, defined))
    }

    fn has(&mut self, of: &Expression, key: &Expression) -> Option<Meaning> {
        let Kind::Literal(Literal::String(key)) = &key.kind else {
            return None;
        };
        if let Kind::Attribute(path) = &of.kind {
            let of = match &**path {
                "request.headers" => TextOf::Header(Arc::clone(key)),
                "request.query" => TextOf::Query(Arc::clone(key)),
                "source.labels" => TextOf::SourceLabel(Arc::clone(key)),
                "destination.labels" => TextOf::DestinationLabel(Arc::clone(key)),
                "auth.claims" => texts::of_claim(vec![Arc::clone(key)]),
                _ => return None,
            };
            let defined = self.is_there(&of);
            let known = self.is_known(&of);
            return Some(Meaning::of(defined, known));
        }
        None
    }
}

/// The expression of an attribute by its name.
fn expression_of(path: &Arc<str>) -> &'static Kind {
    // `asks` wants a kind; the few attributes that can be absent are told apart by name.
    static KINDS: std::sync::LazyLock<Vec<(Arc<str>, Kind)>> = std::sync::LazyLock::new(|| {
        Environment::access_rule()
            .attributes()
            .map(|(path, _)| (Arc::from(path), Kind::Attribute(Arc::from(path))))
            .collect()
    });
    static NONE: Kind = Kind::Literal(Literal::Null);
    KINDS
        .iter()
        .find(|(known, _)| known == path)
        .map_or(&NONE, |(_, kind)| kind)
}
