//! What a control plane tells a proxy. Input: either a last-good file, or lines of `KEY BODY`; a line that starts with `-`
//! removes a key, an empty line ends a transaction.
//!
//! However strange, what decodes must compile, and changes applied one after the other must leave what a restart would
//! build: the same resources and the same decisions.
#![no_main]

use std::sync::Arc;

use bartizan_decide::Engine;
use bartizan_fuzz::{ask, json};
use bartizan_mesh::wire_format::{decode, decode_or_deny, encode, store_from_json, store_to_json};
use bartizan_mesh::{Key, Resource, Snapshot, Store, Transaction};
use bartizan_types::Version;
use libfuzzer_sys::{fuzz_mutator, fuzz_target, fuzzer_mutate};

fuzz_target!(|text: &str| {
    match store_from_json(text) {
        Ok((store, _)) => restart(&store, None),
        Err(_) => stream(text),
    }
});

fuzz_mutator!(|data: &mut [u8], size: usize, max_size: usize, seed: u32| {
    match seed % 4 {
        0 => None,
        _ => json::mutate(data, size, max_size, seed),
    }
    .unwrap_or_else(|| fuzzer_mutate(data, size, max_size))
});

fn stream(text: &str) {
    let mut store = Store::new();
    let mut snapshot = Arc::new(Snapshot::default());
    let mut engine = Engine::build(Arc::clone(&snapshot));
    for (version, lines) in text.split("\n\n").take(8).enumerate() {
        let mut transaction = Transaction {
            version: Version(version as u64 + 1),
            upserts: Vec::new(),
            removals: Vec::new(),
        };
        for line in lines.lines() {
            if let Some(key) = line.strip_prefix('-') {
                transaction.removals.push(Key(key.into()));
            } else if let Some((key, body)) = line.split_once(' ') {
                transaction.upserts.extend(resource(&Key(key.into()), body));
            }
        }
        store.apply(&transaction);
        snapshot = Arc::new(snapshot.apply(&transaction));
        engine = engine.next(Arc::clone(&snapshot));
    }
    assert_eq!(snapshot.store(), store);
    restart(&store, Some(&engine));
}

fn resource(key: &Key, body: &str) -> Option<Resource> {
    let (resource, replaced) = decode_or_deny(key, body.as_bytes()).ok()?;
    assert_eq!(resource.key(), *key);
    match replaced {
        Some(_) => assert!(matches!(&resource, Resource::Policy(policy) if policy.rules.len() == 1)),
        None => {
            let encoded = encode(&resource);
            assert_eq!(
                decode(key, &encoded.body).expect("what is written can be read"),
                resource
            );
        }
    }
    Some(resource)
}

/// What the last-good file gives must decide as the one who wrote it did.
fn restart(store: &Store, before: Option<&Engine>) {
    let text = store_to_json(store);
    let (read, replaced) = store_from_json(&text).expect("the file that was written can be read");
    assert!(replaced.is_empty());
    assert_eq!(read, *store);
    let engine = Engine::build(Arc::new(Snapshot::build(&read)));
    let answers = ask::everything(&engine);
    if let Some(before) = before {
        assert_eq!(ask::everything(before), answers, "the way there matters");
        assert_eq!(before.problems(), engine.problems());
    }
}
