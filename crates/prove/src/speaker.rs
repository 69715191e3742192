//! Atoms in the words of policies: each asks one thing of one dimension, and says what values that dimension has.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use bartizan_mesh::{Matcher, PathRule, RemoteAddress, Snapshot, View};
use bartizan_types::{Cidr, NamespacedName, StringMatch};

use crate::address::NumberAtom;
use crate::clock::ClockAtom;
use crate::formula::Formula;
use crate::problem::{Atom, Dimension, Problem, Shape, Values};
use crate::text::{PathForm, TextAtom, Texts};

/// What is known before any policy is read: who there is, and what the callee is.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    /// `DOMAIN/ns/`.
    pub(crate) head: String,
    pub(crate) paths: PathForm,
    pub(crate) path_rule: PathRule,
    /// Identities of workloads, without `spiffe://`.
    pub(crate) identities: Vec<String>,
    /// Addresses of workloads.
    pub(crate) sources: Vec<IpAddr>,
    /// The callee's own addresses; `None` where they are not known.
    pub(crate) destinations: Option<Vec<IpAddr>>,
    /// The callee's ports.
    pub(crate) ports: Vec<i64>,
}

impl Ground {
    /// The ground of a question about a workload.
    pub(crate) fn of(snapshot: &Snapshot, view: &View) -> Self {
        let mut workloads: Vec<_> = snapshot.workloads().collect();
        workloads.sort_by(|a, b| a.name.cmp(&b.name));
        let mut identities: Vec<String> = workloads
            .iter()
            .map(|workload| workload.identity.principal().to_owned())
            .collect();
        identities.dedup();
        let path_rule = snapshot
            .settings()
            .map_or(PathRule::RefuseAmbiguous, |settings| settings.paths);
        let domain = snapshot.settings().map_or_else(
            || view.identity.trust_domain().to_owned(),
            |settings| settings.trust_domain.as_str().to_owned(),
        );
        Self {
            head: format!("{domain}/ns/"),
            paths: form_of(path_rule),
            path_rule,
            identities,
            sources: workloads
                .iter()
                .flat_map(|workload| workload.addresses.iter().copied())
                .collect(),
            destinations: snapshot
                .workload(&view.workload)
                .map(|workload| workload.addresses.clone())
                .filter(|addresses| !addresses.is_empty() && view.gateway.is_none()),
            ports: view
                .inbound
                .iter()
                .map(|port| i64::from(port.port.get()))
                .collect(),
        }
    }

    pub(crate) fn trust_domain(&self) -> &str {
        self.head.split('/').next().unwrap_or_default()
    }
}

/// Which paths each rule lets policies see.
fn form_of(rule: PathRule) -> PathForm {
    let (empty_segments, dot_segments, as_sent, unsettled) = match rule {
        PathRule::RefuseAmbiguous => (false, false, false, true),
        PathRule::None => (true, true, true, true),
        PathRule::Base => (true, false, true, false),
        PathRule::MergeSlashes | PathRule::DecodeAndMergeSlashes => (false, false, true, false),
    };
    PathForm {
        empty_segments,
        dot_segments,
        backslash: rule == PathRule::None,
        as_sent,
        unsettled,
    }
}

/// Says things about requests to one callee.
#[derive(Debug)]
pub(crate) struct Speaker<'p> {
    pub(crate) problem: &'p mut Problem,
    pub(crate) ground: &'p Ground,
    /// The client's address is that of the connection.
    pub(crate) remote_is_source: bool,
    /// Headers that conditions of rules read line by line; an expression reads the lines as one text.
    pub(crate) read_by_line: BTreeSet<Arc<str>>,
}

impl<'p> Speaker<'p> {
    pub(crate) fn new(problem: &'p mut Problem, ground: &'p Ground, view: &View) -> Self {
        Self {
            problem,
            ground,
            remote_is_source: view.remote == RemoteAddress::default(),
            read_by_line: BTreeSet::new(),
        }
    }

    pub(crate) fn is_http(&mut self) -> Formula {
        self.flag(Dimension::Http, 1)
    }

    /// A dimension of two values is 1; `preferred` is tried first.
    fn flag(&mut self, dimension: Dimension, preferred: i64) -> Formula {
        self.problem
            .atom(dimension, Atom::Number(NumberAtom::Is(1)), || Values::Numbers {
                preferred: vec![preferred],
                range: (0, 1),
            })
    }

    pub(crate) fn port(&mut self, number: u16) -> Formula {
        self.port_atom(NumberAtom::Is(i64::from(number)))
    }

    pub(crate) fn port_atom(&mut self, atom: NumberAtom) -> Formula {
        let ports = &self.ground.ports;
        self.problem
            .atom(Dimension::Port, Atom::Number(atom), || Values::Numbers {
                preferred: ports.clone(),
                range: (1, 65535),
            })
    }

    pub(crate) fn identity(&mut self, atom: TextAtom) -> Formula {
        let ground = self.ground;
        self.problem
            .atom(Dimension::Identity, Atom::Text(atom), || Values::Text {
                texts: Texts::Identity {
                    head: ground.head.clone(),
                },
                preferred: ground.identities.clone(),
                optional: true,
            })
    }

    pub(crate) fn has_identity(&mut self) -> Formula {
        self.identity(TextAtom::There)
    }

    pub(crate) fn source(&mut self, block: Cidr) -> Formula {
        let ground = self.ground;
        self.problem
            .atom(Dimension::Source, Atom::Block(block), || Values::Addresses {
                preferred: ground.sources.clone(),
                among: None,
            })
    }

    pub(crate) fn remote(&mut self, block: Cidr) -> Formula {
        if self.remote_is_source {
            return self.source(block);
        }
        self.problem
            .atom(Dimension::Remote, Atom::Block(block), || Values::Addresses {
                preferred: Vec::new(),
                among: None,
            })
    }

    pub(crate) fn destination(&mut self, block: Cidr) -> Formula {
        let ground = self.ground;
        self.problem
            .atom(Dimension::Destination, Atom::Block(block), || Values::Addresses {
                preferred: Vec::new(),
                among: ground.destinations.clone(),
            })
    }

    pub(crate) fn sni(&mut self, atom: TextAtom) -> Formula {
        self.text(Dimension::Sni, atom, Texts::Sni, true)
    }

    pub(crate) fn method(&mut self, atom: TextAtom) -> Formula {
        self.problem
            .atom(Dimension::Method, Atom::Text(atom), || Values::Text {
                texts: Texts::Method,
                preferred: ["GET", "POST", "PUT", "DELETE"].map(str::to_owned).to_vec(),
                optional: false,
            })
    }

    pub(crate) fn path(&mut self, atom: TextAtom) -> Formula {
        let form = self.ground.paths;
        self.problem
            .atom(Dimension::Path, Atom::Text(atom), || Values::Text {
                texts: Texts::Path(form),
                preferred: vec!["/".to_owned()],
                optional: false,
            })
    }

    pub(crate) fn host(&mut self, atom: TextAtom) -> Formula {
        self.text(
            Dimension::Host,
            TextAtom::AnyCase(Box::new(atom)),
            Texts::Host,
            true,
        )
    }

    /// As [`Speaker::host`], with regard to case; hosts are in lower case here.
    pub(crate) fn host_as_it_is(&mut self, atom: TextAtom) -> Formula {
        self.text(Dimension::Host, atom, Texts::Host, true)
    }

    pub(crate) fn header(&mut self, name: &str, atom: TextAtom) -> Formula {
        self.text(Dimension::Header(name.into()), atom, Texts::Header, true)
    }

    pub(crate) fn query(&mut self, name: &str, atom: TextAtom) -> Formula {
        self.text(Dimension::Query(name.into()), atom, Texts::Any, true)
    }

    fn text(&mut self, dimension: Dimension, atom: TextAtom, texts: Texts, optional: bool) -> Formula {
        self.problem.atom(dimension, Atom::Text(atom), || Values::Text {
            texts,
            preferred: Vec::new(),
            optional,
        })
    }

    pub(crate) fn has_user(&mut self) -> Formula {
        self.flag(Dimension::User, 0)
    }

    pub(crate) fn issuer(&mut self, atom: TextAtom) -> Formula {
        self.has_user();
        self.text(Dimension::Issuer, atom, Texts::Any, true)
    }

    pub(crate) fn subject(&mut self, atom: TextAtom) -> Formula {
        self.has_user();
        self.text(Dimension::Subject, atom, Texts::Any, true)
    }

    pub(crate) fn presenter(&mut self, atom: TextAtom) -> Formula {
        self.has_user();
        self.text(Dimension::Presenter, atom, Texts::Any, true)
    }

    /// A text that a claim is, or that is in its list. Claims that every token has as one text are told apart.
    pub(crate) fn claim(&mut self, path: &[Arc<str>], atom: TextAtom) -> Formula {
        match path {
            [only] if &**only == "iss" => self.issuer(atom),
            [only] if &**only == "sub" => self.subject(atom),
            [only] if &**only == "azp" => self.presenter(atom),
            _ => {
                self.has_user();
                self.problem
                    .atom(Dimension::Claim(path.to_vec()), Atom::Text(atom), || {
                        Values::Elements
                    })
            }
        }
    }

    /// What a claim is.
    pub(crate) fn shape(&mut self, path: &[Arc<str>], shape: Shape) -> Formula {
        self.has_user();
        // So that the claim's texts exist to be constrained.
        self.problem.atom(
            Dimension::Claim(path.to_vec()),
            Atom::Text(TextAtom::There),
            || Values::Elements,
        );
        // Each shape is a class of its own, whichever are asked for.
        let mut asked = Formula::Never;
        for one in [Shape::Absent, Shape::Text, Shape::List, Shape::Other] {
            let is = self.problem.atom(
                Dimension::Shape(path.to_vec()),
                Atom::Number(NumberAtom::Is(one.number())),
                || Values::Numbers {
                    preferred: vec![Shape::Absent.number()],
                    range: (0, 3),
                },
            );
            if one == shape {
                asked = is;
            }
        }
        asked
    }

    pub(crate) fn has_tls(&mut self) -> Formula {
        self.flag(Dimension::Tls, 0)
    }

    pub(crate) fn tls_fact(&mut self, dimension: Dimension, atom: TextAtom) -> Formula {
        self.has_tls();
        let known: &[&str] = if dimension == Dimension::TlsVersion {
            &["TLSv1.3", "TLSv1.2"]
        } else if dimension == Dimension::Cipher {
            &["TLS_AES_256_GCM_SHA384"]
        } else {
            &["X25519MLKEM768"]
        };
        let preferred = known.iter().map(|&text| text.to_owned()).collect();
        self.problem.atom(dimension, Atom::Text(atom), || Values::Text {
            texts: Texts::Any,
            preferred,
            optional: true,
        })
    }

    pub(crate) fn clock(&mut self, atom: ClockAtom) -> Formula {
        self.problem
            .atom(Dimension::Now, Atom::Clock(atom), || Values::Times)
    }

    /// A part of an expression that is not looked into: when it is true, and when it is false.
    pub(crate) fn opaque(&mut self, text: &str) -> (Formula, Formula) {
        let mut is = |number| {
            self.problem.atom(
                Dimension::Opaque(text.into()),
                Atom::Number(NumberAtom::Is(number)),
                || Values::Numbers {
                    preferred: Vec::new(),
                    range: (0, 2),
                },
            )
        };
        (is(1), is(0))
    }

    /// At least one of the wanted values, where there is one, and none of the excluded ones.
    pub(crate) fn matcher<T>(
        &mut self,
        matcher: &Matcher<T>,
        mut one: impl FnMut(&mut Self, &T) -> Formula,
    ) -> Formula {
        let any: Vec<Formula> = matcher.any.iter().map(|value| one(self, value)).collect();
        let none: Vec<Formula> = matcher.none.iter().map(|value| one(self, value)).collect();
        let any = if matcher.any.is_empty() {
            Formula::Always
        } else {
            Formula::any(any)
        };
        any.and(Formula::any(none).not())
    }
}

/// A text match where presence asks for a text that is not empty.
pub(crate) fn text_atom(wanted: &StringMatch) -> TextAtom {
    match wanted {
        StringMatch::Present => TextAtom::NotEmpty,
        StringMatch::Exact(text) => TextAtom::Exact(text.to_string()),
        StringMatch::Prefix(text) => TextAtom::Prefix(text.to_string()),
        StringMatch::Suffix(text) => TextAtom::Suffix(text.to_string()),
    }
}

/// A text match where presence asks only that there is one.
pub(crate) fn present_atom(wanted: &StringMatch) -> TextAtom {
    match wanted {
        StringMatch::Present => TextAtom::There,
        StringMatch::Exact(_) | StringMatch::Prefix(_) | StringMatch::Suffix(_) => text_atom(wanted),
    }
}

/// A service account's identity.
pub(crate) fn account_atom(ground: &Ground, account: &NamespacedName) -> TextAtom {
    TextAtom::Exact(format!(
        "{}{}/sa/{}",
        ground.head, account.namespace, account.name
    ))
}
