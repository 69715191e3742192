//! The PROXY protocol's header, in parts as a socket gives it. Input: a choice of parts, then bytes.
//!
//! What is said of a beginning is said of all that is longer, reading it from a stream says the same, leaves what follows, and
//! keeps no more than a few hundred bytes of the longest header.
#![no_main]

use bartizan_fuzz::choices;
use bartizan_wire::proxy_protocol::{Parsed, parse, read_header};
use bytes::BytesMut;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let ([step], bytes) = choices::<1>(data);
    let mut said = Ok(Parsed::NeedMore);
    let step = 1 + usize::from(step % 16);
    for length in (0..=bytes.len()).step_by(step).chain([bytes.len()]) {
        let now = parse(&bytes[..length]);
        assert!(
            said == Ok(Parsed::NeedMore) || now == said,
            "{said:?} became {now:?}"
        );
        said = now;
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime without drivers needs nothing");
    let mut rest = bytes;
    let mut buffer = BytesMut::new();
    let read = runtime.block_on(read_header(&mut rest, &mut buffer));
    match said {
        Ok(Parsed::Header { addresses, length }) if length <= bytes.len() => {
            assert_eq!(read.expect("the header is whole"), addresses);
            let left = [&buffer[..], rest].concat();
            assert_eq!(left, &bytes[length..]);
            assert!(buffer.capacity() < 4096, "{}", buffer.capacity());
        }
        Ok(Parsed::Header { .. } | Parsed::NeedMore) | Err(_) => assert!(read.is_err()),
    }
});
