//! Questions to a pod's name service. Input: transport, whether anything is known, a seed, then the message.
#![no_main]

use bartizan_decide::Answer;
use bartizan_fuzz::choices;
use bartizan_types::Hostname;
use hickory_proto::op::{Message, MessageType};
use libfuzzer_sys::fuzz_target;

// The one pure file of the proxy that reads bytes of others; taken as it is, without the proxy's runtime.
#[allow(dead_code, reason = "what only the log of the proxy reads")]
#[path = "../../crates/proxy/src/dns/answer.rs"]
mod answer;

use answer::{Transport, answer};

fuzz_target!(|data: &[u8]| {
    let ([how, seed], question) = choices::<2>(data);
    let transport = if how & 1 == 0 {
        Transport::Udp
    } else {
        Transport::Tcp
    };
    let Some(answered) = answer(question, transport, how & 2 == 0, u64::from(seed), mesh) else {
        return;
    };
    let most = if transport == Transport::Udp {
        1232
    } else {
        usize::from(u16::MAX)
    };
    assert!(answered.message.len() <= most);
    assert_eq!(
        answered.message.get(..2),
        question.get(..2),
        "the answer is to another question"
    );
    let reply = Message::from_vec(&answered.message).expect("what is answered can be read");
    assert_eq!(reply.metadata.message_type, MessageType::Response);
    if let (Ok(asked), [said]) = (Message::from_vec(question), reply.queries.as_slice()) {
        assert_eq!(asked.queries.first(), Some(said));
    }
    assert!(!answered.kind.is_empty() && !answered.result.is_empty());
});

/// A mesh with a short, a full and an alias name, and one name with many addresses.
fn mesh(name: &str) -> Answer {
    let found = |canonical: &str, count: u8| Answer::Addresses {
        canonical: Hostname::parse(canonical).expect("a literal"),
        addresses: (0..count).map(|last| [10, 67, 0, last].into()).collect(),
    };
    match name.to_ascii_lowercase().as_str() {
        "cart" | "cart.shop" | "cart.shop.svc.cluster.local" => found("cart.shop.svc.cluster.local", 1),
        "none.shop" => found("none.shop.svc.cluster.local", 0),
        "many.shop" => found("many.shop.svc.cluster.local", 200),
        _ => Answer::NoSuchName,
    }
}
