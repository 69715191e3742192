use bartizan_proto::ext_authz::{BoolValue, HeaderValue, HttpStatus, Status};
use bartizan_wire::head::RequestHead;
use http::Method;
use proptest::prelude::*;

use super::*;

fn listed(names: &[&str]) -> Vec<StringMatch> {
    names.iter().map(|name| StringMatch::parse(name)).collect()
}

fn fields(pairs: &[(&str, &str)]) -> Headers {
    let mut headers = Headers::new();
    for (name, value) in pairs {
        headers.append(name, value.as_bytes()).unwrap();
    }
    headers
}

fn texts(headers: &Headers) -> Vec<(String, String)> {
    headers
        .iter()
        .map(|(name, value)| {
            (
                String::from_utf8_lossy(name).into_owned(),
                String::from_utf8_lossy(value).into_owned(),
            )
        })
        .collect()
}

fn names(headers: &Headers) -> Vec<String> {
    texts(headers).into_iter().map(|(name, _)| name).collect()
}

fn http(provider: &HttpProvider, status: u16, answer: &[(&str, &str)]) -> Result<Said, Unusable> {
    let status = StatusCode::from_u16(status).unwrap();
    over_http(provider, status, &fields(answer), Bytes::from_static(b"words"))
}

fn changes(said: Result<Said, Unusable>) -> Changes {
    match said {
        Ok(Said::Allowed(changes)) => changes,
        other => panic!("{other:?}"),
    }
}

fn refusal(said: Result<Said, Unusable>) -> Denial {
    match said {
        Ok(Said::Denied(denial)) => denial,
        other => panic!("{other:?}"),
    }
}

fn request(target: &str, headers: &[(&str, &str)]) -> RequestHead {
    let mut head = RequestHead::new(Method::GET, Bytes::copy_from_slice(target.as_bytes()));
    head.headers = fields(headers);
    head
}

fn apply(changes: &Changes, head: &mut RequestHead) {
    changes.apply(&mut head.headers);
    if let Some(target) = changes.target(&head.target) {
        head.target = target;
    }
}

#[test]
fn only_200_is_yes_and_5xx_is_no_answer() {
    let provider = HttpProvider::default();
    assert_eq!(changes(http(&provider, 200, &[("x", "y")])), Changes::default());
    for status in [201, 204, 302, 400, 401, 403, 404, 429, 499] {
        assert_eq!(refusal(http(&provider, status, &[])).status.as_u16(), status);
    }
    for status in [100, 101, 500, 503, 599, 600, 999] {
        assert_eq!(http(&provider, status, &[]), Err(Unusable::Status(status)));
    }
}

#[test]
fn a_refusal_shows_all_fields_or_those_listed() {
    let answer = [
        ("Content-Type", "text/html"),
        ("Location", "/login"),
        ("WWW-Authenticate", "Basic"),
        ("Set-Cookie", "a"),
        ("Set-Cookie", "b"),
        ("Content-Length", "5"),
        ("Connection", "close"),
        ("Transfer-Encoding", "chunked"),
        ("x-envoy-upstream-service-time", "3"),
        ("x-bartizan-unsent", "1"),
        ("X_Bartizan-Decision", "1"),
    ];
    let all = refusal(http(&HttpProvider::default(), 401, &answer));
    assert_eq!(
        names(&all.headers),
        [
            "Content-Type",
            "Location",
            "WWW-Authenticate",
            "Set-Cookie",
            "Set-Cookie"
        ]
    );
    assert_eq!(&all.body[..], b"words");
    let provider = HttpProvider {
        headers_to_downstream_on_deny: listed(&["set-*", "x-bartizan-*"]),
        ..HttpProvider::default()
    };
    let some = refusal(http(&provider, 401, &answer));
    assert_eq!(
        names(&some.headers),
        ["Location", "WWW-Authenticate", "Set-Cookie", "Set-Cookie"]
    );
    assert!(refusal(http(&provider, 204, &[])).body.is_empty());
}

#[test]
fn a_yes_changes_what_is_listed_and_nothing_of_proxies() {
    let provider = HttpProvider {
        headers_to_upstream_on_allow: listed(&[
            "X-User",
            "x-team*",
            "*-role",
            "host",
            "x-forwarded-*",
            "content-length",
        ]),
        headers_to_downstream_on_allow: listed(&["set-cookie", "x-envoy-*"]),
        ..HttpProvider::default()
    };
    let answer = [
        ("x-user", "ann"),
        ("X-Team", "a"),
        ("x-team", "b"),
        ("x-my-role", "admin"),
        ("x-other", "no"),
        ("host", "elsewhere"),
        ("content-length", "0"),
        ("x-forwarded-client-cert", "URI=spiffe://forged"),
        ("x-forwarded-for", "6.6.6.6"),
        ("Set-Cookie", "s=1"),
        ("x-envoy-upstream-service-time", "1"),
        (
            "x-envoy-auth-headers-to-remove",
            "Authorization, x-secret,host, x-forwarded-client-cert",
        ),
    ];
    let changes = changes(http(&provider, 200, &answer));
    let mut head = request(
        "/a?b",
        &[
            ("host", "shop"),
            ("X-USER", "forged"),
            ("x-user", "twice"),
            ("x-team", "mine"),
            ("authorization", "Bearer"),
            ("x-forwarded-client-cert", "URI=spiffe://true"),
        ],
    );
    apply(&changes, &mut head);
    assert_eq!(
        texts(&head.headers),
        [
            ("host", "shop"),
            ("X-USER", "ann"),
            ("x-team", "a"),
            ("x-forwarded-client-cert", "URI=spiffe://true"),
            ("x-team", "b"),
            ("x-my-role", "admin"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
    );
    assert_eq!(&head.target[..], b"/a?b");
    let mut response = fields(&[("set-cookie", "mine=1")]);
    for edit in &changes.response {
        edit.apply(&mut response);
    }
    assert_eq!(response.get_all("set-cookie").count(), 2);
    assert_eq!(response.len(), 2);
}

fn option(name: &str, value: &str, append: Option<bool>, append_action: i32) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: name.to_owned(),
            value: value.to_owned(),
            raw_value: Bytes::new(),
        }),
        append: append.map(|value| BoolValue { value }),
        append_action,
        keep_empty_value: false,
    }
}

fn said(code: i32, response: Option<HttpResponse>) -> Result<Said, Unusable> {
    let response = CheckResponse {
        status: Some(Status {
            code,
            message: "why".to_owned(),
        }),
        http_response: response,
    };
    over_grpc(&response.encode_to_vec())
}

fn ok(ok: OkHttpResponse) -> Result<Said, Unusable> {
    said(0, Some(HttpResponse::OkResponse(ok)))
}

#[test]
fn grpc_status_ok_is_yes_and_all_others_are_no() {
    assert_eq!(changes(said(0, None)), Changes::default());
    assert_eq!(changes(over_grpc(b"\x0a\0")), Changes::default());
    assert_eq!(over_grpc(b""), Err(Unusable::Message));
    for code in [1, 2, 7, 16, 99, -1] {
        let denial = refusal(said(code, None));
        assert_eq!((denial.status.as_u16(), denial.body.len()), (403, 0), "{code}");
        assert!(matches!(
            said(code, Some(HttpResponse::OkResponse(OkHttpResponse::default()))),
            Ok(Said::Denied(_))
        ));
    }
    let denied = |code| {
        HttpResponse::DeniedResponse(DeniedHttpResponse {
            status: Some(HttpStatus { code }),
            headers: vec![
                option("Location", "/login", None, 0),
                option("set-cookie", "a", Some(true), 0),
                option("set-cookie", "b", Some(true), 0),
                option("x-envoy-x", "1", None, 0),
                option(":status", "200", None, 0),
            ],
            body: "no".to_owned(),
        })
    };
    let denial = refusal(said(7, Some(denied(302))));
    assert_eq!(denial.status.as_u16(), 302);
    assert_eq!(names(&denial.headers), ["Location", "set-cookie", "set-cookie"]);
    assert_eq!(&denial.body[..], b"no");
    for code in [-1, 99, 100, 101, 600, 70_000] {
        assert!(said(7, Some(denied(code))).is_err(), "{code}");
    }
    assert_eq!(said(0, Some(denied(403))), Err(Unusable::Message));
}

#[test]
fn grpc_changes_are_made_as_each_option_says() {
    let changes = changes(ok(OkHttpResponse {
        headers: vec![
            option("x-set", "new", None, 0),
            option("x-false", "new", Some(false), 0),
            option("x-more", "new", Some(true), 0),
            option("x-absent", "new", None, 1),
            option("x-there", "new", None, 1),
            option("x-over", "new", None, 2),
            option("x-present", "new", None, 3),
            option("x-nowhere", "new", None, 3),
            option("x-forwarded-client-cert", "URI=spiffe://forged", None, 0),
            option("x_bartizan_unsent", "1", None, 0),
            option("transfer-encoding", "chunked", None, 0),
        ],
        headers_to_remove: ["x-gone", "host", ":path", "x-forwarded-client-cert"]
            .map(str::to_owned)
            .to_vec(),
        response_headers_to_add: vec![
            option("x-app", "authorizer", None, 0),
            option("x-also", "1", Some(true), 0),
        ],
        ..OkHttpResponse::default()
    }));
    let old = [
        "x-set",
        "x-false",
        "x-more",
        "x-there",
        "x-over",
        "x-present",
        "x-gone",
        "x-forwarded-client-cert",
    ];
    let mut head = request("/", &old.map(|name| (name, "old")));
    head.headers.append("host", b"shop").unwrap();
    apply(&changes, &mut head);
    let all = |name| -> Vec<&[u8]> { head.headers.get_all(name).collect() };
    for name in ["x-set", "x-false", "x-absent", "x-over", "x-present"] {
        assert_eq!(all(name), [b"new"], "{name}");
    }
    assert_eq!(all("x-more"), [b"old", b"new"]);
    for name in ["x-there", "x-forwarded-client-cert"] {
        assert_eq!(all(name), [b"old"], "{name}");
    }
    for name in ["x-nowhere", "x-gone", "x_bartizan_unsent", "transfer-encoding"] {
        assert!(!head.headers.contains(name), "{name}");
    }
    assert!(head.headers.contains("host"));
    let mut response = fields(&[("x-app", "echo"), ("x-also", "0")]);
    for edit in &changes.response {
        edit.apply(&mut response);
    }
    assert_eq!(response.get("x-app"), Some(&b"authorizer"[..]));
    assert_eq!(response.get_all("x-also").count(), 2);
}

#[test]
fn what_policy_is_judging_is_not_for_an_authorizer() {
    for name in [":path", ":method", ":authority", ":scheme", "Host"] {
        let answer = ok(OkHttpResponse {
            headers: vec![option(name, "/other", None, 0)],
            ..OkHttpResponse::default()
        });
        assert_eq!(answer, Err(Unusable::Judged(name.to_owned())));
    }
}

#[test]
fn fields_that_a_head_may_not_have_are_no_answer() {
    for (name, value) in [
        ("x a", "1"),
        ("", "1"),
        ("x", "a\r\nb: c"),
        ("x", "a\0"),
        ("\u{e9}", "1"),
    ] {
        for of_request in [true, false] {
            let options = vec![option(name, value, None, 0)];
            let mut response = OkHttpResponse::default();
            if of_request {
                response.headers = options;
            } else {
                response.response_headers_to_add = options;
            }
            assert_eq!(ok(response), Err(Unusable::Field), "{name:?} {value:?}");
        }
    }
    let unknown = vec![option("x", "y", None, 4)];
    assert_eq!(edits(unknown, true), Err(Unusable::Field));
    let raw = HeaderValueOption {
        header: Some(HeaderValue {
            key: "x".to_owned(),
            value: String::new(),
            raw_value: Bytes::from_static(b"\xff"),
        }),
        ..HeaderValueOption::default()
    };
    assert_eq!(edits(vec![raw], true).unwrap()[0].value, b"\xff");
}

#[test]
fn an_answer_has_bounds() {
    let many = vec![option("x-a", "1", Some(true), 0); MOST_FIELDS + 1];
    let long = vec![option("x-a", &"v".repeat(MOST_FIELD_BYTES), None, 0)];
    for headers in [many, long] {
        let answer = OkHttpResponse {
            headers,
            ..OkHttpResponse::default()
        };
        assert_eq!(ok(answer), Err(Unusable::TooLarge));
    }
    assert_eq!(
        over_grpc(&vec![0; MOST_ANSWER_BYTES + 1]),
        Err(Unusable::TooLarge)
    );
    assert_eq!(over_grpc(b"\xff\xff"), Err(Unusable::Message));
}

#[test]
fn query_parameters_are_set_and_removed_also_where_they_hide() {
    for (target, expected) in [
        ("/p", "/p?user=ann"),
        ("/p?", "/p?&user=ann"),
        ("/p?a=1&token=t&b=2", "/p?a=1&b=2&user=ann"),
        ("/p?t%6Fken=t&user=forged&us%65r=forged", "/p?user=ann"),
        ("/p?tokens=1&token", "/p?tokens=1&user=ann"),
    ] {
        let changes = changes(ok(OkHttpResponse {
            query_parameters_to_set: vec![QueryParameter {
                key: "user".to_owned(),
                value: "ann".to_owned(),
            }],
            query_parameters_to_remove: vec!["token".to_owned()],
            ..OkHttpResponse::default()
        }));
        let mut head = request(target, &[]);
        apply(&changes, &mut head);
        assert_eq!(String::from_utf8_lossy(&head.target), expected, "{target}");
    }
    for (key, value) in [
        ("", "a"),
        ("a=b", "c"),
        ("a", "b&c=d"),
        ("a", "b#c"),
        ("a", "b c"),
        ("a", "b\r\n"),
    ] {
        let answer = ok(OkHttpResponse {
            query_parameters_to_set: vec![QueryParameter {
                key: key.to_owned(),
                value: value.to_owned(),
            }],
            ..OkHttpResponse::default()
        });
        assert_eq!(answer, Err(Unusable::Field), "{key} {value}");
    }
    let only_removal = Changes {
        remove_query: vec!["a".to_owned()],
        ..Changes::default()
    };
    let mut head = request("/p?a=1", &[]);
    apply(&only_removal, &mut head);
    assert_eq!(&head.target[..], b"/p");
}

#[test]
fn a_call_answers_with_exactly_one_message() {
    for (body, expected) in [
        (&b"\0\0\0\0\0"[..], Ok(&b""[..])),
        (b"\0\0\0\0\x02ab", Ok(b"ab")),
        (b"", Err(Unusable::Message)),
        (b"\0\0\0\0", Err(Unusable::Message)),
        (b"\0\0\0\0\x02a", Err(Unusable::Message)),
        (b"\0\0\0\0\x02abc", Err(Unusable::Message)),
        (b"\x01\0\0\0\x02ab", Err(Unusable::Message)),
        (b"\0\xff\xff\xff\xff", Err(Unusable::Message)),
    ] {
        let message = grpc_message(&Bytes::from_static(body));
        assert_eq!(message.as_deref(), expected.as_deref(), "{body:?}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_yes_that_forges(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(Said::Allowed(changes)) = over_grpc(&bytes) {
            let mut head = request("/a?b=c", &[("host", "shop"), ("x-forwarded-client-cert", "true")]);
            apply(&changes, &mut head);
            prop_assert_eq!(head.path(), b"/a");
            prop_assert_eq!(head.authority(), b"shop");
            prop_assert_eq!(head.headers.get("x-forwarded-client-cert"), Some(&b"true"[..]));
        }
    }
}
