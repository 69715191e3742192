//! What a rule or a claim asks for, as a formula over atoms of a [`Problem`](crate::problem::Problem).

/// A condition on requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Formula {
    /// Every request.
    Always,
    /// No request.
    Never,
    /// The requests that an atom accepts: its dimension and its number there.
    Atom(usize, usize),
    /// The other requests.
    Not(Box<Formula>),
    /// Those that are in all of them.
    All(Vec<Formula>),
    /// Those that are in any of them.
    Any(Vec<Formula>),
}

impl Formula {
    pub(crate) fn all(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut kept = Vec::new();
        for part in parts {
            match part {
                Self::Always => {}
                Self::Never => return Self::Never,
                part @ (Self::Atom(..) | Self::Not(_) | Self::All(_) | Self::Any(_)) => kept.push(part),
            }
        }
        match kept.len() {
            0 => Self::Always,
            1 => kept.pop().unwrap_or(Self::Always),
            _ => Self::All(kept),
        }
    }

    pub(crate) fn any(parts: impl IntoIterator<Item = Self>) -> Self {
        let mut kept = Vec::new();
        for part in parts {
            match part {
                Self::Never => {}
                Self::Always => return Self::Always,
                part @ (Self::Atom(..) | Self::Not(_) | Self::All(_) | Self::Any(_)) => kept.push(part),
            }
        }
        match kept.len() {
            0 => Self::Never,
            1 => kept.pop().unwrap_or(Self::Never),
            _ => Self::Any(kept),
        }
    }

    pub(crate) fn not(self) -> Self {
        match self {
            Self::Always => Self::Never,
            Self::Never => Self::Always,
            Self::Not(inner) => *inner,
            other @ (Self::Atom(..) | Self::All(_) | Self::Any(_)) => Self::Not(Box::new(other)),
        }
    }

    pub(crate) fn and(self, other: Self) -> Self {
        Self::all([self, other])
    }

    pub(crate) fn or(self, other: Self) -> Self {
        Self::any([self, other])
    }

    /// Where this holds, the other does.
    pub(crate) fn implies(self, other: Self) -> Self {
        self.not().or(other)
    }
}
