//! How long to wait before something is started again: longer with each failure, short again after it ran well.

use std::time::Duration;

/// A process that ran this long counts as having run well.
const WELL: Duration = Duration::from_mins(1);

/// Doubles from `first` to `most`.
#[derive(Clone, Debug)]
pub(super) struct BackOff {
    first: Duration,
    most: Duration,
    next: Duration,
}

impl BackOff {
    /// For applications: 0.5 s to 30 s.
    pub(super) fn application() -> Self {
        Self::new(Duration::from_millis(500), Duration::from_secs(30))
    }

    /// For proxies, which are ours and must be back at once: 20 ms to 5 s.
    pub(super) fn proxy() -> Self {
        Self::new(Duration::from_millis(20), Duration::from_secs(5))
    }

    fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            next: first,
        }
    }

    /// The wait after an end, given how long the process ran.
    pub(super) fn after(&mut self, ran: Duration) -> Duration {
        if ran >= WELL {
            self.next = self.first;
        }
        let wait = self.next;
        self.next = (self.next * 2).min(self.most);
        wait
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_up_to_its_bound_and_starts_anew_after_a_good_run() {
        let mut back_off = BackOff::application();
        let waits: Vec<u128> = (0..8)
            .map(|_| back_off.after(Duration::ZERO).as_millis())
            .collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000]);
        assert_eq!(back_off.after(WELL).as_millis(), 500);
    }
}
