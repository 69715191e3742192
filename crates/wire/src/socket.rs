//! TCP sockets as a mesh needs them: shared ports, marks, original destinations, deadlines.

use std::io;
use std::net::{IpAddr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::OwnedFd;
use std::time::Duration;

use nix::sys::socket::{getsockopt, sockopt};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

/// The mark of a proxy's own sockets (`bart`): the capture rules let them pass. Setting it needs `CAP_NET_ADMIN`
/// in the owning user namespace.
pub const MARK: u32 = 0x6261_7274;

/// How a listener is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Bind {
    /// Other sockets may listen on the same address, and the kernel spreads connections: one a worker.
    pub reuse_port: bool,
    /// The mark that accepted connections inherit.
    pub mark: Option<u32>,
    /// Connections that wait to be accepted; above that the kernel drops.
    pub backlog: i32,
}

impl Default for Bind {
    fn default() -> Self {
        Self {
            reuse_port: true,
            mark: None,
            backlog: 4096,
        }
    }
}

/// How a connection is opened.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Connect {
    /// The socket's mark.
    pub mark: Option<u32>,
    /// The address to come from.
    pub source: Option<IpAddr>,
    /// Probe after this much silence, and give up after three probes of a third of it each.
    pub keepalive: Option<Duration>,
}

/// Takes over a listener that another process opened.
///
/// # Errors
/// When the descriptor is not a socket that can be used without blocking.
pub fn listener_from_fd(fd: OwnedFd) -> io::Result<TcpListener> {
    let listener = std::net::TcpListener::from(fd);
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

/// Opens a listener.
///
/// # Errors
/// The system's, with the address in the text.
pub fn bind(address: SocketAddr, options: Bind) -> io::Result<TcpListener> {
    let open = || {
        let socket = new_socket(address)?;
        if address.is_ipv6() {
            socket.set_only_v6(true)?;
        }
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(options.reuse_port)?;
        if let Some(mark) = options.mark {
            socket.set_mark(mark)?;
        }
        socket.bind(&address.into())?;
        socket.listen(options.backlog)?;
        TcpListener::from_std(socket.into())
    };
    open().map_err(|error| io::Error::new(error.kind(), format!("listen on `{address}`: {error}")))
}

fn new_socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Where a redirected connection was going before capture; `None` when it was not redirected.
///
/// # Errors
/// The system's, other than that there is no such destination.
pub fn original_destination(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let absent = |errno: nix::Error| {
        if [
            nix::Error::ENOENT,
            nix::Error::ENOPROTOOPT,
            nix::Error::EOPNOTSUPP,
        ]
        .contains(&errno)
        {
            Ok(None)
        } else {
            Err(io::Error::from(errno))
        }
    };
    let local = stream.local_addr()?;
    let v4 = match local.ip() {
        IpAddr::V4(_) => true,
        IpAddr::V6(ip) => ip.to_ipv4_mapped().is_some(),
    };
    if v4 {
        match getsockopt(stream, sockopt::OriginalDst) {
            Ok(address) => {
                let ip = u32::from_be(address.sin_addr.s_addr).into();
                Ok(Some(SocketAddrV4::new(ip, u16::from_be(address.sin_port)).into()))
            }
            Err(errno) => absent(errno),
        }
    } else {
        match getsockopt(stream, sockopt::Ip6tOriginalDst) {
            Ok(address) => {
                let ip = address.sin6_addr.s6_addr.into();
                let port = u16::from_be(address.sin6_port);
                Ok(Some(SocketAddrV6::new(ip, port, 0, address.sin6_scope_id).into()))
            }
            Err(errno) => absent(errno),
        }
    }
}

/// Connects, without delaying small writes.
///
/// # Errors
/// The system's; [`io::ErrorKind::TimedOut`] at the deadline. Nothing has been sent then.
pub async fn connect(address: SocketAddr, options: Connect, deadline: Instant) -> io::Result<TcpStream> {
    let socket = new_socket(address)?;
    socket.set_tcp_nodelay(true)?;
    if let Some(mark) = options.mark {
        socket.set_mark(mark)?;
    }
    if let Some(silence) = options.keepalive {
        socket.set_tcp_keepalive(&keepalive(silence))?;
    }
    if let Some(source) = options.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    let socket = TcpSocket::from_std_stream(socket.into());
    timeout_at(deadline, socket.connect(address))
        .await
        .map_err(|_| io::Error::new(io::ErrorKind::TimedOut, "connect was not finished in time"))?
}

fn keepalive(silence: Duration) -> TcpKeepalive {
    let interval = (silence / 3).max(Duration::from_secs(1));
    TcpKeepalive::new()
        .with_time(silence.max(Duration::from_secs(1)))
        .with_interval(interval)
        .with_retries(3)
}

/// Sets an accepted connection up: small writes are not delayed, silence is probed.
///
/// # Errors
/// The system's, when the connection is gone already.
pub fn tune_accepted(stream: &TcpStream, silence: Option<Duration>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    if let Some(silence) = silence {
        SockRef::from(stream).set_tcp_keepalive(&keepalive(silence))?;
    }
    Ok(())
}

/// Lets the connection end with a reset when it is dropped: what a refused TCP client is to see.
///
/// # Errors
/// The system's, when the connection is gone already.
pub fn reset_on_drop(stream: &TcpStream) -> io::Result<()> {
    SockRef::from(stream).set_linger(Some(Duration::ZERO))
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt;

    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(10)
    }

    fn loopback() -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], 0))
    }

    #[tokio::test]
    async fn two_listeners_share_a_port_and_connections_are_not_delayed() {
        let first = bind(loopback(), Bind::default()).unwrap();
        let address = first.local_addr().unwrap();
        let second = bind(address, Bind::default()).unwrap();
        let options = Connect {
            source: Some(IpAddr::from([127, 0, 0, 9])),
            keepalive: Some(Duration::from_secs(30)),
            mark: None,
        };
        let client = connect(address, options, soon()).await.unwrap();
        let (server, peer) = tokio::select! {
            accepted = first.accept() => accepted.unwrap(),
            accepted = second.accept() => accepted.unwrap(),
        };
        tune_accepted(&server, Some(Duration::from_secs(30))).unwrap();
        assert!(client.nodelay().unwrap() && server.nodelay().unwrap());
        assert_eq!(peer.ip(), IpAddr::from([127, 0, 0, 9]));
        assert_eq!(original_destination(&server).unwrap(), None);
    }

    #[tokio::test]
    async fn a_reset_is_seen_as_one() {
        let listener = bind(loopback(), Bind::default()).unwrap();
        let address = listener.local_addr().unwrap();
        let mut client = connect(address, Connect::default(), soon()).await.unwrap();
        let (server, _) = listener.accept().await.unwrap();
        reset_on_drop(&server).unwrap();
        drop(server);
        let error = client.read_u8().await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }

    #[tokio::test]
    async fn a_listener_passes_by_descriptor_and_a_refusal_is_told() {
        let socket = std::net::TcpListener::bind(loopback()).unwrap();
        let address = socket.local_addr().unwrap();
        let listener = listener_from_fd(socket.into()).unwrap();
        assert_eq!(listener.local_addr().unwrap(), address);
        drop(listener);
        let error = connect(address, Connect::default(), soon()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
    }
}
