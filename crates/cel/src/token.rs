//! The words of an expression (CEL `Syntax`).

use std::ops::Range;

use crate::problem::Problem;

/// A word and where it stands.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Token {
    pub(crate) range: Range<usize>,
    pub(crate) word: Lexeme,
}

#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Lexeme {
    /// A whole number without its sign.
    Int(u64),
    Double(f64),
    Text(String),
    /// A name or a word of the language (`true`, `in`).
    Name(String),
    /// An operator or a bracket.
    Sign(&'static str),
    End,
}

/// Longest first.
const SIGNS: [&str; 25] = [
    "&&", "||", "==", "!=", "<=", ">=", "!", "<", ">", "+", "-", "*", "/", "%", "?", ":", "(", ")", "[", "]",
    "{", "}", ",", ".", ";",
];

/// The words of a text; the last one is [`Lexeme::End`].
///
/// # Errors
/// The first thing that is no word of CEL.
pub(crate) fn tokens(text: &str) -> Result<Vec<Token>, Problem> {
    let mut lexer = Lexer { text, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_space();
        let start = lexer.at;
        let word = lexer.word()?;
        let is_end = word == Lexeme::End;
        tokens.push(Token {
            range: start..lexer.at,
            word,
        });
        if is_end {
            return Ok(tokens);
        }
    }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn take(&mut self) -> Option<char> {
        let next = self.rest().chars().next()?;
        self.at += next.len_utf8();
        Some(next)
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> usize {
        let rest = self.rest();
        let length = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += length;
        length
    }

    fn skip_space(&mut self) {
        loop {
            self.take_while(|c| matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0c'));
            if !self.rest().starts_with("//") {
                return;
            }
            self.take_while(|c| c != '\n');
        }
    }

    fn word(&mut self) -> Result<Lexeme, Problem> {
        let rest = self.rest();
        let mut ahead = rest.chars();
        let Some(first) = ahead.next() else {
            return Ok(Lexeme::End);
        };
        let second = ahead.next();
        if first.is_ascii_digit() || (first == '.' && second.is_some_and(|c| c.is_ascii_digit())) {
            return self.number();
        }
        if let Some(quoted) = self.quoted() {
            return quoted;
        }
        if first.is_ascii_alphabetic() || first == '_' {
            let start = self.at;
            self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
            return Ok(Lexeme::Name(self.since(start).to_owned()));
        }
        if let Some(sign) = SIGNS.iter().find(|sign| rest.starts_with(**sign)) {
            self.at += sign.len();
            return Ok(Lexeme::Sign(sign));
        }
        let problem = Problem::new(
            self.at..self.at + first.len_utf8(),
            format!("`{first}` has no meaning here"),
        );
        Err(match first {
            '=' => problem.help("`==` compares"),
            '&' => problem.help("`&&` is and"),
            '|' => problem.help("`||` is or"),
            '“' | '”' | '‘' | '’' | '„' => {
                problem.help("texts stand in straight quotes, `\"` or `'`")
            }
            _ => problem,
        })
    }

    fn since(&self, start: usize) -> &'t str {
        self.text.get(start..self.at).unwrap_or_default()
    }

    fn number(&mut self) -> Result<Lexeme, Problem> {
        let start = self.at;
        if self.rest().starts_with("0x") || self.rest().starts_with("0X") {
            self.at += 2;
            let digits_at = self.at;
            self.take_while(|c| c.is_ascii_hexdigit());
            let value = u64::from_str_radix(self.since(digits_at), 16);
            self.end_of_number(start)?;
            return value.map(Lexeme::Int).map_err(|_| self.bad_number(start));
        }
        self.take_while(|c| c.is_ascii_digit());
        let mut is_double = false;
        let mut ahead = self.rest().chars();
        if ahead.next() == Some('.') && ahead.next().is_some_and(|c| c.is_ascii_digit()) {
            is_double = true;
            self.at += 1;
            self.take_while(|c| c.is_ascii_digit());
        }
        if self.rest().starts_with(['e', 'E']) {
            is_double = true;
            self.at += 1;
            if self.rest().starts_with(['+', '-']) {
                self.at += 1;
            }
            if self.take_while(|c| c.is_ascii_digit()) == 0 {
                return Err(self.bad_number(start));
            }
        }
        self.end_of_number(start)?;
        if is_double {
            match self.since(start).parse::<f64>() {
                Ok(value) if value.is_finite() => Ok(Lexeme::Double(value)),
                _ => Err(self.bad_number(start)),
            }
        } else {
            self.since(start)
                .parse()
                .map(Lexeme::Int)
                .map_err(|_| self.bad_number(start))
        }
    }

    /// A number ends where no letter follows.
    fn end_of_number(&mut self, start: usize) -> Result<(), Problem> {
        if !self
            .rest()
            .starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
        {
            return Ok(());
        }
        let is_unsigned = self.rest().starts_with(['u', 'U']);
        self.take_while(|c| c.is_ascii_alphanumeric() || c == '_');
        let problem = self.bad_number(start);
        Err(if is_unsigned {
            problem.help("unsigned numbers are not supported: write it without `u`")
        } else {
            problem
        })
    }

    fn bad_number(&self, start: usize) -> Problem {
        let what = format!("`{}` is not a number of 64 bits", self.since(start));
        Problem::new(start..self.at, what)
    }

    /// A text in quotes, if one begins here: `"…"`, `'…'`, three quotes for texts over several lines, `r` before it for one
    /// without escapes.
    fn quoted(&mut self) -> Option<Result<Lexeme, Problem>> {
        let rest = self.rest();
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic())?;
        let (prefix, after) = rest.split_at(letters);
        if !after.starts_with(['"', '\''])
            || !matches!(
                prefix,
                "" | "r" | "R" | "b" | "B" | "br" | "bR" | "Br" | "BR" | "rb" | "rB" | "Rb" | "RB"
            )
        {
            return None;
        }
        let quote = ["\"\"\"", "'''", "\"", "'"]
            .into_iter()
            .find(|quote| after.starts_with(quote))?;
        let start = self.at;
        let is_raw = prefix.contains(['r', 'R']);
        let is_bytes = prefix.contains(['b', 'B']);
        self.at += letters + quote.len();
        let text = self.until(quote, is_raw, start);
        Some(match text {
            Ok(_) if is_bytes => Err(Problem::new(start..self.at, "bytes are not supported")
                .help("no attribute has them: write the text without `b`")),
            text => text.map(Lexeme::Text),
        })
    }

    fn until(&mut self, quote: &str, is_raw: bool, start: usize) -> Result<String, Problem> {
        let mut text = String::new();
        loop {
            if self.rest().starts_with(quote) {
                self.at += quote.len();
                return Ok(text);
            }
            let escape_at = self.at;
            match self.take() {
                None => {
                    return Err(Problem::new(start..self.text.len(), "the text is never closed")
                        .help(format!("it ends with {quote}")));
                }
                Some('\n' | '\r') if quote.len() == 1 => {
                    return Err(
                        Problem::new(start..escape_at, "the text is not closed on its line")
                            .help("a text over several lines stands in three quotes"),
                    );
                }
                Some('\\') if !is_raw => text.push(self.escape(escape_at)?),
                // CEL: a quote behind a backslash does not end a raw text either, and both stay in it.
                Some('\\') => {
                    text.push('\\');
                    if self.rest().starts_with(['"', '\'']) {
                        text.extend(self.take());
                    }
                }
                Some(other) => text.push(other),
            }
        }
    }

    /// What follows a backslash.
    fn escape(&mut self, start: usize) -> Result<char, Problem> {
        let letter = self.take();
        let plain = match letter {
            Some('a') => Some('\x07'),
            Some('b') => Some('\x08'),
            Some('f') => Some('\x0c'),
            Some('n') => Some('\n'),
            Some('r') => Some('\r'),
            Some('t') => Some('\t'),
            Some('v') => Some('\x0b'),
            Some(same @ ('\\' | '?' | '"' | '\'' | '`')) => Some(same),
            _ => None,
        };
        if let Some(plain) = plain {
            return Ok(plain);
        }
        let (digits, radix) = match letter {
            Some('x' | 'X') => (2, 16),
            Some('u') => (4, 16),
            Some('U') => (8, 16),
            Some('0'..='3') => {
                self.at -= 1;
                (3, 8)
            }
            _ => (0, 10),
        };
        let code = self
            .rest()
            .get(..digits)
            .filter(|code| digits > 0 && code.bytes().all(|byte| byte.is_ascii_hexdigit()))
            .and_then(|code| u32::from_str_radix(code, radix).ok())
            .and_then(char::from_u32);
        let Some(code) = code else {
            let what = format!("`{}` is no escape of a text", self.since(start));
            return Err(Problem::new(start..self.at, what)
                .help(r#"a backslash itself is `\\`; in `r"…"` it means nothing special"#));
        };
        self.at += digits;
        Ok(code)
    }
}
