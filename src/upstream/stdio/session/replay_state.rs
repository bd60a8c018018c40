//! The messages that bring a new process to the state of the old one.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::mcp::message::Message;

/// Bytes of one message that is remembered.
pub(crate) const MAX_REMEMBERED: usize = 4 << 10;
/// Subscriptions remembered.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 256;
/// Prefix of the ids of replayed requests, which repeat the client's requests to an earlier process.
pub(crate) const REPLAYED: &str = "mcp-auth-proxy:replay:";

/// The client's messages that a new process must receive, and the old answer to `initialize`.
#[derive(Clone, Default)]
pub(crate) struct ReplayState {
    pub(super) initialize: String,
    /// The result of `initialize`.
    pub(super) answer: Option<String>,
    pub(super) initialized: Option<String>,
    pub(super) log_level: Option<String>,
    pub(super) subscriptions: BTreeMap<String, String>,
}

/// What a request changes in a child's state, if it succeeds.
pub(crate) enum Remember {
    LogLevel(String),
    Subscribed(String, String),
    Unsubscribed(String),
}

/// Returns what to remember for a new process, if the server accepts the request.
pub(crate) fn remember(method: &str, request: &Message<'_>) -> Option<Remember> {
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

impl ReplayState {
    /// Returns the messages to send to a new process after `initialize`.
    pub(crate) fn replay(&self) -> Vec<String> {
        let again = |(number, text): (usize, &String)| {
            let message = Message::parse(text).ok()?;
            let id = message.raw_id()?;
            Some(message.splice(&[(id, &format!("\"{REPLAYED}{number}\""))]))
        };
        let requests = self.log_level.iter().chain(self.subscriptions.values()).enumerate().filter_map(again);
        self.initialized.clone().into_iter().chain(requests).collect()
    }
}

/// Do two results of `initialize` say the same?
pub(crate) fn is_same(old: &str, new: &str) -> bool {
    let parse = |text| serde_json::from_str::<Value>(text).ok();
    old == new || parse(old).is_some_and(|old| parse(new) == Some(old))
}
