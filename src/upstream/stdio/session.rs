//! One MCP session of the revisions with `initialize`: its child, its streams, and what it takes to give it a new child
//! when the old one has gone.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use super::bell::Bell;
use super::child::{Full, Listener};
use super::events::{EventStream, Reader};
use super::lines::TooLong;
use super::{Account, Host, Line};
use crate::mcp::jsonrpc::{INTERNAL_ERROR, error_message};
use crate::mcp::message::{Id, Kind, Message, split};
use crate::store::rows::McpSession;
use crate::tokens::{base64url, random};

/// How long a child may take from its start to its answer to `initialize`.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// Requests of one session in flight.
const MAX_PENDING: usize = 256;
/// Questions of a child that wait for the client, and of earlier children that it may still answer.
const MAX_ASKED: usize = 1_024;
/// Bytes of a request id or progress token of the client's.
const MAX_ID: usize = 1 << 10;
/// Streams kept for clients that come back.
const MAX_STREAMS: usize = 64;
/// Bytes kept for clients that come back, though they have been sent.
const REPLAY: usize = 1 << 20;
/// Subscriptions remembered for a new child.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Bytes of one message that is remembered for a new child.
const MAX_REMEMBERED: usize = 4 << 10;
/// How long after its last use a session whose requests nobody waits for makes room for others.
const ABANDONED_AFTER: Duration = Duration::from_secs(30);
/// A child that ends sooner after its start than this has crashed at once.
pub(super) const AT_ONCE: Duration = Duration::from_secs(10);
/// Longest pause before another start.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Id of requests that repeat for a new child what the client asked of the old one.
const REPLAYED: &str = "mcp-auth-proxy:replay:";
/// What a new child is told instead of a `notifications/initialized` too long to be remembered.
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
/// A request id up to this size travels in event ids.
const MAX_ECHOED_ID: usize = 96;

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

struct Inner {
    link: Link,
    /// Counts children, so that what an old one still says is not taken for the new one's.
    generation: u64,
    memory: Memory,
    /// The answer to the `initialize` that the session began with, until it is passed on.
    first_answer: Option<String>,
    is_unsaved: bool,
    /// Requests of the client that the child works on.
    pending: HashMap<Id, Pending>,
    questions: Questions,
    /// The stream for what belongs to no request.
    general: Arc<EventStream>,
    /// Those of requests, the oldest first.
    streams: Vec<RequestStream>,
    streams_made: u64,
    /// Sets the names of this session's streams apart from those that it had before a restart.
    epoch: String,
    used: Instant,
    crashes: u32,
    not_before: Option<Instant>,
    /// Why there is no child.
    trouble: String,
    /// Those who wait for the link to change.
    waiting: Vec<Arc<Bell>>,
}

/// The stream of a request, or of those of a batch.
struct RequestStream {
    name: String,
    stream: Arc<EventStream>,
    /// Their ids as the client wrote them.
    raw_ids: Vec<String>,
}

/// What a new child has to be told.
#[derive(Clone, Default)]
struct Memory {
    initialize: String,
    /// The result of `initialize`.
    answer: Option<String>,
    initialized: Option<String>,
    log_level: Option<String>,
    subscriptions: BTreeMap<String, String>,
}

enum Link {
    /// No child.
    Down,
    /// The child has not answered `initialize`; lines for it wait.
    Starting {
        line: Option<Arc<dyn Line>>,
        queue: Vec<String>,
        since: Instant,
    },
    Up(Arc<dyn Line>),
    /// For good.
    Ended,
}

struct Pending {
    stream: Arc<EventStream>,
    stream_number: u64,
    /// Its id as the client wrote it.
    raw_id: String,
    token: Option<Id>,
    remember: Option<Remember>,
}

/// What a request changes in a child's state, if it succeeds.
enum Remember {
    LogLevel(String),
    Subscribed(String, String),
    Unsubscribed(String),
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
    pub(super) fn open(host: &Arc<Host>, account: Account, initialize: &Message<'_>) -> Result<Opened, Refusal> {
        let memory = Memory { initialize: initialize.text().into(), ..Memory::default() };
        let session = Session::new(host, account, memory, false, super::new_name());
        let generation = session.inner().start();
        session.connect(generation);
        let outcome = session.settle().and_then(|()| {
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
    pub(super) fn open_with_one_stream(host: &Arc<Host>, account: Account) -> Result<Arc<Session>, Refusal> {
        let session = Session::new(host, account, Memory::default(), true, super::new_name());
        let generation = session.inner().start();
        session.connect(generation);
        session.settle()?;
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
    pub(super) fn post(self: &Arc<Self>, messages: &[Message<'_>], priming: bool) -> Result<Posted, Refusal> {
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
            self.connect(generation);
        }
        self.settle()?;
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
            let echo = first.raw_id().map_or("", RawValue::get);
            let echo = if requests.len() == 1 && echo.len() <= MAX_ECHOED_ID { base64url(echo) } else { String::new() };
            let name = format!("{}.{stream_number}.{echo}", inner.epoch);
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
        let (name, after) = last.and_then(|id| id.rsplit_once('.')).unwrap_or_default();
        let after = after.parse().ok();
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
        let Account { user, email, client } = self.account.clone();
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
    fn connect(self: &Arc<Self>, generation: u64) {
        let tie = Arc::new(Tie { session: Arc::downgrade(self), generation, name: self.name.clone() });
        let line = self.host.connect(&self.account, tie);
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
    fn settle(&self) -> Result<(), Refusal> {
        loop {
            let mut inner = self.inner();
            let since = match inner.link {
                Link::Starting { since, .. } => since,
                Link::Ended if inner.first_answer.is_none() => return Err(inner.end_of()),
                _ => return Ok(()),
            };
            let bell = Arc::new(Bell::new().map_err(|_| Refusal::Interrupted)?);
            inner.waiting.push(bell.clone());
            drop(inner);
            let waited = bell.wait((since + START_TIMEOUT).saturating_duration_since(Instant::now()));
            self.inner().waiting.retain(|other| !Arc::ptr_eq(other, &bell));
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

/// What the child is going to have to be told again, if it agrees to the request.
fn remember(method: &str, request: &Message<'_>) -> Option<Remember> {
    let uri = || serde_json::from_str::<String>(request.param(&["uri"])?.get()).ok();
    let text = request.text().to_string();
    if text.len() > MAX_REMEMBERED {
        return None;
    }
    match method {
        "logging/setLevel" => Some(Remember::LogLevel(text)),
        "resources/subscribe" => Some(Remember::Subscribed(uri()?, text)),
        "resources/unsubscribe" => Some(Remember::Unsubscribed(uri()?)),
        _ => None,
    }
}

/// The id of the request that the stream `name` of another time belonged to, as it was written.
fn lost_request(name: &str) -> Option<String> {
    use base64::Engine;
    let echo = name.rsplit('.').next().filter(|e| !e.is_empty() && name.matches('.').count() == 2)?;
    let id = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(echo).ok()?;
    let id: Box<RawValue> = serde_json::from_slice(&id).ok()?;
    Id::of(&id).map(|_| id.get().to_string())
}

impl Pending {
    /// Does a client wait for it?
    fn is_heard(&self) -> bool {
        self.stream.is_connected()
    }
}

impl Inner {
    /// A child is about to be started: its number.
    fn start(&mut self) -> u64 {
        self.generation += 1;
        self.link = Link::Starting { line: None, queue: Vec::new(), since: Instant::now() };
        self.generation
    }

    /// Likewise, unless the last ones crashed.
    fn start_again(&mut self) -> Result<u64, Refusal> {
        match seconds_left(self.not_before) {
            Some(seconds) => Err(Refusal::Unavailable(tried_again_in(seconds))),
            None => Ok(self.start()),
        }
    }

    fn check(&self, messages: &[Message<'_>]) -> Result<(), Refusal> {
        let mut ids = HashSet::new();
        for message in messages {
            if message.is_ambiguous() {
                return Err(Refusal::Bad("a member of the message occurs twice, or in another spelling"));
            }
            if [message.raw_id(), message.progress_token()].iter().flatten().any(|raw| raw.get().len() > MAX_ID) {
                return Err(Refusal::Bad("an id or progress token is too long"));
            }
            if let Kind::Request { id, .. } = &message.kind
                && (self.pending.contains_key(id) || !ids.insert(id))
            {
                return Err(Refusal::Bad("a request with this id is in flight"));
            }
        }
        if self.pending.len() + ids.len() > MAX_PENDING {
            return Err(Refusal::Unavailable("too many requests of this session are in flight".into()));
        }
        Ok(())
    }

    /// Sends a message of the client's; `room` bounds what waits for a child that is being started.
    fn send(&mut self, message: &Message<'_>, room: usize) -> Result<(), Full> {
        match &message.kind {
            Kind::Notification { method } if method == "notifications/initialized" => {
                if self.memory.initialized.is_none() {
                    let is_short = message.text().len() <= MAX_REMEMBERED;
                    self.memory.initialized = Some(if is_short { message.text() } else { INITIALIZED }.into());
                    self.is_unsaved = true;
                    // A child that is told all of it from the memory must not be told twice.
                    if matches!(self.link, Link::Starting { .. }) {
                        return Ok(());
                    }
                }
                self.pass_on(message.text().into(), room)
            }
            Kind::Notification { method } if method == "notifications/cancelled" => {
                self.cancel(message.param(&["requestId"]));
                self.pass_on(message.text().into(), room)
            }
            Kind::Response { id, .. } => {
                // What answers nothing goes nowhere.
                let Some(question) = id.as_ref().and_then(|id| self.questions.answered(id)) else { return Ok(()) };
                let text = match (&question.renamed_from, message.raw_id()) {
                    (Some(own), Some(raw)) => message.splice(&[(raw, own)]),
                    _ => message.text().into(),
                };
                self.pass_on(text, room).inspect_err(|_| self.questions.add(question))
            }
            _ => self.pass_on(message.text().into(), room),
        }
    }

    fn pass_on(&mut self, text: String, room: usize) -> Result<(), Full> {
        match &mut self.link {
            Link::Up(line) => line.send(text.into_bytes()),
            Link::Starting { queue, .. } => {
                if queue.iter().map(String::len).sum::<usize>() + text.len() > room {
                    return Err(Full);
                }
                queue.push(text);
                Ok(())
            }
            Link::Down | Link::Ended => Ok(()),
        }
    }

    /// Answers a request that did not reach the child; false when the message was none.
    fn fail_request(&mut self, message: &Message<'_>, why: &str) -> bool {
        let Kind::Request { id, .. } = &message.kind else { return false };
        if let Some(pending) = self.pending.remove(id) {
            self.answer_with_error(&pending, why);
        }
        true
    }

    fn answer_with_error(&self, pending: &Pending, why: &str) {
        pending.stream.push(error_message(&pending.raw_id, INTERNAL_ERROR, why).into_bytes());
        self.finish(pending);
    }

    /// The child is gone, or about to be: what it asked the client is of no use any more.
    fn leave_questions(&mut self) {
        for id in self.questions.leave() {
            let params = serde_json::json!({"reason": "the MCP server has ended"});
            let params = params.to_string().replacen('{', &format!("{{\"requestId\":{id},"), 1);
            let cancelled = format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#);
            self.general.push(cancelled.into_bytes());
        }
    }

    /// The child need not answer a request that was cancelled, and its stream must not wait for ever.
    fn cancel(&mut self, id: Option<&RawValue>) {
        if let Some(pending) = id.and_then(Id::of).and_then(|id| self.pending.remove(&id)) {
            self.answer_with_error(&pending, "the request was cancelled");
        }
    }

    /// Sends a message of the child's where it belongs.
    fn route(&mut self, message: &Message<'_>, session: &str) {
        match &message.kind {
            Kind::Response { id: Some(id), .. } => {
                if matches!(self.link, Link::Starting { .. }) && self.is_answer_to_initialize(id) {
                    self.initialized(message);
                } else if let Some(pending) = self.pending.remove(id) {
                    self.used = Instant::now();
                    pending.stream.push(message.text().as_bytes().to_vec());
                    self.finish(&pending);
                } else if !matches!(id, Id::Text(text) if text.starts_with(REPLAYED)) {
                    log::debug!(session = session; "the MCP server answered what nobody waits for");
                }
            }
            Kind::Response { id: None, .. } => {
                log::warn!(session = session; "the MCP server answered a request whose id it could not read")
            }
            Kind::Request { id, .. } => {
                let new_id = self.questions.ask(id, message.raw_id().map_or("null", RawValue::get));
                let text = match (new_id, message.raw_id()) {
                    (Some(new_id), Some(raw)) => message.splice(&[(raw, &new_id)]),
                    _ => message.text().into(),
                };
                self.stream_for(None).push(text.into_bytes());
            }
            Kind::Notification { method } if method == "notifications/cancelled" => {
                let raw = message.param(&["requestId"]);
                let question = raw.and_then(Id::of).and_then(|id| self.questions.withdrawn(&id));
                let text = match (question.and_then(|q| q.renamed_to()), raw) {
                    (Some(new_id), Some(raw)) => message.splice(&[(raw, &new_id)]),
                    _ => message.text().into(),
                };
                self.stream_for(None).push(text.into_bytes());
            }
            Kind::Notification { method } => {
                let stream = match method.as_str() {
                    "notifications/progress" => {
                        let token = message.progress_token().and_then(Id::of);
                        let of_token = |p: &&Pending| p.token.is_some() && p.token == token;
                        self.pending.values().find(of_token).map(|p| p.stream.clone())
                    }
                    "notifications/resources/updated"
                    | "notifications/resources/list_changed"
                    | "notifications/tools/list_changed"
                    | "notifications/prompts/list_changed" => Some(self.general.clone()),
                    _ => None,
                };
                self.stream_for(stream).push(message.text().as_bytes().to_vec());
            }
        }
    }

    /// Over stdio nothing says which request a message belongs to. While one is in flight, it is that one; among
    /// several, the general stream is right for all, if a client reads it; else it is the last that was sent.
    fn stream_for(&self, known: Option<Arc<EventStream>>) -> Arc<EventStream> {
        if let Some(stream) = known {
            return stream;
        }
        let newest = self.pending.values().max_by_key(|p| p.stream_number);
        let is_only = |p: &&Pending| self.pending.values().all(|other| other.stream_number == p.stream_number);
        let fits = |p: &&Pending| is_only(p) || !self.general.is_connected();
        newest.filter(fits).map_or_else(|| self.general.clone(), |p| p.stream.clone())
    }

    fn is_answer_to_initialize(&self, id: &Id) -> bool {
        let asked = Message::parse(&self.memory.initialize).ok().and_then(|m| Id::of(m.raw_id()?));
        asked.as_ref() == Some(id)
    }

    /// The child has answered `initialize`: for the first time, or as the one before it did.
    fn initialized(&mut self, message: &Message<'_>) {
        let Link::Starting { line, queue, .. } = std::mem::replace(&mut self.link, Link::Ended) else { return };
        let result = message.result().map(RawValue::get);
        match (&self.memory.answer, result, line) {
            (None, Some(result), Some(line)) => {
                self.memory.answer = Some(result.into());
                self.is_unsaved = true;
                self.first_answer = Some(message.text().into());
                self.link = Link::Up(line);
            }
            (None, ..) => self.first_answer = Some(message.text().into()),
            (Some(old), Some(new), Some(line)) if is_same(old, new) => {
                for text in self.memory.replay().into_iter().chain(queue) {
                    if line.send(text.clone().into_bytes()).is_err()
                        && let Ok(message) = Message::parse(&text)
                    {
                        self.fail_request(&message, "the MCP server does not read what it is sent");
                    }
                }
                self.link = Link::Up(line);
            }
            _ => {
                self.fail_pending("the MCP server has changed: initialize again");
                self.general.finish();
            }
        }
        self.wake();
    }

    /// Takes note of what the child's answer has changed in its state; true when there is something to be saved.
    fn learn_from(&mut self, message: &Message<'_>) -> bool {
        let Kind::Response { id: Some(id), is_error: false } = &message.kind else { return false };
        let Some(what) = self.pending.get_mut(id).and_then(|pending| pending.remember.take()) else { return false };
        match what {
            Remember::LogLevel(text) => self.memory.log_level = Some(text),
            Remember::Subscribed(uri, text) if self.memory.subscriptions.len() < MAX_SUBSCRIPTIONS => {
                self.memory.subscriptions.insert(uri, text);
            }
            Remember::Subscribed(..) => return false,
            Remember::Unsubscribed(uri) => {
                self.memory.subscriptions.remove(&uri);
            }
        }
        self.is_unsaved = true;
        true
    }

    /// A request has been answered: its stream ends with the last of its requests.
    fn finish(&self, answered: &Pending) {
        let has_more = self.pending.values().any(|p| p.stream_number == answered.stream_number);
        if !has_more && !Arc::ptr_eq(&answered.stream, &self.general) {
            answered.stream.finish();
        }
    }

    /// There is no child any more, or none could be had.
    fn fail(&mut self, why: String) {
        self.fail_pending(&why);
        self.trouble = why;
        let is_new = self.memory.answer.is_none();
        let old = std::mem::replace(&mut self.link, if is_new { Link::Ended } else { Link::Down });
        // It may be a child whose thread this is, and whose end takes the lock of its inbox only.
        drop(old);
        self.leave_questions();
        self.wake();
    }

    /// Answers the requests in flight with an error.
    fn fail_pending(&mut self, why: &str) {
        let failed: Vec<Pending> = self.pending.drain().map(|(_, pending)| pending).collect();
        failed.iter().for_each(|pending| self.answer_with_error(pending, why));
    }

    fn unavailable(&self) -> Refusal {
        Refusal::Unavailable(if self.trouble.is_empty() {
            "the session has ended".into()
        } else {
            self.trouble.clone()
        })
    }

    /// Why a session that is no more is no more.
    fn end_of(&self) -> Refusal {
        if self.memory.answer.is_some() || self.trouble.is_empty() { Refusal::Gone } else { self.unavailable() }
    }

    fn wake(&mut self) {
        self.waiting.drain(..).for_each(|bell| bell.ring());
    }
}

impl Memory {
    /// The messages that bring a new child to where the old one was, behind `initialize`.
    fn replay(&self) -> Vec<String> {
        let again = |(number, text): (usize, &String)| {
            let message = Message::parse(text).ok()?;
            let id = message.raw_id()?;
            Some(message.splice(&[(id, &format!("\"{REPLAYED}{number}\""))]))
        };
        let requests = self.log_level.iter().chain(self.subscriptions.values()).enumerate().filter_map(again);
        self.initialized.clone().into_iter().chain(requests).collect()
    }
}

/// What children asked the client and it has not answered. A late answer to an earlier child's question must not pass
/// for one to its successor's, which may have the same id: then the successor's goes by another.
#[derive(Default)]
struct Questions {
    open: VecDeque<Question>,
    /// Ids of questions whose child has gone.
    stale: VecDeque<Id>,
    /// There may be more of those: the session is older than this process.
    has_forgotten: bool,
    /// Sets new ids apart from those that were given before a restart.
    epoch: String,
    renamed: u64,
}

#[derive(Clone, Debug)]
struct Question {
    /// As the client knows it.
    id: Id,
    /// The id that the child gave it, as it was written, if the client knows another.
    renamed_from: Option<String>,
}

impl Question {
    /// The id by which the client knows it, as it is written, if it is not the child's.
    fn renamed_to(&self) -> Option<String> {
        match (&self.renamed_from, &self.id) {
            (Some(_), Id::Text(text)) => Some(format!("\"{text}\"")),
            _ => None,
        }
    }
}

impl Questions {
    /// Takes note of a question; the id by which the client is to know it, if not by `id`.
    fn ask(&mut self, id: &Id, raw_id: &str) -> Option<String> {
        let mut question = Question { id: id.clone(), renamed_from: None };
        if self.has_forgotten || self.stale.contains(id) {
            self.renamed += 1;
            question = Question {
                id: Id::Text(format!("mcp-auth-proxy:question:{}:{}", self.epoch, self.renamed)),
                renamed_from: Some(raw_id.into()),
            };
        }
        let new_id = question.renamed_to();
        self.add(question);
        new_id
    }

    fn add(&mut self, question: Question) {
        self.open.push_back(question);
        // The oldest is the one that nobody answers any more.
        if self.open.len() > MAX_ASKED {
            self.open.pop_front();
        }
    }

    /// The client answers; the question, if there is one.
    fn answered(&mut self, id: &Id) -> Option<Question> {
        if let Some(i) = self.stale.iter().position(|stale| stale == id) {
            self.stale.remove(i);
            return None;
        }
        let i = self.open.iter().position(|q| q.id == *id)?;
        self.open.remove(i)
    }

    /// The child wants no answer any more to the question that it knows by `id`.
    fn withdrawn(&mut self, id: &Id) -> Option<Question> {
        let is_own = |q: &Question| match &q.renamed_from {
            Some(raw) => serde_json::from_str::<Box<RawValue>>(raw).is_ok_and(|raw| Id::of(&raw).as_ref() == Some(id)),
            None => q.id == *id,
        };
        let i = self.open.iter().position(is_own)?;
        self.open.remove(i)
    }

    /// The child has gone; its questions, as the client would write their ids.
    fn leave(&mut self) -> Vec<String> {
        let left: Vec<Question> = self.open.drain(..).collect();
        self.stale.extend(left.iter().map(|q| q.id.clone()));
        self.stale.drain(..self.stale.len().saturating_sub(MAX_ASKED));
        left.iter()
            .map(|q| match &q.id {
                Id::Number(n) => n.to_string(),
                Id::Unusual(text) => text.clone(),
                Id::Text(text) => Value::from(text.as_str()).to_string(),
            })
            .collect()
    }
}

/// Do two results of `initialize` say the same?
fn is_same(old: &str, new: &str) -> bool {
    let parse = |text| serde_json::from_str::<Value>(text).ok();
    old == new || parse(old).is_some_and(|old| parse(new) == Some(old))
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
