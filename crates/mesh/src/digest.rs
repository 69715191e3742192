//! Content digests: what two copies of a resource are compared by.

use std::fmt;
use std::hash::{BuildHasherDefault, Hasher};

/// The 128-bit FNV-1a hash of a resource's canonical body.
///
/// The same for the same bytes on every machine and in every run, which a reconnecting proxy relies on. It is *not*
/// cryptographic: it tells whether a copy is current among resources that the control plane itself wrote, and proves
/// nothing against someone who may choose the content.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub u128);

impl Digest {
    /// The digest of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
        Self(bytes.iter().fold(OFFSET, |hash, byte| {
            (hash ^ u128::from(*byte)).wrapping_mul(PRIME)
        }))
    }

    /// Sixteen bytes, most significant first: the form on the wire.
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.to_be_bytes()
    }

    /// From the form on the wire; `None` unless there are sixteen bytes.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        Some(Self(u128::from_be_bytes(bytes.try_into().ok()?)))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A fast hasher for maps whose content the control plane chose (64-bit FNV-1a with a final mix).
///
/// Not for keys that a client chooses to insert: a client only looks up.
#[derive(Clone)]
pub struct FieldHasher(u64);

/// Makes [`FieldHasher`]s.
pub type FieldHashing = BuildHasherDefault<FieldHasher>;

impl Default for FieldHasher {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Hasher for FieldHasher {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u8(*byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }

    fn finish(&self) -> u64 {
        let mixed = (self.0 ^ (self.0 >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        mixed ^ (mixed >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_fnv_1a_of_128_bits() {
        // Vectors of draft-eastlake-fnv, FNV-1a 128.
        assert_eq!(Digest::of(b"").to_string(), "6c62272e07bb014262b821756295c58d");
        assert_eq!(Digest::of(b"a").to_string(), "d228cb696f1a8caf78912b704e4a8964");
        assert_eq!(
            Digest::of(b"foobar").to_string(),
            "343e1662793c64bf6f0d3597ba446f18"
        );
        let digest = Digest::of(b"x");
        assert_eq!(Digest::from_bytes(&digest.to_bytes()), Some(digest));
        assert_eq!(Digest::from_bytes(b"short"), None);
    }
}
