//! A pod's nftables rules: what is captured, what is let through, what is dropped and counted.
//!
//! The encoder is pure; [`install`] sends its batch, which the kernel takes whole or not at all. Sources:
//! `linux/netfilter/nf_tables.h`, `linux/netfilter/nfnetlink.h`; numbers inside attributes are in network order.
//!
//! The rules in words, for a pod with address A:
//!
//! ```text
//! nat output        dns: udp|tcp 53 not to 127/8                        → 127.0.0.1:15053
//!                   mark SELF, tcp to A                                 → A:15006
//!                   mark MARK or SELF                                   as is
//!                   tcp not to 127/8                                    → 127.0.0.1:15001
//! nat prerouting    tcp from eth0                                       → A:15006
//! filter output     to loopback or A                                    accept (the pod itself)
//!                   tcp from A to 10.66/16 with a mark, or answering    accept
//!                   everything else                                     drop, counted
//! filter postrouting out of lo, or as the two before                     accept (a socket bound to eth0 would else get
//!                   everything else                                     drop, counted    "loopback" onto the bridge)
//! filter input      from lo, or tcp to :15006                           accept
//!                   everything else                                     drop, counted
//! filter forward                                                        drop
//! ```

use std::io;
use std::net::Ipv4Addr;

use crate::netlink::{
    ACK, APPEND, CREATE, DUMP, Message, REQUEST, Socket, attribute, attributes, nested, text,
};
use crate::spec::{DNS_PORT, INBOUND_PORT, MARK, MARK_SELF, OUTBOUND_PORT, PodCounters};

const BATCH_BEGIN: u16 = 0x10;
const BATCH_END: u16 = 0x11;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = SUBSYSTEM << 8;
const NEW_CHAIN: u16 = (SUBSYSTEM << 8) + 3;
const NEW_RULE: u16 = (SUBSYSTEM << 8) + 6;
const NEW_OBJECT: u16 = (SUBSYSTEM << 8) + 18;
const GET_OBJECT: u16 = (SUBSYSTEM << 8) + 19;

/// The table's name, in both families.
const TABLE: &str = "bartizan";
const UDP_OUT: &str = "udp_out";
const OTHER_OUT: &str = "other_out";
const INBOUND: &str = "inbound";
const IPV6: &str = "ipv6";

/// Which packets a table sees.
#[derive(Debug, Clone, Copy)]
enum Family {
    Unspecified = 0,
    Inet = 1,
    Ipv4 = 2,
}

#[derive(Debug, Clone, Copy)]
enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Puts the rules of a pod with this address and interface into the present network namespace.
pub(crate) fn install(address: Ipv4Addr, interface: &str) -> io::Result<()> {
    Socket::netfilter()?.transact(rules(address, interface))
}

/// Reads the counters of the present network namespace.
pub(crate) fn counters() -> io::Result<PodCounters> {
    const OBJECT_TABLE: u16 = 1;
    const OBJECT_NAME: u16 = 2;
    const OBJECT_DATA: u16 = 4;
    const COUNTER_PACKETS: u16 = 2;
    let ask = Message::new(GET_OBJECT, REQUEST | DUMP, &generic(Family::Inet)).text(OBJECT_TABLE, TABLE);
    let mut counters = PodCounters::default();
    for answer in Socket::netfilter()?.ask(ask)? {
        let (mut name, mut packets) = (&b""[..], 0);
        for (kind, value) in attributes(answer.get(4..).unwrap_or_default()) {
            if kind == OBJECT_NAME {
                name = value;
            } else if kind == OBJECT_DATA {
                packets = attributes(value)
                    .find(|(kind, _)| *kind == COUNTER_PACKETS)
                    .and_then(|(_, value)| value.first_chunk().copied())
                    .map_or(0, u64::from_be_bytes);
            }
        }
        match name {
            b"udp_out\0" => counters.udp_out = packets,
            b"other_out\0" => counters.other_out = packets,
            b"inbound\0" => counters.inbound = packets,
            b"ipv6\0" => counters.ipv6 = packets,
            _ => {}
        }
    }
    Ok(counters)
}

/// The batch that makes both tables.
fn rules(address: Ipv4Addr, interface: &str) -> Vec<Message> {
    let own = address.octets();
    let mut batch = Batch::new();
    batch.table(Family::Ipv4);
    batch.chain(Family::Ipv4, "output", "nat", Hook::Output, -100, Verdict::Accept);
    batch.rules(Family::Ipv4, "output", captured_output(own));
    batch.chain(
        Family::Ipv4,
        "prerouting",
        "nat",
        Hook::Prerouting,
        -100,
        Verdict::Accept,
    );
    let inbound = tcp().entering(interface).translate(own, INBOUND_PORT);
    batch.rules(Family::Ipv4, "prerouting", [inbound]);

    batch.table(Family::Inet);
    for counter in [UDP_OUT, OTHER_OUT, INBOUND, IPV6] {
        batch.counter(Family::Inet, counter);
    }
    batch.chain(Family::Inet, "output", "filter", Hook::Output, 0, Verdict::Drop);
    batch.rules(Family::Inet, "output", permitted_output(own));
    batch.chain(
        Family::Inet,
        "postrouting",
        "filter",
        Hook::Postrouting,
        0,
        Verdict::Drop,
    );
    batch.rules(Family::Inet, "postrouting", permitted_leaving(own));
    batch.chain(Family::Inet, "input", "filter", Hook::Input, 0, Verdict::Drop);
    batch.rules(Family::Inet, "input", permitted_input(own));
    batch.chain(Family::Inet, "forward", "filter", Hook::Forward, 0, Verdict::Drop);
    batch.finish()
}

fn captured_output(own: [u8; 4]) -> [Expressions; 4] {
    let dns = |protocol| {
        rule()
            .beyond_loopback()
            .no_mark()
            .protocol(protocol)
            .port(53)
            .redirect(DNS_PORT)
    };
    [
        dns(libc::IPPROTO_UDP),
        dns(libc::IPPROTO_TCP),
        tcp().mark(MARK_SELF).to(own).translate(own, INBOUND_PORT),
        tcp().beyond_loopback().no_mark().redirect(OUTBOUND_PORT),
    ]
}

fn permitted_output(own: [u8; 4]) -> Vec<Expressions> {
    let mut rules = vec![
        rule().ipv6().leaving("lo").verdict(Verdict::Accept),
        rule().ipv6().count(IPV6).verdict(Verdict::Drop),
        rule().ipv4().toward_loopback().verdict(Verdict::Accept),
        rule().ipv4().to(own).verdict(Verdict::Accept),
    ];
    rules.extend(of_the_proxy(own));
    rules.extend([
        rule()
            .protocol(libc::IPPROTO_UDP)
            .count(UDP_OUT)
            .verdict(Verdict::Drop),
        rule().count(OTHER_OUT).verdict(Verdict::Drop),
    ]);
    rules
}

/// After translation and the choice of the interface, which `output` cannot judge: there it is still the one before.
fn permitted_leaving(own: [u8; 4]) -> Vec<Expressions> {
    let mut rules = vec![rule().leaving("lo").verdict(Verdict::Accept)];
    rules.extend(of_the_proxy(own));
    rules.push(rule().count(OTHER_OUT).verdict(Verdict::Drop));
    rules
}

fn of_the_proxy(own: [u8; 4]) -> [Expressions; 3] {
    let proxy = |mark| {
        tcp()
            .ipv4()
            .mark(mark)
            .from(own)
            .toward_pods()
            .verdict(Verdict::Accept)
    };
    let answer = tcp()
        .ipv4()
        .from(own)
        .source_port(INBOUND_PORT)
        .toward_pods()
        .answering();
    [proxy(MARK), proxy(MARK_SELF), answer.verdict(Verdict::Accept)]
}

fn permitted_input(own: [u8; 4]) -> [Expressions; 4] {
    [
        rule().entering("lo").verdict(Verdict::Accept),
        tcp().ipv4().to(own).port(INBOUND_PORT).verdict(Verdict::Accept),
        tcp().ipv4().to(own).answering().verdict(Verdict::Accept),
        rule().count(INBOUND).verdict(Verdict::Drop),
    ]
}

fn rule() -> Expressions {
    Expressions { list: Vec::new() }
}

fn tcp() -> Expressions {
    rule().protocol(libc::IPPROTO_TCP)
}

#[derive(Debug, Clone, Copy)]
enum Verdict {
    Drop = 0,
    Accept = 1,
}

#[derive(Debug)]
struct Batch {
    messages: Vec<Message>,
}

impl Batch {
    fn new() -> Self {
        Self {
            messages: vec![Message::new(BATCH_BEGIN, REQUEST, &batch_header())],
        }
    }

    fn finish(mut self) -> Vec<Message> {
        self.messages
            .push(Message::new(BATCH_END, REQUEST, &batch_header()));
        self.messages
    }

    fn table(&mut self, family: Family) {
        let message = addition(NEW_TABLE, 0, family).text(1, TABLE);
        self.messages.push(message);
    }

    fn chain(&mut self, family: Family, name: &str, kind: &str, hook: Hook, priority: i32, policy: Verdict) {
        let mut attached = Vec::new();
        attribute(&mut attached, 1, &(hook as u32).to_be_bytes());
        attribute(&mut attached, 2, &priority.to_be_bytes());
        let message = addition(NEW_CHAIN, 0, family)
            .text(1, TABLE)
            .text(3, name)
            .nested(4, &attached)
            .attribute(5, &(policy as u32).to_be_bytes())
            .text(7, kind);
        self.messages.push(message);
    }

    fn counter(&mut self, family: Family, name: &str) {
        const COUNTER: u32 = 1;
        let mut data = Vec::new();
        attribute(&mut data, 1, &0_u64.to_be_bytes());
        attribute(&mut data, 2, &0_u64.to_be_bytes());
        let message = addition(NEW_OBJECT, 0, family)
            .text(1, TABLE)
            .text(2, name)
            .attribute(3, &COUNTER.to_be_bytes())
            .nested(4, &data);
        self.messages.push(message);
    }

    fn rules(&mut self, family: Family, chain: &str, rules: impl IntoIterator<Item = Expressions>) {
        for rule in rules {
            let message = addition(NEW_RULE, APPEND, family)
                .text(1, TABLE)
                .text(2, chain)
                .nested(4, &rule.list);
            self.messages.push(message);
        }
    }
}

fn addition(kind: u16, flags: u16, family: Family) -> Message {
    Message::new(kind, REQUEST | ACK | CREATE | flags, &generic(family))
}

/// `struct nfgenmsg`.
fn generic(family: Family) -> [u8; 4] {
    [family as u8, 0, 0, 0]
}

/// `struct nfgenmsg` of a batch: the subsystem stands in the last field.
fn batch_header() -> [u8; 4] {
    let [high, low] = SUBSYSTEM.to_be_bytes();
    [Family::Unspecified as u8, 0, high, low]
}

/// The statements of one rule, in order. All values pass through register 1, ports for translation through register 2.
#[derive(Debug, Clone)]
struct Expressions {
    list: Vec<u8>,
}

const REGISTER_VERDICT: u32 = 0;
const REGISTER_1: u32 = 1;
const REGISTER_2: u32 = 2;

impl Expressions {
    fn expression(mut self, name: &str, data: &[u8]) -> Self {
        const ELEMENT: u16 = 1;
        let mut element = Vec::new();
        text(&mut element, 1, name);
        nested(&mut element, 2, data);
        nested(&mut self.list, ELEMENT, &element);
        self
    }

    fn meta(self, key: u32) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_1);
        number(&mut data, 2, key);
        self.expression("meta", &data)
    }

    fn compare(self, equal: bool, value: &[u8]) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_1);
        number(&mut data, 2, u32::from(!equal));
        nested(&mut data, 3, &plain(value));
        self.expression("cmp", &data)
    }

    fn payload(self, base: u32, offset: u32, length: u32) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_1);
        number(&mut data, 2, base);
        number(&mut data, 3, offset);
        number(&mut data, 4, length);
        self.expression("payload", &data)
    }

    fn masked(self, mask: &[u8]) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_1);
        number(&mut data, 2, REGISTER_1);
        number(&mut data, 3, u32::try_from(mask.len()).unwrap_or_default());
        nested(&mut data, 4, &plain(mask));
        nested(&mut data, 5, &plain(&vec![0; mask.len()]));
        self.expression("bitwise", &data)
    }

    fn immediate(self, register: u32, value: &[u8]) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, register);
        nested(&mut data, 2, &plain(value));
        self.expression("immediate", &data)
    }

    fn ipv4(self) -> Self {
        self.meta(15).compare(true, &[2])
    }

    fn ipv6(self) -> Self {
        self.meta(15).compare(true, &[10])
    }

    fn protocol(self, protocol: libc::c_int) -> Self {
        self.meta(16)
            .compare(true, &[u8::try_from(protocol).unwrap_or_default()])
    }

    fn mark(self, mark: u32) -> Self {
        self.meta(3).compare(true, &mark.to_ne_bytes())
    }

    fn no_mark(self) -> Self {
        self.meta(3)
            .compare(false, &MARK.to_ne_bytes())
            .compare(false, &MARK_SELF.to_ne_bytes())
    }

    fn entering(self, name: &str) -> Self {
        self.meta(6).compare(true, &interface_name(name))
    }

    fn leaving(self, name: &str) -> Self {
        self.meta(7).compare(true, &interface_name(name))
    }

    fn destination(self) -> Self {
        self.payload(1, 16, 4)
    }

    fn to(self, address: [u8; 4]) -> Self {
        self.destination().compare(true, &address)
    }

    fn from(self, address: [u8; 4]) -> Self {
        self.payload(1, 12, 4).compare(true, &address)
    }

    fn toward_pods(self) -> Self {
        self.destination()
            .masked(&[255, 255, 0, 0])
            .compare(true, &[10, 66, 0, 0])
    }

    fn toward_loopback(self) -> Self {
        self.destination()
            .masked(&[255, 0, 0, 0])
            .compare(true, &[127, 0, 0, 0])
    }

    fn beyond_loopback(self) -> Self {
        self.destination()
            .masked(&[255, 0, 0, 0])
            .compare(false, &[127, 0, 0, 0])
    }

    fn port(self, port: u16) -> Self {
        self.payload(2, 2, 2).compare(true, &port.to_be_bytes())
    }

    fn source_port(self, port: u16) -> Self {
        self.payload(2, 0, 2).compare(true, &port.to_be_bytes())
    }

    /// Only packets that answer a connection.
    fn answering(self) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_1);
        number(&mut data, 2, 1);
        self.expression("ct", &data).compare(true, &[1])
    }

    fn count(self, counter: &str) -> Self {
        const COUNTER: u32 = 1;
        let mut data = Vec::new();
        number(&mut data, 1, COUNTER);
        text(&mut data, 2, counter);
        self.expression("objref", &data)
    }

    fn verdict(self, verdict: Verdict) -> Self {
        let mut code = Vec::new();
        number(&mut code, 1, verdict as u32);
        let mut value = Vec::new();
        nested(&mut value, 2, &code);
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_VERDICT);
        nested(&mut data, 2, &value);
        self.expression("immediate", &data)
    }

    /// To a port of 127.0.0.1 (what `redirect` means in `output`).
    fn redirect(self, port: u16) -> Self {
        let mut data = Vec::new();
        number(&mut data, 1, REGISTER_2);
        self.immediate(REGISTER_2, &port.to_be_bytes())
            .expression("redir", &data)
    }

    /// To an address and port.
    fn translate(self, address: [u8; 4], port: u16) -> Self {
        const DESTINATION: u32 = 1;
        let mut data = Vec::new();
        number(&mut data, 1, DESTINATION);
        number(&mut data, 2, Family::Ipv4 as u32);
        number(&mut data, 3, REGISTER_1);
        number(&mut data, 5, REGISTER_2);
        self.immediate(REGISTER_1, &address)
            .immediate(REGISTER_2, &port.to_be_bytes())
            .expression("nat", &data)
    }
}

fn number(bytes: &mut Vec<u8>, kind: u16, value: u32) {
    attribute(bytes, kind, &value.to_be_bytes());
}

/// `NFTA_DATA_VALUE`.
fn plain(value: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    attribute(&mut data, 1, value);
    data
}

fn interface_name(name: &str) -> [u8; 16] {
    let mut bytes = [0; 16];
    for (slot, byte) in bytes.iter_mut().zip(name.bytes().take(15)) {
        *slot = byte;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> Vec<Vec<u8>> {
        let messages = rules(Ipv4Addr::new(10, 66, 0, 5), "eth0");
        messages
            .into_iter()
            .zip(1..)
            .map(|(message, sequence)| message.finish(sequence))
            .collect()
    }

    fn kind(message: &[u8]) -> u16 {
        u16::from_ne_bytes([message[4], message[5]])
    }

    #[test]
    fn a_batch_is_framed_and_every_message_is_whole() {
        let batch = batch();
        assert_eq!(kind(batch.first().unwrap()), BATCH_BEGIN);
        assert_eq!(kind(batch.last().unwrap()), BATCH_END);
        for message in &batch {
            assert_eq!(message[..4], u32::try_from(message.len()).unwrap().to_ne_bytes());
            assert_eq!(message.len() % 4, 0);
        }
    }

    #[test]
    fn every_rule_names_its_table_and_chain() {
        let batch = batch();
        let rules: Vec<_> = batch.iter().filter(|message| kind(message) == NEW_RULE).collect();
        assert_eq!(rules.len(), 23);
        for rule in rules {
            let named: Vec<_> = attributes(&rule[20..]).map(|(kind, _)| kind).collect();
            assert_eq!(named, [1, 2, 4]);
        }
    }

    #[test]
    fn an_expression_is_a_list_element_with_name_and_data() {
        let list = rule().redirect(DNS_PORT).list;
        let names: Vec<_> = attributes(&list)
            .map(|(kind, element)| {
                assert_eq!(kind, 1);
                attributes(element)
                    .map(|(kind, value)| (kind, value.to_vec()))
                    .collect::<Vec<_>>()
            })
            .collect();
        let port = [
            8, 0, 1, 0, 0, 0, 0, 2, 12, 0, 2, 0x80, 6, 0, 1, 0, 0x3a, 0xcd, 0, 0,
        ];
        let first = vec![(1, b"immediate\0".to_vec()), (2, port.to_vec())];
        let second = vec![(1, b"redir\0".to_vec()), (2, vec![8, 0, 1, 0, 0, 0, 0, 2])];
        assert_eq!(names, [first, second]);
    }
}
