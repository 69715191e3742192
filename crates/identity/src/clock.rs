//! The time that a verifier judges by: the system's, or one that a test moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls::time_provider::{DefaultTimeProvider, TimeProvider};
use rustls_pki_types::UnixTime;

/// A source of the time, cheap to clone.
#[derive(Clone, Debug)]
pub struct Clock(pub(crate) Arc<dyn TimeProvider>);

/// Moves a [`Clock::fixed`] clock.
#[derive(Clone, Debug)]
pub struct ClockHand(Arc<Fixed>);

#[derive(Debug)]
struct Fixed(AtomicU64);

impl TimeProvider for Fixed {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(
            self.0.load(Ordering::Acquire),
        )))
    }
}

impl Clock {
    /// The wall clock of the machine.
    pub fn system() -> Self {
        Self(Arc::new(DefaultTimeProvider))
    }

    /// A clock that stands at `time` (whole seconds) until its hand is moved.
    pub fn fixed(time: SystemTime) -> (Self, ClockHand) {
        let hand = ClockHand(Arc::new(Fixed(AtomicU64::new(unix(time).as_secs()))));
        (Self(Arc::clone(&hand.0) as Arc<dyn TimeProvider>), hand)
    }

    /// The time now; the epoch when the machine cannot say.
    pub fn now(&self) -> SystemTime {
        self.0
            .current_time()
            .map_or(UNIX_EPOCH, |time| from_unix(time.as_secs()))
    }
}

impl ClockHand {
    /// Sets the time, in whole seconds.
    pub fn set(&self, time: SystemTime) {
        self.0.0.store(unix(time).as_secs(), Ordering::Release);
    }
}

/// Seconds since 1970; zero for times before.
pub(crate) fn unix(time: SystemTime) -> Duration {
    time.duration_since(UNIX_EPOCH).unwrap_or_default()
}

pub(crate) fn unix_time(time: SystemTime) -> UnixTime {
    UnixTime::since_unix_epoch(unix(time))
}

pub(crate) fn from_unix(seconds: u64) -> SystemTime {
    // The largest year that X.509 can write is 9999; whatever is later is as good as that.
    UNIX_EPOCH
        .checked_add(Duration::from_secs(seconds.min(253_402_300_799)))
        .unwrap_or(UNIX_EPOCH)
}
