//! What a connection speaks, from its first bytes. Input: those bytes.
//!
//! The second opinion is rustls, which ends the TLS that is sniffed here: name and protocols must be what it reads, or a
//! connection would be routed by one name and served by another.
#![no_main]

use bartizan_wire::sniff::{FirstBytes, classify};
use libfuzzer_sys::fuzz_target;
use rustls::server::Acceptor;

fuzz_target!(|bytes: &[u8]| {
    let whole = classify(bytes);
    let mut said = FirstBytes::NeedMore;
    let step = 1 + bytes.len() / 256;
    for length in (0..=bytes.len()).step_by(step) {
        let now = classify(&bytes[..length]);
        assert!(
            said == FirstBytes::NeedMore || now == said,
            "{said:?} became {now:?}"
        );
        said = now;
    }
    assert!(
        said == FirstBytes::NeedMore || said == whole,
        "{said:?} became {whole:?}"
    );
    let FirstBytes::Tls(hello) = whole else { return };
    if let Some(name) = &hello.sni {
        assert!(!name.is_empty() && *name == name.to_ascii_lowercase());
    }
    let mut acceptor = Acceptor::default();
    let mut rest = bytes;
    while !rest.is_empty() && acceptor.read_tls(&mut rest).is_ok_and(|count| count > 0) {}
    let Ok(Some(accepted)) = acceptor.accept() else {
        return;
    };
    let seen = accepted.client_hello();
    if let Some(name) = seen.server_name() {
        assert_eq!(hello.sni.as_deref(), Some(name.to_ascii_lowercase().as_str()));
    }
    if let Some(protocols) = seen.alpn() {
        let protocols: Vec<&[u8]> = protocols.collect();
        assert_eq!(hello.alpn, protocols);
    }
});
