//! One HTTP GET to an issuer: bounded in size and in where it may lead.

use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bartizan_identity::{web_client, web_server_name};
use bytes::Bytes;
use http::header::{ACCEPT, AGE, CACHE_CONTROL, ETAG, HOST, IF_NONE_MATCH, LOCATION, USER_AGENT};
use http::uri::Scheme;
use http::{HeaderMap, HeaderName, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::address::is_allowed;
use super::fetch::FetchError;

/// The most bytes of an answer; a larger key set is none (`jwt::LARGEST_KEY_SET`).
const LARGEST_BODY: usize = 1024 * 1024;
/// The most redirects that are followed, all of them on the same host.
const MOST_REDIRECTS: usize = 3;
/// The most addresses of a host that are tried.
const MOST_ADDRESSES: usize = 4;
/// The longest validator that is kept.
const LONGEST_ETAG: usize = 256;

/// What an issuer answers.
pub(super) enum Answer {
    Body {
        bytes: Bytes,
        etag: Option<String>,
        lifetime: Option<Duration>,
    },
    /// What has this validator is still the newest (RFC 9110 §15.4.5).
    Unchanged { lifetime: Option<Duration> },
}

/// A URI that may be fetched: `http` or `https`, with a host, without user and password.
pub(super) fn parse_uri(text: &str) -> Result<Uri, FetchError> {
    let wrong = || FetchError::Uri(shown(text));
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let is_web = uri.scheme() == Some(&Scheme::HTTPS) || uri.scheme() == Some(&Scheme::HTTP);
    let authority = uri.authority().ok_or_else(wrong)?;
    if !is_web || authority.as_str().contains('@') || authority.host().is_empty() {
        return Err(wrong());
    }
    Ok(uri)
}

/// Fetches `uri`. Has no deadline of its own; may be dropped at any time, which closes the connection.
pub(super) async fn get(
    uri: &Uri,
    etag: Option<&str>,
    roots: Option<Arc<Path>>,
) -> Result<Answer, FetchError> {
    let mut at = uri.clone();
    for _ in 0..=MOST_REDIRECTS {
        let (head, body) = send(&at, etag, roots.clone()).await?;
        if head.status == StatusCode::OK {
            return Ok(Answer::Body {
                bytes: body,
                etag: text(&head.headers, ETAG)
                    .filter(|etag| etag.len() <= LONGEST_ETAG)
                    .map(str::to_owned),
                lifetime: lifetime(&head.headers),
            });
        }
        if head.status == StatusCode::NOT_MODIFIED && etag.is_some() {
            return Ok(Answer::Unchanged {
                lifetime: lifetime(&head.headers),
            });
        }
        if !matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308) {
            return Err(FetchError::Status(head.status.as_u16()));
        }
        let target = text(&head.headers, LOCATION).unwrap_or_default();
        at = redirected(&at, target).ok_or_else(|| FetchError::Redirect(shown(target)))?;
    }
    Err(FetchError::Redirect(shown(&at.to_string())))
}

/// Where a redirect leads, when it stays with the same scheme, host and port.
fn redirected(from: &Uri, target: &str) -> Option<Uri> {
    if target.starts_with('/') && !target.starts_with("//") {
        let mut parts = from.clone().into_parts();
        parts.path_and_query = Some(target.parse().ok()?);
        return Uri::from_parts(parts).ok();
    }
    let to = parse_uri(target).ok()?;
    let same_host = from.host()?.eq_ignore_ascii_case(to.host()?);
    (from.scheme() == to.scheme() && same_host && port(from) == port(&to)).then_some(to)
}

fn port(uri: &Uri) -> u16 {
    let by_scheme = if is_https(uri) { 443 } else { 80 };
    uri.port_u16().unwrap_or(by_scheme)
}

fn is_https(uri: &Uri) -> bool {
    uri.scheme() == Some(&Scheme::HTTPS)
}

async fn send(
    uri: &Uri,
    etag: Option<&str>,
    roots: Option<Arc<Path>>,
) -> Result<(http::response::Parts, Bytes), FetchError> {
    // In a URI an IPv6 address has brackets; to resolvers and certificates it has none.
    let host = uri
        .host()
        .unwrap_or_default()
        .trim_start_matches('[')
        .trim_end_matches(']');
    let mut request = Request::get(uri.path_and_query().map_or("/", |path| path.as_str()))
        .header(HOST, uri.authority().map_or("", |authority| authority.as_str()))
        .header(ACCEPT, "application/json")
        .header(USER_AGENT, concat!("bartizan/", env!("CARGO_PKG_VERSION")));
    if let Some(etag) = etag {
        request = request.header(IF_NONE_MATCH, etag);
    }
    let request = request
        .body(Empty::new())
        .map_err(|_| FetchError::Uri(shown(&uri.to_string())))?;
    if !is_https(uri) {
        return exchange(connect(host, port(uri)).await?, request).await;
    }
    let config = tokio::task::spawn_blocking(move || {
        let named = roots
            .map(|path| std::fs::read_to_string(&path).map_err(|error| FetchError::roots(&path, &error)))
            .transpose()?;
        // What cannot be read of the system's roots is missing like any other root: the handshake then says so.
        let system = rustls_native_certs::load_native_certs().certs;
        web_client(system, named.as_deref()).map_err(|error| FetchError::Roots(error.to_string()))
    })
    .await
    .map_err(|_| FetchError::Broken)??;
    let name = web_server_name(host).ok_or_else(|| FetchError::Uri(shown(&uri.to_string())))?;
    let tcp = connect(host, port(uri)).await?;
    let tls = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|error| FetchError::Tls(error.to_string()))?;
    exchange(tls, request).await
}

/// Connects to one of the host's addresses, and only to one that was looked at: a name is resolved once.
async fn connect(host: &str, port: u16) -> Result<TcpStream, FetchError> {
    let unresolved = |error: &io::Error| FetchError::Resolve {
        host: shown(host),
        reason: error.to_string(),
    };
    let addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port))
        .await
        .map_err(|error| unresolved(&error))?
        .collect();
    let allowed = addresses.iter().filter(|address| is_allowed(address.ip()));
    let mut last = match addresses.first() {
        Some(first) => FetchError::Address(first.ip()),
        None => unresolved(&io::Error::from(io::ErrorKind::NotFound)),
    };
    for address in allowed.take(MOST_ADDRESSES) {
        match TcpStream::connect(address).await {
            Ok(stream) => return Ok(stream),
            Err(error) => {
                last = FetchError::Connect {
                    address: *address,
                    reason: error.to_string(),
                }
            }
        }
    }
    Err(last)
}

async fn exchange(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    request: Request<Empty<Bytes>>,
) -> Result<(http::response::Parts, Bytes), FetchError> {
    let broken = |error: hyper::Error| FetchError::Http(error.to_string());
    let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(io))
        .await
        .map_err(broken)?;
    let answer = async {
        let response: Response<Incoming> = sender.send_request(request).await.map_err(broken)?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, LARGEST_BODY)
            .collect()
            .await
            .map_err(
                |error| match error.downcast::<http_body_util::LengthLimitError>() {
                    Ok(_) => FetchError::TooLarge(LARGEST_BODY),
                    Err(error) => FetchError::Http(error.to_string()),
                },
            )?;
        Ok((head, body.to_bytes()))
    };
    // The connection makes the answer come; its own end is no news: the answer then ends, too.
    let driven = async {
        let _ = connection.await;
        std::future::pending().await
    };
    tokio::select! {
        answer = answer => answer,
        never = driven => never,
    }
}

/// How long an answer may be used (RFC 9111 §4.2.1): `max-age` less `Age`. `no-cache` and `no-store` say nothing about keys,
/// and many issuers send them with everything.
fn lifetime(headers: &HeaderMap) -> Option<Duration> {
    let seconds = |value: &str| value.trim().trim_matches('"').parse::<u64>().ok();
    let longest = headers
        .get_all(CACHE_CONTROL)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|directive| directive.split_once('='))
        .filter(|(name, _)| name.trim().eq_ignore_ascii_case("max-age"))
        .find_map(|(_, value)| seconds(value))?;
    let age = text(headers, AGE).and_then(seconds).unwrap_or(0);
    Some(Duration::from_secs(longest.saturating_sub(age)))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

/// What an error repeats of a foreign text.
pub(super) fn shown(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(256).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_web_uris_with_a_host_and_without_a_password_are_fetched() {
        for text in [
            "https://issuer.example",
            "https://issuer.example:8443/a?b=c",
            "http://[::1]:80/",
            "HTTPS://issuer.example/",
        ] {
            assert!(parse_uri(text).is_ok(), "{text}");
        }
        for text in [
            "",
            "/jwks",
            "issuer.example",
            "ftp://issuer.example/",
            "file:///etc/passwd",
            "unix:///run/control.sock",
            "https://",
            "https://user:password@issuer.example/",
            "https://issuer.example@169.254.169.254/",
            "https://issuer example/",
            "https://issuer.example/\r\nx: y",
        ] {
            assert!(parse_uri(text).is_err(), "{text}");
        }
    }

    #[test]
    fn redirects_stay_with_scheme_host_and_port() {
        let from = parse_uri("https://issuer.example/jwks").unwrap();
        let to = |target: &str| redirected(&from, target).map(|uri| uri.to_string());
        assert_eq!(to("/keys?x").as_deref(), Some("https://issuer.example/keys?x"));
        assert_eq!(
            to("https://ISSUER.example:443/keys").as_deref(),
            Some("https://ISSUER.example:443/keys")
        );
        for target in [
            "",
            "keys",
            "//attacker.example/",
            "http://issuer.example/jwks",
            "https://attacker.example/jwks",
            "https://issuer.example:8443/jwks",
            "https://user@issuer.example/jwks",
            "file:///etc/passwd",
            "/a b",
        ] {
            assert_eq!(to(target), None, "{target}");
        }
    }

    #[test]
    fn max_age_less_age_is_the_lifetime() {
        let lifetime = |control: &str, age: Option<&str>| {
            let mut headers = HeaderMap::new();
            headers.insert(CACHE_CONTROL, control.parse().unwrap());
            if let Some(age) = age {
                headers.insert(AGE, age.parse().unwrap());
            }
            super::lifetime(&headers).map(|lifetime| lifetime.as_secs())
        };
        assert_eq!(lifetime("public, max-age=300", None), Some(300));
        assert_eq!(
            lifetime("Max-Age=\"300\", must-revalidate", Some("20")),
            Some(280)
        );
        assert_eq!(lifetime("max-age=10", Some("20")), Some(0));
        assert_eq!(lifetime("max-age=18446744073709551616", None), None);
        for control in [
            "no-store",
            "no-cache",
            "s-maxage=5",
            "max-age",
            "max-age=",
            "max-age=-1",
            "xmax-age=1",
        ] {
            assert_eq!(lifetime(control, None), None, "{control}");
        }
    }
}
