//! The numbers themselves: written by one thread with plain loads and stores, read by any.

use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A counter with one writer. Two threads that add at the same time would lose counts, so only handles that cannot leave their thread add.
#[derive(Debug, Default)]
pub(crate) struct Tally(AtomicU64);

impl Tally {
    pub(crate) fn add(&self, amount: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A number with one writer that goes up and down.
#[derive(Debug, Default)]
pub(crate) struct Level(AtomicI64);

impl Level {
    pub(crate) fn add(&self, amount: i64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(amount),
            Ordering::Relaxed,
        );
    }

    pub(crate) fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Upper bounds of the buckets in thousandths: Envoy's default list, the same for milliseconds and bytes.
pub(crate) const BOUNDS: [u64; 19] = [
    500,
    1_000,
    5_000,
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    30_000_000,
    60_000_000,
    300_000_000,
    600_000_000,
    1_800_000_000,
    3_600_000_000,
];

/// A histogram with one writer, of values in thousandths of the unit.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    buckets: [Tally; BOUNDS.len() + 1],
    /// In thousandths; wraps after half a million years of milliseconds.
    sum: Tally,
}

impl Histogram {
    pub(crate) fn observe_thousandths(&self, value: u64) {
        let at = BOUNDS.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.add(1);
        }
        self.sum.add(value);
    }

    pub(crate) fn observe_units(&self, value: u64) {
        self.observe_thousandths(value.saturating_mul(1000));
    }

    pub(crate) fn fold_into(&self, folded: &mut FoldedHistogram) {
        for (own, into) in self.buckets.iter().zip(&mut folded.buckets) {
            *into += own.get();
        }
        folded.sum_thousandths += u128::from(self.sum.get());
    }
}

/// Several threads' histograms, added up.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct FoldedHistogram {
    pub(crate) buckets: [u64; BOUNDS.len() + 1],
    pub(crate) sum_thousandths: u128,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_on_a_bound_belongs_below_it() {
        let histogram = Histogram::default();
        for value in [0, 500, 501, 1_000, 3_600_000_000, 3_600_000_001] {
            histogram.observe_thousandths(value);
        }
        let mut folded = FoldedHistogram::default();
        histogram.fold_into(&mut folded);
        assert_eq!(folded.buckets[0], 2, "0 and 0.5");
        assert_eq!(folded.buckets[1], 2, "0.501 and 1");
        assert_eq!(folded.buckets[18], 1, "the last bound itself");
        assert_eq!(folded.buckets[19], 1, "above every bound");
        assert_eq!(folded.sum_thousandths, 7_200_002_002);
    }
}
