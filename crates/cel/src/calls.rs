//! Functions and macros: which there are, what they take, and what they cost.

use std::ops::Range;

use bartizan_types::Cidr;

use crate::check::{Checked, Checker, Local, checked, literal_of, steps};
use crate::expression::{Function, Kind, Literal, Macro, TimeField};
use crate::extent::{BYTES_A_STEP, Extent};
use crate::pattern::Pattern;
use crate::problem::Problem;
use crate::suggest::hint;
use crate::syntax::{Node, Syntax, Word};
use crate::time::{Duration, Timestamp, parse_offset};
use crate::types::Type;

/// The most bytes of a number, timestamp or duration as text.
const NUMBER_BYTES: u64 = 40;

/// Functions that are called on a value: `text.startsWith(…)`.
const METHODS: [&str; 25] = [
    "size",
    "startsWith",
    "endsWith",
    "contains",
    "matches",
    "lowerAscii",
    "upperAscii",
    "trim",
    "split",
    "inBlock",
    "all",
    "exists",
    "exists_one",
    "map",
    "filter",
    "getFullYear",
    "getMonth",
    "getDayOfMonth",
    "getDate",
    "getDayOfWeek",
    "getDayOfYear",
    "getHours",
    "getMinutes",
    "getSeconds",
    "getMilliseconds",
];

/// Functions that are called with everything in parentheses: `size(…)`.
const FUNCTIONS: [&str; 11] = [
    "has",
    "size",
    "matches",
    "inBlock",
    "bool",
    "int",
    "double",
    "string",
    "timestamp",
    "duration",
    "dyn",
];

/// The method of this name.
pub(crate) fn method_named(name: &str) -> Option<&'static str> {
    METHODS.into_iter().find(|method| *method == name)
}

impl Checker<'_> {
    pub(crate) fn call(
        &mut self,
        range: &Range<usize>,
        receiver: Option<&Node>,
        function: &Word,
        arguments: &[Node],
    ) -> Checked {
        let name = function.text.as_str();
        match (receiver, name, arguments) {
            (None, "has", [of]) => self.has(range, of),
            (None, "has", _) => self.arguments(range, function, "one: `has(request.headers.cookie)`"),
            (Some(over), "all" | "exists" | "exists_one" | "filter", [variable, condition]) => {
                self.comprehension(range, macro_of(name), over, variable, Some(condition), None)
            }
            (Some(over), "map", [variable, transform]) => {
                self.comprehension(range, Macro::Map, over, variable, None, Some(transform))
            }
            (Some(over), "map", [variable, condition, transform]) => self.comprehension(
                range,
                Macro::Map,
                over,
                variable,
                Some(condition),
                Some(transform),
            ),
            (Some(_), "all" | "exists" | "exists_one" | "filter" | "map", _) => self.arguments(
                range,
                function,
                "a variable and an expression: `list.exists(x, x == \"a\")`",
            ),
            (Some(text), "matches", [pattern]) | (None, "matches", [text, pattern]) => {
                self.matches(range, text, pattern)
            }
            (Some(address), "inBlock", [block]) | (None, "inBlock", [address, block]) => {
                self.in_block(range, address, block)
            }
            (_, "matches" | "inBlock", _) => self.arguments(
                range,
                function,
                "a text and a literal: `inBlock(source.ip, \"10.0.0.0/8\")`",
            ),
            (Some(of), "size", []) | (None, "size", [of]) => self.size(range, of),
            (Some(text), "startsWith" | "endsWith" | "contains" | "split", [other]) => {
                self.two_texts(range, name, text, other)
            }
            (Some(text), "lowerAscii" | "upperAscii" | "trim", []) => self.one_text(range, name, text),
            (None, "bool" | "int" | "double" | "string" | "timestamp" | "duration" | "dyn", [of]) => {
                self.conversion(range, name, of)
            }
            (Some(of), name, [] | [_]) if field_named(name).is_some() => {
                self.getter(range, function, of, arguments.first())
            }
            _ => self.no_such_call(range, receiver.is_some(), function),
        }
    }

    fn no_such_call(&mut self, range: &Range<usize>, is_method: bool, function: &Word) -> Checked {
        let name = function.text.as_str();
        let (here, there): (&[&str], &[&str]) = if is_method {
            (&METHODS, &FUNCTIONS)
        } else {
            (&FUNCTIONS, &METHODS)
        };
        let problem = if here.contains(&name) {
            Problem::new(
                function.range.clone(),
                format!("`{name}` does not take these arguments"),
            )
        } else if there.contains(&name) {
            let way = if is_method {
                format!("write `{name}(…)`")
            } else {
                format!("write `value.{name}(…)`")
            };
            Problem::new(
                function.range.clone(),
                format!("`{name}` is called in another way"),
            )
            .help(way)
        } else {
            Problem::new(function.range.clone(), format!("there is no function `{name}`"))
                .help(hint(name, here.iter().copied()))
        };
        self.wrong(range, problem)
    }

    fn arguments(&mut self, range: &Range<usize>, function: &Word, wanted: &str) -> Checked {
        let what = format!("`{}` does not take these arguments", function.text);
        let problem = Problem::new(function.range.clone(), what).help(format!("it takes {wanted}"));
        self.wrong(range, problem)
    }

    fn has(&mut self, range: &Range<usize>, of: &Node) -> Checked {
        let Syntax::Select { of: inner, field } = &of.syntax else {
            let problem = Problem::new(of.range.clone(), "`has` asks for a field: `has(a.b)`")
                .help("whether a map has a key is asked with `in`: `\"x-a\" in request.headers`");
            return self.wrong(range, problem);
        };
        let of = match self.field_of(range, inner, field) {
            Ok(path) => {
                return checked(range, Type::Bool, Kind::HasAttribute(path), Extent::SCALAR, 1);
            }
            Err(of) => *of,
        };
        if !matches!(of.expression.of, Type::Map(..) | Type::Dyn) {
            return self.select(range, of, field);
        }
        if let Type::Map(key, _) = &of.expression.of
            && !key.agrees_with(&Type::String)
        {
            let what = format!("the keys of this map are of type {key}");
            return self.wrong(range, Problem::new(field.range.clone(), what));
        }
        let key = literal_of(&field.range, Literal::String(field.text.as_str().into()));
        self.key_in_its_case(&of.expression, &key.expression);
        let cost = steps([1, of.cost, key.cost, of.look_up()]);
        let kind = Kind::Has {
            of: Box::new(of.expression),
            key: Box::new(key.expression),
        };
        checked(range, Type::Bool, kind, Extent::SCALAR, cost)
    }

    fn comprehension(
        &mut self,
        range: &Range<usize>,
        of: Macro,
        over: &Node,
        variable: &Node,
        condition: Option<&Node>,
        transform: Option<&Node>,
    ) -> Checked {
        let over = self.check(over);
        let element = match &over.expression.of {
            Type::List(element) => Some(element.as_ref().clone()),
            Type::Map(key, _) => Some(key.as_ref().clone()),
            Type::Dyn => Some(Type::Dyn),
            _ => None,
        };
        let Some(element) = element else {
            let what = format!(
                "a macro goes over a list or a map, not over a {}",
                over.expression.of
            );
            let at = over.expression.range.clone();
            return self.wrong(range, Problem::new(at, what));
        };
        let Syntax::Name(name) = &variable.syntax else {
            let problem = Problem::new(variable.range.clone(), "a macro's first argument is a new name")
                .help("as in `list.exists(x, x == \"a\")`");
            return self.wrong(range, problem);
        };
        if self.is_taken(name) {
            let what = format!("`{name}` already means something here");
            self.report(
                Problem::new(variable.range.clone(), what).help("take another name for the variable"),
            );
        }
        let local = Local {
            name: name.clone(),
            of: element.clone(),
            extent: over.extent.element(),
        };
        let always = || literal_of(&variable.range, Literal::Bool(true));
        let (slot, (condition, transform)) = self.with_local(local, |checker| {
            let condition = condition.map_or_else(always, |node| {
                checker.check_as(node, &Type::Bool, "the condition of a macro")
            });
            (condition, transform.map(|node| checker.check(node)))
        });
        let each = steps([1, condition.cost, transform.as_ref().map_or(0, |made| made.cost)]);
        let cost = steps([1, over.cost, over.extent.entries.saturating_mul(each)]);
        let (result, extent) = match (of, &transform) {
            (Macro::Map, Some(made)) => (
                Type::list_of(made.expression.of.clone()),
                Extent::entries(over.extent.entries, made.extent.clone()),
            ),
            (Macro::Filter, _) => (
                Type::list_of(element),
                Extent::entries(over.extent.entries, over.extent.element()),
            ),
            _ => (Type::Bool, Extent::SCALAR),
        };
        let kind = Kind::Comprehension {
            of,
            over: Box::new(over.expression),
            slot,
            condition: Box::new(condition.expression),
            transform: transform.map(|made| Box::new(made.expression)),
        };
        checked(range, result, kind, extent, cost)
    }

    fn matches(&mut self, range: &Range<usize>, text: &Node, pattern: &Node) -> Checked {
        let text = self.check_as(text, &Type::String, "what is searched");
        let Syntax::Literal(Literal::String(written)) = &pattern.syntax else {
            let problem = Problem::new(
                pattern.range.clone(),
                "the pattern of `matches` must be a text that is written down",
            );
            return self.wrong(range, problem);
        };
        let pattern = match Pattern::compile(written) {
            Ok(pattern) => pattern,
            Err(why) => {
                let what = format!("the pattern cannot be read: {why}");
                let problem = Problem::new(pattern.range.clone(), what).help("the syntax is RE2's");
                return self.wrong(range, problem);
            }
        };
        let cost = steps([1, text.cost, text.extent.bytes]);
        let kind = Kind::Matches {
            text: Box::new(text.expression),
            pattern,
        };
        checked(range, Type::Bool, kind, Extent::SCALAR, cost)
    }

    fn in_block(&mut self, range: &Range<usize>, address: &Node, block: &Node) -> Checked {
        let address = self.check_as(address, &Type::String, "the address");
        let Syntax::Literal(Literal::String(written)) = &block.syntax else {
            let problem = Problem::new(
                block.range.clone(),
                "the block of `inBlock` must be a text that is written down",
            );
            return self.wrong(range, problem);
        };
        let Ok(parsed) = Cidr::parse(written) else {
            let what = format!("`{written}` is neither an address nor a block of addresses");
            let problem = Problem::new(block.range.clone(), what).help("such as `10.0.0.0/8` or `fd00::/8`");
            return self.wrong(range, problem);
        };
        let kind = Kind::InBlock {
            address: Box::new(address.expression),
            block: parsed,
        };
        checked(range, Type::Bool, kind, Extent::SCALAR, steps([1, address.cost]))
    }

    fn size(&mut self, range: &Range<usize>, of: &Node) -> Checked {
        let of = self.check(of);
        let found = &of.expression.of;
        if !matches!(found, Type::String | Type::List(_) | Type::Map(..) | Type::Dyn) {
            let what = format!("a {found} has no size");
            let at = of.expression.range.clone();
            return self.wrong(range, Problem::new(at, what));
        }
        let cost = steps([1, of.cost, of.extent.bytes / BYTES_A_STEP]);
        call(range, Type::Int, Function::Size, vec![of], Extent::SCALAR, cost)
    }

    fn two_texts(&mut self, range: &Range<usize>, name: &str, text: &Node, other: &Node) -> Checked {
        let text = self.check_as(text, &Type::String, &format!("what `{name}` is called on"));
        let other = self.check_as(other, &Type::String, &format!("the argument of `{name}`"));
        let (bytes, other_bytes) = (text.extent.bytes, other.extent.bytes);
        let (of, function, extent, work) = match name {
            "startsWith" => (
                Type::Bool,
                Function::StartsWith,
                Extent::SCALAR,
                other_bytes / BYTES_A_STEP,
            ),
            "endsWith" => (
                Type::Bool,
                Function::EndsWith,
                Extent::SCALAR,
                other_bytes / BYTES_A_STEP,
            ),
            "contains" => (
                Type::Bool,
                Function::Contains,
                Extent::SCALAR,
                bytes.saturating_add(other_bytes),
            ),
            _ => {
                // An empty separator splits into code points.
                let parts = Extent::entries(bytes.saturating_add(1), Extent::text(bytes));
                let work = bytes
                    .saturating_mul(2)
                    .saturating_add(other_bytes)
                    .saturating_add(1);
                (Type::list_of(Type::String), Function::Split, parts, work)
            }
        };
        let cost = steps([1, text.cost, other.cost, work]);
        call(range, of, function, vec![text, other], extent, cost)
    }

    fn one_text(&mut self, range: &Range<usize>, name: &str, text: &Node) -> Checked {
        let text = self.check_as(text, &Type::String, &format!("what `{name}` is called on"));
        let function = match name {
            "lowerAscii" => Function::LowerAscii,
            "upperAscii" => Function::UpperAscii,
            _ => Function::Trim,
        };
        let extent = Extent::text(text.extent.bytes);
        let cost = steps([1, text.cost, text.extent.bytes / BYTES_A_STEP]);
        call(range, Type::String, function, vec![text], extent, cost)
    }

    fn conversion(&mut self, range: &Range<usize>, name: &str, of: &Node) -> Checked {
        let of = self.check(of);
        let found = of.expression.of.clone();
        let (to, function, takes): (Type, Function, &[Type]) = match name {
            "bool" => (Type::Bool, Function::Bool, &[Type::Bool, Type::String]),
            "int" => (
                Type::Int,
                Function::Int,
                &[Type::Int, Type::Double, Type::String, Type::Timestamp],
            ),
            "double" => (
                Type::Double,
                Function::Double,
                &[Type::Double, Type::Int, Type::String],
            ),
            "string" => (
                Type::String,
                Function::String,
                &[
                    Type::String,
                    Type::Bool,
                    Type::Int,
                    Type::Double,
                    Type::Timestamp,
                    Type::Duration,
                ],
            ),
            "timestamp" => (
                Type::Timestamp,
                Function::Timestamp,
                &[Type::Timestamp, Type::String, Type::Int],
            ),
            "duration" => (
                Type::Duration,
                Function::Duration,
                &[Type::Duration, Type::String],
            ),
            _ => {
                let (extent, cost) = (of.extent.clone(), steps([1, of.cost]));
                return call(range, Type::Dyn, Function::Dyn, vec![of], extent, cost);
            }
        };
        if found != Type::Dyn && !takes.contains(&found) {
            let what = format!("a {found} cannot be converted with `{name}`");
            return self.wrong(range, Problem::new(range.clone(), what));
        }
        if let Kind::Literal(Literal::String(text)) = &of.expression.kind {
            let literal = match function {
                Function::Timestamp => Some(
                    Timestamp::parse(text)
                        .map(Literal::Timestamp)
                        .ok_or("is no timestamp such as `2026-01-02T03:04:05Z`"),
                ),
                Function::Duration => Some(
                    Duration::parse(text)
                        .map(Literal::Duration)
                        .ok_or("is no duration such as `1h30m` or `10s`"),
                ),
                _ => None,
            };
            match literal {
                Some(Ok(literal)) => return literal_of(range, literal),
                Some(Err(why)) => {
                    let at = of.expression.range.clone();
                    return self.wrong(range, Problem::new(at, format!("`{text}` {why}")));
                }
                None => {}
            }
        }
        let extent = match function {
            Function::String => Extent::text(of.extent.bytes.max(NUMBER_BYTES)),
            _ => Extent::SCALAR,
        };
        let cost = steps([1, of.cost, of.extent.bytes / BYTES_A_STEP]);
        call(range, to, function, vec![of], extent, cost)
    }

    fn getter(&mut self, range: &Range<usize>, function: &Word, of: &Node, zone: Option<&Node>) -> Checked {
        let of = self.check(of);
        let found = &of.expression.of;
        let Some(field) = field_named(&function.text) else {
            return Self::unknown(range);
        };
        let is_of_duration = *found == Type::Duration;
        if !matches!(found, Type::Timestamp | Type::Duration | Type::Dyn) {
            let what = format!("`{}` asks a timestamp, not a {found}", function.text);
            return self.wrong(range, Problem::new(function.range.clone(), what));
        }
        if is_of_duration && (zone.is_some() || Duration::from_nanos(0).whole(field).is_none()) {
            let what = format!("`{}` does not ask a duration like that", function.text);
            let problem = Problem::new(function.range.clone(), what)
                .help("a duration has `getHours()`, `getMinutes()` and `getSeconds()`");
            return self.wrong(range, problem);
        }
        let offset_seconds = match zone.map(|zone| (zone, &zone.syntax)) {
            None => 0,
            Some((zone, Syntax::Literal(Literal::String(text)))) => match parse_offset(text) {
                Some(offset) => offset,
                None => {
                    let what = format!("the time zone `{text}` is not supported");
                    let problem = Problem::new(zone.range.clone(), what)
                        .help("`UTC` and fixed offsets such as `+02:00` are; a named zone's rules change with the years");
                    return self.wrong(range, problem);
                }
            },
            Some((zone, _)) => {
                let what = "the time zone must be a text that is written down";
                return self.wrong(range, Problem::new(zone.range.clone(), what));
            }
        };
        let cost = steps([1, of.cost]);
        let kind = Kind::Getter {
            field,
            of: Box::new(of.expression),
            offset_seconds,
        };
        checked(range, Type::Int, kind, Extent::SCALAR, cost)
    }
}

fn call(
    range: &Range<usize>,
    of: Type,
    function: Function,
    arguments: Vec<Checked>,
    extent: Extent,
    cost: u64,
) -> Checked {
    let arguments = arguments
        .into_iter()
        .map(|argument| argument.expression)
        .collect();
    checked(range, of, Kind::Call { function, arguments }, extent, cost)
}

fn macro_of(name: &str) -> Macro {
    match name {
        "all" => Macro::All,
        "exists" => Macro::Exists,
        "exists_one" => Macro::ExistsOne,
        _ => Macro::Filter,
    }
}

fn field_named(name: &str) -> Option<TimeField> {
    Some(match name {
        "getFullYear" => TimeField::FullYear,
        "getMonth" => TimeField::Month,
        "getDayOfMonth" => TimeField::DayOfMonth,
        "getDate" => TimeField::Date,
        "getDayOfWeek" => TimeField::DayOfWeek,
        "getDayOfYear" => TimeField::DayOfYear,
        "getHours" => TimeField::Hours,
        "getMinutes" => TimeField::Minutes,
        "getSeconds" => TimeField::Seconds,
        "getMilliseconds" => TimeField::Milliseconds,
        _ => return None,
    })
}
