//! Expressions whose types agree, from a list of choices: over `b` (bool), `i`, `j` (int), `s`, `t` (string), `l` (list of int),
//! `u` (list of string) and `m` (map from string to int).

/// Bytes that choose; when they run out, the simplest is chosen.
pub(crate) struct Choices<'c> {
    bytes: std::slice::Iter<'c, u8>,
    /// How many variables of macros are in scope.
    locals: usize,
}

impl<'c> Choices<'c> {
    /// Takes its choices from here.
    pub(crate) fn new(bytes: &'c [u8]) -> Self {
        Self {
            bytes: bytes.iter(),
            locals: 0,
        }
    }

    fn of(&mut self, count: u8) -> u8 {
        self.bytes.next().map_or(0, |byte| byte % count)
    }

    fn word(&mut self, words: &[&str]) -> String {
        let index = usize::from(self.of(u8::try_from(words.len()).unwrap_or(u8::MAX)));
        words.get(index).copied().unwrap_or_default().to_owned()
    }

    /// A condition.
    pub(crate) fn condition(&mut self, depth: usize) -> String {
        let next = depth.saturating_sub(1);
        let kind = if depth == 0 { self.of(3) } else { self.of(17) };
        match kind {
            0 => "b".to_owned(),
            1 => self.word(&["true", "false"]),
            2 => format!("(s == {})", self.word(&["\"a\"", "t", "\"\""])),
            3 | 4 => format!("({} && {})", self.condition(next), self.condition(next)),
            5 | 6 => format!("({} || {})", self.condition(next), self.condition(next)),
            7 => format!("!{}", self.condition(next)),
            8 => {
                let sign = self.word(&["==", "!=", "<", "<=", ">", ">="]);
                format!("({} {sign} {})", self.int(next), self.int(next))
            }
            9 => {
                let sign = self.word(&["==", "!=", "<", "<=", ">", ">="]);
                format!("({} {sign} {})", self.text(next), self.text(next))
            }
            10 => format!("({} in {})", self.int(next), self.ints(next)),
            11 => {
                let method = self.word(&["startsWith", "endsWith", "contains"]);
                format!("{}.{method}({})", self.text(next), self.text(next))
            }
            12 => {
                let name = self.macro_name();
                let (over, condition) = (self.ints(next), self.inside(|choices| choices.condition(next)));
                format!("{over}.{name}(x{}, {condition})", self.locals)
            }
            13 => format!(
                "({} ? {} : {})",
                self.condition(next),
                self.condition(next),
                self.condition(next)
            ),
            14 => format!("({} in m)", self.text(next)),
            15 => self.word(&[
                "has(m.a)",
                "has(m.z)",
                "(\"a\" in m)",
                "(s in u)",
                "(m == m)",
                "(m == {\"a\": 1})",
                "({\"a\": i, \"b\": 2} == {\"b\": 2, \"a\": j})",
                "m.exists(k, m[k] > 1)",
                "[m].exists(k, k == m)",
            ]),
            _ => format!("({} == {})", self.ints(next), self.ints(next)),
        }
    }

    fn macro_name(&mut self) -> String {
        self.word(&["all", "exists", "exists_one"])
    }

    /// With one more variable, an int.
    fn inside(&mut self, inner: impl FnOnce(&mut Self) -> String) -> String {
        self.locals += 1;
        let text = inner(self);
        self.locals -= 1;
        text
    }

    fn int(&mut self, depth: usize) -> String {
        let next = depth.saturating_sub(1);
        let kind = if depth == 0 { self.of(4) } else { self.of(12) };
        match kind {
            0 => "i".to_owned(),
            1 => self.word(&["0", "1", "-1", "2", "9223372036854775807"]),
            2 if self.locals > 0 => format!("x{}", self.locals - 1),
            2 | 3 => "j".to_owned(),
            4..=6 => {
                let sign = self.word(&["+", "-", "*", "/", "%"]);
                format!("({} {sign} {})", self.int(next), self.int(next))
            }
            7 => format!("size({})", self.text(next)),
            8 => format!("size({})", self.ints(next)),
            9 => format!("{}[{}]", self.ints(next), self.int(next)),
            10 => self.word(&["m.a", "m[\"b\"]", "m.z", "m[s]"]),
            _ => format!(
                "({} ? {} : {})",
                self.condition(next),
                self.int(next),
                self.int(next)
            ),
        }
    }

    fn text(&mut self, depth: usize) -> String {
        let next = depth.saturating_sub(1);
        let kind = if depth == 0 { self.of(3) } else { self.of(6) };
        match kind {
            0 => "s".to_owned(),
            1 => "t".to_owned(),
            2 => self.word(&["\"a\"", "\"\"", "\"ab\"", "\"é\"", "\"42\""]),
            3 => format!("({} + {})", self.text(next), self.text(next)),
            4 => format!("string({})", self.int(next)),
            _ => format!(
                "({} ? {} : {})",
                self.condition(next),
                self.text(next),
                self.text(next)
            ),
        }
    }

    fn ints(&mut self, depth: usize) -> String {
        let next = depth.saturating_sub(1);
        let kind = if depth == 0 { self.of(2) } else { self.of(6) };
        match kind {
            0 => "l".to_owned(),
            1 => "[1, 2]".to_owned(),
            2 => format!("[{}, {}]", self.int(next), self.int(next)),
            3 => format!("({} + {})", self.ints(next), self.ints(next)),
            4 => {
                let (over, made) = (self.ints(next), self.inside(|choices| choices.int(next)));
                format!("{over}.map(x{}, {made})", self.locals)
            }
            _ => {
                let (over, condition) = (self.ints(next), self.inside(|choices| choices.condition(next)));
                format!("{over}.filter(x{}, {condition})", self.locals)
            }
        }
    }
}
