//! The labels of metrics, and the words that they may have.

use prometheus_client::encoding::EncodeLabelSet;

use crate::observe::events::Kind;

/// MCP methods that have a label of their own.
pub(super) const METHODS: [&str; 17] = [
    "completion/complete",
    "initialize",
    "logging/setLevel",
    "notifications/cancelled",
    "notifications/initialized",
    "notifications/progress",
    "ping",
    "prompts/get",
    "prompts/list",
    "resources/list",
    "resources/read",
    "resources/subscribe",
    "resources/templates/list",
    "resources/unsubscribe",
    "server/discover",
    "tools/call",
    "tools/list",
];

/// The label of an MCP method: itself, or `other`.
pub fn method_label(method: &str) -> &'static str {
    METHODS.binary_search(&method).map_or("other", |place| METHODS[place])
}

/// What is before the slash in them: a class of methods that take about as long.
pub(super) const CLASSES: [&str; 9] =
    ["completion", "initialize", "logging", "notifications", "ping", "prompts", "resources", "server", "tools"];

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfDuration {
    pub(super) server: String,
    pub(super) method_class: &'static str,
    pub(super) code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfRequest {
    pub(super) server: String,
    pub(super) method: &'static str,
    pub(super) code: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfServer {
    pub(super) server: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfEvent {
    pub(super) event: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfSignIn {
    pub(super) result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfTokens {
    pub(super) grant_type: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfThrottle {
    pub(super) limit: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfError {
    pub(super) server: String,
    pub(super) kind: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfConnections {
    pub(super) state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfStore {
    pub(super) operation: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(super) struct OfLog {
    pub(super) log: &'static str,
}

/// Results of sign-ins, and the events that tell them.
pub(super) const SIGN_INS: [(Kind, &str); 7] = [
    (Kind::SignedIn, "ok"),
    (Kind::SignInFailed, "wrong_password"),
    (Kind::SignInThrottled, "throttled"),
    (Kind::SignInQueueFull, "busy"),
    (Kind::SignInRefused, "not_allowed"),
    (Kind::SignInAborted, "aborted"),
    (Kind::ProviderFailed, "provider_failed"),
];
/// Grant types, as RFC 6749 and RFC 7523 call them, and their labels.
pub(super) const GRANT_TYPES: [(&str, &str); 4] = [
    ("authorization_code", "authorization_code"),
    ("refresh_token", "refresh_token"),
    ("client_credentials", "client_credentials"),
    ("urn:ietf:params:oauth:grant-type:jwt-bearer", "jwt_bearer"),
];
/// What limits requests.
pub(super) const LIMITS: [&str; 6] = ["sign_in", "registration", "address", "user", "client", "tool"];
