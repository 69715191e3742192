//! tokens DIR: keys of an issuer (RS256, ES256), its key set (jwks.json), and tokens by it: one of each (rs256.txt,
//! es256.txt) and many that differ (rs256-many.txt, es256-many.txt), for caches that must not help. Keeps what is there
//! for twenty days.
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::encoding::{AsBigEndian, EcPublicKeyUncompressedBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

const MANY: usize = 20_000;

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

fn main() {
    let dir = std::path::PathBuf::from(std::env::args().nth(1).expect("a folder"));
    let last = dir.join("es256-many.txt");
    let age = last.metadata().and_then(|file| file.modified()).ok().and_then(|at| at.elapsed().ok());
    if age.is_some_and(|age| age < Duration::from_secs(20 * 86_400)) {
        return;
    }
    let rsa = RsaKeyPair::generate(KeySize::Rsa2048).expect("key");
    let ec = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("key");
    let public: EcPublicKeyUncompressedBin = ec.public_key().as_be_bytes().expect("point");
    let (x, y) = public.as_ref()[1..].split_at(32);
    let n = rsa.public_key().modulus().big_endian_without_leading_zero().to_vec();
    let jwks = format!(
        r#"{{"keys":[{{"kty":"RSA","alg":"RS256","use":"sig","kid":"rs256","n":"{}","e":"AQAB"}},{{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","kid":"es256","x":"{}","y":"{}"}}]}}"#,
        b64(n), b64(x), b64(y)
    );
    std::fs::write(dir.join("jwks.json"), jwks).expect("write");
    let random = SystemRandom::new();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_secs();
    let signing = |alg: &str, input: &[u8]| {
        if alg == "RS256" {
            let mut signature = vec![0; rsa.public_modulus_len()];
            rsa.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).expect("sign");
            signature
        } else {
            ec.sign(&random, input).expect("sign").as_ref().to_vec()
        }
    };
    let token = |alg: &str, at: usize| {
        let head = b64(format!(r#"{{"alg":"{alg}","kid":"{}","typ":"JWT"}}"#, alg.to_lowercase()));
        let expires = now + 30 * 86_400;
        let body = b64(format!(
            r#"{{"iss":"bench","sub":"user-{at:05}","aud":"svc","iat":{now},"exp":{expires},"groups":["a","b"],"scope":"read write"}}"#
        ));
        let signature = signing(alg, format!("{head}.{body}").as_bytes());
        format!("{head}.{body}.{}", b64(signature))
    };
    for alg in ["RS256", "ES256"] {
        let name = alg.to_lowercase();
        std::fs::write(dir.join(format!("{name}.txt")), token(alg, 0)).expect("write");
        let many: Vec<String> = (0..MANY).map(|at| token(alg, at)).collect();
        std::fs::write(dir.join(format!("{name}-many.txt")), many.join("\n")).expect("write");
    }
}
