//! Users' tokens. Input: what is tried, then a token as it comes; or header and payload, cut where a byte says, which are
//! signed well; or changes to a good token: two bytes for where, one for what.
#![no_main]

use std::sync::OnceLock;

use bartizan_fuzz::choices;
use bartizan_identity::jwt::{Algorithm, Claims, JwtError, KeySet, SigningKey, unverified_issuer};
use libfuzzer_sys::fuzz_target;
use serde_json::Value;

/// The key of RFC 8037 §A.1: its signatures are the same each time.
const KEY: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"k","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
const NOW: i64 = 1_800_000_000;

/// A key with its set, and a token that is good.
struct Issuer {
    key: SigningKey,
    keys: KeySet,
    token: String,
}

fuzz_target!(|data: &[u8]| {
    let issuer = issuer();
    let ([how], rest) = choices::<1>(data);
    match how % 3 {
        0 => stranger(issuer, rest),
        1 => signed(issuer, rest),
        _ => forgery(issuer, rest),
    }
});

/// Nobody without the key makes a token.
fn stranger(issuer: &Issuer, token: &[u8]) {
    let Ok(token) = std::str::from_utf8(token) else {
        return;
    };
    let _ = unverified_issuer(token);
    if token != issuer.token {
        assert!(verify(issuer, token).is_err(), "let in: {token}");
    }
}

/// What is well signed is let in only as what every reader of JSON sees in it.
fn signed(issuer: &Issuer, data: &[u8]) {
    let ([cut], rest) = choices::<1>(data);
    let (header, payload) = rest.split_at(usize::from(cut).min(rest.len()));
    let token = issuer
        .key
        .sign_bytes(Algorithm::EdDsa, header, payload)
        .expect("the key signs");
    let Ok(claims) = verify(issuer, &token) else {
        return;
    };
    let header: Value = serde_json::from_slice(header).expect("a header that was let in is JSON");
    assert!(matches!(header["alg"].as_str(), Some("EdDSA" | "Ed25519")));
    assert!(header.get("crit").is_none() && header.get("b64").is_none());
    assert_eq!(
        header.get("kid").and_then(Value::as_str),
        claims.key_id.as_deref()
    );
    let payload: Value = serde_json::from_slice(payload).expect("a payload that was let in is JSON");
    assert_eq!(payload, Value::Object(claims.all.clone()));
    assert_eq!(
        payload.get("iss").and_then(Value::as_str),
        claims.issuer.as_deref()
    );
    assert!(claims.expires_at.is_none_or(|until| until >= NOW - 60));
    assert_eq!(
        unverified_issuer(&token).expect("it was read before"),
        claims.issuer
    );
}

/// A good token of which anything is changed is not good.
fn forgery(issuer: &Issuer, changes: &[u8]) {
    let mut token = issuer.token.clone().into_bytes();
    for change in changes.chunks_exact(3).take(8) {
        let at = usize::from(u16::from_be_bytes([change[0], change[1]])) % token.len();
        token[at] ^= change[2];
    }
    let Ok(token) = String::from_utf8(token) else {
        return;
    };
    let verified = verify(issuer, &token);
    if token == issuer.token {
        verified.expect("unchanged");
    } else {
        assert!(verified.is_err(), "a forgery is let in: {token}");
    }
}

fn verify(issuer: &Issuer, token: &str) -> Result<Claims, JwtError> {
    issuer.keys.verify(token, NOW, None, &[] as &[&str])
}

fn issuer() -> &'static Issuer {
    static ISSUER: OnceLock<Issuer> = OnceLock::new();
    ISSUER.get_or_init(|| {
        let key = SigningKey::parse(KEY).expect("the RFC's key");
        let jwks = key.to_public_jwks().expect("a public half");
        let claims = serde_json::json!({"iss": "https://issuer.example", "sub": "ann", "aud": ["a", "b"], "exp": NOW + 60});
        Issuer {
            keys: KeySet::parse(&jwks).expect("a key set"),
            token: key
                .sign(&serde_json::Map::new(), &claims)
                .expect("the key signs"),
            key,
        }
    })
}
