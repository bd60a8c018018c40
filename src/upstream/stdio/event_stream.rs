//! Event streams: queues of server-sent events for a client, which can also read missed events again.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use http::{HeaderName, HeaderValue, StatusCode};
use serde_json::value::RawValue;

use super::waiting::wait_for;
use crate::encoding::base64url;
use crate::http::{Payload, Response};
use crate::lock::Unpoisoned;
use crate::mcp::message::Id;
use crate::net::cancellation::{Cancellation, Cancelled};
use crate::net::client_handle::ClientHandle;
use crate::wake::Waker;

/// How often a comment is sent, so that middleboxes do not close a silent stream.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// Bytes counted for each event in addition to its data.
const OVERHEAD: usize = 64;
const COMMENT: &[u8] = b": \n\n";
/// How long a client is to wait before it reconnects, in milliseconds.
const RETRY_AFTER: u32 = 1_000;

/// Longest request id, in bytes, that is included in event ids.
const MAX_ECHOED_ID: usize = 96;

/// The name of a request's stream, which is the prefix of its event ids. It includes the request id, so that the client
/// can still be told which request's answer was lost.
pub fn stream_name(epoch: &str, number: u64, raw_id: Option<&str>) -> String {
    let echo = raw_id.filter(|id| id.len() <= MAX_ECHOED_ID).map(base64url).unwrap_or_default();
    format!("{epoch}.{number}.{echo}")
}

/// The stream that an event id belongs to, and the event's number.
pub fn split_event_id(id: &str) -> (&str, Option<u64>) {
    let (name, number) = id.rsplit_once('.').unwrap_or_default();
    (name, number.parse().ok())
}

/// The request id, as it was written, in the `name` of a stream that does not exist any more.
pub fn lost_request(name: &str) -> Option<String> {
    let echo = name.rsplit('.').next().filter(|e| !e.is_empty() && name.matches('.').count() == 2)?;
    let id: Box<RawValue> = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(echo).ok()?).ok()?;
    Id::of(&id).map(|_| id.get().to_string())
}

/// A stream of events that outlives the connections it is read through.
pub struct EventStream {
    /// Prefix of the event ids. Without it, events have no ids and are not kept after they have been read.
    name: Option<String>,
    /// The stream has no end of its own, so it is cut as soon as the process is told to stop.
    is_endless: bool,
    /// Bytes held by all streams that share this counter.
    held: Arc<AtomicUsize>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    events: VecDeque<Arc<Vec<u8>>>,
    /// Number of the first of `events`; numbers begin with 1, after the priming event.
    first: u64,
    /// Number of the next event to be read.
    next: u64,
    is_finished: bool,
    /// Number of the newest reader; older readers get [`Piece::End`].
    reader: u64,
    /// Wakes the reader when there is something to read; `None` when no client reads.
    waker: Option<Arc<Waker>>,
}

impl State {
    fn end(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    fn wake(&self) {
        if let Some(waker) = &self.waker {
            waker.wake();
        }
    }
}

/// What a reader gets next.
enum Piece {
    Event(u64, Arc<Vec<u8>>),
    Nothing,
    End,
}

impl EventStream {
    /// An empty stream. With a `name`, it keeps events that have been read, for clients that reconnect. With
    /// `is_endless`, it is cut when the process is told to stop. Its bytes are added to `held`.
    pub fn new(name: Option<String>, is_endless: bool, held: Arc<AtomicUsize>) -> Arc<EventStream> {
        let state = Mutex::new(State { first: 1, next: 1, ..State::default() });
        Arc::new(EventStream { name, is_endless, held, state })
    }

    /// Adds an event; `data` must have no line end.
    pub fn push(&self, data: Vec<u8>) {
        self.held.fetch_add(data.len() + OVERHEAD, Ordering::Relaxed);
        let mut state = self.state();
        state.events.push_back(Arc::new(data));
        state.wake();
    }

    /// Marks the end: no event follows.
    pub fn finish(&self) {
        let mut state = self.state();
        state.is_finished = true;
        state.wake();
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.state().is_finished
    }

    /// Does a client read it?
    pub(crate) fn is_connected(&self) -> bool {
        self.state().waker.is_some()
    }

    /// Have all events so far been read?
    pub(crate) fn is_read(&self) -> bool {
        let state = self.state();
        state.next == state.end()
    }

    /// Drops the events that have been read and, with `everything`, the unread ones too.
    pub fn forget(&self, everything: bool) {
        let mut state = self.state();
        let keep = if everything { 0 } else { (state.end() - state.next) as usize };
        let gone = state.events.len() - keep;
        let bytes: usize = state.events.drain(..gone).map(|e| e.len() + OVERHEAD).sum();
        state.first += gone as u64;
        state.next = state.next.max(state.first);
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// A reader that starts behind the event `after`, or where the previous reader stopped. It replaces the previous
    /// reader. With `priming`, the stream begins with an event without data, so that the client knows an event id from
    /// the start.
    pub fn read(self: &Arc<Self>, after: Option<u64>, priming: bool) -> io::Result<Reader> {
        let waker = Arc::new(Waker::new()?);
        let mut state = self.state();
        state.wake();
        state.reader += 1;
        if let Some(after) = after {
            state.next = after.saturating_add(1).clamp(state.first, state.end());
        }
        state.waker = Some(waker.clone());
        waker.wake();
        let (reader, next) = (state.reader, state.next);
        drop(state);
        let mut reader = Reader {
            stream: self.clone(),
            number: reader,
            waker,
            head: Vec::new(),
            data: None,
            tail: &[],
            at: 0,
            is_cut: false,
            on_disconnect: None,
            cancellation: Cancellation::none(),
        };
        if let (true, Some(name)) = (priming, &self.name) {
            reader.head = format!("id: {name}.{}\nretry: {RETRY_AFTER}\ndata: \n\n", next - 1).into_bytes();
        }
        Ok(reader)
    }

    fn take(&self, reader: u64) -> Piece {
        let mut state = self.state();
        if state.reader != reader {
            return Piece::End;
        }
        let index = (state.next - state.first) as usize;
        let Some(data) = state.events.get(index).cloned() else {
            return if state.is_finished { Piece::End } else { Piece::Nothing };
        };
        let number = state.next;
        state.next += 1;
        if self.name.is_none() {
            state.events.pop_front();
            state.first += 1;
            self.held.fetch_sub(data.len() + OVERHEAD, Ordering::Relaxed);
        }
        Piece::Event(number, data)
    }

    fn leave(&self, reader: u64) {
        let mut state = self.state();
        if state.reader == reader {
            state.waker = None;
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

impl Drop for EventStream {
    fn drop(&mut self) {
        let bytes: usize = self.state().events.iter().map(|e| e.len() + OVERHEAD).sum();
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Called when the reader is dropped; the argument says whether the stream was finished and completely read.
pub(crate) type OnDisconnect = Box<dyn FnOnce(bool) + Send>;

/// Sends an event stream to a client, as the body of a response.
pub struct Reader {
    stream: Arc<EventStream>,
    number: u64,
    waker: Arc<Waker>,
    /// The piece being sent: `head`, then `data`, then `tail`. The first `at` bytes of it have been sent.
    head: Vec<u8>,
    data: Option<Arc<Vec<u8>>>,
    tail: &'static [u8],
    at: usize,
    /// The process is stopping; the stream ends after the current piece.
    is_cut: bool,
    on_disconnect: Option<OnDisconnect>,
    /// Ends waits early; set once the reader has a client.
    cancellation: Cancellation,
}

impl Reader {
    /// Calls `then` when the client has disconnected or the stream is over: `sse` ends the session then, `modern` cancels the
    /// request. Without it, as with `streamable`, the events stay for a client that comes back.
    pub(crate) fn on_disconnect(mut self, then: OnDisconnect) -> Reader {
        self.on_disconnect = Some(then);
        self
    }

    /// Sends an event of the transport itself before all others.
    pub(crate) fn announce(&mut self, event: &str, data: &str) {
        self.head = format!("event: {event}\ndata: {data}\n\n").into_bytes();
    }

    /// The response with this stream as its body.
    pub(crate) fn into_response(mut self, client: &ClientHandle) -> Response {
        self.cancellation = match self.stream.is_endless {
            true => Cancellation::of_stream(client),
            false => Cancellation::of_request(client),
        };
        const X_ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");
        let mut response = Response::new(StatusCode::OK)
            .with(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"))
            .with(CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform"))
            .with(X_ACCEL_BUFFERING, HeaderValue::from_static("no"));
        response.body = Payload::Stream { reader: Box::new(self), length: None };
        response
    }

    /// The next unsent bytes of the current piece; empty when all of it has been sent.
    fn piece(&self) -> &[u8] {
        let data: &[u8] = self.data.as_ref().map_or(&[], |d| d);
        let mut at = self.at;
        for part in [&self.head, data, self.tail] {
            match part.get(at..) {
                Some([]) | None => at -= part.len(),
                Some(rest) => return rest,
            }
        }
        &[]
    }

    fn begin(&mut self, head: Vec<u8>, data: Option<Arc<Vec<u8>>>, tail: &'static [u8]) {
        (self.head, self.data, self.tail, self.at) = (head, data, tail, 0);
    }

    fn begin_event(&mut self, number: u64, data: Arc<Vec<u8>>) {
        let id = self.stream.name.as_ref().map(|name| format!("id: {name}.{number}\n")).unwrap_or_default();
        self.begin(format!("event: message\n{id}data: ").into_bytes(), Some(data), b"\n\n");
    }

    /// Begins the next event without waiting; false if there is none.
    fn next_at_once(&mut self) -> bool {
        let Piece::Event(number, data) = self.stream.take(self.number) else { return false };
        self.begin_event(number, data);
        true
    }

    /// Waits for the next piece; false at the end.
    fn next(&mut self) -> io::Result<bool> {
        loop {
            if self.is_cut {
                return Ok(false);
            }
            match self.stream.take(self.number) {
                Piece::Event(number, data) => {
                    self.begin_event(number, data);
                    return Ok(true);
                }
                Piece::End => return Ok(false),
                Piece::Nothing => {}
            }
            match wait_for(&self.waker, HEARTBEAT, &self.cancellation) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => {
                    self.begin(COMMENT.to_vec(), None, &[]);
                    return Ok(true);
                }
                // End the stream as if the server had ended it, so that the client reconnects.
                Err(e) if Cancelled::of(&e) == Some(Cancelled::ShuttingDown) => {
                    self.is_cut = true;
                    self.begin(format!("retry: {RETRY_AFTER}\n\n").into_bytes(), None, &[]);
                    return Ok(true);
                }
                Err(e) => return Err(e),
            }
        }
    }
}

impl Read for Reader {
    /// Fills `buffer` with all events that are ready, so that they need only one write.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut filled = 0;
        while filled < buffer.len() {
            let piece = self.piece();
            if piece.is_empty() {
                let goes_on = if filled == 0 { self.next()? } else { self.next_at_once() };
                if goes_on {
                    continue;
                }
                break;
            }
            let n = piece.len().min(buffer.len() - filled);
            buffer[filled..filled + n].copy_from_slice(&piece[..n]);
            self.at += n;
            filled += n;
        }
        Ok(filled)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.stream.leave(self.number);
        if let Some(then) = self.on_disconnect.take() {
            then(self.stream.is_finished() && self.stream.is_read());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(name: Option<&str>) -> (Arc<EventStream>, Arc<AtomicUsize>) {
        let held = Arc::new(AtomicUsize::new(0));
        (EventStream::new(name.map(String::from), false, held.clone()), held)
    }

    fn all(mut reader: Reader) -> String {
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text
    }

    #[test]
    fn what_was_missed_can_be_read_again() {
        let (stream, held) = stream(Some("s"));
        for data in ["a", "bb", "c"] {
            stream.push(data.into());
        }
        stream.finish();
        let event = |n: u64, data: &str| format!("event: message\nid: s.{n}\ndata: {data}\n\n");
        let whole = format!("{}{}{}", event(1, "a"), event(2, "bb"), event(3, "c"));
        let primed = all(stream.read(None, true).unwrap());
        assert_eq!(primed, format!("id: s.0\nretry: 1000\ndata: \n\n{whole}"));
        assert_eq!(all(stream.read(None, false).unwrap()), "");
        assert_eq!(all(stream.read(Some(1), false).unwrap()), event(2, "bb") + &event(3, "c"));
        assert_eq!(all(stream.read(Some(0), false).unwrap()), whole);
        for beyond in [99, u64::MAX] {
            assert_eq!(all(stream.read(Some(beyond), false).unwrap()), "");
        }
        assert_eq!(held.load(Ordering::Relaxed), 4 + 3 * OVERHEAD);
        stream.forget(false);
        assert_eq!(all(stream.read(Some(0), false).unwrap()), "");
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn only_what_was_read_is_forgotten_first() {
        let (stream, held) = stream(Some("s"));
        stream.push(b"aaa".to_vec());
        stream.push(b"bb".to_vec());
        let mut reader = stream.read(None, false).unwrap();
        let mut buffer = [0; 8];
        assert!(reader.read(&mut buffer).unwrap() > 0);
        stream.forget(false);
        assert_eq!(held.load(Ordering::Relaxed), 2 + OVERHEAD);
        stream.finish();
        assert!(all(reader).ends_with("event: message\nid: s.2\ndata: bb\n\n"));
        drop(stream);
        assert_eq!(held.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_new_reader_takes_the_place_of_the_old_one() {
        let (stream, _) = stream(Some("s"));
        let old = stream.read(None, false).unwrap();
        let new = stream.read(None, false).unwrap();
        stream.push(b"a".to_vec());
        assert_eq!(all(old), "");
        assert!(stream.is_connected());
        stream.finish();
        assert_eq!(all(new), "event: message\nid: s.1\ndata: a\n\n");
        assert!(!stream.is_connected());
    }

    #[test]
    fn a_stream_without_a_name_keeps_nothing() {
        let (stream, held) = stream(None);
        stream.push(b"a".to_vec());
        stream.finish();
        let left = Arc::new(Mutex::new(None));
        let told = left.clone();
        let reader =
            stream.read(None, true).unwrap().on_disconnect(Box::new(move |end| *told.lock().unwrap() = Some(end)));
        assert_eq!(all(reader), "event: message\ndata: a\n\n");
        assert_eq!((held.load(Ordering::Relaxed), *left.lock().unwrap()), (0, Some(true)));
    }

    #[test]
    fn a_long_event_is_passed_on_in_pieces() {
        let (stream, _) = stream(None);
        let data = "x".repeat(1_000_000);
        stream.push(data.clone().into_bytes());
        stream.finish();
        assert_eq!(all(stream.read(None, false).unwrap()), format!("event: message\ndata: {data}\n\n"));
    }
}
