//! Application protocols of a port.

use serde::{Deserialize, Serialize};

/// What a port speaks (Istio protocol selection: `appProtocol`, then the port name's prefix, then detection).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Protocol {
    /// HTTP/1.1 (and upgrades such as WebSocket).
    Http,
    /// HTTP/2 with prior knowledge.
    Http2,
    /// gRPC over HTTP/2.
    Grpc,
    /// TLS that the application ends itself; carried as bytes.
    Tls,
    /// Any bytes; server-first protocols included.
    Tcp,
    /// Not declared: the first bytes tell.
    Detect,
}

impl Protocol {
    /// From `appProtocol` or a port name (`http`, `http-web`, `grpc`, `h2c`, `kubernetes.io/h2c`, `tcp-db`, …).
    /// `None` where the text names no protocol that is known, which Istio treats as not declared.
    pub fn from_name(text: &str) -> Option<Self> {
        let lower = text.to_ascii_lowercase();
        match lower.as_str() {
            "kubernetes.io/h2c" => return Some(Self::Http2),
            "kubernetes.io/ws" => return Some(Self::Http),
            "kubernetes.io/wss" => return Some(Self::Tls),
            _ => {}
        }
        match lower.split('-').next().unwrap_or_default() {
            "http" | "http1" | "ws" => Some(if lower.starts_with("http-2") {
                Self::Http2
            } else {
                Self::Http
            }),
            "http2" | "h2c" => Some(Self::Http2),
            "grpc" => Some(Self::Grpc),
            "https" | "tls" | "wss" => Some(Self::Tls),
            "tcp" | "mysql" | "mongo" | "redis" | "postgres" | "postgresql" | "kafka" | "amqp" => {
                Some(Self::Tcp)
            }
            _ => None,
        }
    }

    /// Whether requests are seen one by one.
    pub fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }
}
