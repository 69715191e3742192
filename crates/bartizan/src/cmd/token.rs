//! `bartizan token`: makes keys and tokens to try policies with. In production both come from an identity provider.

use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use bartizan_identity::jwt::{Algorithm, SigningKey, generate_key};
use serde_json::{Map, Value, json};

use crate::args::{TokenArgs, TokenCommand, TokenSignArgs};
use crate::exit::{Exit, USAGE};

/// Makes a key, shows its public half, or signs a token.
///
/// # Errors
/// When the key cannot be read or made, or a claim is not one.
pub(crate) fn run(args: &TokenArgs) -> anyhow::Result<ExitCode> {
    match &args.command {
        TokenCommand::NewKey { file, algorithm } => {
            let algorithm = Algorithm::parse(algorithm).ok_or_else(|| {
                let known: Vec<_> = Algorithm::ALL.iter().map(ToString::to_string).collect();
                Exit::error(
                    USAGE,
                    format!("`{algorithm}` is not an algorithm: {}", known.join(", ")),
                )
            })?;
            let key = generate_key(algorithm)?;
            write_new(file, key.to_private_json().expose())
                .with_context(|| format!("write {}", file.display()))?;
        }
        TokenCommand::PublicKeys { key } => println!("{}", read(key)?.to_public_jwks()?),
        TokenCommand::Sign(args) => println!("{}", sign(args)?),
    }
    Ok(ExitCode::SUCCESS)
}

fn sign(args: &TokenSignArgs) -> anyhow::Result<String> {
    let key = read(&args.key)?;
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .context("the clock is before 1970")?;
    let claims = claims(args, now)?;
    Ok(key.sign(&Map::new(), &Value::Object(claims))?)
}

fn claims(args: &TokenSignArgs, now: Duration) -> anyhow::Result<Map<String, Value>> {
    let mut claims = Map::new();
    claims.insert("iss".to_owned(), args.issuer.clone().into());
    claims.insert("sub".to_owned(), args.subject.clone().into());
    match args.audiences.as_slice() {
        [] => {}
        [one] => {
            claims.insert("aud".to_owned(), one.clone().into());
        }
        several => {
            claims.insert("aud".to_owned(), several.into());
        }
    }
    claims.insert("iat".to_owned(), now.as_secs().into());
    claims.insert("exp".to_owned(), (now + args.lifetime).as_secs().into());
    for text in &args.claims {
        let (name, value) = claim(text)?;
        claims.insert(name.to_owned(), value);
    }
    Ok(claims)
}

/// `name=text`, or `name:=json`.
///
/// # Errors
/// When it is neither.
pub(crate) fn claim(text: &str) -> anyhow::Result<(&str, Value)> {
    parts(text).ok_or_else(|| {
        Exit::error(
            USAGE,
            format!("claim `{text}`: it has the form NAME=TEXT, or NAME:=JSON for anything but a text"),
        )
    })
}

fn parts(text: &str) -> Option<(&str, Value)> {
    let (name, value) = text.split_once('=')?;
    let (name, value) = match name.strip_suffix(':') {
        Some(name) => (name, serde_json::from_str(value).ok()?),
        None => (name, json!(value)),
    };
    (!name.is_empty()).then_some((name, value))
}

fn read(file: &Path) -> anyhow::Result<SigningKey> {
    let text = std::fs::read_to_string(file).with_context(|| format!("read {}", file.display()))?;
    SigningKey::parse(&text).with_context(|| format!("read {}", file.display()))
}

/// Only the owner may read it, and what is there is not lost.
fn write_new(file: &Path, text: &str) -> std::io::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(file)?;
    file.write_all(text.as_bytes())?;
    file.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_is_a_text_or_json() {
        assert_eq!(parts("a=b=c"), Some(("a", json!("b=c"))));
        assert_eq!(parts("a:=[1,true]"), Some(("a", json!([1, true]))));
        assert_eq!(parts("a:=nonsense"), None);
        assert_eq!(parts("=b"), None);
        assert_eq!(parts("a"), None);
    }
}
