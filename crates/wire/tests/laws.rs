//! Laws of the pure parts: what is written reads back the same, however it is split, and no bytes make a parser
//! panic or keep more than it was given.
#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test fails by a panic"
)]

use bartizan_wire::h1::Limits;
use bartizan_wire::h1::chunk::{BodyDecoder, BodyError, Decoded};
use bartizan_wire::h1::encode::{ResponseTo, chunk_size, last_chunk, request_head, response_head};
use bartizan_wire::h1::parse::{Framing, HeadScan, parse_request, parse_response};
use bartizan_wire::head::{BodyLength, Headers, RequestHead, ResponseHead};
use bartizan_wire::proxy_protocol::{self, Addresses, Parsed};
use bartizan_wire::sniff::{FirstBytes, classify};
use bytes::{Bytes, BytesMut};
use http::{Method, StatusCode};
use proptest::collection::vec;
use proptest::prelude::*;

fn name() -> impl Strategy<Value = String> {
    "[a-zA-Z][a-zA-Z0-9!#$%&'*+.^_`|~-]{0,20}".prop_filter("fields that frame or belong to a hop", |name| {
        ![
            "host",
            "te",
            "upgrade",
            "connection",
            "keep-alive",
            "content-length",
            "expect",
            "transfer-encoding",
            "proxy-connection",
            "http2-settings",
        ]
        .contains(&name.to_ascii_lowercase().as_str())
    })
}

fn headers() -> impl Strategy<Value = Headers> {
    let value = vec(prop_oneof![Just(b'\t'), 0x20..=0x7eu8, 0x80..=0xffu8], 0..30);
    vec((name(), value), 0..20).prop_map(|fields| {
        let mut headers = Headers::new();
        for (name, value) in fields {
            headers.append(&name, &value).unwrap();
        }
        headers
    })
}

fn length() -> impl Strategy<Value = BodyLength> {
    prop_oneof![
        Just(BodyLength::Empty),
        (0..1u64 << 50).prop_map(BodyLength::Known),
        Just(BodyLength::Unknown),
    ]
}

fn without_length(headers: &Headers) -> Vec<(Vec<u8>, Vec<u8>)> {
    headers
        .iter()
        .filter(|(name, _)| !name.eq_ignore_ascii_case(b"content-length"))
        .map(|(name, value)| (name.to_vec(), value.to_vec()))
        .collect()
}

/// Bytes in the order they come, cut anywhere.
fn split(bytes: &[u8], cuts: &[usize]) -> Vec<Bytes> {
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut % (bytes.len() + 1)).collect();
    cuts.extend([0, bytes.len()]);
    cuts.sort_unstable();
    cuts.windows(2)
        .map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]]))
        .collect()
}

/// Data, trailers, whether the end was seen, and what is left.
type Read = (Vec<u8>, Vec<Headers>, bool, Vec<u8>);

/// Everything a decoder gives for these parts, and what it leaves.
fn decode(framing: Framing, parts: &[Bytes]) -> Result<Read, BodyError> {
    let mut decoder = BodyDecoder::new(framing, Limits::default());
    let (mut data, mut trailers, mut buffer) = (Vec::new(), Vec::new(), BytesMut::new());
    let mut parts = parts.iter();
    loop {
        match decoder.decode(&mut buffer)? {
            Decoded::Data(bytes) => {
                assert!(!bytes.is_empty());
                data.extend_from_slice(&bytes);
            }
            Decoded::Trailers(fields) => trailers.push(fields),
            Decoded::End => {
                for part in parts {
                    buffer.extend_from_slice(part);
                }
                return Ok((data, trailers, true, buffer.to_vec()));
            }
            Decoded::NeedMore => {
                // What waits is a part of a size line or a trailer section, both bounded.
                assert!(buffer.len() <= 17 * 1024 + 5000);
                match parts.next() {
                    Some(part) => buffer.extend_from_slice(part),
                    None => return Ok((data, trailers, false, buffer.to_vec())),
                }
            }
        }
    }
}

proptest! {
    #[test]
    fn a_written_request_reads_back(
        method in "[A-Z]{1,10}".prop_filter("CONNECT has no body", |method| method != "CONNECT"),
        path in "/[!-\"$-~]{0,60}",
        mut headers in headers(),
        body in length(),
        upgrade in proptest::option::of("[a-z]{3,10}"),
    ) {
        headers.append("Host", b"example.org:80").unwrap();
        let mut head = RequestHead::new(Method::from_bytes(method.as_bytes()).unwrap(), Bytes::from(path));
        head.headers = headers;
        head.body = body;
        head.upgrade = upgrade.map(Bytes::from);
        let mut bytes = Vec::new();
        let framing = request_head(&mut bytes, &head);
        let bytes = Bytes::from(bytes);
        prop_assert_eq!(HeadScan::default().end(&bytes, 1 << 16), Ok(Some(bytes.len())));
        let read = parse_request(&bytes, &Limits::default()).unwrap();
        prop_assert_eq!(read.framing, framing);
        prop_assert_eq!(read.head.body, body);
        prop_assert_eq!(&read.head.method, &head.method);
        prop_assert_eq!(&read.head.target, &head.target);
        prop_assert_eq!(&read.head.upgrade, &head.upgrade);
        prop_assert_eq!(without_length(&read.head.headers), without_length(&head.headers));
        prop_assert!(read.persistent);
    }

    #[test]
    fn a_written_response_reads_back(
        status in 200u16..600,
        headers in headers(),
        body in length(),
        to_head in any::<bool>(),
        keep_alive in any::<bool>(),
    ) {
        let mut head = ResponseHead::new(StatusCode::from_u16(status).unwrap());
        head.headers = headers;
        head.body = body;
        let mut bytes = Vec::new();
        let to = ResponseTo { head: to_head, connect: false, http10: false, keep_alive };
        let framing = response_head(&mut bytes, &head, to);
        let method = if to_head { Method::HEAD } else { Method::GET };
        let read = parse_response(&Bytes::from(bytes), &method, false, &Limits::default()).unwrap();
        prop_assert_eq!(read.framing, framing);
        prop_assert_eq!(read.head.status, head.status);
        prop_assert_eq!(read.persistent, keep_alive);
        prop_assert_eq!(without_length(&read.head.headers), without_length(&head.headers));
    }

    #[test]
    fn a_chunked_body_reads_back_however_it_is_split(
        chunks in vec(vec(any::<u8>(), 1..300), 0..8),
        trailers in headers(),
        after in vec(any::<u8>(), 0..10),
        cuts in vec(any::<usize>(), 0..12),
    ) {
        let mut bytes = Vec::new();
        for chunk in &chunks {
            chunk_size(&mut bytes, chunk.len());
            bytes.extend_from_slice(chunk);
            bytes.extend_from_slice(b"\r\n");
        }
        last_chunk(&mut bytes, Some(&trailers));
        bytes.extend_from_slice(&after);
        let (data, read, ended, rest) = decode(Framing::Chunked, &split(&bytes, &cuts)).unwrap();
        prop_assert!(ended);
        prop_assert_eq!(data, chunks.concat());
        prop_assert_eq!(rest, after);
        prop_assert!(read.len() <= 1);
        // Fields that must not come late are dropped; the generator makes such names only by chance.
        let late = read.first().map_or(0, Headers::len);
        prop_assert!(late <= trailers.len());
    }

    #[test]
    fn a_body_reads_the_same_at_once_and_in_parts(
        bytes in vec(prop_oneof![
            Just(b"\r\n".to_vec()), Just(b"0\r\n".to_vec()), Just(b"5\r\n".to_vec()), Just(b"hello".to_vec()),
            Just(b"\n".to_vec()), Just(b"a: b\r\n".to_vec()), Just(b";x".to_vec()), vec(any::<u8>(), 1..4),
        ], 0..12),
        cuts in vec(any::<usize>(), 0..6),
    ) {
        let bytes = bytes.concat();
        let whole = decode(Framing::Chunked, &[Bytes::copy_from_slice(&bytes)]);
        let parts = decode(Framing::Chunked, &split(&bytes, &cuts));
        prop_assert_eq!(whole, parts);
    }

    #[test]
    fn no_bytes_make_a_parser_panic(bytes in vec(any::<u8>(), 0..400), start in 0usize..6) {
        let starts: [&[u8]; 6] = [
            b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST http://", b"\x16\x03\x01\x01\x00\x01\x00\x00\xf0\x03\x03",
            b"PRI * HTTP/2.0\r\n", b"HTTP/1.1 200 OK\r\n",
        ];
        let bytes = Bytes::from([starts[start], &bytes].concat());
        let _ = HeadScan::default().end(&bytes, 100);
        let _ = parse_request(&bytes, &Limits::default());
        let _ = parse_response(&bytes, &Method::GET, true, &Limits::default());
        let _ = decode(Framing::Chunked, std::slice::from_ref(&bytes));
        // What is known does not change with more bytes.
        let mut known = FirstBytes::NeedMore;
        for end in 0..=bytes.len() {
            let now = classify(&bytes[..end]);
            if known != FirstBytes::NeedMore {
                prop_assert_eq!(&now, &known);
            }
            known = now;
        }
    }
}

fn ends(is_v6: bool) -> impl Strategy<Value = Addresses> {
    let one = (any::<u128>(), any::<u32>(), any::<u16>()).prop_map(move |(six, four, port)| {
        let ip = if is_v6 {
            std::net::IpAddr::V6(six.into())
        } else {
            std::net::IpAddr::V4(four.into())
        };
        std::net::SocketAddr::new(ip, port)
    });
    (one.clone(), one).prop_map(|(source, destination)| Addresses { source, destination })
}

/// Groups of hexadecimal digits: the form that has no IPv4 part.
fn text(ip: std::net::IpAddr) -> String {
    match ip {
        std::net::IpAddr::V4(four) => four.to_string(),
        std::net::IpAddr::V6(six) => six.segments().map(|group| format!("{group:x}")).join(":"),
    }
}

fn proxy_line(ends: &Addresses) -> Vec<u8> {
    let kind = if ends.source.is_ipv6() { "TCP6" } else { "TCP4" };
    let (source, destination) = (ends.source, ends.destination);
    let addresses = format!("{} {}", text(source.ip()), text(destination.ip()));
    format!(
        "PROXY {kind} {addresses} {} {}\r\n",
        source.port(),
        destination.port()
    )
    .into_bytes()
}

fn proxy_block(ends: &Addresses, extensions: &[u8]) -> Vec<u8> {
    let mut block = Vec::new();
    for ip in [ends.source.ip(), ends.destination.ip()] {
        match ip {
            std::net::IpAddr::V4(four) => block.extend(four.octets()),
            std::net::IpAddr::V6(six) => block.extend(six.octets()),
        }
    }
    block.extend(ends.source.port().to_be_bytes());
    block.extend(ends.destination.port().to_be_bytes());
    block.extend(extensions);
    let family = if ends.source.is_ipv6() { 0x21 } else { 0x11 };
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    bytes.extend([0x21, family]);
    bytes.extend(u16::try_from(block.len()).unwrap().to_be_bytes());
    bytes.extend(block);
    bytes
}

/// What was said once is said of all longer beginnings.
fn proxy_header_is_steady(bytes: &[u8]) {
    let mut said = Ok(Parsed::NeedMore);
    for end in 0..=bytes.len() {
        let now = proxy_protocol::parse(&bytes[..end]);
        assert!(
            said == Ok(Parsed::NeedMore) || said == now,
            "{said:?} became {now:?} at {end}"
        );
        said = now;
    }
}

proptest! {
    #[test]
    fn proxy_headers_read_back_the_same(
        ends in any::<bool>().prop_flat_map(ends),
        extensions in vec(any::<u8>(), 0..40),
        behind in vec(any::<u8>(), 0..40),
    ) {
        for header in [proxy_line(&ends), proxy_block(&ends, &extensions)] {
            let bytes = [&header[..], &behind].concat();
            let expected = Parsed::Header { addresses: Some(ends), length: header.len() };
            prop_assert_eq!(proxy_protocol::parse(&bytes), Ok(expected));
            proxy_header_is_steady(&bytes);
        }
    }

    #[test]
    fn bytes_that_nearly_are_a_proxy_header_are_judged_once(
        ends in any::<bool>().prop_flat_map(ends),
        changes in vec((0_usize..60, any::<u8>()), 1..4),
    ) {
        for mut header in [proxy_line(&ends), proxy_block(&ends, b"")] {
            for (at, byte) in &changes {
                let length = header.len();
                header[at % length] = *byte;
            }
            proxy_header_is_steady(&header);
        }
    }

    #[test]
    fn any_bytes_are_judged_once(bytes in vec(any::<u8>(), 0..300)) {
        proxy_header_is_steady(&bytes);
    }
}
