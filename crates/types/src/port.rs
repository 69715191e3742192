//! Port numbers.

use std::fmt;
use std::num::NonZeroU16;

use serde::{Deserialize, Deserializer, Serialize};

/// A TCP or UDP port from 1 to 65535.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Port(NonZeroU16);

/// A number that is not a port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a port: a number from 1 to 65535")]
pub struct PortError(String);

impl Port {
    /// # Errors
    /// When `number` is 0 or larger than 65535.
    pub fn new(number: u32) -> Result<Self, PortError> {
        u16::try_from(number)
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| PortError(number.to_string()))
    }

    /// # Errors
    /// When `text` is not a decimal number from 1 to 65535.
    pub fn parse(text: &str) -> Result<Self, PortError> {
        text.parse::<NonZeroU16>()
            .map(Self)
            .map_err(|_| PortError(text.to_owned()))
    }

    /// The number.
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(u32::deserialize(deserializer)?).map_err(serde::de::Error::custom)
    }
}
