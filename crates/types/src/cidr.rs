//! Address blocks.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use serde::{Deserialize, Deserializer, Serialize};

/// An address block such as `10.0.0.0/8`; a bare address is a block of one (Istio `ipBlocks`).
/// Host bits are cleared, and an IPv4-mapped IPv6 address is compared as IPv4.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Cidr {
    address: IpAddr,
    length: u8,
}

/// Why a text is not a block.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an address or an address block such as `10.0.0.0/8` or `fd00::/8`")]
pub struct CidrError(String);

impl Cidr {
    /// # Errors
    /// When the address or the prefix length is not valid.
    pub fn parse(text: &str) -> Result<Self, CidrError> {
        let error = || CidrError(text.to_owned());
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| error())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) if !length.starts_with('+') => length.parse().map_err(|_| error())?,
            Some(_) => return Err(error()),
            None => most,
        };
        if length > most {
            return Err(error());
        }
        Ok(Self {
            address: masked(address, length),
            length,
        })
    }

    /// The block of `length` bits around `address`; longer lengths than the family has are cut.
    pub fn new(address: IpAddr, length: u8) -> Self {
        let length = length.min(if address.is_ipv4() { 32 } else { 128 });
        Self {
            address: masked(address, length),
            length,
        }
    }

    /// The first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    pub fn length(&self) -> u8 {
        self.length
    }

    /// Whether `address` lies in the block.
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        address.is_ipv4() == self.address.is_ipv4() && masked(address, self.length) == self.address
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
            IpAddr::V4(Ipv4Addr::from(u32::from(v4) & mask))
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask))
        }
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

impl fmt::Debug for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Cidr {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn contains_by_prefix_and_family() {
        let block = Cidr::parse("10.1.2.3/8").unwrap();
        assert_eq!(block.to_string(), "10.0.0.0/8");
        assert!(
            block.contains("10.255.0.1".parse().unwrap()) && !block.contains("11.0.0.0".parse().unwrap())
        );
        assert!(
            block.contains("::ffff:10.0.0.1".parse().unwrap()),
            "an IPv4-mapped address is IPv4"
        );
        assert!(
            Cidr::parse("0.0.0.0/0")
                .unwrap()
                .contains("8.8.8.8".parse().unwrap())
        );
        assert!(!Cidr::parse("0.0.0.0/0").unwrap().contains("::1".parse().unwrap()));
        for bad in [
            "",
            "10.0.0.0/33",
            "::/129",
            "10.0.0.0/",
            "10.0.0/8",
            "10.0.0.0/+8",
            "a",
        ] {
            assert!(Cidr::parse(bad).is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_block_contains_its_own_address_and_prints_what_it_parses(address: u32, length in 0u8..=32) {
            let block = Cidr::new(IpAddr::V4(address.into()), length);
            prop_assert!(block.contains(IpAddr::V4(address.into())));
            prop_assert_eq!(Cidr::parse(&block.to_string()).unwrap(), block);
        }
    }
}
