//! One process shared by several independent clients. The proxy replaces their request ids and progress tokens with
//! unique numbers of its own, and leaves every other byte unchanged.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;

use crate::identity::UserId;
use crate::lock::Unpoisoned;
use crate::mcp::jsonrpc::{INTERNAL_ERROR, METHOD_NOT_FOUND, error_message};
use crate::mcp::message::{Id, Kind, Message, split};
use crate::upstream::stdio::fields::ToolFields;
use crate::upstream::stdio::idleness::Idleness;
use crate::upstream::stdio::mux::state::{
    Client, Deliveries, Handshake, OWN_INITIALIZE, SUBSCRIPTION, State, answer_with,
};
use crate::upstream::stdio::noise::{note_noise, text_of};
use crate::upstream::stdio::process::child::Child;
use crate::upstream::stdio::process::inbox::{Full, Listener, MessageSink};
use crate::upstream::stdio::process::lines::TooLong;

/// How long a process may take to answer the proxy's own `initialize`.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(120);

/// A process that several clients share.
pub(crate) struct SharedProcess {
    name: String,
    state: Mutex<State>,
    /// The tool arguments that clients must repeat in header fields.
    tool_fields: ToolFields,
}

impl SharedProcess {
    /// Returns the tool arguments that clients must repeat in header fields.
    pub(crate) fn tool_fields(&self) -> &ToolFields {
        &self.tool_fields
    }

    /// For a single client of a single user, with revisions from 2026-07-28 on.
    pub(crate) fn modern_of_one(name: String) -> Arc<SharedProcess> {
        SharedProcess::new(name, Handshake::None, true)
    }

    /// For all clients with revisions from 2026-07-28 on.
    pub(crate) fn modern_of_all(name: String) -> Arc<SharedProcess> {
        SharedProcess::new(name, Handshake::None, false)
    }

    /// For all clients of the revisions with `initialize`.
    pub(crate) fn legacy(name: String) -> Arc<SharedProcess> {
        SharedProcess::new(name, Handshake::Waiting(Vec::new()), false)
    }

    fn new(name: String, handshake: Handshake, is_of_one: bool) -> Arc<SharedProcess> {
        let state = State {
            child: None,
            has_ended: false,
            lived: None,
            started: Instant::now(),
            next: OWN_INITIALIZE + 1,
            requests: HashMap::new(),
            clients: HashMap::new(),
            next_client: 1,
            handshake,
            used: Instant::now(),
            is_of_one,
        };
        Arc::new(SharedProcess { name, state: Mutex::new(state), tool_fields: ToolFields::default() })
    }

    /// Takes over the started process. With older revisions, sends the proxy's own `initialize` first.
    pub(crate) fn run(&self, child: Child) {
        let mut state = self.state();
        if matches!(state.handshake, Handshake::Waiting(_)) {
            // The process is shared, so the server can't send a request to one particular client. The proxy declares no
            // client capabilities.
            let initialize = json!({"jsonrpc": "2.0", "id": OWN_INITIALIZE, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "mcp-auth-proxy", "version": env!("CARGO_PKG_VERSION")}}});
            let _ = child.send(initialize.to_string().into_bytes());
        }
        if !state.has_ended {
            state.child = Some(child);
        }
    }

    /// Adds a client whose messages go to `listener`. `None` if the process has ended or is not running yet.
    pub(crate) fn attach(self: &Arc<Self>, user: &UserId, listener: Arc<dyn Listener>) -> Option<MuxHandle> {
        let mut state = self.state();
        if state.has_ended || state.child.is_none() {
            return None;
        }
        let client = state.next_client;
        state.next_client += 1;
        state.used = Instant::now();
        state.clients.insert(client, Client { user: user.clone(), listener, subscriptions: HashSet::new() });
        Some(MuxHandle { shared: self.clone(), client })
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    /// How long it lived, if it ended by itself.
    pub(crate) fn lived(&self) -> Option<Duration> {
        self.state().lived
    }

    /// True if the process has not answered `initialize` within [`HANDSHAKE_TIMEOUT`].
    pub(crate) fn is_stuck(&self) -> bool {
        let state = self.state();
        matches!(state.handshake, Handshake::Waiting(_)) && state.started.elapsed() > HANDSHAKE_TIMEOUT
    }

    /// How much the process is needed; `None` while it works on a request. `subscriptions/listen` does not count as work:
    /// its client only waits for changes, and reconnects if the process is ended.
    pub(crate) fn idleness(&self) -> Option<Idleness> {
        let state = self.state();
        let is_idle = state.requests.values().all(|r| r.is_listen);
        is_idle.then(|| Idleness { is_abandoned: false, is_heard: !state.requests.is_empty(), since: state.used })
    }

    /// True if no request is in flight, not even `subscriptions/listen`.
    pub(crate) fn is_unheard(&self) -> bool {
        self.state().requests.is_empty()
    }

    /// When it was last used.
    pub(crate) fn used(&self) -> Instant {
        self.state().used
    }

    /// Ends the process gracefully.
    pub(crate) fn end(&self) {
        let mut state = self.state();
        state.has_ended = true;
        let child = state.child.take();
        drop(state);
        drop(child);
    }

    /// A client sends a message.
    fn send(&self, client: u64, line: &[u8]) -> Result<(), Full> {
        let Ok(text) = std::str::from_utf8(line) else { return Ok(()) };
        let Ok(message) = Message::parse(text) else { return Ok(()) };
        let mut state = self.state();
        state.used = Instant::now();
        match &message.kind {
            Kind::Request { method, .. } if method == "initialize" => state.initialize(client, &message),
            Kind::Request { method, .. } => match state.subscription(client, method, &message) {
                Ok(subscribes_to) => state.ask(client, method, &message, subscribes_to),
                Err(answer) => state.answer_by_itself(client, answer),
            },
            Kind::Notification { method } if method == "notifications/initialized" => Ok(()),
            Kind::Notification { method } if method == "notifications/cancelled" => {
                let Some(raw) = message.param(&["requestId"]) else { return Ok(()) };
                let Some(number) = Id::of(raw).and_then(|id| state.number_of(client, &id)) else { return Ok(()) };
                // A server that follows the protocol does not answer a cancelled request, so forget it now.
                let gone = state.requests.remove(&number);
                if let Some(uri) = gone.and_then(|r| r.subscribes_to).filter(|uri| !state.is_wanted(uri)) {
                    state.unsubscribe(&uri);
                }
                state.write(message.splice(&[(raw, &number.to_string())]))
            }
            Kind::Notification { .. } => state.write(text.into()),
            // The proxy has already answered the server's requests itself, so a client's response answers nothing.
            Kind::Response { .. } => Ok(()),
        }
    }

    /// Returns the clients that get a message of the process, with each client's own ids and tokens restored.
    fn deliveries(&self, message: &Message<'_>) -> Deliveries {
        let mut state = self.state();
        match &message.kind {
            Kind::Response { id: Some(Id::Number(OWN_INITIALIZE)), is_error } => {
                let (answers, useless) = state.initialized(message, *is_error);
                drop(state);
                drop(useless);
                answers
            }
            Kind::Response { id: Some(Id::Number(number)), is_error } => {
                let Some(request) = state.requests.remove(number) else { return Vec::new() };
                state.used = Instant::now();
                if let Some(uri) = &request.subscribes_to {
                    state.subscribed(request.client, uri, !is_error);
                }
                let mut changes: Vec<_> =
                    message.raw_id().map(|raw| (raw, request.raw_id.as_str())).into_iter().collect();
                let subscription = message.outcome(SUBSCRIPTION).filter(|raw| Id::of(raw) == Some(Id::Number(*number)));
                changes.extend(subscription.map(|raw| (raw, request.raw_id.as_str())));
                let text = message.splice(&changes);
                state.to(request.client, text)
            }
            Kind::Response { .. } => Vec::new(),
            Kind::Request { method, .. } => {
                let id = message.raw_id().map_or("null", RawValue::get);
                let answer = match method.as_str() {
                    "ping" => answer_with(id, "{}"),
                    _ => error_message(
                        id,
                        METHOD_NOT_FOUND,
                        "this server process is shared by several clients, so it can't send requests to one of them",
                    ),
                };
                let _ = state.write(answer);
                Vec::new()
            }
            Kind::Notification { method } => {
                if method == "notifications/tools/list_changed" {
                    self.tool_fields.forget();
                }
                state.notified(method, message)
            }
        }
    }

    /// The line was the answer to a request, but too long to be held. Returns an error for the client that sent the
    /// request, if that can be found.
    fn lost(&self, line: &TooLong) -> Deliveries {
        let mut state = self.state();
        let number = line.answered().and_then(|id| id.parse().ok()).or_else(|| {
            // If the process serves a single client and only one request is in flight, treat the line as its answer.
            let mut numbers = state.requests.keys();
            numbers.next().copied().filter(|_| state.is_of_one && numbers.next().is_none())
        });
        let Some(request) = number.and_then(|n| state.requests.remove(&n)) else { return Vec::new() };
        let why = format!("the MCP server wrote a message of more than {} bytes", line.limit);
        state.to(request.client, error_message(&request.raw_id, INTERNAL_ERROR, &why))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unpoisoned()
    }
}

/// Passes the output of a process to its [`SharedProcess`].
pub(crate) struct SharedListener(Weak<SharedProcess>);

impl SharedListener {
    /// Creates the listener for `shared`. It holds a weak reference only.
    pub(crate) fn of(shared: &Arc<SharedProcess>) -> Arc<SharedListener> {
        Arc::new(SharedListener(Arc::downgrade(shared)))
    }
}

impl Listener for SharedListener {
    fn line(&self, line: Vec<u8>) {
        let Some(shared) = self.0.upgrade() else { return };
        let Some(text) = text_of(line, &shared.name) else { return };
        let Ok((texts, _)) = split(&text) else { return note_noise(&text, &shared.name) };
        for part in texts {
            match Message::parse(part) {
                Ok(message) => {
                    for (listener, text) in shared.deliveries(&message) {
                        listener.line(text.into_bytes());
                    }
                }
                Err(_) => note_noise(part, &shared.name),
            }
        }
    }

    fn long_line(&self, line: &TooLong) {
        let Some(shared) = self.0.upgrade() else { return };
        for (listener, text) in shared.lost(line) {
            listener.line(text.into_bytes());
        }
    }

    fn ended(&self, lived: Duration) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.state();
        let was_asked = std::mem::replace(&mut state.has_ended, true);
        state.lived = (!was_asked).then_some(lived);
        let child = state.child.take();
        let listeners: Vec<_> = state.clients.values().map(|c| c.listener.clone()).collect();
        drop(state);
        drop(child);
        listeners.iter().for_each(|l| l.ended(lived));
    }

    fn name(&self) -> String {
        self.0.upgrade().map_or_else(String::new, |shared| shared.name.clone())
    }
}

/// One client's handle to a shared process. Dropping it cancels the client's requests in flight.
pub(crate) struct MuxHandle {
    shared: Arc<SharedProcess>,
    client: u64,
}

impl MessageSink for MuxHandle {
    fn send(&self, line: Vec<u8>) -> Result<(), Full> {
        self.shared.send(self.client, &line)
    }
}

impl Drop for MuxHandle {
    fn drop(&mut self) {
        let gone = self.shared.state().leave(self.client);
        drop(gone);
    }
}
