//! Virtual addresses of services: stable while the service exists, and over restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use bartizan_types::NamespacedName;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::hash::fnv1a_128;

/// Which service has which virtual address of `10.67.0.0/16`. Its JSON is a map from `namespace/name` to the address.
///
/// A service's first choice follows from its name, so that most addresses are the same even where nothing was kept.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Allocations {
    addresses: BTreeMap<NamespacedName, Ipv4Addr>,
}

impl Allocations {
    /// The address of a service, if it has one.
    pub fn get(&self, service: &NamespacedName) -> Option<Ipv4Addr> {
        self.addresses.get(service).copied()
    }

    /// All of them, by service.
    pub fn iter(&self) -> impl Iterator<Item = (&NamespacedName, Ipv4Addr)> {
        self.addresses.iter().map(|(name, address)| (name, *address))
    }

    /// The allocations for exactly these services: old addresses are kept, addresses of others are free again, new
    /// services get one. The second value are services for which none is left.
    pub(crate) fn for_services<'a>(
        &self,
        services: impl Iterator<Item = &'a NamespacedName> + Clone,
    ) -> (Self, Vec<NamespacedName>) {
        let mut addresses = BTreeMap::new();
        let mut taken = BTreeSet::new();
        for name in services.clone() {
            if let Some(address) = self.get(name)
                && is_allocatable(address)
                && taken.insert(address)
            {
                addresses.insert(name.clone(), address);
            }
        }
        let mut without = Vec::new();
        for name in services {
            if addresses.contains_key(name) {
                continue;
            }
            match first_free(name, &taken) {
                Some(address) => {
                    taken.insert(address);
                    addresses.insert(name.clone(), address);
                }
                None => without.push(name.clone()),
            }
        }
        (Self { addresses }, without)
    }
}

/// The first free address from the name's own place on.
fn first_free(name: &NamespacedName, taken: &BTreeSet<Ipv4Addr>) -> Option<Ipv4Addr> {
    let wanted = fnv1a_128(name.to_string().as_bytes()) % u128::from(COUNT);
    let wanted = u32::try_from(wanted).ok()?;
    (0..COUNT)
        .map(|step| Ipv4Addr::from(FIRST + (wanted + step) % COUNT))
        .find(|address| !taken.contains(address))
}

fn is_allocatable(address: Ipv4Addr) -> bool {
    (FIRST..FIRST + COUNT).contains(&u32::from(address))
}

/// `10.67.0.1`.
const FIRST: u32 = u32::from_be_bytes([10, 67, 0, 1]);
/// Up to `10.67.255.254`.
const COUNT: u32 = 0xfffe;

impl Serialize for Allocations {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(
            self.addresses
                .iter()
                .map(|(name, address)| (name.to_string(), address)),
        )
    }
}

impl<'de> Deserialize<'de> for Allocations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let texts = BTreeMap::<String, Ipv4Addr>::deserialize(deserializer)?;
        let addresses = texts
            .into_iter()
            .map(|(name, address)| Ok((NamespacedName::parse(&name)?, address)))
            .collect::<Result<_, bartizan_types::NameError>>()
            .map_err(serde::de::Error::custom)?;
        Ok(Self { addresses })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn names(indices: &[u16]) -> BTreeSet<NamespacedName> {
        indices
            .iter()
            .map(|index| NamespacedName::parse(&format!("ns/s{index}")).unwrap())
            .collect()
    }

    proptest! {
        #[test]
        fn addresses_are_unique_and_stay(first in prop::collection::vec(0u16..400, 0..200), second in prop::collection::vec(0u16..400, 0..200)) {
            let (first, second) = (names(&first), names(&second));
            let (before, none) = Allocations::default().for_services(first.iter());
            prop_assert!(none.is_empty());
            let (after, none) = before.for_services(second.iter());
            prop_assert!(none.is_empty());
            prop_assert_eq!(after.iter().map(|(_, address)| address).collect::<BTreeSet<_>>().len(), second.len());
            for name in first.intersection(&second) {
                prop_assert_eq!(before.get(name), after.get(name));
            }
            let json = serde_json::to_string(&after).unwrap();
            prop_assert_eq!(serde_json::from_str::<Allocations>(&json).unwrap(), after);
        }
    }

    #[test]
    fn a_kept_address_outside_of_the_range_is_not_used() {
        let kept: Allocations = serde_json::from_str(r#"{"ns/a":"127.0.0.1","ns/b":"10.67.0.9"}"#).unwrap();
        let (now, _) = kept.for_services(
            [
                NamespacedName::parse("ns/a").unwrap(),
                NamespacedName::parse("ns/b").unwrap(),
            ]
            .iter(),
        );
        assert!(is_allocatable(
            now.get(&NamespacedName::parse("ns/a").unwrap()).unwrap()
        ));
        assert_eq!(
            now.get(&NamespacedName::parse("ns/b").unwrap()),
            Some(Ipv4Addr::new(10, 67, 0, 9))
        );
    }
}
