//! The table of this room's codes: `docs/findings.md` is generated from it.

use std::fmt;

use serde::{Serialize, Serializer};

/// The kind of a finding: a stable id, a title and an explanation for `docs/findings.md`.
///
/// Rooms make their own with [`Code::new`]: `config` has `BZ01xx`, `compile` `BZ02xx`, `sandbox` `BZ03xx`.
#[derive(Clone, Copy)]
pub struct Code {
    /// The stable id such as `BZ0101`.
    pub id: &'static str,
    /// A few words.
    pub title: &'static str,
    /// What it means and what to do, in whole sentences.
    pub explanation: &'static str,
}

impl Code {
    /// A code of this id, title and explanation.
    pub const fn new(id: &'static str, title: &'static str, explanation: &'static str) -> Self {
        Self {
            id,
            title,
            explanation,
        }
    }
}

impl PartialEq for Code {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Code {}

impl std::hash::Hash for Code {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.id.hash(state);
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.id)
    }
}

impl Serialize for Code {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.id)
    }
}

/// This room's codes by name.
pub mod codes {
    use super::Code;

    macro_rules! codes {
        ($($name:ident = $id:literal, $title:literal, $explanation:literal;)*) => {
            $(
                #[doc = concat!($id, ": ", $title, ".")]
                pub const $name: Code = Code::new($id, $title, $explanation);
            )*
            /// All of them, by id.
            pub(super) const ALL: &[Code] = &[$($name),*];
        };
    }

    codes! {
        TOO_LARGE = "BZ0101", "file too large",
            "A file holds at most 10 MiB. Split it, or take data that is not configuration out of the folder. YAML and keys that stand in a text inside of a document have at most 1 MiB.";
        BROKEN_YAML = "BZ0102", "broken YAML or JSON",
            "The text is not well-formed YAML 1.2 (JSON is a part of it). The document is skipped up to the next `---`; the other documents of the file are still read.";
        DUPLICATE_KEY = "BZ0103", "key written twice",
            "A mapping has the same key twice. Most readers silently keep one of the two; here it is an error, because a policy that is half read is a hole.";
        TOO_COMPLEX = "BZ0104", "document too deep or too big",
            "Nesting is limited to 64 levels, a file to 500,000 values after aliases are expanded, and a report to 1,000 findings. Real documents are far below; a file that is not is a mistake or an attack.";
        NOT_A_RESOURCE = "BZ0105", "not a resource",
            "A document needs `apiVersion`, `kind` and `metadata.name`. Files in the folder that are not resources should have another extension or live elsewhere.";
        FOREIGN_KIND = "BZ0106", "foreign kind",
            "The kind belongs to something else, so the document has no effect here. It is a warning, and an error with `--strict`.";
        KIND_NOT_SUPPORTED = "BZ0107", "kind not supported yet",
            "The kind belongs to the mesh or runs workloads, but this version cannot do what it asks for. It is an error, because leaving it out would give another mesh than the documents describe.";
        API_VERSION = "BZ0108", "API version not known for this kind",
            "The kind is known, but not in this API version. The message names the versions that are read.";
        UNKNOWN_FIELD = "BZ0110", "unknown field",
            "The field does not exist in this place. A misspelt field in a policy would otherwise silently widen it.";
        MISSING_FIELD = "BZ0111", "missing field",
            "The kind needs this field.";
        WRONG_TYPE = "BZ0112", "wrong type of value",
            "A text, a number, a boolean, a list or a mapping stands where another of these is needed. Texts that look like numbers need quotes: Istio's `ports: [\"8080\"]`.";
        AMBIGUOUS_WORD = "BZ0113", "word that YAML versions read differently",
            "Unquoted `yes`, `no`, `on`, `off`, `y` and `n` are booleans in YAML 1.1, which Kubernetes reads, and texts in YAML 1.2. Write `true` or `false`, or quote the text.";
        INVALID_VALUE = "BZ0114", "value not valid",
            "The value breaks the rule of its field; the message states the rule.";
        UNKNOWN_CHOICE = "BZ0115", "not one of the choices",
            "The field takes one of a few words, written exactly so.";
        OUT_OF_RANGE = "BZ0116", "out of range",
            "A number is too small or too large, or a list has too few or too many items.";
        CONFLICT = "BZ0117", "fields exclude each other",
            "Two fields say the same thing differently, or only one of them may be set.";
        EMPTY = "BZ0118", "empty where something must be",
            "An empty list or mapping here would either match everything or nothing, and readers disagree on which. Istio's webhook refuses it too.";
        NO_MEANING = "BZ0120", "no meaning here",
            "The field is right, but on this machine it has no effect (resources, affinity, image pull policy, …). Nothing needs to be done.";
        CHANGES_MEANING = "BZ0121", "cannot be honoured",
            "The field is right in Kubernetes, but a local mesh cannot do what it says, and leaving it out would change what runs or what is protected.";
        NOT_SUPPORTED = "BZ0122", "field not supported yet",
            "The field belongs to the mesh, but this version cannot do what it asks for. It is an error, because a policy without it would mean something else.";
        POINTLESS_RULE = "BZ0123", "rule that cannot do what it says",
            "The rule is well-formed, but it never has an effect, or another one than it seems to have.";
        UNSAFE = "BZ0124", "weaker than it looks",
            "What is written works, but somebody could get around it: keys that travel without protection, a private key in a document, a key that makes tokens as well as it checks them, tokens for any audience, an authorizer that lets everything through while it is away.";
        EXPRESSION = "BZ0125", "expression that is wrong",
            "A condition in the Common Expression Language does not parse, names something that does not exist, compares things of different types, or may cost more than a request can spend. It is checked when it is read, so that nothing is found out by a request.";
    }
}

/// All codes of this room, in the order of their ids.
pub const CODES: &[Code] = codes::ALL;

#[cfg(test)]
mod tests {
    use super::CODES;

    #[test]
    fn ids_are_unique_sorted_and_of_this_room() {
        assert!(CODES.windows(2).all(|pair| pair[0].id < pair[1].id));
        assert!(
            CODES
                .iter()
                .all(|code| code.id.starts_with("BZ01") && code.id.len() == 6)
        );
        assert!(CODES.iter().all(|code| code.explanation.ends_with('.')));
    }
}
