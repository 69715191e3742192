//! Address blocks: the second argument of `inBlock`.

use std::fmt;
use std::net::IpAddr;

/// An address block such as `10.0.0.0/8`; a bare address is a block of one. Host bits are cleared, and an IPv4-mapped IPv6
/// address is compared as IPv4, as `ipBlocks` of an AuthorizationPolicy does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Block {
    address: IpAddr,
    length: u8,
}

impl Block {
    /// `None` when the text is neither an address nor a block.
    pub fn parse(text: &str) -> Option<Self> {
        let (address, length) = match text.split_once('/') {
            Some((address, length)) => (address, Some(length)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let length = match length {
            Some(length) if length.starts_with('+') => return None,
            Some(length) => length.parse().ok().filter(|length| *length <= most)?,
            None => most,
        };
        Some(Self {
            address: masked(address, length),
            length,
        })
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

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

fn masked(address: IpAddr, length: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX
                .checked_shl(32_u32.saturating_sub(length.into()))
                .unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX
                .checked_shl(128_u32.saturating_sub(length.into()))
                .unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}
