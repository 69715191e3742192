//! One document in, one typed resource or findings with `file:line:column` out.
//!
//! [`read`] takes the text of one file and returns its [`Document`]s and everything that is wrong with them; it never
//! stops at the first finding and never panics. Every kind is a plain struct with the words of `bartizan_types`; what a
//! user did not set stays `None`, so that `compile` fills in defaults and can say where a value came from.
//! What several documents mean together is `compile`'s.

pub mod document;
pub mod finding;
pub mod gateway_api;
pub mod istio;
pub mod kube;
pub mod marks;
pub mod native;
pub mod resource;
pub mod source;
pub mod source_map;

mod field;
mod inner;
mod kinds;
mod names;
mod node;
mod read;
mod sink;
mod suggest;

pub use document::{Document, Metadata, Reading};
pub use finding::{Code, Finding, Severity};
pub use marks::{PodMarks, Users};
pub use read::{LARGEST_FILE_BYTES, read};
pub use resource::Resource;
pub use source::{Position, SourceFile, Spot};
pub use source_map::SourceMap;
