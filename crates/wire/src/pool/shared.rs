//! HTTP/2 connections of one worker: shared by requests, several to a destination when one is full.

use std::collections::HashMap;
use std::hash::Hash;

use crate::h2::ClientConnection;

/// Open HTTP/2 connections by key. A key is compared as a value, as in [`Pool`](super::Pool).
#[derive(Debug)]
pub struct SharedPool<K> {
    per_key: usize,
    open: HashMap<K, Vec<ClientConnection>>,
}

impl<K: Eq + Hash> SharedPool<K> {
    /// An empty pool that holds at most `per_key` connections of one key (at least one); when all are full, requests wait at
    /// the least loaded.
    pub fn new(per_key: usize) -> Self {
        Self {
            per_key: per_key.max(1),
            open: HashMap::new(),
        }
    }

    /// The least loaded connection to `key`. `None` asks the caller to open one and [`insert`](Self::insert) it:
    /// there is none, or all are full and another is allowed.
    pub fn checkout(&mut self, key: &K) -> Option<ClientConnection> {
        let list = self.open.get_mut(key)?;
        list.retain(|connection| !connection.is_closed());
        let least = list.iter().min_by_key(|connection| connection.streams())?;
        (least.has_room() || list.len() >= self.per_key).then(|| least.clone())
    }

    /// Shares `connection` with later requests to `key`. Above the bound it serves its opener only.
    pub fn insert(&mut self, key: K, connection: ClientConnection) {
        let list = self.open.entry(key).or_default();
        if list.len() < self.per_key {
            list.push(connection);
        }
    }

    /// Forgets connections that are closed, and those without streams for which `unused` is true.
    pub fn sweep(&mut self, mut unused: impl FnMut(&K) -> bool) {
        self.open.retain(|key, list| {
            let unused = unused(key);
            list.retain(|connection| !(connection.is_closed() || (unused && connection.streams() == 0)));
            !list.is_empty()
        });
    }

    /// Forgets the connections whose key `gone` tells; their streams run on.
    pub fn clear_if(&mut self, mut gone: impl FnMut(&K) -> bool) {
        self.open.retain(|key, _| !gone(key));
    }

    /// How many connections are open.
    pub fn len(&self) -> usize {
        self.open.values().map(Vec::len).sum()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}
