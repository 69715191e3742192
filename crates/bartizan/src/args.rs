//! The command line.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::cmd::echo::EchoArgs;

/// A zero-trust service mesh in one binary: mTLS between SPIFFE identities, every request decided by policy.
#[derive(Parser, Debug)]
#[command(name = "bartizan", version, max_term_width = 100, after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) mesh: MeshArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done, 1 failed, 2 wrong usage, 3 the documents have errors, 4 denied, 5 no mesh runs here, 6 this host does not permit a sandbox, 7 a claim is false, 8 a claim is not decided, 9 a change opens something, 10 a change only closes something";

/// Which mesh.
#[derive(Args, Debug, Clone)]
pub(crate) struct MeshArgs {
    /// The mesh's name; several may run side by side
    #[arg(
        long,
        global = true,
        default_value = "default",
        value_name = "NAME",
        env = "BARTIZAN_MESH"
    )]
    pub(crate) mesh: String,
    /// Where the mesh keeps its CA, versions and logs [default: below the user's state directory]
    #[arg(long, global = true, value_name = "DIR", env = "BARTIZAN_STATE")]
    pub(crate) state: Option<PathBuf>,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run a mesh around the workloads of a folder of documents
    Up(UpArgs),
    /// End a mesh
    Down(DownArgs),
    /// What runs, with identities, readiness, mTLS state and versions
    Status(StatusArgs),
    /// What a workload or its proxy prints, and its access log
    Logs(LogsArgs),
    /// Run a command as one more workload
    Run(RunArgs),
    /// Run a command in a workload's container
    Exec(ExecArgs),
    /// Make one request and print what happened to it, hop by hop
    Call(CallArgs),
    /// Read a folder of documents and print its findings, without running anything
    Check(CheckArgs),
    /// Whether one workload may call another, and which line of which file says so
    Can(CanArgs),
    /// Why a request was denied or allowed: policy, rule, file and line
    Explain(ExplainArgs),
    /// Show the profiles: what holds where no policy speaks
    Profile(ProfileArgs),
    /// Make keys and tokens to try policies with
    Token(TokenArgs),
    /// Whether claims hold for every request that a folder lets in, with a counterexample where not
    Prove(ProveArgs),
    /// What a change of documents opens and closes, over all requests, with an example each
    Diff(DiffArgs),
    /// Run the PolicyTest documents of a folder: what policies must decide
    Test(TestArgs),
    /// A test service: HTTP/1.1, HTTP/2, gRPC and TCP
    Echo(EchoArgs),
    /// Run a single proxy from a folder with a StaticProxy document, without a control plane
    Proxy(ProxyArgs),
}

/// How output looks.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// How an answer of `can` looks.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(crate) enum CanOutput {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
    /// The matrix for a spreadsheet
    Csv,
    /// The matrix as a picture
    Svg,
}

/// How documents are read.
#[derive(Args, Debug, Clone)]
pub(crate) struct DocumentArgs {
    /// What holds where no policy speaks: zero-trust, nist, istio, or a file with a Profile [default: a Profile among the
    /// documents, else zero-trust]
    #[arg(long, value_name = "NAME|FILE")]
    pub(crate) profile: Option<String>,
    /// The mesh's trust domain
    #[arg(long, default_value = "cluster.local", value_name = "NAME")]
    pub(crate) trust_domain: String,
    /// Warnings, such as documents of foreign kinds, are errors
    #[arg(long)]
    pub(crate) strict: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct UpArgs {
    /// Folders or files with Kubernetes, Istio and Gateway API documents
    #[arg(required = true, value_name = "DIR")]
    pub(crate) sources: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    /// Return when the mesh is up; it goes on in the background
    #[arg(long)]
    pub(crate) detach: bool,
    /// How the summary looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
    /// How long SVIDs live
    #[arg(long, default_value = "1h", value_name = "DURATION", value_parser = duration)]
    pub(crate) svid_ttl: Duration,
    /// Worker threads of each proxy
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) workers: u32,
    /// Where gateways listen on this machine
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub(crate) gateway_address: IpAddr,
    /// Root certificates (PEM) of issuers of tokens that the system's own do not vouch for
    #[arg(long, value_name = "FILE")]
    pub(crate) jwks_ca: Option<PathBuf>,
    /// The port of the admin page on loopback; 0 takes any free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub(crate) admin_port: u16,
    /// How long to wait for every workload to be ready before saying what is missing
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Duration,
    /// How long a proxy may take to finish what is open when the mesh ends
    #[arg(long, default_value = "5s", value_name = "DURATION", value_parser = duration)]
    pub(crate) drain: Duration,
    /// Set by `--detach` in the process that stays
    #[arg(long, hide = true)]
    pub(crate) detached_child: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct DownArgs {
    /// How long to wait for the end
    #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Duration,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct StatusArgs {
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
    /// Print what proxies are told instead: of one workload (NAMESPACE/NAME, or a name that only one has), or `all`
    #[arg(long, value_name = "WORKLOAD")]
    pub(crate) dump: Option<String>,
    /// Wait until every workload is ready and every proxy serves the newest version
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    pub(crate) wait: Option<Duration>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct LogsArgs {
    /// A workload: NAMESPACE/NAME, or a name that only one has; all of them when absent
    pub(crate) workload: Option<String>,
    /// One container, or `proxy`
    #[arg(short, long)]
    pub(crate) container: Option<String>,
    /// The access log instead of what is printed
    #[arg(long)]
    pub(crate) access: bool,
    /// Go on as more comes
    #[arg(short, long)]
    pub(crate) follow: bool,
    /// The last N lines of each file
    #[arg(long, default_value_t = 100, value_name = "N")]
    pub(crate) tail: usize,
    /// How it looks; a line of the access log is JSON always
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct RunArgs {
    /// The identity: NAMESPACE/SERVICEACCOUNT
    #[arg(long = "as", value_name = "NAMESPACE/SERVICEACCOUNT")]
    pub(crate) identity: String,
    /// A label of the workload, besides `bartizan.dev/run`
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub(crate) labels: Vec<String>,
    /// A path that it may write
    #[arg(long = "write", value_name = "PATH")]
    pub(crate) write: Vec<PathBuf>,
    /// A variable of its environment
    #[arg(short, long = "env", value_name = "NAME=VALUE")]
    pub(crate) environment: Vec<String>,
    /// The command
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ExecArgs {
    /// A workload: NAMESPACE/NAME, or a name that only one has
    pub(crate) workload: String,
    /// Its container; the first one when absent
    #[arg(short, long)]
    pub(crate) container: Option<String>,
    /// The command
    #[arg(required = true, last = true, value_name = "CMD")]
    pub(crate) command: Vec<String>,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct CallArgs {
    /// http://, h2c://, grpc:// or tcp:// and host, port, path
    pub(crate) url: String,
    /// Call as this identity, from inside the mesh; without it from this machine, as somebody outside
    #[arg(long = "as", value_name = "NAMESPACE/SERVICEACCOUNT")]
    pub(crate) identity: Option<String>,
    /// The method
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// A header
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// The body, the gRPC message, or the line; makes a GET a POST
    #[arg(short = 'd', long, value_name = "TEXT")]
    pub(crate) data: Option<String>,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
    /// Only the request, no look into the mesh's logs
    #[arg(long, hide = true)]
    pub(crate) bare: bool,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct CheckArgs {
    /// Folders or files
    #[arg(required = true, value_name = "DIR")]
    pub(crate) sources: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct CanArgs {
    /// The caller: NAMESPACE/SERVICEACCOUNT, or `outside` for a client without an identity
    pub(crate) from: Option<String>,
    /// The callee: a service's name as NAME.NAMESPACE, or a workload or gateway NAMESPACE/NAME, with :PORT behind it where it has several
    pub(crate) to: Option<String>,
    /// The method; without it the connection itself is judged, as for TCP
    pub(crate) method: Option<String>,
    /// The path
    #[arg(default_value = "/")]
    pub(crate) path: String,
    /// A header of the request
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub(crate) headers: Vec<String>,
    /// A claim of the user's token, which is taken to be in order: NAME=TEXT, or NAME:=JSON
    #[arg(long = "claim", value_name = "NAME=TEXT")]
    pub(crate) claims: Vec<String>,
    /// The caller's address
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) source_ip: Option<IpAddr>,
    /// The client's address as trusted proxies tell it
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) remote_ip: Option<IpAddr>,
    /// When, such as 2026-01-05T12:00:00Z [default: now]
    #[arg(long, value_name = "TIME", value_parser = crate::text::time)]
    pub(crate) at: Option<i64>,
    /// Who may call this callee, what, and by which rule: over all requests
    #[arg(long, value_name = "TO", conflicts_with_all = ["from", "reach", "matrix"])]
    pub(crate) who: Option<String>,
    /// What this caller may call
    #[arg(long, value_name = "FROM", conflicts_with_all = ["from", "matrix"])]
    pub(crate) reach: Option<String>,
    /// With --reach: also what it reaches through those whom it may call, which is the blast radius of its compromise
    #[arg(long, requires = "reach")]
    pub(crate) transitive: bool,
    /// All callers by all callees, with the rule behind each cell
    #[arg(long, conflicts_with = "from")]
    pub(crate) matrix: bool,
    /// Judge this folder instead of the running mesh
    #[arg(long = "in", value_name = "DIR")]
    pub(crate) folder: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: CanOutput,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ProveArgs {
    /// Folders or files; the PolicyClaim documents among them are claims
    #[arg(required = true, value_name = "DIR")]
    pub(crate) sources: Vec<PathBuf>,
    /// A file with more PolicyClaim documents
    #[arg(long = "claim", value_name = "FILE")]
    pub(crate) claims: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

/// Which changes end with an exit code other than 0.
#[derive(ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FailOn {
    /// Those that open something
    Opens,
    /// Those that close something
    Closes,
    /// Those that open or close something
    Any,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct DiffArgs {
    /// A folder or file as it was
    pub(crate) old: PathBuf,
    /// A folder or file as it will be
    pub(crate) new: PathBuf,
    /// Which changes end with 9 (opens) or 10 (only closes) instead of 0
    #[arg(long, value_enum, default_value = "any")]
    pub(crate) fail_on: FailOn,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct TestArgs {
    /// Folders or files; the PolicyTest documents among them are run
    #[arg(required = true, value_name = "DIR")]
    pub(crate) sources: Vec<PathBuf>,
    /// Make the requests in the running mesh, as the callers, instead of judging them by the folder alone
    #[arg(long)]
    pub(crate) live: bool,
    /// With --live: tests that cannot be run there do not count as failed
    #[arg(long, requires = "live")]
    pub(crate) allow_skipped: bool,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ExplainArgs {
    /// A decision id (`x-bartizan-decision`) or a request id (`x-request-id`)
    #[arg(required_unless_present = "last_denied")]
    pub(crate) id: Option<String>,
    /// The newest denial
    #[arg(long, conflicts_with = "id")]
    pub(crate) last_denied: bool,
    /// How it looks
    #[arg(long, value_enum, default_value = "text")]
    pub(crate) output: Output,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ProxyArgs {
    /// A folder with one StaticProxy document and the policies that hold for it
    #[arg(long = "static", value_name = "DIR")]
    pub(crate) folder: PathBuf,
    #[command(flatten)]
    pub(crate) documents: DocumentArgs,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct TokenArgs {
    #[command(subcommand)]
    pub(crate) command: TokenCommand,
}

#[derive(Subcommand, Debug, Clone)]
pub(crate) enum TokenCommand {
    /// Make a private key (a JWK) in a new file
    NewKey {
        /// The file
        file: PathBuf,
        /// What it signs with: RS256, PS256, ES256, `EdDSA`, …
        #[arg(long, default_value = "RS256", value_name = "NAME")]
        algorithm: String,
    },
    /// Print the public half of a private key, as the `jwks` of a RequestAuthentication
    PublicKeys {
        /// The file of the private key
        key: PathBuf,
    },
    /// Print a token
    Sign(TokenSignArgs),
}

#[derive(Args, Debug, Clone)]
pub(crate) struct TokenSignArgs {
    /// The file of the private key
    pub(crate) key: PathBuf,
    /// The claim `iss`
    #[arg(long, value_name = "URI")]
    pub(crate) issuer: String,
    /// The claim `sub`
    #[arg(long, value_name = "NAME")]
    pub(crate) subject: String,
    /// The claim `aud`, several times for a list
    #[arg(long = "audience", value_name = "NAME")]
    pub(crate) audiences: Vec<String>,
    /// Another claim: NAME=TEXT, or NAME:=JSON
    #[arg(long = "claim", value_name = "NAME=TEXT")]
    pub(crate) claims: Vec<String>,
    /// How long it is good for
    #[arg(long, default_value = "10m", value_name = "DURATION", value_parser = duration)]
    pub(crate) lifetime: Duration,
}

#[derive(Args, Debug, Clone)]
pub(crate) struct ProfileArgs {
    #[command(subcommand)]
    pub(crate) command: ProfileCommand,
}

#[derive(Subcommand, Debug, Clone)]
pub(crate) enum ProfileCommand {
    /// Name the profiles that come with bartizan
    List,
    /// Print a profile as the document that it is, to read or to change
    Show {
        /// Its name
        #[arg(default_value = "zero-trust")]
        name: String,
    },
}

/// `90s`, `5m`, `1h`, `1h30m`, `500ms`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let mut total = Duration::ZERO;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest
            .find(|character: char| !character.is_ascii_digit())
            .unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let number: u64 = number
            .parse()
            .map_err(|_| format!("`{text}` is not a duration such as 90s, 5m or 1h30m"))?;
        let (unit, tail) = match tail.strip_prefix("ms") {
            Some(tail) => (Duration::from_millis(1), tail),
            None => match tail.split_at_checked(1) {
                Some(("s", tail)) => (Duration::from_secs(1), tail),
                Some(("m", tail)) => (Duration::from_mins(1), tail),
                Some(("h", tail)) => (Duration::from_hours(1), tail),
                _ => return Err(format!("`{text}` needs a unit: ms, s, m or h")),
            },
        };
        let part = u32::try_from(number)
            .ok()
            .and_then(|number| unit.checked_mul(number));
        total = part
            .and_then(|part| total.checked_add(part))
            .ok_or_else(|| format!("`{text}` is too long"))?;
        rest = tail;
    }
    if text.is_empty() {
        Err("a duration is empty".to_owned())
    } else {
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("1h30m"), Ok(Duration::from_mins(90)));
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["", "5", "s", "1x", "-1s", "99999999999h"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
