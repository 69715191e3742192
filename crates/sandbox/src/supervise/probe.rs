//! Kubernetes probes, asked from inside the pod on a marked socket: they do not pass policy, and a server that listens
//! only on loopback can be asked too.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::{Duration, Instant};

use bartizan_types::{Port, Probe, ProbeAction};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Shared;
use super::container::{Place, exec_quietly};
use crate::ExitStatus;

/// More of an answer is not read.
const MOST_ANSWER: u64 = 16 * 1024;

/// What a probe found.
pub(super) type Found = Result<(), String>;

/// Asks until `threshold` answers in a row agree that it is good or bad, and hands each such verdict that is new to `verdict`.
/// Ends when `verdict` returns false.
pub(super) async fn ask_on(
    shared: &Shared,
    place: &Place<'_>,
    probe: &Probe,
    mut verdict: impl FnMut(Found) -> bool + Send,
) {
    let mut tally = Tally::new(probe);
    tokio::time::sleep(Duration::from_secs(probe.initial_delay_seconds.into())).await;
    loop {
        let found = ask(shared, place, probe).await;
        if tally.note(found.is_ok(), Instant::now()).is_some() && !verdict(found) {
            return;
        }
        tokio::time::sleep(tally.pause()).await;
    }
}

/// What the answers say together (Kubernetes `successThreshold`, `failureThreshold`, `periodSeconds`).
struct Tally {
    period: Duration,
    success_threshold: u32,
    failure_threshold: u32,
    good: u32,
    bad: u32,
    counted: Option<Instant>,
    known: Option<bool>,
}

impl Tally {
    fn new(probe: &Probe) -> Self {
        Self {
            period: Duration::from_secs(probe.period_seconds.max(1).into()),
            success_threshold: probe.success_threshold.max(1),
            failure_threshold: probe.failure_threshold.max(1),
            good: 0,
            bad: 0,
            counted: None,
            known: None,
        }
    }

    /// Notes an answer; the verdict, when it is new. In a row of answers one in each period counts, however often is asked.
    fn note(&mut self, good: bool, now: Instant) -> Option<bool> {
        let in_a_row = if good { self.good } else { self.bad };
        let due = self
            .counted
            .is_none_or(|counted| now.saturating_duration_since(counted) >= self.period);
        if in_a_row == 0 || due {
            self.counted = Some(now);
            if good {
                (self.good, self.bad) = (self.good.saturating_add(1), 0);
            } else {
                (self.good, self.bad) = (0, self.bad.saturating_add(1));
            }
        }
        let reached = if good {
            self.good >= self.success_threshold
        } else {
            self.bad >= self.failure_threshold
        };
        (reached && self.known.replace(good) != Some(good)).then_some(good)
    }

    /// While nothing is known yet a whole period is too long: a newcomer waits for the first readiness of every service.
    fn pause(&self) -> Duration {
        if self.known.is_none() {
            self.period.min(Duration::from_millis(250))
        } else {
            self.period
        }
    }
}

/// Asks once.
async fn ask(shared: &Shared, place: &Place<'_>, probe: &Probe) -> Found {
    let timeout = Duration::from_secs(probe.timeout_seconds.max(1).into());
    let asked = async {
        match &probe.action {
            ProbeAction::TcpSocket { port } => connect(shared, place, *port, timeout).await.map(drop),
            ProbeAction::HttpGet { port, path, headers } => {
                let stream = connect(shared, place, *port, timeout).await?;
                http_get(stream, place.address, *port, path, headers).await
            }
            ProbeAction::Grpc { port, service } => {
                let stream = connect(shared, place, *port, timeout).await?;
                grpc_health(stream, service).await
            }
            ProbeAction::Exec { command } => match exec_quietly(shared, place, command).await {
                Ok(ExitStatus::Code(0)) => Ok(()),
                Ok(status) => Err(format!(
                    "`{}` ended with {}",
                    command.join(" "),
                    super::container::ended(status)
                )),
                Err(error) => Err(error.to_string()),
            },
        }
    };
    tokio::time::timeout(timeout, asked)
        .await
        .unwrap_or_else(|_| Err(format!("no answer within {} s", timeout.as_secs())))
}

async fn connect(
    shared: &Shared,
    place: &Place<'_>,
    port: Port,
    timeout: Duration,
) -> Result<TcpStream, String> {
    let mut last = String::new();
    for address in [Ipv4Addr::LOCALHOST, place.address] {
        let to = SocketAddrV4::new(address, port.get());
        match shared.sandbox.open_socket(&place.pod_key, to, timeout).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = format!("port {port}: {error}"),
        }
    }
    Err(last)
}

async fn http_get(
    mut stream: TcpStream,
    address: Ipv4Addr,
    port: Port,
    path: &str,
    headers: &[(String, String)],
) -> Found {
    let mut request = format!("GET {path} HTTP/1.1\r\n");
    if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        request += &format!("Host: {address}:{port}\r\n");
    }
    if !headers
        .iter()
        .any(|(name, _)| name.eq_ignore_ascii_case("user-agent"))
    {
        request += "User-Agent: kube-probe/bartizan\r\n";
    }
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    request += "Accept: */*\r\nConnection: close\r\n\r\n";
    let failed = |error: std::io::Error| format!("GET {path}: {error}");
    stream.write_all(request.as_bytes()).await.map_err(failed)?;
    let mut answer = Vec::new();
    let mut reader = stream.take(MOST_ANSWER);
    while !answer.contains(&b'\n') {
        if reader.read_buf(&mut answer).await.map_err(failed)? == 0 {
            return Err(format!("GET {path}: closed without an answer"));
        }
    }
    let text = String::from_utf8_lossy(&answer);
    let line = text.lines().next().unwrap_or_default();
    let code = line.split(' ').nth(1).and_then(|code| code.parse::<u16>().ok());
    match code {
        Some(200..=399) => Ok(()),
        Some(code) => Err(format!("GET {path}: status {code}")),
        None => Err(format!("GET {path}: `{}` is not an HTTP answer", shown(line))),
    }
}

/// What people are shown of an application's words: a terminal must not obey them.
fn shown(words: &str) -> String {
    words.chars().take(80).flat_map(char::escape_debug).collect()
}

/// `grpc.health.v1.Health/Check` over HTTP/2, written by hand: one stream, headers as literals, and of the answer only the
/// DATA frame is read (its message is `08 01` when SERVING).
async fn grpc_health(mut stream: TcpStream, service: &str) -> Found {
    let failed = |error: std::io::Error| format!("grpc health: {error}");
    stream
        .write_all(&grpc_health_request(service))
        .await
        .map_err(failed)?;
    let mut answer = Vec::new();
    let mut reader = (&mut stream).take(MOST_ANSWER);
    loop {
        if let Some(message) = first_data_frame(&answer) {
            return if message == [0, 0, 0, 0, 2, 0x08, 0x01] {
                Ok(())
            } else {
                Err("grpc health: not SERVING".to_owned())
            };
        }
        if reader.read_buf(&mut answer).await.map_err(failed)? == 0 {
            return Err("grpc health: closed without a health message".to_owned());
        }
    }
}

fn grpc_health_request(service: &str) -> Vec<u8> {
    let name = service
        .as_bytes()
        .get(..service.len().min(100))
        .unwrap_or_default();
    let mut message = Vec::new();
    if !name.is_empty() {
        message.extend_from_slice(&[0x0a, u8::try_from(name.len()).unwrap_or(0)]);
        message.extend_from_slice(name);
    }
    let mut data = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap_or(0)];
    data.extend_from_slice(&message);
    let mut block = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/grpc.health.v1.Health/Check"),
        (":authority", "localhost"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // RFC 7541 §6.2.2, literal without indexing, new name, no Huffman; all shorter than 127 bytes.
        block.push(0);
        for text in [name, value] {
            block.push(u8::try_from(text.len()).unwrap_or(0));
            block.extend_from_slice(text.as_bytes());
        }
    }
    let mut out = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for (kind, flags, stream, payload) in [(4u8, 0u8, 0u8, &[][..]), (1, 0x4, 1, &block), (0, 0x1, 1, &data)]
    {
        out.extend_from_slice(&u32::try_from(payload.len()).unwrap_or(0).to_be_bytes()[1..]);
        out.extend_from_slice(&[kind, flags, 0, 0, 0, stream]);
        out.extend_from_slice(payload);
    }
    out
}

fn first_data_frame(bytes: &[u8]) -> Option<&[u8]> {
    let mut rest = bytes;
    loop {
        let (head, tail) = rest.split_at_checked(9)?;
        let [a, b, c, kind, ..] = *head else { return None };
        let length = usize::try_from(u32::from_be_bytes([0, a, b, c])).ok()?;
        let (payload, tail) = tail.split_at_checked(length)?;
        if kind == 0 && !payload.is_empty() {
            return Some(payload);
        }
        rest = tail;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_applications_words_are_shown_and_not_obeyed() {
        assert_eq!(
            shown("SSH-2.0 \u{1b}[2J\u{9b}31m"),
            "SSH-2.0 \\u{1b}[2J\\u{9b}31m"
        );
        assert_eq!(shown(&"x".repeat(20_000)).len(), 80);
    }

    #[test]
    fn asking_more_often_than_the_period_does_not_make_a_verdict_come_earlier() {
        let start = Instant::now();
        let at = |millis: u64| start + Duration::from_millis(millis);
        let mut tally = Tally {
            period: Duration::from_secs(1),
            success_threshold: 1,
            failure_threshold: 3,
            good: 0,
            bad: 0,
            counted: None,
            known: None,
        };
        let noted: Vec<Option<bool>> = (0..10).map(|step| tally.note(false, at(step * 250))).collect();
        let mut expected = vec![None; 8];
        expected.extend([Some(false), None]);
        assert_eq!(noted, expected);
        assert_eq!(tally.note(true, at(2600)), Some(true));
        assert_eq!(tally.note(true, at(3600)), None);
        assert_eq!(tally.note(false, at(3700)), None);
    }

    #[test]
    fn the_first_data_frame_is_found_behind_others() {
        let mut bytes = vec![0, 0, 0, 4, 0, 0, 0, 0, 0];
        assert_eq!(first_data_frame(&bytes), None);
        bytes.extend_from_slice(&[0, 0, 7, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 2, 8]);
        assert_eq!(first_data_frame(&bytes), None);
        bytes.push(1);
        assert_eq!(first_data_frame(&bytes), Some(&[0, 0, 0, 0, 2, 8, 1][..]));
    }
}
