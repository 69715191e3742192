//! HTTP/1 heads from bytes, strictly (RFC 9112): what two parsers could read in two ways is refused.
//!
//! Pure: bytes in, head or error out. [`HeadScan`] finds where a head ends while it arrives, looking at each
//! byte once; [`parse_request`] and [`parse_response`] read a complete head. Refused, beside what `httparse`
//! refuses: bare LF, more than one `Host`, `Content-Length` beside `Transfer-Encoding`, repeated or listed
//! lengths, any coding other than one `chunked`, chunked in HTTP/1.0, bytes outside visible ASCII and `#` in targets.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::{Method, StatusCode, Version};
use smallvec::SmallVec;
use thiserror::Error;

use crate::head::{BodyLength, Headers, RequestHead, ResponseHead};

/// Bounds on what a peer may send; beyond them the message is refused and the connection closed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Bytes of a head with its start line: 431, or 414 when the request line alone is longer.
    pub head_bytes: usize,
    /// Fields of a head or trailer section, at most [`Limits::MOST_FIELDS`]: 431.
    pub fields: usize,
    /// Bytes of a chunk's size line with its extensions, which are dropped.
    pub chunk_line_bytes: usize,
    /// Bytes of a trailer section.
    pub trailer_bytes: usize,
    /// Interim (1xx) responses before the final one.
    pub interim_responses: u8,
}

impl Limits {
    /// The most fields that a head can be allowed to have.
    pub const MOST_FIELDS: usize = 256;
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            head_bytes: 64 * 1024,
            fields: 100,
            chunk_line_bytes: 4096,
            trailer_bytes: 16 * 1024,
            interim_responses: 16,
        }
    }
}

/// Why a head was refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Error)]
pub enum ParseError {
    /// A line that ends in LF without CR.
    #[error("line ends in a bare LF")]
    BareLf,
    /// The start line is not method, target and version, or version, status and reason.
    #[error("malformed start line")]
    StartLine,
    /// Neither HTTP/1.0 nor HTTP/1.1.
    #[error("HTTP version is not 1.0 or 1.1")]
    Version,
    /// A target with bytes that it may not have, or in a form that does not fit the method.
    #[error("malformed request target")]
    Target,
    /// A request line beyond the limit.
    #[error("request target is too long")]
    TargetTooLong,
    /// A field name or value with bytes that it may not have, white space before the colon, or a folded line.
    #[error("malformed header field")]
    Field,
    /// A head beyond the limit.
    #[error("head is too large")]
    TooLarge,
    /// More fields than the limit.
    #[error("too many header fields")]
    TooManyFields,
    /// No `Host`, several, or a malformed one.
    #[error("missing, repeated or malformed `host`")]
    Host,
    /// `Content-Length` that is not one number.
    #[error("`content-length` is not one number")]
    ContentLength,
    /// `Content-Length` and `Transfer-Encoding` in one message.
    #[error("both `content-length` and `transfer-encoding`")]
    LengthAndCoding,
    /// Several codings, chunked not alone, or codings in HTTP/1.0.
    #[error("malformed `transfer-encoding`")]
    TransferEncoding,
    /// A coding other than chunked.
    #[error("transfer coding is not supported")]
    UnknownCoding,
    /// An expectation other than `100-continue`.
    #[error("expectation is not supported")]
    Expectation,
    /// A 101 that nobody asked for, or too many interim responses.
    #[error("unexpected interim response")]
    Interim,
}

impl ParseError {
    /// The status that tells a client what was wrong with its request.
    pub fn status(self) -> StatusCode {
        match self {
            Self::Version => StatusCode::HTTP_VERSION_NOT_SUPPORTED,
            Self::TargetTooLong => StatusCode::URI_TOO_LONG,
            Self::TooLarge | Self::TooManyFields => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            Self::UnknownCoding => StatusCode::NOT_IMPLEMENTED,
            Self::Expectation => StatusCode::EXPECTATION_FAILED,
            Self::BareLf
            | Self::StartLine
            | Self::Target
            | Self::Field
            | Self::Host
            | Self::ContentLength
            | Self::LengthAndCoding
            | Self::TransferEncoding
            | Self::Interim => StatusCode::BAD_REQUEST,
        }
    }
}

/// How a message's body ends on the wire (RFC 9112 §6.3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(u64),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    UntilClose,
}

impl Framing {
    fn length(self) -> BodyLength {
        match self {
            Self::None => BodyLength::Empty,
            Self::Length(length) => BodyLength::Known(length),
            Self::Chunked | Self::UntilClose => BodyLength::Unknown,
        }
    }
}

/// A head and what it says about its connection.
#[derive(Clone, Debug)]
pub struct Parsed<H> {
    /// The head, with end-to-end fields only.
    pub head: H,
    /// How its body ends.
    pub framing: Framing,
    /// Whether the peer leaves the connection open after this message.
    pub persistent: bool,
}

/// Finds the end of a head while it arrives. Each byte is looked at once, so that a peer who sends a large
/// head byte by byte costs no more than one who sends it at once.
#[derive(Clone, Copy, Debug, Default)]
pub struct HeadScan {
    at: usize,
}

impl HeadScan {
    /// The length of the head at the start of `buffer` with its empty line, once it is there.
    ///
    /// # Errors
    /// [`ParseError::BareLf`]; [`ParseError::TooLarge`] or [`ParseError::TargetTooLong`] beyond `limit` bytes.
    pub fn end(&mut self, buffer: &[u8], limit: usize) -> Result<Option<usize>, ParseError> {
        while let Some(rest) = buffer.get(self.at..)
            && let Some(found) = memchr::memchr(b'\n', rest)
        {
            let newline = self.at + found;
            let before = |back: usize| newline.checked_sub(back).and_then(|at| buffer.get(at));
            if before(1) != Some(&b'\r') {
                return Err(ParseError::BareLf);
            }
            if newline >= limit {
                return Err(self.too_large());
            }
            self.at = newline + 1;
            if newline == 1 || before(2) == Some(&b'\n') {
                return Ok(Some(newline + 1));
            }
        }
        if buffer.len() > limit {
            return Err(self.too_large());
        }
        Ok(None)
    }

    fn too_large(self) -> ParseError {
        if self.at == 0 {
            ParseError::TargetTooLong
        } else {
            ParseError::TooLarge
        }
    }
}

/// Whether `byte` may stand in a request target: visible ASCII without `#`, which no client may send.
pub(crate) fn is_target(byte: u8) -> bool {
    byte.is_ascii_graphic() && byte != b'#'
}

/// A `content-length`: digits only, below 2^63.
pub(crate) fn content_length(value: &[u8]) -> Option<u64> {
    if value.is_empty() || value.len() > 18 {
        return None;
    }
    value.iter().try_fold(0u64, |sum, &byte| {
        byte.is_ascii_digit().then(|| sum * 10 + u64::from(byte - b'0'))
    })
}

/// Whether `value` is a host with an optional port (RFC 9110 §7.2): without user information, which readers disagree on.
pub(crate) fn is_authority(value: &[u8]) -> bool {
    !value.is_empty()
        && value
            .iter()
            .all(|&byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:[]".contains(&byte))
}

fn refused(error: httparse::Error) -> ParseError {
    match error {
        httparse::Error::HeaderName | httparse::Error::HeaderValue => ParseError::Field,
        httparse::Error::Version => ParseError::Version,
        httparse::Error::TooManyHeaders => ParseError::TooManyFields,
        httparse::Error::NewLine | httparse::Error::Status | httparse::Error::Token => ParseError::StartLine,
    }
}

/// What the fields of one connection say, gathered in one pass.
#[derive(Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "each is one field's word, not a state"
)]
struct HopFields<'a> {
    length: Option<u64>,
    chunked: bool,
    hosts: usize,
    host_valid: bool,
    close: bool,
    keep_alive: bool,
    upgrade_named: bool,
    upgrade: Option<&'a [u8]>,
    expect_continue: bool,
    /// Fields that `Connection` names: they go no further.
    named: SmallVec<[&'a [u8]; 2]>,
}

/// Reads `fields` into [`Headers`] over `head`, leaving out what belongs to this hop.
fn fields<'a>(head: &Bytes, fields: &[httparse::Header<'a>]) -> Result<(Headers, HopFields<'a>), ParseError> {
    let base = head.as_ptr().addr();
    let span = |bytes: &[u8]| (bytes.as_ptr().addr().wrapping_sub(base), bytes.len());
    // Room for what a proxy adds, without a second allocation.
    let mut headers = Headers::in_block(head.clone(), fields.len() + 6);
    let mut hop = HopFields::default();
    for field in fields {
        let (name, value) = (field.name, field.value.trim_ascii());
        let is = |other: &str| name.eq_ignore_ascii_case(other);
        let end_to_end = match name.len() {
            2 if is("te") => value.eq_ignore_ascii_case(b"trailers"),
            4 if is("host") => {
                hop.hosts += 1;
                hop.host_valid = is_authority(value);
                true
            }
            6 if is("expect") => {
                if !value.eq_ignore_ascii_case(b"100-continue") {
                    return Err(ParseError::Expectation);
                }
                hop.expect_continue = true;
                true
            }
            7 if is("upgrade") => {
                hop.upgrade = Some(value);
                false
            }
            10 if is("connection") => {
                for token in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
                    match token {
                        [] => {}
                        token if token.eq_ignore_ascii_case(b"close") => hop.close = true,
                        token if token.eq_ignore_ascii_case(b"keep-alive") => hop.keep_alive = true,
                        token if token.eq_ignore_ascii_case(b"upgrade") => hop.upgrade_named = true,
                        // These say what the message is; naming them must not take them away.
                        token
                            if token.eq_ignore_ascii_case(b"host")
                                || token.eq_ignore_ascii_case(b"content-length") => {}
                        token => hop.named.push(token),
                    }
                }
                false
            }
            10 if is("keep-alive") => false,
            14 if is("content-length") => {
                if hop.length.is_some() {
                    return Err(ParseError::ContentLength);
                }
                hop.length = Some(content_length(value).ok_or(ParseError::ContentLength)?);
                true
            }
            14 if is("http2-settings") => false,
            16 if is("proxy-connection") => false,
            17 if is("transfer-encoding") => {
                if hop.chunked {
                    return Err(ParseError::TransferEncoding);
                }
                if !value.eq_ignore_ascii_case(b"chunked") {
                    let lists_chunked = value
                        .split(|&byte| byte == b',')
                        .any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"chunked"));
                    return Err(
                        if lists_chunked && !value.to_ascii_lowercase().ends_with(b"chunked") {
                            ParseError::TransferEncoding
                        } else {
                            ParseError::UnknownCoding
                        },
                    );
                }
                hop.chunked = true;
                false
            }
            _ => true,
        };
        if end_to_end {
            headers.push_span(span(name.as_bytes()), span(value));
        }
    }
    if hop.chunked && hop.length.is_some() {
        return Err(ParseError::LengthAndCoding);
    }
    if !hop.named.is_empty() {
        headers.retain(|name, _| !hop.named.iter().any(|named| named.eq_ignore_ascii_case(name)));
    }
    Ok((headers, hop))
}

fn version(minor: Option<u8>) -> Version {
    if minor == Some(0) {
        Version::HTTP_10
    } else {
        Version::HTTP_11
    }
}

fn persistent(version: Version, hop: &HopFields<'_>) -> bool {
    !hop.close && (version == Version::HTTP_11 || hop.keep_alive)
}

/// The protocol offered or chosen, when `Connection` says so too. `h2c` is not passed on: see [`RequestHead::upgrade`].
fn upgrade(head: &Bytes, hop: &HopFields<'_>) -> Option<Bytes> {
    let value = hop
        .upgrade
        .filter(|value| hop.upgrade_named && !value.is_empty())?;
    let h2c = value
        .split(|&byte| byte == b',')
        .any(|protocol| protocol.trim_ascii().eq_ignore_ascii_case(b"h2c"));
    (!h2c).then(|| head.slice_ref(value))
}

/// Reads a complete request head.
///
/// # Errors
/// [`ParseError`]; its status is what the client is to be told.
pub fn parse_request(head: &Bytes, limits: &Limits) -> Result<Parsed<RequestHead>, ParseError> {
    let mut slots = [const { MaybeUninit::uninit() }; Limits::MOST_FIELDS];
    let slots = slots.get_mut(..limits.fields).ok_or(ParseError::TooManyFields)?;
    let mut request = httparse::Request::new(&mut []);
    let status = request.parse_with_uninit_headers(head, slots).map_err(|error| {
        if error == httparse::Error::Token && request.method.is_some() {
            ParseError::Target
        } else {
            refused(error)
        }
    })?;
    if status != httparse::Status::Complete(head.len()) {
        return Err(ParseError::Field);
    }
    let (Some(method), Some(target)) = (request.method, request.path) else {
        return Err(ParseError::StartLine);
    };
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| ParseError::StartLine)?;
    let version = version(request.version);
    if target.is_empty() || !target.bytes().all(is_target) {
        return Err(ParseError::Target);
    }
    let (mut headers, hop) = fields(head, request.headers)?;
    if hop.hosts > 1 || (hop.hosts == 1 && !hop.host_valid) || (hop.hosts == 0 && version == Version::HTTP_11)
    {
        return Err(ParseError::Host);
    }
    if hop.expect_continue && version == Version::HTTP_10 {
        // Ignored (RFC 9110 §10.1.1): sent on, it would ask the application for a 100 that this client cannot read.
        headers.remove("expect");
    }
    let target = read_target(head.slice_ref(target.as_bytes()), &method, &mut headers)?;
    if hop.chunked && version == Version::HTTP_10 {
        return Err(ParseError::TransferEncoding);
    }
    let framing = match hop.length {
        _ if hop.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::None,
    };
    if method == Method::CONNECT && framing != Framing::None {
        // What follows belongs to the tunnel: a length would say otherwise (RFC 9112 §6.3).
        return Err(ParseError::LengthAndCoding);
    }
    let persistent = persistent(version, &hop);
    Ok(Parsed {
        head: RequestHead {
            upgrade: upgrade(head, &hop).filter(|_| version == Version::HTTP_11),
            expect_continue: hop.expect_continue && version == Version::HTTP_11 && framing != Framing::None,
            method,
            target,
            version,
            headers,
            body: framing.length(),
        },
        framing,
        persistent,
    })
}

/// The target in the form that fits the method (RFC 9112 §3.2); an absolute form becomes the origin form.
fn read_target(target: Bytes, method: &Method, headers: &mut Headers) -> Result<Bytes, ParseError> {
    if *method == Method::CONNECT {
        return if is_authority(&target) && target.contains(&b':') {
            Ok(target)
        } else {
            Err(ParseError::Target)
        };
    }
    if target.first() == Some(&b'/') {
        return Ok(target);
    }
    if &target[..] == b"*" {
        return if *method == Method::OPTIONS {
            Ok(target)
        } else {
            Err(ParseError::Target)
        };
    }
    let prefix = |scheme: &[u8]| {
        target
            .get(..scheme.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(scheme))
            .then_some(scheme.len())
    };
    let start = prefix(b"http://")
        .or_else(|| prefix(b"https://"))
        .ok_or(ParseError::Target)?;
    let rest = target.slice(start..);
    let end = rest
        .iter()
        .position(|byte| matches!(byte, b'/' | b'?'))
        .unwrap_or(rest.len());
    let (authority, path) = (rest.slice(..end), rest.slice(end..));
    if !is_authority(&authority) {
        return Err(ParseError::Target);
    }
    headers.set("host", &authority).map_err(|_| ParseError::Target)?;
    Ok(match path.first() {
        None if *method == Method::OPTIONS => Bytes::from_static(b"*"),
        None => Bytes::from_static(b"/"),
        Some(b'/') => path,
        Some(_) => [b"/", &path[..]].concat().into(),
    })
}

/// Reads a complete response head. `request` is the method that it answers; `upgrade_asked` whether a 101 may come.
///
/// # Errors
/// [`ParseError`]: the upstream is not to be trusted with another request.
pub fn parse_response(
    head: &Bytes,
    request: &Method,
    upgrade_asked: bool,
    limits: &Limits,
) -> Result<Parsed<ResponseHead>, ParseError> {
    let mut slots = [const { MaybeUninit::uninit() }; Limits::MOST_FIELDS];
    let slots = slots.get_mut(..limits.fields).ok_or(ParseError::TooManyFields)?;
    let mut response = httparse::Response::new(&mut []);
    let status = httparse::ParserConfig::default()
        .parse_response_with_uninit_headers(&mut response, head, slots)
        .map_err(refused)?;
    if status != httparse::Status::Complete(head.len()) {
        return Err(ParseError::Field);
    }
    let status = response
        .code
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or(ParseError::StartLine)?;
    let version = version(response.version);
    let (headers, hop) = fields(head, response.headers)?;
    if status == StatusCode::SWITCHING_PROTOCOLS && !upgrade_asked {
        return Err(ParseError::Interim);
    }
    let bodiless = *request == Method::HEAD
        || status.is_informational()
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || (*request == Method::CONNECT && status.is_success());
    let framing = match hop.length {
        _ if bodiless => Framing::None,
        _ if hop.chunked && version == Version::HTTP_10 => return Err(ParseError::TransferEncoding),
        _ if hop.chunked => Framing::Chunked,
        Some(length) => Framing::Length(length),
        None => Framing::UntilClose,
    };
    let persistent = persistent(version, &hop) && framing != Framing::UntilClose;
    let reason = response.reason.unwrap_or_default();
    Ok(Parsed {
        head: ResponseHead {
            version,
            status,
            reason: if reason.is_empty() {
                Bytes::new()
            } else {
                head.slice_ref(reason.as_bytes())
            },
            upgrade: upgrade(head, &hop).filter(|_| status == StatusCode::SWITCHING_PROTOCOLS),
            headers,
            body: framing.length(),
        },
        framing,
        persistent,
    })
}
