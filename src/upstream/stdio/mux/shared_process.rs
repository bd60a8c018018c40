//! One process for several clients that do not know of each other: their request ids and progress tokens are kept apart
//! by numbers of the proxy's own, and every other byte is left alone.

use crate::lock::Unpoisoned;
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;

use crate::identity::UserId;
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

/// The child.
pub(crate) struct SharedProcess {
    name: String,
    state: Mutex<State>,
    /// What its tools want repeated in fields.
    tool_fields: ToolFields,
}

impl SharedProcess {
    /// What its tools want repeated in header fields.
    pub(crate) fn tool_fields(&self) -> &ToolFields {
        &self.tool_fields
    }

    /// For one user's client of the revisions from 2026-07-28 on.
    pub(crate) fn modern_of_one(name: String) -> Arc<SharedProcess> {
        SharedProcess::new(name, Handshake::None, true)
    }

    /// For all clients of those revisions.
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

    /// Puts the process to work.
    pub(crate) fn run(&self, child: Child) {
        let mut state = self.state();
        if matches!(state.handshake, Handshake::Waiting(_)) {
            // It is for everyone, so it can do for the server what no client in particular is asked: nothing.
            let initialize = json!({"jsonrpc": "2.0", "id": OWN_INITIALIZE, "method": "initialize", "params": {
                "protocolVersion": "2025-11-25", "capabilities": {},
                "clientInfo": {"name": "mcp-auth-proxy", "version": env!("CARGO_PKG_VERSION")}}});
            let _ = child.send(initialize.to_string().into_bytes());
        }
        if !state.has_ended {
            state.child = Some(child);
        }
    }

    /// Another client, which `listener` hears for; `None` when the process has ended meanwhile.
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

    /// Has it not answered `initialize` for so long that it never will?
    pub(crate) fn is_stuck(&self) -> bool {
        let state = self.state();
        matches!(state.handshake, Handshake::Waiting(_)) && state.started.elapsed() > HANDSHAKE_TIMEOUT
    }

    /// How much it is needed, if it can be done without. Those who listen only hear when something changes, and come back.
    pub(crate) fn idleness(&self) -> Option<Idleness> {
        let state = self.state();
        let is_idle = state.requests.values().all(|r| r.is_listen);
        is_idle.then(|| Idleness { is_abandoned: false, is_heard: !state.requests.is_empty(), since: state.used })
    }

    /// Does nobody wait for it or listen to it?
    pub(crate) fn is_unheard(&self) -> bool {
        self.state().requests.is_empty()
    }

    /// When it was last used.
    pub(crate) fn used(&self) -> Instant {
        self.state().used
    }

    /// Ends the process, in order.
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
                // Who keeps to the protocol does not answer it any more.
                let gone = state.requests.remove(&number);
                if let Some(uri) = gone.and_then(|r| r.subscribes_to).filter(|uri| !state.is_wanted(uri)) {
                    state.unsubscribe(&uri);
                }
                state.write(message.splice(&[(raw, &number.to_string())]))
            }
            Kind::Notification { .. } => state.write(text.into()),
            // The child's questions have been answered already.
            Kind::Response { .. } => Ok(()),
        }
    }

    /// Where a message of the child's goes, in the words of those who get it.
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
                        "this server is shared, and nobody in particular can be asked",
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

    /// Who waits for what a line that can't be held was.
    fn lost(&self, line: &TooLong) -> Deliveries {
        let mut state = self.state();
        let number = line.answered().and_then(|id| id.parse().ok()).or_else(|| {
            // With one request in flight there is no doubt either, where all are of one client.
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

/// A shared child as the one who hears its process.
pub(crate) struct SharedListener(Weak<SharedProcess>);

impl SharedListener {
    /// Hears the process of `shared`.
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

/// One client's place at a shared child. Dropping it cancels what it still waits for.
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
