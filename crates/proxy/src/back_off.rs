//! How long to wait before the control plane is tried again. Its socket outlives it, so that the first tries come soon.

use std::time::Duration;

/// The longest wait.
const LONGEST: Duration = Duration::from_secs(3);

/// The wait after the `failures`th failure in a row (from 1): doubling from 50 ms, with half as much again at random;
/// `random` is in `[0, 1)`.
pub(crate) fn wait_after(failures: u32, random: f64) -> Duration {
    let doubled = Duration::from_millis(50).saturating_mul(1 << failures.saturating_sub(1).min(10));
    doubled.min(LONGEST).mul_f64(1.0 + random.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound() {
        assert_eq!(wait_after(1, 0.0), Duration::from_millis(50));
        assert_eq!(wait_after(3, 0.0), Duration::from_millis(200));
        assert!(wait_after(100, 0.999) < LONGEST * 2);
    }
}
