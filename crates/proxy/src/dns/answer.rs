//! What a DNS question is answered: pure, from the message's bytes to the answer's. RFC 1035, RFC 2308 (negative answers),
//! RFC 6891 (EDNS), RFC 8482 is not followed: ANY is refused.

use bartizan_decide::Answer;
use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, SOA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

/// How long clients may keep an answer (Istio's), in seconds.
const TTL: u32 = 30;
/// How long they may keep that there is none: a name that is about to come shall not be missing for long.
const NEGATIVE_TTL: u32 = 1;
/// The largest answer over UDP that is offered, in bytes (DNS flag day 2020).
const MOST_UDP_BYTES: u16 = 1232;
/// Addresses in one answer; a client wants some, not all.
const MOST_ADDRESSES: usize = 1000;

/// What the message came by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// An answer and what is counted of it.
#[derive(Debug)]
pub(super) struct Answered {
    pub(super) message: Vec<u8>,
    pub(super) kind: &'static str,
    pub(super) result: &'static str,
    /// The name that was asked for and does not exist.
    pub(super) missing: Option<String>,
}

/// Answers a message. `None` where an answer could go round in circles (answers themselves) or none can be made. `seed` is
/// uniform over all of `u64` and turns the addresses.
pub(super) fn answer(
    bytes: &[u8],
    transport: Transport,
    is_known: bool,
    seed: u64,
    resolve: impl Fn(&str) -> Answer,
) -> Option<Answered> {
    let Ok(request) = Message::from_vec(bytes) else {
        return malformed(bytes);
    };
    if request.metadata.message_type != MessageType::Query {
        return None;
    }
    let mut reply = Message::response(request.metadata.id, request.metadata.op_code);
    reply.metadata.recursion_desired = request.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    reply.metadata.authoritative = true;
    reply.add_queries(request.queries.iter().take(1).cloned());
    if let Some(asked) = &request.edns {
        let mut edns = Edns::new();
        edns.set_version(0).set_max_payload(MOST_UDP_BYTES);
        reply.set_edns(edns);
        if asked.version() > 0 {
            return finish(reply, &request, transport, ResponseCode::BADVERS, "other");
        }
    }
    if request.metadata.op_code != OpCode::Query {
        return finish(reply, &request, transport, ResponseCode::NotImp, "other");
    }
    let [query] = request.queries.as_slice() else {
        return finish(reply, &request, transport, ResponseCode::FormErr, "other");
    };
    let kind = kind_of(query.query_type());
    if query.query_class() != DNSClass::IN || query.query_type() == RecordType::ANY || kind == "transfer" {
        return finish(reply, &request, transport, ResponseCode::Refused, kind);
    }
    if !is_known {
        return finish(reply, &request, transport, ResponseCode::ServFail, kind);
    }
    let code = fill(&mut reply, query, seed, resolve);
    finish(reply, &request, transport, code, kind)
}

fn fill(reply: &mut Message, query: &Query, seed: u64, resolve: impl Fn(&str) -> Answer) -> ResponseCode {
    let name = query.name();
    let text = name.to_ascii();
    let (canonical, mut addresses) = match resolve(text.trim_end_matches('.')) {
        Answer::Addresses { canonical, addresses } => (canonical, addresses),
        Answer::OnlyBelow => {
            reply.add_authority(authority(name));
            return ResponseCode::NoError;
        }
        Answer::NoSuchName => {
            reply.add_authority(authority(name));
            return ResponseCode::NXDomain;
        }
    };
    let mut owner = name.clone();
    if !text
        .trim_end_matches('.')
        .eq_ignore_ascii_case(canonical.as_str())
        && let Ok(full) = Name::from_ascii(format!("{canonical}."))
    {
        // A short name's answer says which name it is (Istio: CNAME and address in one answer).
        reply.add_answer(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(full.clone()))));
        owner = full;
    }
    if !addresses.is_empty() {
        let turn = usize::try_from(seed % addresses.len() as u64).unwrap_or_default();
        addresses.rotate_left(turn);
    }
    let before = reply.answers.len();
    for address in addresses.into_iter().take(MOST_ADDRESSES) {
        let data = match (query.query_type(), address) {
            (RecordType::A, std::net::IpAddr::V4(address)) => RData::A(A(address)),
            (RecordType::AAAA, std::net::IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
            _ => continue,
        };
        reply.add_answer(Record::from_rdata(owner.clone(), TTL, data));
    }
    if reply.answers.len() == before && query.query_type() != RecordType::CNAME {
        // The name is there, this type of it is not: no data, never NXDOMAIN.
        reply.add_authority(authority(&owner));
    }
    ResponseCode::NoError
}

/// Says for how long "no" holds (RFC 2308 §3).
fn authority(name: &Name) -> Record {
    let zone = name.base_name();
    let soa = SOA::new(Name::root(), Name::root(), 1, 3600, 600, 86400, NEGATIVE_TTL);
    Record::from_rdata(zone, NEGATIVE_TTL, RData::SOA(soa))
}

fn finish(
    mut reply: Message,
    request: &Message,
    transport: Transport,
    code: ResponseCode,
    kind: &'static str,
) -> Option<Answered> {
    reply.metadata.response_code = code;
    let mut message = reply.to_vec().ok()?;
    let most = match transport {
        Transport::Udp => request.max_payload().clamp(512, MOST_UDP_BYTES),
        Transport::Tcp => u16::MAX,
    };
    if message.len() > usize::from(most) {
        message = reply.truncate().to_vec().ok()?;
    }
    Some(Answered {
        message,
        kind,
        result: result_of(code),
        missing: request
            .queries
            .first()
            .filter(|_| code == ResponseCode::NXDomain)
            .map(|query| query.name().to_ascii()),
    })
}

/// What cannot be read is answered with its id and nothing else, when it has one and is a question.
fn malformed(bytes: &[u8]) -> Option<Answered> {
    let [high, low, flags, ..] = *bytes else {
        return None;
    };
    if bytes.len() < 12 || flags & 0x80 != 0 {
        return None;
    }
    let reply = Message::error_msg(
        u16::from_be_bytes([high, low]),
        OpCode::Query,
        ResponseCode::FormErr,
    );
    Some(Answered {
        message: reply.to_vec().ok()?,
        kind: "other",
        result: result_of(ResponseCode::FormErr),
        missing: None,
    })
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "what else there is in DNS is of no interest here"
)]
fn kind_of(kind: RecordType) -> &'static str {
    match kind {
        RecordType::A => "A",
        RecordType::AAAA => "AAAA",
        RecordType::CNAME => "CNAME",
        RecordType::SRV => "SRV",
        RecordType::PTR => "PTR",
        RecordType::AXFR | RecordType::IXFR => "transfer",
        _ => "other",
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "no other code is given")]
fn result_of(code: ResponseCode) -> &'static str {
    match code {
        ResponseCode::NoError => "NOERROR",
        ResponseCode::NXDomain => "NXDOMAIN",
        ResponseCode::FormErr => "FORMERR",
        ResponseCode::ServFail => "SERVFAIL",
        ResponseCode::NotImp => "NOTIMP",
        ResponseCode::Refused => "REFUSED",
        _ => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bartizan_types::Hostname;
    use proptest::prelude::*;

    fn ask(name: &str, kind: RecordType) -> Message {
        let mut message = Message::query();
        message.add_query(Query::query(Name::from_ascii(name).unwrap(), kind));
        message
    }

    fn mesh(name: &str) -> Answer {
        match name.to_ascii_lowercase().as_str() {
            "cart" | "cart.shop.svc.cluster.local" => Answer::Addresses {
                canonical: Hostname::parse("cart.shop.svc.cluster.local").unwrap(),
                addresses: vec!["10.67.0.1".parse().unwrap()],
            },
            "many.shop" => Answer::Addresses {
                canonical: Hostname::parse("many.shop").unwrap(),
                addresses: (0..200_u8)
                    .map(|last| std::net::IpAddr::from([10, 66, 1, last]))
                    .collect(),
            },
            "shop.svc.cluster.local" => Answer::OnlyBelow,
            _ => Answer::NoSuchName,
        }
    }

    fn answered(message: &Message, transport: Transport) -> Message {
        let bytes = message.to_vec().unwrap();
        Message::from_vec(&answer(&bytes, transport, true, 7, mesh).unwrap().message).unwrap()
    }

    #[test]
    fn a_full_name_has_its_address_and_no_data_for_v6() {
        let reply = answered(
            &ask("cart.shop.svc.cluster.local.", RecordType::A),
            Transport::Udp,
        );
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert_eq!(reply.answers.len(), 1);
        assert_eq!(reply.answers[0].data, RData::A(A::new(10, 67, 0, 1)));
        let reply = answered(
            &ask("CART.shop.svc.cluster.local.", RecordType::AAAA),
            Transport::Udp,
        );
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty());
        assert_eq!(reply.authorities.len(), 1);
    }

    #[test]
    fn a_short_name_is_an_alias_of_its_full_one() {
        let reply = answered(&ask("cart.", RecordType::A), Transport::Udp);
        assert_eq!(reply.answers.len(), 2);
        assert!(
            matches!(&reply.answers[0].data, RData::CNAME(name) if name.0.to_ascii() == "cart.shop.svc.cluster.local.")
        );
        assert_eq!(reply.answers[1].name.to_ascii(), "cart.shop.svc.cluster.local.");
    }

    #[test]
    fn what_does_not_exist_is_told_with_an_soa_and_other_questions_are_refused() {
        let reply = answered(&ask("example.org.", RecordType::A), Transport::Udp);
        assert_eq!(reply.metadata.response_code, ResponseCode::NXDomain);
        assert!(matches!(reply.authorities[0].data, RData::SOA(_)));
        // Names are below it.
        let reply = answered(&ask("shop.svc.cluster.local.", RecordType::A), Transport::Udp);
        assert_eq!(reply.metadata.response_code, ResponseCode::NoError);
        assert!(reply.answers.is_empty() && matches!(reply.authorities[0].data, RData::SOA(_)));
        let reply = answered(&ask("cart.", RecordType::ANY), Transport::Udp);
        assert_eq!(reply.metadata.response_code, ResponseCode::Refused);
        let mut update = ask("cart.", RecordType::A);
        update.metadata.op_code = OpCode::Update;
        let bytes = update.to_vec().unwrap();
        let reply =
            Message::from_vec(&answer(&bytes, Transport::Udp, true, 0, mesh).unwrap().message).unwrap();
        assert_eq!(reply.metadata.response_code, ResponseCode::NotImp);
    }

    #[test]
    fn before_the_first_configuration_nothing_is_said_to_be_missing() {
        let bytes = ask("cart.", RecordType::A).to_vec().unwrap();
        let reply = answer(&bytes, Transport::Udp, false, 0, mesh).unwrap();
        assert_eq!(reply.result, "SERVFAIL");
    }

    #[test]
    fn a_long_answer_is_cut_over_udp_and_whole_over_tcp() {
        let reply = answered(&ask("many.shop.", RecordType::A), Transport::Udp);
        assert!(reply.metadata.truncation && reply.answers.is_empty());
        let reply = answered(&ask("many.shop.", RecordType::A), Transport::Tcp);
        assert_eq!(reply.answers.len(), 200);
        assert_eq!(reply.answers[0].data, RData::A(A::new(10, 66, 1, 7)));
    }

    #[test]
    fn answers_are_not_answered_and_nonsense_is() {
        let mut message = ask("cart.", RecordType::A);
        message.metadata.message_type = MessageType::Response;
        assert!(answer(&message.to_vec().unwrap(), Transport::Udp, true, 0, mesh).is_none());
        let reply = answer(
            &[1, 2, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 63],
            Transport::Udp,
            true,
            0,
            mesh,
        )
        .unwrap();
        assert_eq!((&reply.message[..2], reply.result), (&[1, 2][..], "FORMERR"));
        assert!(answer(b"short", Transport::Udp, true, 0, mesh).is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered_within_bounds_or_not_at_all(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            if let Some(answered) = answer(&bytes, Transport::Udp, true, 3, mesh) {
                prop_assert!(answered.message.len() <= usize::from(MOST_UDP_BYTES));
                prop_assert_eq!(&answered.message[..2], &bytes[..2]);
            }
        }
    }
}
