//! The framing of bodies (RFC 9112 sections 6 and 7.1), with its limits and deadlines.

use std::io::{self, Read};
use std::mem::take;
use std::time::{Duration, Instant};

use http::StatusCode;

use super::head::Framing;
use super::input::{FOREVER, Input, STEP, Source, append_what_comes};

/// Lowest average rate of a request body, in bytes per second, after one pause of the allowed length. A slower client
/// is treated as an attack.
const SLOWEST: u64 = 1 << 10;

/// Most bytes of chunk extensions and trailers in one request body; they are ignored here.
const MAX_ORNAMENT: usize = 8 << 10;
/// Most bytes of one framing line of an answer, and of all its trailers. These limits are more generous, because some
/// servers pad each chunk size or sign each chunk.
const MAX_LINE: usize = 8 << 10;
const MAX_TRAILERS: usize = 64 << 10;

/// Why a body could not be read; travels inside [`io::Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyError {
    /// More bytes than the limit.
    TooLarge,
    /// A pause longer than the limit.
    Timeout,
    /// Bad chunk framing.
    Malformed,
    /// The connection ended before the end of the body.
    Gone,
}

impl BodyError {
    /// The status of the answer to this error.
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
            BodyError::Malformed => "the chunked framing of the body is malformed",
            BodyError::Gone => "the connection ended within the body",
        })
    }
}

impl std::error::Error for BodyError {}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> io::Error {
        io::Error::other(error)
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Inside a body or chunk: bytes left.
    Data(u64),
    /// Before a chunk's size line.
    Size,
    /// After the data of a chunk, before its CRLF.
    DataEnd,
    /// After the size line of the last chunk.
    Trailers,
    Done,
    Failed(BodyError),
}

/// How far a body has been read, and whether it comes fast enough. It has no reference to the connection, so that it
/// can be stored between reads.
#[derive(Debug)]
pub struct Progress {
    chunked: bool,
    state: State,
    /// Body bytes still allowed.
    allowance: u64,
    ornament: usize,
    /// The body belongs to an answer of a server that is trusted: each framing line is limited in size, but not all
    /// chunk lines together.
    is_answer: bool,
    /// The beginning of a framing line that has not fully arrived.
    line: Vec<u8>,
    wait: Duration,
    begun: Instant,
    received: u64,
}

impl Progress {
    /// The start of the body that `framing` announces: of at most `limit` bytes, with no pause longer than `wait`.
    pub fn new(framing: Framing, limit: u64, wait: Duration) -> Progress {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(n) if n > limit => State::Failed(BodyError::TooLarge),
            Framing::Length(n) => State::Data(n),
            Framing::Chunked => State::Size,
        };
        let chunked = framing == Framing::Chunked;
        Progress {
            chunked,
            state,
            allowance: limit,
            ornament: 0,
            is_answer: false,
            line: Vec::new(),
            wait,
            begun: Instant::now(),
            received: 0,
        }
    }

    /// The start of an answer's body, without limits on its size and time.
    pub fn of_answer(framing: Framing) -> Progress {
        Progress { is_answer: true, ..Progress::new(framing, u64::MAX, FOREVER) }
    }

    /// True when the whole body has been read, so that the connection stands at the next request.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Body bytes that are left, if the body has a Content-Length.
    pub(in crate::http) fn left(&self) -> Option<u64> {
        match self.state {
            State::Data(left) if !self.chunked => Some(left),
            _ => None,
        }
    }

    /// The deadline for the next bytes.
    pub(in crate::http) fn deadline(&self) -> Instant {
        let slowest = self.begun + self.wait + Duration::from_secs(self.received / SLOWEST);
        slowest.min(Instant::now() + self.wait)
    }
}

/// Reads one body out of a connection's bytes and leaves what follows it.
pub struct Framed<'i, S> {
    input: &'i mut Input<S>,
    progress: &'i mut Progress,
    waits: bool,
}

impl<'i, S: Source> Framed<'i, S> {
    /// A reader that continues at `progress` and waits for more bytes if necessary.
    pub fn new(input: &'i mut Input<S>, progress: &'i mut Progress) -> Framed<'i, S> {
        Framed { input, progress, waits: true }
    }

    /// A reader that returns only what has arrived, then `WouldBlock`.
    pub(in crate::http) fn of_what_is_there(input: &'i mut Input<S>, progress: &'i mut Progress) -> Framed<'i, S> {
        Framed { input, progress, waits: false }
    }

    /// How long the next read may wait.
    fn patience(&self) -> io::Result<Duration> {
        let left = self.progress.deadline().saturating_duration_since(Instant::now());
        match (left.is_zero(), self.waits) {
            (true, _) => Err(BodyError::Timeout.into()),
            (false, true) => Ok(left),
            (false, false) => Ok(Duration::ZERO),
        }
    }

    /// Appends up to `room` bytes of the body to `out`; 0 means its end.
    pub fn append(&mut self, out: &mut Vec<u8>, room: usize) -> io::Result<usize> {
        self.reach_data()?;
        let State::Data(left) = self.progress.state else { return Ok(0) };
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(room);
        append_what_comes(out, room, |free| self.read_data(free))
    }

    /// Reads framing, up to the next data or the end.
    fn reach_data(&mut self) -> io::Result<()> {
        while !matches!(self.progress.state, State::Data(_) | State::Done) {
            self.read_framing().map_err(|e| self.failed(e))?;
        }
        Ok(())
    }

    /// Reads from the data at which `progress` stands.
    fn read_data(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let State::Data(left) = self.progress.state else { return Ok(0) };
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(out.len());
        let read = self.patience().and_then(|wait| self.input.read(&mut out[..room], wait).map_err(typed));
        let n = match read {
            Ok(0) => return Err(self.failed(BodyError::Gone.into())),
            Ok(n) => n,
            Err(e) => return Err(self.failed(e)),
        };
        self.progress.received += n as u64;
        self.progress.state = match left - n as u64 {
            0 if self.progress.chunked => State::DataEnd,
            0 => State::Done,
            left => State::Data(left),
        };
        Ok(n)
    }

    /// Stores `error` as the final state, unless it is `WouldBlock`.
    fn failed(&mut self, error: io::Error) -> io::Error {
        if error.kind() != io::ErrorKind::WouldBlock {
            self.progress.state = State::Failed(BodyError::of(&error).unwrap_or(BodyError::Gone));
        }
        error
    }

    fn read_framing(&mut self) -> io::Result<()> {
        match self.progress.state {
            State::Done | State::Data(_) => {}
            State::Failed(error) => return Err(error.into()),
            State::DataEnd => {
                if !self.line()?.is_empty() {
                    return Err(BodyError::Malformed.into());
                }
                self.progress.state = State::Size;
            }
            State::Size => {
                let size = chunk_size(&self.line()?, self.progress.is_answer)?;
                if size > self.progress.allowance {
                    return Err(BodyError::TooLarge.into());
                }
                self.progress.allowance -= size;
                self.progress.state = if size == 0 { State::Trailers } else { State::Data(size) };
            }
            State::Trailers => {
                // RFC 9112 section 7.1.2: trailer fields up to an empty line. They are ignored.
                if self.line()?.is_empty() {
                    self.progress.state = State::Done;
                }
            }
        }
        Ok(())
    }

    /// A framing line without its CRLF.
    fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            let ready = self.input.buffered();
            let end = ready.iter().position(|b| *b == b'\n');
            let n = end.map_or(ready.len(), |i| i + 1);
            self.progress.ornament += n;
            let most = match (self.progress.is_answer, self.progress.state) {
                (false, _) => MAX_ORNAMENT,
                (true, State::Trailers) => MAX_TRAILERS,
                (true, _) => MAX_LINE,
            };
            if self.progress.ornament > most + 16 {
                return Err(BodyError::Malformed.into());
            }
            self.progress.line.extend_from_slice(&ready[..n]);
            self.input.consume(n);
            if end.is_some() {
                break;
            }
            let wait = self.patience()?;
            if self.input.fill(STEP, wait).map_err(typed)? == 0 {
                return Err(BodyError::Gone.into());
            }
        }
        let mut line = take(&mut self.progress.line);
        line.pop();
        if line.pop() != Some(b'\r') || line.iter().any(|b| matches!(b, 0..=8 | 10..=31 | 127)) {
            return Err(BodyError::Malformed.into());
        }
        if self.progress.is_answer && self.progress.state != State::Trailers {
            self.progress.ornament = 0;
        } else if self.progress.state != State::Trailers {
            // A plain size line or empty line does not count, however many of them a body has.
            self.progress.ornament -= line.len().min(16) + 2;
        }
        Ok(line)
    }
}

impl<S: Source> Framed<'_, S> {
    /// Reads what has arrived, without blocking; `WouldBlock` if nothing has.
    pub(in crate::http) fn read_now(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.waits = false;
        let result = self.read(out);
        self.waits = true;
        result
    }

    /// The deadline for the next bytes.
    pub(in crate::http) fn deadline(&self) -> Instant {
        self.progress.deadline()
    }

    /// Has all of it been read?
    pub(in crate::http) fn is_done(&self) -> bool {
        self.progress.is_done()
    }
}

impl<S: Source> Read for Framed<'_, S> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if out.is_empty() {
            return Ok(0);
        }
        self.reach_data()?;
        self.read_data(out)
    }
}

fn typed(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => error,
        // The error already carries its reason.
        _ if error.get_ref().is_some() => error,
        io::ErrorKind::TimedOut => BodyError::Timeout.into(),
        _ => BodyError::Gone.into(),
    }
}

/// RFC 9112 section 7.1: hexadecimal digits, then optionally extensions. With `may_be_padded`, any number of leading
/// zeros and trailing blanks is allowed, because some servers pad sizes to a fixed width.
fn chunk_size(line: &[u8], may_be_padded: bool) -> Result<u64, BodyError> {
    let end = line.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(line.len());
    let (mut digits, rest) = line.split_at(end);
    let extension = match rest.iter().find(|b| !matches!(b, b' ' | b'\t')) {
        None => rest.is_empty() || may_be_padded,
        Some(b) => *b == b';',
    };
    if may_be_padded {
        let zeros = digits.iter().take_while(|b| **b == b'0').count();
        digits = &digits[zeros.min(digits.len().saturating_sub(1))..];
    }
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
        let mut progress = Progress::new(framing, limit, Duration::from_secs(1));
        let mut framed = Framed::new(&mut input, &mut progress);
        let mut out = Vec::new();
        let result = framed.read_to_end(&mut out).map(|_| out).map_err(|e| BodyError::of(&e).expect("typed"));
        let mut rest = input.buffered().to_vec();
        rest.extend_from_slice(input.source_mut());
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
        for trailer in [&b"A: bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb\r\n"[..], b"A: b\r\n"] {
            let trailers = [b"0\r\n".to_vec(), trailer.repeat(2_000)].concat();
            assert_eq!(read(&trailers, Framing::Chunked, 10).0, Err(BodyError::Malformed));
        }
    }

    #[test]
    fn limits_and_truncation_are_told_apart() {
        assert_eq!(read(b"hello", Framing::Length(5), 4).0, Err(BodyError::TooLarge));
        assert_eq!(read(b"3\r\nabc\r\n2\r\nde\r\n", Framing::Chunked, 4).0, Err(BodyError::TooLarge));
        assert_eq!(read(b"hel", Framing::Length(5), 9).0, Err(BodyError::Gone));
        assert_eq!(read(b"5\r\nhel", Framing::Chunked, 9).0, Err(BodyError::Gone));
    }

    fn read_answer(bytes: &[u8]) -> Result<Vec<u8>, BodyError> {
        let (mut input, mut progress, mut out) = (Input::new(bytes), Progress::of_answer(Framing::Chunked), Vec::new());
        let read = Framed::new(&mut input, &mut progress).read_to_end(&mut out);
        read.map(|_| out).map_err(|e| BodyError::of(&e).expect("typed"))
    }

    #[test]
    fn an_answer_may_pad_and_sign_each_of_its_chunks() {
        let signed = format!("1;signature={}\r\na\r\n", "f".repeat(600)).into_bytes();
        assert_eq!(read_answer(&[signed.repeat(5_000), b"0\r\n\r\n".to_vec()].concat()).unwrap().len(), 5_000);
        let padded = b"00000000000000000000005\r\nhello\r\n1     \r\n!\r\n000000000000000000\r\n\r\n";
        assert_eq!(read_answer(padded), Ok(b"hello!".to_vec()));
        // A line without an end, and too many trailers, are refused.
        let endless = [b"1;".to_vec(), vec![b'x'; 20_000]].concat();
        assert_eq!(read_answer(&endless), Err(BodyError::Malformed));
        let trailers = [b"0\r\n".to_vec(), b"A: b\r\n".repeat(20_000)].concat();
        assert_eq!(read_answer(&trailers), Err(BodyError::Malformed));
        for broken in [&b"0000000000000000g\r\n"[..], b" 5\r\nhello\r\n", b"5 x\r\nhello\r\n", b"\r\n"] {
            assert_eq!(read_answer(broken), Err(BodyError::Malformed));
        }
    }

    /// A source that delivers bytes one at a time, and then `WouldBlock`.
    struct Trickle(usize);

    impl Source for Trickle {
        fn read(&mut self, buffer: &mut [u8], _: Duration) -> io::Result<usize> {
            self.0 = self.0.checked_sub(1).ok_or(io::ErrorKind::WouldBlock)?;
            buffer[0] = b'x';
            Ok(1)
        }
    }

    #[test]
    fn what_is_kept_of_a_body_is_what_has_come_of_it() {
        for framing in [Framing::Length(64 << 10), Framing::Length(u64::MAX)] {
            let (mut input, mut held) = (Input::new(Trickle(100)), Vec::new());
            let mut progress = Progress::new(framing, u64::MAX, Duration::from_secs(1));
            let mut framed = Framed::of_what_is_there(&mut input, &mut progress);
            while framed.append(&mut held, 64 << 10).is_ok() {}
            assert!(held.len() == 100 && held.capacity() < 512, "{}", held.capacity());
        }
    }

    #[test]
    fn ten_thousand_plain_chunks_are_no_ornament() {
        let bytes = [b"1\r\na\r\n".repeat(10_000), b"0\r\n\r\n".to_vec()].concat();
        assert_eq!(read(&bytes, Framing::Chunked, 20_000).0.unwrap().len(), 10_000);
    }
}
