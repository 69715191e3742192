//! Pods' addresses: the next free one of 10.66.0.0/16. One that was given back rests as long as possible, so that a
//! connection to a pod that is gone does not reach another.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

const FIRST: u32 = u32::from_be_bytes([10, 66, 0, 10]);
const LAST: u32 = u32::from_be_bytes([10, 66, 255, 250]);

#[derive(Debug)]
pub(super) struct Addresses {
    taken: BTreeSet<u32>,
    next: u32,
}

impl Default for Addresses {
    fn default() -> Self {
        Self {
            taken: BTreeSet::new(),
            next: FIRST,
        }
    }
}

impl Addresses {
    /// `None` when every address is taken.
    pub(super) fn take(&mut self) -> Option<Ipv4Addr> {
        let free = (self.next..=LAST)
            .chain(FIRST..self.next)
            .find(|address| !self.taken.contains(address))?;
        self.taken.insert(free);
        self.next = if free == LAST { FIRST } else { free + 1 };
        Some(Ipv4Addr::from(free))
    }

    pub(super) fn give_back(&mut self, address: Ipv4Addr) {
        self.taken.remove(&u32::from(address));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_rests_after_it_was_given_back() {
        let mut addresses = Addresses::default();
        let first = addresses.take().unwrap();
        addresses.give_back(first);
        assert_ne!(addresses.take(), Some(first));
        let mut all = Addresses {
            next: LAST,
            ..Addresses::default()
        };
        assert_eq!(all.take(), Some(Ipv4Addr::from(LAST)));
        assert_eq!(all.take(), Some(Ipv4Addr::from(FIRST)));
    }
}
