//! The session, as the transports and the process manager see it.

use crate::lock::Unpoisoned;
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

/// What a session needs of the process manager.
pub(crate) trait Processes: Send + Sync {
    /// A way to a server for a session of `owner`, whose messages `listener` hears; the error is for the client.
    fn connect(
        &self,
        owner: &Owner,
        listener: Arc<dyn Listener>,
        cancellation: &Cancellation,
    ) -> Result<Arc<dyn MessageSink>, String>;

    /// Writes what a session needs to survive.
    fn save(&self, session: &Arc<Session>);

    /// A session has ended for good.
    fn forget(&self, name: &str);

    /// Bytes held for one session.
    fn buffer(&self) -> usize;
}

/// The answer to what a client posted.
pub(crate) enum Posted {
    /// There is nothing to answer.
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

    /// On whose behalf it was begun.
    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// A new session, which begins with the client's `initialize` request.
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

    /// A session of HTTP+SSE (MCP 2024-11-05): nothing of it outlives its one stream.
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

    /// Passes on what a client posted: one message, or those of a batch.
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
            // Nobody is there who could have asked, or whose work could be cancelled.
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

    /// The stream that the answers to `messages` are going to be sent on, if there are any to come.
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

    /// The stream for what belongs to no request, or what was missed of the stream that the event `last` came on.
    /// `None` when another client reads it.
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
            // Of a stream that is not known any more, only whose it was is left.
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

    /// Ends its child and keeps the session, for the end of the process.
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

    /// How much its child is needed, if it can be done without.
    pub(crate) fn idleness(&self) -> Option<Idleness> {
        let state = self.state();
        if !matches!(state.link, Link::Up(_)) || self.has_one_stream || state.pending.values().any(Pending::is_heard) {
            return None;
        }
        // What nobody waits for may be asked for again, so it is worth more than nothing.
        let is_abandoned = !state.pending.is_empty();
        Some(Idleness { is_abandoned, is_heard: state.general.is_connected(), since: state.used })
    }

    /// Ends its child if it can be done without. The session gets another when it is used again.
    pub(crate) fn park(&self) -> bool {
        let mut state = self.state();
        if !matches!(state.link, Link::Up(_)) || state.pending.values().any(Pending::is_heard) {
            return false;
        }
        state.fail_pending("nobody waited for the answer, and the MCP server was needed elsewhere");
        state.generation += 1;
        state.leave_questions();
        let old = std::mem::replace(&mut state.link, Link::Down);
        drop(state);
        drop(old);
        log::info!(session = self.name.as_str(); "an idle session's MCP server is ended; the session goes on with a new one");
        true
    }

    /// Gives up a child that does not answer `initialize` any more.
    pub(crate) fn give_up(&self) {
        let mut state = self.state();
        if matches!(state.link, Link::Starting { since, .. } if since.elapsed() >= START_TIMEOUT) {
            log::warn!(session = self.name.as_str(), seconds = START_TIMEOUT.as_secs(); "the MCP server does not answer initialize");
            state.generation += 1;
            state.fail("the MCP server does not answer initialize".into());
        }
    }

    /// Ends its child although that has work to do: another user has none.
    pub(crate) fn evict(&self) {
        if self.has_one_stream {
            return self.end();
        }
        let mut state = self.state();
        if matches!(state.link, Link::Up(_) | Link::Starting { .. }) {
            state.generation += 1;
            state.fail("the MCP server had to make room for another user's; try again".into());
        }
    }

    /// Has it a child?
    pub(crate) fn has_child(&self) -> bool {
        matches!(self.state().link, Link::Up(_) | Link::Starting { line: Some(_), .. })
    }

    /// When it was last used.
    pub(crate) fn used(&self) -> Instant {
        self.state().used
    }

    /// May it be dropped from replay_state? What it needs is in the store; what has not been fetched by now is lost.
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

    /// Gets a child and has it told what the session is about.
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
                // The answer may come on this very thread.
                drop(state);
                // The inbox of a new child has room for what was read from one body.
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

/// Is it for a child that has work to do, so that one has to be started?
fn wants_child(message: &Message<'_>) -> bool {
    match &message.kind {
        Kind::Request { .. } => true,
        Kind::Notification { method } => method != "notifications/cancelled",
        Kind::Response { .. } => false,
    }
}

/// A process's way to its session, as long as it is the session's.
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
