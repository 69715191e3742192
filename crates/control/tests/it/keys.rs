//! Issuers' keys, from the issuer to the proxies: what an issuer may do to a mesh, and what its absence does.

use std::time::Duration;

use bartizan_control::status::KeySetStatus;
use bartizan_control::{KeyTimes, Options, Status};
use bartizan_proto::v1alpha1::{ProxyMessage, UnknownKey, proxy_message};
use bartizan_types::PodReport;
use serde_json::{Value, json};

use crate::issuer::{Answer, IssuerServer, fresh_key};
use crate::plane::{Node, Place, Plane, Proxy, Session, report};

/// Short enough for a test to wait for, and in order.
fn short() -> KeyTimes {
    KeyTimes {
        refresh: Duration::from_millis(200),
        shortest_refresh: Duration::from_millis(50),
        first_retry: Duration::from_millis(50),
        longest_retry: Duration::from_millis(100),
        unknown_key: Duration::from_secs(2),
        ..KeyTimes::default()
    }
}

/// Nothing is fetched twice but when a proxy asks.
fn seldom() -> KeyTimes {
    KeyTimes {
        unknown_key: Duration::from_secs(2),
        first_retry: Duration::from_mins(10),
        longest_retry: Duration::from_mins(10),
        ..KeyTimes::default()
    }
}

fn authentication(rule: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1
kind: RequestAuthentication
metadata: {{ name: users, namespace: shop }}
spec:
  selector: {{ matchLabels: {{ app: cart }} }}
  jwtRules:
    - {{ issuer: 'https://issuer.example', {rule} }}
"
    )
}

/// A mesh whose `cart` trusts the issuer at `uri`, and `cart`'s proxy.
struct Shop {
    place: Place,
    plane: Plane,
    node: Node,
    pods: Vec<PodReport>,
    cart: Proxy,
    session: Session,
    /// The name of the key set.
    name: String,
}

impl Shop {
    async fn start(uri: &str, times: KeyTimes) -> Self {
        Self::start_with(&format!("jwksUri: '{uri}'"), &format!("jwks/{uri}"), |options| {
            options.key_times = times;
        })
        .await
    }

    async fn start_with(rule: &str, name: &str, change: impl FnOnce(&mut Options)) -> Self {
        let place = Place::shop();
        place.write("users.yaml", &authentication(rule));
        let plane = place.start_with(change);
        let mut node = Node::connect(&plane, &[]).await;
        let (_, plan) = node.order().await.unwrap();
        let pods: Vec<_> = plan
            .values()
            .zip(2..)
            .map(|(spec, last)| report(spec, last, true))
            .collect();
        for pod in &pods {
            node.pod(pod).await;
        }
        let mut cart = Proxy::start(&plane, &node, "shop/cart-0").await;
        let mut session = cart.connect(&plane).await;
        cart.take(&mut session).await;
        Self {
            place,
            plane,
            node,
            pods,
            cart,
            session,
            name: name.to_owned(),
        }
    }

    /// Ends the control plane, and starts another over the same folders, with the same proxy.
    async fn restart(self, times: KeyTimes) -> Self {
        self.plane.stop().await.unwrap();
        drop((self.node, self.session));
        let plane = self.place.start_with(|options| options.key_times = times);
        let node = Node::connect(&plane, &self.pods).await;
        let session = self.cart.connect(&plane).await;
        Self {
            plane,
            node,
            session,
            ..self
        }
    }

    /// What `cart`'s proxy has of the key set.
    fn key_set(&self) -> Value {
        let body = self.cart.body(&format!("key-set/{}", self.name));
        serde_json::from_str(body).unwrap_or_default()
    }

    /// The keys that `cart`'s proxy has.
    fn keys(&self) -> Option<Value> {
        find(&self.key_set(), "jwks")
            .and_then(Value::as_str)
            .map(|jwks| serde_json::from_str(jwks).unwrap())
    }

    fn fetched_at(&self) -> i64 {
        find(&self.key_set(), "fetchedAt")
            .and_then(Value::as_i64)
            .unwrap()
    }

    /// Takes transactions until the proxy has exactly these keys.
    async fn take_keys(&mut self, jwks: &str) {
        let wanted: Value = serde_json::from_str(jwks).unwrap();
        while self.keys().as_ref() != Some(&wanted) {
            self.cart.take(&mut self.session).await;
        }
    }

    async fn status(&self, what: &str, holds: impl Fn(&KeySetStatus) -> bool) -> KeySetStatus {
        let status = self
            .plane
            .status_when(what, |status: &Status| status.key_sets.iter().any(&holds))
            .await;
        assert_eq!(status.key_sets.len(), 1);
        status.key_sets.into_iter().next().unwrap()
    }

    /// The first problem of which the text has this part.
    async fn problem(&self, part: &str) -> KeySetStatus {
        self.status(part, |set| {
            set.problem.as_ref().is_some_and(|problem| problem.contains(part))
        })
        .await
    }

    async fn unknown_key(&self) {
        self.session
            .say(ProxyMessage {
                kind: Some(proxy_message::Kind::UnknownKey(UnknownKey {
                    key_set: self.name.clone(),
                    kid: "new".to_owned(),
                })),
            })
            .await;
    }
}

/// The first member of this name, however deep.
fn find<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    match value {
        Value::Object(object) => object
            .get(name)
            .or_else(|| object.values().find_map(|inner| find(inner, name))),
        Value::Array(list) => list.iter().find_map(|inner| find(inner, name)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
    }
}

#[tokio::test]
async fn keys_come_to_the_proxies_that_need_them_without_private_parts() {
    let issuer = IssuerServer::start().await;
    let (key, public) = fresh_key();
    let mut jwks: Value = serde_json::from_str(&public).unwrap();
    let private: Value = serde_json::from_str(key.to_private_json().expose()).unwrap();
    jwks["keys"][0]["d"] = private["d"].clone();
    jwks["keys"]
        .as_array_mut()
        .unwrap()
        .push(json!({"kty": "oct", "k": "c2VjcmV0", "kid": "odd"}));
    issuer.set("/jwks", Answer::ok(jwks.to_string()));
    let mut shop = Shop::start(&issuer.uri("/jwks"), seldom()).await;
    shop.take_keys(&public).await;
    assert!(shop.fetched_at() > 0);
    let set = shop.status("the keys are shown", |set| set.keys == 1).await;
    assert_eq!(set.key_ids, [key.key_id().unwrap()]);
    assert_eq!(set.skipped, ["key `odd`: symmetric keys are not used"]);
    assert_eq!((set.problem, set.evicted), (None, false));
    assert_eq!(set.fetched_at, Some(shop.fetched_at()));
    let mut web = Proxy::start(&shop.plane, &shop.node, "shop/web-0").await;
    let mut session = web.connect(&shop.plane).await;
    web.take(&mut session).await;
    assert!(!web.resources.keys().any(|key| key.starts_with("key-set/")));
    let head = issuer.last();
    assert!(head.contains("accept: application/json\r\n"), "{head}");
    assert!(
        head.contains(&format!("host: {}\r\n", issuer.address())),
        "{head}"
    );
}

#[tokio::test]
async fn an_issuer_that_was_never_reached_leaves_no_keys() {
    let issuer = IssuerServer::start().await;
    let uri = issuer.uri("/jwks");
    drop(issuer);
    let shop = Shop::start(&uri, short()).await;
    let set = shop.problem("connect to").await;
    assert_eq!((set.keys, set.fetched_at, set.evicted), (0, None, false));
    assert_eq!(shop.keys(), None);
    assert!(
        shop.key_set() != Value::Null,
        "the key set itself is there, and refuses every token"
    );
}

#[tokio::test]
async fn keys_stay_while_the_issuer_is_away_and_follow_it_when_it_is_back() {
    let issuer = IssuerServer::start().await;
    let (uri, address) = (issuer.uri("/jwks"), issuer.address());
    let ((_, first), (_, second)) = (fresh_key(), fresh_key());
    issuer.set("/jwks", Answer::ok(first.clone()));
    let mut shop = Shop::start(&uri, short()).await;
    shop.take_keys(&first).await;
    drop(issuer);
    let set = shop.problem("connect to").await;
    assert_eq!(set.keys, 1);
    assert!(set.failing_since.is_some());

    let issuer = IssuerServer::start_at(address).await;
    for bad in [
        Answer::status("503 Service Unavailable"),
        Answer::ok("<html>maintenance</html>"),
        Answer::ok(r#"{"keys":[{"kty":"oct","k":"c2VjcmV0"}]}"#),
        Answer::ok("{}"),
        Answer::Close,
        Answer::Http("204 No Content".to_owned(), Vec::new()),
    ] {
        let before = issuer.count("/jwks");
        issuer.set("/jwks", bad);
        shop.status("the bad answer is taken", |_| issuer.count("/jwks") > before + 1)
            .await;
    }
    let version = shop.plane.status().await.version;
    issuer.set("/jwks", Answer::ok(second.clone()));
    shop.take_keys(&second).await;
    let set = shop
        .status("the problem is over", |set| set.problem.is_none())
        .await;
    assert_eq!(set.failing_since, None);
    // Nothing was told in between: the first keys were there all the time.
    assert_eq!(shop.cart.version, version.0 + 1);
}

#[tokio::test]
async fn a_key_set_that_is_empty_is_an_answer() {
    let issuer = IssuerServer::start().await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    let mut shop = Shop::start(&issuer.uri("/jwks"), short()).await;
    shop.take_keys(&jwks).await;
    issuer.set("/jwks", Answer::ok(r#"{"keys":[]}"#));
    shop.take_keys(r#"{"keys":[]}"#).await;
}

#[tokio::test]
async fn keys_that_stay_the_same_are_asked_for_with_their_tag_and_not_told_again() {
    let issuer = IssuerServer::start().await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::Tagged("\"one\"".to_owned(), jwks.clone().into()));
    let mut shop = Shop::start(&issuer.uri("/jwks"), short()).await;
    shop.take_keys(&jwks).await;
    let version = shop.cart.version;
    shop.status("it was fetched again", |_| issuer.count("/jwks") > 4)
        .await;
    assert!(issuer.last().contains("if-none-match: \"one\"\r\n"));
    assert_eq!(shop.plane.status().await.version.0, version);
    let (_, next) = fresh_key();
    issuer.set("/jwks", Answer::Tagged("\"two\"".to_owned(), next.clone().into()));
    shop.take_keys(&next).await;
}

#[tokio::test]
async fn an_unknown_key_is_answered_with_fresh_keys_at_a_bounded_rate() {
    let issuer = IssuerServer::start().await;
    let ((_, first), (_, second)) = (fresh_key(), fresh_key());
    issuer.set("/jwks", Answer::ok(first.clone()));
    let mut shop = Shop::start(&issuer.uri("/jwks"), seldom()).await;
    shop.take_keys(&first).await;
    let (before, asked_at) = (shop.fetched_at(), std::time::Instant::now());
    issuer.set("/jwks", Answer::ok(second.clone()));
    for _ in 0..50 {
        shop.unknown_key().await;
    }
    shop.take_keys(&second).await;
    assert!(shop.fetched_at() >= before);
    assert!(asked_at.elapsed() < Duration::from_secs(10));
    assert_eq!(issuer.count("/jwks"), 2, "fifty questions are one fetch");

    // Nothing has changed, and the proxy is told so: the same keys, newly dated.
    let before = shop.fetched_at();
    shop.unknown_key().await;
    while shop.fetched_at() == before {
        shop.cart.take(&mut shop.session).await;
    }
    shop.take_keys(&second).await;
    assert_eq!(issuer.count("/jwks"), 3);
    let counts = shop.plane.status().await.counts.keys;
    assert_eq!((counts.unknown_keys, counts.fetches["ok"]), (51, 3));
}

#[tokio::test]
async fn a_question_about_a_foreign_key_set_fetches_nothing() {
    let issuer = IssuerServer::start().await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    let mut shop = Shop::start(&issuer.uri("/jwks"), seldom()).await;
    shop.take_keys(&jwks).await;
    shop.name = format!("jwks/{}", issuer.uri("/other"));
    shop.unknown_key().await;
    shop.plane
        .status_when("the question is counted", |status| {
            status.counts.keys.unknown_keys == 1
        })
        .await;
    assert_eq!((issuer.count("/jwks"), issuer.count("/other")), (1, 0));
}

#[tokio::test]
async fn a_restart_while_the_issuer_is_away_takes_nothing_from_the_proxies() {
    let issuer = IssuerServer::start().await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    let uri = issuer.uri("/jwks");
    let mut shop = Shop::start(&uri, short()).await;
    shop.take_keys(&jwks).await;
    shop.status("the keys are kept", |set| set.checked_at.is_some())
        .await;
    drop(issuer);
    shop.problem("connect to").await;

    let mut shop = shop.restart(short()).await;
    let told = shop.cart.take(&mut shop.session).await;
    assert!(told.upserts.is_empty(), "the proxy has it all: {told:?}");
    shop.take_keys(&jwks).await;
    let set = shop.problem("connect to").await;
    assert_eq!(set.keys, 1);
    // A proxy that starts anew gets them with its first transaction.
    shop.cart.resources.clear();
    shop.session = shop.cart.connect(&shop.plane).await;
    shop.cart.take(&mut shop.session).await;
    shop.take_keys(&jwks).await;
}

#[tokio::test]
async fn keys_of_an_issuer_that_is_away_for_too_long_are_taken_away() {
    let issuer = IssuerServer::start().await;
    let (uri, address) = (issuer.uri("/jwks"), issuer.address());
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    let times = KeyTimes {
        believed: Duration::from_secs(2),
        ..short()
    };
    let mut shop = Shop::start(&uri, times).await;
    shop.take_keys(&jwks).await;
    drop(issuer);
    shop.take_keys(r#"{"keys":[]}"#).await;
    let set = shop.status("it is shown", |set| set.evicted).await;
    assert_eq!((set.keys, set.fetched_at), (0, None));
    let issuer = IssuerServer::start_at(address).await;
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    shop.take_keys(&jwks).await;
    shop.status("they are believed again", |set| !set.evicted && set.keys == 1)
        .await;
}

#[tokio::test]
async fn answers_without_end_or_bound_are_broken_off() {
    let issuer = IssuerServer::start().await;
    issuer.set("/jwks", Answer::Silence);
    let uri = issuer.uri("/jwks");
    let rule = format!("jwksUri: '{uri}', timeout: 0.2s");
    let shop = Shop::start_with(&rule, &format!("jwks/{uri}"), |options| {
        options.key_times = short();
    })
    .await;
    shop.problem("no answer within 0.2 s").await;
    issuer.set("/jwks", Answer::ok(vec![b' '; 2 * 1024 * 1024]));
    shop.problem("more than 1048576 bytes").await;
    issuer.set(
        "/jwks",
        Answer::Http(format!("200 OK\r\nx: {}", "y".repeat(200_000)), Vec::new()),
    );
    shop.problem("the HTTP exchange").await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks));
    shop.status("it goes on", |set| set.keys == 1).await;
}

#[tokio::test]
async fn redirects_lead_nowhere_but_to_the_same_host() {
    let (issuer, other) = (IssuerServer::start().await, IssuerServer::start().await);
    let (_, jwks) = fresh_key();
    other.set("/jwks", Answer::ok(jwks.clone()));
    issuer.set("/keys", Answer::ok(jwks.clone()));
    let redirect = |target: &str| Answer::status(&format!("302 Found\r\nlocation: {target}"));
    issuer.set("/jwks", redirect(&other.uri("/jwks")));
    let mut shop = Shop::start(&issuer.uri("/jwks"), short()).await;
    shop.problem("the answer leads to").await;
    issuer.set("/jwks", redirect("http://169.254.169.254/latest/meta-data"));
    shop.problem("leads to `http://169.254.169.254/").await;
    issuer.set("/jwks", redirect("/jwks"));
    shop.problem(&format!("leads to `{}`", issuer.uri("/jwks"))).await;
    assert_eq!(other.count("/jwks"), 0);
    issuer.set("/jwks", redirect("/keys"));
    shop.take_keys(&jwks).await;
}

#[tokio::test]
async fn metadata_services_are_never_asked() {
    let shop = Shop::start("http://169.254.169.254/latest/meta-data", short()).await;
    shop.problem("`169.254.169.254` is no address that keys are fetched from")
        .await;
}

#[tokio::test]
async fn discovery_leads_to_the_keys_of_the_issuer_itself() {
    let issuer = IssuerServer::start().await;
    let (_, jwks) = fresh_key();
    let own = issuer.uri("");
    let well_known = "/.well-known/openid-configuration";
    let document =
        |issuer: &str, keys: &str| Answer::ok(json!({"issuer": issuer, "jwks_uri": keys}).to_string());
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    issuer.set(
        well_known,
        document("https://other.example", &issuer.uri("/jwks")),
    );
    let place_rule = format!("discovery/{own}{well_known}");
    let shop = {
        let place = Place::shop();
        place.write(
            "users.yaml",
            &authentication("").replace("issuer: 'https://issuer.example', ", &format!("issuer: '{own}'")),
        );
        place
    };
    let plane = shop.start_with(|options| options.key_times = short());
    let shown = |status: &Status, part: &str| {
        status.key_sets.iter().any(|set| {
            set.name == place_rule && set.problem.as_ref().is_some_and(|problem| problem.contains(part))
        })
    };
    plane
        .status_when("the wrong issuer", |status| {
            shown(status, "that of issuer `https://other.example`")
        })
        .await;
    assert_eq!(issuer.count("/jwks"), 0);
    issuer.set(well_known, document(&own, "http://169.254.169.254/jwks"));
    plane
        .status_when("a metadata service", |status| shown(status, "is no address"))
        .await;
    issuer.set(well_known, document(&own, &issuer.uri("/jwks")));
    plane
        .status_when("the keys", |status| {
            status.key_sets.iter().any(|set| set.keys == 1)
        })
        .await;
}

#[tokio::test]
async fn over_https_only_who_the_roots_vouch_for_is_believed() {
    let folder = tempfile::tempdir().unwrap();
    let own = folder.path().join("own.pem");
    let issuer = IssuerServer::start_tls(&own).await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    let uri = issuer.uri("/jwks");
    let stranger = Shop::start(&uri, short()).await;
    stranger
        .status("it is refused", |set| set.problem.is_some() && set.keys == 0)
        .await;
    assert_eq!(issuer.count("/jwks"), 0);

    let rule = format!("jwksUri: '{uri}'");
    let mut shop = Shop::start_with(&rule, &format!("jwks/{uri}"), |options| {
        options.key_times = short();
        options.jwks_ca = Some(own.clone());
    })
    .await;
    shop.take_keys(&jwks).await;
    // The file is read for each fetch, and its absence is a problem of the issuer, not of the mesh.
    std::fs::remove_file(&own).unwrap();
    let set = shop.problem("the root certificates: read").await;
    assert_eq!(set.keys, 1);
}

#[tokio::test]
async fn a_key_set_that_no_document_speaks_of_is_not_fetched_any_more() {
    let issuer = IssuerServer::start().await;
    let (_, jwks) = fresh_key();
    issuer.set("/jwks", Answer::ok(jwks.clone()));
    let mut shop = Shop::start(&issuer.uri("/jwks"), short()).await;
    shop.take_keys(&jwks).await;
    shop.place.write("users.yaml", "");
    shop.plane
        .status_when("it is gone", |status| status.key_sets.is_empty())
        .await;
    while shop.key_set() != Value::Null {
        let told = shop.cart.take(&mut shop.session).await;
        assert!(
            told.upserts
                .iter()
                .all(|upsert| !upsert.key.starts_with("key-set/"))
        );
    }
    // When a document speaks of it again, what was kept is there at once, whatever the issuer does.
    issuer.set("/jwks", Answer::status("503 Service Unavailable"));
    shop.place.write(
        "users.yaml",
        &authentication(&format!("jwksUri: '{}'", issuer.uri("/jwks"))),
    );
    while shop.key_set() == Value::Null {
        shop.cart.take(&mut shop.session).await;
    }
    shop.take_keys(&jwks).await;
    shop.problem("status 503").await;
}
