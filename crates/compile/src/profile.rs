//! Profiles: what holds where no policy speaks, as documents that people read, copy and change.

use bartizan_config::native::{self, Profile as Written};
use bartizan_config::{Document, Finding, Resource, SourceFile, read};
use bartizan_mesh::{AcrossNamespaces, PathRule, Profile, Reach, UserCredentials, WithoutPolicy};
use bartizan_types::Name;

use crate::mtls;

/// The profiles that come with the binary: name and document.
pub const BUILT_IN: [(&str, &str); 3] = [
    ("zero-trust", include_str!("../../../profiles/zero-trust.yaml")),
    ("nist", include_str!("../../../profiles/nist.yaml")),
    ("istio", include_str!("../../../profiles/istio.yaml")),
];

/// The document of a profile that comes with the binary.
pub fn built_in(name: &str) -> Option<&'static str> {
    BUILT_IN
        .iter()
        .find(|(other, _)| *other == name)
        .map(|(_, document)| *document)
}

/// Reads a file with one Profile: what holds, and what a path means with it.
///
/// # Errors
/// All findings when the file cannot be read as documents; none when there is not exactly one Profile in it, or anything else.
pub fn read_profile(file: &SourceFile) -> Result<(Profile, PathRule), Vec<Finding>> {
    let reading = read(file);
    if reading.has_errors() {
        return Err(reading.findings);
    }
    match reading.documents.as_slice() {
        [document] => of_document(document).ok_or_else(Vec::new),
        _ => Err(Vec::new()),
    }
}

/// What a document says, if it is a Profile.
pub fn of_document(document: &Document) -> Option<(Profile, PathRule)> {
    if let Resource::Profile(written) = &document.resource {
        Some(resolve(document.name(), *written))
    } else {
        None
    }
}

/// The profile as proxies hold it. `wayOut` has one value so far, which always holds.
pub(crate) fn resolve(name: &Name, written: Written) -> (Profile, PathRule) {
    let profile = Profile {
        name: name.clone(),
        mtls: mtls::mode(written.mtls),
        without_policy: match written.without_policy {
            native::WithoutPolicy::Allow => WithoutPolicy::Allow,
            native::WithoutPolicy::Deny => WithoutPolicy::Deny,
            native::WithoutPolicy::OwnNamespace => WithoutPolicy::OwnNamespace,
        },
        across_namespaces: match written.across_namespaces {
            native::AcrossNamespaces::AsWritten => AcrossNamespaces::AsWritten,
            native::AcrossNamespaces::Named => AcrossNamespaces::Named,
        },
        user_credentials: match written.user_credentials {
            native::UserCredentials::Optional => UserCredentials::Optional,
            native::UserCredentials::WhereMarked => UserCredentials::WhereMarked,
            native::UserCredentials::Everywhere => UserCredentials::Everywhere,
        },
        reach: match written.reach {
            native::Reach::Allowed => Reach::Allowed,
            native::Reach::Everything => Reach::Everything,
        },
    };
    let paths = match written.paths {
        native::PathRule::RefuseAmbiguous => PathRule::RefuseAmbiguous,
        native::PathRule::None => PathRule::None,
        native::PathRule::Base => PathRule::Base,
        native::PathRule::MergeSlashes => PathRule::MergeSlashes,
        native::PathRule::DecodeAndMergeSlashes => PathRule::DecodeAndMergeSlashes,
    };
    (profile, paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn built_in_profile(name: &str) -> (Profile, PathRule) {
        let text = built_in(name).expect("it comes with the binary");
        read_profile(&SourceFile::new(format!("{name}.yaml"), text)).expect("and is right")
    }

    #[test]
    fn documents_say_what_the_mesh_starts_from() {
        assert_eq!(
            built_in_profile("zero-trust"),
            (Profile::zero_trust(), PathRule::RefuseAmbiguous)
        );
        assert_eq!(built_in_profile("istio"), (Profile::istio(), PathRule::Base));
    }

    #[test]
    fn nist_differs_from_zero_trust_in_the_three_fields_that_it_says() {
        let (nist, paths) = built_in_profile("nist");
        let expected = Profile {
            name: Name::parse("nist").expect("a literal"),
            without_policy: WithoutPolicy::OwnNamespace,
            across_namespaces: AcrossNamespaces::Named,
            user_credentials: UserCredentials::WhereMarked,
            ..Profile::zero_trust()
        };
        assert_eq!((nist, paths), (expected, PathRule::RefuseAmbiguous));
    }

    #[test]
    fn a_file_has_exactly_one_profile_and_nothing_else() {
        let two = [built_in("istio"), built_in("nist")]
            .map(Option::unwrap_or_default)
            .join("---\n");
        let other = "apiVersion: v1\nkind: Namespace\nmetadata: { name: shop }\n";
        for text in [
            two.as_str(),
            other,
            "",
            "apiVersion: bartizan.dev/v1alpha1\nkind: Profile\nmetadata: { name: a }\n",
        ] {
            assert!(
                read_profile(&SourceFile::new("profile.yaml", text)).is_err(),
                "{text}"
            );
        }
    }
}
