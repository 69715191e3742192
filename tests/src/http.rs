//! A plain HTTP/1.1 client over standard sockets: it says exactly what happened, and hides nothing by trying again.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

/// No answer takes longer.
const PATIENCE: Duration = Duration::from_secs(15);

/// What came back.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The first field of this name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find_map(|(key, value)| (key == name).then_some(value.as_str()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection that requests are sent over one after the other.
#[derive(Debug)]
pub struct Client<S> {
    stream: S,
    read: Vec<u8>,
    /// Whether another request may be sent.
    pub keep_alive: bool,
    /// Whether anything of an answer to the last request has arrived.
    pub heard: bool,
}

impl Client<TcpStream> {
    /// # Errors
    /// The system's.
    pub fn connect(address: &str) -> io::Result<Self> {
        let stream = TcpStream::connect(address)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }
}

impl Client<UnixStream> {
    /// # Errors
    /// The system's.
    pub fn connect_unix(path: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> Client<S> {
    /// Over an open connection.
    pub fn over(stream: S) -> Self {
        Self {
            stream,
            read: Vec::new(),
            keep_alive: true,
            heard: false,
        }
    }

    /// Sends a request and reads the whole answer. `Host` and `Content-Length` are written unless given.
    ///
    /// # Errors
    /// When the connection breaks, or what comes is not HTTP/1.1.
    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> io::Result<Answer> {
        let mut head = format!("{method} {path} HTTP/1.1\r\n");
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            head += "Host: lab\r\n";
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() {
            head += &format!("Content-Length: {}\r\n", body.len());
        }
        head += "\r\n";
        self.heard = false;
        self.stream.write_all(&[head.as_bytes(), body].concat())?;
        self.answer(method == "HEAD")
    }

    fn answer(&mut self, is_head: bool) -> io::Result<Answer> {
        let head = loop {
            let head = self.take_head()?;
            if !(100..200).contains(&head.status) {
                break head;
            }
        };
        let mut answer = head;
        let says = |name: &str| answer.header(name).map(str::to_ascii_lowercase);
        self.keep_alive = says("connection").is_none_or(|value| value != "close");
        answer.body = if is_head || matches!(answer.status, 204 | 304) {
            Vec::new()
        } else if says("transfer-encoding").is_some_and(|value| value == "chunked") {
            self.take_chunks()?
        } else if let Some(length) = says("content-length") {
            let length = length
                .parse()
                .map_err(|_| bad("the content-length is no number"))?;
            self.take(length)?
        } else {
            self.keep_alive = false;
            self.take_rest()?
        };
        Ok(answer)
    }

    fn more(&mut self) -> io::Result<usize> {
        let mut bytes = [0; 16 * 1024];
        let count = self.stream.read(&mut bytes)?;
        self.heard |= count > 0;
        self.read.extend_from_slice(&bytes[..count]);
        Ok(count)
    }

    fn take(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        Ok(self.read.drain(..length).collect())
    }

    fn take_rest(&mut self) -> io::Result<Vec<u8>> {
        while self.more()? > 0 {}
        Ok(std::mem::take(&mut self.read))
    }

    fn take_line(&mut self) -> io::Result<String> {
        loop {
            if let Some(at) = self.read.windows(2).position(|pair| pair == b"\r\n") {
                let line = self.take(at + 2)?;
                return Ok(String::from_utf8_lossy(&line[..at]).into_owned());
            }
            if self.more()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn take_head(&mut self) -> io::Result<Answer> {
        let first = self.take_line()?;
        let status = first
            .strip_prefix("HTTP/1.1 ")
            .and_then(|rest| rest.get(..3)?.parse().ok())
            .ok_or_else(|| bad("no status line"))?;
        let mut headers = Vec::new();
        loop {
            let line = self.take_line()?;
            if line.is_empty() {
                break;
            }
            let (name, value) = line
                .split_once(':')
                .ok_or_else(|| bad("a field without a colon"))?;
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Answer {
            status,
            headers,
            body: Vec::new(),
        })
    }

    fn take_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let line = self.take_line()?;
            let size = line.split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size.trim(), 16).map_err(|_| bad("a chunk without a size"))?;
            if size == 0 {
                while !self.take_line()?.is_empty() {}
                return Ok(body);
            }
            body.extend(self.take(size)?);
            self.take(2)?;
        }
    }
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

/// One request over a connection of its own.
///
/// # Errors
/// As [`Client::request`].
pub fn get(address: &str, path: &str, headers: &[(&str, &str)]) -> io::Result<Answer> {
    Client::connect(address)?.request("GET", path, headers, b"")
}

/// One request over a unix socket.
///
/// # Errors
/// As [`Client::request`].
pub fn get_unix(socket: &Path, path: &str) -> io::Result<Answer> {
    Client::connect_unix(socket)?.request("GET", path, &[("Connection", "close")], b"")
}

/// The sum of a metric's samples that have all these labels; 0 when there is none.
pub fn metric(text: &str, name: &str, labels: &[(&str, &str)]) -> f64 {
    text.lines()
        .filter_map(|line| line.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .filter(|rest| {
            labels
                .iter()
                .all(|(key, value)| rest.contains(&format!("{key}=\"{value}\"")))
        })
        .filter_map(|rest| rest.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
