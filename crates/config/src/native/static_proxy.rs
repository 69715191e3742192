//! StaticProxy: one proxy without a control plane (`bartizan proxy --static DIR`).

use std::net::SocketAddr;
use std::num::NonZeroU32;

use bartizan_types::{Protocol, SpiffeId};

use super::local_run::read_address;
use crate::field::{Fields, Value};
use crate::finding::codes;
use crate::istio::MtlsMode;
use crate::names;

/// `bartizan.dev/v1alpha1` StaticProxy. Paths are relative to the document's folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticProxy {
    /// `identity`: what the certificate proves.
    pub identity: SpiffeId,
    /// `certificate`: a PEM file with the chain.
    pub certificate: String,
    /// `key`: a PEM file.
    pub key: String,
    /// `trustBundle`: a PEM file with the roots.
    pub trust_bundle: String,
    /// `workers`; none is 1.
    pub workers: Option<NonZeroU32>,
    /// `accessLog`: a file; none is no log.
    pub access_log: Option<String>,
    /// `metrics`: where the proxy's own endpoint listens; none is nowhere.
    pub metrics: Option<SocketAddr>,
    /// `inbound`.
    pub inbound: Vec<StaticInbound>,
    /// `outbound`.
    pub outbound: Vec<StaticOutbound>,
}

/// One of `inbound`: from the network to the application.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticInbound {
    /// `listen`.
    pub listen: SocketAddr,
    /// `protocol`; `AUTO` is [`Protocol::Detect`], and so is none.
    pub protocol: Option<Protocol>,
    /// `mtls`; none is STRICT.
    pub mtls: Option<MtlsMode>,
    /// `to`: the application.
    pub to: SocketAddr,
}

/// One of `outbound`: from the application to endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticOutbound {
    /// `listen`.
    pub listen: SocketAddr,
    /// `protocol`; `AUTO` is [`Protocol::Detect`], and so is none.
    pub protocol: Option<Protocol>,
    /// `endpoints`, at least one.
    pub endpoints: Vec<StaticEndpoint>,
}

/// One of `endpoints`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StaticEndpoint {
    /// `address`.
    pub address: SocketAddr,
    /// `identity` that it must prove; none is plaintext.
    pub identity: Option<SpiffeId>,
}

const PROTOCOLS: &[(&str, Protocol)] = &[
    ("HTTP", Protocol::Http),
    ("HTTP2", Protocol::Http2),
    ("GRPC", Protocol::Grpc),
    ("TCP", Protocol::Tcp),
    ("AUTO", Protocol::Detect),
];

const MODES: &[(&str, MtlsMode)] = &[
    ("STRICT", MtlsMode::Strict),
    ("PERMISSIVE", MtlsMode::Permissive),
    ("DISABLE", MtlsMode::Disable),
];

pub(crate) fn read(fields: &Fields<'_>) -> Option<StaticProxy> {
    fields.required("spec")?.map(|spec| {
        let path = |value: Value<'_>| value.parse(names::host_path);
        let identity = spec
            .required("identity")
            .and_then(|value| value.parse(SpiffeId::parse));
        let certificate = spec.required("certificate").and_then(path);
        let key = spec.required("key").and_then(path);
        let trust_bundle = spec.required("trustBundle").and_then(path);
        let workers = spec.get("workers").and_then(|value| value.u32(1..=1024));
        let access_log = spec.get("accessLog").and_then(path);
        let metrics = spec.get("metrics").and_then(|value| value.parse(read_address));
        let inbound_value = spec.get("inbound");
        let outbound_value = spec.get("outbound");
        if inbound_value.is_none() && outbound_value.is_none() {
            let what = "the proxy has neither `inbound` nor `outbound`, so it carries nothing";
            spec.sink.error(codes::MISSING_FIELD, spec.spot, what);
        }
        let inbound = inbound_value
            .map(|value| value.list(read_inbound))
            .unwrap_or_default();
        let outbound = outbound_value
            .map(|value| value.list(read_outbound))
            .unwrap_or_default();
        Some(StaticProxy {
            identity: identity?,
            certificate: certificate?,
            key: key?,
            trust_bundle: trust_bundle?,
            workers: workers.and_then(NonZeroU32::new),
            access_log,
            metrics,
            inbound,
            outbound,
        })
    })
}

fn read_inbound(value: Value<'_>) -> Option<StaticInbound> {
    value.map(|fields| {
        let listen = fields
            .required("listen")
            .and_then(|value| value.parse(read_address));
        let to = fields.required("to").and_then(|value| value.parse(read_address));
        Some(StaticInbound {
            protocol: fields.get("protocol").and_then(|value| value.choice(PROTOCOLS)),
            mtls: fields.get("mtls").and_then(|value| value.choice(MODES)),
            listen: listen?,
            to: to?,
        })
    })
}

fn read_outbound(value: Value<'_>) -> Option<StaticOutbound> {
    value.map(|fields| {
        let listen = fields
            .required("listen")
            .and_then(|value| value.parse(read_address));
        let protocol = fields.get("protocol").and_then(|value| value.choice(PROTOCOLS));
        let endpoints_value = fields.required("endpoints")?;
        if endpoints_value.is_list() && endpoints_value.items().is_empty() {
            endpoints_value.error(codes::EMPTY, "there is no endpoint to send to");
        }
        let endpoints = endpoints_value.list(|item| {
            item.map(|fields| {
                let address = fields
                    .required("address")
                    .and_then(|value| value.parse(read_address));
                let identity = fields
                    .get("identity")
                    .and_then(|value| value.parse(SpiffeId::parse));
                Some(StaticEndpoint {
                    address: address?,
                    identity,
                })
            })
        });
        Some(StaticOutbound {
            listen: listen?,
            protocol,
            endpoints,
        })
    })
}
