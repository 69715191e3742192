//! When a key set is fetched: pure, with the time and the jitter as arguments.

use std::time::Duration;

use tokio::time::Instant;

/// The times of fetching keys. Tests make them short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeyTimes {
    /// Keys are fetched again after this long at most; Istio's `PILOT_JWT_PUB_KEY_REFRESH_INTERVAL`.
    pub refresh: Duration,
    /// However short an issuer says that its keys live, they are not fetched more often than this.
    pub shortest_refresh: Duration,
    /// A failed fetch is tried again after this, then after twice as long, and so on.
    pub first_retry: Duration,
    /// The longest time until a failed fetch is tried again.
    pub longest_retry: Duration,
    /// Between two fetches of a key set because of tokens with an unknown key. Shorter than a proxy holds such a request
    /// (two seconds), so that a key that is rolled over is found even while somebody makes up keys.
    pub unknown_key: Duration,
    /// How long keys are believed after the issuer confirmed them last.
    pub believed: Duration,
}

impl Default for KeyTimes {
    fn default() -> Self {
        Self {
            refresh: Duration::from_mins(20),
            shortest_refresh: Duration::from_mins(1),
            first_retry: Duration::from_secs(1),
            longest_retry: Duration::from_mins(5),
            unknown_key: Duration::from_secs(1),
            believed: Duration::from_hours(7 * 24),
        }
    }
}

impl KeyTimes {
    /// How long keys that were confirmed at `checked_at` are still believed at `now`, both in seconds since 1970. A clock that
    /// was set back does not make keys live longer.
    pub(super) fn left(&self, checked_at: i64, now: i64) -> Duration {
        let age = u64::try_from(now.saturating_sub(checked_at)).unwrap_or(0);
        self.believed.saturating_sub(Duration::from_secs(age))
    }

    /// Keys are fetched somewhat before their time, each set at its own moment, so that none is ever used after it and issuers
    /// do not see all meshes at once.
    fn after_success(&self, lifetime: Option<Duration>, jitter: f64) -> Duration {
        let shortest = self.shortest_refresh.min(self.refresh);
        let whole = lifetime.unwrap_or(self.refresh).clamp(shortest, self.refresh);
        whole.mul_f64(1.0 - 0.1 * jitter.clamp(0.0, 1.0))
    }

    fn after_failures(&self, failures: u32, jitter: f64) -> Duration {
        let doubled = self
            .first_retry
            .saturating_mul(1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX));
        doubled
            .min(self.longest_retry)
            .mul_f64(1.0 - 0.3 * jitter.clamp(0.0, 1.0))
    }
}

/// When one key set is fetched next.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    next: Instant,
    /// When the last fetch began that somebody's question brought forward.
    asked: Option<Instant>,
    /// The next fetch is because of a question.
    is_question: bool,
    is_running: bool,
    failures: u32,
}

impl Schedule {
    /// At once.
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: now,
            asked: None,
            is_question: false,
            is_running: false,
            failures: 0,
        }
    }

    /// When the next fetch begins; none while one runs.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.is_running).then_some(self.next)
    }

    pub(super) fn is_due(&self, now: Instant) -> bool {
        self.next().is_some_and(|next| next <= now)
    }

    pub(super) fn started(&mut self, now: Instant) {
        if std::mem::take(&mut self.is_question) {
            self.asked = Some(now);
        }
        self.is_running = true;
    }

    /// The issuer has answered, and says how long its answer may be used.
    pub(super) fn succeeded(
        &mut self,
        now: Instant,
        lifetime: Option<Duration>,
        times: &KeyTimes,
        jitter: f64,
    ) {
        self.is_running = false;
        self.failures = 0;
        self.next = now + times.after_success(lifetime, jitter);
    }

    pub(super) fn failed(&mut self, now: Instant, times: &KeyTimes, jitter: f64) {
        self.is_running = false;
        self.failures = self.failures.saturating_add(1);
        self.next = now + times.after_failures(self.failures, jitter);
    }

    /// Somebody has seen an unknown key: now, or as soon as the limit lets it. While a fetch runs, that is the answer. Only
    /// fetches because of questions count against the limit, so that a key that is new right after a fetch is found at once.
    pub(super) fn ask(&mut self, now: Instant, limit: Duration) {
        if self.is_running {
            return;
        }
        let earliest = self.asked.map_or(now, |asked| (asked + limit).max(now));
        if earliest < self.next {
            self.next = earliest;
            self.is_question = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn after_success(lifetime: Option<Duration>, jitter: f64) -> Duration {
        let now = Instant::now();
        let mut schedule = Schedule::new(now);
        schedule.started(now);
        schedule.succeeded(now, lifetime, &KeyTimes::default(), jitter);
        schedule.next().unwrap() - now
    }

    #[test]
    fn keys_are_fetched_before_they_end_and_neither_too_often_nor_too_seldom() {
        assert_eq!(after_success(None, 0.0), SECOND * 1200);
        assert_eq!(after_success(None, 1.0), SECOND * 1080);
        assert_eq!(after_success(Some(SECOND * 300), 0.0), SECOND * 300);
        assert_eq!(after_success(Some(SECOND * 300), 1.0), SECOND * 270);
        assert_eq!(after_success(Some(SECOND), 0.0), SECOND * 60);
        assert_eq!(after_success(Some(Duration::ZERO), 0.0), SECOND * 60);
        assert_eq!(after_success(Some(SECOND * 86_400), 0.0), SECOND * 1200);
    }

    #[test]
    fn failures_are_tried_again_at_growing_distances_up_to_a_bound() {
        let now = Instant::now();
        let times = KeyTimes::default();
        let mut schedule = Schedule::new(now);
        let mut waits = Vec::new();
        for _ in 0..40 {
            schedule.started(now);
            assert!(!schedule.is_due(now + SECOND * 3600));
            schedule.failed(now, &times, 0.0);
            waits.push((schedule.next().unwrap() - now).as_secs());
        }
        assert_eq!(waits[..10], [1, 2, 4, 8, 16, 32, 64, 128, 256, 300]);
        assert!(waits[10..].iter().all(|wait| *wait == 300));
        schedule.started(now);
        schedule.succeeded(now, None, &times, 0.0);
        schedule.started(now);
        schedule.failed(now, &times, 0.0);
        assert_eq!(schedule.next().unwrap() - now, SECOND);
    }

    #[test]
    fn unknown_keys_bring_a_fetch_forward_and_not_too_often() {
        let start = Instant::now();
        let times = KeyTimes {
            unknown_key: SECOND * 10,
            ..KeyTimes::default()
        };
        let mut schedule = Schedule::new(start);
        schedule.started(start);
        schedule.ask(start, times.unknown_key);
        assert_eq!(schedule.next(), None);
        schedule.succeeded(start + SECOND, None, &times, 0.0);
        // The first one at once, however new the keys are.
        schedule.ask(start + SECOND, times.unknown_key);
        assert_eq!(schedule.next(), Some(start + SECOND));
        schedule.started(start + SECOND);
        schedule.succeeded(start + SECOND, None, &times, 0.0);
        schedule.ask(start + SECOND * 2, times.unknown_key);
        schedule.ask(start + SECOND * 3, times.unknown_key);
        assert_eq!(schedule.next(), Some(start + SECOND * 11));
        schedule.started(start + SECOND * 11);
        schedule.succeeded(start + SECOND * 11, None, &times, 0.0);
        schedule.ask(start + SECOND * 60, times.unknown_key);
        assert_eq!(schedule.next(), Some(start + SECOND * 60));
        // It never puts off what is due earlier.
        schedule.started(start + SECOND * 60);
        schedule.failed(start + SECOND * 60, &times, 0.0);
        schedule.ask(start + SECOND * 60, times.unknown_key);
        assert_eq!(schedule.next(), Some(start + SECOND * 61));
    }

    #[test]
    fn keys_are_believed_for_seven_days() {
        let times = KeyTimes::default();
        assert_eq!(times.left(1000, 1000), SECOND * 604_800);
        assert_eq!(times.left(1000, 605_799), SECOND);
        assert_eq!(times.left(1000, 605_800), Duration::ZERO);
        assert_eq!(times.left(1000, 0), SECOND * 604_800);
        assert_eq!(times.left(i64::MIN, i64::MAX), Duration::ZERO);
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_bounds(lifetime in proptest::option::of(0u64..10_000_000), failures in 1u32..10_000, jitter in -1.0f64..2.0) {
            let times = KeyTimes::default();
            let wait = times.after_success(lifetime.map(Duration::from_secs), jitter);
            prop_assert!(wait >= Duration::from_secs(54) && wait <= times.refresh);
            let wait = times.after_failures(failures, jitter);
            prop_assert!(wait >= Duration::from_millis(699) && wait <= times.longest_retry);
        }
    }
}
