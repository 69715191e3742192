//! What a proxy is told at its start: by its supervisor through an inherited descriptor, or by static documents.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bartizan_identity::{Svid, TrustBundle};
use bartizan_mesh::Resource;
use bartizan_types::{NamespacedName, Port, Secret};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// The largest bootstrap that is read, in bytes.
const MOST_BYTES: u64 = 1024 * 1024;

/// What the supervisor tells a proxy. It holds a secret: it is handed over in a memory file, never in a file or an argument.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Bootstrap {
    /// The workload that this proxy serves.
    pub workload: NamespacedName,
    /// Its address in the mesh.
    pub address: IpAddr,
    /// The control plane's unix socket.
    pub control: PathBuf,
    /// Where the proxy's own HTTP endpoint is made.
    pub admin: PathBuf,
    /// The last good snapshot, read at the start and written after changes.
    pub snapshot: PathBuf,
    /// The access log.
    pub access_log: PathBuf,
    /// Proves the workload to the authority once; absent when the credentials' file holds what a predecessor had.
    pub secret: Option<OneTimeSecret>,
    /// Worker threads; 0 is 1.
    pub workers: u32,
    /// Asked lifetime of SVIDs in seconds; 0 for the authority's default.
    pub svid_ttl_seconds: u32,
    /// How long open requests may take to end after SIGTERM, in seconds.
    pub drain_seconds: u32,
    /// The numbers of inherited descriptors.
    pub descriptors: Descriptors,
}

/// Numbers of inherited descriptors.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Descriptors {
    /// TCP listener that outbound connections are captured to.
    pub outbound: Option<i32>,
    /// TCP listener that inbound connections are captured to.
    pub inbound: Option<i32>,
    /// UDP socket of the name service.
    pub dns_udp: Option<i32>,
    /// TCP listener of the name service.
    pub dns_tcp: Option<i32>,
    /// Memory file that outlives the proxy: key, SVID and bundle for its successor.
    pub credentials: Option<i32>,
    /// Listeners of a gateway.
    pub gateway: Vec<GatewayDescriptor>,
}

/// One listener of a gateway.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct GatewayDescriptor {
    /// The port in the `Gateway` document, whatever the socket is bound to.
    pub port: Port,
    /// The descriptor's number.
    pub descriptor: i32,
}

/// A secret that proves a workload to the authority once. Hexadecimal in JSON; never printed.
#[derive(Clone, Debug)]
pub struct OneTimeSecret(Secret<Vec<u8>>);

impl OneTimeSecret {
    /// Takes the secret's bytes in.
    pub fn new(bytes: &[u8]) -> Self {
        Self(Secret::new(bytes.to_vec()))
    }

    pub(crate) fn expose(&self) -> &[u8] {
        self.0.expose()
    }
}

impl Serialize for OneTimeSecret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut digits = String::with_capacity(2 * self.expose().len());
        for byte in self.expose() {
            // Writing to memory does not fail.
            let _ = write!(digits, "{byte:02x}");
        }
        serializer.serialize_str(&digits)
    }
}

impl<'de> Deserialize<'de> for OneTimeSecret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = String::deserialize(deserializer)?;
        let nibbles: Option<Vec<u8>> = digits
            .chars()
            .map(|digit| digit.to_digit(16).and_then(|value| u8::try_from(value).ok()))
            .collect();
        match nibbles {
            Some(nibbles) if nibbles.len() % 2 == 0 => Ok(Self(Secret::new(
                nibbles
                    .chunks_exact(2)
                    .map(|pair| pair.iter().fold(0, |byte, nibble| byte << 4 | nibble))
                    .collect(),
            ))),
            Some(_) | None => Err(serde::de::Error::custom(
                "a secret is pairs of hexadecimal digits",
            )),
        }
    }
}

/// Why a bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// The descriptor cannot be read.
    #[error("read the bootstrap: {0}")]
    Read(#[from] std::io::Error),
    /// It is not the JSON of a [`Bootstrap`].
    #[error("the bootstrap is not readable: {0}")]
    Format(#[from] serde_json::Error),
}

impl Bootstrap {
    /// Reads the JSON from the inherited descriptor.
    ///
    /// # Errors
    /// [`BootstrapError`] when it cannot be read or has unknown or missing fields.
    pub fn read(file: File) -> Result<Self, BootstrapError> {
        let mut text = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut text)?;
        Ok(serde_json::from_slice(&text)?)
    }
}

/// A proxy without a control plane: everything is given at the start and does not change.
#[derive(Debug)]
pub struct StaticConfig {
    /// The workload whose view counts; it must be among the resources.
    pub workload: NamespacedName,
    /// What the proxy serves from.
    pub resources: Vec<Arc<Resource>>,
    /// What it listens to.
    pub listeners: Vec<StaticListener>,
    /// What it proves, and whom it trusts.
    pub svid: (Svid, TrustBundle),
    /// The access log; none is no log.
    pub access_log: Option<PathBuf>,
    /// Where its own HTTP endpoint listens; none is nowhere.
    pub metrics: Option<SocketAddr>,
    /// Worker threads; 0 is 1.
    pub workers: u32,
    /// How long open requests may take to end after SIGTERM.
    pub drain: Duration,
}

/// One listener of a static proxy.
#[derive(Clone, Debug)]
pub struct StaticListener {
    /// Where it listens. Stands for the original destination of its connections.
    pub address: SocketAddr,
    /// What it does with them.
    pub role: StaticRole,
}

/// What a static listener does.
#[derive(Clone, Copy, Debug)]
pub enum StaticRole {
    /// From the network to the application.
    Inbound {
        /// The application.
        to: SocketAddr,
    },
    /// From the application to endpoints.
    Outbound,
    /// From outside into the mesh.
    Gateway {
        /// The port in the `Gateway` document.
        port: Port,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bootstrap_survives_json_and_hides_its_secret() {
        let bootstrap = Bootstrap {
            workload: NamespacedName::parse("shop/cart-0").unwrap(),
            address: "10.66.0.2".parse().unwrap(),
            control: "/run/control.sock".into(),
            admin: "/run/proxy.sock".into(),
            snapshot: "/state/snapshot.json".into(),
            access_log: "/state/access.jsonl".into(),
            secret: Some(OneTimeSecret::new(&[0, 255, 16])),
            workers: 1,
            svid_ttl_seconds: 0,
            drain_seconds: 5,
            descriptors: Descriptors {
                gateway: vec![GatewayDescriptor {
                    port: Port::new(80).unwrap(),
                    descriptor: 9,
                }],
                ..Descriptors::default()
            },
        };
        let text = serde_json::to_string(&bootstrap).unwrap();
        let again: Bootstrap = serde_json::from_str(&text).unwrap();
        assert_eq!(again.secret.as_ref().unwrap().expose(), [0, 255, 16]);
        assert_eq!(again.descriptors.gateway.len(), 1);
        assert!(!format!("{again:?}").contains("00ff10"));
        assert!(serde_json::from_str::<OneTimeSecret>("\"0\"").is_err());
        assert!(serde_json::from_str::<OneTimeSecret>("\"zz\"").is_err());
        assert!(serde_json::from_str::<Bootstrap>("{}").is_err());
    }
}
