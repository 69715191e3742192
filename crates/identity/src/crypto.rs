//! The one place that chooses cryptography: suites, key exchange groups, randomness, and the FIPS switch.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::rand::SecureRandom;
use rustls::crypto::aws_lc_rs as backend;
use rustls::crypto::{CryptoProvider, SupportedKxGroup};

/// Key exchange groups, most wanted first: the hybrid resists a recorded-now, broken-later attacker
/// (RFC 8446 §4.2.7, draft-ietf-tls-ecdhe-mlkem), the others are for peers that do not have it.
const GROUPS: [&dyn SupportedKxGroup; 4] = [
    backend::kx_group::X25519MLKEM768,
    backend::kx_group::X25519,
    backend::kx_group::SECP256R1,
    backend::kx_group::SECP384R1,
];

static PROVIDER: LazyLock<Arc<CryptoProvider>> = LazyLock::new(|| {
    let mut provider = backend::default_provider();
    // In a FIPS build the groups outside the validated module go; the hybrid stays and stays first.
    provider.kx_groups = GROUPS
        .into_iter()
        .filter(|group| !cfg!(feature = "fips") || group.fips())
        .collect();
    Arc::new(provider)
});

/// What every TLS configuration of the mesh is made with; one for the process.
pub fn provider() -> Arc<CryptoProvider> {
    Arc::clone(&PROVIDER)
}

/// Whether every primitive comes from the validated module.
pub fn fips() -> bool {
    PROVIDER.fips()
}

/// Does once what the first handshake would otherwise pay for: seeds the process's random generator (20 to 30 ms of jitter
/// entropy) and makes one key share and one signature. Call it once, on any thread, before saying ready.
pub fn warm_up() {
    let _: [u8; 32] = random();
    if let Some(group) = PROVIDER.kx_groups.first() {
        // A failure here shows itself at the first handshake, with a peer to name.
        let _ = group.start();
    }
    if let Ok(key) = crate::key::PrivateKey::generate() {
        let _ = key.sign(b"warm up");
    }
}

/// Fresh random bytes from the operating system's generator.
///
/// # Panics
/// When the generator fails: there is nothing safe to do without randomness (`getrandom` does not fail on a running Linux).
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    #[expect(
        clippy::expect_used,
        reason = "no key, serial or secret may be made without randomness"
    )]
    aws_lc_rs::rand::SystemRandom::new()
        .fill(&mut bytes)
        .expect("the operating system gives randomness");
    bytes
}

/// A random number, for example for a decision's id.
pub fn random_u64() -> u64 {
    u64::from_ne_bytes(random())
}

/// A random number in `[0, 1)`, for jitter.
#[expect(clippy::cast_precision_loss, reason = "53 bits fit a double exactly")]
pub fn random_unit() -> f64 {
    (random_u64() >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustls::NamedGroup;

    #[test]
    fn the_hybrid_group_is_first() {
        let names: Vec<_> = provider().kx_groups.iter().map(|group| group.name()).collect();
        let mut expected = vec![
            NamedGroup::X25519MLKEM768,
            NamedGroup::X25519,
            NamedGroup::secp256r1,
            NamedGroup::secp384r1,
        ];
        if cfg!(feature = "fips") {
            expected.retain(|group| *group != NamedGroup::X25519);
        }
        assert_eq!(names, expected);
        assert_eq!(fips(), cfg!(feature = "fips"));
    }

    #[test]
    fn a_unit_is_at_least_zero_and_less_than_one() {
        for _ in 0..1000 {
            let unit = random_unit();
            assert!((0.0..1.0).contains(&unit));
        }
        assert_ne!(random::<16>(), random::<16>());
    }
}
