//! JSON by hand, for lines that are written once a request: strings from any bytes, numbers, addresses.

use std::net::{IpAddr, SocketAddr};

const HEX: &[u8; 16] = b"0123456789abcdef";

/// Appends `bytes` as a JSON string. Bytes that are not UTF-8 become U+FFFD, as in [`String::from_utf8_lossy`].
pub fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    if plain(bytes) {
        out.extend_from_slice(bytes);
    } else {
        for chunk in bytes.utf8_chunks() {
            escaped(out, chunk.valid().as_bytes());
            if !chunk.invalid().is_empty() {
                out.extend_from_slice("\u{fffd}".as_bytes());
            }
        }
    }
    out.push(b'"');
}

/// Whether nothing needs a second look: printable ASCII without quote and backslash.
fn plain(bytes: &[u8]) -> bool {
    // Without an early end and without branches, so that the compiler looks at many bytes at a time.
    let odd = |byte: u8| {
        u8::from(byte < 0x20) | u8::from(byte > 0x7e) | u8::from(byte == b'"') | u8::from(byte == b'\\')
    };
    bytes.iter().fold(0, |found, byte| found | odd(*byte)) == 0
}

/// Valid UTF-8 with what JSON does not allow written as escapes (RFC 8259 §7); DEL too, for terminals' sake.
fn escaped(out: &mut Vec<u8>, bytes: &[u8]) {
    for byte in bytes {
        match byte {
            b'"' => out.extend_from_slice(b"\\\""),
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\n' => out.extend_from_slice(b"\\n"),
            b'\r' => out.extend_from_slice(b"\\r"),
            b'\t' => out.extend_from_slice(b"\\t"),
            0..0x20 | 0x7f => {
                let digit = |nibble: u8| HEX.get(usize::from(nibble)).copied().unwrap_or(b'0');
                out.extend_from_slice(b"\\u00");
                out.push(digit(byte >> 4));
                out.push(digit(byte & 15));
            }
            other => out.push(*other),
        }
    }
}

/// Appends a number.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0u8; 20];
    let mut count = 0;
    for digit in &mut digits {
        // One decimal digit fits a byte.
        *digit = b'0' + u8::try_from(value % 10).unwrap_or_default();
        count += 1;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend(digits.iter().take(count).rev());
}

/// Appends an address and port as a JSON string: `"10.0.0.1:80"`, `"[fd00::1]:80"`. An IPv4-mapped address is written as IPv4.
pub fn address(out: &mut Vec<u8>, address: SocketAddr) {
    out.push(b'"');
    match address.ip().to_canonical() {
        IpAddr::V4(_) => ip(out, address.ip()),
        IpAddr::V6(v6) => out.extend_from_slice(format!("[{v6}]").as_bytes()),
    }
    out.push(b':');
    number(out, u64::from(address.port()));
    out.push(b'"');
}

/// Appends an address as text, without quotes; an IPv4-mapped one as IPv4.
pub fn ip(out: &mut Vec<u8>, address: IpAddr) {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            for (at, octet) in v4.octets().into_iter().enumerate() {
                if at > 0 {
                    out.push(b'.');
                }
                number(out, u64::from(octet));
            }
        }
        IpAddr::V6(v6) => out.extend_from_slice(v6.to_string().as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> serde_json::Value {
        let mut out = Vec::new();
        write(&mut out);
        serde_json::from_slice(&out).unwrap()
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_json_string_of_their_lossy_text(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let value = written(|out| string(out, &bytes));
            prop_assert_eq!(value.as_str().unwrap(), String::from_utf8_lossy(&bytes));
        }

        #[test]
        fn any_text_survives(text in ".{0,40}") {
            let value = written(|out| string(out, text.as_bytes()));
            prop_assert_eq!(value.as_str().unwrap(), text);
        }

        #[test]
        fn a_line_stays_a_line(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut out = Vec::new();
            string(&mut out, &bytes);
            prop_assert!(out.iter().all(|byte| *byte >= 0x20));
        }

        #[test]
        fn numbers_print_as_themselves(value: u64) {
            prop_assert_eq!(written(|out| number(out, value)).as_u64(), Some(value));
        }

        #[test]
        fn addresses_print_as_std_prints_them(ip: std::net::IpAddr, port: u16) {
            let text = SocketAddr::new(ip.to_canonical(), port).to_string();
            let value = written(|out| address(out, SocketAddr::new(ip, port)));
            prop_assert_eq!(value.as_str().unwrap(), text);
        }
    }

    #[test]
    fn the_largest_and_smallest_numbers_print() {
        for value in [0, 9, 10, u64::MAX] {
            assert_eq!(written(|out| number(out, value)).as_u64(), Some(value));
        }
    }
}
