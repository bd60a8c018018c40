//! The state of a session, behind its lock: its process, requests in flight, and message routing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use serde_json::value::RawValue;

use super::refusal::Refusal;
use super::replay_state::{MAX_REMEMBERED, MAX_SUBSCRIPTIONS, REPLAYED, Remember, ReplayState, is_same};
use super::server_requests::ServerRequests;
use crate::mcp::jsonrpc::{INTERNAL_ERROR, error_message};
use crate::mcp::message::{Id, Kind, Message};
use crate::upstream::stdio::backoff::{seconds_left, tried_again_in};
use crate::upstream::stdio::event_stream::EventStream;
use crate::upstream::stdio::process::inbox::MessageSink;
use crate::upstream::stdio::process::inbox::{Full, OVERHEAD};
use crate::wake::Waker;

/// Requests of one session in flight.
const MAX_PENDING: usize = 256;
/// Bytes of a request id or progress token of the client's.
const MAX_ID: usize = 1 << 10;
/// A new process gets this instead of the client's `notifications/initialized`, if that is too long to be remembered.
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;

pub(crate) struct SessionState {
    pub(super) link: Link,
    /// Incremented for each new process, so that late output of an old one is ignored.
    pub(super) generation: u64,
    pub(super) replay_state: ReplayState,
    /// The answer to the `initialize` that the session began with, until it is passed on.
    pub(super) first_answer: Option<String>,
    pub(super) is_unsaved: bool,
    /// Requests of the client that the child works on.
    pub(super) pending: HashMap<Id, Pending>,
    pub(super) server_requests: ServerRequests,
    /// The stream for what belongs to no request.
    pub(super) general: Arc<EventStream>,
    /// The streams of requests, oldest first.
    pub(super) streams: Vec<RequestStream>,
    pub(super) streams_made: u64,
    /// Random part of the stream names, so that they differ from those before a restart.
    pub(super) epoch: String,
    pub(super) used: Instant,
    pub(super) crashes: u32,
    pub(super) not_before: Option<Instant>,
    /// Why there is no child.
    pub(super) trouble: String,
    /// Wakers of threads that wait for `link` to change.
    pub(super) waiting: Vec<Arc<Waker>>,
}

/// The stream of one request, or of all requests of a batch.
pub(crate) struct RequestStream {
    pub(super) name: String,
    pub(super) stream: Arc<EventStream>,
    /// Their ids as the client wrote them.
    pub(super) raw_ids: Vec<String>,
}

pub(crate) enum Link {
    /// No child.
    Down,
    /// The child has not answered `initialize`; lines for it wait.
    Starting {
        line: Option<Arc<dyn MessageSink>>,
        queue: Queue,
        since: Instant,
    },
    Up(Arc<dyn MessageSink>),
    /// The session has ended for good.
    Ended,
}

/// Lines that wait for a child.
#[derive(Default)]
pub(crate) struct Queue {
    lines: Vec<String>,
    /// Their total size in bytes, including [`OVERHEAD`] for each line.
    bytes: usize,
}

impl Queue {
    fn push(&mut self, line: String, room: usize) -> Result<(), Full> {
        let size = line.len() + OVERHEAD;
        if self.bytes + size > room {
            return Err(Full);
        }
        self.bytes += size;
        self.lines.push(line);
        Ok(())
    }
}

pub(crate) struct Pending {
    pub(super) stream: Arc<EventStream>,
    pub(super) stream_number: u64,
    /// Its id as the client wrote it.
    pub(super) raw_id: String,
    pub(super) token: Option<Id>,
    pub(super) remember: Option<Remember>,
}

impl Pending {
    /// Does a client wait for it?
    pub(crate) fn is_heard(&self) -> bool {
        self.stream.is_connected()
    }
}

impl SessionState {
    /// Prepares for the start of a new process. Returns its generation.
    pub(crate) fn start(&mut self) -> u64 {
        self.generation += 1;
        self.link = Link::Starting { line: None, queue: Queue::default(), since: Instant::now() };
        self.generation
    }

    /// Like [`Self::start`], but fails during the pause that follows crashes.
    pub(crate) fn start_again(&mut self) -> Result<u64, Refusal> {
        match seconds_left(self.not_before) {
            Some(seconds) => Err(Refusal::Unavailable(tried_again_in(seconds))),
            None => Ok(self.start()),
        }
    }

    pub(crate) fn check(&self, messages: &[Message<'_>]) -> Result<(), Refusal> {
        let mut ids = HashSet::new();
        for message in messages {
            if message.is_ambiguous() {
                return Err(Refusal::Bad(
                    "the message is ambiguous: a JSON member occurs twice, or in another spelling",
                ));
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

    /// Sends a client's message to the process. `room` limits the bytes that are queued while the process starts.
    pub(crate) fn send(&mut self, message: &Message<'_>, room: usize) -> Result<(), Full> {
        match &message.kind {
            Kind::Notification { method } if method == "notifications/initialized" => {
                if self.replay_state.initialized.is_none() {
                    let is_short = message.text().len() <= MAX_REMEMBERED;
                    self.replay_state.initialized = Some(if is_short { message.text() } else { INITIALIZED }.into());
                    self.is_unsaved = true;
                    // A starting process gets this message from the replay state. Do not send it twice.
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
                // Drop a response that answers no open server request.
                let Some(question) = id.as_ref().and_then(|id| self.server_requests.answered(id)) else {
                    return Ok(());
                };
                let text = match (&question.renamed_from, message.raw_id()) {
                    (Some(own), Some(raw)) => message.splice(&[(raw, own)]),
                    _ => message.text().into(),
                };
                self.pass_on(text, room).inspect_err(|_| self.server_requests.add(question))
            }
            _ => self.pass_on(message.text().into(), room),
        }
    }

    pub(crate) fn pass_on(&mut self, text: String, room: usize) -> Result<(), Full> {
        match &mut self.link {
            Link::Up(line) => line.send(text.into_bytes()),
            Link::Starting { queue, .. } => queue.push(text, room),
            Link::Down | Link::Ended => Ok(()),
        }
    }

    /// Answers a request that did not reach the process with an error. Returns false if the message is not a request.
    pub(crate) fn fail_request(&mut self, message: &Message<'_>, why: &str) -> bool {
        let Kind::Request { id, .. } = &message.kind else { return false };
        if let Some(pending) = self.pending.remove(id) {
            self.answer_with_error(&pending, why);
        }
        true
    }

    pub(crate) fn answer_with_error(&self, pending: &Pending, why: &str) {
        pending.stream.push(error_message(&pending.raw_id, INTERNAL_ERROR, why).into_bytes());
        self.finish(pending);
    }

    /// Cancels the open server requests at the client, because the process has ended or is about to.
    pub(crate) fn leave_questions(&mut self) {
        for id in self.server_requests.leave() {
            let params = serde_json::json!({"reason": "the MCP server has ended"});
            let params = params.to_string().replacen('{', &format!("{{\"requestId\":{id},"), 1);
            let cancelled = format!(r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{params}}}"#);
            self.general.push(cancelled.into_bytes());
        }
    }

    /// Answers a cancelled request with an error. The server need not answer it, and its stream would never end.
    pub(crate) fn cancel(&mut self, id: Option<&RawValue>) {
        if let Some(pending) = id.and_then(Id::of).and_then(|id| self.pending.remove(&id)) {
            self.answer_with_error(&pending, "the request was cancelled");
        }
    }

    /// Routes a message of the process to the stream or request it belongs to.
    pub(crate) fn route(&mut self, message: &Message<'_>, session: &str) {
        match &message.kind {
            Kind::Response { id: Some(id), .. } => {
                if matches!(self.link, Link::Starting { .. }) && self.is_answer_to_initialize(id) {
                    self.initialized(message);
                } else if let Some(pending) = self.pending.remove(id) {
                    self.used = Instant::now();
                    pending.stream.push(message.text().as_bytes().to_vec());
                    self.finish(&pending);
                } else if !matches!(id, Id::Text(text) if text.starts_with(REPLAYED)) {
                    log::debug!(session = session; "the MCP server sent a response that matches no open request");
                }
            }
            Kind::Response { id: None, .. } => {
                log::warn!(session = session; "the MCP server answered a request whose id it could not read")
            }
            Kind::Request { id, .. } => {
                let new_id = self.server_requests.ask(id, message.raw_id().map_or("null", RawValue::get));
                let text = match (new_id, message.raw_id()) {
                    (Some(new_id), Some(raw)) => message.splice(&[(raw, &new_id)]),
                    _ => message.text().into(),
                };
                self.stream_for(None).push(text.into_bytes());
            }
            Kind::Notification { method } if method == "notifications/cancelled" => {
                let raw = message.param(&["requestId"]);
                let question = raw.and_then(Id::of).and_then(|id| self.server_requests.withdrawn(&id));
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

    /// Chooses the stream for a message, because stdio does not tell which request it belongs to. If one request (or
    /// batch) is in flight, uses its stream. If there are several, uses the general stream if a client reads it, or
    /// else the stream of the newest request.
    pub(crate) fn stream_for(&self, known: Option<Arc<EventStream>>) -> Arc<EventStream> {
        if let Some(stream) = known {
            return stream;
        }
        let newest = self.pending.values().max_by_key(|p| p.stream_number);
        let is_only = |p: &&Pending| self.pending.values().all(|other| other.stream_number == p.stream_number);
        let fits = |p: &&Pending| is_only(p) || !self.general.is_connected();
        newest.filter(fits).map_or_else(|| self.general.clone(), |p| p.stream.clone())
    }

    pub(crate) fn is_answer_to_initialize(&self, id: &Id) -> bool {
        let asked = Message::parse(&self.replay_state.initialize).ok().and_then(|m| Id::of(m.raw_id()?));
        asked.as_ref() == Some(id)
    }

    /// Handles the answer to `initialize`. The answer of a new process must equal the first one; otherwise the session
    /// ends.
    pub(crate) fn initialized(&mut self, message: &Message<'_>) {
        let Link::Starting { line, queue, .. } = std::mem::replace(&mut self.link, Link::Ended) else { return };
        let result = message.result().map(RawValue::get);
        match (&self.replay_state.answer, result, line) {
            (None, Some(result), Some(line)) => {
                self.replay_state.answer = Some(result.into());
                self.is_unsaved = true;
                self.first_answer = Some(message.text().into());
                self.link = Link::Up(line);
            }
            (None, ..) => self.first_answer = Some(message.text().into()),
            (Some(old), Some(new), Some(line)) if is_same(old, new) => {
                for text in self.replay_state.replay().into_iter().chain(queue.lines) {
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

    /// Records in the replay state what a successful answer has changed. True if the session must be saved.
    pub(crate) fn learn_from(&mut self, message: &Message<'_>) -> bool {
        let Kind::Response { id: Some(id), is_error: false } = &message.kind else { return false };
        let Some(what) = self.pending.get_mut(id).and_then(|pending| pending.remember.take()) else { return false };
        match what {
            Remember::LogLevel(text) => self.replay_state.log_level = Some(text),
            Remember::Subscribed(uri, text) if self.replay_state.subscriptions.len() < MAX_SUBSCRIPTIONS => {
                self.replay_state.subscriptions.insert(uri, text);
            }
            Remember::Subscribed(..) => return false,
            Remember::Unsubscribed(uri) => {
                self.replay_state.subscriptions.remove(&uri);
            }
        }
        self.is_unsaved = true;
        true
    }

    /// Ends the stream of an answered request, if it was the stream's last request.
    pub(crate) fn finish(&self, answered: &Pending) {
        let has_more = self.pending.values().any(|p| p.stream_number == answered.stream_number);
        if !has_more && !Arc::ptr_eq(&answered.stream, &self.general) {
            answered.stream.finish();
        }
    }

    /// Handles a process that has ended or could not be started: the requests in flight fail with `why`.
    pub(crate) fn fail(&mut self, why: String) {
        self.fail_pending(&why);
        self.trouble = why;
        let is_new = self.replay_state.answer.is_none();
        let old = std::mem::replace(&mut self.link, if is_new { Link::Ended } else { Link::Down });
        // This may run on the I/O thread of the dropped process. That is safe, because ending it only locks its inbox.
        drop(old);
        self.leave_questions();
        self.wake();
    }

    /// Answers the requests in flight with an error.
    pub(crate) fn fail_pending(&mut self, why: &str) {
        let failed: Vec<Pending> = self.pending.drain().map(|(_, pending)| pending).collect();
        failed.iter().for_each(|pending| self.answer_with_error(pending, why));
    }

    pub(crate) fn unavailable(&self) -> Refusal {
        Refusal::Unavailable(if self.trouble.is_empty() {
            "the session has ended".into()
        } else {
            self.trouble.clone()
        })
    }

    /// The refusal for an ended session: [`Refusal::Gone`], or the reason why it could not be initialized.
    pub(crate) fn end_of(&self) -> Refusal {
        if self.replay_state.answer.is_some() || self.trouble.is_empty() { Refusal::Gone } else { self.unavailable() }
    }

    pub(crate) fn wake(&mut self) {
        self.waiting.drain(..).for_each(|waker| waker.wake());
    }
}
