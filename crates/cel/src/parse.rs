//! From text to tree: recursive descent with binding powers. Depth is bounded, so that nothing that walks the tree can run
//! out of stack.

use std::ops::Range;

use crate::expression::{Literal, Operator};
use crate::problem::Problem;
use crate::syntax::{Node, Syntax, Word};
use crate::token::{Lexeme, Token, tokens};

/// How many expressions may be inside each other.
const MOST_DEPTH: usize = 32;

/// Words that CEL keeps for its hosts' languages.
const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// # Errors
/// The first error of syntax.
pub(crate) fn parse(text: &str) -> Result<Node, Problem> {
    let mut parser = Parser {
        tokens: tokens(text)?,
        at: 0,
        depth: 0,
    };
    let node = parser.expression()?;
    match parser.peek() {
        Lexeme::End => Ok(node),
        _ => Err(parser.unexpected("the expression ends before this")),
    }
}

struct Parser {
    /// The last one is the end.
    tokens: Vec<Token>,
    at: usize,
    depth: usize,
}

impl Parser {
    /// `or ["?" or ":" expression]`.
    fn expression(&mut self) -> Result<Node, Problem> {
        self.depth += 1;
        if self.depth > MOST_DEPTH {
            return Err(too_deep(self.range()));
        }
        let condition = self.any_of()?;
        let node = if self.take_sign("?") {
            let then = self.any_of()?;
            self.need(":", "a condition has two values: `condition ? then : otherwise`")?;
            let otherwise = self.expression()?;
            node_of(
                condition.range.start..otherwise.range.end,
                Syntax::Conditional {
                    condition: Box::new(condition),
                    then: Box::new(then),
                    otherwise: Box::new(otherwise),
                },
            )?
        } else {
            condition
        };
        self.depth -= 1;
        Ok(node)
    }

    fn any_of(&mut self) -> Result<Node, Problem> {
        self.chain("||", Self::all_of, Syntax::Or)
    }

    fn all_of(&mut self) -> Result<Node, Problem> {
        self.chain("&&", |parser| parser.binary(0), Syntax::And)
    }

    fn chain(
        &mut self,
        sign: &str,
        part: impl Fn(&mut Self) -> Result<Node, Problem>,
        whole: fn(Vec<Node>) -> Syntax,
    ) -> Result<Node, Problem> {
        let first = part(self)?;
        if !self.is_sign(sign) {
            return Ok(first);
        }
        let start = first.range.start;
        let mut end = first.range.end;
        let mut all = vec![first];
        while self.take_sign(sign) {
            let next = part(self)?;
            end = next.range.end;
            all.push(next);
        }
        node_of(start..end, whole(all))
    }

    /// Comparisons (0), sums (1), products (2): each to the left, and only those that bind at least so much.
    fn binary(&mut self, least: u8) -> Result<Node, Problem> {
        let mut left = self.unary()?;
        while let Some((power, operator)) = self.operator().filter(|(power, _)| *power >= least) {
            self.at += 1;
            let right = self.binary(power + 1)?;
            left = node_of(
                left.range.start..right.range.end,
                Syntax::Binary {
                    operator,
                    left: Box::new(left),
                    right: Box::new(right),
                },
            )?;
        }
        Ok(left)
    }

    fn operator(&self) -> Option<(u8, Operator)> {
        Some(match self.peek() {
            Lexeme::Name(name) if name == "in" => (0, Operator::In),
            Lexeme::Sign("==") => (0, Operator::Equal),
            Lexeme::Sign("!=") => (0, Operator::NotEqual),
            Lexeme::Sign("<") => (0, Operator::Less),
            Lexeme::Sign("<=") => (0, Operator::LessOrEqual),
            Lexeme::Sign(">") => (0, Operator::Greater),
            Lexeme::Sign(">=") => (0, Operator::GreaterOrEqual),
            Lexeme::Sign("+") => (1, Operator::Add),
            Lexeme::Sign("-") => (1, Operator::Subtract),
            Lexeme::Sign("*") => (2, Operator::Multiply),
            Lexeme::Sign("/") => (2, Operator::Divide),
            Lexeme::Sign("%") => (2, Operator::Remainder),
            _ => return None,
        })
    }

    /// `!` or `-`, any number of times, before a member.
    fn unary(&mut self) -> Result<Node, Problem> {
        let start = self.range().start;
        let mut signs = Vec::new();
        while let Lexeme::Sign(sign @ ("!" | "-")) = *self.peek() {
            signs.push((sign, self.range().start));
            self.at += 1;
            if signs.len() > MOST_DEPTH {
                return Err(too_deep(start..self.range().end));
            }
        }
        // The least number has no positive one.
        let is_negative_number = matches!(self.peek(), Lexeme::Int(_) | Lexeme::Double(_))
            && signs.last().is_some_and(|last| last.0 == "-");
        let number_at = if is_negative_number {
            signs.pop().map(|last| last.1)
        } else {
            None
        };
        let mut node = self.member(number_at)?;
        for (sign, at) in signs.into_iter().rev() {
            let range = at..node.range.end;
            let of = Box::new(node);
            node = node_of(
                range,
                if sign == "!" {
                    Syntax::Not(of)
                } else {
                    Syntax::Negate(of)
                },
            )?;
        }
        Ok(node)
    }

    /// A primary with fields, indexes and calls behind it.
    fn member(&mut self, negative_at: Option<usize>) -> Result<Node, Problem> {
        let mut node = self.primary(negative_at)?;
        loop {
            let start = node.range.start;
            if self.take_sign("[") {
                let key = self.expression()?;
                let end = self.need("]", "an index is closed with `]`")?;
                node = node_of(
                    start..end,
                    Syntax::Index {
                        of: Box::new(node),
                        key: Box::new(key),
                    },
                )?;
            } else if self.take_sign(".") {
                let field = self.field()?;
                if self.take_sign("(") {
                    let (arguments, end) = self.list(")")?;
                    node = node_of(
                        start..end,
                        Syntax::Call {
                            receiver: Some(Box::new(node)),
                            function: field,
                            arguments,
                        },
                    )?;
                } else {
                    node = node_of(
                        start..field.range.end,
                        Syntax::Select {
                            of: Box::new(node),
                            field,
                        },
                    )?;
                }
            } else {
                return Ok(node);
            }
        }
    }

    fn field(&mut self) -> Result<Word, Problem> {
        let range = self.range();
        match self.peek() {
            Lexeme::Name(name) if !matches!(name.as_str(), "true" | "false" | "null" | "in") => {
                let text = name.clone();
                self.at += 1;
                Ok(Word { text, range })
            }
            Lexeme::Sign("?") => Err(self.unexpected("optional fields are not supported")),
            _ => Err(self
                .unexpected("a field's name follows a dot")
                .help("a key that is no name stands in brackets: `headers[\"x-a\"]`")),
        }
    }

    fn primary(&mut self, negative_at: Option<usize>) -> Result<Node, Problem> {
        let range = self.range();
        let word = self.peek().clone();
        let literal = match word {
            Lexeme::Sign("(") => {
                self.at += 1;
                let mut inner = self.expression()?;
                let end = self.need(")", "a parenthesis is closed with `)`")?;
                inner.range = range.start..end;
                return Ok(inner);
            }
            Lexeme::Sign("[") => {
                self.at += 1;
                let (all, end) = self.list("]")?;
                return node_of(range.start..end, Syntax::List(all));
            }
            Lexeme::Sign("{") => {
                self.at += 1;
                return self.map(range.start);
            }
            Lexeme::Name(name) => match name.as_str() {
                "true" => Literal::Bool(true),
                "false" => Literal::Bool(false),
                "null" => Literal::Null,
                _ => return self.name(name),
            },
            Lexeme::Int(magnitude) => {
                self.at += 1;
                let start = negative_at.unwrap_or(range.start);
                let value = if negative_at.is_some() {
                    0_i64.checked_sub_unsigned(magnitude)
                } else {
                    i64::try_from(magnitude).ok()
                };
                let Some(value) = value else {
                    let what = "the number does not fit into 64 bits with a sign";
                    return Err(Problem::new(start..range.end, what));
                };
                return node_of(start..range.end, Syntax::Literal(Literal::Int(value)));
            }
            Lexeme::Double(value) => {
                self.at += 1;
                let start = negative_at.unwrap_or(range.start);
                let value = if negative_at.is_some() { -value } else { value };
                return node_of(start..range.end, Syntax::Literal(Literal::Double(value)));
            }
            Lexeme::Text(text) => Literal::String(text.into()),
            Lexeme::End if self.tokens.len() == 1 => {
                return Err(Problem::new(range, "the expression is empty"));
            }
            Lexeme::End => return Err(self.unexpected("the expression ends too early")),
            Lexeme::Sign(sign) => {
                return Err(self.unexpected(&format!("a value is expected, not `{sign}`")));
            }
        };
        self.at += 1;
        node_of(range, Syntax::Literal(literal))
    }

    fn name(&mut self, text: String) -> Result<Node, Problem> {
        let range = self.range();
        if text == "in" {
            return Err(self.unexpected("a value is expected before `in`"));
        }
        if RESERVED.contains(&text.as_str()) {
            return Err(self.unexpected(&format!("`{text}` is a reserved word")));
        }
        self.at += 1;
        if self.is_sign("{") {
            return Err(self.unexpected("messages cannot be made here"));
        }
        if !self.take_sign("(") {
            return node_of(range, Syntax::Name(text));
        }
        let (arguments, end) = self.list(")")?;
        node_of(
            range.start..end,
            Syntax::Call {
                receiver: None,
                function: Word { text, range },
                arguments,
            },
        )
    }

    /// Expressions with commas up to a closing bracket; one comma may stand before a `]`.
    fn list(&mut self, close: &str) -> Result<(Vec<Node>, usize), Problem> {
        let mut all = Vec::new();
        loop {
            let end = self.range().end;
            if (all.is_empty() || close == "]") && self.take_sign(close) {
                return Ok((all, end));
            }
            all.push(self.expression()?);
            let end = self.range().end;
            if self.take_sign(close) {
                return Ok((all, end));
            }
            self.need(",", &format!("`,` or `{close}` is expected"))?;
        }
    }

    fn map(&mut self, start: usize) -> Result<Node, Problem> {
        let mut entries = Vec::new();
        loop {
            let end = self.range().end;
            if self.take_sign("}") {
                return node_of(start..end, Syntax::Map(entries));
            }
            let key = self.expression()?;
            self.need(":", "a key and its value are written `key: value`")?;
            entries.push((key, self.expression()?));
            let end = self.range().end;
            if self.take_sign("}") {
                return node_of(start..end, Syntax::Map(entries));
            }
            self.need(",", "`,` or `}` is expected")?;
        }
    }

    fn peek(&self) -> &Lexeme {
        self.tokens.get(self.at).map_or(&Lexeme::End, |token| &token.word)
    }

    fn range(&self) -> Range<usize> {
        self.tokens
            .get(self.at)
            .or(self.tokens.last())
            .map_or(0..0, |token| token.range.clone())
    }

    fn is_sign(&self, wanted: &str) -> bool {
        matches!(self.peek(), Lexeme::Sign(sign) if *sign == wanted)
    }

    fn take_sign(&mut self, wanted: &str) -> bool {
        let is_there = self.is_sign(wanted);
        self.at += usize::from(is_there);
        is_there
    }

    /// The end of the sign that must come next.
    fn need(&mut self, wanted: &str, what: &str) -> Result<usize, Problem> {
        let end = self.range().end;
        if self.take_sign(wanted) {
            Ok(end)
        } else {
            Err(self.unexpected(what))
        }
    }

    fn unexpected(&self, what: &str) -> Problem {
        Problem::new(self.range(), what)
    }
}

fn too_deep(range: Range<usize>) -> Problem {
    Problem::new(
        range,
        format!("more than {MOST_DEPTH} expressions are inside each other"),
    )
}

/// A node, unless it is too deep.
fn node_of(range: Range<usize>, syntax: Syntax) -> Result<Node, Problem> {
    let node = Node::new(range, syntax);
    if node.depth > MOST_DEPTH {
        return Err(too_deep(node.range));
    }
    Ok(node)
}
