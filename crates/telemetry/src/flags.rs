//! Response flags: Envoy's short codes for what went wrong with a request or connection.

use std::fmt;
use std::ops::{BitOr, BitOrAssign};

/// A set of response flags. Prints `-` when empty, otherwise the codes joined by commas in a fixed order, as Envoy does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct ResponseFlags(u32);

macro_rules! flags {
    ($($(#[$doc:meta])* $name:ident = $bit:literal),* $(,)?) => {
        impl ResponseFlags {
            $($(#[$doc])* pub const $name: Self = Self(1 << $bit);)*

            const NAMES: &'static [(Self, &'static str)] = &[$((Self::$name, stringify!($name))),*];
        }
    };
}

flags! {
    /// No healthy upstream.
    UH = 0,
    /// Upstream connect failure, TLS included.
    UF = 1,
    /// Upstream overflow: a circuit breaker.
    UO = 2,
    /// No route, or nothing that listens there.
    NR = 3,
    /// Upstream retry or connect attempts are used up.
    URX = 4,
    /// No such cluster: the route names a service that is not there.
    NC = 5,
    /// Downstream protocol error.
    DPE = 6,
    /// Upstream protocol error.
    UPE = 7,
    /// Upstream reset the stream.
    UR = 8,
    /// Upstream connection ended early.
    UC = 9,
    /// Upstream request timeout.
    UT = 10,
    /// Local reset.
    LR = 11,
    /// Downstream went away.
    DC = 12,
    /// Downstream reset the stream.
    DR = 13,
    /// Longest duration reached.
    DT = 14,
    /// Stream idle timeout.
    SI = 15,
    /// Refused by an external authorizer.
    UAEX = 16,
    /// Rate limited.
    RL = 17,
    /// The rate limit service failed.
    RLSE = 18,
    /// Delay injected.
    DI = 19,
    /// Fault injected.
    FI = 20,
    /// A header of the proxy's own has no valid value.
    IH = 21,
    /// Overloaded.
    OM = 22,
    /// The name could not be resolved.
    DF = 23,
    /// Longest stream duration reached upstream.
    UMSDR = 24,
    /// A filter's configuration is not there.
    NFCF = 25,
    /// Local health check failed.
    LH = 26,
    /// Dropped because of overload.
    DO = 27,
}

impl ResponseFlags {
    /// Nothing went wrong.
    pub const NONE: Self = Self(0);

    /// Whether nothing is set.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether everything in `other` is set here.
    pub fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The codes that are set, in their fixed order.
    pub fn codes(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES
            .iter()
            .filter(move |(flag, _)| self.contains(*flag))
            .map(|(_, name)| *name)
    }
}

impl BitOr for ResponseFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl BitOrAssign for ResponseFlags {
    fn bitor_assign(&mut self, other: Self) {
        self.0 |= other.0;
    }
}

impl fmt::Display for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("-");
        }
        for (at, code) in self.codes().enumerate() {
            if at > 0 {
                f.write_str(",")?;
            }
            f.write_str(code)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ResponseFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_print_as_envoy_prints_them() {
        assert_eq!(ResponseFlags::NONE.to_string(), "-");
        assert_eq!(ResponseFlags::UAEX.to_string(), "UAEX");
        assert_eq!((ResponseFlags::URX | ResponseFlags::UF).to_string(), "UF,URX");
        assert!((ResponseFlags::URX | ResponseFlags::UF).contains(ResponseFlags::UF));
        assert!(!ResponseFlags::UF.contains(ResponseFlags::UF | ResponseFlags::UC));
    }
}
