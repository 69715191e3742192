//! What must verify, and what must not: every algorithm, the RFCs' own examples, and one test for each known attack.

#![expect(
    clippy::needless_pass_by_value,
    reason = "JSON is written where it is handed over"
)]

use std::sync::LazyLock;

use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::token::Token;
use super::*;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://issuer.example";
const NO_AUDIENCE: &[&str] = &[];

/// One key of each algorithm: RSA keys cost a while to make.
static KEYS: LazyLock<Vec<SigningKey>> = LazyLock::new(|| {
    Algorithm::ALL
        .into_iter()
        .map(|algorithm| generate_key(algorithm).unwrap())
        .collect()
});

fn key(algorithm: Algorithm) -> &'static SigningKey {
    KEYS.iter().find(|key| key.algorithm() == algorithm).unwrap()
}

fn set_of(key: &SigningKey) -> KeySet {
    KeySet::parse(&key.to_public_jwks().unwrap()).unwrap()
}

/// The public key as JSON, with some members changed; null takes one out.
fn jwk_with(key: &SigningKey, changes: Value) -> Value {
    let mut set: Value = serde_json::from_str(&key.to_public_jwks().unwrap()).unwrap();
    let mut jwk = set["keys"][0].take();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            jwk.as_object_mut().unwrap().remove(name);
        } else {
            jwk[name] = value.clone();
        }
    }
    jwk
}

fn set_with(keys: impl IntoIterator<Item = Value>) -> KeySet {
    KeySet::parse(&json!({ "keys": keys.into_iter().collect::<Vec<_>>() }).to_string()).unwrap()
}

fn claims() -> Value {
    json!({"iss": ISSUER, "sub": "ann", "aud": ["one", "two"], "azp": "shop", "exp": NOW + 600, "nbf": NOW - 10, "iat": NOW - 10})
}

fn claims_with(changes: Value) -> Value {
    let mut claims = claims();
    for (name, value) in changes.as_object().unwrap() {
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        } else {
            claims[name] = value.clone();
        }
    }
    claims
}

fn verify(set: &KeySet, token: &str) -> Result<Claims, JwtError> {
    set.verify(token, NOW, Some(ISSUER), NO_AUDIENCE)
}

fn es256() -> &'static SigningKey {
    key(Algorithm::Es256)
}

/// What becomes of these claims, well signed.
fn judged(claims: &Value) -> Result<Claims, JwtError> {
    verify(&set_of(es256()), &es256().sign(&Map::new(), claims).unwrap())
}

/// What becomes of a well signed token with exactly this header.
fn judged_header(header: &Value) -> Result<Claims, JwtError> {
    let token = es256()
        .sign_bytes(
            Algorithm::Es256,
            header.to_string().as_bytes(),
            claims().to_string().as_bytes(),
        )
        .unwrap();
    verify(&set_of(es256()), &token)
}

fn header_with(changes: Value) -> Value {
    let mut header = json!({"alg": "ES256", "kid": es256().key_id().unwrap()});
    for (name, value) in changes.as_object().unwrap() {
        header[name] = value.clone();
    }
    header
}

#[test]
fn every_algorithm_verifies_what_it_signed_and_nothing_of_another_key() {
    for algorithm in Algorithm::ALL {
        let signing = key(algorithm);
        let token = signing.sign(&Map::new(), &claims()).unwrap();
        let read = verify(&set_of(signing), &token).unwrap();
        assert_eq!(read.algorithm, algorithm);
        assert_eq!(read.subject.as_deref(), Some("ann"));
        assert_eq!(read.presenter.as_deref(), Some("shop"));
        assert_eq!(read.audiences, ["one", "two"]);
        assert_eq!(read.expires_at, Some(NOW + 600));
        assert_eq!(read.key_id.as_deref(), signing.key_id());
        assert_eq!(read.payload, token.split('.').nth(1).unwrap());
        assert_eq!(Value::Object(read.all), claims());
        let kid = signing.key_id().unwrap();
        for other in KEYS.iter().filter(|other| other.algorithm() != algorithm) {
            let posing = set_with([jwk_with(other, json!({"kid": kid}))]);
            assert_eq!(
                verify(&posing, &token),
                Err(JwtError::KeyMismatch),
                "{algorithm} {other:?}"
            );
        }
        let fresh = generate_key(algorithm).unwrap();
        let posing = set_with([jwk_with(&fresh, json!({"kid": kid}))]);
        assert_eq!(verify(&posing, &token), Err(JwtError::Signature), "{algorithm}");
    }
}

#[test]
fn private_keys_survive_their_text_and_show_themselves_to_nobody() {
    for signing in KEYS.iter() {
        let again = SigningKey::parse(signing.to_private_json().expose()).unwrap();
        let token = again.sign(&Map::new(), &claims()).unwrap();
        verify(&set_of(signing), &token).unwrap();
        let private: Value = serde_json::from_str(signing.to_private_json().expose()).unwrap();
        let secret = private["d"].as_str().unwrap();
        assert!(!signing.to_public_jwks().unwrap().contains(secret));
        assert!(!format!("{signing:?}").contains(secret));
    }
}

#[test]
fn signing_with_what_the_key_cannot_do_is_an_error() {
    let header = json!({"alg": "RS256"}).as_object().unwrap().clone();
    let error = es256().sign(&header, &claims()).unwrap_err();
    assert_eq!(error, SignError::Algorithm("RS256".to_owned()));
    assert_eq!(error.to_string(), "`RS256` is not an algorithm for this key");
    for text in [
        "",
        "[]",
        "{}",
        r#"{"kty":"oct","k":"AAAA"}"#,
        r#"{"kty":"EC","crv":"P-256","x":"AA","y":"AA","d":"AA"}"#,
    ] {
        assert!(
            matches!(sign(text, &Map::new(), &claims()), Err(SignError::Jwk(_))),
            "{text}"
        );
    }
    let mut other: Value = serde_json::from_str(es256().to_private_json().expose()).unwrap();
    let fresh = generate_key(Algorithm::Es256).unwrap();
    let fresh: Value = serde_json::from_str(fresh.to_private_json().expose()).unwrap();
    other["d"] = fresh["d"].clone();
    assert_eq!(
        SigningKey::parse(&other.to_string()).unwrap_err(),
        SignError::Jwk("its numbers are not a key".to_owned())
    );
}

// The RFCs' own examples.

const RFC7515_PAYLOAD: &str =
    "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ";
const RFC7515_RSA: &str = r#"{"keys":[{"kty":"RSA","e":"AQAB","n":"ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ"}]}"#;
const RFC7515_RS256: &str = "cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const RFC7515_EC: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","x":"f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU","y":"x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
const RFC7515_ES256: &str =
    "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
const RFC7515_P521: &str = r#"{"keys":[{"kty":"EC","crv":"P-521","x":"AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk","y":"ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2"}]}"#;
const RFC7515_ES512: &str = "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn";
const RFC7520_RSA: &str = r#"{"keys":[{"kty":"RSA","kid":"bilbo.baggins@hobbiton.example","use":"sig","e":"AQAB","n":"n4EPtAOCc9AlkeQHPzHStgAbgs7bTZLwUBZdR8_KuKPEHLd4rHVTeT-O-XV2jRojdNhxJWTDvNd7nqQ0VEiZQHz_AJmSCpMaJMRBSFKrKb2wqVwGU_NsYOYL-QtiWN2lbzcEe6XC0dApr5ydQLrHqkHHig3RBordaZ6Aj-oBHqFEHYpPe7Tpe-OfVfHd1E6cS6M1FZcD1NNLYD5lFHpPI9bTwJlsde3uhGqC0ZCuEHg8lhzwOHrtIQbS0FVbb9k3-tVTU4fg_3L_vniUFAKwuCLqKnS2BYwdq_mzSnbLY7h_qixoR7jig3__kRhuaxwUkRz5iaiQkqgc5gHdrNP5zw"}]}"#;
const RFC7520_PS384: &str = "eyJhbGciOiJQUzM4NCIsImtpZCI6ImJpbGJvLmJhZ2dpbnNAaG9iYml0b24uZXhhbXBsZSJ9.SXTigJlzIGEgZGFuZ2Vyb3VzIGJ1c2luZXNzLCBGcm9kbywgZ29pbmcgb3V0IHlvdXIgZG9vci4gWW91IHN0ZXAgb250byB0aGUgcm9hZCwgYW5kIGlmIHlvdSBkb24ndCBrZWVwIHlvdXIgZmVldCwgdGhlcmXigJlzIG5vIGtub3dpbmcgd2hlcmUgeW91IG1pZ2h0IGJlIHN3ZXB0IG9mZiB0by4.cu22eBqkYDKgIlTpzDXGvaFfz6WGoz7fUDcfT0kkOy42miAh2qyBzk1xEsnk2IpN6-tPid6VrklHkqsGqDqHCdP6O8TTB5dDDItllVo6_1OLPpcbUrhiUSMxbbXUvdvWXzg-UD8biiReQFlfz28zGWVsdiNAUf8ZnyPEgVFn442ZdNqiVJRmBqrYRXe8P_ijQ7p8Vdz0TTrxUeT3lm8d9shnr2lfJT8ImUjvAA2Xez2Mlp8cBE5awDzT0qI0n6uiP1aCN_2_jLAeQTlqRHtfa64QQSUmFAAjVKPbByi7xho0uTOcbH510a6GYmJUAfmWjwZ6oD4ifKo8DYM-X72Eaw";
const RFC8037_KEY: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
const RFC8037_EDDSA: &str = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";

/// RFC 7515 §A.2 and §A.3, whose payload is a JWT (also RFC 7519 §3.1's claims).
#[test]
fn the_tokens_of_rfc_7515_verify() {
    for (jwks, token) in [
        (
            RFC7515_RSA,
            format!("eyJhbGciOiJSUzI1NiJ9.{RFC7515_PAYLOAD}.{RFC7515_RS256}"),
        ),
        (
            RFC7515_EC,
            format!("eyJhbGciOiJFUzI1NiJ9.{RFC7515_PAYLOAD}.{RFC7515_ES256}"),
        ),
    ] {
        let set = KeySet::parse(jwks).unwrap();
        let then = 1_300_819_380;
        let claims = set.verify(&token, then, Some("joe"), NO_AUDIENCE).unwrap();
        assert_eq!(claims.all["http://example.com/is_root"], true);
        assert_eq!(claims.expires_at, Some(then));
        assert_eq!(
            set.verify(&token, then + 61, Some("joe"), NO_AUDIENCE),
            Err(JwtError::Expired)
        );
    }
}

/// RFC 7515 §A.4, RFC 7520 §4.2, RFC 8037 §A.4: signatures over what are no claims.
#[test]
fn the_signatures_of_the_rfcs_verify_and_their_payloads_are_no_claims() {
    for (jwks, text) in [
        (RFC7515_P521, RFC7515_ES512),
        (RFC7520_RSA, RFC7520_PS384),
        (RFC8037_KEY, RFC8037_EDDSA),
    ] {
        let set = KeySet::parse(jwks).unwrap();
        set.verify_signature(&Token::parse(text).unwrap()).unwrap();
        assert_eq!(
            set.verify(text, NOW, None, NO_AUDIENCE),
            Err(JwtError::Json(Part::Payload))
        );
    }
}

/// RFC 7515 §A.1 is HS256, and §A.5 is `none`: neither is ever taken.
#[test]
fn the_symmetric_and_the_unsecured_token_of_rfc_7515_are_refused() {
    let hs256 = format!(
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{RFC7515_PAYLOAD}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    );
    let jwks = r#"{"keys":[{"kty":"oct","k":"AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"}]}"#;
    assert_eq!(
        KeySet::parse(jwks).unwrap_err().to_string(),
        "the key set has no key that can be used: symmetric keys are not used"
    );
    let set = KeySet::parse(RFC7515_RSA).unwrap();
    assert_eq!(set.verify(&hs256, 0, None, NO_AUDIENCE), Err(JwtError::Algorithm));
    let none = format!("eyJhbGciOiJub25lIn0.{RFC7515_PAYLOAD}.");
    assert_eq!(set.verify(&none, 0, None, NO_AUDIENCE), Err(JwtError::Algorithm));
}

/// RFC 8037 §A.1 to §A.3: the same key makes the same signature, and has this thumbprint.
#[test]
fn ed25519_signs_as_rfc_8037() {
    let jwk = r#"{"kty":"OKP","crv":"Ed25519","d":"nWGxne_9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let token = SigningKey::parse(jwk)
        .unwrap()
        .sign_bytes(
            Algorithm::EdDsa,
            br#"{"alg":"EdDSA"}"#,
            b"Example of Ed25519 signing",
        )
        .unwrap();
    assert_eq!(token, RFC8037_EDDSA);
    let jwk: Value = serde_json::from_str(jwk).unwrap();
    assert_eq!(
        super::sign::thumbprint(jwk.as_object().unwrap(), KeyType::Ed25519),
        "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
    );
}

// Attacks on the choice of algorithm and key.

#[test]
fn none_in_every_spelling_is_refused() {
    let [header, payload] =
        [json!({"alg": "none"}), claims()].map(|part| base64url::encode(part.to_string()));
    assert_eq!(
        verify(&set_of(es256()), &format!("{header}.{payload}.")),
        Err(JwtError::Algorithm)
    );
    for name in [
        "none", "None", "NONE", "nOnE", "", "es256", "ES256 ", "HS256", "HS384", "HS512", "ES256K",
        "RSA-OAEP", "dir", "RS1",
    ] {
        assert_eq!(
            judged_header(&header_with(json!({"alg": name}))),
            Err(JwtError::Algorithm),
            "{name:?}"
        );
    }
    for alg in [json!(null), json!(["ES256"]), json!(256), json!({"ES256": 1})] {
        assert_eq!(
            judged_header(&json!({"alg": alg})),
            Err(JwtError::NoAlgorithm),
            "{alg}"
        );
    }
    assert_eq!(judged_header(&json!({})), Err(JwtError::NoAlgorithm));
}

/// A public RSA key is no secret: whoever takes it for an HMAC key takes every token.
#[test]
fn a_public_key_is_never_an_hmac_key() {
    let rsa = key(Algorithm::Rs256);
    let token = rsa
        .sign_bytes(
            Algorithm::Rs256,
            br#"{"alg":"HS256"}"#,
            claims().to_string().as_bytes(),
        )
        .unwrap();
    assert_eq!(verify(&set_of(rsa), &token), Err(JwtError::Algorithm));
    let posing = json!({"keys": [{"kty": "oct", "alg": "RS256", "k": "c2VjcmV0"}, jwk_with(rsa, json!({}))]});
    let set = KeySet::parse(&posing.to_string()).unwrap();
    assert_eq!((set.len(), set.skipped().len()), (1, 1));
    assert_eq!(set.skipped()[0].why, "symmetric keys are not used");
}

#[test]
fn a_key_with_alg_verifies_no_other_algorithm_of_its_kind() {
    let rsa = key(Algorithm::Rs256);
    let header = json!({"alg": "PS256"}).as_object().unwrap().clone();
    let token = rsa.sign(&header, &claims()).unwrap();
    assert_eq!(verify(&set_of(rsa), &token), Err(JwtError::KeyMismatch));
    let any = set_with([jwk_with(rsa, json!({"alg": null}))]);
    assert_eq!(verify(&any, &token).unwrap().algorithm, Algorithm::Ps256);
    // RSASSA-PKCS1-v1_5 and PSS are never taken for each other, nor hashes.
    let claimed = format!(
        "{}.{}",
        base64url::encode(r#"{"alg":"RS256"}"#),
        base64url::encode(claims().to_string())
    );
    let signature = token.rsplit('.').next().unwrap();
    assert_eq!(
        verify(&any, &format!("{claimed}.{signature}")),
        Err(JwtError::Signature)
    );
}

#[test]
fn a_key_for_encryption_or_signing_only_is_not_used() {
    for (changes, why) in [
        (json!({"use": "enc"}), "its `use` is `enc`, not `sig`"),
        (json!({"key_ops": ["sign"]}), "its `key_ops` do not have `verify`"),
        (json!({"key_ops": "verify"}), "its `key_ops` do not have `verify`"),
        (
            json!({"alg": "ECDH-ES"}),
            "its `alg` is `ECDH-ES`, which is not one for this key",
        ),
        (
            json!({"alg": "ES384"}),
            "its `alg` is `ES384`, which is not one for this key",
        ),
        (
            json!({"alg": "HS256"}),
            "its `alg` is `HS256`, which is not one for this key",
        ),
        (json!({"kty": "RSA", "alg": null}), "it has no `n`"),
        (
            json!({"crv": "secp256k1", "alg": null}),
            "keys of type `EC` on curve `secp256k1` are not known",
        ),
        (
            json!({"crv": "P-384", "alg": null}),
            "its `x` has 32 bytes, not 48",
        ),
        (
            json!({"kty": "future", "crv": null}),
            "keys of type `future` are not known",
        ),
        (json!({"kty": 1}), "its `kty` is not a text"),
        (json!({"kid": 1}), "its `kid` is not a text"),
        (json!({"x": null}), "it has no `x`"),
        (json!({"x": "!"}), "its `x` is not base64url"),
        (
            json!({"y": base64url::encode([1; 32])}),
            "its numbers are not a key",
        ),
    ] {
        let text = json!({"keys": [jwk_with(es256(), changes)]}).to_string();
        assert_eq!(
            KeySet::parse(&text).unwrap_err(),
            KeySetError::NoUsableKey(why.to_owned())
        );
    }
    set_with([jwk_with(es256(), json!({"key_ops": ["verify"]}))]);
}

#[test]
fn the_header_cannot_bring_its_own_key() {
    let attacker = generate_key(Algorithm::Es256).unwrap();
    for own in [
        json!({"jwk": jwk_with(&attacker, json!({}))}),
        json!({"jku": "https://attacker.example/jwks"}),
        json!({"x5u": "https://attacker.example/chain"}),
        json!({"x5c": ["MIIB"]}),
    ] {
        let mut header = own.as_object().unwrap().clone();
        header.insert("kid".to_owned(), es256().key_id().unwrap().into());
        let token = attacker.sign(&header, &claims()).unwrap();
        assert_eq!(
            verify(&set_of(es256()), &token),
            Err(JwtError::Signature),
            "{own}"
        );
        // The right key is found by `kid` alone, whatever else the header says.
        let token = es256().sign(&header, &claims()).unwrap();
        assert!(verify(&set_of(es256()), &token).is_ok());
    }
}

#[test]
fn critical_extensions_are_refused_however_they_are_written() {
    for header in [
        json!({"crit": ["exp"], "exp": 1}),
        json!({"crit": []}),
        json!({"crit": null}),
        json!({"crit": "b64"}),
    ] {
        assert_eq!(
            judged_header(&header_with(header)),
            Err(JwtError::Extension("crit"))
        );
    }
    for b64 in [json!(false), json!(true)] {
        assert_eq!(
            judged_header(&header_with(json!({"b64": b64}))),
            Err(JwtError::Extension("b64"))
        );
    }
}

#[test]
fn kid_is_only_ever_compared() {
    for kid in [
        "../../etc/passwd",
        "' OR 1=1 --",
        "https://attacker.example",
        "\0",
        "",
        "KID",
    ] {
        let answer = judged_header(&header_with(json!({"kid": kid})));
        assert_eq!(answer, Err(JwtError::UnknownKey(kid.into())), "{kid:?}");
    }
    for kid in [json!(1), json!(null), json!(["a"]), json!("k".repeat(513))] {
        assert_eq!(
            judged_header(&header_with(json!({"kid": kid}))),
            Err(JwtError::KeyId)
        );
    }
    assert_eq!(
        judged_header(&header_with(json!({"kid": "k".repeat(512)}))),
        Err(JwtError::UnknownKey("k".repeat(512).into()))
    );
}

#[test]
fn an_unknown_key_is_told_apart_only_from_a_token_that_is_right_otherwise() {
    let stranger = generate_key(Algorithm::Es256).unwrap();
    let set = set_of(es256());
    let token = |claims: Value| stranger.sign(&Map::new(), &claims).unwrap();
    assert_eq!(
        verify(&set, &token(claims())),
        Err(JwtError::UnknownKey(stranger.key_id().unwrap().into()))
    );
    assert_eq!(
        verify(&set, &token(claims_with(json!({"iss": "x"})))),
        Err(JwtError::Issuer)
    );
    assert_eq!(
        verify(&set, &token(claims_with(json!({"exp": 1})))),
        Err(JwtError::Expired)
    );
    let empty = KeySet::parse(r#"{"keys":[]}"#).unwrap();
    assert!(empty.is_empty());
    assert_eq!(verify(&empty, &token(claims())), Err(JwtError::NoKeys));
}

#[test]
fn without_kid_every_fitting_key_is_tried_up_to_a_bound() {
    let nameless = |key: &SigningKey| jwk_with(key, json!({"kid": null}));
    let token = es256()
        .sign_bytes(
            Algorithm::Es256,
            br#"{"alg":"ES256"}"#,
            claims().to_string().as_bytes(),
        )
        .unwrap();
    let others: Vec<_> = (0..16)
        .map(|_| nameless(&generate_key(Algorithm::Es256).unwrap()))
        .collect();
    let first: Vec<_> = others
        .iter()
        .take(15)
        .cloned()
        .chain([nameless(es256())])
        .collect();
    assert!(verify(&set_with(first), &token).is_ok());
    let late: Vec<_> = others.iter().cloned().chain([nameless(es256())]).collect();
    assert_eq!(verify(&set_with(late), &token), Err(JwtError::Signature));
    // Keys of other kinds do not count.
    let mixed: Vec<_> = std::iter::repeat_n(nameless(key(Algorithm::EdDsa)), 40)
        .chain([nameless(es256())])
        .collect();
    assert!(verify(&set_with(mixed), &token).is_ok());
    // A key without `kid` is tried for a token with one; that it does not fit leaves the `kid` unknown.
    let named = es256().sign(&Map::new(), &claims()).unwrap();
    assert!(verify(&set_with([nameless(es256())]), &named).is_ok());
    assert_eq!(
        verify(&set_with([others[0].clone()]), &named),
        Err(JwtError::UnknownKey(es256().key_id().unwrap().into()))
    );
}

#[test]
fn small_and_broken_rsa_keys_are_not_used() {
    let rsa = key(Algorithm::Rs256);
    let n = jwk_with(rsa, json!({}))["n"].as_str().unwrap().to_owned();
    let bytes = base64url::decode(&n).unwrap();
    let with_n = |bytes: &[u8]| jwk_with(rsa, json!({"n": base64url::encode(bytes)}));
    let refusal = |jwk: Value| {
        KeySet::parse(&json!({"keys": [jwk]}).to_string())
            .unwrap_err()
            .to_string()
    };
    let bits = |bits: usize| {
        format!(
            "the key set has no key that can be used: its RSA modulus has {bits} bits, and 2048 to 8192 are taken"
        )
    };
    assert_eq!(refusal(with_n(&bytes[..128])), bits(1024));
    let mut short = bytes.clone();
    short[0] = 0x7f;
    assert_eq!(refusal(with_n(&short)), bits(2047));
    assert_eq!(refusal(with_n(&[0xff; 1025])), bits(8200));
    assert_eq!(refusal(with_n(&[])), bits(0));
    for e in ["AQ", "Ag", "AAAB", "AQAAAAE", "AAAA", ""] {
        let refusal = refusal(jwk_with(rsa, json!({"e": e})));
        assert!(
            refusal.ends_with("its RSA exponent is not an odd number from 3 to 2^32"),
            "{e}: {refusal}"
        );
    }
    // Some write a zero in front (RFC 7518 §6.3.1.1): the key is the same.
    let padded = set_with([with_n(&[&[0], bytes.as_slice()].concat())]);
    assert!(verify(&padded, &rsa.sign(&Map::new(), &claims()).unwrap()).is_ok());
}

// Attacks on form and size.

#[test]
fn only_three_parts_of_strict_base64url_are_a_token() {
    let set = set_of(es256());
    let good = es256().sign(&Map::new(), &claims()).unwrap();
    let parts: Vec<&str> = good.split('.').collect();
    for text in [
        String::new(),
        "..".to_owned(),
        "a.b".to_owned(),
        parts[..2].join("."),
        format!("{good}."),
        format!(".{good}"),
        format!("{good}.{}", parts[2]),
        format!("{good}.a.b"),
    ] {
        let refused = verify(&set, &text).unwrap_err();
        assert!(
            matches!(refused, JwtError::Form | JwtError::Json(Part::Header)),
            "{text:?}: {refused}"
        );
    }
    for text in [
        format!(" {good}"),
        format!("{good}\n"),
        format!("{good}="),
        format!("{good} "),
        format!("Bearer {good}"),
        format!("{good},{good}"),
    ] {
        let refused = verify(&set, &text).unwrap_err();
        assert!(
            matches!(refused, JwtError::Base64(_) | JwtError::Form),
            "{text:?}: {refused}"
        );
    }
    let std = format!(
        "{}.{}.{}",
        parts[0],
        parts[1],
        parts[2].replace('-', "+").replace('_', "/")
    );
    assert!(std == good || verify(&set, &std) == Err(JwtError::Base64(Part::Signature)));
    assert_eq!(
        verify(&set, &format!("{}.{}.", parts[0], parts[1])),
        Err(JwtError::Signature)
    );
    assert_eq!(
        verify(&set, &format!("{}.{}.AAAA", parts[0], parts[1])),
        Err(JwtError::Signature)
    );
    // A signature in ASN.1, or with anything behind it, is not one of RFC 7518 §3.4.
    let longer = [base64url::decode(parts[2]).unwrap(), vec![0]].concat();
    assert_eq!(
        verify(
            &set,
            &format!("{}.{}.{}", parts[0], parts[1], base64url::encode(longer))
        ),
        Err(JwtError::Signature)
    );
    assert_eq!(
        verify(
            &set,
            &format!("{}.{}.{}", parts[0], parts[1], base64url::encode([0; 64]))
        ),
        Err(JwtError::Signature)
    );
}

#[test]
fn a_token_larger_than_the_bound_is_refused_before_it_is_read() {
    let good = es256().sign(&Map::new(), &claims()).unwrap();
    // Padding grows the payload by four characters for three.
    let room = (LARGEST_TOKEN - good.len()) * 3 / 4 - 32;
    assert!(judged(&claims_with(json!({"pad": "p".repeat(room)}))).is_ok());
    let large = es256()
        .sign(&Map::new(), &claims_with(json!({"pad": "p".repeat(room + 64)})))
        .unwrap();
    assert_eq!(
        verify(&set_of(es256()), &large),
        Err(JwtError::TooLarge(large.len()))
    );
    assert_eq!(
        verify(&set_of(es256()), &".".repeat(LARGEST_TOKEN + 1)),
        Err(JwtError::TooLarge(LARGEST_TOKEN + 1))
    );
}

#[test]
fn nested_duplicate_and_other_payloads_are_refused_even_when_signed() {
    let judged = |payload: &str| {
        let token = es256()
            .sign_bytes(Algorithm::Es256, br#"{"alg":"ES256"}"#, payload.as_bytes())
            .unwrap();
        set_of(es256()).verify(&token, NOW, None, NO_AUDIENCE)
    };
    let deep = |depth: usize| format!("{{\"a\":{}{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    assert!(judged(&deep(32)).is_ok());
    assert_eq!(judged(&deep(33)), Err(JwtError::TooDeep(Part::Payload)));
    let duplicate = |name: &str| {
        Err(JwtError::Duplicate {
            part: Part::Payload,
            name: name.to_owned(),
        })
    };
    assert_eq!(judged(r#"{"sub":"a","sub":"b"}"#), duplicate("sub"));
    assert_eq!(judged(r#"{"sub":"a","s\u0075b":"b"}"#), duplicate("sub"));
    assert_eq!(judged(r#"{"x":{"role":1,"role":2}}"#), duplicate("role"));
    for payload in [
        "",
        "[]",
        "\"a\"",
        "1",
        "null",
        "true",
        "{} {}",
        "{}x",
        "{",
        "{\"a\":1}\0",
        "\u{feff}{}",
    ] {
        assert_eq!(judged(payload), Err(JwtError::Json(Part::Payload)), "{payload:?}");
    }
    let header = |header: &[u8]| {
        let token = es256()
            .sign_bytes(Algorithm::Es256, header, claims().to_string().as_bytes())
            .unwrap();
        verify(&set_of(es256()), &token)
    };
    assert_eq!(
        header(br#"{"alg":"none","alg":"ES256"}"#),
        Err(JwtError::Duplicate {
            part: Part::Header,
            name: "alg".to_owned()
        })
    );
    assert_eq!(header(br#"["ES256"]"#), Err(JwtError::Json(Part::Header)));
    assert_eq!(
        header(br#"{"alg":"ES256"}{"alg":"none"}"#),
        Err(JwtError::Json(Part::Header))
    );
    assert_eq!(
        header(format!("{{\"alg\":\"ES256\",{}", &deep(33)[1..]).as_bytes()),
        Err(JwtError::TooDeep(Part::Header))
    );
}

// Claims.

#[test]
fn times_have_a_skew_of_a_minute_and_not_a_second_more() {
    for (changes, expected) in [
        (json!({"exp": NOW - 60}), Ok(())),
        (json!({"exp": NOW - 61}), Err(JwtError::Expired)),
        (json!({"exp": 0}), Err(JwtError::Expired)),
        (json!({"exp": null}), Ok(())),
        (json!({"exp": 1_799_999_939.999_f64}), Err(JwtError::Expired)),
        (json!({"exp": 1_799_999_940.5_f64}), Ok(())),
        (json!({"nbf": NOW + 60}), Ok(())),
        (json!({"nbf": NOW + 61}), Err(JwtError::NotYetValid)),
        (json!({"nbf": 1_800_000_060.5_f64}), Err(JwtError::NotYetValid)),
        (json!({"nbf": null}), Ok(())),
        (json!({"iat": NOW + 60}), Ok(())),
        (json!({"iat": NOW + 61}), Err(JwtError::IssuedLater)),
        (json!({"iat": null}), Ok(())),
    ] {
        assert_eq!(
            judged(&claims_with(changes.clone())).map(|_| ()),
            expected,
            "{changes}"
        );
    }
    for claim in ["exp", "nbf", "iat"] {
        for wrong in [
            json!("1"),
            json!(-1),
            json!(1e300),
            json!(true),
            json!([1]),
            json!({}),
            json!(i64::MAX),
            json!(u64::MAX),
            json!(-1e300),
        ] {
            let refused = judged(&claims_with(json!({claim: wrong.clone()}))).unwrap_err();
            assert_eq!(
                refused,
                JwtError::ClaimType {
                    claim,
                    expected: "a time in seconds"
                },
                "{claim} {wrong}"
            );
        }
    }
    let null = es256()
        .sign_bytes(Algorithm::Es256, br#"{"alg":"ES256"}"#, br#"{"exp":null}"#)
        .unwrap();
    assert!(matches!(
        set_of(es256()).verify(&null, NOW, None, NO_AUDIENCE),
        Err(JwtError::ClaimType { claim: "exp", .. })
    ));
    // The ends of time do not overflow.
    let token = es256().sign(&Map::new(), &claims()).unwrap();
    assert_eq!(
        set_of(es256()).verify(&token, i64::MAX, None, NO_AUDIENCE),
        Err(JwtError::Expired)
    );
    assert_eq!(
        set_of(es256()).verify(&token, i64::MIN, None, NO_AUDIENCE),
        Err(JwtError::NotYetValid)
    );
}

#[test]
fn the_issuer_is_exact() {
    for issuer in [
        "https://issuer.example/",
        "https://ISSUER.example",
        "http://issuer.example",
        "",
        "https://issuer.example\0",
        "https://issuer.example.evil",
    ] {
        assert_eq!(
            judged(&claims_with(json!({"iss": issuer}))),
            Err(JwtError::Issuer),
            "{issuer:?}"
        );
    }
    assert_eq!(judged(&claims_with(json!({"iss": null}))), Err(JwtError::Issuer));
    for issuer in [json!(1), json!([ISSUER]), json!({"a": ISSUER})] {
        let refused = judged(&claims_with(json!({"iss": issuer}))).unwrap_err();
        assert_eq!(refused.to_string(), "Jwt payload [iss] field is not a string");
    }
    let token = es256()
        .sign(&Map::new(), &claims_with(json!({"iss": "other"})))
        .unwrap();
    let read = set_of(es256()).verify(&token, NOW, None, NO_AUDIENCE).unwrap();
    assert_eq!(read.issuer.as_deref(), Some("other"));
    assert_eq!(unverified_issuer(&token), Ok(Some("other".to_owned())));
    assert_eq!(unverified_issuer("a.b.c"), Err(JwtError::Base64(Part::Header)));
}

#[test]
fn one_audience_of_either_side_is_enough_and_is_exact() {
    let judged = |aud: Value, wanted: &[&str]| {
        let token = es256()
            .sign(&Map::new(), &claims_with(json!({"aud": aud})))
            .unwrap();
        set_of(es256())
            .verify(&token, NOW, Some(ISSUER), wanted)
            .map(|claims| claims.audiences)
    };
    assert_eq!(judged(json!("one"), &["one"]), Ok(vec!["one".to_owned()]));
    assert!(judged(json!(["zero", "two"]), &["one", "two"]).is_ok());
    assert_eq!(judged(json!(null), &[]), Ok(Vec::new()));
    for (aud, wanted) in [
        (json!("one"), "On"),
        (json!("https://one/"), "one"),
        (json!("one two"), "one"),
        (json!([]), "one"),
        (json!(null), "one"),
        (json!(""), "one"),
        (json!("one\0"), "one"),
    ] {
        assert_eq!(
            judged(aud.clone(), &[wanted]),
            Err(JwtError::Audience),
            "{aud} {wanted}"
        );
    }
    for aud in [
        json!(1),
        json!({"a": "one"}),
        json!(["one", 1]),
        json!([["one"]]),
        json!(true),
    ] {
        let refused = judged(aud, &["one"]).unwrap_err();
        assert_eq!(
            refused.to_string(),
            "Jwt payload [aud] field is not a string or string list"
        );
    }
    for sub in [json!(1), json!(["a"])] {
        let refused = super::tests::judged(&claims_with(json!({"sub": sub}))).unwrap_err();
        assert_eq!(refused.to_string(), "Jwt payload [sub] field is not a string");
    }
}

#[test]
fn refusals_read_as_envoys() {
    for (refused, text) in [
        (JwtError::Expired, "Jwt is expired"),
        (JwtError::NotYetValid, "Jwt not yet valid"),
        (JwtError::Signature, "Jwt verification fails"),
        (JwtError::Audience, "Audiences in Jwt are not allowed"),
        (JwtError::Issuer, "Jwt issuer is not configured"),
        (
            JwtError::UnknownKey("k".into()),
            "Jwks doesn't have key to match kid or alg from Jwt",
        ),
        (
            JwtError::Form,
            "Jwt is not in the form of Header.Payload.Signature with two dots and 3 sections",
        ),
        (
            JwtError::Base64(Part::Payload),
            "Jwt payload is an invalid Base64url encoded",
        ),
        (JwtError::Json(Part::Header), "Jwt header is an invalid JSON"),
    ] {
        assert_eq!(refused.to_string(), text);
    }
}

// Key sets.

#[test]
fn a_key_set_is_bounded_and_strict() {
    let refused = |text: &str| KeySet::parse(text).unwrap_err();
    for text in ["", "[]", "{}x", "null", "{\"keys\":[]"] {
        assert_eq!(refused(text), KeySetError::Json, "{text}");
    }
    for text in [
        "{}",
        r#"{"keys":{}}"#,
        r#"{"keys":null}"#,
        r#"{"Keys":[]}"#,
        r#"{"kty":"EC"}"#,
    ] {
        assert_eq!(refused(text), KeySetError::NoList, "{text}");
    }
    assert_eq!(
        refused(r#"{"keys":[],"keys":[]}"#),
        KeySetError::Duplicate("keys".to_owned())
    );
    assert_eq!(
        refused(r#"{"keys":[{"kid":"a","kid":"b"}]}"#),
        KeySetError::Duplicate("kid".to_owned())
    );
    assert_eq!(
        refused(&format!("{{\"keys\":{}{}}}", "[".repeat(40), "]".repeat(40))),
        KeySetError::TooDeep
    );
    let text = format!("{{\"keys\":[{}]}}", vec!["{}"; MOST_KEYS + 1].join(","));
    assert_eq!(refused(&text), KeySetError::TooMany(MOST_KEYS + 1));
    let large = format!("{{\"keys\":[],\"pad\":\"{}\"}}", "p".repeat(LARGEST_KEY_SET));
    assert_eq!(refused(&large), KeySetError::TooLarge(large.len()));
    assert_eq!(
        refused(r#"{"keys":[1,"a",null,[]]}"#),
        KeySetError::NoUsableKey("it is not an object".to_owned())
    );
    assert!(
        KeySet::parse(r#"{"keys":[],"more":{"a":[1]}}"#)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn what_is_not_known_is_skipped_and_reported_beside_what_is_used() {
    let jwks = json!({"keys": [
        {"kty": "OKP", "crv": "X25519", "x": "AA", "kid": "exchange"},
        jwk_with(es256(), json!({})),
        {"kty": "EC", "crv": "P-256", "kid": "half", "x": "AA"},
    ]});
    let set = KeySet::parse(&jwks.to_string()).unwrap();
    assert_eq!(set.key_ids().collect::<Vec<_>>(), [es256().key_id().unwrap()]);
    let skipped: Vec<_> = set
        .skipped()
        .iter()
        .map(|key| (key.index, key.id.as_deref(), key.why.as_str()))
        .collect();
    assert_eq!(
        skipped,
        [
            (
                0,
                Some("exchange"),
                "keys of type `OKP` on curve `X25519` are not known"
            ),
            (2, Some("half"), "its `x` has 1 bytes, not 32"),
        ]
    );
}

#[test]
fn private_parts_are_dropped() {
    let private: Vec<Value> = KEYS
        .iter()
        .map(|key| serde_json::from_str(key.to_private_json().expose()).unwrap())
        .chain([json!({"kty": "oct", "k": "c2VjcmV0"})])
        .collect();
    let text = json!({"keys": private, "secret": "s"}).to_string();
    assert!(KeySet::parse(&text).unwrap().has_secrets());
    let public = public_only(&text).unwrap();
    let read: Value = serde_json::from_str(&public).unwrap();
    for jwk in read["keys"].as_array().unwrap() {
        for name in jwk.as_object().unwrap().keys() {
            assert!(
                ["kty", "kid", "alg", "use", "crv", "x", "y", "n", "e"].contains(&name.as_str()),
                "{name}"
            );
        }
    }
    assert_eq!(read["keys"].as_array().unwrap().len(), KEYS.len());
    assert_eq!(read.as_object().unwrap().len(), 1);
    let again = KeySet::parse(&public).unwrap();
    assert!(!again.has_secrets());
    assert_eq!(again.to_public_json(), public);
    for key in KEYS.iter() {
        assert!(verify(&again, &key.sign(&Map::new(), &claims()).unwrap()).is_ok());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// One bit of a token changed: it is refused, or the text is the same.
    #[test]
    fn a_changed_bit_never_verifies(index in 0usize..Algorithm::ALL.len(), place in any::<prop::sample::Index>(), bit in 0u8..7) {
        let key = &KEYS[index];
        let token = key.sign(&Map::new(), &claims()).unwrap();
        let mut bytes = token.clone().into_bytes();
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        let changed = String::from_utf8(bytes).unwrap();
        prop_assert!(verify(&set_of(key), &changed).is_err(), "{}", changed);
    }

    /// A part of one token with the parts of another does not verify.
    #[test]
    fn parts_of_two_tokens_do_not_make_a_third(subject in "[a-z]{1,8}", choice in 1u8..7) {
        let key = es256();
        let one = key.sign(&Map::new(), &claims()).unwrap();
        let header = json!({"typ": "at+jwt"}).as_object().unwrap().clone();
        let two = key.sign(&header, &claims_with(json!({"sub": subject, "x": 1}))).unwrap();
        let mixed: Vec<&str> = one.split('.').zip(two.split('.')).enumerate()
            .map(|(index, (a, b))| if choice & (1 << index) == 0 { a } else { b })
            .collect();
        prop_assert!(verify(&set_of(key), &mixed.join(".")).is_err());
    }

    #[test]
    fn any_text_is_judged_without_a_panic(token in "\\PC{0,200}|[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}\\.[A-Za-z0-9_-]{0,80}", jwks in "\\PC{0,200}") {
        prop_assert!(verify(&set_of(es256()), &token).is_err());
        prop_assert!(KeySet::parse(&jwks).is_err());
    }

    #[test]
    fn what_is_public_stays_as_it_is(kid in "\\PC{0,12}", index in 0usize..Algorithm::ALL.len()) {
        let text = json!({"keys": [jwk_with(&KEYS[index], json!({"kid": kid}))]}).to_string();
        let public = public_only(&text).unwrap();
        prop_assert_eq!(public_only(&public).unwrap(), public);
    }
}
