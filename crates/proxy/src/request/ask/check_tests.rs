use bartizan_types::StringMatch;

use super::*;

fn head(method: &str, target: &str, headers: &[(&str, &str)]) -> RequestHead {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let mut head = RequestHead::new(method, Bytes::copy_from_slice(target.as_bytes()));
    for (name, value) in headers {
        head.headers.append(name, value.as_bytes()).unwrap();
    }
    head
}

fn provider(prefix: &str) -> HttpProvider {
    HttpProvider {
        path_prefix: prefix.into(),
        include_request_headers: ["x-user", "x-team*", "cookie", "host", "authorization", "te"]
            .map(StringMatch::parse)
            .to_vec(),
        additional_headers: vec![
            ("x-ext-authz".into(), "bartizan".into()),
            ("x-team-b".into(), "set".into()),
            ("host".into(), "forged".into()),
        ],
        ..HttpProvider::default()
    }
}

fn ends(identity: Option<&SpiffeId>) -> Ends<'_> {
    Ends {
        source: End {
            address: "192.0.2.1:4711".parse().unwrap(),
            identity,
        },
        destination: End {
            address: "10.0.0.1:8080".parse().unwrap(),
            identity,
        },
        sni: Some("outbound_.80_._.cart"),
        is_tls: identity.is_some(),
        now: Duration::new(5, 6),
    }
}

fn decoded(check: &Check) -> AttributeContext {
    let message = super::super::says::grpc_message(&check.body).unwrap();
    CheckRequest::decode(message).unwrap().attributes.unwrap()
}

#[test]
fn the_check_is_a_request_like_the_one_that_is_checked() {
    let asked = head(
        "PATCH",
        "/a/b?c",
        &[
            ("Host", "shop"),
            ("content-length", "40"),
            ("Authorization", "Bearer a"),
            ("X-User", "ann"),
            ("x-team-a", "1"),
            ("x-team-b", "client's"),
            ("x-other", "no"),
            ("te", "trailers"),
            ("expect", "100-continue"),
        ],
    );
    let check = over_http(&provider("/check"), &asked, None).unwrap();
    assert_eq!(check.head.method.as_str(), "PATCH");
    assert_eq!(&check.head.target[..], b"/check/a/b?c");
    assert!(check.body.is_empty() && matches!(check.head.body, BodyLength::Known(0)));
    let fields: Vec<(String, String)> = check
        .head
        .headers
        .iter()
        .map(|(name, value)| (text(name), text(value)))
        .collect();
    let expected = [
        ("host", "shop"),
        ("Authorization", "Bearer a"),
        ("X-User", "ann"),
        ("x-team-a", "1"),
        ("x-team-b", "set"),
        ("x-ext-authz", "bartizan"),
        ("content-length", "0"),
    ];
    assert_eq!(
        fields,
        expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
}

#[test]
fn the_body_comes_with_whether_it_is_whole() {
    let asked = head(
        "POST",
        "/",
        &[("host", "shop"), ("x-envoy-auth-partial-body", "forged")],
    );
    for (is_partial, said) in [(false, "false"), (true, "true")] {
        let excerpt = Excerpt {
            bytes: Bytes::from_static(b"hello"),
            is_partial,
        };
        let check = over_http(&provider(""), &asked, Some(&excerpt)).unwrap();
        assert_eq!(&check.body[..], b"hello");
        assert_eq!(check.head.headers.get_str("content-length"), Some("5"));
        assert_eq!(check.head.headers.get_str(PARTIAL_BODY), Some(said));
        let wanted = BodyInCheck {
            max_bytes: 5,
            allow_partial: true,
            pack_as_bytes: is_partial,
        };
        let request = Some((&asked, Some(&excerpt)));
        let check = over_grpc("opa", &ends(None), request, Some(wanted), Duration::ZERO);
        let http = decoded(&check).request.unwrap().http.unwrap();
        assert_eq!(http.headers[PARTIAL_BODY], said);
        let (as_text, as_bytes): (&str, &[u8]) = if is_partial {
            ("", b"hello")
        } else {
            ("hello", b"")
        };
        assert_eq!((&*http.body, &http.raw_body[..]), (as_text, as_bytes));
    }
}

#[test]
fn targets_that_are_no_paths_are_not_asked_about_by_another() {
    let options = head("OPTIONS", "*", &[("host", "shop")]);
    assert_eq!(
        &over_http(&provider(""), &options, None).unwrap().head.target[..],
        b"*"
    );
    assert_eq!(
        &over_http(&provider("/p"), &options, None).unwrap().head.target[..],
        b"/p"
    );
    assert!(over_http(&provider("p"), &options, None).is_none());
}

#[test]
fn a_check_request_names_both_ends_and_the_request() {
    let id = SpiffeId::parse("spiffe://cluster.local/ns/shop/sa/web").unwrap();
    let mut asked = head(
        "GET",
        "/a?b=c",
        &[
            ("Host", "shop:80"),
            ("X-Request-Id", "77"),
            ("X-List", "1"),
            ("x-list", "2"),
            (":path", "never"),
        ][..4],
    );
    asked.headers.append("x-bytes", b"\xff").unwrap();
    let check = over_grpc(
        "opa.policy.svc.cluster.local",
        &ends(Some(&id)),
        Some((&asked, None)),
        None,
        Duration::from_millis(250),
    );
    assert_eq!(&check.head.target[..], CHECK.as_bytes());
    assert_eq!(check.head.headers.get_str("grpc-timeout"), Some("250m"));
    assert_eq!(check.head.authority(), b"opa.policy.svc.cluster.local");
    let attributes = decoded(&check);
    let source = attributes.source.unwrap();
    assert_eq!(source.principal, "spiffe://cluster.local/ns/shop/sa/web");
    let address = source.address.unwrap().socket_address.unwrap();
    assert_eq!((&*address.address, address.port_value), ("192.0.2.1", 4711));
    assert_eq!(attributes.tls_session.unwrap().sni, "outbound_.80_._.cart");
    let request = attributes.request.unwrap();
    assert_eq!(request.time, Some(Timestamp { seconds: 5, nanos: 6 }));
    let http = request.http.unwrap();
    assert_eq!((&*http.id, &*http.method, &*http.path), ("77", "GET", "/a?b=c"));
    assert_eq!(
        (&*http.host, &*http.scheme, &*http.query),
        ("shop:80", "https", "b=c")
    );
    assert_eq!((http.size, &*http.protocol), (0, "HTTP/1.1"));
    assert_eq!(http.headers["x-list"], "1,2");
    assert_eq!(http.headers["x-bytes"], "\u{fffd}");
    assert_eq!(http.headers[":authority"], "shop:80");
    assert!(!http.headers.contains_key("host"));
}

#[test]
fn a_connection_has_no_request() {
    let check = over_grpc("opa", &ends(None), None, None, Duration::from_mins(10));
    let attributes = decoded(&check);
    assert!(attributes.request.unwrap().http.is_none());
    assert!(attributes.tls_session.is_none());
    assert_eq!(attributes.source.unwrap().principal, "");
}
