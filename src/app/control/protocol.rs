//! Requests and answers of the control socket.

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::store::rows::{ClientKeys, GrantType};

/// A request. Members that are not known are refused: a misspelt condition must not end everything.
#[derive(Debug, Deserialize, Serialize)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub(super) enum ControlRequest {
    /// How the proxy is.
    Status {},
    /// Read files again, as SIGHUP does.
    Reload {},
    /// Copy the data directory: the copy follows the answer.
    Backup {},
    /// All clients.
    ClientsList {},
    /// Register a client.
    ClientsAdd(NewClient),
    /// Remove a client, and end what it was given.
    ClientsRemove {
        /// Its id.
        client_id: String,
    },
    /// All API keys.
    KeysList {},
    /// Make an API key.
    KeysAdd {
        /// Its name.
        name: String,
        /// Names of servers; empty for all.
        #[serde(default)]
        servers: Vec<String>,
        /// Lifetime in seconds.
        lifetime: u64,
    },
    /// End an API key.
    KeysRevoke {
        /// Its name.
        name: String,
    },
    /// Replace the keys that sign.
    KeysRotate {
        /// The old ones verify nothing any more.
        compromised: bool,
    },
    /// Grants that can be used.
    GrantsList(Which),
    /// End grants.
    GrantsRevoke(Which),
    /// All users.
    UsersList {},
    /// End the browser sessions of a user.
    UsersSignOut {
        /// An id or an e-mail address.
        user: String,
        /// End what the user's applications were given, too.
        #[serde(default)]
        apps: bool,
    },
    /// MCP sessions with stdio servers.
    SessionsList {},
}

/// Which grants are meant: those that fit all conditions.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Which {
    /// These.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) grants: Vec<String>,
    /// Those of a user: an id or an e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) user: Option<String>,
    /// Those of a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) client_id: Option<String>,
    /// Those that were given before this time, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) before: Option<u64>,
    /// All.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) all: bool,
}

impl Which {
    /// Is there no condition at all?
    pub(super) fn is_empty(&self) -> bool {
        let has_condition = self.user.is_some() || self.client_id.is_some() || self.before.is_some();
        !has_condition && self.grants.is_empty() && !self.all
    }
}

/// A client to register.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewClient {
    /// Its name, which is its id too.
    pub(super) name: String,
    /// How it may get tokens.
    #[serde(default)]
    pub(super) grant_types: Vec<GrantType>,
    /// Names of servers; empty for all.
    #[serde(default)]
    pub(super) servers: Vec<String>,
    /// Redirect URIs, for a client that a person allows.
    #[serde(default)]
    pub(super) redirect_uris: Vec<String>,
    /// It has no secret.
    #[serde(default)]
    pub(super) public: bool,
    /// It has public keys instead of a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) keys: Option<ClientKeys>,
    /// It may ask about tokens.
    #[serde(default)]
    pub(super) introspect: bool,
    /// Lifetime of its access tokens, in seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) token_lifetime: Option<u64>,
}

/// An answer.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct ControlAnswer {
    /// Was it done?
    pub(super) ok: bool,
    /// What came of it.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub(super) result: Value,
    /// Why it was not done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) error: Option<String>,
}

impl From<Result<Value, String>> for ControlAnswer {
    fn from(outcome: Result<Value, String>) -> ControlAnswer {
        match outcome {
            Ok(result) => ControlAnswer { ok: true, result, error: None },
            Err(error) => ControlAnswer { ok: false, result: Value::Null, error: Some(error) },
        }
    }
}
