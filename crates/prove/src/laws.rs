//! What holds for every request, whatever policies say: a token's parts need a token, a handshake's need a handshake, and
//! a claim is one thing at a time.

use std::sync::Arc;

use crate::bits::Bits;
use crate::diagram::{FULL, Set};
use crate::problem::{Dimension, Shape, TooLarge};
use crate::sealed::Sealed;

impl Sealed {
    /// The requests that can be.
    pub(crate) fn laws(&mut self) -> Result<Set, TooLarge> {
        let dimensions: Vec<Dimension> = self.dimensions().cloned().collect();
        let mut laws = FULL;
        let has_user = self.is(&Dimension::User, 1)?;
        let has_tls = self.is(&Dimension::Tls, 1)?;
        let is_http = self.is(&Dimension::Http, 1)?;
        for dimension in &dimensions {
            let (owner, nothing) = match dimension {
                Dimension::Issuer | Dimension::Subject | Dimension::Presenter => {
                    (has_user, self.absent(dimension)?)
                }
                Dimension::Claim(path) => {
                    let none = self.no_element(dimension)?;
                    let inner = self.inner_claims(path, &dimensions)?;
                    // What has texts has no claims within it.
                    let either = self.diagrams.or(none, inner)?;
                    laws = self.diagrams.and(laws, either)?;
                    (has_user, none)
                }
                Dimension::Shape(path) => {
                    let law = self.shape_law(path)?;
                    laws = self.diagrams.and(laws, law)?;
                    let law = self.outer_law(path, &dimensions)?;
                    laws = self.diagrams.and(laws, law)?;
                    (has_user, self.is(dimension, Shape::Absent.number())?)
                }
                Dimension::Sni | Dimension::TlsVersion | Dimension::Cipher | Dimension::Group => {
                    (has_tls, self.absent(dimension)?)
                }
                Dimension::Host | Dimension::Header(_) | Dimension::Query(_) => {
                    (is_http, self.absent(dimension)?)
                }
                Dimension::Http
                | Dimension::Port
                | Dimension::Identity
                | Dimension::Source
                | Dimension::Remote
                | Dimension::Destination
                | Dimension::Method
                | Dimension::Path
                | Dimension::User
                | Dimension::Tls
                | Dimension::Now
                | Dimension::Opaque(_) => continue,
            };
            let law = self.diagrams.or(owner, nothing)?;
            laws = self.diagrams.and(laws, law)?;
            if matches!(dimension, Dimension::Query(_)) {
                let without_path = self.without_path()?;
                let with_path = self.diagrams.minus(FULL, without_path)?;
                let law = self.diagrams.or(with_path, nothing)?;
                laws = self.diagrams.and(laws, law)?;
            }
            // What a handshake agreed on is there when there was one.
            if matches!(
                dimension,
                Dimension::TlsVersion | Dimension::Cipher | Dimension::Group
            ) {
                let without = self.diagrams.minus(FULL, has_tls)?;
                let there = self.diagrams.minus(FULL, nothing)?;
                let law = self.diagrams.or(without, there)?;
                laws = self.diagrams.and(laws, law)?;
            }
        }
        Ok(laws)
    }

    /// No claim within this one has texts.
    fn inner_claims(&mut self, outer: &[Arc<str>], dimensions: &[Dimension]) -> Result<Set, TooLarge> {
        let mut none = FULL;
        for dimension in dimensions {
            if let Dimension::Claim(path) = dimension
                && path.len() > outer.len()
                && path.starts_with(outer)
            {
                let here = self.no_element(dimension)?;
                none = self.diagrams.and(none, here)?;
            }
        }
        Ok(none)
    }

    /// What is within another claim is there only where that one is neither absent, a text nor a list.
    #[expect(clippy::wildcard_enum_match_arm, reason = "only claims have claims within")]
    fn outer_law(&mut self, inner: &[Arc<str>], dimensions: &[Dimension]) -> Result<Set, TooLarge> {
        let is_absent = self.is(&Dimension::Shape(inner.to_vec()), Shape::Absent.number())?;
        let mut law = FULL;
        for dimension in dimensions {
            let around = match dimension {
                Dimension::Shape(path) if path.len() < inner.len() && inner.starts_with(path) => {
                    self.is(dimension, Shape::Other.number())?
                }
                Dimension::Claim(path) if path.len() < inner.len() && inner.starts_with(path) => {
                    self.no_element(dimension)?
                }
                _ => continue,
            };
            let either = self.diagrams.or(is_absent, around)?;
            law = self.diagrams.and(law, either)?;
        }
        Ok(law)
    }

    /// A text has one text, a list any, everything else none.
    fn shape_law(&mut self, path: &[Arc<str>]) -> Result<Set, TooLarge> {
        let shape = Dimension::Shape(path.to_vec());
        let claim = Dimension::Claim(path.to_vec());
        let is_text = self.is(&shape, Shape::Text.number())?;
        let is_list = self.is(&shape, Shape::List.number())?;
        let one = self.one_element(&claim)?;
        let none = self.no_element(&claim)?;
        // `scope` and `permission` are lists of words.
        let is_text = if matches!(path, [only] if matches!(&**only, "scope" | "permission")) {
            crate::diagram::EMPTY
        } else {
            is_text
        };
        let text = self.diagrams.and(is_text, one)?;
        let some = self.diagrams.or(text, is_list)?;
        let neither = {
            let absent = self.is(&shape, Shape::Absent.number())?;
            let other = self.is(&shape, Shape::Other.number())?;
            self.diagrams.or(absent, other)?
        };
        let nothing = self.diagrams.and(neither, none)?;
        Ok(self.diagrams.or(some, nothing)?)
    }

    /// A dimension of numbers is this number. Where no atom speaks of it, it has no class of its own.
    fn is(&mut self, dimension: &Dimension, number: i64) -> Result<Set, TooLarge> {
        let Some((variable, classes)) = self.classes_where(dimension, number) else {
            return Ok(FULL);
        };
        Ok(self.diagrams.where_in(variable, &classes)?)
    }

    /// A dimension of texts has none.
    fn absent(&mut self, dimension: &Dimension) -> Result<Set, TooLarge> {
        let Some(variable) = self.variable(dimension) else {
            return Ok(FULL);
        };
        Ok(self.diagrams.where_in(variable, &Bits::one(0))?)
    }
}
