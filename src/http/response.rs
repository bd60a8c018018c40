//! Answers, and how they are written (RFC 9112 sections 4 and 7.1).

use std::borrow::Cow;
use std::io::{self, Read, Write};
use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, DATE, TRANSFER_ENCODING};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// One read from a streamed body, and so one write to the client.
const STREAM_BUFFER: usize = 16 << 10;

/// What a handler answers.
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Fields, without those of the framing.
    pub headers: HeaderMap,
    /// Body.
    pub body: Payload,
}

/// The body of an answer.
pub enum Payload {
    /// In memory.
    Bytes(Cow<'static, [u8]>),
    /// Read and written on, piece by piece, each at once.
    Stream {
        /// Delivers the pieces.
        reader: Box<dyn Read + Send>,
        /// Its length, when known.
        length: Option<u64>,
    },
    /// None, though an answer to another method would have had one of this length: HEAD and 304.
    Head(Option<u64>),
}

impl Response {
    /// An empty answer.
    pub fn new(status: StatusCode) -> Response {
        Response { status, headers: HeaderMap::new(), body: Payload::Bytes(Cow::Borrowed(b"")) }
    }

    /// A sentence for a person or a log.
    pub fn text(status: StatusCode, text: impl Into<String>) -> Response {
        let mut text = text.into();
        text.push('\n');
        Response::new(status).with_body("text/plain; charset=utf-8", text.into_bytes())
    }

    /// A JSON document.
    pub fn json(status: StatusCode, value: &serde_json::Value) -> Response {
        Response::new(status).with_body("application/json", value.to_string().into_bytes())
    }

    /// Sets body and type.
    pub fn with_body(mut self, content_type: &'static str, body: Vec<u8>) -> Response {
        self.headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
        self.body = Payload::Bytes(body.into());
        self
    }

    /// Sets a field whose value is fixed or has been checked; one that no field can carry is left out.
    pub fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Response {
        if let Ok(value) = value.try_into() {
            self.headers.insert(name, value);
        }
        self
    }
}

/// What the connection decides about an answer.
pub(super) struct Framing {
    /// Answer to a HEAD request.
    pub head: bool,
    /// The client speaks HTTP/1.1.
    pub http11: bool,
    /// May the connection go on?
    pub keep_alive: bool,
}

/// Writes `response`; says whether the connection may carry another one.
///
/// An error from the writer means that the client is gone. An error from a streamed body ends the connection without
/// the end of the framing, so that the client can tell.
pub(super) fn write(mut out: impl Write, response: Response, framing: Framing) -> io::Result<bool> {
    let Response { status, headers, body } = response;
    let bodiless = framing.head || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let mut keep_alive = framing.keep_alive;
    let (length, chunked) = match &body {
        Payload::Bytes(bytes) => (Some(bytes.len() as u64), false),
        Payload::Head(length) => (*length, false),
        Payload::Stream { length: Some(n), .. } => (Some(*n), false),
        Payload::Stream { length: None, .. } => (None, framing.http11 && !bodiless),
    };
    if length.is_none() && !chunked && !bodiless {
        // HTTP/1.0 has no other end of a body of unknown length.
        keep_alive = false;
    }

    let mut head = Vec::with_capacity(512);
    write!(head, "HTTP/1.1 {} {}\r\n", status.as_u16(), status.canonical_reason().unwrap_or("Status"))?;
    for (name, value) in &headers {
        if *name == CONTENT_LENGTH || *name == TRANSFER_ENCODING || *name == CONNECTION {
            continue;
        }
        field(&mut head, name.as_str(), value.as_bytes());
    }
    if !headers.contains_key(DATE) {
        field(&mut head, "date", httpdate::fmt_http_date(SystemTime::now()).as_bytes());
    }
    match length {
        // RFC 9110 section 8.6: not in 1xx and 204.
        Some(n) if !status.is_informational() && status != StatusCode::NO_CONTENT => {
            field(&mut head, "content-length", n.to_string().as_bytes());
        }
        None if chunked => field(&mut head, "transfer-encoding", b"chunked"),
        _ => {}
    }
    if !keep_alive {
        field(&mut head, "connection", b"close");
    } else if !framing.http11 {
        field(&mut head, "connection", b"keep-alive");
    }
    head.extend_from_slice(b"\r\n");

    if bodiless {
        out.write_all(&head)?;
        return Ok(keep_alive);
    }
    match body {
        Payload::Head(_) => out.write_all(&head)?,
        Payload::Bytes(bytes) => {
            head.extend_from_slice(&bytes);
            out.write_all(&head)?;
        }
        Payload::Stream { reader, length: Some(n) } => copy_exactly(out, head, reader, n)?,
        Payload::Stream { reader, length: None } => copy_pieces(out, &head, reader, chunked)?,
    }
    Ok(keep_alive)
}

fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

/// The first piece travels with the head: its bytes are on their way, since their number is known.
fn copy_exactly(
    mut out: impl Write,
    mut buffer: Vec<u8>,
    mut reader: Box<dyn Read + Send>,
    length: u64,
) -> io::Result<()> {
    let head = buffer.len();
    buffer.resize(head + STREAM_BUFFER.min(usize::try_from(length).unwrap_or(STREAM_BUFFER)), 0);
    let (mut left, mut start) = (length, head);
    loop {
        let n = if left == 0 { 0 } else { reader.read(&mut buffer[start..])? };
        if left > 0 && n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.write_all(&buffer[..start + n])?;
        left = left.checked_sub(n as u64).ok_or(io::ErrorKind::InvalidData)?;
        if left == 0 {
            // The reader learns that it has been read to its end: an upstream connection goes back to its pool.
            return match reader.read(&mut [0])? {
                0 => Ok(()),
                _ => Err(io::ErrorKind::InvalidData.into()),
            };
        }
        start = 0;
        buffer.resize(STREAM_BUFFER, 0);
    }
}

/// Writes each piece as it comes: an event stream must not wait for the next event.
fn copy_pieces(mut out: impl Write, head: &[u8], mut reader: Box<dyn Read + Send>, chunked: bool) -> io::Result<()> {
    out.write_all(head)?;
    // Room before and after the piece, so that a chunk is one write.
    const PREFIX: usize = 10;
    let mut buffer = vec![0; PREFIX + STREAM_BUFFER + 2];
    loop {
        let n = reader.read(&mut buffer[PREFIX..PREFIX + STREAM_BUFFER])?;
        if n == 0 {
            return if chunked { out.write_all(b"0\r\n\r\n") } else { Ok(()) };
        }
        if !chunked {
            out.write_all(&buffer[PREFIX..PREFIX + n])?;
            continue;
        }
        let size = format!("{n:x}\r\n");
        let start = PREFIX - size.len();
        buffer[start..PREFIX].copy_from_slice(size.as_bytes());
        buffer[PREFIX + n..PREFIX + n + 2].copy_from_slice(b"\r\n");
        out.write_all(&buffer[start..PREFIX + n + 2])?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(response: Response, head: bool, http11: bool) -> (String, bool) {
        let mut out = Vec::new();
        let keep = write(&mut out, response, Framing { head, http11, keep_alive: true }).unwrap();
        let text = String::from_utf8(out).unwrap();
        (text.lines().filter(|l| !l.starts_with("date:")).collect::<Vec<_>>().join("|"), keep)
    }

    fn stream(pieces: &'static str, length: Option<u64>) -> Response {
        let mut response = Response::new(StatusCode::OK);
        response.body = Payload::Stream { reader: Box::new(pieces.as_bytes()), length };
        response
    }

    #[test]
    fn framing_follows_body_method_and_version() {
        let text = || Response::text(StatusCode::OK, "hi");
        assert_eq!(
            written(text(), false, true),
            ("HTTP/1.1 200 OK|content-type: text/plain; charset=utf-8|content-length: 3||hi".into(), true)
        );
        assert_eq!(
            written(text(), true, true).0,
            "HTTP/1.1 200 OK|content-type: text/plain; charset=utf-8|content-length: 3|"
        );
        assert_eq!(written(Response::new(StatusCode::NO_CONTENT), false, true).0, "HTTP/1.1 204 No Content|");
        assert_eq!(
            written(Response::new(StatusCode::ACCEPTED), false, true).0,
            "HTTP/1.1 202 Accepted|content-length: 0|"
        );
        assert_eq!(written(stream("abc", None), false, true).0, "HTTP/1.1 200 OK|transfer-encoding: chunked||3|abc|0|");
        assert_eq!(
            written(stream("abc", None), false, false),
            ("HTTP/1.1 200 OK|connection: close||abc".into(), false)
        );
        assert_eq!(
            written(stream("abc", Some(3)), false, false).0,
            "HTTP/1.1 200 OK|content-length: 3|connection: keep-alive||abc"
        );
    }

    #[test]
    fn a_body_shorter_than_announced_is_an_error() {
        let framing = Framing { head: false, http11: true, keep_alive: true };
        assert!(write(Vec::new(), stream("abc", Some(4)), framing).is_err());
    }
}
