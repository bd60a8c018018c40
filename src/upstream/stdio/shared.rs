//! One child for several clients that do not know of each other: their request ids and progress tokens are kept apart
//! by numbers of the proxy's own, and every other byte is left alone.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;

use super::Line;
use super::child::{Child, Full, Listener};
use super::fields::ToolFields;
use super::lines::TooLong;
use super::session::Idleness;
use crate::identity::UserId;
use crate::mcp::jsonrpc::{INTERNAL_ERROR, METHOD_NOT_FOUND, error_message};
use crate::mcp::message::{Id, Kind, Message, split};

/// Requests of all clients in flight.
const MAX_REQUESTS: usize = 4_096;
/// Requests of one user in flight.
const MAX_REQUESTS_OF_USER: usize = MAX_REQUESTS / 4;
/// Resources that one client is subscribed to.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Bytes of the URI of such a resource.
const MAX_URI: usize = 4 << 10;
/// The proxy's own `initialize`.
const OWN_INITIALIZE: i64 = 0;
/// How long a child may take to answer it.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(120);
/// In a notification of the 2026-07-28 revision: the id of the `subscriptions/listen` request that it belongs to.
const SUBSCRIPTION: &[&str] = &["_meta", "io.modelcontextprotocol/subscriptionId"];
/// The request that a stream for hours answers.
pub(super) const LISTEN: &str = "subscriptions/listen";

/// The child.
pub(super) struct SharedChild {
    name: String,
    state: Mutex<State>,
    /// What its tools want repeated in fields.
    pub(super) tool_fields: ToolFields,
}

struct State {
    child: Option<Child>,
    has_ended: bool,
    /// How long the process lived, if it ended by itself.
    lived: Option<Duration>,
    started: Instant,
    /// The next number; each stands for one request and its progress token.
    next: i64,
    requests: HashMap<i64, Request>,
    clients: HashMap<u64, Client>,
    next_client: u64,
    handshake: Handshake,
    used: Instant,
    /// It works for one user and client, so that whatever it says is for that one.
    is_of_one: bool,
}

struct Client {
    user: UserId,
    listener: Arc<dyn Listener>,
    subscriptions: HashSet<String>,
}

struct Request {
    client: u64,
    user: UserId,
    id: Id,
    raw_id: String,
    raw_token: Option<String>,
    is_listen: bool,
    /// The resource that it subscribes to.
    subscribes_to: Option<String>,
}

/// How far the child is with `initialize`, which it hears once, from the proxy.
enum Handshake {
    /// None: the revisions from 2026-07-28 on.
    None,
    /// Clients that wait for the result, with the ids of their requests.
    Waiting(Vec<(u64, String)>),
    Done(String),
}

/// What clients are to be told; done without holding any lock, since it leads on into theirs.
type Deliveries = Vec<(Arc<dyn Listener>, String)>;

impl SharedChild {
    /// For one user's client of the revisions from 2026-07-28 on.
    pub(super) fn modern_of_one(name: String) -> Arc<SharedChild> {
        SharedChild::new(name, Handshake::None, true)
    }

    /// For all clients of those revisions.
    pub(super) fn modern_of_all(name: String) -> Arc<SharedChild> {
        SharedChild::new(name, Handshake::None, false)
    }

    /// For all clients of the revisions with `initialize`.
    pub(super) fn legacy(name: String) -> Arc<SharedChild> {
        SharedChild::new(name, Handshake::Waiting(Vec::new()), false)
    }

    fn new(name: String, handshake: Handshake, is_of_one: bool) -> Arc<SharedChild> {
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
        Arc::new(SharedChild { name, state: Mutex::new(state), tool_fields: ToolFields::default() })
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

    /// Another client, which `listener` hears for; `None` when the process has ended meanwhile.
    pub(super) fn attach(self: &Arc<Self>, user: &UserId, listener: Arc<dyn Listener>) -> Option<Port> {
        let mut state = self.state();
        if state.has_ended || state.child.is_none() {
            return None;
        }
        let client = state.next_client;
        state.next_client += 1;
        state.used = Instant::now();
        state.clients.insert(client, Client { user: user.clone(), listener, subscriptions: HashSet::new() });
        Some(Port { shared: self.clone(), client })
    }

    pub(super) fn has_ended(&self) -> bool {
        self.state().has_ended
    }

    /// How long it lived, if it ended by itself.
    pub(super) fn lived(&self) -> Option<Duration> {
        self.state().lived
    }

    /// Has it not answered `initialize` for so long that it never will?
    pub(super) fn is_stuck(&self) -> bool {
        let state = self.state();
        matches!(state.handshake, Handshake::Waiting(_)) && state.started.elapsed() > HANDSHAKE_TIMEOUT
    }

    /// How much it is needed, if it can be done without. Those who listen only hear when something changes, and come back.
    pub(super) fn idleness(&self) -> Option<Idleness> {
        let state = self.state();
        let is_idle = state.requests.values().all(|r| r.is_listen);
        is_idle.then(|| Idleness { is_abandoned: false, is_heard: !state.requests.is_empty(), since: state.used })
    }

    /// Does nobody wait for it or listen to it?
    pub(super) fn is_unheard(&self) -> bool {
        self.state().requests.is_empty()
    }

    /// When it was last used.
    pub(super) fn used(&self) -> Instant {
        self.state().used
    }

    /// Ends the process, in order.
    pub(super) fn end(&self) {
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
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }
}

impl State {
    fn write(&self, text: String) -> Result<(), Full> {
        self.child.as_ref().ok_or(Full)?.send(text.into_bytes())
    }

    /// Has a client hear an answer that the child was not asked for, on the child's thread as all others.
    fn answer_by_itself(&self, client: u64, text: String) -> Result<(), Full> {
        if let (Some(child), Some(client)) = (&self.child, self.clients.get(&client)) {
            child.deliver(client.listener.clone(), text.into_bytes());
        }
        Ok(())
    }

    fn initialize(&mut self, client: u64, message: &Message<'_>) -> Result<(), Full> {
        let raw_id = message.raw_id().map_or("null", RawValue::get);
        match &mut self.handshake {
            Handshake::None => self.ask(client, "initialize", message, None),
            Handshake::Waiting(clients) => {
                clients.push((client, raw_id.to_string()));
                Ok(())
            }
            Handshake::Done(result) => {
                let answer = answer_with(raw_id, result);
                self.answer_by_itself(client, answer)
            }
        }
    }

    fn ask(
        &mut self,
        client: u64,
        method: &str,
        message: &Message<'_>,
        subscribes_to: Option<String>,
    ) -> Result<(), Full> {
        let (Kind::Request { id, .. }, Some(raw_id)) = (&message.kind, message.raw_id()) else { return Ok(()) };
        let Some(user) = self.clients.get(&client).map(|c| c.user.clone()) else { return Ok(()) };
        let in_flight = self.requests.len();
        if in_flight >= MAX_REQUESTS
            || (in_flight >= MAX_REQUESTS_OF_USER
                && self.requests.values().filter(|r| r.user == user).count() >= MAX_REQUESTS_OF_USER)
        {
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
        let (id, raw_id) = (id.clone(), raw_id.get().into());
        let is_listen = method == LISTEN;
        self.requests.insert(number, Request { client, user, id, raw_id, raw_token, is_listen, subscribes_to });
        Ok(())
    }

    fn number_of(&self, client: u64, id: &Id) -> Option<i64> {
        self.requests.iter().find(|(_, r)| r.client == client && r.id == *id).map(|(number, _)| *number)
    }

    /// The resource that a request subscribes to, if it does. The error is the answer, where the child is not to be
    /// bothered with the request.
    fn subscription(&mut self, client: u64, method: &str, message: &Message<'_>) -> Result<Option<String>, String> {
        if !matches!(method, "resources/subscribe" | "resources/unsubscribe") {
            return Ok(None);
        }
        let raw_id = message.raw_id().map_or("null", RawValue::get);
        let uri = message.param(&["uri"]).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let (Some(uri), Some(own)) = (uri, self.clients.get_mut(&client)) else { return Ok(None) };
        if method == "resources/unsubscribe" {
            own.subscriptions.remove(&uri);
            // Others go on hearing of it.
            return if self.is_wanted(&uri) { Err(answer_with(raw_id, "{}")) } else { Ok(None) };
        }
        let held = own.subscriptions.len();
        let asked = self.requests.values().filter(|r| r.client == client && r.subscribes_to.is_some()).count();
        if held + asked >= MAX_SUBSCRIPTIONS || uri.len() > MAX_URI {
            return Err(error_message(raw_id, INTERNAL_ERROR, "too many subscriptions, or too long a URI"));
        }
        Ok(Some(uri))
    }

    /// The child has agreed to a subscription, or not: what it refused gives nobody anything to hear.
    fn subscribed(&mut self, client: u64, uri: &str, has_agreed: bool) {
        if let Some(client) = self.clients.get_mut(&client).filter(|_| has_agreed) {
            client.subscriptions.insert(uri.into());
        } else if !self.is_wanted(uri) {
            // It may have agreed for another before, who has gone since.
            self.unsubscribe(uri);
        }
    }

    /// Is anybody subscribed to it, or about to be?
    fn is_wanted(&self, uri: &str) -> bool {
        self.clients.values().any(|c| c.subscriptions.contains(uri))
            || self.requests.values().any(|r| r.subscribes_to.as_deref() == Some(uri))
    }

    fn unsubscribe(&mut self, uri: &str) {
        let unsubscribe =
            json!({"jsonrpc": "2.0", "id": self.next, "method": "resources/unsubscribe", "params": {"uri": uri}});
        self.next += 1;
        let _ = self.write(unsubscribe.to_string());
    }

    /// A client has gone: what the child does for nobody else is called off.
    fn leave(&mut self, client: u64) -> Option<Client> {
        let gone = self.clients.remove(&client);
        if let Handshake::Waiting(clients) = &mut self.handshake {
            clients.retain(|(waiting, _)| *waiting != client);
        }
        let left: Vec<(i64, Request)> = self.requests.extract_if(|_, r| r.client == client).collect();
        for (number, _) in &left {
            let params = json!({"requestId": number, "reason": "the client went away"});
            let cancelled = json!({"jsonrpc": "2.0", "method": "notifications/cancelled", "params": params});
            let _ = self.write(cancelled.to_string());
        }
        let asked = left.iter().filter_map(|(_, r)| r.subscribes_to.as_ref());
        for uri in gone.iter().flat_map(|c| &c.subscriptions).chain(asked) {
            if !self.is_wanted(uri) {
                self.unsubscribe(uri);
            }
        }
        gone
    }

    fn to(&self, client: u64, text: String) -> Deliveries {
        self.clients.get(&client).map(|c| (c.listener.clone(), text)).into_iter().collect()
    }

    fn to_all(&self, text: &str, concerned: impl Fn(&Client) -> bool) -> Deliveries {
        self.clients.values().filter(|c| concerned(c)).map(|c| (c.listener.clone(), text.into())).collect()
    }

    /// The child has answered `initialize`; with an error it is of no use to anybody, and another may be.
    fn initialized(&mut self, message: &Message<'_>, is_error: bool) -> (Deliveries, Option<Child>) {
        let Handshake::Waiting(clients) = &mut self.handshake else { return (Vec::new(), None) };
        let clients = std::mem::take(clients);
        let Some(raw) = message.raw_id() else { return (Vec::new(), None) };
        let answers = clients.iter().flat_map(|(client, id)| self.to(*client, message.splice(&[(raw, id)]))).collect();
        match message.result().filter(|_| !is_error) {
            Some(result) => {
                self.handshake = Handshake::Done(result.get().into());
                let _ = self.write(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.into());
                (answers, None)
            }
            None => {
                self.has_ended = true;
                (answers, self.child.take())
            }
        }
    }

    /// A notification goes to whom it is for. What may tell one client of another goes to nobody.
    fn notified(&mut self, method: &str, message: &Message<'_>) -> Deliveries {
        let number_of = |raw: &RawValue| match Id::of(raw) {
            Some(Id::Number(number)) => Some(number),
            _ => None,
        };
        if let Some(raw) = message.param(SUBSCRIPTION) {
            let Some(request) = number_of(raw).and_then(|n| self.requests.get(&n)) else { return Vec::new() };
            return self.to(request.client, message.splice(&[(raw, &request.raw_id)]));
        }
        let is_modern = matches!(self.handshake, Handshake::None);
        match method {
            "notifications/progress" => {
                let Some(raw) = message.progress_token() else { return Vec::new() };
                let Some(request) = number_of(raw).and_then(|n| self.requests.get(&n)) else { return Vec::new() };
                let Some(token) = &request.raw_token else { return Vec::new() };
                self.to(request.client, message.splice(&[(raw, token)]))
            }
            // Drafts of the 2026-07-28 revision end a subscription so.
            "notifications/cancelled" => {
                let Some(raw) = message.param(&["requestId"]) else { return Vec::new() };
                let Some(request) = number_of(raw).and_then(|n| self.requests.remove(&n)) else { return Vec::new() };
                let error = error_message(&request.raw_id, INTERNAL_ERROR, "the MCP server has ended this request");
                let mut told = self.to(request.client, message.splice(&[(raw, &request.raw_id)]));
                told.extend(self.to(request.client, error));
                told
            }
            "notifications/tools/list_changed"
            | "notifications/prompts/list_changed"
            | "notifications/resources/list_changed"
                if !is_modern =>
            {
                self.to_all(message.text(), |_| true)
            }
            "notifications/resources/updated" if !is_modern => {
                let uri: Option<String> = message.param(&["uri"]).and_then(|raw| serde_json::from_str(raw.get()).ok());
                let concerns = |of: &String| uri.as_ref().is_some_and(|uri| is_at_or_below(uri, of));
                self.to_all(message.text(), |c| c.subscriptions.iter().any(concerns))
            }
            // With one request in flight there is no doubt which it belongs to, where all are of one client.
            _ if self.is_of_one => {
                let mut asked = self.requests.values().filter(|r| !r.is_listen);
                match (asked.next().map(|r| r.client), asked.next()) {
                    (Some(client), None) => self.to(client, message.text().into()),
                    _ => Vec::new(),
                }
            }
            _ => Vec::new(),
        }
    }
}

/// Is `uri` the resource, or one below it?
fn is_at_or_below(uri: &str, resource: &str) -> bool {
    let Some(rest) = uri.strip_prefix(resource) else { return false };
    rest.is_empty() || (!resource.is_empty() && (resource.ends_with('/') || rest.starts_with('/')))
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
        let gone = self.shared.state().leave(self.client);
        drop(gone);
    }
}
