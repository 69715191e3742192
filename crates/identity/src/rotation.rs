//! When to renew. Pure: times and random numbers come in, times go out.
//!
//! Everything follows the wall clock, because certificates do: a laptop that slept wakes up due.

use std::time::{Duration, SystemTime};

/// The longest nap, so that a change of the wall clock is noticed within it.
pub const LONGEST_NAP: Duration = Duration::from_secs(15);
/// The longest time between two tries.
pub const LONGEST_RETRY: Duration = Duration::from_secs(30);

/// When an SVID that is valid between these times is renewed: at half of its life, up to a tenth of its life earlier or later.
/// `random` is in `[0, 1)`.
pub fn renew_at(not_before: SystemTime, not_after: SystemTime, random: f64) -> SystemTime {
    let life = not_after.duration_since(not_before).unwrap_or_default();
    not_before + life.mul_f64(0.4 + 0.2 * random.clamp(0.0, 1.0))
}

/// How long to wait after the `attempt`th failure (from 1): doubling from half a second, with as much again at random,
/// never more than [`LONGEST_RETRY`]. `random` is in `[0, 1)`.
pub fn retry_after(attempt: u32, random: f64) -> Duration {
    let doubled = Duration::from_millis(500).saturating_mul(1 << attempt.saturating_sub(1).min(10));
    doubled.mul_f64(1.0 + random.clamp(0.0, 1.0)).min(LONGEST_RETRY)
}

/// How long to sleep now on the way to `until`; zero when it is due.
pub fn nap(now: SystemTime, until: SystemTime) -> Duration {
    until.duration_since(now).unwrap_or_default().min(LONGEST_NAP)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::UNIX_EPOCH;

    const HOUR: Duration = Duration::from_hours(1);

    proptest! {
        #[test]
        fn renewal_is_near_half_of_the_life(random in 0.0f64..1.0, seconds in 10u64..1_000_000) {
            let end = UNIX_EPOCH + Duration::from_secs(seconds);
            let at = renew_at(UNIX_EPOCH, end, random).duration_since(UNIX_EPOCH).unwrap().as_secs_f64();
            let life = Duration::from_secs(seconds).as_secs_f64();
            prop_assert!(at >= 0.4 * life - 1e-6 && at <= 0.6 * life + 1e-6);
        }

        #[test]
        fn retries_grow_and_stay_bounded(attempt in 1u32..100, random in 0.0f64..1.0) {
            let wait = retry_after(attempt, random);
            prop_assert!(wait >= Duration::from_millis(500) && wait <= LONGEST_RETRY);
            prop_assert!(retry_after(attempt + 1, random) >= wait);
        }
    }

    #[test]
    fn a_clock_that_jumps_ahead_makes_it_due() {
        let at = renew_at(UNIX_EPOCH + HOUR, UNIX_EPOCH + 2 * HOUR, 0.5);
        assert_eq!(at, UNIX_EPOCH + HOUR + HOUR / 2);
        assert_eq!(nap(UNIX_EPOCH + HOUR, at), LONGEST_NAP);
        assert_eq!(nap(UNIX_EPOCH + 10 * HOUR, at), Duration::ZERO);
        assert_eq!(nap(at - Duration::from_secs(3), at), Duration::from_secs(3));
    }

    #[test]
    fn a_life_that_ends_before_it_begins_is_due_at_once() {
        assert_eq!(renew_at(UNIX_EPOCH + HOUR, UNIX_EPOCH, 0.9), UNIX_EPOCH + HOUR);
    }
}
