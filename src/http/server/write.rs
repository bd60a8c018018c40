//! Writes answers (RFC 9112 sections 4 and 7.1).

use std::io::{self, Read};
use std::time::SystemTime;

use http::header::{CONNECTION, CONTENT_LENGTH, DATE, TRANSFER_ENCODING};
use http::{HeaderValue, StatusCode};

use crate::http::response::{Payload, Response};
use crate::net::client_handle::ClientHandle;

/// Bytes per read from a streamed body, and so the largest piece that is passed on at once.
const STREAM_BUFFER: usize = 16 << 10;

/// What the connection decides about an answer.
pub(super) struct Framing {
    /// Answer to a HEAD request.
    pub head: bool,
    /// The client speaks HTTP/1.1.
    pub http11: bool,
    /// May the connection be kept open after this answer?
    pub keep_alive: bool,
}

/// An answer that is ready to be sent.
pub(super) struct Prepared {
    /// The head, with the body behind it where the body is in memory.
    pub(super) bytes: Vec<u8>,
    /// The rest of the body, if it must be streamed.
    pub(super) stream: Option<Stream>,
    /// May the connection carry another answer?
    pub(super) keep_alive: bool,
}

/// A body that is sent piece by piece while it is read.
pub(super) struct Stream {
    reader: Box<dyn Read + Send>,
    /// Its length, when known.
    pub(super) length: Option<u64>,
    chunked: bool,
}

/// Serializes `response` as the connection requires; a streamed body is left for [`Stream::copy`].
pub(super) fn prepare(response: Response, framing: Framing) -> Prepared {
    let Response { status, headers, body, .. } = response;
    let bodiless = framing.head || status.is_informational() || matches!(status.as_u16(), 204 | 304);
    let mut keep_alive = framing.keep_alive;
    let (length, chunked) = match &body {
        Payload::Bytes(bytes) => (Some(bytes.len() as u64), false),
        Payload::Head(length) => (*length, false),
        Payload::Stream { length: Some(n), .. } => (Some(*n), false),
        Payload::Stream { length: None, .. } => (None, framing.http11 && !bodiless),
    };
    if length.is_none() && !chunked && !bodiless {
        // HTTP/1.0 can mark the end of a body of unknown length only by closing the connection.
        keep_alive = false;
    }

    let in_memory = if let Payload::Bytes(bytes) = &body { bytes.len() } else { 0 };
    let mut head = Vec::with_capacity(512 + in_memory);
    head.extend_from_slice(b"HTTP/1.1 ");
    head.extend_from_slice(status.as_str().as_bytes());
    head.push(b' ');
    head.extend_from_slice(status.canonical_reason().unwrap_or("Status").as_bytes());
    head.extend_from_slice(b"\r\n");
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
        // RFC 9110 section 8.6: no Content-Length in 1xx and 204.
        Some(n) if !status.is_informational() && status != StatusCode::NO_CONTENT => {
            field(&mut head, "content-length", HeaderValue::from(n).as_bytes());
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

    let mut stream = None;
    match body {
        _ if bodiless => {}
        Payload::Head(_) => {}
        Payload::Bytes(bytes) => head.extend_from_slice(&bytes),
        Payload::Stream { reader, length } => stream = Some(Stream { reader, length, chunked }),
    }
    Prepared { bytes: head, stream, keep_alive }
}

fn field(head: &mut Vec<u8>, name: &str, value: &[u8]) {
    head.extend_from_slice(name.as_bytes());
    head.extend_from_slice(b": ");
    head.extend_from_slice(value);
    head.extend_from_slice(b"\r\n");
}

impl Stream {
    /// Sends the body to `client`. The reader flushes what is queued for the client before it waits for the next piece
    /// ([`Cancellation`](crate::net::cancellation::Cancellation)), so that an event is not held back until the next one
    /// comes.
    ///
    /// After an error the connection is closed before the end of the framing, so that the client can tell that the body
    /// is incomplete.
    pub(super) fn copy(self, client: &ClientHandle) -> io::Result<()> {
        let Stream { reader, length, chunked } = self;
        match length {
            Some(length) => copy_exactly(client, reader, length),
            None => copy_pieces(client, reader, chunked),
        }
    }
}

fn copy_exactly(client: &ClientHandle, mut reader: Box<dyn Read + Send>, length: u64) -> io::Result<()> {
    let (mut left, mut buffer) = (length, Vec::new());
    while left > 0 {
        buffer.resize(STREAM_BUFFER.min(usize::try_from(left).unwrap_or(STREAM_BUFFER)), 0);
        let n = reader.read(&mut buffer)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left = left.checked_sub(n as u64).ok_or(io::ErrorKind::InvalidData)?;
        buffer = client.put(buffer, 0..n)?;
    }
    client.flush()?;
    // One more read lets the reader see its end, so that an upstream connection goes back to its pool.
    match reader.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn copy_pieces(client: &ClientHandle, mut reader: Box<dyn Read + Send>, chunked: bool) -> io::Result<()> {
    // Leaves space for the framing of a chunk: its size line before the piece, CRLF after it.
    const PREFIX: usize = 10;
    let mut buffer = vec![0; PREFIX + STREAM_BUFFER + 2];
    loop {
        buffer.resize(PREFIX + STREAM_BUFFER + 2, 0);
        let n = reader.read(&mut buffer[PREFIX..PREFIX + STREAM_BUFFER])?;
        if !chunked && n > 0 {
            buffer = client.put(buffer, PREFIX..PREFIX + n)?;
        } else if n > 0 {
            let size = format!("{n:x}\r\n");
            let start = PREFIX - size.len();
            buffer[start..PREFIX].copy_from_slice(size.as_bytes());
            buffer[PREFIX + n..PREFIX + n + 2].copy_from_slice(b"\r\n");
            buffer = client.put(buffer, start..PREFIX + n + 2)?;
        } else if chunked {
            return client.put(b"0\r\n\r\n".to_vec(), 0..5).map(drop);
        } else {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::net::client_connection::ClientConnection;
    use crate::net::shutdown::Shutdown;

    /// What a client reads, and whether the connection may carry another answer.
    fn written(response: Response, head: bool, http11: bool) -> (String, bool) {
        let (text, keep) = sent(response, Framing { head, http11, keep_alive: true }).unwrap();
        (text.lines().filter(|l| !l.starts_with("date:")).collect::<Vec<_>>().join("|"), keep)
    }

    fn sent(response: Response, framing: Framing) -> io::Result<(String, bool)> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let mut client = TcpStream::connect(listener.local_addr()?)?;
        let connection = Arc::new(ClientConnection::plain(listener.accept()?.0));
        let served = ClientHandle::new(connection, Shutdown::new()?, Duration::from_secs(10));
        let Prepared { bytes, stream, keep_alive } = prepare(response, framing);
        let size = bytes.len();
        served.put(bytes, 0..size)?;
        let copied = stream.map_or(Ok(()), |stream| stream.copy(&served));
        served.flush()?;
        drop(served);
        copied?;
        let mut text = String::new();
        client.read_to_string(&mut text)?;
        Ok((text, keep_alive))
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
        assert!(sent(stream("abc", Some(4)), framing).is_err());
    }
}
