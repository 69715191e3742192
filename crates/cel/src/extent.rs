//! How large a value can be: what the bound on cost is computed from.

use std::sync::Arc;

/// The most that a value can hold. All numbers are upper bounds.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Extent {
    /// Bytes, where the value is a text.
    pub(crate) bytes: u64,
    /// Entries, where it is a list or a map.
    pub(crate) entries: u64,
    /// Steps to look at all of it once.
    pub(crate) total: u64,
    inner: Inner,
}

/// What the entries can hold.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Inner {
    Nothing,
    /// As much as what they are in.
    Same,
    Of(Arc<Extent>),
}

/// Bytes of text that one step reads.
pub(crate) const BYTES_A_STEP: u64 = 64;

impl Extent {
    /// A value of fixed size: a number, a point in time.
    pub const SCALAR: Self = Self {
        bytes: 0,
        entries: 0,
        total: 1,
        inner: Inner::Nothing,
    };

    /// A text of at most so many bytes.
    pub const fn text(bytes: u64) -> Self {
        Self {
            bytes,
            entries: 0,
            total: 1 + bytes / BYTES_A_STEP,
            inner: Inner::Nothing,
        }
    }

    /// A list of at most so many elements, or a map of so many values (a map's keys are no longer than its values).
    pub fn entries(entries: u64, element: Self) -> Self {
        Self {
            bytes: 0,
            entries,
            total: entries.saturating_mul(element.total).saturating_add(1),
            inner: Inner::Of(Arc::new(element)),
        }
    }

    /// The same of a map: to compare two, each key of one is searched in the other.
    pub(crate) fn for_a_map(self) -> Self {
        let searched = self.entries.saturating_mul(self.entries);
        Self {
            total: self.total.saturating_add(searched),
            ..self
        }
    }

    /// JSON: no text in it has more than `bytes`, no list or map more than `entries`, and written down all of it has at most
    /// `total` bytes.
    pub const fn json(bytes: u64, entries: u64, total: u64) -> Self {
        Self {
            bytes,
            entries,
            total: total.saturating_add(1),
            inner: Inner::Same,
        }
    }

    /// What one entry can hold.
    pub(crate) fn element(&self) -> Self {
        match &self.inner {
            Inner::Nothing => Self::SCALAR,
            Inner::Same => self.clone(),
            Inner::Of(element) => element.as_ref().clone(),
        }
    }

    /// Of a value that is one or the other.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let inner = match (&self.inner, &other.inner) {
            (Inner::Nothing, inner) | (inner, Inner::Nothing) => inner.clone(),
            (Inner::Of(left), Inner::Of(right)) => Inner::Of(Arc::new(left.joined(right))),
            (Inner::Same, _) | (_, Inner::Same) => {
                let (left, right) = (self.deepest(), other.deepest());
                return Self {
                    bytes: left.0.max(right.0),
                    entries: left.1.max(right.1),
                    total: self.total.max(other.total),
                    inner: Inner::Same,
                };
            }
        };
        Self {
            bytes: self.bytes.max(other.bytes),
            entries: self.entries.max(other.entries),
            total: self.total.max(other.total),
            inner,
        }
    }

    /// Of one after the other: two texts, or two lists.
    pub(crate) fn appended(&self, other: &Self) -> Self {
        Self {
            bytes: self.bytes.saturating_add(other.bytes),
            entries: self.entries.saturating_add(other.entries),
            total: self.total.saturating_add(other.total),
            ..self.joined(other)
        }
    }

    /// Of a list or map with exactly these entries.
    pub(crate) fn of_all<'a>(elements: impl IntoIterator<Item = &'a Self>) -> Self {
        let mut count: u64 = 0;
        let mut total: u64 = 1;
        let mut element: Option<Self> = None;
        for each in elements {
            count = count.saturating_add(1);
            total = total.saturating_add(each.total);
            element = Some(element.map_or_else(|| each.clone(), |before| before.joined(each)));
        }
        Self {
            total,
            ..Self::entries(count, element.unwrap_or(Self::SCALAR))
        }
    }

    /// The same with another number of entries.
    pub(crate) fn with_entries(self, entries: usize) -> Self {
        Self {
            entries: u64::try_from(entries).unwrap_or(u64::MAX),
            ..self
        }
    }

    /// The longest text and the most entries at any depth.
    fn deepest(&self) -> (u64, u64) {
        match &self.inner {
            Inner::Nothing | Inner::Same => (self.bytes, self.entries),
            Inner::Of(element) => {
                let (bytes, entries) = element.deepest();
                (bytes.max(self.bytes), entries.max(self.entries))
            }
        }
    }
}
