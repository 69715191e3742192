//! A map in shards, so that a copy shares what it does not change.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use crate::digest::FieldHashing;

/// How many shards there are: a change copies one of them and this many pointers.
const SHARDS: usize = 256;

type Shard<K, V> = HashMap<K, V, FieldHashing>;

/// A hash map whose clone costs one reference count, and whose change after a clone copies 1/256 of it.
#[derive(Debug)]
pub(crate) struct SharedMap<K, V> {
    shards: Arc<Vec<Arc<Shard<K, V>>>>,
    length: usize,
}

impl<K, V> Clone for SharedMap<K, V> {
    fn clone(&self) -> Self {
        Self {
            shards: Arc::clone(&self.shards),
            length: self.length,
        }
    }
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::default());
        Self {
            shards: Arc::new(vec![empty; SHARDS]),
            length: 0,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    pub(crate) fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        self.shards.get(shard_of(key))?.get(key)
    }

    pub(crate) fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.shard(shard_of(&key))?.insert(key, value);
        if old.is_none() {
            self.length += 1;
        }
        old
    }

    pub(crate) fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?; // what is not there copies nothing
        let old = self.shard(shard_of(key))?.remove(key);
        if old.is_some() {
            self.length -= 1;
        }
        old
    }

    /// Everything, in no particular order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    pub(crate) fn len(&self) -> usize {
        self.length
    }

    fn shard(&mut self, at: usize) -> Option<&mut Shard<K, V>> {
        Arc::make_mut(&mut self.shards).get_mut(at).map(Arc::make_mut)
    }
}

/// Several values under one key, kept in order, so that the first is the same however they came.
impl<K: Hash + Eq + Clone, T: Ord + Clone> SharedMap<K, Vec<T>> {
    pub(crate) fn add(&mut self, key: K, value: T) {
        let mut values = self.get(&key).cloned().unwrap_or_default();
        if let Err(at) = values.binary_search(&value) {
            values.insert(at, value);
            self.insert(key, values);
        }
    }

    pub(crate) fn take(&mut self, key: &K, value: &T) {
        let Some(values) = self.get(key) else { return };
        let Ok(at) = values.binary_search(value) else {
            return;
        };
        let mut values = values.clone();
        values.remove(at);
        if values.is_empty() {
            self.remove(key);
        } else {
            self.insert(key.clone(), values);
        }
    }

    /// All values of a key.
    pub(crate) fn all<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> &[T]
    where
        K: Borrow<Q>,
    {
        self.get(key).map_or(&[], Vec::as_slice)
    }
}

fn shard_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    // The top bits: a shard's own table uses the low ones and the seven highest.
    usize::try_from(FieldHashing::default().hash_one(key) >> 40).unwrap_or(0) % SHARDS
}
