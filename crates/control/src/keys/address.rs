//! Which addresses an issuer may have.
//!
//! A document names the issuer, and the control plane runs on the host: without this, a document could make it ask what only
//! the host may ask, such as a cloud's metadata service for the machine's own credentials. Private addresses and loopback
//! are where issuers of an organisation are, and stay allowed; what can only be a neighbour or no single host is not.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Metadata services that are not link-local: Alibaba Cloud, Oracle Cloud, and AWS over IPv6.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// Whether keys may be fetched from there.
pub(super) fn is_allowed(address: IpAddr) -> bool {
    let address = plain(address);
    if METADATA.contains(&address) || address.is_unspecified() || address.is_multicast() {
        return false;
    }
    match address {
        // 0.0.0.0/8 is "this network" (RFC 1122), and some systems take it for loopback.
        IpAddr::V4(address) => {
            !address.is_link_local() && !address.is_broadcast() && address.octets().first() != Some(&0)
        }
        IpAddr::V6(address) => !address.is_unicast_link_local(),
    }
}

/// The IPv4 address that an IPv6 address stands for: mapped (RFC 4291 §2.5.5), translated (RFC 6052) or 6to4 (RFC 3056).
fn plain(address: IpAddr) -> IpAddr {
    let IpAddr::V6(long) = address else {
        return address;
    };
    if let Some(short) = long.to_ipv4_mapped() {
        return short.into();
    }
    let short = match long.segments() {
        [0x0064, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => Some((high, low)),
        [0, 0, 0, 0, 0, 0, high, low] if high != 0 => Some((high, low)),
        _ => None,
    };
    match short {
        Some((high, low)) => {
            let [a, b] = high.to_be_bytes();
            let [c, d] = low.to_be_bytes();
            Ipv4Addr::new(a, b, c, d).into()
        }
        None => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_and_metadata_services_are_refused() {
        for text in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "0.0.0.0",
            "0.1.2.3",
            "::",
            "224.0.0.1",
            "ff02::1",
            "255.255.255.255",
        ] {
            assert!(!is_allowed(text.parse().unwrap()), "{text}");
        }
        for text in [
            "127.0.0.1",
            "::1",
            "10.1.2.3",
            "192.168.0.1",
            "172.16.0.1",
            "fd00::1",
            "203.0.113.7",
            "2001:db8::1",
            "::ffff:10.0.0.1",
        ] {
            assert!(is_allowed(text.parse().unwrap()), "{text}");
        }
    }
}
