//! What makes a certificate an SVID (X509-SVID §2 to §5): the rules for a leaf, read from its bytes.

use bartizan_types::{SpiffeId, SpiffeIdError};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer as _;

use crate::clock::from_unix;
use std::time::SystemTime;

/// The first rule for leaves that a certificate breaks.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SvidDefect {
    /// Not one DER certificate, or an extension that cannot be read.
    #[error("it is not a readable certificate")]
    Malformed,
    /// `cA` is set, or the key may sign certificates or revocation lists (X509-SVID §4.1, §4.3).
    #[error("it is a signing certificate")]
    Authority,
    /// `digitalSignature` is not set (X509-SVID §4.3).
    #[error("its key usage lacks `digitalSignature`")]
    KeyUsage,
    /// No URI name (X509-SVID §2).
    #[error("it names no URI")]
    NoUri,
    /// More than one URI name (X509-SVID §2).
    #[error("it names {0} URIs, exactly one is allowed")]
    SeveralUris(usize),
    /// The URI is not a SPIFFE ID.
    #[error("its URI is not a SPIFFE ID: {0}")]
    Id(SpiffeIdError),
    /// The SPIFFE ID names a trust domain and no workload (X509-SVID §5.2).
    #[error("its SPIFFE ID `{0}` names no workload")]
    NoPath(SpiffeId),
}

/// What is read from a leaf that keeps the rules.
pub(crate) struct Leaf<'a> {
    pub(crate) id: SpiffeId,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) certificate: X509Certificate<'a>,
}

impl<'a> Leaf<'a> {
    /// Reads `der` and judges it by the rules for leaves; signatures, time and trust are not looked at.
    pub(crate) fn read(der: &'a [u8]) -> Result<Self, SvidDefect> {
        let (rest, certificate) = X509Certificate::from_der(der).map_err(|_| SvidDefect::Malformed)?;
        if !rest.is_empty() {
            return Err(SvidDefect::Malformed);
        }
        let constraints = certificate
            .basic_constraints()
            .map_err(|_| SvidDefect::Malformed)?;
        if constraints.is_some_and(|constraints| constraints.value.ca) {
            return Err(SvidDefect::Authority);
        }
        match certificate.key_usage().map_err(|_| SvidDefect::Malformed)? {
            Some(usage) if usage.value.key_cert_sign() || usage.value.crl_sign() => {
                return Err(SvidDefect::Authority);
            }
            Some(usage) if usage.value.digital_signature() => {}
            Some(_) | None => return Err(SvidDefect::KeyUsage),
        }
        let names = certificate
            .subject_alternative_name()
            .map_err(|_| SvidDefect::Malformed)?;
        let mut uris = names
            .iter()
            .flat_map(|names| names.value.general_names.iter())
            .filter_map(|name| match name {
                GeneralName::URI(uri) => Some(*uri),
                GeneralName::OtherName(..)
                | GeneralName::RFC822Name(_)
                | GeneralName::DNSName(_)
                | GeneralName::X400Address(_)
                | GeneralName::DirectoryName(_)
                | GeneralName::EDIPartyName(_)
                | GeneralName::IPAddress(_)
                | GeneralName::RegisteredID(_)
                | GeneralName::Invalid(..) => None,
            });
        let uri = uris.next().ok_or(SvidDefect::NoUri)?;
        let more = uris.count();
        if more > 0 {
            return Err(SvidDefect::SeveralUris(more + 1));
        }
        let id = SpiffeId::parse(uri).map_err(SvidDefect::Id)?;
        if !id.principal().contains('/') {
            return Err(SvidDefect::NoPath(id));
        }
        let validity = certificate.validity();
        let time = |at: i64| from_unix(u64::try_from(at).unwrap_or(0));
        let (not_before, not_after) = (
            time(validity.not_before.timestamp()),
            time(validity.not_after.timestamp()),
        );
        Ok(Self {
            id,
            not_before,
            not_after,
            certificate,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn reading_anything_ends_in_a_defect_and_no_panic(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert!(Leaf::read(&bytes).is_err());
        }
    }
}
