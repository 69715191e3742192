//! The thinking of the data plane: facts of a connection or a request and the mesh in, a decision out.
//!
//! Everything is a function of its arguments; time and randomness are arguments. What decides live requests is what
//! `explain` and the tests run: [`Engine`] compiles a snapshot once, [`authorize_http`] and [`authorize_tcp`] make the
//! [`Permit`] without which nothing is sent, [`route`](route::route), [`outbound`](outbound::outbound),
//! [`choose`] and [`retry`](retry::retry) say where a request goes.

pub mod authenticate;
pub mod authorize;
pub mod balance;
mod denied;
pub mod engine;
pub mod explain;
mod expression;
pub mod facts;
pub mod judge;
pub mod marks;
mod matching;
pub mod mtls;
pub mod outbound;
pub mod path;
mod policy_set;
pub mod retry;
pub mod route;
mod rule_index;
mod subject;
pub mod user;

pub use authenticate::{
    Authenticated, Changes, Keys, RefusedKind, TokenRefused, TokenRule, Unauthenticated, authenticate,
};
pub use authorize::{
    Ask, AuthorizerSays, Permit, Verdict, authorize_after, authorize_connection, authorize_http,
    authorize_tcp, authorize_tcp_after,
};
pub use balance::{Choice, InFlight, choose};
pub use denied::{Denied, Reason};
pub use engine::Engine;
pub use explain::{
    ExplainedExpression, ExplainedPolicy, ExplainedUser, Explanation, explain_http, explain_tcp,
};
pub use facts::{ConnectionFacts, Headers, HttpFacts, NoHeaders, TlsFacts};
pub use judge::{judge_again_connection, judge_again_http, judge_again_tcp};
pub use marks::{Marks, ShadowResult};
pub use mtls::{Admission, FirstBytes, Refused, admit};
pub use outbound::{Answer, Destination, Refusal, backend, outbound, resolve_name};
pub use path::{Ambiguous, CanonicalPath, canonical_path, forwarded_target, query_of};
pub use retry::{Failure, Retry, Stop, retry};
pub use route::{Forward, Plan, Reply, route};
pub use user::User;
