//! The types of the stored rows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::backend::Table;
use crate::clock::Timestamp;
use crate::identity::{ClientId, GrantId, SessionId, User, UserId, UserRecord};
use crate::resource_url::Resources;

/// A typed row.
pub trait Stored: Serialize + DeserializeOwned {
    /// Its table.
    const TABLE: Table;

    /// The time from which the row counts as absent.
    fn expires_at(&self) -> Timestamp;
}

/// How a client authenticates at the token endpoint (RFC 7591 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A public client, protected by PKCE.
    None,
    /// HTTP Basic.
    ClientSecretBasic,
    /// Secret in the form.
    ClientSecretPost,
}

/// A registered client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// The name that it registered; unverified.
    pub name: Option<String>,
    /// Where authorization responses may be sent.
    pub redirect_uris: Vec<String>,
    /// How it authenticates.
    pub auth_method: AuthMethod,
    /// `web` or `native`, as registered, or else derived from the redirect URIs.
    pub application_type: Option<String>,
    /// When it was registered.
    pub issued_at: Timestamp,
    /// Has a user ever authorized it? Unused clients are evicted first.
    pub used: bool,
    /// The user who authorized it first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<UserId>,
    /// The network that it was registered from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpAddr>,
    /// End.
    pub expires_at: Timestamp,
}

impl Client {
    /// The name that it registered, for the log; empty if it has none.
    pub fn shown_name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }
}

/// An authorization of a client by a user.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Grant {
    /// Its id.
    pub id: GrantId,
    /// The user.
    pub user: User,
    /// The client.
    pub client: ClientId,
    /// How the client authenticates.
    pub auth_method: AuthMethod,
    /// What it gives access to; `None` in a row of an earlier version, which is for the whole origin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// The resources are servers of a servers file. False if one server had the whole origin when it was given.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub of_file: bool,
    /// Its phase.
    pub phase: Phase,
    /// Longest lifetime of the access tokens issued for it, in seconds. Kept because the configured lifetime may be
    /// shortened later.
    pub access_token_lifetime: u64,
    /// When its code was issued, then when the code was redeemed. The grant ends a fixed time later, however often it
    /// is refreshed.
    pub created_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
}

/// The phase of a grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its authorization code to be redeemed.
    Pending {
        /// PKCE challenge.
        code_challenge: String,
        /// Must be repeated at the token endpoint, if it was given at the authorization endpoint.
        redirect_uri: String,
        /// Was it given there?
        redirect_uri_given: bool,
    },
    /// Its code was redeemed, and its refresh tokens rotate.
    Active {
        /// Which of its refresh tokens are valid.
        #[serde(flatten)]
        rotation: Rotation,
        /// Kept to check a second redemption of the code: only one with the right parameters revokes the grant.
        code_challenge: String,
        /// Likewise.
        redirect_uri: String,
        /// Likewise.
        redirect_uri_given: bool,
    },
    /// Ended before it expired.
    Revoked,
}

/// The state of a grant's refresh token rotation. Each rotation starts a new generation. If the answer was lost, a new
/// attempt replaces the previous one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The generation of the newest token.
    pub generation: u64,
    /// The attempt of the newest token within its generation; earlier attempts were replaced.
    #[serde(default)]
    pub attempt: u64,
    /// When it was made.
    pub since: Timestamp,
    /// `attempt` and `since` of the token that was exchanged to start this generation; `None` for the first generation.
    #[serde(default)]
    pub parent: Option<(u64, Timestamp)>,
    /// When this generation began.
    #[serde(default)]
    pub rotated_at: Timestamp,
    /// Has an access token of the newest attempt been used? Then the client has received it, and the parent can't get
    /// another attempt.
    pub seen: bool,
}

/// A browser session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who signed in.
    pub user: User,
    /// When the user signed in. The session also ends when the currently configured lifetime has passed since then.
    #[serde(default)]
    pub created_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
}

/// A remembered consent, with user × client × redirect host × resources as its key. A row with user × client as its key names their
/// newest grant instead.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    /// The user's newest grant for the client; `None` in a remembered consent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// End.
    pub expires_at: Timestamp,
}

/// A grant whose access tokens are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revocation {
    /// When the last of its access tokens has expired.
    pub expires_at: Timestamp,
}

/// Access tokens of a grant that are refused because a later attempt replaced theirs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Superseded {
    /// For each generation: its number, the first valid attempt, and when the last refused access token has expired.
    pub generations: Vec<(u64, u64, Timestamp)>,
    /// End.
    pub expires_at: Timestamp,
}

/// A session of an MCP client with a stdio server: the messages that another child process needs to continue it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct McpSession {
    /// Its name.
    pub name: String,
    /// Its user.
    pub user: UserId,
    /// The user's verified address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Its client.
    pub client: ClientId,
    /// The name of its server; `None` for the one server of the command line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub server: Option<String>,
    /// The client's `initialize` request.
    pub initialize: String,
    /// The result of the `initialize` request.
    pub answer: String,
    /// The client's `notifications/initialized`, once it has sent it.
    pub initialized: Option<String>,
    /// The client's last `logging/setLevel` request.
    pub log_level: Option<String>,
    /// The client's `resources/subscribe` requests, by URI.
    pub subscriptions: BTreeMap<String, String>,
    /// End.
    pub expires_at: Timestamp,
}

/// A password that is or was configured. The key is its credential id, computed without `returns`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownPassword {
    /// How often it was configured again after it had been removed. Each time it gets a new credential id, so that what
    /// was started with the old one stays ended.
    pub returns: u32,
    /// Was it configured at the last start?
    pub is_configured: bool,
    /// End.
    pub expires_at: Timestamp,
}

macro_rules! stored {
    ($($row:ident in $table:ident),*) => {$(
        impl Stored for $row {
            const TABLE: Table = Table::$table;
            fn expires_at(&self) -> Timestamp {
                self.expires_at
            }
        }
    )*};
}
stored!(Client in Clients, Grant in Grants, Session in Sessions, Consent in Consents, Revocation in Revocations, Superseded in Superseded, McpSession in McpSessions, UserRecord in People, KnownPassword in Passwords);
