//! Heads between the two forms: ours, and the `http` crate's that the HTTP/2 codec speaks (RFC 9113 §8.3).

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use thiserror::Error;

use crate::h1::chunk::is_forbidden_trailer;

use super::{BodyLength, Headers, RequestHead, ResponseHead};

/// A head that cannot be said in the other version.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum BridgeError {
    /// `:authority` and `host` name different hosts, one of them is not a host, or there is more than one `host`.
    #[error("`:authority` and `host` do not agree, or are not a host")]
    Host,
    /// The target is not a path.
    #[error("request target is not in origin form")]
    Target,
    /// A field that HTTP/2 forbids, or a `content-length` that is not one number.
    #[error("field that the message may not have")]
    Field,
}

fn from_map(map: &HeaderMap) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in map {
        headers.append_checked(name.as_str().as_bytes(), value.as_bytes());
    }
    headers
}

/// The fields as HTTP/2 has them: lower case, without what belongs to one HTTP/1 connection.
fn to_map(headers: &Headers, skip_host: bool) -> Result<HeaderMap, BridgeError> {
    let mut map = HeaderMap::with_capacity(headers.len());
    for (name, value) in headers.iter() {
        let name = HeaderName::from_bytes(name).map_err(|_| BridgeError::Field)?;
        let of_connection = name == header::CONNECTION
            || name == header::TRANSFER_ENCODING
            || name == header::UPGRADE
            || name.as_str() == "keep-alive"
            || name.as_str() == "proxy-connection";
        if of_connection || (skip_host && name == header::HOST) {
            continue;
        }
        let value = HeaderValue::from_bytes(value).map_err(|_| BridgeError::Field)?;
        map.append(name, value);
    }
    Ok(map)
}

fn content_length(map: &HeaderMap) -> Result<Option<u64>, BridgeError> {
    let mut values = map.get_all(header::CONTENT_LENGTH).iter();
    let (first, second) = (values.next(), values.next());
    if second.is_some() {
        return Err(BridgeError::Field);
    }
    first
        .map(|value| crate::h1::parse::content_length(value.as_bytes()).ok_or(BridgeError::Field))
        .transpose()
}

impl RequestHead {
    /// A request that came over HTTP/2; `ended` when no body follows.
    ///
    /// # Errors
    /// [`BridgeError`] for messages that are malformed by RFC 9113 §8.2.2 and §8.3.1; the stream is to be
    /// refused with 400.
    pub fn from_http2(request: &http::request::Parts, ended: bool) -> Result<Self, BridgeError> {
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let (host, more) = (hosts.next(), hosts.next());
        if more.is_some() {
            return Err(BridgeError::Host);
        }
        let authority = request.uri.authority().map(|a| a.as_str().as_bytes());
        // As on HTTP/1; `user@host` is one host to policy and another to an application (RFC 9113 §8.3.1).
        if !host
            .map(HeaderValue::as_bytes)
            .into_iter()
            .chain(authority)
            .all(crate::h1::parse::is_authority)
        {
            return Err(BridgeError::Host);
        }
        if let (Some(host), Some(authority)) = (host, authority)
            && !host.as_bytes().eq_ignore_ascii_case(authority)
        {
            return Err(BridgeError::Host);
        }
        let connect = request.method == Method::CONNECT;
        let target = match request.uri.path_and_query() {
            _ if connect => Bytes::copy_from_slice(authority.unwrap_or_default()),
            Some(path) => Bytes::copy_from_slice(path.as_str().as_bytes()),
            None => return Err(BridgeError::Target),
        };
        let valid = target.iter().all(|&byte| crate::h1::parse::is_target(byte));
        let origin =
            target.first() == Some(&b'/') || (&target[..] == b"*" && request.method == Method::OPTIONS);
        if !valid || !(origin || connect) {
            return Err(BridgeError::Target);
        }
        let known = content_length(&request.headers)?;
        let mut headers = Headers::new();
        if let Some(authority) = authority.filter(|_| host.is_none()) {
            headers.append_checked(b"host", authority);
        }
        // Cookie crumbs become one field again (RFC 9113 §8.2.3).
        let mut cookies = Vec::new();
        for (name, value) in &request.headers {
            if *name == header::COOKIE {
                if !cookies.is_empty() {
                    cookies.extend_from_slice(b"; ");
                }
                cookies.extend_from_slice(value.as_bytes());
            } else {
                headers.append_checked(name.as_str().as_bytes(), value.as_bytes());
            }
        }
        if !cookies.is_empty() {
            headers.append_checked(b"cookie", &cookies);
        }
        let expect_continue = headers
            .get("expect")
            .is_some_and(|value| value.eq_ignore_ascii_case(b"100-continue"));
        Ok(Self {
            method: request.method.clone(),
            target,
            version: Version::HTTP_2,
            headers,
            body: match known {
                _ if ended => BodyLength::Empty,
                Some(length) => BodyLength::Known(length),
                None => BodyLength::Unknown,
            },
            upgrade: None,
            expect_continue,
        })
    }

    /// The request as HTTP/2 says it. `https` sets `:scheme`.
    ///
    /// # Errors
    /// [`BridgeError`] when the target or a field cannot be said there.
    pub fn to_http2(&self, https: bool) -> Result<Request<()>, BridgeError> {
        let mut parts = http::uri::Parts::default();
        let authority = self.authority();
        if !authority.is_empty() {
            parts.authority = Some(authority.try_into().map_err(|_| BridgeError::Host)?);
        }
        if self.method != Method::CONNECT {
            parts.scheme = Some(if https {
                http::uri::Scheme::HTTPS
            } else {
                http::uri::Scheme::HTTP
            });
            parts.path_and_query = Some(
                http::uri::PathAndQuery::from_maybe_shared(self.target.clone())
                    .map_err(|_| BridgeError::Target)?,
            );
            // `http` has no URI with a scheme and without an authority.
            if parts.authority.is_none() {
                return Err(BridgeError::Host);
            }
        }
        let mut request = Request::new(());
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = Uri::from_parts(parts).map_err(|_| BridgeError::Target)?;
        *request.version_mut() = Version::HTTP_2;
        *request.headers_mut() = to_map(&self.headers, true)?;
        Ok(request)
    }
}

impl ResponseHead {
    /// A response that came over HTTP/2; `ended` when no body follows.
    ///
    /// # Errors
    /// [`BridgeError::Field`] when `content-length` is not one number.
    pub fn from_http2(response: &http::response::Parts, ended: bool) -> Result<Self, BridgeError> {
        let known = content_length(&response.headers)?;
        Ok(Self {
            version: Version::HTTP_2,
            status: response.status,
            reason: Bytes::new(),
            headers: from_map(&response.headers),
            body: match known {
                _ if ended => BodyLength::Empty,
                Some(length) => BodyLength::Known(length),
                None => BodyLength::Unknown,
            },
            upgrade: None,
        })
    }

    /// The response as HTTP/2 says it. A 101 has no meaning there and becomes 502.
    ///
    /// # Errors
    /// [`BridgeError::Field`] when a field cannot be said there.
    pub fn to_http2(&self) -> Result<Response<()>, BridgeError> {
        let mut response = Response::new(());
        *response.status_mut() = if self.status == StatusCode::SWITCHING_PROTOCOLS {
            StatusCode::BAD_GATEWAY
        } else {
            self.status
        };
        *response.version_mut() = Version::HTTP_2;
        *response.headers_mut() = to_map(&self.headers, false)?;
        Ok(response)
    }
}

impl Headers {
    /// Fields of a trailer section that came over HTTP/2, without those that have no place there.
    pub fn from_http2(map: &HeaderMap) -> Self {
        let mut trailers = from_map(map);
        trailers.retain(|name, _| !is_forbidden_trailer(name));
        trailers
    }

    /// Fields of a trailer section as HTTP/2 says them.
    ///
    /// # Errors
    /// [`BridgeError::Field`] when a field cannot be said there.
    pub fn to_http2(&self) -> Result<HeaderMap, BridgeError> {
        to_map(self, false)
    }
}
