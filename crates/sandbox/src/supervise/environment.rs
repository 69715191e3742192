//! `$(VAR)` in commands and variables, as Kubernetes expands it.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use bartizan_types::{ContainerSpec, EnvironmentValue};

use crate::{CONTAINER_HOME, CONTAINER_PATH};

/// Replaces `$(VAR)` by its value; `$$` stands for `$`, and a name that is not known stays as it is
/// (Kubernetes `Container.args`).
pub fn expand(text: &str, variables: &BTreeMap<String, String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        let (before, dollar) = rest.split_at(at);
        out.push_str(before);
        let after = dollar.get(1..).unwrap_or_default();
        if let Some(tail) = after.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some((name, tail)) = after.strip_prefix('(').and_then(|inner| inner.split_once(')')) {
            match variables.get(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

/// A container's variables: ours first, then its own in their order, each able to refer to those before it.
pub(super) fn variables(
    container: &ContainerSpec,
    hostname: &str,
    address: Ipv4Addr,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::from([
        ("PATH".to_owned(), CONTAINER_PATH.to_owned()),
        ("HOME".to_owned(), CONTAINER_HOME.to_owned()),
        ("HOSTNAME".to_owned(), hostname.to_owned()),
    ]);
    for variable in &container.environment {
        let value = match &variable.value {
            EnvironmentValue::Text(text) => expand(text, &variables),
            EnvironmentValue::PodAddress => address.to_string(),
        };
        variables.insert(variable.name.clone(), value);
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_escapes_and_unknown_names() {
        let variables = BTreeMap::from([("A".to_owned(), "1".to_owned())]);
        for (text, expected) in [
            ("$(A)", "1"),
            ("x$(A)y$(A)", "x1y1"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$A $( $", "$A $( $"),
            ("", ""),
        ] {
            assert_eq!(expand(text, &variables), expected, "{text}");
        }
    }
}
