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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::net::IpAddr;

    use proptest::prelude::*;

    use super::*;

    /// Requests in flight by the last part of the address.
    struct Load(Vec<u32>);

    impl InFlight for Load {
        fn in_flight(&self, endpoint: &Endpoint) -> u32 {
            match endpoint.address {
                IpAddr::V4(address) => self.0[usize::from(address.octets()[3])],
                IpAddr::V6(_) => 0,
            }
        }
    }

    fn port(number: u32) -> Port {
        Port::new(number).unwrap()
    }

    fn name(at: usize) -> NamespacedName {
        NamespacedName::parse(&format!("shop/cart-{at}")).unwrap()
    }

    /// Endpoints by readiness; every third has another target port.
    fn endpoints(ready: &[bool]) -> Endpoints {
        let endpoint = |(at, ready): (usize, &bool)| Endpoint {
            workload: name(at),
            address: IpAddr::from([10, 66, 0, u8::try_from(at).unwrap()]),
            ports: BTreeMap::from([(port(80), port(if at % 3 == 0 { 8080 } else { 9090 }))]),
            identity: None,
            ready: *ready,
        };
        Endpoints {
            service: NamespacedName::parse("shop/cart").unwrap(),
            endpoints: ready.iter().enumerate().map(endpoint).collect(),
        }
    }

    proptest! {
        #[test]
        fn an_endpoint_is_found_exactly_when_one_is_usable(
            ready in prop::collection::vec(any::<bool>(), 0..20),
            excluded in prop::collection::vec(0_usize..20, 0..10),
            random: u64,
        ) {
            let endpoints = endpoints(&ready);
            let excluded: Vec<NamespacedName> = excluded.into_iter().map(name).collect();
            let usable = endpoints
                .endpoints
                .iter()
                .any(|endpoint| endpoint.ready && !excluded.contains(&endpoint.workload));
            let choice = choose(&endpoints, port(80), &Load(vec![0; 20]), &excluded, random);
            prop_assert_eq!(choice.is_some(), usable);
            if let Some(choice) = choice {
                prop_assert!(choice.endpoint.ready && !excluded.contains(&choice.endpoint.workload));
                prop_assert_eq!(choice.port, choice.endpoint.ports[&port(80)]);
            }
            prop_assert!(choose(&endpoints, port(81), &Load(vec![0; 20]), &[], random).is_none());
        }
    }

    #[test]
    fn of_two_the_less_busy_one_is_chosen() {
        let endpoints = endpoints(&[true, true]);
        for random in 0..200 {
            let choice = choose(&endpoints, port(80), &Load(vec![5, 4]), &[], random).unwrap();
            assert_eq!(choice.endpoint.workload, name(1));
        }
    }

    #[test]
    fn equally_busy_endpoints_get_equal_shares_also_when_few_are_ready() {
        let mut ready = vec![false; 40];
        for at in [3, 17, 31, 39] {
            ready[at] = true;
        }
        let endpoints = endpoints(&ready);
        let mut shares = BTreeMap::new();
        for random in 0..8_000_u64 {
            let random = random.wrapping_mul(0x2545_f491_4f6c_dd1d);
            let choice = choose(&endpoints, port(80), &Load(vec![0; 40]), &[], random).unwrap();
            *shares.entry(choice.endpoint.workload.clone()).or_insert(0) += 1;
        }
        assert_eq!(shares.len(), 4);
        assert!(
            shares.values().all(|share| (1_700..2_300).contains(share)),
            "{shares:?}"
        );
    }

    #[test]
    fn the_busiest_of_many_is_never_chosen() {
        let endpoints = endpoints(&[true; 10]);
        let mut load = vec![1; 10];
        load[4] = 100;
        for random in 0..2_000_u64 {
            let choice = choose(&endpoints, port(80), &Load(load.clone()), &[], random << 32).unwrap();
            assert_ne!(choice.endpoint.workload, name(4));
        }
    }
}
