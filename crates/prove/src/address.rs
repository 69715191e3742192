//! All addresses and all numbers, divided by the blocks and values that a problem speaks of.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use bartizan_types::Cidr;

use crate::bits::Bits;
use crate::text::Classes;

/// Divides addresses of both families. `among` says which there are, where that is known; else all are, and `preferred` ones
/// are examples before others.
pub(crate) fn divide_addresses(
    blocks: &[Cidr],
    preferred: &[IpAddr],
    among: Option<&[IpAddr]>,
) -> Classes<IpAddr> {
    let mut candidates: Vec<IpAddr> = among.unwrap_or(preferred).to_vec();
    if among.is_none() {
        // Between two borders all addresses are alike.
        let mut four = BTreeSet::from([0_u32]);
        let mut six = BTreeSet::from([0_u128]);
        for block in blocks {
            match block.address() {
                IpAddr::V4(first) => {
                    let first = u32::from(first);
                    four.insert(first);
                    let size = 1_u64 << (32 - u64::from(block.length()));
                    if let Ok(after) = u32::try_from(u64::from(first) + size) {
                        four.insert(after);
                    }
                }
                IpAddr::V6(first) => {
                    let first = u128::from(first);
                    six.insert(first);
                    if let Some(after) = 1_u128
                        .checked_shl(128 - u32::from(block.length()))
                        .and_then(|size| first.checked_add(size))
                    {
                        six.insert(after);
                    }
                }
            }
        }
        for (first, next) in pairs(four) {
            // The first address of a network is nobody's, where there is another.
            let one = first.saturating_add(1);
            let example = if next.is_none_or(|next| one < next) {
                one
            } else {
                first
            };
            candidates.push(IpAddr::V4(Ipv4Addr::from(example)));
        }
        for (first, next) in pairs(six) {
            let one = first.saturating_add(1);
            let example = if next.is_none_or(|next| one < next) {
                one
            } else {
                first
            };
            let address = Ipv6Addr::from(example);
            // A mapped address is an IPv4 address to every matcher.
            if address.to_ipv4_mapped().is_none() {
                candidates.push(IpAddr::V6(address));
            } else if let Some(plain) = next.map(|next| Ipv6Addr::from(next - 1))
                && plain.to_ipv4_mapped().is_none()
            {
                candidates.push(IpAddr::V6(plain));
            }
        }
    }
    divide(&candidates, blocks.len(), |address, number| {
        blocks.get(number).is_some_and(|block| block.contains(*address))
    })
}

fn pairs<T: Copy>(borders: BTreeSet<T>) -> Vec<(T, Option<T>)> {
    let borders: Vec<T> = borders.into_iter().collect();
    borders
        .iter()
        .enumerate()
        .map(|(at, first)| (*first, borders.get(at + 1).copied()))
        .collect()
}

/// What is asked of a number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub(crate) enum NumberAtom {
    /// Equal.
    Is(i64),
    /// Less.
    Below(i64),
}

impl NumberAtom {
    pub(crate) fn holds(self, number: i64) -> bool {
        match self {
            Self::Is(own) => number == own,
            Self::Below(own) => number < own,
        }
    }
}

/// Divides the numbers from `least` to `most`; `preferred` ones are examples before others.
pub(crate) fn divide_numbers(
    atoms: &[NumberAtom],
    preferred: &[i64],
    (least, most): (i64, i64),
) -> Classes<i64> {
    let mut candidates: Vec<i64> = preferred.to_vec();
    candidates.extend([least, most]);
    for atom in atoms {
        let (NumberAtom::Is(own) | NumberAtom::Below(own)) = atom;
        candidates.extend([own.saturating_sub(1), *own, own.saturating_add(1)]);
    }
    candidates.retain(|number| (least..=most).contains(number));
    divide(&candidates, atoms.len(), |number, atom| {
        atoms.get(atom).is_some_and(|atom| atom.holds(*number))
    })
}

/// The classes of these candidates, in the order of their first ones.
pub(crate) fn divide<V: Clone>(
    candidates: &[V],
    atoms: usize,
    holds: impl Fn(&V, usize) -> bool,
) -> Classes<V> {
    let mut known: HashMap<Vec<usize>, usize> = HashMap::new();
    let mut classes = Classes {
        examples: Vec::new(),
        accepted: vec![Bits::none(); atoms],
    };
    for candidate in candidates {
        let key: Vec<usize> = (0..atoms).filter(|atom| holds(candidate, *atom)).collect();
        if known.contains_key(&key) {
            continue;
        }
        let class = classes.examples.len();
        for atom in &key {
            if let Some(bits) = classes.accepted.get_mut(*atom) {
                bits.insert(class);
            }
        }
        known.insert(key, class);
        classes.examples.push(Some(candidate.clone()));
    }
    classes
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn every_address_is_of_a_class(blocks in prop::collection::vec((any::<u32>(), 0_u8..=32), 0..6), address: u32, wide: u128, six in prop::collection::vec((any::<u128>(), 0_u8..=128), 0..4)) {
            let mut all: Vec<Cidr> = blocks.iter().map(|(address, length)| Cidr::new(IpAddr::V4((*address).into()), *length)).collect();
            all.extend(six.iter().map(|(address, length)| Cidr::new(IpAddr::V6((*address).into()), *length)));
            let classes = divide_addresses(&all, &[], None);
            for address in [IpAddr::V4(address.into()), IpAddr::V6(wide.into())] {
                let vector: Vec<bool> = all.iter().map(|block| block.contains(address)).collect();
                let is_known = (0..classes.examples.len()).any(|class| classes.accepted.iter().map(|bits| bits.has(class)).collect::<Vec<_>>() == vector);
                prop_assert!(is_known, "{address}");
            }
        }

        #[test]
        fn every_number_is_of_a_class(values in prop::collection::vec((-5_i64..70, any::<bool>()), 0..6), number in 0_i64..60) {
            let atoms: Vec<NumberAtom> = values.iter().map(|(value, is)| if *is { NumberAtom::Is(*value) } else { NumberAtom::Below(*value) }).collect();
            let classes = divide_numbers(&atoms, &[], (0, 59));
            let vector: Vec<bool> = atoms.iter().map(|atom| atom.holds(number)).collect();
            let is_known = (0..classes.examples.len()).any(|class| classes.accepted.iter().map(|bits| bits.has(class)).collect::<Vec<_>>() == vector);
            prop_assert!(is_known);
        }
    }
}
