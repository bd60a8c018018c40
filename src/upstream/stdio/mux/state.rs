//! The state of a shared process, behind its lock: clients, requests in flight, and message routing.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::json;
use serde_json::value::RawValue;

use crate::identity::UserId;
use crate::mcp::jsonrpc::{INTERNAL_ERROR, error_message};
use crate::mcp::message::{Id, Kind, Message};
use crate::upstream::stdio::process::child::Child;
use crate::upstream::stdio::process::inbox::{Full, Listener};

/// Requests of all clients in flight.
const MAX_REQUESTS: usize = 4_096;
/// Requests of one user in flight.
const MAX_REQUESTS_OF_USER: usize = MAX_REQUESTS / 4;
/// Resources that one client is subscribed to.
const MAX_SUBSCRIPTIONS: usize = 256;
/// Maximum length of the URI of a subscribed resource, in bytes.
const MAX_URI: usize = 4 << 10;
/// The request id of the proxy's own `initialize`.
pub(crate) const OWN_INITIALIZE: i64 = 0;
/// In a notification of the 2026-07-28 revision: the id of the `subscriptions/listen` request that it belongs to.
pub(crate) const SUBSCRIPTION: &[&str] = &["_meta", "io.modelcontextprotocol/subscriptionId"];
/// The method that the server answers with a long-lived stream of notifications.
pub(crate) const LISTEN: &str = "subscriptions/listen";

pub(crate) struct State {
    pub(super) child: Option<Child>,
    pub(super) has_ended: bool,
    /// How long the process lived, if it ended by itself.
    pub(super) lived: Option<Duration>,
    pub(super) started: Instant,
    /// The next number. Each number replaces the id and the progress token of one request.
    pub(super) next: i64,
    pub(super) requests: HashMap<i64, Request>,
    pub(super) clients: HashMap<u64, Client>,
    pub(super) next_client: u64,
    pub(super) handshake: Handshake,
    pub(super) used: Instant,
    /// The process serves a single user and client, so all its messages are for that client.
    pub(super) is_of_one: bool,
}

pub(crate) struct Client {
    pub(super) user: UserId,
    pub(super) listener: Arc<dyn Listener>,
    pub(super) subscriptions: HashSet<String>,
}

pub(crate) struct Request {
    pub(super) client: u64,
    pub(super) user: UserId,
    pub(super) id: Id,
    pub(super) raw_id: String,
    pub(super) raw_token: Option<String>,
    pub(super) is_listen: bool,
    /// The resource that it subscribes to.
    pub(super) subscribes_to: Option<String>,
}

/// The progress of the `initialize` handshake. The proxy sends `initialize` once, for all clients.
pub(crate) enum Handshake {
    /// The revisions from 2026-07-28 on have no handshake.
    None,
    /// Clients that wait for the result, with the ids of their requests.
    Waiting(Vec<(u64, String)>),
    Done(String),
}

/// Messages for clients. Deliver them without holding a lock, because the listeners take their own locks.
pub(crate) type Deliveries = Vec<(Arc<dyn Listener>, String)>;

impl State {
    pub(crate) fn write(&self, text: String) -> Result<(), Full> {
        self.child.as_ref().ok_or(Full)?.send(text.into_bytes())
    }

    /// Sends a client an answer that the proxy made itself. The process's I/O thread delivers it, like all other
    /// messages.
    pub(crate) fn answer_by_itself(&self, client: u64, text: String) -> Result<(), Full> {
        if let (Some(child), Some(client)) = (&self.child, self.clients.get(&client)) {
            child.deliver(client.listener.clone(), text.into_bytes());
        }
        Ok(())
    }

    pub(crate) fn initialize(&mut self, client: u64, message: &Message<'_>) -> Result<(), Full> {
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

    pub(crate) fn ask(
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

    pub(crate) fn number_of(&self, client: u64, id: &Id) -> Option<i64> {
        self.requests.iter().find(|(_, r)| r.client == client && r.id == *id).map(|(number, _)| *number)
    }

    /// Returns the URI of the resource that a request subscribes to, if any. `Err` is the proxy's own answer, if the
    /// request must not be sent to the process.
    pub(crate) fn subscription(
        &mut self,
        client: u64,
        method: &str,
        message: &Message<'_>,
    ) -> Result<Option<String>, String> {
        if !matches!(method, "resources/subscribe" | "resources/unsubscribe") {
            return Ok(None);
        }
        let raw_id = message.raw_id().map_or("null", RawValue::get);
        let uri = message.param(&["uri"]).and_then(|raw| serde_json::from_str::<String>(raw.get()).ok());
        let (Some(uri), Some(own)) = (uri, self.clients.get_mut(&client)) else { return Ok(None) };
        if method == "resources/unsubscribe" {
            own.subscriptions.remove(&uri);
            // While other clients are subscribed, the process must stay subscribed.
            return if self.is_wanted(&uri) { Err(answer_with(raw_id, "{}")) } else { Ok(None) };
        }
        let held = own.subscriptions.len();
        let asked = self.requests.values().filter(|r| r.client == client && r.subscribes_to.is_some()).count();
        if held + asked >= MAX_SUBSCRIPTIONS || uri.len() > MAX_URI {
            return Err(error_message(raw_id, INTERNAL_ERROR, "too many subscriptions, or too long a URI"));
        }
        Ok(Some(uri))
    }

    /// Handles the process's answer to a subscription. A refused one is not recorded, so it delivers no updates.
    pub(crate) fn subscribed(&mut self, client: u64, uri: &str, has_agreed: bool) {
        if let Some(client) = self.clients.get_mut(&client).filter(|_| has_agreed) {
            client.subscriptions.insert(uri.into());
        } else if !self.is_wanted(uri) {
            // The process may still be subscribed for another client, which left while this request was in flight.
            self.unsubscribe(uri);
        }
    }

    /// Is anybody subscribed to it, or about to be?
    pub(crate) fn is_wanted(&self, uri: &str) -> bool {
        self.clients.values().any(|c| c.subscriptions.contains(uri))
            || self.requests.values().any(|r| r.subscribes_to.as_deref() == Some(uri))
    }

    pub(crate) fn unsubscribe(&mut self, uri: &str) {
        let unsubscribe =
            json!({"jsonrpc": "2.0", "id": self.next, "method": "resources/unsubscribe", "params": {"uri": uri}});
        self.next += 1;
        let _ = self.write(unsubscribe.to_string());
    }

    /// Removes a client: cancels its requests and unsubscribes from resources that no other client wants.
    pub(crate) fn leave(&mut self, client: u64) -> Option<Client> {
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

    pub(crate) fn to(&self, client: u64, text: String) -> Deliveries {
        self.clients.get(&client).map(|c| (c.listener.clone(), text)).into_iter().collect()
    }

    pub(crate) fn to_all(&self, text: &str, concerned: impl Fn(&Client) -> bool) -> Deliveries {
        self.clients.values().filter(|c| concerned(c)).map(|c| (c.listener.clone(), text.into())).collect()
    }

    /// Handles the process's answer to `initialize`. After an error, marks the process as ended and returns it for the
    /// caller to drop, so that a new one can be started.
    pub(crate) fn initialized(&mut self, message: &Message<'_>, is_error: bool) -> (Deliveries, Option<Child>) {
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

    /// Routes a notification to the clients it is for. Drops it if it could reveal one client's data to another.
    pub(crate) fn notified(&mut self, method: &str, message: &Message<'_>) -> Deliveries {
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
            // In drafts of revision 2026-07-28, the server ends a subscription with this notification.
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
            // With a single client and a single request in flight (`subscriptions/listen` aside), it belongs to that
            // request.
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

pub(crate) fn answer_with(raw_id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{raw_id},"result":{result}}}"#)
}
