//! The request body: framing (RFC 9112 sections 6 and 7.1), limits and deadlines.

use std::io::{self, Read};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::head::Framing;

/// Slower than this on average, beyond the first pause that is allowed, is no client but a siege: bytes a second.
const SLOWEST: u64 = 1 << 10;

/// Bytes of chunk extensions and trailers that one body may carry; they mean nothing here.
const MAX_ORNAMENT: usize = 8 << 10;

/// Why a body could not be read; travels inside [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than the limit.
    TooLarge,
    /// A pause longer than the limit.
    Timeout,
    /// Bad chunk framing.
    Malformed,
    /// The connection ended first.
    Gone,
}

impl BodyError {
    /// The status that answers it.
    pub fn status(self) -> StatusCode {
        match self {
            BodyError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            BodyError::Timeout => StatusCode::REQUEST_TIMEOUT,
            BodyError::Malformed | BodyError::Gone => StatusCode::BAD_REQUEST,
        }
    }

    /// The body error inside `error`, if that is what it is.
    pub fn of(error: &io::Error) -> Option<BodyError> {
        error.get_ref()?.downcast_ref::<BodyError>().copied()
    }
}

impl std::fmt::Display for BodyError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            BodyError::TooLarge => "the request body is too large",
            BodyError::Timeout => "the request body did not arrive in time",
            BodyError::Malformed => "the chunked framing of the request body is malformed",
            BodyError::Gone => "the connection ended within the request body",
        })
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> io::Error {
        io::Error::other(error)
    }
}

/// A request body that a handler may read.
pub struct Body<'c> {
    reader: &'c mut dyn Read,
    framing: Framing,
}

impl<'c> Body<'c> {
    /// A body that `reader` delivers.
    pub fn new(reader: &'c mut dyn Read, framing: Framing) -> Body<'c> {
        Body { reader, framing }
    }

    /// How the client delimited it.
    pub fn framing(&self) -> Framing {
        self.framing
    }

    /// Reads all of it, or fails with [`BodyError::TooLarge`] past `limit` bytes.
    pub fn read_all(&mut self, limit: usize) -> io::Result<Vec<u8>> {
        if matches!(self.framing, Framing::Length(n) if n > limit as u64) {
            return Err(BodyError::TooLarge.into());
        }
        let mut out = Vec::new();
        (&mut *self.reader).take(limit as u64 + 1).read_to_end(&mut out)?;
        if out.len() > limit { Err(BodyError::TooLarge.into()) } else { Ok(out) }
    }
}

impl Read for Body<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.reader.read(buffer)
    }
}

/// Where a connection's bytes come from.
pub trait Source {
    /// Reads like [`Read::read`], waiting at most `wait`.
    fn read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize>;
}

/// A socket whose receive timeout is set only when it changes.
pub(super) struct SocketSource {
    socket: Arc<TcpStream>,
    timeout: Duration,
}

impl SocketSource {
    pub(super) fn new(socket: Arc<TcpStream>) -> SocketSource {
        SocketSource { socket, timeout: Duration::ZERO }
    }
}

impl Source for SocketSource {
    fn read(&mut self, buffer: &mut [u8], wait: Duration) -> io::Result<usize> {
        let wait = wait.max(Duration::from_millis(1));
        if wait != self.timeout {
            self.socket.set_read_timeout(Some(wait))?;
            self.timeout = wait;
        }
        loop {
            match (&*self.socket).read(buffer) {
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(io::ErrorKind::TimedOut.into()),
                other => return other,
            }
        }
    }
}

impl Source for &[u8] {
    fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
        Read::read(self, buffer)
    }
}

/// A source with the bytes that have been read from it and not yet been used.
pub struct Input<S> {
    source: S,
    buffer: Vec<u8>,
    start: usize,
}

impl<S: Source> Input<S> {
    /// Nothing read yet.
    pub fn new(source: S) -> Input<S> {
        Input { source, buffer: Vec::new(), start: 0 }
    }

    /// What has been read and not been consumed.
    pub fn buffered(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Drops the first `n` buffered bytes.
    pub fn consume(&mut self, n: usize) {
        self.start += n;
        if self.start == self.buffer.len() {
            self.buffer.clear();
            self.start = 0;
        }
    }

    /// Reads more into the buffer, up to `size` bytes in it altogether. 0 means the end of the connection.
    pub fn fill(&mut self, size: usize, wait: Duration) -> io::Result<usize> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let old = self.buffer.len();
        // Most heads fit the first step; a large one grows towards the limit.
        let target = size.min((old * 2).max(4 << 10));
        if target <= old {
            return Err(io::ErrorKind::OutOfMemory.into());
        }
        self.buffer.resize(target, 0);
        let result = self.source.read(&mut self.buffer[old..], wait);
        self.buffer.truncate(old + *result.as_ref().unwrap_or(&0));
        result
    }

    /// Gives the buffer's memory back while nothing is in it.
    pub fn release(&mut self) {
        if self.buffered().is_empty() {
            self.buffer = Vec::new();
            self.start = 0;
        }
    }

    /// Reads into `out`, from the buffer first.
    fn read(&mut self, out: &mut [u8], wait: Duration) -> io::Result<usize> {
        let ready = self.buffered();
        if ready.is_empty() {
            return self.source.read(out, wait);
        }
        let n = ready.len().min(out.len());
        out[..n].copy_from_slice(&ready[..n]);
        self.consume(n);
        Ok(n)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Inside a body or chunk: bytes left.
    Data(u64),
    /// Before a chunk's size line.
    Size,
    /// Behind a chunk's data.
    DataEnd,
    Done,
    Failed(BodyError),
}

/// Reads one body out of a connection's bytes and leaves what follows it.
pub struct Framed<'i, S> {
    input: &'i mut Input<S>,
    chunked: bool,
    state: State,
    /// Body bytes still allowed.
    allowance: u64,
    ornament: usize,
    wait: Duration,
    begun: Instant,
    received: u64,
    deadline: Option<Instant>,
    /// Told before the first read that has to wait: sends `100 Continue`.
    on_first_wait: Option<&'i mut dyn FnMut() -> io::Result<()>>,
}

impl<'i, S: Source> Framed<'i, S> {
    /// A reader for the body that `framing` announces, of at most `limit` bytes.
    pub fn new(input: &'i mut Input<S>, framing: Framing, limit: u64, wait: Duration) -> Framed<'i, S> {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) if n > limit => State::Failed(BodyError::TooLarge),
            Framing::Length(n) => State::Data(n),
            Framing::Chunked => State::Size,
        };
        let chunked = framing == Framing::Chunked;
        Framed {
            input,
            chunked,
            state,
            allowance: limit,
            ornament: 0,
            wait,
            begun: Instant::now(),
            received: 0,
            deadline: None,
            on_first_wait: None,
        }
    }

    pub(super) fn on_first_wait(&mut self, action: &'i mut dyn FnMut() -> io::Result<()>) {
        self.on_first_wait = Some(action);
    }

    /// True when the whole body has been read, so that the connection stands at the next request.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes still to come, where the framing tells.
    pub(super) fn left(&self) -> Option<u64> {
        match self.state {
            State::Data(left) if !self.chunked => Some(left),
            _ => None,
        }
    }

    /// From here on, the body has to end by `deadline`.
    pub(super) fn finish_by(&mut self, deadline: Instant) {
        self.deadline = Some(deadline);
    }

    /// How long the next read may wait.
    fn patience(&self) -> io::Result<Duration> {
        let slowest = self.begun + self.wait + Duration::from_secs(self.received / SLOWEST);
        let end = self.deadline.map_or(slowest, |d| d.min(slowest));
        let left = end.saturating_duration_since(Instant::now()).min(self.wait);
        if left.is_zero() { Err(BodyError::Timeout.into()) } else { Ok(left) }
    }

    fn step(&mut self, out: &mut [u8]) -> io::Result<Option<usize>> {
        match self.state {
            State::Done => Ok(Some(0)),
            State::Failed(error) => Err(error.into()),
            State::Data(left) => {
                let most = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
                self.before_wait()?;
                let wait = self.patience()?;
                let n = self.input.read(&mut out[..most], wait).map_err(timeout)?;
                if n == 0 {
                    return Err(BodyError::Gone.into());
                }
                self.received += n as u64;
                self.state = match left - n as u64 {
                    0 if self.chunked => State::DataEnd,
                    0 => State::Done,
                    left => State::Data(left),
                };
                Ok(Some(n))
            }
            State::DataEnd => {
                if !self.line()?.is_empty() {
                    return Err(BodyError::Malformed.into());
                }
                self.state = State::Size;
                Ok(None)
            }
            State::Size => {
                let size = chunk_size(&self.line()?)?;
                if size > self.allowance {
                    return Err(BodyError::TooLarge.into());
                }
                self.allowance -= size;
                if size == 0 {
                    // RFC 9112 section 7.1.2: trailers, which nothing here uses, up to an empty line.
                    while !self.line()?.is_empty() {}
                    self.state = State::Done;
                } else {
                    self.state = State::Data(size);
                }
                Ok(None)
            }
        }
    }

    /// A framing line without its CRLF.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let ready = self.input.buffered();
            let end = ready.iter().position(|b| *b == b'\n');
            let n = end.map_or(ready.len(), |i| i + 1);
            self.ornament += n;
            if self.ornament > MAX_ORNAMENT + 16 {
                return Err(BodyError::Malformed.into());
            }
            line.extend_from_slice(&ready[..n]);
            self.input.consume(n);
            if end.is_some() {
                break;
            }
            self.before_wait()?;
            let wait = self.patience()?;
            if self.input.fill(4 << 10, wait).map_err(timeout)? == 0 {
                return Err(BodyError::Gone.into());
            }
        }
        line.pop();
        if line.pop() != Some(b'\r') || line.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
            return Err(BodyError::Malformed.into());
        }
        // A plain size line or empty line is no ornament, however many of them a body has.
        self.ornament -= line.len().min(16) + 2;
        Ok(line)
    }

    fn before_wait(&mut self) -> io::Result<()> {
        if self.input.buffered().is_empty()
            && let Some(action) = self.on_first_wait.take()
        {
            action()?;
        }
        Ok(())
    }
}

impl<S: Source> Read for Framed<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        loop {
            match self.step(out) {
                Ok(Some(n)) => return Ok(n),
                Ok(None) => {}
                Err(e) => {
                    self.state = State::Failed(BodyError::of(&e).unwrap_or(BodyError::Gone));
                    return Err(e);
                }
            }
        }
    }
}

fn timeout(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::TimedOut => BodyError::Timeout.into(),
        _ => BodyError::Gone.into(),
    }
}

/// RFC 9112 section 7.1: hexadecimal digits, then perhaps extensions.
fn chunk_size(line: &[u8]) -> Result<u64, BodyError> {
    let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (digits, rest) = line.split_at(end);
    let extension = match rest.iter().find(|b| !matches!(b, b' ' | b'\t')) {
        None => rest.is_empty(),
        Some(b) => *b == b';',
    };
    if digits.is_empty() || digits.len() > 15 || !extension {
        return Err(BodyError::Malformed);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| BodyError::Malformed)?;
    u64::from_str_radix(digits, 16).map_err(|_| BodyError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], framing: Framing, limit: u64) -> (Result<Vec<u8>, BodyError>, Vec<u8>) {
        let mut input = Input::new(bytes);
        let mut framed = Framed::new(&mut input, framing, limit, Duration::from_secs(1));
        let mut out = Vec::new();
        let result = framed.read_to_end(&mut out).map(|_| out).map_err(|e| BodyError::of(&e).expect("typed"));
        let mut rest = input.buffered().to_vec();
        rest.extend_from_slice(input.source);
        (result, rest)
    }

    #[test]
    fn bodies_end_where_the_framing_says() {
        assert_eq!(read(b"helloGET", Framing::Length(5), 10), (Ok(b"hello".to_vec()), b"GET".to_vec()));
        assert_eq!(read(b"GET", Framing::None, 10), (Ok(vec![]), b"GET".to_vec()));
        let chunks = b"5\r\nhello\r\n1;a=b\r\n!\r\n0\r\nTrailer: x\r\n\r\nGET";
        assert_eq!(read(chunks, Framing::Chunked, 10), (Ok(b"hello!".to_vec()), b"GET".to_vec()));
    }

    #[test]
    fn bad_chunks_are_refused() {
        for bytes in [
            &b"\r\n"[..],
            b"g\r\n",
            b"-1\r\n",
            b"+1\r\n",
            b"0x1\r\n",
            b" 1\r\n",
            b"1 \r\n",
            b"1\n",
            b"1\rx\r\n",
            b"1\r\nab\r\n0\r\n\r\n",
            b"1\r\na0\r\n\r\n",
            b"1\r\na\n0\r\n\r\n",
            b"1;a\0\r\n",
            b"10000000000000000\r\n",
            b"0\r\nX\n\r\n",
            b"1 x\r\n",
        ] {
            let text = String::from_utf8_lossy(bytes);
            assert_eq!(read(bytes, Framing::Chunked, 1 << 40).0, Err(BodyError::Malformed), "{text:?}");
        }
        let endless = [b"1;".to_vec(), vec![b'x'; 20_000]].concat();
        assert_eq!(read(&endless, Framing::Chunked, 10).0, Err(BodyError::Malformed));
        let trailers = [b"0\r\n".to_vec(), b"A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n".repeat(1_000)].concat();
        assert_eq!(read(&trailers, Framing::Chunked, 10).0, Err(BodyError::Malformed));
    }

    #[test]
    fn limits_and_truncation_are_told_apart() {
        assert_eq!(read(b"hello", Framing::Length(5), 4).0, Err(BodyError::TooLarge));
        assert_eq!(read(b"3\r\nabc\r\n2\r\nde\r\n", Framing::Chunked, 4).0, Err(BodyError::TooLarge));
        assert_eq!(read(b"hel", Framing::Length(5), 9).0, Err(BodyError::Gone));
        assert_eq!(read(b"5\r\nhel", Framing::Chunked, 9).0, Err(BodyError::Gone));
    }

    #[test]
    fn ten_thousand_plain_chunks_are_no_ornament() {
        let bytes = [b"1\r\na\r\n".repeat(10_000), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(read(&bytes, Framing::Chunked, 20_000).0.unwrap().len(), 10_000);
    }
}
