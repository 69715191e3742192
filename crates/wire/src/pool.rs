//! Idle connections of one worker, waiting for the next request to the same destination.
//!
//! A key is the whole destination (identity, endpoint, TLS settings) and is compared as a value: two
//! destinations never share a connection because their hashes meet. Time comes in as an argument.

mod shared;

pub use shared::SharedPool;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::time::{Duration, Instant};

/// A connection that can be asked whether it still works.
pub trait Reusable {
    /// Whether another request may be sent on it, as far as can be seen without waiting.
    fn is_alive(&mut self) -> bool;
}

/// Bounds of a [`Pool`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PoolLimits {
    /// Idle connections of one key; the oldest is closed for a new one.
    pub idle_per_key: usize,
    /// Idle connections in all; a new one is closed instead of kept.
    pub idle: usize,
    /// How long a connection may be idle.
    pub idle_timeout: Duration,
}

impl Default for PoolLimits {
    fn default() -> Self {
        Self {
            idle_per_key: 128,
            idle: 4096,
            idle_timeout: Duration::from_mins(1),
        }
    }
}

/// Idle connections by key, the most recently used first.
#[derive(Debug)]
pub struct Pool<K, C> {
    limits: PoolLimits,
    idle: HashMap<K, Vec<(C, Instant)>>,
    count: usize,
}

impl<K: Eq + Hash, C: Reusable> Pool<K, C> {
    /// An empty pool.
    pub fn new(limits: PoolLimits) -> Self {
        Self {
            limits,
            idle: HashMap::new(),
            count: 0,
        }
    }

    /// Takes the connection to `key` that was used last and still works; those found closed are dropped.
    pub fn checkout(&mut self, key: &K, now: Instant) -> Option<C> {
        let list = self.idle.get_mut(key)?;
        while let Some((mut connection, since)) = list.pop() {
            self.count -= 1;
            let fresh = now.saturating_duration_since(since) < self.limits.idle_timeout;
            if fresh && connection.is_alive() {
                return Some(connection);
            }
        }
        None
    }

    /// Keeps `connection` for the next request to `key`, when it can be used again and there is room.
    pub fn checkin(&mut self, key: K, mut connection: C, now: Instant) {
        if self.limits.idle_per_key == 0 || !connection.is_alive() {
            return;
        }
        let list = match self.idle.entry(key) {
            Entry::Occupied(entry) => entry.into_mut(),
            Entry::Vacant(_) if self.count >= self.limits.idle => return,
            Entry::Vacant(entry) => entry.insert(Vec::new()),
        };
        if list.len() >= self.limits.idle_per_key {
            list.remove(0);
            self.count -= 1;
        } else if self.count >= self.limits.idle {
            return;
        }
        list.push((connection, now));
        self.count += 1;
    }

    /// Closes connections that were idle too long or that their server closed; to be called about once a second.
    pub fn sweep(&mut self, now: Instant) {
        let timeout = self.limits.idle_timeout;
        self.idle.retain(|_, list| {
            list.retain_mut(|(connection, since)| {
                now.saturating_duration_since(*since) < timeout && connection.is_alive()
            });
            !list.is_empty()
        });
        self.count = self.idle.values().map(Vec::len).sum();
    }

    /// Closes the connections whose key `gone` tells: an endpoint left, a credential was replaced.
    pub fn clear_if(&mut self, mut gone: impl FnMut(&K) -> bool) {
        self.idle.retain(|key, _| !gone(key));
        self.count = self.idle.values().map(Vec::len).sum();
    }

    /// How many connections are idle.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}
