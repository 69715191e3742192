//! bartizan's own metrics: one constant a family, so that a name is written once. Istio's standard metrics are in `encode`.

/// A family of counters or gauges with fixed label names.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Family {
    /// The metric's name.
    pub name: &'static str,
    /// What it counts.
    pub help: &'static str,
    /// The label names, in the order in which values are given.
    pub labels: &'static [&'static str],
    /// Whether it only grows.
    pub kind: Kind,
}

/// The two kinds of families.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
}

macro_rules! families {
    ($($constant:ident = $kind:ident $name:literal [$($label:literal),*] $help:literal;)*) => {
        $(#[doc = $help] pub static $constant: Family = Family {
            name: $name, help: $help, labels: &[$($label),*], kind: Kind::$kind,
        };)*

        /// Every family, in the order of their names in the source.
        pub static ALL: &[&Family] = &[$(&$constant),*];
    };
}

families! {
    BUILD = Gauge "istio_build" ["component", "tag"] "The build that runs, always 1.";
    POLICY_DENIED = Counter "bartizan_policy_denied_total" ["layer", "policy_namespace", "policy", "rule"] "Requests and connections that policy denied; an empty policy is the default deny.";
    TLS_REFUSED = Counter "bartizan_tls_refused_total" ["side", "reason"] "Handshakes that failed, by the side of this proxy (server, client) and the reason.";
    TLS_HANDSHAKES = Counter "bartizan_tls_handshakes_total" ["side", "group"] "Handshakes that succeeded, by side and key exchange group.";
    PLAINTEXT_REFUSED = Counter "bartizan_plaintext_refused_total" ["direction"] "Connections without mutual TLS that a STRICT port refused.";
    CONNECTIONS_OPEN = Gauge "bartizan_connections_open" ["direction"] "Connections that are open now, by direction (inbound, outbound, gateway).";
    CONNECTIONS = Counter "bartizan_connections_total" ["direction"] "Connections that were accepted.";
    CONNECTIONS_REFUSED = Counter "bartizan_connections_refused_total" ["direction", "reason"] "Connections that were refused before anything was carried.";
    CONNECTIONS_JUDGED = Counter "bartizan_connections_judged_closed_total" ["direction", "reason"] "Open connections and streams that a change of policy, trust or users' keys ended.";
    JWT_VERIFIED = Counter "bartizan_jwt_verified_total" [] "Tokens whose signature was verified and that were accepted.";
    JWT_REMEMBERED = Counter "bartizan_jwt_remembered_total" ["result"] "Tokens that were known from before, so that nothing was verified: accepted or refused.";
    JWT_REFUSED = Counter "bartizan_jwt_refused_total" ["reason"] "Requests that were answered 401, by why their token was refused.";
    JWT_KEYS_ASKED = Counter "bartizan_jwt_keys_asked_total" ["result"] "Requests with a token of an unknown key: asked (the control plane was told), waited (others had told it), limited (refused at once).";
    AUTHORIZER_CHECKS = Counter "bartizan_authorizer_checks_total" ["provider", "result"] "Questions to external authorizers, by result: allowed, denied, error (no answer that can be used).";
    AUTHORIZER_MICROSECONDS = Counter "bartizan_authorizer_microseconds_total" ["provider"] "How long those questions have waited for their answers, together.";
    JWT_KEYS_FOUND = Counter "bartizan_jwt_keys_found_total" ["result"] "Requests that had waited for new keys: found or missing.";
    POLICY_SHADOW = Counter "bartizan_policy_shadow_total" ["action", "result"] "Requests that policies in dry run judged, by their action and what they would have done.";
    POLICY_AUDITED = Counter "bartizan_policy_audited_total" ["policy_namespace", "policy", "rule"] "Requests that an AUDIT rule matched.";
    REQUESTS_REFUSED = Counter "bartizan_requests_refused_total" ["direction", "reason"] "Requests that could not be read or that no route serves.";
    UPSTREAM_CONNECTS = Counter "bartizan_upstream_connects_total" ["result"] "Connections to upstreams that were tried.";
    UPSTREAM_REUSED = Counter "bartizan_upstream_reused_total" [] "Requests that went over a kept connection.";
    RETRIES = Counter "bartizan_retries_total" ["reason"] "Requests that were sent again to another endpoint.";
    DNS_QUERIES = Counter "bartizan_dns_queries_total" ["type", "result"] "Questions that the pod's name service answered.";
    CONFIG_VERSION = Gauge "bartizan_config_version" [] "The version of the configuration that is served.";
    CONFIG_APPLIED = Gauge "bartizan_config_applied_timestamp_seconds" [] "When that version was applied.";
    CONFIG_REFUSED = Counter "bartizan_config_refused_total" [] "Transactions that could not be applied.";
    CONTROL_CONNECTED = Gauge "bartizan_control_connected" [] "Whether the control plane is reached, 0 or 1.";
    CERTIFICATE_EXPIRY = Gauge "bartizan_certificate_expiry_timestamp_seconds" [] "When the present SVID ends.";
    CERTIFICATE_RENEWALS = Counter "bartizan_certificate_renewals_total" ["result"] "Renewals of the SVID.";
    PANICS = Counter "bartizan_panics_total" [] "Panics that were contained to one task.";
    ACCESS_LOG_LINES = Counter "bartizan_access_log_lines_total" [] "Access log lines that were written.";
    ACCESS_LOG_DROPPED = Counter "bartizan_access_log_dropped_total" ["reason"] "Access log lines that were lost: the queue was full, or the write failed.";
    METRICS_OVERFLOW = Counter "bartizan_metrics_overflow_total" [] "Series that were asked for beyond the limit and counted under `overflow`.";
    SCRAPE_UP = Gauge "bartizan_scrape_up" [] "Whether the target's metrics could be read for the merged page, 0 or 1.";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_follow_prometheus_conventions() {
        let mut names: Vec<_> = ALL.iter().map(|family| family.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len());
        for family in ALL {
            assert_eq!(
                family.name.ends_with("_total"),
                family.kind == Kind::Counter,
                "{}",
                family.name
            );
        }
    }
}
