//! What the application tries. Each attempt prints one line: what it got, or `refused ERRNO`.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixStream};
use std::process::ExitCode;
use std::time::Duration;

const PATIENCE: Duration = Duration::from_secs(5);

/// Does one attempt and prints its outcome.
pub(super) fn run(arguments: &[&str]) -> ExitCode {
    let line = match attempt(arguments) {
        Ok(text) => text,
        Err(error) => match error.raw_os_error() {
            Some(code) => format!("refused {:?}", nix::errno::Errno::from_raw(code)),
            None => format!("refused {error}"),
        },
    };
    println!("{line}");
    io::stdout().flush().unwrap();
    ExitCode::SUCCESS
}

#[expect(clippy::too_many_lines, reason = "a flat list of attempts")]
fn attempt(arguments: &[&str]) -> io::Result<String> {
    match arguments {
        ["connect", to] => connect(to),
        ["marked", mark, to] => marked(mark.parse().unwrap(), to),
        ["device", kind, to] => through_device(kind, to),
        ["connect6"] => {
            TcpStream::connect((Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1), 80)).map(|_| "connected".into())
        }
        ["loopback6"] => {
            let listener = TcpListener::bind((Ipv6Addr::LOCALHOST, 0))?;
            TcpStream::connect(listener.local_addr()?).map(|_| "connected".into())
        }
        ["loopback"] => {
            let listener = TcpListener::bind("127.0.0.1:0")?;
            TcpStream::connect(listener.local_addr()?).map(|_| "connected".into())
        }
        ["udp", to] => UdpSocket::bind("0.0.0.0:0")?
            .send_to(b"x", to)
            .map(|_| "sent".into()),
        ["dns", to] => dns(to),
        ["serve", port] => serve(port),
        ["bind", address] => TcpListener::bind(address).map(|_| "bound".into()),
        ["join", address] => join_group(address),
        ["socket", family, kind, protocol] => {
            let number = |text: &str| text.parse::<i32>().unwrap();
            // SAFETY: integers only.
            checked(unsafe { libc::socket(number(family), number(kind), number(protocol)) }.into())
        }
        ["mark"] => set_option(libc::SOL_SOCKET, libc::SO_MARK, 0x6261_7274),
        ["transparent"] => set_option(libc::IPPROTO_IP, libc::IP_TRANSPARENT, 1),
        // SAFETY: integers only.
        ["unshare", flag] => checked(unsafe { libc::unshare(flag.parse().unwrap()) }.into()),
        ["clone"] => {
            // SAFETY: as fork; the child ends at once.
            let result =
                unsafe { libc::syscall(libc::SYS_clone, libc::CLONE_NEWUSER | libc::SIGCHLD, 0, 0, 0, 0) };
            if result == 0 {
                std::process::exit(0);
            }
            checked(result)
        }
        // SAFETY: null pointers are refused by the kernel, not followed.
        ["clone3"] => checked(unsafe { libc::syscall(libc::SYS_clone3, 0, 0) }),
        // SAFETY: as above.
        ["io_uring"] => checked(unsafe { libc::syscall(libc::SYS_io_uring_setup, 1, 0) }),
        ["mount"] => {
            nix::mount::mount(
                Some("x"),
                "/tmp",
                Some("tmpfs"),
                nix::mount::MsFlags::empty(),
                None::<&str>,
            )?;
            Ok("mounted".into())
        }
        ["remount"] => {
            let flags = nix::mount::MsFlags::MS_REMOUNT | nix::mount::MsFlags::MS_BIND;
            nix::mount::mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)?;
            Ok("mounted".into())
        }
        ["ptrace", pid] => {
            nix::sys::ptrace::attach(nix::unistd::Pid::from_raw(pid.parse().unwrap()))?;
            Ok("attached".into())
        }
        ["kill", pid] => {
            nix::sys::signal::kill(
                nix::unistd::Pid::from_raw(pid.parse().unwrap()),
                nix::sys::signal::Signal::SIGKILL,
            )?;
            Ok("sent".into())
        }
        ["read", path] => {
            fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).trim().replace('\n', "|"))
        }
        ["write", path] => fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)?
            .write_all(b"x")
            .map(|()| "written".into()),
        ["list", path] => {
            let mut names: Vec<String> = fs::read_dir(path)?
                .flatten()
                .map(|e| e.file_name().to_string_lossy().into())
                .collect();
            names.sort();
            Ok(names.join(" "))
        }
        ["processes"] => Ok(fs::read_dir("/proc")?
            .flatten()
            .filter(|e| e.file_name().to_string_lossy().parse::<u32>().is_ok())
            .count()
            .to_string()),
        ["abstract", name] => {
            UnixStream::connect_addr(&UnixAddress::from_abstract_name(name)?).map(|_| "connected".into())
        }
        ["unix", path] => UnixStream::connect(path).map(|_| "connected".into()),
        ["status", field] => {
            let status = fs::read_to_string("/proc/self/status")?;
            Ok(status
                .lines()
                .find_map(|l| l.strip_prefix(field)?.strip_prefix(':'))
                .unwrap_or("")
                .split_whitespace()
                .collect::<Vec<_>>()
                .join(" "))
        }
        ["descriptors"] => Ok(fs::read_dir("/proc/self/fd")?.count().to_string()),
        ["hostname"] => Ok(nix::unistd::gethostname()?.to_string_lossy().into()),
        ["terminal"] => Ok(if io::IsTerminal::is_terminal(&io::stdin()) {
            nix::unistd::tcgetpgrp(io::stdin())?.to_string()
        } else {
            "none".into()
        }),
        ["inject"] => {
            // SAFETY: TIOCSTI reads one byte.
            checked(unsafe { libc::ioctl(0, libc::TIOCSTI, c"x".as_ptr()) }.into())
        }
        ["orphan"] => {
            // SAFETY: this program has one thread.
            match unsafe { nix::unistd::fork() }? {
                nix::unistd::ForkResult::Child => {
                    let null = fs::OpenOptions::new().read(true).write(true).open("/dev/null")?;
                    nix::unistd::dup2_stdout(&null)?;
                    nix::unistd::dup2_stderr(&null)?;
                    wait_forever()
                }
                nix::unistd::ForkResult::Parent { .. } => Ok("left".into()),
            }
        }
        ["wait"] => {
            println!("waiting");
            io::stdout().flush()?;
            wait_forever()
        }
        other => panic!("no attack {other:?}"),
    }
}

fn wait_forever() -> ! {
    loop {
        std::thread::park();
    }
}

fn connect(to: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&to.parse::<SocketAddr>().unwrap(), PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// Sends or connects with a socket that is bound to the pod's interface.
fn through_device(kind: &str, to: &str) -> io::Result<String> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
    };
    let kind = if kind == "tcp" {
        SockType::Stream
    } else {
        SockType::Datagram
    };
    let socket = socket(AddressFamily::Inet, kind, SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&socket, sockopt::BindToDevice, &"eth0".into())?;
    let to: std::net::SocketAddrV4 = to.parse().unwrap();
    let connected = connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::from(to));
    if kind == SockType::Datagram {
        connected?;
        UdpSocket::from(socket).send(b"x")?;
        return Ok("sent".into());
    }
    let mut watched = [nix::poll::PollFd::new(
        std::os::fd::AsFd::as_fd(&socket),
        nix::poll::PollFlags::POLLOUT,
    )];
    let ready = nix::poll::poll(&mut watched, 500_u16)?;
    let error = nix::sys::socket::getsockopt(&socket, sockopt::SocketError)?;
    Ok(if ready == 1 && error == 0 {
        "connected".into()
    } else {
        "nothing".into()
    })
}

/// Connects as a proxy does.
fn marked(mark: u32, to: &str) -> io::Result<String> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, connect, setsockopt, socket, sockopt,
    };
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::Mark, &mark)?;
    let to: std::net::SocketAddrV4 = to.parse().unwrap();
    connect(std::os::fd::AsRawFd::as_raw_fd(&socket), &SockaddrIn::from(to))?;
    let mut text = String::new();
    TcpStream::from(socket).read_to_string(&mut text)?;
    Ok(text)
}

fn dns(to: &str) -> io::Result<String> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.connect(to)?;
    socket.send(b"question")?;
    let mut answer = [0; 64];
    let length = socket.recv(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer[..length]).into())
}

/// Says the caller to everybody who connects, after `listening`.
fn serve(port: &str) -> io::Result<String> {
    let listener = TcpListener::bind(format!("0.0.0.0:{port}"))?;
    println!("listening");
    io::stdout().flush()?;
    loop {
        let (mut stream, peer) = listener.accept()?;
        let _ = write!(stream, "application, called by {}", peer.ip());
    }
}

/// Tries to share a listening socket with whoever has it.
fn join_group(address: &str) -> io::Result<String> {
    use nix::sys::socket::{
        AddressFamily, SockFlag, SockType, SockaddrIn, bind, setsockopt, socket, sockopt,
    };
    let address: std::net::SocketAddrV4 = address.parse().unwrap();
    let socket = socket(AddressFamily::Inet, SockType::Stream, SockFlag::empty(), None)?;
    setsockopt(&socket, sockopt::ReusePort, &true)?;
    setsockopt(&socket, sockopt::ReuseAddr, &true)?;
    bind(
        std::os::fd::AsRawFd::as_raw_fd(&socket),
        &SockaddrIn::from(address),
    )?;
    nix::sys::socket::listen(&socket, nix::sys::socket::Backlog::new(16)?)?;
    Ok("joined".into())
}

fn set_option(level: i32, name: i32, value: i32) -> io::Result<String> {
    // SAFETY: the value is an int and so is the length.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
        checked(libc::setsockopt(socket, level, name, std::ptr::from_ref(&value).cast(), 4).into())
    }
}

fn checked(result: libc::c_long) -> io::Result<String> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok("done".into())
    }
}
