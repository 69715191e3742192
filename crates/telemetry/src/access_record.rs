//! One line of the access log: Istio's default JSON fields under Istio's names, and bartizan's own after them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use bartizan_types::DecisionId;

use crate::flags::ResponseFlags;
use crate::json;
use crate::labels::Reporter;
use crate::timestamp::Timestamps;

/// A request or a TCP connection that has ended. What came from outside is bytes, and is written as JSON whatever it holds;
/// what is absent is written as `null`.
#[derive(Clone, Copy, Debug)]
pub struct AccessRecord<'a> {
    /// When the first byte arrived.
    pub start_time: SystemTime,
    /// Which side of the hop writes; `reporter`.
    pub reporter: Reporter,
    /// The method; none for TCP.
    pub method: Option<&'a [u8]>,
    /// The path as the client sent it, query included.
    pub path: Option<&'a [u8]>,
    /// The path that policy judged, where it is not the same.
    pub canonical_path: Option<&'a [u8]>,
    /// `HTTP/1.1`, `HTTP/2`; none for TCP.
    pub protocol: Option<&'a str>,
    /// The status; 0 when there was none.
    pub response_code: u16,
    /// The gRPC status, where there was one.
    pub grpc_status: Option<u32>,
    /// What went wrong.
    pub response_flags: ResponseFlags,
    /// Why the response is what it is, such as `via_upstream` or `rbac_access_denied_matched_policy[none]`.
    pub response_code_details: Option<&'a str>,
    /// Why the connection was ended, for TCP.
    pub connection_termination_details: Option<&'a str>,
    /// The TLS error towards the upstream.
    pub upstream_transport_failure_reason: Option<&'a str>,
    /// Body bytes from the client.
    pub bytes_received: u64,
    /// Body bytes to the client.
    pub bytes_sent: u64,
    /// From the first byte in to the last byte out.
    pub duration: Duration,
    /// From the upstream's first byte out to its first byte in.
    pub upstream_service_time: Option<Duration>,
    /// Header `x-forwarded-for`.
    pub x_forwarded_for: Option<&'a [u8]>,
    /// Header `user-agent`.
    pub user_agent: Option<&'a [u8]>,
    /// Header `x-request-id`.
    pub request_id: Option<&'a [u8]>,
    /// Host and port that were asked for.
    pub authority: Option<&'a [u8]>,
    /// The endpoint that was chosen.
    pub upstream_host: Option<SocketAddr>,
    /// `outbound|9080||reviews.default.svc.cluster.local`, `inbound|9080||`, `BlackHoleCluster`.
    pub upstream_cluster: Option<&'a str>,
    /// This side of the connection to the endpoint.
    pub upstream_local_address: Option<SocketAddr>,
    /// What the client connected to.
    pub downstream_local_address: Option<SocketAddr>,
    /// The client.
    pub downstream_remote_address: Option<SocketAddr>,
    /// The server name of the ClientHello.
    pub requested_server_name: Option<&'a [u8]>,
    /// The route that was taken.
    pub route_name: Option<&'a str>,
    /// Who called, where it was proven (with scheme).
    pub source_principal: Option<&'a str>,
    /// Who was called, where it was proven (with scheme).
    pub destination_principal: Option<&'a str>,
    /// The calling workload as `namespace/name`, where it is known.
    pub source_workload: Option<&'a str>,
    /// The called workload as `namespace/name`, where it is known.
    pub destination_workload: Option<&'a str>,
    /// The decision's id, where something was decided.
    pub decision_id: Option<DecisionId>,
    /// What was decided: true for allowed.
    pub allowed: Option<bool>,
    /// The rule that decided, such as `ns[shop]-policy[cart]-rule[0]`.
    pub policy: Option<&'a str>,
    /// The client's address as trusted proxies tell it; written where it is not that of the connection.
    pub remote_address: Option<IpAddr>,
    /// What the connection's handshake agreed on.
    pub tls: Option<TlsRecord<'a>>,
    /// The user that was proven, as a JSON object; never the token.
    pub request_auth: Option<&'a str>,
    /// Why no user was proven although there was a token.
    pub request_auth_error: Option<&'a str>,
    /// What an external authorizer answered, as a JSON object.
    pub authorizer: Option<&'a str>,
    /// The AUDIT rules that matched.
    pub audited: &'a [String],
    /// What the ALLOW policies in dry run would have done.
    pub dry_run_allow: Option<DryRun<'a>>,
    /// What the DENY policies in dry run would have done.
    pub dry_run_deny: Option<DryRun<'a>>,
    /// The version of the configuration that decided.
    pub config_version: u64,
    /// How often the request was sent.
    pub attempts: u32,
}

/// What a TLS handshake agreed on (Envoy's `DOWNSTREAM_TLS_VERSION`, `DOWNSTREAM_TLS_CIPHER`).
#[derive(Clone, Copy, Debug)]
pub struct TlsRecord<'a> {
    /// Such as `TLSv1.3`.
    pub version: &'a str,
    /// The cipher suite, such as `TLS13_AES_256_GCM_SHA384`.
    pub cipher: &'a str,
    /// The key exchange group, such as `X25519MLKEM768`.
    pub group: &'a str,
}

/// The result of policies in dry run (annotation `istio.io/dry-run`).
#[derive(Clone, Copy, Debug)]
pub struct DryRun<'a> {
    /// The rule that would have decided; none where no rule matched.
    pub policy: Option<&'a str>,
    /// Whether they would have let it pass.
    pub allowed: bool,
}

impl AccessRecord<'_> {
    /// A record of which nothing is known but when and by whom.
    pub fn new(start_time: SystemTime, reporter: Reporter) -> Self {
        Self {
            start_time,
            reporter,
            method: None,
            path: None,
            canonical_path: None,
            protocol: None,
            response_code: 0,
            grpc_status: None,
            response_flags: ResponseFlags::NONE,
            response_code_details: None,
            connection_termination_details: None,
            upstream_transport_failure_reason: None,
            bytes_received: 0,
            bytes_sent: 0,
            duration: Duration::ZERO,
            upstream_service_time: None,
            x_forwarded_for: None,
            user_agent: None,
            request_id: None,
            authority: None,
            upstream_host: None,
            upstream_cluster: None,
            upstream_local_address: None,
            downstream_local_address: None,
            downstream_remote_address: None,
            requested_server_name: None,
            route_name: None,
            source_principal: None,
            destination_principal: None,
            source_workload: None,
            destination_workload: None,
            decision_id: None,
            allowed: None,
            policy: None,
            remote_address: None,
            tls: None,
            request_auth: None,
            request_auth_error: None,
            authorizer: None,
            audited: &[],
            dry_run_allow: None,
            dry_run_deny: None,
            config_version: 0,
            attempts: 0,
        }
    }

    /// Appends the record as one line of JSON.
    pub(crate) fn write(&self, out: &mut Vec<u8>, timestamps: &mut Timestamps) {
        out.extend_from_slice(b"{\"start_time\":");
        timestamps.write(out, self.start_time);
        bytes(out, b",\"method\":", self.method);
        bytes(out, b",\"path\":", self.path);
        text(out, b",\"protocol\":", self.protocol);
        count(out, b",\"response_code\":", u64::from(self.response_code));
        flags(out, self.response_flags);
        text(out, b",\"response_code_details\":", self.response_code_details);
        text(
            out,
            b",\"connection_termination_details\":",
            self.connection_termination_details,
        );
        text(
            out,
            b",\"upstream_transport_failure_reason\":",
            self.upstream_transport_failure_reason,
        );
        count(out, b",\"bytes_received\":", self.bytes_received);
        count(out, b",\"bytes_sent\":", self.bytes_sent);
        count(out, b",\"duration\":", millis(self.duration));
        optional(
            out,
            b",\"upstream_service_time\":",
            self.upstream_service_time.map(millis),
        );
        bytes(out, b",\"x_forwarded_for\":", self.x_forwarded_for);
        bytes(out, b",\"user_agent\":", self.user_agent);
        bytes(out, b",\"request_id\":", self.request_id);
        bytes(out, b",\"authority\":", self.authority);
        address(out, b",\"upstream_host\":", self.upstream_host);
        text(out, b",\"upstream_cluster\":", self.upstream_cluster);
        address(out, b",\"upstream_local_address\":", self.upstream_local_address);
        address(
            out,
            b",\"downstream_local_address\":",
            self.downstream_local_address,
        );
        address(
            out,
            b",\"downstream_remote_address\":",
            self.downstream_remote_address,
        );
        bytes(out, b",\"requested_server_name\":", self.requested_server_name);
        text(out, b",\"route_name\":", self.route_name);
        // Istio's fields end here.
        text(out, b",\"reporter\":", Some(self.reporter.as_str()));
        text(out, b",\"source_principal\":", self.source_principal);
        text(out, b",\"destination_principal\":", self.destination_principal);
        text(out, b",\"source_workload\":", self.source_workload);
        text(out, b",\"destination_workload\":", self.destination_workload);
        optional(out, b",\"grpc_status\":", self.grpc_status.map(u64::from));
        out.extend_from_slice(b",\"decision_id\":");
        match self.decision_id {
            Some(id) => {
                out.push(b'"');
                for shift in (0..16).rev() {
                    let nibble = u8::try_from((id.0 >> (shift * 4)) & 15).unwrap_or_default();
                    out.push(if nibble < 10 {
                        b'0' + nibble
                    } else {
                        b'a' + nibble - 10
                    });
                }
                out.push(b'"');
            }
            None => out.extend_from_slice(b"null"),
        }
        text(
            out,
            b",\"decision\":",
            self.allowed.map(|allowed| if allowed { "allow" } else { "deny" }),
        );
        text(out, b",\"policy\":", self.policy);
        if self.canonical_path.is_some() {
            bytes(out, b",\"canonical_path\":", self.canonical_path);
        }
        self.write_rare(out);
        count(out, b",\"config_version\":", self.config_version);
        count(out, b",\"attempts\":", u64::from(self.attempts));
        out.extend_from_slice(b"}\n");
    }
}

impl AccessRecord<'_> {
    /// What most lines have not, and then do not name.
    fn write_rare(&self, out: &mut Vec<u8>) {
        if let Some(address) = self.remote_address {
            out.extend_from_slice(b",\"remote_address\":\"");
            json::ip(out, address);
            out.push(b'"');
        }
        if let Some(tls) = self.tls {
            text(out, b",\"downstream_tls_version\":", Some(tls.version));
            text(out, b",\"downstream_tls_cipher\":", Some(tls.cipher));
            text(out, b",\"downstream_tls_group\":", Some(tls.group));
        }
        object(out, b",\"request_auth\":", self.request_auth);
        if self.request_auth_error.is_some() {
            text(out, b",\"request_auth_error\":", self.request_auth_error);
        }
        object(out, b",\"authorizer\":", self.authorizer);
        if !self.audited.is_empty() {
            out.extend_from_slice(b",\"audited\":[");
            for (at, rule) in self.audited.iter().enumerate() {
                if at > 0 {
                    out.push(b',');
                }
                json::string(out, rule.as_bytes());
            }
            out.push(b']');
        }
        // Istio's names of the dynamic metadata.
        if let Some(result) = self.dry_run_allow {
            dry_run(out, "allow", result);
        }
        if let Some(result) = self.dry_run_deny {
            dry_run(out, "deny", result);
        }
    }
}

/// A JSON object that was put together elsewhere.
fn object(out: &mut Vec<u8>, key: &[u8], value: Option<&str>) {
    if let Some(value) = value {
        out.extend_from_slice(key);
        out.extend_from_slice(value.as_bytes());
    }
}

fn dry_run(out: &mut Vec<u8>, action: &str, result: DryRun<'_>) {
    let key = |what| format!(",\"istio_dry_run_{action}_shadow_{what}\":");
    text(out, key("effective_policy_id").as_bytes(), result.policy);
    let allowed = if result.allowed { "allowed" } else { "denied" };
    text(out, key("engine_result").as_bytes(), Some(allowed));
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

fn bytes(out: &mut Vec<u8>, key: &[u8], value: Option<&[u8]>) {
    out.extend_from_slice(key);
    match value {
        Some(value) => json::string(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn text(out: &mut Vec<u8>, key: &[u8], value: Option<&str>) {
    bytes(out, key, value.map(str::as_bytes));
}

fn count(out: &mut Vec<u8>, key: &[u8], value: u64) {
    out.extend_from_slice(key);
    json::number(out, value);
}

fn optional(out: &mut Vec<u8>, key: &[u8], value: Option<u64>) {
    match value {
        Some(value) => count(out, key, value),
        None => bytes(out, key, None),
    }
}

fn address(out: &mut Vec<u8>, key: &[u8], value: Option<SocketAddr>) {
    match value {
        Some(value) => {
            out.extend_from_slice(key);
            json::address(out, value);
        }
        None => bytes(out, key, None),
    }
}

fn flags(out: &mut Vec<u8>, flags: ResponseFlags) {
    if flags.is_empty() {
        out.extend_from_slice(b",\"response_flags\":\"-\"");
        return;
    }
    out.extend_from_slice(b",\"response_flags\":\"");
    for (at, code) in flags.codes().enumerate() {
        if at > 0 {
            out.push(b',');
        }
        out.extend_from_slice(code.as_bytes());
    }
    out.push(b'"');
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    fn line(record: &AccessRecord<'_>) -> serde_json::Value {
        let mut out = Vec::new();
        record.write(&mut out, &mut Timestamps::default());
        assert_eq!(out.iter().position(|byte| *byte == b'\n'), Some(out.len() - 1));
        serde_json::from_slice(&out).unwrap()
    }

    #[test]
    fn a_full_record_has_istios_fields() {
        let record = AccessRecord {
            method: Some(b"POST"),
            path: Some(b"/v1/ingest/a?x=1"),
            protocol: Some("HTTP/1.1"),
            response_code: 403,
            response_flags: ResponseFlags::UF | ResponseFlags::URX,
            response_code_details: Some("rbac_access_denied_matched_policy[none]"),
            bytes_received: 12,
            bytes_sent: 19,
            duration: Duration::from_micros(4_999),
            upstream_service_time: Some(Duration::from_millis(3)),
            request_id: Some(b"abc"),
            upstream_host: Some("10.66.0.3:8080".parse().unwrap()),
            requested_server_name: Some(
                b"outbound_.8080_._.telemetry-ingest.mission-services.svc.cluster.local",
            ),
            source_principal: Some("spiffe://cluster.local/ns/mission-services/sa/data-processor"),
            decision_id: Some(DecisionId(0x0123_4567_89ab_cdef)),
            allowed: Some(false),
            config_version: 7,
            ..AccessRecord::new(UNIX_EPOCH + Duration::from_millis(1), Reporter::Destination)
        };
        let value = line(&record);
        for key in [
            "start_time",
            "method",
            "path",
            "protocol",
            "response_code",
            "response_flags",
            "response_code_details",
            "connection_termination_details",
            "upstream_transport_failure_reason",
            "bytes_received",
            "bytes_sent",
            "duration",
            "upstream_service_time",
            "x_forwarded_for",
            "user_agent",
            "request_id",
            "authority",
            "upstream_host",
            "upstream_cluster",
            "upstream_local_address",
            "downstream_local_address",
            "downstream_remote_address",
            "requested_server_name",
            "route_name",
        ] {
            assert!(value.get(key).is_some(), "{key}");
        }
        assert_eq!(value["start_time"], "1970-01-01T00:00:00.001Z");
        assert_eq!(value["response_flags"], "UF,URX");
        assert_eq!(value["duration"], 4);
        assert_eq!(value["upstream_host"], "10.66.0.3:8080");
        assert_eq!(value["decision_id"], "0123456789abcdef");
        assert_eq!(
            value["decision_id"].as_str(),
            Some(record.decision_id.unwrap().to_string().as_str())
        );
        assert_eq!(value["decision"], "deny");
        assert_eq!(value["reporter"], "destination");
        assert!(value["user_agent"].is_null() && value.get("canonical_path").is_none());
    }

    #[test]
    fn what_a_decision_rests_on_is_written_under_istios_names() {
        let audited = ["ns[a]-policy[b]-rule[0]".to_owned(), "\"".to_owned()];
        let record = AccessRecord {
            remote_address: Some("203.0.113.7".parse().unwrap()),
            tls: Some(TlsRecord {
                version: "TLSv1.3",
                cipher: "TLS13_AES_256_GCM_SHA384",
                group: "X25519",
            }),
            request_auth: Some(r#"{"issuer":"https://i","claims":{"a":["b"]}}"#),
            request_auth_error: Some("the token has expired"),
            authorizer: Some(r#"{"provider":"opa","allowed":true}"#),
            audited: &audited,
            dry_run_allow: Some(DryRun {
                policy: None,
                allowed: false,
            }),
            dry_run_deny: Some(DryRun {
                policy: Some("ns[a]-policy[c]-rule[1]"),
                allowed: false,
            }),
            ..AccessRecord::new(UNIX_EPOCH, Reporter::Destination)
        };
        let value = line(&record);
        assert_eq!(value["remote_address"], "203.0.113.7");
        assert_eq!(value["downstream_tls_version"], "TLSv1.3");
        assert_eq!(value["request_auth"]["claims"]["a"][0], "b");
        assert_eq!(value["request_auth_error"], "the token has expired");
        assert_eq!(value["authorizer"]["provider"], "opa");
        assert_eq!(value["audited"][1], "\"");
        assert!(value["istio_dry_run_allow_shadow_effective_policy_id"].is_null());
        assert_eq!(value["istio_dry_run_allow_shadow_engine_result"], "denied");
        assert_eq!(
            value["istio_dry_run_deny_shadow_effective_policy_id"],
            "ns[a]-policy[c]-rule[1]"
        );
        let bare = line(&AccessRecord::new(UNIX_EPOCH, Reporter::Source));
        for key in ["remote_address", "request_auth", "authorizer", "audited"] {
            assert!(bare.get(key).is_none(), "{key}");
        }
    }

    proptest! {
        #[test]
        fn whatever_a_client_sends_the_line_is_one_json_object(
            method in proptest::collection::vec(any::<u8>(), 0..20),
            path in proptest::collection::vec(any::<u8>(), 0..60),
            agent in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
            sni in proptest::option::of(proptest::collection::vec(any::<u8>(), 0..60)),
            details in proptest::option::of(".{0,30}"),
            id: u64,
        ) {
            let record = AccessRecord {
                method: Some(&method),
                path: Some(&path),
                user_agent: agent.as_deref(),
                requested_server_name: sni.as_deref(),
                response_code_details: details.as_deref(),
                decision_id: Some(DecisionId(id)),
                ..AccessRecord::new(UNIX_EPOCH, Reporter::Source)
            };
            let value = line(&record);
            prop_assert_eq!(value["path"].as_str().unwrap(), String::from_utf8_lossy(&path));
            prop_assert_eq!(value["method"].as_str().unwrap(), String::from_utf8_lossy(&method));
            prop_assert_eq!(value["response_code_details"].as_str(), details.as_deref());
            prop_assert_eq!(value["user_agent"].is_null(), agent.is_none());
            prop_assert_eq!(DecisionId::parse(value["decision_id"].as_str().unwrap()), Some(DecisionId(id)));
        }
    }
}
