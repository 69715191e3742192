//! Key sets as issuers send them. Input: the answer's body.
#![no_main]

use bartizan_identity::jwt::{KeySet, MOST_KEYS, SigningKey};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// What verifying needs; anything else in a key set is nobody's business.
const PUBLIC: [&str; 9] = ["kty", "kid", "alg", "use", "crv", "x", "y", "n", "e"];

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let _ = SigningKey::parse(text);
    let Ok(keys) = KeySet::parse(text) else { return };
    assert!(keys.len() + keys.skipped().len() <= MOST_KEYS);
    let public = keys.to_public_json();
    let read: Value = serde_json::from_str(&public).expect("what is written is JSON");
    let list = read["keys"].as_array().expect("a list of keys");
    assert_eq!(list.len(), keys.len());
    for key in list {
        for name in key.as_object().expect("a key is an object").keys() {
            assert!(PUBLIC.contains(&name.as_str()), "`{name}` is told to proxies");
        }
    }
    let again = KeySet::parse(&public).expect("what is written can be read");
    assert!(again.skipped().is_empty() && !again.has_secrets());
    assert_eq!(again.to_public_json(), public);
    // Whatever the keys are, nobody has signed this with them.
    let token = "eyJhbGciOiJFUzI1NiJ9.e30.AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
    assert!(again.verify(token, 0, None, &[] as &[&str]).is_err());
});
