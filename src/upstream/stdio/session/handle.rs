//! The session, as the transports and the process manager see it.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::Value;
use serde_json::value::RawValue;

use super::refusal::Refusal;
use super::replay_state::{ReplayState, remember};
use super::server_requests::ServerRequests;
use super::state::{Link, Pending, RequestStream, SessionState};
use crate::encoding::base64url;
use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc::{INTERNAL_ERROR, error_message};
use crate::mcp::message::{Id, Kind, Message};
use crate::net::cancellation::Cancellation;
use crate::tokens::random;
use crate::tokens::random_name;
use crate::upstream::stdio::event_stream::{EventStream, Reader, lost_request, split_event_id, stream_name};
use crate::upstream::stdio::idleness::Idleness;
use crate::upstream::stdio::owner::Owner;
use crate::upstream::stdio::process::inbox::{Listener, MessageSink};
use crate::upstream::stdio::process::lines::TooLong;
use crate::upstream::stdio::waiting::wait_for;
use crate::wake::Waker;

/// How long a child may take from its start to its answer to `initialize`.
const START_TIMEOUT: Duration = Duration::from_secs(120);
/// The session.
pub(crate) struct Session {
    name: String,
    owner: Owner,
    pub(super) processes: Arc<dyn Processes>,
    /// HTTP+SSE: everything goes to one stream, and the session lives as long as that does.
    pub(super) has_one_stream: bool,
    /// Bytes that its streams hold.
    pub(super) held: Arc<AtomicUsize>,
    pub(super) state: Mutex<SessionState>,
}

/// The part of the process manager that a session uses.
pub(crate) trait Processes: Send + Sync {
    /// Connects a session of `owner` to a process, whose messages go to `listener`. The error text is for the client.
    fn connect(
        &self,
        owner: &Owner,
        listener: Arc<dyn Listener>,
        cancellation: &Cancellation,
    ) -> Result<Arc<dyn MessageSink>, String>;

    /// Saves a session so that it survives a restart.
    fn save(&self, session: &Arc<Session>);

    /// Removes a session that has ended for good.
    fn forget(&self, name: &str);

    /// Maximum number of bytes buffered for one session.
    fn buffer(&self) -> usize;

    /// The name of the server, for the log.
    fn server(&self) -> &str;
}

/// The answer to what a client posted.
pub(crate) enum Posted {
    /// The HTTP response has no stream of its own (202 Accepted).
    Accepted,
    Stream(Reader),
}

/// The answer to `initialize`.
pub(crate) struct Opened {
    pub(crate) session: Arc<Session>,
    /// As the child wrote it.
    pub(crate) answer: String,
    /// It refused; the session is over.
    pub(crate) is_error: bool,
}

impl Session {
    /// Its name in the log and in the store.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The user and client that opened the session.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// Opens a session with the client's `initialize` request, and waits for the server's answer.
    pub(crate) fn open(
        processes: Arc<dyn Processes>,
        owner: Owner,
        initialize: &Message<'_>,
        cancellation: &Cancellation,
    ) -> Result<Opened, Refusal> {
        let replay_state = ReplayState { initialize: initialize.text().into(), ..ReplayState::default() };
        let session = Session::new(processes, owner, replay_state, false, random_name());
        let generation = session.state().start();
        session.connect(generation, cancellation);
        let outcome = session.settle(cancellation).and_then(|()| {
            let mut state = session.state();
            let is_error = !matches!(state.link, Link::Up(_));
            state.first_answer.take().map(|answer| (answer, is_error)).ok_or_else(|| state.unavailable())
        });
        match outcome {
            Ok((answer, is_error)) => Ok(Opened { session, answer, is_error }),
            Err(refusal) => {
                session.end();
                Err(refusal)
            }
        }
    }

    /// Opens an HTTP+SSE session (MCP 2024-11-05). It ends with its one stream and is not saved.
    pub(crate) fn open_with_one_stream(
        processes: Arc<dyn Processes>,
        owner: Owner,
        cancellation: &Cancellation,
    ) -> Result<Arc<Session>, Refusal> {
        let session = Session::new(processes, owner, ReplayState::default(), true, random_name());
        let generation = session.state().start();
        session.connect(generation, cancellation);
        session.settle(cancellation)?;
        let state = session.state();
        match state.link {
            Link::Up(_) => Ok(session.clone()),
            _ => Err(state.unavailable()),
        }
    }

    pub(super) fn new(
        processes: Arc<dyn Processes>,
        owner: Owner,
        replay_state: ReplayState,
        has_one_stream: bool,
        name: String,
    ) -> Arc<Session> {
        let held = Arc::new(AtomicUsize::new(0));
        let epoch = base64url(random::<6>());
        let general_name = (!has_one_stream).then(|| format!("{epoch}.0"));
        let has_forgotten = replay_state.answer.is_some();
        let server_requests = ServerRequests { has_forgotten, epoch: epoch.clone(), ..ServerRequests::default() };
        Arc::new(Session {
            name,
            owner,
            processes,
            has_one_stream,
            held: held.clone(),
            state: Mutex::new(SessionState {
                link: Link::Down,
                generation: 0,
                replay_state,
                first_answer: None,
                is_unsaved: false,
                pending: HashMap::new(),
                server_requests,
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

    /// Forwards what a client posted (one message, or a batch) to the process. Starts a new process if needed.
    pub(crate) fn post(
        self: &Arc<Self>,
        messages: &[Message<'_>],
        priming: bool,
        cancellation: &Cancellation,
    ) -> Result<Posted, Refusal> {
        let mut state = self.state();
        state.used = Instant::now();
        state.check(messages)?;
        let start = match state.link {
            Link::Ended => return Err(Refusal::Gone),
            Link::Down if self.has_one_stream => return Err(Refusal::Gone),
            // Without a process, there is no server request to answer and no request to cancel.
            Link::Down if !messages.iter().any(wants_child) => return Ok(Posted::Accepted),
            Link::Down => Some(state.start_again()?),
            _ => None,
        };
        let stream = self.await_answers(&mut state, messages);
        let mut has_lost = false;
        for message in messages {
            if state.send(message, self.processes.buffer()).is_err() {
                has_lost |= !state.fail_request(message, "the MCP server does not read what it is sent");
            }
        }
        self.make_room(&mut state);
        drop(state);
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

    /// Records the requests in `messages` as pending. Returns the stream for their answers; `None` if there is no
    /// request.
    fn await_answers(&self, state: &mut SessionState, messages: &[Message<'_>]) -> Option<Arc<EventStream>> {
        let requests: Vec<_> = messages.iter().filter(|m| matches!(m.kind, Kind::Request { .. })).collect();
        let first = requests.first()?;
        state.streams_made += 1;
        let stream_number = state.streams_made;
        let stream = if self.has_one_stream {
            state.general.clone()
        } else {
            let echo = first.raw_id().filter(|_| requests.len() == 1).map(RawValue::get);
            let name = stream_name(&state.epoch, stream_number, echo);
            let stream = EventStream::new(Some(name.clone()), false, self.held.clone());
            let raw_ids = requests.iter().filter_map(|r| Some(r.raw_id()?.get().to_string())).collect();
            state.streams.push(RequestStream { name, stream: stream.clone(), raw_ids });
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
            state.pending.insert(id.clone(), pending);
        }
        Some(stream)
    }

    /// Reads the general stream, or resumes a stream after the event `last` (`Last-Event-ID`). `None` if the general
    /// stream is wanted and another client reads it.
    pub(crate) fn listen(&self, last: Option<&str>, priming: bool) -> Result<Option<Reader>, Refusal> {
        let mut state = self.state();
        if matches!(state.link, Link::Ended) {
            return Err(Refusal::Gone);
        }
        state.used = Instant::now();
        let (name, after) = last.map(split_event_id).unwrap_or_default();
        let known = state.streams.iter().find(|s| s.name == name).map(|s| s.stream.clone());
        let missed = match (known, &after) {
            (Some(stream), Some(after)) => Some((stream, Some(*after))),
            (None, Some(after)) if name == format!("{}.0", state.epoch) => Some((state.general.clone(), Some(*after))),
            // The stream is gone, but the event id still tells which request it belonged to.
            (None, Some(_)) => lost_request(name).map(|id| (self.stream_that_says_lost(&id), None)),
            _ => None,
        };
        let (stream, after) = match missed {
            Some(found) => found,
            None if state.general.is_connected() => return Ok(None),
            None => (state.general.clone(), None),
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
    pub(crate) fn end(&self) {
        self.end_with(Link::Ended);
        self.processes.forget(&self.name);
    }

    /// Ends the session's process when the proxy shuts down. The session itself stays in the store.
    pub(crate) fn put_aside(&self) {
        self.end_with(Link::Down);
    }

    fn end_with(&self, link: Link) {
        let mut state = self.state();
        state.fail_pending("the session has ended");
        state.generation += 1;
        state.general.finish();
        let old = std::mem::replace(&mut state.link, link);
        state.wake();
        drop(state);
        drop(old);
    }

    /// How idle the session's process is; `None` if it is needed or not ready.
    pub(crate) fn idleness(&self) -> Option<Idleness> {
        let state = self.state();
        if !matches!(state.link, Link::Up(_)) || self.has_one_stream || state.pending.values().any(Pending::is_heard) {
            return None;
        }
        // The client may reconnect for these answers, so the process is worth more than one without requests.
        let is_abandoned = !state.pending.is_empty();
        Some(Idleness { is_abandoned, is_heard: state.general.is_connected(), since: state.used })
    }

    /// Ends the process, unless a client waits for an answer. The session gets a new process when it is used again.
    pub(crate) fn park(&self) -> bool {
        let mut state = self.state();
        if !matches!(state.link, Link::Up(_)) || state.pending.values().any(Pending::is_heard) {
            return false;
        }
        state.fail_pending("no client was connected to receive the answer, so the MCP server was ended");
        state.generation += 1;
        state.leave_questions();
        let old = std::mem::replace(&mut state.link, Link::Down);
        drop(state);
        drop(old);
        log::info!(server = self.processes.server(), session = self.name.as_str(); "the MCP server of an idle session was ended; the session gets a new one when it is used again");
        true
    }

    /// Ends a process that has not answered `initialize` within [`START_TIMEOUT`].
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        if matches!(state.link, Link::Starting { since, .. } if since.elapsed() >= START_TIMEOUT) {
            log::warn!(server = self.processes.server(), session = self.name.as_str(), seconds = START_TIMEOUT.as_secs(); "the MCP server does not answer initialize");
            state.generation += 1;
            state.fail("the MCP server does not answer initialize".into());
        }
    }

    /// Ends the process even if it is busy, to free its slot for another user.
    pub(crate) fn evict(&self) {
        if self.has_one_stream {
            return self.end();
        }
        let mut state = self.state();
        if matches!(state.link, Link::Up(_) | Link::Starting { .. }) {
            state.generation += 1;
            state.fail("the MCP server was ended to free a slot for another user; try again".into());
        }
    }

    /// True if the session has a process, even one that has not answered `initialize` yet.
    pub(crate) fn has_child(&self) -> bool {
        matches!(self.state().link, Link::Up(_) | Link::Starting { line: Some(_), .. })
    }

    /// When it was last used.
    pub(crate) fn used(&self) -> Instant {
        self.state().used
    }

    /// True if the session can be dropped from memory: it has no process and no connected client. The store has what it
    /// needs; unread events are lost.
    pub(crate) fn is_dispensable(&self) -> bool {
        let state = self.state();
        let is_heard = state.general.is_connected() || state.streams.iter().any(|s| s.stream.is_connected());
        matches!(state.link, Link::Down) && !is_heard
    }

    /// Is it one of HTTP+SSE?
    pub(crate) fn has_one_stream(&self) -> bool {
        self.has_one_stream
    }

    /// How long it has not been used.
    pub(crate) fn unused(&self) -> Duration {
        self.state().used.elapsed()
    }

    /// The revision that was agreed on.
    pub(crate) fn revision(&self) -> Option<String> {
        let state = self.state();
        let answer: Value = serde_json::from_str(state.replay_state.answer.as_deref()?).ok()?;
        Some(answer["protocolVersion"].as_str()?.to_string())
    }

    /// Connects the session to a process and sends it the client's `initialize` (none with HTTP+SSE).
    fn connect(self: &Arc<Self>, generation: u64, cancellation: &Cancellation) {
        let tie = Arc::new(SessionListener { session: Arc::downgrade(self), generation, name: self.name.clone() });
        let line = self.processes.connect(&self.owner, tie, cancellation);
        let mut state = self.state();
        if state.generation != generation || !matches!(state.link, Link::Starting { .. }) {
            return;
        }
        match line {
            Err(why) => state.fail(why),
            Ok(line) if self.has_one_stream => {
                state.link = Link::Up(line);
                state.wake();
            }
            Ok(line) => {
                let initialize = state.replay_state.initialize.clone();
                if let Link::Starting { line: place, .. } = &mut state.link {
                    *place = Some(line.clone());
                }
                // Unlock first, because the answer is handled under this lock.
                drop(state);
                // Ignoring the result is safe: the inbox of a new process has room for a message from one request body.
                let _ = line.send(initialize.into_bytes());
            }
        }
    }

    /// Waits until the child, if one is being started, has answered `initialize`.
    fn settle(&self, cancellation: &Cancellation) -> Result<(), Refusal> {
        loop {
            let mut state = self.state();
            let since = match state.link {
                Link::Starting { since, .. } => since,
                Link::Ended if state.first_answer.is_none() => return Err(state.end_of()),
                _ => return Ok(()),
            };
            let waker = Arc::new(Waker::new().map_err(|_| Refusal::Interrupted)?);
            state.waiting.push(waker.clone());
            drop(state);
            let waited =
                wait_for(&waker, (since + START_TIMEOUT).saturating_duration_since(Instant::now()), cancellation);
            self.state().waiting.retain(|other| !Arc::ptr_eq(other, &waker));
            match waited {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::TimedOut => self.give_up(),
                Err(_) => return Err(Refusal::Interrupted),
            }
        }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unpoisoned()
    }
}

/// True if the message needs a process, so that one must be started.
fn wants_child(message: &Message<'_>) -> bool {
    match &message.kind {
        Kind::Request { .. } => true,
        Kind::Notification { method } => method != "notifications/cancelled",
        Kind::Response { .. } => false,
    }
}

/// Passes the output of a process to its session, as long as the session still uses that process.
pub(super) struct SessionListener {
    session: Weak<Session>,
    generation: u64,
    name: String,
}

impl Listener for SessionListener {
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
