//! Makes keys and tokens: for `bartizan token`, for tests, and for nothing on the way of a request.

use std::fmt;

use aws_lc_rs::encoding::{AsBigEndian as _, Curve25519SeedBin, EcPrivateKeyBin};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::{KeyPair as RsaKeyPair, KeySize};
use aws_lc_rs::signature::{EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaPublicKeyComponents};
use bartizan_types::Secret;
use serde_json::{Map, Value, json};

use super::algorithm::{Algorithm, KeyType};
use super::{base64url, json, keys};

/// The size of RSA keys that are made here.
const RSA_SIZE: KeySize = KeySize::Rsa2048;

/// Why a key or token cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SignError {
    /// The key is not a JSON object.
    #[error("the key is not a JWK: {0}")]
    Jwk(String),
    /// Neither the key nor the header says how to sign, or they say what the key cannot do.
    #[error("`{0}` is not an algorithm for this key")]
    Algorithm(String),
    /// The library refused.
    #[error("the key cannot be made or does not sign")]
    Library,
}

/// A private key with the algorithm that it signs with.
pub struct SigningKey {
    algorithm: Algorithm,
    key_id: Option<String>,
    pair: Pair,
    jwk: Secret<String>,
}

enum Pair {
    Rsa(Box<RsaKeyPair>),
    Ecdsa(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .field("key_id", &self.key_id)
            .finish_non_exhaustive()
    }
}

/// A fresh key for `algorithm`, RSA with 2048 bits; its `kid` is its thumbprint (RFC 7638).
///
/// # Errors
/// [`SignError::Library`] when the library makes none.
pub fn generate_key(algorithm: Algorithm) -> Result<SigningKey, SignError> {
    let members = match algorithm.key_type() {
        KeyType::Rsa => rsa_members(&RsaKeyPair::generate(RSA_SIZE).map_err(|_| SignError::Library)?),
        KeyType::P256 | KeyType::P384 | KeyType::P521 => ecdsa_members(algorithm.key_type()),
        KeyType::Ed25519 => ed25519_members(),
    };
    let mut jwk = members.ok_or(SignError::Library)?;
    jwk.insert("kid".to_owned(), thumbprint(&jwk, algorithm.key_type()).into());
    jwk.insert("alg".to_owned(), algorithm.as_str().into());
    jwk.insert("use".to_owned(), "sig".into());
    SigningKey::parse(&Value::Object(jwk).to_string())
}

/// Signs `claims` with a private JWK. `header` adds to or replaces what stands there by itself: `alg` and `kid` of the key,
/// and `typ` `JWT`.
///
/// # Errors
/// [`SignError`] when the key is none or does not go with the header's `alg`.
pub fn sign(jwk_private: &str, header: &Map<String, Value>, claims: &Value) -> Result<String, SignError> {
    SigningKey::parse(jwk_private)?.sign(header, claims)
}

impl SigningKey {
    /// Reads a private JWK (RFC 7518 §6, RFC 8037 §2). RSA needs all of `p`, `q`, `dp`, `dq`, `qi`; without `alg` RSA signs
    /// with RS256.
    ///
    /// # Errors
    /// [`SignError::Jwk`] says what is wrong with it.
    pub fn parse(jwk_private: &str) -> Result<Self, SignError> {
        let jwk = json::object(jwk_private.as_bytes())
            .map_err(|_| SignError::Jwk("it is not a JSON object".to_owned()))?;
        let text = |name: &str| jwk.get(name).and_then(Value::as_str);
        let key_type = text("kty")
            .and_then(|kty| KeyType::parse(kty, text("crv")))
            .ok_or_else(|| SignError::Jwk("its `kty` or `crv` is not known".to_owned()))?;
        let algorithm = match text("alg") {
            None => key_type.algorithms().next().ok_or(SignError::Library)?,
            Some(name) => fitting(name, key_type)?,
        };
        let wrong = |why: String| SignError::Jwk(why);
        let rejected = || SignError::Jwk("its numbers are not a key".to_owned());
        let pair = match key_type {
            KeyType::Rsa => {
                let number = |name: &str| keys::number(&jwk, name).map_err(wrong);
                let components = aws_lc_rs::rsa::KeyPairComponents {
                    public_key: RsaPublicKeyComponents {
                        n: number("n")?,
                        e: number("e")?,
                    },
                    d: number("d")?,
                    p: number("p")?,
                    q: number("q")?,
                    dP: number("dp")?,
                    dQ: number("dq")?,
                    qInv: number("qi")?,
                };
                Pair::Rsa(Box::new(
                    RsaKeyPair::from_components(&components).map_err(|_| rejected())?,
                ))
            }
            KeyType::P256 | KeyType::P384 | KeyType::P521 => {
                let (_, signing, length) = key_type.ecdsa().ok_or(SignError::Library)?;
                let fixed = |name: &str| keys::fixed(&jwk, name, length).map_err(wrong);
                let point = [vec![4], fixed("x")?, fixed("y")?].concat();
                let private = fixed("d")?;
                Pair::Ecdsa(
                    EcdsaKeyPair::from_private_key_and_public_key(signing, &private, &point)
                        .map_err(|_| rejected())?,
                )
            }
            KeyType::Ed25519 => {
                let fixed = |name: &str| keys::fixed(&jwk, name, 32).map_err(wrong);
                Pair::Ed25519(
                    Ed25519KeyPair::from_seed_and_public_key(&fixed("d")?, &fixed("x")?)
                        .map_err(|_| rejected())?,
                )
            }
        };
        Ok(Self {
            algorithm,
            key_id: text("kid").map(str::to_owned),
            pair,
            jwk: Secret::new(jwk_private.to_owned()),
        })
    }

    /// With which algorithm it signs when a header says nothing else.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// Its `kid`.
    pub fn key_id(&self) -> Option<&str> {
        self.key_id.as_deref()
    }

    /// The private JWK, for a file that only its owner can read.
    pub fn to_private_json(&self) -> &Secret<String> {
        &self.jwk
    }

    /// The JWKS with the public half of this key.
    ///
    /// # Errors
    /// [`SignError::Jwk`] when the key is not one that a key set may have.
    pub fn to_public_jwks(&self) -> Result<String, SignError> {
        keys::public_only(&format!("{{\"keys\":[{}]}}", self.jwk.expose()))
            .map_err(|error| SignError::Jwk(error.to_string()))
    }

    /// As [`sign`].
    ///
    /// # Errors
    /// [`SignError::Algorithm`] when the header's `alg` is not one for this key.
    pub fn sign(&self, header: &Map<String, Value>, claims: &Value) -> Result<String, SignError> {
        let mut whole = Map::new();
        whole.insert("alg".to_owned(), self.algorithm.as_str().into());
        whole.insert("typ".to_owned(), "JWT".into());
        if let Some(kid) = &self.key_id {
            whole.insert("kid".to_owned(), kid.as_str().into());
        }
        whole.extend(header.clone());
        let algorithm = match whole.get("alg").and_then(Value::as_str) {
            Some(name) => fitting(name, self.algorithm.key_type())?,
            None => return Err(SignError::Algorithm(String::new())),
        };
        let header = Value::Object(whole).to_string();
        self.sign_bytes(algorithm, header.as_bytes(), claims.to_string().as_bytes())
    }

    /// Signs exactly these bytes as header and payload, whatever they say: the tokens that a verifier must refuse are made
    /// like this.
    ///
    /// # Errors
    /// [`SignError::Algorithm`] when the key cannot sign with it.
    pub fn sign_bytes(
        &self,
        algorithm: Algorithm,
        header: &[u8],
        payload: &[u8],
    ) -> Result<String, SignError> {
        let signed = format!("{}.{}", base64url::encode(header), base64url::encode(payload));
        let signature = self.signature(algorithm, signed.as_bytes())?;
        Ok(format!("{signed}.{}", base64url::encode(signature)))
    }

    fn signature(&self, algorithm: Algorithm, message: &[u8]) -> Result<Vec<u8>, SignError> {
        if algorithm.key_type() != self.algorithm.key_type() {
            return Err(SignError::Algorithm(algorithm.to_string()));
        }
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Rsa(pair) => {
                let encoding = algorithm.rsa_encoding().ok_or(SignError::Library)?;
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(encoding, &random, message, &mut signature)
                    .map_err(|_| SignError::Library)?;
                Ok(signature)
            }
            Pair::Ecdsa(pair) => pair
                .sign(&random, message)
                .map(|signature| signature.as_ref().to_vec())
                .map_err(|_| SignError::Library),
            Pair::Ed25519(pair) => Ok(pair.sign(message).as_ref().to_vec()),
        }
    }
}

fn fitting(name: &str, key_type: KeyType) -> Result<Algorithm, SignError> {
    Algorithm::parse(name)
        .filter(|algorithm| algorithm.key_type() == key_type)
        .ok_or_else(|| SignError::Algorithm(name.to_owned()))
}

fn members<'a>(list: impl IntoIterator<Item = (&'a str, String)>) -> Map<String, Value> {
    list.into_iter()
        .map(|(name, value)| (name.to_owned(), Value::String(value)))
        .collect()
}

/// The thumbprint (RFC 7638): the hash of the members that make the key, in order of their names.
pub(super) fn thumbprint(jwk: &Map<String, Value>, key_type: KeyType) -> String {
    let names: &[&str] = match key_type {
        KeyType::Rsa => &["e", "kty", "n"],
        KeyType::P256 | KeyType::P384 | KeyType::P521 => &["crv", "kty", "x", "y"],
        KeyType::Ed25519 => &["crv", "kty", "x"],
    };
    let text: Vec<_> = names
        .iter()
        .filter_map(|name| Some(format!("{}:{}", json!(name), jwk.get(*name)?)))
        .collect();
    let text = format!("{{{}}}", text.join(","));
    base64url::encode(aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA256,
        text.as_bytes(),
    ))
}

fn ecdsa_members(key_type: KeyType) -> Option<Map<String, Value>> {
    let (_, signing, length) = key_type.ecdsa()?;
    let pair = EcdsaKeyPair::generate(signing).ok()?;
    let private: EcPrivateKeyBin<'_> = pair.private_key().as_be_bytes().ok()?;
    let (x, y) = pair.public_key().as_ref().get(1..)?.split_at_checked(length)?;
    Some(members([
        ("kty", "EC".to_owned()),
        ("crv", key_type.curve()?.to_owned()),
        ("x", base64url::encode(x)),
        ("y", base64url::encode(y)),
        ("d", base64url::encode(private.as_ref())),
    ]))
}

fn ed25519_members() -> Option<Map<String, Value>> {
    let pair = Ed25519KeyPair::generate().ok()?;
    let seed: Curve25519SeedBin<'_> = pair.seed().ok()?.as_be_bytes().ok()?;
    Some(members([
        ("kty", "OKP".to_owned()),
        ("crv", "Ed25519".to_owned()),
        ("x", base64url::encode(pair.public_key())),
        ("d", base64url::encode(seed.as_ref())),
    ]))
}

/// The library gives a fresh RSA key only as PKCS#8 (RFC 5958) around PKCS#1 (RFC 8017 §A.1.2).
fn rsa_members(pair: &RsaKeyPair) -> Option<Map<String, Value>> {
    let pkcs8: aws_lc_rs::encoding::Pkcs8V1Der<'_> = aws_lc_rs::encoding::AsDer::as_der(pair).ok()?;
    let (outer, _) = element(pkcs8.as_ref(), 0x30)?;
    let (_version, rest) = element(outer, 0x02)?;
    let (_algorithm, rest) = element(rest, 0x30)?;
    let (pkcs1, _) = element(rest, 0x04)?;
    let (numbers, _) = element(pkcs1, 0x30)?;
    let (_version, mut rest) = element(numbers, 0x02)?;
    let mut jwk = members([("kty", "RSA".to_owned())]);
    for name in ["n", "e", "d", "p", "q", "dp", "dq", "qi"] {
        let (number, behind) = element(rest, 0x02)?;
        let number = number.strip_prefix(&[0]).unwrap_or(number);
        jwk.insert(name.to_owned(), base64url::encode(number).into());
        rest = behind;
    }
    Some(jwk)
}

/// The content of a DER element with this tag, and what follows it.
fn element(der: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = der.split_first()?;
    let (first, rest) = rest.split_first()?;
    if *found != tag {
        return None;
    }
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (digits, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        let length = digits.iter().try_fold(0usize, |length, digit| {
            length.checked_mul(256)?.checked_add(usize::from(*digit))
        })?;
        (length, rest)
    };
    rest.split_at_checked(length)
}
