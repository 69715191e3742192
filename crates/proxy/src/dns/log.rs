//! Questions for names outside the mesh are written down: each name once a minute, and so many names at most. A name is
//! chosen by the application, so it is data that is trying to leave.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// A name is not written again before.
const AGAIN: Duration = Duration::from_mins(1);
/// Names that are written in that time; further ones are counted by the metrics alone.
const MOST_NAMES: usize = 100;

/// What was written lately.
#[derive(Debug)]
pub(super) struct OutsideNames {
    written: Mutex<BTreeMap<String, Instant>>,
}

impl OutsideNames {
    pub(super) const fn new() -> Self {
        Self {
            written: Mutex::new(BTreeMap::new()),
        }
    }

    /// Whether to write about this name now. Names of the cluster's own domain, which resolvers ask for while they go
    /// through their search list, are not outside.
    pub(super) fn is_news(&self, name: &str, domain: &str, now: Instant) -> bool {
        let lower = name.trim_end_matches('.').to_ascii_lowercase();
        if lower.is_empty() || !lower.contains('.') || is_within(&lower, domain) {
            return false;
        }
        let mut written = self
            .written
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if written.contains_key(&lower) || written.len() >= MOST_NAMES {
            written.retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        }
        if written.contains_key(&lower) || written.len() >= MOST_NAMES {
            return false;
        }
        written.insert(lower, now);
        true
    }
}

fn is_within(name: &str, domain: &str) -> bool {
    name.strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_news_once_a_minute_and_not_every_name_is() {
        let names = OutsideNames::new();
        let start = Instant::now();
        let news =
            |name: &str, after: u64| names.is_news(name, "cluster.local", start + Duration::from_secs(after));
        assert!(news("example.com.", 0));
        assert!(!news("EXAMPLE.com", 1));
        assert!(news("example.org", 1));
        for inside in [
            "",
            "web",
            "web.lab.svc.cluster.local.",
            "example.com.lab.svc.cluster.local",
            "cluster.local",
        ] {
            assert!(!news(inside, 2), "{inside}");
        }
        assert!(news("evil-cluster.local", 2));
        assert!(news("example.com", 61));
        let written = (0..1000)
            .filter(|number| news(&format!("{number}.example.net"), 62))
            .count();
        assert!((90..=MOST_NAMES).contains(&written), "{written}");
        assert!(news("later.example.net", 200));
    }
}
