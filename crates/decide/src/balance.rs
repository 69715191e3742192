//! Which endpoint gets a request: the less busy of two random ones.

use bartizan_mesh::{Endpoint, Endpoints};
use bartizan_types::{NamespacedName, Port};

/// How busy an endpoint is, as the caller counts it.
pub trait InFlight {
    /// Requests or connections that have begun and not ended.
    fn in_flight(&self, endpoint: &Endpoint) -> u32;
}

/// The endpoint that was chosen.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Choice<'e> {
    /// The endpoint.
    pub endpoint: &'e Endpoint,
    /// Its own port for the service's port that was called.
    pub port: Port,
}

/// Chooses a ready endpoint that serves the port: of two random ones the one with fewer requests in flight.
///
/// `excluded` are the workloads that have been tried before. `random` is uniform over all of `u64`. `None` when no
/// endpoint is left: the answer is 503.
pub fn choose<'e>(
    endpoints: &'e Endpoints,
    port: Port,
    load: &impl InFlight,
    excluded: &[NamespacedName],
    random: u64,
) -> Option<Choice<'e>> {
    let all = endpoints.endpoints.as_slice();
    let usable = |at: usize| {
        let endpoint = all.get(at)?;
        let port = *endpoint.ports.get(&port)?;
        (endpoint.ready && !excluded.contains(&endpoint.workload)).then_some((at, Choice { endpoint, port }))
    };
    let mut random = random;
    let (first_at, first) = pick(all.len(), &mut random, usable)?;
    let second = pick(all.len(), &mut random, |at| {
        usable(at).filter(|(at, _)| *at != first_at)
    });
    match second {
        Some((_, second)) if load.in_flight(second.endpoint) < load.in_flight(first.endpoint) => Some(second),
        _ => Some(first),
    }
}

/// A random place that is usable. Almost always found with a few throws; else all are counted once.
fn pick<T>(length: usize, random: &mut u64, usable: impl Fn(usize) -> Option<T>) -> Option<T> {
    let length_64 = u64::try_from(length).ok().filter(|length| *length > 0)?;
    for _ in 0..4 {
        let at = usize::try_from(next(random) % length_64).ok()?;
        if let Some(found) = usable(at) {
            return Some(found);
        }
    }
    let count = (0..length).filter_map(&usable).count();
    let nth = next(random).checked_rem(u64::try_from(count).ok()?)?;
    (0..length).filter_map(&usable).nth(usize::try_from(nth).ok()?)
}

/// The next number of a sequence (SplitMix64): one random number from the caller is enough for several throws.
fn next(random: &mut u64) -> u64 {
    *random = random.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mixed = (*random ^ (*random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
