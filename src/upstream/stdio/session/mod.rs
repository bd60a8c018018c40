//! One MCP session of the revisions with `initialize`: its child, its streams, and what it takes to give it a new child
//! when the old one has gone.
//!
//! - [`inner`] – what it is at one moment, and where each message goes
//! - [`memory`] – what a new child has to be told
//! - [`questions`] – what children asked the client

mod inner;
mod memory;
mod questions;

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use self::inner::{Inner, Link, Pending, RequestStream};
use self::memory::{Memory, remember};
use self::questions::Questions;
use super::child::Listener;
use super::events::{EventStream, Reader, lost_request, split_event_id, stream_name};
use super::lines::TooLong;
use super::waiting::wait_for;
use super::{Account, Host};
use crate::encoding::base64url;
use crate::mcp::jsonrpc::{INTERNAL_ERROR, error_message};
use crate::mcp::message::{Id, Kind, Message, split};
use crate::net::cancellation::Cancellation;
use crate::store::rows::McpSession;
use crate::tokens::random;
use crate::wake::Waker;

/// How long a child may take from its start to its answer to `initialize`.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests of one session in flight.
const MAX_PENDING: usize = 256;
/// Bytes of a request id or progress token of the client's.
const MAX_ID: usize = 1 << 10;
/// Streams kept for clients that come back.
const MAX_STREAMS: usize = 64;
/// Bytes kept for clients that come back, though they have been sent.
const REPLAY: usize = 1 << 20;
/// How long after its last use a session whose requests nobody waits for makes room for others.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// A child that ends sooner after its start than this has crashed at once.
pub(super) const AT_ONCE: Duration = Duration::from_secs(10);
/// Longest pause before another start.
const MAX_PAUSE: Duration = Duration::from_secs(60);

/// The session.
pub(super) struct Session {
    pub(super) name: String,
    pub(super) account: Account,
    host: Arc<Host>,
    /// HTTP+SSE: everything goes to one stream, and the session lives as long as that does.
    has_one_stream: bool,
    /// Bytes that its streams hold.
    held: Arc<AtomicUsize>,
    inner: Mutex<Inner>,
}

/// How much a session's child is needed; the least needed first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Idleness {
    /// It works on what nobody waits for.
    pub(super) is_abandoned: bool,
    /// A client listens.
    pub(super) is_heard: bool,
    /// When it was last used.
    pub(super) since: Instant,
}

impl Idleness {
    /// Is it time enough since that nobody is on the way to come back for the answer?
    pub(super) fn is_evident(&self) -> bool {
        !self.is_abandoned || self.since.elapsed() >= ABANDONED_AFTER
    }
}

/// Why a session can't do what it is asked.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It has ended: the client has to initialize again.
    Gone,
    /// The client asked for something that it must not.
    Bad(&'static str),
    /// Not now; says why.
    Unavailable(String),
    /// The client left, or the process stops.
    Interrupted,
}

/// The answer to what a client posted.
pub(super) enum Posted {
    /// There is nothing to answer.
    Accepted,
    Stream(Reader),
}

/// The answer to `initialize`.
pub(super) struct Opened {
    pub(super) session: Arc<Session>,
    /// As the child wrote it.
    pub(super) answer: String,
    /// It refused; the session is over.
    pub(super) is_error: bool,
}

impl Session {
    /// A new session, which begins with the client's `initialize` request.
    pub(super) fn open(
        host: &Arc<Host>,
        account: Account,
        initialize: &Message<'_>,
        cancellation: &Cancellation,
    ) -> Result<Opened, Refusal> {
        let memory = Memory { initialize: initialize.text().into(), ..Memory::default() };
        let session = Session::new(host, account, memory, false, super::new_name());
        let generation = session.inner().start();
        session.connect(generation, cancellation);
        let outcome = session.settle(cancellation).and_then(|()| {
            let mut inner = session.inner();
            let is_error = !matches!(inner.link, Link::Up(_));
            inner.first_answer.take().map(|answer| (answer, is_error)).ok_or_else(|| inner.unavailable())
        });
        match outcome {
            Ok((answer, is_error)) => Ok(Opened { session, answer, is_error }),
            Err(refusal) => {
                session.end();
                Err(refusal)
            }
        }
    }

    /// A session of HTTP+SSE (MCP 2024-11-05): nothing of it outlives its one stream.
    pub(super) fn open_with_one_stream(
        host: &Arc<Host>,
        account: Account,
        cancellation: &Cancellation,
    ) -> Result<Arc<Session>, Refusal> {
        let session = Session::new(host, account, Memory::default(), true, super::new_name());
        let generation = session.inner().start();
        session.connect(generation, cancellation);
        session.settle(cancellation)?;
        let inner = session.inner();
        match inner.link {
            Link::Up(_) => Ok(session.clone()),
            _ => Err(inner.unavailable()),
        }
    }

    /// A session that was begun before the proxy was started, or that has been put aside since.
    pub(super) fn restore(host: &Arc<Host>, account: Account, row: McpSession) -> Arc<Session> {
        let memory = Memory {
            initialize: row.initialize,
            answer: Some(row.answer),
            initialized: row.initialized,
            log_level: row.log_level,
            subscriptions: row.subscriptions,
        };
        Session::new(host, account, memory, false, row.name)
    }

    fn new(host: &Arc<Host>, account: Account, memory: Memory, has_one_stream: bool, name: String) -> Arc<Session> {
        let held = Arc::new(AtomicUsize::new(0));
        let epoch = base64url(random::<6>());
        let general_name = (!has_one_stream).then(|| format!("{epoch}.0"));
        let has_forgotten = memory.answer.is_some();
        let questions = Questions { has_forgotten, epoch: epoch.clone(), ..Questions::default() };
        Arc::new(Session {
            name,
            account,
            host: host.clone(),
            has_one_stream,
            held: held.clone(),
            inner: Mutex::new(Inner {
                link: Link::Down,
                generation: 0,
                memory,
                first_answer: None,
                is_unsaved: false,
                pending: HashMap::new(),
                questions,
                general: EventStream::new(general_name, true, held),
                streams: Vec::new(),
                streams_made: 0,
                epoch,
                used: Instant::now(),
                crashes: 0,
                not_before: None,
                trouble: String::new(),
                waiting: Vec::new(),
            }),
        })
    }

    /// Passes on what a client posted: one message, or those of a batch.
    pub(super) fn post(
        self: &Arc<Self>,
        messages: &[Message<'_>],
        priming: bool,
        cancellation: &Cancellation,
    ) -> Result<Posted, Refusal> {
        let mut inner = self.inner();
        inner.used = Instant::now();
        inner.check(messages)?;
        let start = match inner.link {
            Link::Ended => return Err(Refusal::Gone),
            Link::Down if self.has_one_stream => return Err(Refusal::Gone),
            // Nobody is there who could have asked, or whose work could be cancelled.
            Link::Down if !messages.iter().any(wants_child) => return Ok(Posted::Accepted),
            Link::Down => Some(inner.start_again()?),
            _ => None,
        };
        let stream = self.await_answers(&mut inner, messages);
        let mut has_lost = false;
        for message in messages {
            if inner.send(message, self.host.buffer()).is_err() {
                has_lost |= !inner.fail_request(message, "the MCP server does not read what it is sent");
            }
        }
        self.make_room(&mut inner);
        drop(inner);
        if let Some(generation) = start {
            self.connect(generation, cancellation);
        }
        self.settle(cancellation)?;
        self.save();
        match stream {
            Some(_) if self.has_one_stream => Ok(Posted::Accepted),
            Some(stream) => stream.read(None, priming).map(Posted::Stream).map_err(|_| Refusal::Interrupted),
            None if has_lost => Err(Refusal::Unavailable("the MCP server does not read what it is sent".into())),
            None => Ok(Posted::Accepted),
        }
    }

    /// The stream that the answers to `messages` are going to be sent on, if there are any to come.
    fn await_answers(&self, inner: &mut Inner, messages: &[Message<'_>]) -> Option<Arc<EventStream>> {
        let requests: Vec<_> = messages.iter().filter(|m| matches!(m.kind, Kind::Request { .. })).collect();
        let first = requests.first()?;
        inner.streams_made += 1;
        let stream_number = inner.streams_made;
        let stream = if self.has_one_stream {
            inner.general.clone()
        } else {
            let echo = first.raw_id().filter(|_| requests.len() == 1).map(RawValue::get);
            let name = stream_name(&inner.epoch, stream_number, echo);
            let stream = EventStream::new(Some(name.clone()), false, self.held.clone());
            let raw_ids = requests.iter().filter_map(|r| Some(r.raw_id()?.get().to_string())).collect();
            inner.streams.push(RequestStream { name, stream: stream.clone(), raw_ids });
            stream
        };
        for request in requests {
            let Kind::Request { id, method } = &request.kind else { continue };
            let pending = Pending {
                stream: stream.clone(),
                stream_number,
                raw_id: request.raw_id().map_or_else(String::new, |id| id.get().into()),
                token: request.progress_token().and_then(Id::of),
                remember: remember(method, request),
            };
            inner.pending.insert(id.clone(), pending);
        }
        Some(stream)
    }

    /// The stream for what belongs to no request, or what was missed of the stream that the event `last` came on.
    /// `None` when another client reads it.
    pub(super) fn listen(&self, last: Option<&str>, priming: bool) -> Result<Option<Reader>, Refusal> {
        let mut inner = self.inner();
        if matches!(inner.link, Link::Ended) {
            return Err(Refusal::Gone);
        }
        inner.used = Instant::now();
        let (name, after) = last.map(split_event_id).unwrap_or_default();
        let known = inner.streams.iter().find(|s| s.name == name).map(|s| s.stream.clone());
        let missed = match (known, &after) {
            (Some(stream), Some(after)) => Some((stream, Some(*after))),
            (None, Some(after)) if name == format!("{}.0", inner.epoch) => Some((inner.general.clone(), Some(*after))),
            // Of a stream that is not known any more, only whose it was is left.
            (None, Some(_)) => lost_request(name).map(|id| (self.stream_that_says_lost(&id), None)),
            _ => None,
        };
        let (stream, after) = match missed {
            Some(found) => found,
            None if inner.general.is_connected() => return Ok(None),
            None => (inner.general.clone(), None),
        };
        stream.read(after, priming && after.is_none()).map(Some).map_err(|_| Refusal::Interrupted)
    }

    fn stream_that_says_lost(&self, id: &str) -> Arc<EventStream> {
        let stream = EventStream::new(None, false, self.held.clone());
        let text = "the answer to this request was lost: the proxy was restarted, or the session was idle for too long";
        stream.push(error_message(id, INTERNAL_ERROR, text).into_bytes());
        stream.finish();
        stream
    }

    /// Ends the session for good.
    pub(super) fn end(&self) {
        self.end_with(Link::Ended);
        self.host.forget(&self.name);
    }

    /// Ends its child and keeps the session, for the end of the process.
    pub(super) fn put_aside(&self) {
        self.end_with(Link::Down);
    }

    fn end_with(&self, link: Link) {
        let mut inner = self.inner();
        inner.fail_pending("the session has ended");
        inner.generation += 1;
        inner.general.finish();
        let old = std::mem::replace(&mut inner.link, link);
        inner.wake();
        drop(inner);
        drop(old);
    }

    /// How much its child is needed, if it can be done without.
    pub(super) fn idleness(&self) -> Option<Idleness> {
        let inner = self.inner();
        if !matches!(inner.link, Link::Up(_)) || self.has_one_stream || inner.pending.values().any(Pending::is_heard) {
            return None;
        }
        // What nobody waits for may be asked for again, so it is worth more than nothing.
        let is_abandoned = !inner.pending.is_empty();
        Some(Idleness { is_abandoned, is_heard: inner.general.is_connected(), since: inner.used })
    }

    /// Ends its child if it can be done without. The session gets another when it is used again.
    pub(super) fn park(&self) -> bool {
        let mut inner = self.inner();
        if !matches!(inner.link, Link::Up(_)) || inner.pending.values().any(Pending::is_heard) {
            return false;
        }
        inner.fail_pending("nobody waited for the answer, and the MCP server was needed elsewhere");
        inner.generation += 1;
        inner.leave_questions();
        let old = std::mem::replace(&mut inner.link, Link::Down);
        drop(inner);
        drop(old);
        log::info!(session = self.name.as_str(); "an idle session's MCP server is ended; the session goes on with a new one");
        true
    }

    /// Gives up a child that does not answer `initialize` any more.
    pub(super) fn give_up(&self) {
        let mut inner = self.inner();
        if matches!(inner.link, Link::Starting { since, .. } if since.elapsed() >= START_TIMEOUT) {
            log::warn!(session = self.name.as_str(), seconds = START_TIMEOUT.as_secs(); "the MCP server does not answer initialize");
            inner.generation += 1;
            inner.fail("the MCP server does not answer initialize".into());
        }
    }

    /// Ends its child although that has work to do: another user has none.
    pub(super) fn evict(&self) {
        if self.has_one_stream {
            return self.end();
        }
        let mut inner = self.inner();
        if matches!(inner.link, Link::Up(_) | Link::Starting { .. }) {
            inner.generation += 1;
            inner.fail("the MCP server had to make room for another user's; try again".into());
        }
    }

    /// Has it a child?
    pub(super) fn has_child(&self) -> bool {
        matches!(self.inner().link, Link::Up(_) | Link::Starting { line: Some(_), .. })
    }

    /// When it was last used.
    pub(super) fn used(&self) -> Instant {
        self.inner().used
    }

    /// May it be dropped from memory? What it needs is in the store; what has not been fetched by now is lost.
    pub(super) fn is_dispensable(&self) -> bool {
        let inner = self.inner();
        let is_heard = inner.general.is_connected() || inner.streams.iter().any(|s| s.stream.is_connected());
        matches!(inner.link, Link::Down) && !is_heard
    }

    /// Is it one of HTTP+SSE?
    pub(super) fn has_one_stream(&self) -> bool {
        self.has_one_stream
    }

    /// How long it has not been used.
    pub(super) fn unused(&self) -> Duration {
        self.inner().used.elapsed()
    }

    /// The revision that was agreed on.
    pub(super) fn revision(&self) -> Option<String> {
        let inner = self.inner();
        let answer: Value = serde_json::from_str(inner.memory.answer.as_deref()?).ok()?;
        Some(answer["protocolVersion"].as_str()?.to_string())
    }

    /// What survives a restart.
    pub(super) fn row(&self, expires_at: u64) -> Option<McpSession> {
        let memory = self.inner().memory.clone();
        let Account { user, email, client, .. } = self.account.clone();
        Some(McpSession {
            name: self.name.clone(),
            user,
            email,
            client,
            initialize: memory.initialize,
            answer: memory.answer?,
            initialized: memory.initialized,
            log_level: memory.log_level,
            subscriptions: memory.subscriptions,
            expires_at,
        })
    }

    /// Writes what has changed, if anything has.
    fn save(self: &Arc<Self>) {
        let is_unsaved = std::mem::take(&mut self.inner().is_unsaved);
        if is_unsaved && !self.has_one_stream {
            self.host.save(self);
        }
    }

    /// Gets a child and has it told what the session is about.
    fn connect(self: &Arc<Self>, generation: u64, cancellation: &Cancellation) {
        let tie = Arc::new(Tie { session: Arc::downgrade(self), generation, name: self.name.clone() });
        let line = self.host.connect(&self.account, tie, cancellation);
        let mut inner = self.inner();
        if inner.generation != generation || !matches!(inner.link, Link::Starting { .. }) {
            return;
        }
        match line {
            Err(why) => inner.fail(why),
            Ok(line) if self.has_one_stream => {
                inner.link = Link::Up(line);
                inner.wake();
            }
            Ok(line) => {
                let initialize = inner.memory.initialize.clone();
                if let Link::Starting { line: place, .. } = &mut inner.link {
                    *place = Some(line.clone());
                }
                // The answer may come on this very thread.
                drop(inner);
                // The inbox of a new child has room for what was read from one body.
                let _ = line.send(initialize.into_bytes());
            }
        }
    }

    /// Waits until the child, if one is being started, has answered `initialize`.
    fn settle(&self, cancellation: &Cancellation) -> Result<(), Refusal> {
        loop {
            let mut inner = self.inner();
            let since = match inner.link {
                Link::Starting { since, .. } => since,
                Link::Ended if inner.first_answer.is_none() => return Err(inner.end_of()),
                _ => return Ok(()),
            };
            let waker = Arc::new(Waker::new().map_err(|_| Refusal::Interrupted)?);
            inner.waiting.push(waker.clone());
            drop(inner);
            let waited =
                wait_for(&waker, (since + START_TIMEOUT).saturating_duration_since(Instant::now()), cancellation);
            self.inner().waiting.retain(|other| !Arc::ptr_eq(other, &waker));
            match waited {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => self.give_up(),
                Err(_) => return Err(Refusal::Interrupted),
            }
        }
    }

    /// The child wrote a line.
    fn line(self: &Arc<Self>, generation: u64, line: Vec<u8>) {
        let Some(text) = super::text_of(line, &self.name) else { return };
        let Ok((texts, _)) = split(&text) else { return super::note_noise(&text, &self.name) };
        let messages: Vec<_> = texts
            .iter()
            .filter_map(|part| Message::parse(part).inspect_err(|_| super::note_noise(part, &self.name)).ok())
            .collect();
        let mut inner = self.inner();
        if inner.generation != generation {
            return;
        }
        // What a new child is going to have to be told is kept before the client hears that it is so.
        if messages.iter().filter(|message| inner.learn_from(message)).count() > 0 {
            drop(inner);
            self.save();
            inner = self.inner();
            if inner.generation != generation {
                return;
            }
        }
        messages.iter().for_each(|message| inner.route(message, &self.name));
        self.make_room(&mut inner);
        let is_over = matches!(inner.link, Link::Ended);
        drop(inner);
        if is_over {
            self.host.forget(&self.name);
        }
    }

    fn long_line(&self, generation: u64, line: &TooLong) {
        let mut inner = self.inner();
        if inner.generation != generation {
            return;
        }
        let why = format!("the MCP server wrote a message of more than {} bytes", line.limit);
        if matches!(inner.link, Link::Starting { .. }) {
            inner.generation += 1;
            return inner.fail(why);
        }
        let answered = line.answered().and_then(|id| id.parse().ok()).map(Id::Number);
        // With one request in flight there is no doubt either.
        let only = || inner.pending.keys().next().filter(|_| inner.pending.len() == 1).cloned();
        if let Some(pending) = answered.or_else(only).and_then(|id| inner.pending.remove(&id)) {
            inner.answer_with_error(&pending, &why);
        }
    }

    fn ended(&self, generation: u64, lived: Duration) {
        let mut inner = self.inner();
        if inner.generation != generation {
            return;
        }
        let was_starting = matches!(inner.link, Link::Starting { .. });
        inner.crashes = if lived < AT_ONCE { inner.crashes + 1 } else { 0 };
        // One that did answer may have been killed: it is replaced at once, the first time.
        if inner.crashes > u32::from(!was_starting) {
            inner.not_before = Some(Instant::now() + pause_after(inner.crashes));
        }
        inner.fail(
            match was_starting {
                true => "the MCP server ended before it answered initialize; its operator finds the reason in the log",
                false => "the MCP server ended while it worked on this request; the session goes on with a new one",
            }
            .into(),
        );
        if self.has_one_stream {
            inner.general.finish();
        }
    }

    /// Keeps what the streams hold within bounds: first goes what has been sent, then what nobody comes for.
    fn make_room(&self, inner: &mut Inner) {
        let held = || self.held.load(Ordering::Relaxed);
        let is_over = |s: &EventStream| s.is_finished() && !s.is_connected();
        for wants_read in [true, false] {
            while (wants_read && held() > REPLAY) || inner.streams.len() > MAX_STREAMS {
                let is_next = |s: &RequestStream| is_over(&s.stream) && s.stream.is_read() == wants_read;
                let Some(i) = inner.streams.iter().position(is_next) else { break };
                inner.streams.remove(i);
            }
        }
        let all = || std::iter::once(&inner.general).chain(inner.streams.iter().map(|s| &s.stream));
        for stream in all().filter(|_| held() > REPLAY) {
            stream.forget(false);
        }
        for wants_connected in [false, true] {
            for stream in all() {
                if held() > self.host.buffer() && stream.is_connected() == wants_connected {
                    log::warn!(session = self.name.as_str(); "messages for a client that does not read them are dropped (--stdio-buffer, STDIO_BUFFER)");
                    stream.forget(true);
                    // Whoever comes for an answer learns at least that there is none.
                    for lost in inner.streams.iter().filter(|s| Arc::ptr_eq(&s.stream, stream) && stream.is_finished())
                    {
                        for id in &lost.raw_ids {
                            let why = "the answer was dropped: the client reads too slowly";
                            stream.push(error_message(id, INTERNAL_ERROR, why).into_bytes());
                        }
                    }
                }
            }
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(|e| e.into_inner())
    }
}

/// Twice as long after each crash, from one second on.
pub(super) fn pause_after(crashes: u32) -> Duration {
    Duration::from_secs(1 << crashes.saturating_sub(1).min(6)).min(MAX_PAUSE)
}

/// Whole seconds until `at`, if that is yet to come.
pub(super) fn seconds_left(at: Option<Instant>) -> Option<u64> {
    let left = at?.saturating_duration_since(Instant::now());
    (!left.is_zero()).then(|| left.as_secs() + 1)
}

pub(super) fn tried_again_in(seconds: u64) -> String {
    format!(
        "the MCP server ends as soon as it is started; it is tried again in {seconds} s, and its operator finds the reason in the log"
    )
}

/// Is it for a child that has work to do, so that one has to be started?
fn wants_child(message: &Message<'_>) -> bool {
    match &message.kind {
        Kind::Request { .. } => true,
        Kind::Notification { method } => method != "notifications/cancelled",
        Kind::Response { .. } => false,
    }
}

/// A child's way to its session, as long as it is the session's child.
struct Tie {
    session: Weak<Session>,
    generation: u64,
    name: String,
}

impl Listener for Tie {
    fn line(&self, line: Vec<u8>) {
        if let Some(session) = self.session.upgrade() {
            session.line(self.generation, line);
        }
    }

    fn long_line(&self, line: &TooLong) {
        if let Some(session) = self.session.upgrade() {
            session.long_line(self.generation, line);
        }
    }

    fn ended(&self, lived: Duration) {
        if let Some(session) = self.session.upgrade() {
            session.ended(self.generation, lived);
        }
    }

    fn name(&self) -> String {
        self.name.clone()
    }
}
