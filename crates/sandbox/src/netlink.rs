//! Netlink messages and their socket: the encoder that `nft` shares, and interfaces, addresses and routes.
//!
//! Sources: RFC 3549, `linux/netlink.h`, `linux/rtnetlink.h`, `linux/if_link.h`. Integers in headers are in the machine's own order.

use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, sendto, socket,
};

pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const EXCLUSIVE: u16 = 0x200;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

const ERROR: u16 = 2;
const DONE: u16 = 3;
const HEADER: usize = 16;
const NESTED: u16 = 0x8000;

/// One message under construction: header, fixed part, attributes.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    bytes: Vec<u8>,
}

impl Message {
    /// A message of a kind with its fixed part.
    pub(crate) fn new(kind: u16, flags: u16, fixed: &[u8]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.extend_from_slice(&[0; 8]);
        bytes.extend_from_slice(fixed);
        pad(&mut bytes);
        Self { bytes }
    }

    /// Appends an attribute.
    pub(crate) fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        attribute(&mut self.bytes, kind, value);
        self
    }

    /// Appends a text attribute, ended by a zero byte.
    pub(crate) fn text(mut self, kind: u16, value: &str) -> Self {
        text(&mut self.bytes, kind, value);
        self
    }

    /// Appends an attribute that holds attributes.
    pub(crate) fn nested(mut self, kind: u16, content: &[u8]) -> Self {
        attribute(&mut self.bytes, kind | NESTED, content);
        self
    }

    /// The bytes, with length and sequence number filled in.
    pub(crate) fn finish(mut self, sequence: u32) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX);
        put(&mut self.bytes, 0, &length.to_ne_bytes());
        put(&mut self.bytes, 8, &sequence.to_ne_bytes());
        self.bytes
    }
}

/// Appends an attribute to `bytes`.
pub(crate) fn attribute(bytes: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
    bytes.extend_from_slice(&length.to_ne_bytes());
    bytes.extend_from_slice(&kind.to_ne_bytes());
    bytes.extend_from_slice(value);
    pad(bytes);
}

/// Appends an attribute that holds attributes to `bytes`.
pub(crate) fn nested(bytes: &mut Vec<u8>, kind: u16, content: &[u8]) {
    attribute(bytes, kind | NESTED, content);
}

/// Appends a text attribute to `bytes`.
pub(crate) fn text(bytes: &mut Vec<u8>, kind: u16, value: &str) {
    let mut terminated = value.as_bytes().to_vec();
    terminated.push(0);
    attribute(bytes, kind, &terminated);
}

/// The attributes in `bytes`, nesting flag removed; stops at the first malformed one.
pub(crate) fn attributes(bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind & 0x3fff, value))
    })
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(4), 0);
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(slot) = bytes.get_mut(at..at + value.len()) {
        slot.copy_from_slice(value);
    }
}

/// A netlink socket of the network namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Socket {
    descriptor: OwnedFd,
    sequence: u32,
}

impl Socket {
    /// For interfaces, addresses and routes.
    pub(crate) fn route() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkRoute)
    }

    /// For nftables.
    pub(crate) fn netfilter() -> io::Result<Self> {
        Self::open(SockProtocol::NetlinkNetFilter)
    }

    fn open(protocol: SockProtocol) -> io::Result<Self> {
        let descriptor = socket(
            AddressFamily::Netlink,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            protocol,
        )?;
        bind(descriptor.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self {
            descriptor,
            sequence: 0,
        })
    }

    /// Sends messages as one datagram and waits for the acknowledgement of each that asked for one.
    pub(crate) fn transact(&mut self, messages: Vec<Message>) -> io::Result<()> {
        let mut datagram = Vec::new();
        let mut open = 0_usize;
        for message in messages {
            self.sequence += 1;
            let bytes = message.finish(self.sequence);
            let flags = bytes
                .get(6..8)
                .and_then(|b| b.first_chunk())
                .map_or(0, |b| u16::from_ne_bytes(*b));
            open += usize::from(flags & ACK != 0);
            datagram.extend_from_slice(&bytes);
        }
        self.send(&datagram)?;
        let mut first_error = None;
        while open > 0 {
            for reply in split(&self.receive()?) {
                if reply.kind != ERROR {
                    continue;
                }
                open = open.saturating_sub(1);
                let code = reply.payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                if code != 0 {
                    // A refused batch is answered for its culprit only, so nothing more is sure to come.
                    first_error.get_or_insert(io::Error::from_raw_os_error(-code));
                    open = 0;
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Sends a question and returns the payloads of all answers.
    pub(crate) fn ask(&mut self, message: Message) -> io::Result<Vec<Vec<u8>>> {
        self.sequence += 1;
        let bytes = message.finish(self.sequence);
        let many = bytes
            .get(6..8)
            .and_then(|b| b.first_chunk())
            .is_some_and(|b| u16::from_ne_bytes(*b) & DUMP == DUMP);
        self.send(&bytes)?;
        let mut answers = Vec::new();
        loop {
            for reply in split(&self.receive()?) {
                match reply.kind {
                    DONE => return Ok(answers),
                    ERROR => {
                        let code = reply.payload.first_chunk().map_or(0, |b| i32::from_ne_bytes(*b));
                        if code != 0 {
                            return Err(io::Error::from_raw_os_error(-code));
                        }
                        return Ok(answers);
                    }
                    _ => answers.push(reply.payload.to_vec()),
                }
            }
            if !many && !answers.is_empty() {
                return Ok(answers);
            }
        }
    }

    fn send(&self, datagram: &[u8]) -> io::Result<()> {
        sendto(
            self.descriptor.as_raw_fd(),
            datagram,
            &NetlinkAddr::new(0, 0),
            MsgFlags::empty(),
        )?;
        Ok(())
    }

    fn receive(&self) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; 64 * 1024];
        loop {
            match recv(self.descriptor.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => {
                    buffer.truncate(length);
                    return Ok(buffer);
                }
                Err(nix::Error::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

struct Reply<'a> {
    kind: u16,
    payload: &'a [u8],
}

fn split(datagram: &[u8]) -> Vec<Reply<'_>> {
    let mut replies = Vec::new();
    let mut rest = datagram;
    while let (Some(length), Some(kind)) = (rest.first_chunk(), rest.get(4..).and_then(|r| r.first_chunk())) {
        let length = usize::try_from(u32::from_ne_bytes(*length)).unwrap_or(usize::MAX);
        let Some(payload) = rest.get(HEADER..length) else {
            break;
        };
        replies.push(Reply {
            kind: u16::from_ne_bytes(*kind),
            payload,
        });
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    replies
}

const RTM_NEWLINK: u16 = 16;
const RTM_DELLINK: u16 = 17;
const RTM_GETLINK: u16 = 18;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MASTER: u16 = 10;
const IFLA_LINKINFO: u16 = 18;
const IFLA_NET_NS_FD: u16 = 28;
const IFLA_INFO_KIND: u16 = 1;
const IFLA_INFO_DATA: u16 = 2;
const VETH_INFO_PEER: u16 = 1;
const IFF_UP: u32 = 1;

/// Interfaces, addresses and routes of the namespace in which it was opened.
#[derive(Debug)]
pub(crate) struct Links(Socket);

impl Links {
    pub(crate) fn open() -> io::Result<Self> {
        Socket::route().map(Self)
    }

    /// Makes a bridge.
    pub(crate) fn add_bridge(&mut self, name: &str) -> io::Result<()> {
        let mut info = Vec::new();
        text(&mut info, IFLA_INFO_KIND, "bridge");
        let message = Message::new(RTM_NEWLINK, REQUEST | ACK | CREATE | EXCLUSIVE, &link(0, 0, 0))
            .text(IFLA_IFNAME, name)
            .nested(IFLA_LINKINFO, &info);
        self.0.transact(vec![message])
    }

    /// Makes a pair: `name` here, attached to the bridge, and `peer` with a hardware address in another namespace.
    pub(crate) fn add_pair(
        &mut self,
        name: &str,
        bridge: u32,
        peer: &str,
        peer_address: [u8; 6],
        peer_namespace: BorrowedFd<'_>,
    ) -> io::Result<()> {
        let mut other = link(0, 0, 0).to_vec();
        text(&mut other, IFLA_IFNAME, peer);
        attribute(&mut other, IFLA_ADDRESS, &peer_address);
        attribute(
            &mut other,
            IFLA_NET_NS_FD,
            &peer_namespace.as_raw_fd().to_ne_bytes(),
        );
        let mut data = Vec::new();
        nested(&mut data, VETH_INFO_PEER, &other);
        let mut info = Vec::new();
        text(&mut info, IFLA_INFO_KIND, "veth");
        nested(&mut info, IFLA_INFO_DATA, &data);
        let message = Message::new(
            RTM_NEWLINK,
            REQUEST | ACK | CREATE | EXCLUSIVE,
            &link(0, IFF_UP, IFF_UP),
        )
        .text(IFLA_IFNAME, name)
        .attribute(IFLA_MASTER, &bridge.to_ne_bytes())
        .nested(IFLA_LINKINFO, &info);
        self.0.transact(vec![message])
    }

    /// Sets an interface up.
    pub(crate) fn set_up(&mut self, index: u32) -> io::Result<()> {
        self.0.transact(vec![Message::new(
            RTM_NEWLINK,
            REQUEST | ACK,
            &link(index, IFF_UP, IFF_UP),
        )])
    }

    /// Removes an interface (and its peer).
    pub(crate) fn remove(&mut self, name: &str) -> io::Result<()> {
        self.0.transact(vec![
            Message::new(RTM_DELLINK, REQUEST | ACK, &link(0, 0, 0)).text(IFLA_IFNAME, name),
        ])
    }

    /// The number of an interface.
    pub(crate) fn index(&mut self, name: &str) -> io::Result<u32> {
        let answers = self
            .0
            .ask(Message::new(RTM_GETLINK, REQUEST, &link(0, 0, 0)).text(IFLA_IFNAME, name))?;
        answers
            .first()
            .and_then(|answer| answer.get(4..)?.first_chunk().copied())
            .map(u32::from_ne_bytes)
            .ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Gives an interface an address.
    pub(crate) fn add_address(&mut self, index: u32, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
        const IFA_ADDRESS: u16 = 1;
        const IFA_LOCAL: u16 = 2;
        let mut fixed = vec![family(libc::AF_INET), prefix, 0, 0];
        fixed.extend_from_slice(&index.to_ne_bytes());
        let message = Message::new(RTM_NEWADDR, REQUEST | ACK | CREATE | EXCLUSIVE, &fixed)
            .attribute(IFA_LOCAL, &address.octets())
            .attribute(IFA_ADDRESS, &address.octets());
        self.0.transact(vec![message])
    }

    /// Sends everything without a better route out of an interface, as if it were directly attached.
    pub(crate) fn add_default_route(&mut self, index: u32) -> io::Result<()> {
        const RTA_OIF: u16 = 4;
        const TABLE_MAIN: u8 = 254;
        const PROTOCOL_STATIC: u8 = 4;
        const SCOPE_LINK: u8 = 253;
        const UNICAST: u8 = 1;
        let mut fixed = vec![
            family(libc::AF_INET),
            0,
            0,
            0,
            TABLE_MAIN,
            PROTOCOL_STATIC,
            SCOPE_LINK,
            UNICAST,
        ];
        fixed.extend_from_slice(&[0; 4]);
        let message = Message::new(RTM_NEWROUTE, REQUEST | ACK | CREATE | EXCLUSIVE, &fixed)
            .attribute(RTA_OIF, &index.to_ne_bytes());
        self.0.transact(vec![message])
    }
}

/// `struct ifinfomsg`.
fn link(index: u32, flags: u32, change: u32) -> [u8; 16] {
    let mut fixed = [0; 16];
    put(&mut fixed, 4, &index.to_ne_bytes());
    put(&mut fixed, 8, &flags.to_ne_bytes());
    put(&mut fixed, 12, &change.to_ne_bytes());
    fixed
}

fn family(number: libc::c_int) -> u8 {
    u8::try_from(number).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_padded_and_read_back() {
        let mut bytes = Vec::new();
        text(&mut bytes, 3, "lo");
        nested(&mut bytes, 18, &[1, 2, 3, 4]);
        assert_eq!(bytes.len(), 16);
        let read: Vec<_> = attributes(&bytes).collect();
        assert_eq!(read, vec![(3, &b"lo\0"[..]), (18, &[1, 2, 3, 4][..])]);
    }

    #[test]
    fn cut_attributes_end_the_reading() {
        let mut bytes = Vec::new();
        text(&mut bytes, 3, "eth0");
        for length in 0..bytes.len() {
            assert!(attributes(&bytes[..length]).all(|(kind, value)| kind == 3 && value == b"eth0\0"));
        }
        assert_eq!(attributes(&[0, 0, 0, 0, 0, 0, 0, 0]).count(), 0);
    }

    #[test]
    fn a_message_carries_its_length_and_sequence() {
        let bytes = Message::new(16, REQUEST, &[9; 3]).text(1, "x").finish(7);
        assert_eq!(bytes.len(), 16 + 4 + 8);
        assert_eq!(bytes[..4], 28_u32.to_ne_bytes());
        assert_eq!(bytes[8..12], 7_u32.to_ne_bytes());
    }
}
