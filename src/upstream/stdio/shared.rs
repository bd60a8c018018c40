//! One child for several clients that do not know of each other: their request ids and progress tokens are kept apart
//! by numbers of the proxy's own, and every other byte is left alone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::Line;
use super::child::{Child, Full, Listener};
use crate::mcp::jsonrpc::{METHOD_NOT_FOUND, error_message};
use crate::mcp::message::{Id, Kind, Message, one_line, split};

/// Requests of all clients in flight.
const MAX_REQUESTS: usize = 4_096;
/// The proxy's own `initialize`.
const OWN_INITIALIZE: i64 = 0;
/// In a notification of the 2026-07-28 revision: the id of the `subscriptions/listen` request that it belongs to.
const SUBSCRIPTION: &[&str] = &["_meta", "io.modelcontextprotocol/subscriptionId"];

/// The child.
pub(super) struct SharedChild {
    name: String,
    state: Mutex<State>,
}

struct State {
    child: Option<Child>,
    has_ended: bool,
    /// The next number; each stands for one request and its progress token.
    next: i64,
    requests: HashMap<i64, Request>,
    clients: HashMap<u64, Client>,
    next_client: u64,
    handshake: Handshake,
    used: Instant,
}

struct Client {
    listener: Arc<dyn Listener>,
    subscriptions: HashSet<String>,
}

struct Request {
    client: u64,
    id: Id,
    raw_id: String,
    raw_token: Option<String>,
}

/// How far the child is with `initialize`, which it hears once, from the proxy.
enum Handshake {
    /// None: the revisions from 2026-07-28 on.
    None,
    /// Clients that wait for the result, with the ids of their requests.
    Waiting(Vec<(u64, String)>),
    Done(String),
}

impl SharedChild {
    /// For clients of the revisions from 2026-07-28 on.
    pub(super) fn modern(name: String) -> Arc<SharedChild> {
        SharedChild::new(name, Handshake::None)
    }

    /// For clients of the revisions with `initialize`.
    pub(super) fn legacy(name: String) -> Arc<SharedChild> {
        SharedChild::new(name, Handshake::Waiting(Vec::new()))
    }

    fn new(name: String, handshake: Handshake) -> Arc<SharedChild> {
        let state = State {
            child: None,
            has_ended: false,
            next: OWN_INITIALIZE + 1,
            requests: HashMap::new(),
            clients: HashMap::new(),
            next_client: 1,
            handshake,
            used: Instant::now(),
        };
        Arc::new(SharedChild { name, state: Mutex::new(state) })
    }

    /// Puts the process to work.
    pub(super) fn run(&self, child: Child) {
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

    /// Another client, which `listener` hears for.
    pub(super) fn attach(self: &Arc<Self>, listener: Arc<dyn Listener>) -> Port {
        let mut state = self.state();
        let client = state.next_client;
        state.next_client += 1;
        state.clients.insert(client, Client { listener, subscriptions: HashSet::new() });
        Port { shared: self.clone(), client }
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    /// When it was last used, if nobody waits for it.
    pub(super) fn idle_since(&self) -> Option<Instant> {
        let state = self.state();
        state.requests.is_empty().then_some(state.used)
    }

    /// How long it has been idle.
    pub(super) fn idle(&self) -> Duration {
        self.idle_since().map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// Ends the process, in order.
    pub(super) fn end(&self) {
        let child = self.state().child.take();
        drop(child);
    }

    /// A client sends a message.
    fn send(&self, client: u64, line: &[u8]) -> Result<(), Full> {
        let Ok(text) = std::str::from_utf8(line) else { return Ok(()) };
        let Ok(message) = Message::parse(text) else { return Ok(()) };
        let mut state = self.state();
        state.used = Instant::now();
        match &message.kind {
            Kind::Request { method, .. } if method == "initialize" => {
                let raw_id = message.raw_id().map_or("null", RawValue::get).to_string();
                match &mut state.handshake {
                    Handshake::None => state.ask(client, &message),
                    Handshake::Waiting(clients) => {
                        clients.push((client, raw_id));
                        Ok(())
                    }
                    Handshake::Done(result) => {
                        let answer = answer_with(&raw_id, result);
                        let listener = state.clients.get(&client).map(|c| c.listener.clone());
                        drop(state);
                        if let Some(listener) = listener {
                            listener.line(answer.into_bytes());
                        }
                        Ok(())
                    }
                }
            }
            Kind::Request { method, .. } => {
                state.note_subscription(client, method, &message);
                state.ask(client, &message)
            }
            Kind::Notification { method } if method == "notifications/initialized" => Ok(()),
            Kind::Notification { method } if method == "notifications/cancelled" => {
                let Some(raw) = message.param(&["requestId"]) else { return Ok(()) };
                match Id::of(raw).and_then(|id| state.number_of(client, &id)) {
                    Some(number) => state.write(message.splice(&[(raw, &number.to_string())])),
                    None => Ok(()),
                }
            }
            Kind::Notification { .. } => state.write(text.into()),
            // The child's questions have been answered already.
            Kind::Response { .. } => Ok(()),
        }
    }

    /// Where a message of the child's goes, in the words of those who get it.
    fn deliveries(&self, message: &Message<'_>) -> Vec<(Arc<dyn Listener>, String)> {
        let mut state = self.state();
        state.used = Instant::now();
        match &message.kind {
            Kind::Response { id: Some(Id::Number(OWN_INITIALIZE)), is_error } => state.initialized(message, *is_error),
            Kind::Response { id: Some(Id::Number(number)), .. } => {
                let Some(request) = state.requests.remove(number) else { return Vec::new() };
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
            Kind::Notification { method } => state.notified(method, message),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn write(&self, text: String) -> Result<(), Full> {
        self.child.as_ref().ok_or(Full)?.send(text.into_bytes())
    }

    fn ask(&mut self, client: u64, message: &Message<'_>) -> Result<(), Full> {
        let (Kind::Request { id, .. }, Some(raw_id)) = (&message.kind, message.raw_id()) else { return Ok(()) };
        if self.requests.len() >= MAX_REQUESTS {
            return Err(Full);
        }
        let number = self.next;
        self.next += 1;
        let token = message.progress_token().filter(|raw| Id::of(raw).is_some());
        let own = number.to_string();
        let mut changes = vec![(raw_id, own.as_str())];
        changes.extend(token.map(|raw| (raw, own.as_str())));
        self.write(message.splice(&changes))?;
        let raw_token = token.map(|raw| raw.get().to_string());
        self.requests.insert(number, Request { client, id: id.clone(), raw_id: raw_id.get().into(), raw_token });
        Ok(())
    }

    fn number_of(&self, client: u64, id: &Id) -> Option<i64> {
        self.requests.iter().find(|(_, r)| r.client == client && r.id == *id).map(|(number, _)| *number)
    }

    fn note_subscription(&mut self, client: u64, method: &str, message: &Message<'_>) {
        let uri = || serde_json::from_str::<String>(message.param(&["uri"])?.get()).ok();
        let Some(client) = self.clients.get_mut(&client) else { return };
        match (method, uri()) {
            ("resources/subscribe", Some(uri)) => drop(client.subscriptions.insert(uri)),
            ("resources/unsubscribe", Some(uri)) => drop(client.subscriptions.remove(&uri)),
            _ => {}
        }
    }

    fn to(&self, client: u64, text: String) -> Vec<(Arc<dyn Listener>, String)> {
        self.clients.get(&client).map(|c| (c.listener.clone(), text)).into_iter().collect()
    }

    fn to_all(&self, text: &str, concerned: impl Fn(&Client) -> bool) -> Vec<(Arc<dyn Listener>, String)> {
        self.clients.values().filter(|c| concerned(c)).map(|c| (c.listener.clone(), text.into())).collect()
    }

    fn initialized(&mut self, message: &Message<'_>, is_error: bool) -> Vec<(Arc<dyn Listener>, String)> {
        let Handshake::Waiting(clients) = &mut self.handshake else { return Vec::new() };
        let clients = std::mem::take(clients);
        let Some(raw) = message.raw_id() else { return Vec::new() };
        let answers = clients.iter().flat_map(|(client, id)| self.to(*client, message.splice(&[(raw, id)]))).collect();
        if let (false, Some(result)) = (is_error, message.result()) {
            self.handshake = Handshake::Done(result.get().into());
            let _ = self.write(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.into());
        }
        answers
    }

    /// A notification goes to whom it is for. What may tell one client of another goes to nobody.
    fn notified(&self, method: &str, message: &Message<'_>) -> Vec<(Arc<dyn Listener>, String)> {
        let request_of = |raw: &RawValue| match Id::of(raw) {
            Some(Id::Number(number)) => self.requests.get(&number),
            _ => None,
        };
        if let Some(raw) = message.param(SUBSCRIPTION) {
            let Some(request) = request_of(raw) else { return Vec::new() };
            return self.to(request.client, message.splice(&[(raw, &request.raw_id)]));
        }
        match method {
            "notifications/progress" => {
                let found = message.progress_token().and_then(|raw| Some((raw, request_of(raw)?)));
                let Some((raw, request)) = found else { return Vec::new() };
                let Some(token) = &request.raw_token else { return Vec::new() };
                self.to(request.client, message.splice(&[(raw, token)]))
            }
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed" => self.to_all(message.text(), |_| true),
            "notifications/resources/updated" => {
                let uri: Option<String> = message.param(&["uri"]).and_then(|raw| serde_json::from_str(raw.get()).ok());
                self.to_all(message.text(), |c| uri.as_ref().is_some_and(|uri| c.subscriptions.contains(uri)))
            }
            // With one request in flight there is no doubt whose it is.
            _ if self.requests.len() == 1 => {
                let client = self.requests.values().next().map_or(0, |r| r.client);
                self.to(client, message.text().into())
            }
            _ => Vec::new(),
        }
    }
}

fn answer_with(raw_id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{raw_id},"result":{result}}}"#)
}

/// A shared child as the one who hears its process.
pub(super) struct Ear(pub(super) Weak<SharedChild>);

impl Listener for Ear {
    fn line(&self, line: Vec<u8>) {
        let Some(shared) = self.0.upgrade() else { return };
        let Some(text) = super::text_of(line, &shared.name) else { return };
        let Ok((texts, _)) = split(&text) else { return super::note_noise(&text, &shared.name) };
        for part in texts {
            match Message::parse(part) {
                Ok(message) => {
                    for (listener, text) in shared.deliveries(&message) {
                        listener.line(text.into_bytes());
                    }
                }
                Err(_) => super::note_noise(part, &shared.name),
            }
        }
    }

    fn long_line(&self, limit: usize) {
        let Some(shared) = self.0.upgrade() else { return };
        let listeners: Vec<_> = shared.state().clients.values().map(|c| c.listener.clone()).collect();
        listeners.iter().for_each(|l| l.long_line(limit));
    }

    fn ended(&self, lived: Duration) {
        let Some(shared) = self.0.upgrade() else { return };
        let mut state = shared.state();
        state.has_ended = true;
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
pub(super) struct Port {
    shared: Arc<SharedChild>,
    client: u64,
}

impl Line for Port {
    fn send(&self, line: Vec<u8>) -> Result<(), Full> {
        self.shared.send(self.client, &line)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        let client = state.clients.remove(&self.client);
        let left = state.requests.extract_if(|_, r| r.client == self.client).map(|(number, _)| number);
        for number in left.collect::<Vec<_>>() {
            let params = json!({"requestId": number, "reason": "the client went away"});
            let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
            let _ = state.write(cancelled.to_string());
        }
        drop(state);
        drop(client);
    }
}

/// The request that tells whether a server knows the revisions from 2026-07-28 on.
pub(super) fn probe(id: &str) -> String {
    let meta = json!({"io.modelcontextprotocol/protocolVersion": super::modern::REVISION,
        "io.modelcontextprotocol/clientInfo": {"name": "mcp-auth-proxy", "version": env!("CARGO_PKG_VERSION")},
        "io.modelcontextprotocol/clientCapabilities": {}});
    let id = Value::from(id);
    one_line(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"server/discover","params":{{"_meta":{meta}}}}}"#))
}
