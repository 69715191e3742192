//! Who may look at the admin page.
//!
//! `Host` must be a loopback name with our port, so that a foreign name that resolves to 127.0.0.1 (DNS rebinding) shows
//! nothing; `Origin`, where a browser sends one, must be ours; and the token of the run must be shown, once in the address
//! (a cookie takes its place) or as a bearer token.

use bartizan_types::Secret;
use http::Uri;
use http::header::{self, HeaderMap, HeaderValue};

/// What is checked against.
pub(super) struct Guard {
    hosts: [String; 3],
    cookie: String,
    token: Secret<String>,
}

/// Whether the token was shown.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// By cookie or header.
    Allowed,
    /// In the address; this cookie takes its place.
    Entered(HeaderValue),
    /// It was not, or another one was.
    Refused,
}

impl Guard {
    pub(super) fn new(port: u16, token: Secret<String>) -> Self {
        Self {
            hosts: [
                format!("127.0.0.1:{port}"),
                format!("localhost:{port}"),
                format!("[::1]:{port}"),
            ],
            // Cookies do not tell ports apart: two meshes must not overwrite each other's.
            cookie: format!("bartizan-{port}"),
            token,
        }
    }

    /// Whether the request means us and comes from nowhere else.
    pub(super) fn origin(&self, headers: &HeaderMap) -> Result<(), &'static str> {
        let mut hosts = headers.get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return Err("exactly one Host is needed");
        };
        let ours = |text: &str| self.hosts.iter().any(|host| host == text);
        if !host.to_str().is_ok_and(ours) {
            return Err("this is not served under that Host");
        }
        let foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
            let host = origin
                .to_str()
                .ok()
                .and_then(|origin| origin.strip_prefix("http://"));
            !host.is_some_and(ours)
        });
        if foreign {
            return Err("this is not served to that Origin");
        }
        Ok(())
    }

    /// Whether the token was shown.
    pub(super) fn token(&self, uri: &Uri, headers: &HeaderMap) -> Verdict {
        let bearer = headers
            .get_all(header::AUTHORIZATION)
            .iter()
            .filter_map(|value| value.to_str().ok()?.strip_prefix("Bearer "))
            .any(|shown| self.is_token(shown));
        let cookie = headers
            .get_all(header::COOKIE)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(';'))
            .filter_map(|pair| pair.trim().split_once('='))
            .any(|(name, shown)| name == self.cookie && self.is_token(shown));
        let address = uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.strip_prefix("token="))
            .any(|shown| self.is_token(shown));
        if address && !cookie && !bearer {
            let cookie = format!(
                "{}={}; HttpOnly; SameSite=Strict; Path=/",
                self.cookie,
                self.token.expose()
            );
            return HeaderValue::from_str(&cookie).map_or(Verdict::Allowed, |mut cookie| {
                cookie.set_sensitive(true);
                Verdict::Entered(cookie)
            });
        }
        if bearer || cookie || address {
            Verdict::Allowed
        } else {
            Verdict::Refused
        }
    }

    fn is_token(&self, shown: &str) -> bool {
        !self.token.expose().is_empty() && self.token.matches(shown.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guard() -> Guard {
        Guard::new(15000, Secret::new("s3cret".to_owned()))
    }

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, HeaderValue::from_str(value).unwrap());
        }
        headers
    }

    #[test]
    fn only_our_own_names_and_origin_are_served() {
        let guard = guard();
        for (pairs, fine) in [
            (&[("host", "127.0.0.1:15000")][..], true),
            (&[("host", "localhost:15000")], true),
            (&[("host", "[::1]:15000")], true),
            (
                &[("host", "localhost:15000"), ("origin", "http://localhost:15000")],
                true,
            ),
            (&[("host", "evil.example:15000")], false),
            (&[("host", "localhost:15001")], false),
            (&[("host", "localhost")], false),
            (&[("host", "localhost:15000"), ("host", "evil.example")], false),
            (
                &[("host", "localhost:15000"), ("origin", "http://evil.example")],
                false,
            ),
            (
                &[("host", "localhost:15000"), ("origin", "https://localhost:15000")],
                false,
            ),
            (&[("host", "localhost:15000"), ("origin", "null")], false),
            (&[], false),
        ] {
            assert_eq!(guard.origin(&headers(pairs)).is_ok(), fine, "{pairs:?}");
        }
    }

    #[test]
    fn the_token_opens_by_address_cookie_or_bearer() {
        let guard = guard();
        let ask = |uri: &'static str, pairs: &[(&'static str, &str)]| {
            guard.token(&Uri::from_static(uri), &headers(pairs))
        };
        assert_eq!(ask("/", &[]), Verdict::Refused);
        assert_eq!(ask("/?token=wrong", &[]), Verdict::Refused);
        assert_eq!(ask("/?token=", &[]), Verdict::Refused);
        assert_eq!(ask("/?xtoken=s3cret", &[]), Verdict::Refused);
        assert_eq!(ask("/", &[("authorization", "Bearer s3cret")]), Verdict::Allowed);
        assert_eq!(ask("/", &[("authorization", "Basic s3cret")]), Verdict::Refused);
        assert_eq!(
            ask("/", &[("cookie", "a=b; bartizan-15000=s3cret")]),
            Verdict::Allowed
        );
        assert_eq!(ask("/", &[("cookie", "bartizan-15001=s3cret")]), Verdict::Refused);
        let Verdict::Entered(cookie) = ask("/?a=b&token=s3cret", &[]) else {
            panic!("the token in the address opens");
        };
        assert_eq!(cookie, "bartizan-15000=s3cret; HttpOnly; SameSite=Strict; Path=/");
    }

    #[test]
    fn an_empty_token_opens_nothing() {
        let guard = Guard::new(15000, Secret::new(String::new()));
        let verdict = guard.token(&Uri::from_static("/?token="), &HeaderMap::new());
        assert_eq!(verdict, Verdict::Refused);
    }
}
