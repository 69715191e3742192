//! The keys of the present snapshot, read once for all workers, and the claims that its policies speak of.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use arc_swap::ArcSwap;
use bartizan_identity::jwt::KeySet;
use bartizan_mesh::{Condition, KeySource, Snapshot, TokenLocation};

/// The keys by the text that they were read from; `None` when it cannot be read.
type Read = HashMap<Arc<str>, Option<KeySet>>;

/// What follows from a snapshot for users' tokens.
#[derive(Debug, Default)]
pub(crate) struct Keyring {
    read: ArcSwap<Read>,
    claims: ArcSwap<Vec<Arc<str>>>,
    parameters: ArcSwap<Vec<Arc<str>>>,
}

impl Keyring {
    /// Reads what is new in `snapshot`, which is served a moment later. Says what cannot be read; its tokens are refused.
    pub(crate) fn follow(&self, snapshot: &Snapshot) -> Vec<String> {
        let before = self.read.load();
        let mut problems = Vec::new();
        let mut read = Read::new();
        let mut add = |text: &Arc<str>, whose: &dyn Fn() -> String| {
            if read.contains_key(text) {
                return;
            }
            let keys = match before.get(text) {
                Some(keys) => keys.clone(),
                None => KeySet::parse(text)
                    .map_err(|error| {
                        problems.push(format!("tokens are refused, keys of {}: {error}", whose()));
                    })
                    .ok(),
            };
            read.insert(Arc::clone(text), keys);
        };
        for set in snapshot.key_sets() {
            if let Some(text) = &set.jwks {
                add(text, &|| format!("`{}`", set.source));
            }
        }
        for authentication in snapshot.authentications() {
            for (index, rule) in authentication.rules.iter().enumerate() {
                if let KeySource::Inline(text) = &rule.keys {
                    add(text, &|| {
                        format!(
                            "RequestAuthentication `{}` jwtRules[{index}]",
                            authentication.name
                        )
                    });
                }
            }
        }
        self.claims.store(Arc::new(claims_of(snapshot)));
        self.parameters.store(Arc::new(parameters_of(snapshot)));
        self.read.store(Arc::new(read));
        problems
    }

    /// The keys of a text; `None` when it cannot be read.
    pub(crate) fn keys(&self, text: &Arc<str>) -> Option<KeySet> {
        match self.read.load().get(text) {
            Some(keys) => keys.clone(),
            // A request that still goes by the snapshot before.
            None => KeySet::parse(text).ok(),
        }
    }

    /// The target without the tokens in its query, for the log; `None` when there is none.
    pub(crate) fn without_tokens(&self, target: &[u8]) -> Option<Vec<u8>> {
        let at = target.iter().position(|byte| *byte == b'?')?;
        let (path, query) = target.split_at_checked(at + 1)?;
        let parameters = self.parameters.load();
        let is_token = |part: &[u8]| {
            let mut halves = part.splitn(2, |byte| *byte == b'=');
            let (name, value) = (halves.next().unwrap_or_default(), halves.next());
            // Every JWT begins like this: `{"` in base64url.
            value.is_some_and(|value| value.starts_with(b"eyJ"))
                || parameters.iter().any(|parameter| is_same_name(name, parameter))
        };
        if !query.split(|byte| *byte == b'&').any(is_token) {
            return None;
        }
        let mut shown = path.to_vec();
        for (number, part) in query.split(|byte| *byte == b'&').enumerate() {
            if number > 0 {
                shown.push(b'&');
            }
            if is_token(part) {
                shown.extend(part.iter().take_while(|byte| **byte != b'='));
                shown.extend_from_slice(b"=REDACTED");
            } else {
                shown.extend_from_slice(part);
            }
        }
        Some(shown)
    }

    /// The claims that policies speak of.
    pub(crate) fn claims(&self) -> Arc<Vec<Arc<str>>> {
        self.claims.load_full()
    }
}

/// Whether the name of a query parameter, escaped or not, is `parameter`.
fn is_same_name(mut name: &[u8], parameter: &str) -> bool {
    let digit = |byte: &u8| {
        char::from(*byte)
            .to_digit(16)
            .and_then(|digit| u8::try_from(digit).ok())
    };
    let mut wanted = parameter.bytes();
    loop {
        let (byte, rest) = match name {
            [] => return wanted.next().is_none(),
            [b'%', high, low, rest @ ..] => match (digit(high), digit(low)) {
                (Some(high), Some(low)) => (high << 4 | low, rest),
                _ => return false,
            },
            [byte, rest @ ..] => (*byte, rest),
        };
        if wanted.next() != Some(byte) {
            return false;
        }
        name = rest;
    }
}

/// The query parameters that tokens are in: those of the rules, and the one that RFC 6750 names, which a client's own proxy
/// sees without having the rules.
fn parameters_of(snapshot: &Snapshot) -> Vec<Arc<str>> {
    let mut parameters: BTreeSet<Arc<str>> = BTreeSet::from(["access_token".into()]);
    let rules = snapshot
        .authentications()
        .flat_map(|authentication| &authentication.rules);
    for location in rules.flat_map(|rule| &rule.locations) {
        if let TokenLocation::Param(name) = location {
            parameters.insert(Arc::clone(name));
        }
    }
    parameters.into_iter().collect()
}

fn claims_of(snapshot: &Snapshot) -> Vec<Arc<str>> {
    let mut claims = BTreeSet::new();
    for rule in snapshot.policies().flat_map(|policy| &policy.rules) {
        for condition in &rule.when {
            if let Condition::RequestClaim(path, _) = condition
                && let Some(first) = path.first()
            {
                claims.insert(Arc::clone(first));
            }
        }
        if let Some(expression) = &rule.expression {
            claims.extend(claims_in(expression).map(Arc::from));
        }
    }
    claims.into_iter().collect()
}

/// `role` of `auth.claims.role` and of `auth.claims["role"]`. A name that is put together in the expression is not found.
fn claims_in(expression: &str) -> impl Iterator<Item = &str> {
    expression.split("auth.claims").skip(1).filter_map(|rest| {
        if let Some(rest) = rest.strip_prefix('.') {
            let end = rest
                .find(|character: char| !character.is_ascii_alphanumeric() && character != '_')
                .unwrap_or(rest.len());
            return rest.get(..end);
        }
        let rest = rest.strip_prefix('[')?.trim_start();
        let quote = rest.chars().next().filter(|first| matches!(first, '"' | '\''))?;
        rest.get(1..)?.split(quote).next()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_in_a_query_are_not_shown() {
        let keyring = Keyring::default();
        keyring.follow(&Snapshot::default());
        for (target, shown) in [
            ("/a", None),
            ("/a?b=c", None),
            ("/a?access_token", Some("/a?access_token=REDACTED")),
            (
                "/a?x=1&access%5Ftoken=abc.d=e&y",
                Some("/a?x=1&access%5Ftoken=REDACTED&y"),
            ),
            ("/a?t=eyJhbGciOi.e.f", Some("/a?t=REDACTED")),
        ] {
            let found = keyring.without_tokens(target.as_bytes());
            assert_eq!(found.as_deref(), shown.map(str::as_bytes), "{target}");
        }
    }

    #[test]
    fn claims_are_found_in_expressions() {
        let found: Vec<_> = claims_in(
            r#"auth.claims.clearance == "x" && auth.claims["a b"] == 'y' && auth.claims['c'].d && size(auth.claims)"#,
        )
        .collect();
        assert_eq!(found, ["clearance", "a b", "c"]);
    }
}
