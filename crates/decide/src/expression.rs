//! The expressions of AccessRules: compiled when the engine is built, evaluated against the facts of a decision.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

use bartizan_cel::{Activation, Environment, Found, Program, Timestamp, Value, check};
use bartizan_mesh::{Action, Workload};
use bartizan_types::Labels;
use percent_encoding::percent_decode_str;

use crate::facts::Headers;
use crate::matching::joined;
use crate::path::query_of;
use crate::subject::{Http, Subject};

/// An expression of a rule: a program, or why it is none.
#[derive(Debug)]
pub(crate) struct Expression(Result<Program, String>);

impl Expression {
    /// Compiles an expression. `config` has checked it; one that cannot be compiled here (by an older proxy) is kept as one
    /// that fails closed.
    pub(crate) fn compile(text: &str) -> Self {
        Self(check(text, Environment::access_rule()).map_err(|problems| {
            let first = problems.into_iter().next().map(|problem| problem.what);
            first.unwrap_or_else(|| "it cannot be read".to_owned())
        }))
    }

    /// Why it cannot be compiled.
    pub(crate) fn problem(&self) -> Option<&str> {
        self.0.as_ref().err().map(String::as_str)
    }

    /// Whether an attribute or an object is read; one that cannot be compiled may read anything.
    pub(crate) fn reads(&self, path: &str) -> bool {
        self.0.as_ref().map_or(true, |program| program.uses(path))
    }

    /// Whether it is true. Where it cannot be evaluated it does not allow, and it does deny.
    pub(crate) fn holds<H: Headers + ?Sized>(&self, action: Action, subject: &Subject<'_, H>) -> bool {
        let fails_to = action != Action::Allow;
        match self.program(subject) {
            Ok(program) => program.evaluate(&Seen::new(subject)).unwrap_or(fails_to),
            Err(_) => fails_to,
        }
    }

    /// What it says, and the values that it read for that.
    pub(crate) fn explain<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>) -> Read {
        let recording = Recording {
            seen: Seen::new(subject),
            read: RefCell::default(),
        };
        let value = self.program(subject).and_then(|program| {
            program
                .evaluate(&recording)
                .map_err(|error| match program.text().get(error.range()) {
                    Some(part) => Cow::Owned(format!("{error} at `{part}`")),
                    None => Cow::Owned(error.to_string()),
                })
        });
        let value = value.map_err(Cow::into_owned);
        Read {
            value,
            values: recording.read.into_inner().into_iter().collect(),
        }
    }

    /// The program, where it can be evaluated at all; why not, costs nothing to say.
    fn program<H: Headers + ?Sized>(&self, subject: &Subject<'_, H>) -> Result<&Program, Cow<'_, str>> {
        let program = self
            .0
            .as_ref()
            .map_err(|problem| Cow::Borrowed(problem.as_str()))?;
        // Not even the half that does not need it counts: what a rule says of requests says nothing of connections.
        if subject.http.is_none() && (program.uses("request") || program.uses("auth")) {
            return Err(Cow::Borrowed(
                "it speaks of a request, and this is a connection of bytes",
            ));
        }
        Ok(program)
    }
}

/// What an expression said, for an explanation.
pub(crate) struct Read {
    pub(crate) value: Result<bool, String>,
    /// Attribute (with its key) and value, in the order of their names.
    pub(crate) values: Vec<(String, String)>,
}

/// The facts, as an expression names them.
struct Seen<'s, 'a, H: ?Sized> {
    subject: &'s Subject<'a, H>,
    /// The workload at the source's address, if it is whom the peer proved to be.
    source: Option<&'s Workload>,
    /// The query, taken apart when it is first asked for: a macro asks once a round.
    query: OnceCell<BTreeMap<String, String>>,
    /// All headers, likewise.
    headers: OnceCell<BTreeMap<String, String>>,
}

impl<'s, 'a, H: Headers + ?Sized> Seen<'s, 'a, H> {
    fn new(subject: &'s Subject<'a, H>) -> Self {
        let identity = subject.connection.peer.identity();
        let source = subject
            .snapshot
            .workload_at(subject.connection.source)
            .filter(|workload| identity == Some(&workload.identity));
        Self {
            subject,
            source: source.map(|workload| &**workload),
            query: OnceCell::new(),
            headers: OnceCell::new(),
        }
    }

    fn source(&self, field: &str, key: Option<&str>) -> Found<'_> {
        let connection = self.subject.connection;
        let identity = self.subject.identity;
        let workload = identity.and_then(|identity| identity.workload);
        match field {
            "authenticated" => identity.is_some().into(),
            "identity" => connection
                .peer
                .identity()
                .map(bartizan_types::SpiffeId::as_str)
                .into(),
            "principal" => identity.map(|identity| identity.principal).into(),
            "trustDomain" => identity
                .and_then(|identity| identity.principal.split('/').next())
                .into(),
            "namespace" => workload.map(|(namespace, _)| namespace).into(),
            "serviceAccount" => workload.map(|(_, account)| account).into(),
            "ip" => connection.source.to_string().into(),
            "remoteIp" => connection.remote.to_string().into(),
            // About a workload that is not known nothing can be said, not even that it has no such label.
            "labels" => self
                .source
                .map_or(Found::Unavailable, |workload| labels(&workload.labels, key)),
            "version" => self
                .source
                .map_or(Found::Unavailable, |workload| workload.version.as_ref().into()),
            "workload" => self.source.map_or(Found::Unavailable, |workload| {
                workload.workload_name.as_str().into()
            }),
            _ => Found::Unavailable,
        }
    }

    fn destination(&self, field: &str, key: Option<&str>) -> Found<'_> {
        let (connection, view) = (self.subject.connection, self.subject.view);
        match field {
            "namespace" => view.workload.namespace.as_str().into(),
            "serviceAccount" => view.identity.principal().rsplit('/').next().into(),
            "workload" => self
                .subject
                .snapshot
                .workload(&view.workload)
                .map_or(Found::Unavailable, |workload| {
                    workload.workload_name.as_str().into()
                }),
            "version" => view.labels.get("version").into(),
            "labels" => labels(&view.labels, key),
            "ip" => connection.destination.ip().to_string().into(),
            "port" => i64::from(connection.destination.port()).into(),
            _ => Found::Unavailable,
        }
    }

    fn request<'f>(&'f self, http: &'f Http<'_, H>, field: &str, key: Option<&str>) -> Found<'f> {
        match (field, key) {
            ("method", _) => http.method.into(),
            ("path", _) => http.path.into(),
            ("host", _) => http.authority.as_deref().map(str::to_ascii_lowercase).into(),
            ("headers", Some(name)) => header(http.headers, name).into(),
            ("headers", None) => Value::map(self.headers.get_or_init(|| all_headers(http.headers))).into(),
            ("query", key) => {
                let query = self.query.get_or_init(|| parameters(http.target));
                match key {
                    Some(name) => query.get(name).map(String::as_str).into(),
                    None => Value::map(query).into(),
                }
            }
            _ => Found::Unavailable,
        }
    }

    fn user<'f>(http: &'f Http<'_, H>, field: &str, key: Option<&str>) -> Found<'f> {
        let user = http.user;
        match (field, key) {
            ("authenticated", _) => user.is_some().into(),
            ("principal", _) => user.and_then(|user| user.principal()).into(),
            ("issuer", _) => user.and_then(|user| user.issuer()).into(),
            ("subject", _) => user.and_then(|user| user.subject()).into(),
            ("presenter", _) => user.and_then(|user| user.presenter()).into(),
            ("audiences", _) => match user {
                Some(user) => Value::list(user.audience_list()).into(),
                None => Value::list_of([]).into(),
            },
            ("claims", Some(name)) => user.and_then(|user| user.claims().get(name)).into(),
            ("claims", None) => match user {
                Some(user) => Value::map(user.claims()).into(),
                None => Value::map_of([]).into(),
            },
            _ => Found::Unavailable,
        }
    }

    fn connection(&self, field: &str) -> Found<'_> {
        let connection = self.subject.connection;
        let tls = connection.tls;
        match field {
            "tls" => tls.is_some().into(),
            "tlsVersion" => tls.map(|tls| tls.version).into(),
            "cipher" => tls.map(|tls| tls.cipher).into(),
            "group" => tls.map(|tls| tls.group).into(),
            "sni" => connection.sni.into(),
            _ => Found::Unavailable,
        }
    }
}

impl<H: Headers + ?Sized> Activation for Seen<'_, '_, H> {
    fn resolve<'f>(&'f self, path: &str, key: Option<&str>) -> Found<'f> {
        if path == "now" {
            return Value::Timestamp(Timestamp::from_seconds(self.subject.connection.now)).into();
        }
        let Some((object, field)) = path.split_once('.') else {
            return Found::Unavailable;
        };
        match (object, &self.subject.http) {
            ("source", _) => self.source(field, key),
            ("destination", _) => self.destination(field, key),
            ("connection", _) => self.connection(field),
            ("request", Some(http)) => self.request(http, field, key),
            ("auth", Some(http)) => Self::user(http, field, key),
            _ => Found::Unavailable,
        }
    }
}

/// Keeps what was asked for.
struct Recording<'s, 'a, H: ?Sized> {
    seen: Seen<'s, 'a, H>,
    read: RefCell<BTreeMap<String, String>>,
}

impl<H: Headers + ?Sized> Activation for Recording<'_, '_, H> {
    fn resolve<'f>(&'f self, path: &str, key: Option<&str>) -> Found<'f> {
        let found = self.seen.resolve(path, key);
        let name = match key {
            Some(key) => format!("{path}[\"{key}\"]"),
            None => path.to_owned(),
        };
        let value = match &found {
            Found::Value(value) => shown(value),
            Found::Absent => "absent".to_owned(),
            Found::Unavailable => "not known here".to_owned(),
        };
        self.read.borrow_mut().insert(name, value);
        found
    }
}

/// A value as CEL writes it; long ones are cut.
fn shown(value: &Value<'_>) -> String {
    const MOST: usize = 256;
    let mut text = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Int(value) => value.to_string(),
        Value::Double(value) => value.to_string(),
        Value::String(text) => format!("{:?}", text.as_str()),
        Value::Timestamp(value) => value.to_string(),
        Value::Duration(value) => value.to_string(),
        Value::List(list) => {
            let elements = (0..list.len().min(16)).filter_map(|at| list.at(at));
            format!(
                "[{}]",
                elements
                    .map(|element| shown(&element))
                    .collect::<Vec<_>>()
                    .join(", ")
            )
        }
        Value::Map(map) => {
            let keys = map.keys();
            let keys: Vec<String> = keys.iter().take(16).map(shown).collect();
            format!("a map of {}", keys.join(", "))
        }
    };
    if let Some((at, _)) = text.char_indices().nth(MOST) {
        text.truncate(at);
        text.push('…');
    }
    text
}

fn labels<'l>(labels: &'l Labels, key: Option<&str>) -> Found<'l> {
    match key {
        Some(key) => labels.get(key).into(),
        None => Value::map(labels).into(),
    }
}

/// The values of a header, joined with `,`; names are in lower case, so another spelling names none.
fn header<H: Headers + ?Sized>(headers: &H, name: &str) -> Option<String> {
    if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
        return None;
    }
    joined(headers, name).map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// All headers by their names in lower case.
fn all_headers<H: Headers + ?Sized>(headers: &H) -> BTreeMap<String, String> {
    headers
        .names()
        .map(str::to_ascii_lowercase)
        .filter_map(|name| Some((name.clone(), header(headers, &name)?)))
        .collect()
}

/// The parameters of a query as forms have them; the values of one that is there several times are joined with `,`.
fn parameters(target: &str) -> BTreeMap<String, String> {
    let plain = |text: &str| -> String {
        let text: Cow<'_, str> = if text.contains('+') {
            Cow::Owned(text.replace('+', " "))
        } else {
            Cow::Borrowed(text)
        };
        percent_decode_str(&text).decode_utf8_lossy().into_owned()
    };
    let mut all: BTreeMap<String, String> = BTreeMap::new();
    let pairs = query_of(target).into_iter().flat_map(|query| query.split('&'));
    for pair in pairs.filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        all.entry(plain(name))
            .and_modify(|before| {
                before.push(',');
                before.push_str(&plain(value));
            })
            .or_insert_with(|| plain(value));
    }
    all
}
