//! The answer that a handler returns.

use std::borrow::Cow;
use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};

/// What a handler answers.
pub struct Response {
    /// Status.
    pub status: StatusCode,
    /// Header fields, without those of the framing, which the server writes itself.
    pub headers: HeaderMap,
    /// Body.
    pub body: Payload,
    /// Learns when the answer has ended.
    pub on_end: Option<Box<dyn OnEnd>>,
}

/// Whoever wants to know when an answer has ended.
pub trait OnEnd: Send {
    /// The answer has ended: all of it was given to the connection, or the connection has broken.
    fn ended(self: Box<Self>, end: End);
}

/// How an answer has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// Bytes of its body, without framing.
    pub body: u64,
    /// Was it sent as a whole?
    pub is_whole: bool,
}

/// An answer that is being sent. Tells whoever wants to know when it is dropped.
pub(super) struct UnderWay {
    on_end: Option<Box<dyn OnEnd>>,
    body: Arc<AtomicU64>,
    is_whole: bool,
}

impl UnderWay {
    /// The answer was sent as a whole.
    pub(super) fn complete(mut self) {
        self.is_whole = true;
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        if let Some(on_end) = self.on_end.take() {
            on_end.ended(End { body: self.body.load(Ordering::Relaxed), is_whole: self.is_whole });
        }
    }
}

struct Counted {
    reader: Box<dyn Read + Send>,
    count: Arc<AtomicU64>,
}

impl Read for Counted {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.reader.read(buffer)?;
        self.count.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

/// The body of an answer.
pub enum Payload {
    /// In memory.
    Bytes(Cow<'static, [u8]>),
    /// Read and sent in pieces; each piece is sent before the reader waits for the next one.
    Stream {
        /// Delivers the pieces.
        reader: Box<dyn Read + Send>,
        /// Its length, when known.
        length: Option<u64>,
    },
    /// No body, although a GET would have returned one of this length: the answer to HEAD, or a 304.
    Head(Option<u64>),
}

/// A reader that keeps something until it is dropped, for example the place of its request among others.
struct Guarded<G> {
    reader: Box<dyn Read + Send>,
    _guard: G,
}

impl<G> Read for Guarded<G> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

impl Payload {
    /// Keeps `guard` until a streamed body has been sent or given up; drops it at once for other bodies.
    pub fn with_guard(self, guard: impl Send + 'static) -> Payload {
        match self {
            Payload::Stream { reader, length } => {
                Payload::Stream { reader: Box::new(Guarded { reader, _guard: guard }), length }
            }
            other => other,
        }
    }
}

impl Response {
    /// An empty answer.
    pub fn new(status: StatusCode) -> Response {
        Response { status, headers: HeaderMap::new(), body: Payload::Bytes(Cow::Borrowed(b"")), on_end: None }
    }

    /// Takes out whoever wants to know when the answer has ended, and counts its body from now on. The answer to a HEAD
    /// request has none.
    pub(super) fn under_way(&mut self, to_head: bool) -> Option<UnderWay> {
        let on_end = self.on_end.take()?;
        let count = Arc::new(AtomicU64::new(0));
        self.body = match std::mem::replace(&mut self.body, Payload::Head(None)) {
            Payload::Bytes(bytes) => {
                count.store(if to_head { 0 } else { bytes.len() as u64 }, Ordering::Relaxed);
                Payload::Bytes(bytes)
            }
            Payload::Stream { reader, length } => {
                Payload::Stream { reader: Box::new(Counted { reader, count: count.clone() }), length }
            }
            head => head,
        };
        Some(UnderWay { on_end: Some(on_end), body: count, is_whole: false })
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

    /// Sets a header field whose value is fixed or has been checked. A value that is not allowed in a field is ignored.
    pub fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Response {
        if let Ok(value) = value.try_into() {
            self.headers.insert(name, value);
        }
        self
    }
}
