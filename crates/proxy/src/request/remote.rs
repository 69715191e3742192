//! The client's address as trusted proxies tell it (Envoy `use_remote_address` and `xff_num_trusted_hops`, Istio
//! `gatewayTopology.numTrustedProxies`).

use std::net::IpAddr;

use bartizan_wire::head::Headers;

use super::headers::FORWARDED_FOR;

/// At a gateway: the entry that the outermost of `trusted` proxies has written, which is the one of that number from the
/// right, not counting the last, which the gateway itself has added. Without trusted proxies, or with fewer entries, or
/// where that entry is not an address: `direct`.
pub(super) fn at_gateway(headers: &Headers, direct: IpAddr, trusted: u32) -> IpAddr {
    match usize::try_from(trusted) {
        Ok(skipped @ 1..) => from_the_right(headers, skipped).unwrap_or(direct),
        Ok(0) | Err(_) => direct,
    }
}

/// At a sidecar: the last entry, which a gateway of this mesh has written; `direct` where there is none.
pub(super) fn at_sidecar(headers: &Headers, direct: IpAddr) -> IpAddr {
    from_the_right(headers, 0).unwrap_or(direct)
}

fn from_the_right(headers: &Headers, skipped: usize) -> Option<IpAddr> {
    // Most requests have no such field, and most others have one line.
    let mut lines = headers.get_all(FORWARDED_FOR);
    let first = lines.next()?;
    let entry = match lines.next() {
        None => first.rsplit(|byte| *byte == b',').nth(skipped),
        Some(second) => {
            let all: Vec<&[u8]> = [first, second].into_iter().chain(lines).collect();
            all.into_iter()
                .rev()
                .flat_map(|line| line.rsplit(|byte| *byte == b','))
                .nth(skipped)
        }
    }?;
    let address: IpAddr = std::str::from_utf8(entry.trim_ascii()).ok()?.parse().ok()?;
    Some(address.to_canonical())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers_of(lines: &[&str]) -> Headers {
        let mut headers = Headers::new();
        for line in lines {
            headers.append("X-Forwarded-For", line.as_bytes()).unwrap();
        }
        headers
    }

    #[test]
    fn addresses_count_from_the_right_and_doubt_falls_back_to_the_connection() {
        let direct: IpAddr = "10.0.0.9".parse().unwrap();
        for (lines, trusted, gateway, sidecar) in [
            (&[][..], 0, "10.0.0.9", "10.0.0.9"),
            (&[], 1, "10.0.0.9", "10.0.0.9"),
            (&["1.1.1.1, 2.2.2.2"], 0, "10.0.0.9", "2.2.2.2"),
            (&["1.1.1.1, 2.2.2.2"], 1, "2.2.2.2", "2.2.2.2"),
            (&["1.1.1.1, 2.2.2.2"], 2, "1.1.1.1", "2.2.2.2"),
            (&["1.1.1.1, 2.2.2.2"], 3, "10.0.0.9", "2.2.2.2"),
            (&["1.1.1.1", "2.2.2.2,3.3.3.3"], 3, "1.1.1.1", "3.3.3.3"),
            (&["1.1.1.1", "2.2.2.2", "3.3.3.3"], 2, "2.2.2.2", "3.3.3.3"),
            (&["1.1.1.1, nobody"], 1, "10.0.0.9", "10.0.0.9"),
            (&["1.1.1.1, 2.2.2.2:80"], 1, "10.0.0.9", "10.0.0.9"),
            (&["::ffff:1.2.3.4"], 1, "1.2.3.4", "1.2.3.4"),
            (&["fd00::1"], 1, "fd00::1", "fd00::1"),
            (&["1.1.1.1,"], 1, "10.0.0.9", "10.0.0.9"),
        ] {
            let added: Vec<_> = lines.iter().copied().chain(["10.0.0.9"]).collect();
            let (with_own, headers) = (headers_of(&added), headers_of(lines));
            assert_eq!(
                at_gateway(&with_own, direct, trusted).to_string(),
                gateway,
                "{lines:?} {trusted}"
            );
            assert_eq!(at_sidecar(&headers, direct).to_string(), sidecar, "{lines:?}");
        }
    }
}
