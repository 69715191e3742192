//! Base64url without padding (RFC 7515 §2), so strict that every text has at most one meaning and every value one text.

use base64::Engine as _;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};

/// No padding, and no bits behind the last byte: with either, one token would have many spellings.
const STRICT: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_encode_padding(false)
        .with_decode_padding_mode(DecodePaddingMode::RequireNone)
        .with_decode_allow_trailing_bits(false),
);

/// The bytes; none when the text is not strict base64url.
pub(super) fn decode(text: &str) -> Option<Vec<u8>> {
    STRICT.decode(text).ok()
}

/// The text.
pub(super) fn encode(bytes: impl AsRef<[u8]>) -> String {
    STRICT.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn padding_white_space_other_alphabets_and_stray_bits_are_refused() {
        assert_eq!(decode("AQ").as_deref(), Some(&[1][..]));
        assert_eq!(decode("").as_deref(), Some(&[][..]));
        for text in ["AQ==", "AR", "A", "AQ\n", " AQ", "A+", "A/", "AQ=", "AÄ", "AAB"] {
            assert_eq!(decode(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn what_decodes_has_this_one_spelling(text in "[A-Za-z0-9_-]{0,24}") {
            if let Some(bytes) = decode(&text) {
                prop_assert_eq!(encode(bytes), text);
            }
        }
    }
}
