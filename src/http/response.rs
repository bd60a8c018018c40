//! The answer that a handler returns.

use std::borrow::Cow;
use std::io::{self, Read};

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

    /// Sets a header field whose value is fixed or has been checked. A value that is not allowed in a field is ignored.
    pub fn with(mut self, name: HeaderName, value: impl TryInto<HeaderValue>) -> Response {
        if let Ok(value) = value.try_into() {
            self.headers.insert(name, value);
        }
        self
    }
}
