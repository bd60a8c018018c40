//! The rows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::backend::Table;
use crate::clock::Timestamp;
use crate::identity::{ClientId, GrantId, SessionId, User, UserId, UserRecord};

/// A typed row.
pub trait Stored: Serialize + DeserializeOwned {
    /// Its table.
    const TABLE: Table;

    /// When it counts as absent.
    fn expires_at(&self) -> Timestamp;
}

/// How a client authenticates at the token endpoint (RFC 7591 section 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthMethod {
    /// A public client: PKCE is what protects it.
    None,
    /// HTTP Basic.
    ClientSecretBasic,
    /// In the form.
    ClientSecretPost,
}

/// A registered client.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// Its id.
    pub id: ClientId,
    /// What it calls itself; unverified.
    pub name: Option<String>,
    /// Where answers may go.
    pub redirect_uris: Vec<String>,
    /// How it authenticates.
    pub auth_method: AuthMethod,
    /// `web` or `native`, as it said.
    pub application_type: Option<String>,
    /// Registered at.
    pub issued_at: Timestamp,
    /// Has a user ever authorized it? Those that nobody did go first.
    pub used: bool,
    /// Who did so first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub used_by: Option<UserId>,
    /// The network that it was registered from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub network: Option<IpAddr>,
    /// End.
    pub expires_at: Timestamp,
}

impl Client {
    /// What it calls itself, for the log; empty where it has no name.
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
    /// Where it stands.
    pub phase: Phase,
    /// Longest lifetime of an access token of it, in seconds, whatever the configuration says later.
    pub access_token_lifetime: u64,
    /// When the user gave it; it ends a fixed time later however busy it is.
    pub created_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
}

/// Where a grant stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Waits for its authorization code.
    Pending {
        /// PKCE challenge.
        code_challenge: String,
        /// Must be repeated at the token endpoint, if it was given at the authorization endpoint.
        redirect_uri: String,
        /// Was it?
        redirect_uri_given: bool,
    },
    /// Its code was redeemed; refresh tokens follow one another.
    Active {
        /// Which of its refresh tokens are good.
        #[serde(flatten)]
        rotation: Rotation,
        /// Kept so that a second redemption of the code is recognised as genuine.
        code_challenge: String,
        /// Likewise.
        redirect_uri: String,
        /// Likewise.
        redirect_uri_given: bool,
    },
    /// Ended before its time.
    Revoked,
}

/// Where the refresh tokens of a grant stand. Each rotation begins a generation; where the answer was lost, another
/// attempt takes the place of the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rotation {
    /// The newest token's number.
    pub generation: u64,
    /// Which of that generation's attempts it is; earlier ones were replaced.
    #[serde(default)]
    pub attempt: u64,
    /// When it was made.
    pub since: Timestamp,
    /// Attempt and making of the token that was rotated into this generation.
    #[serde(default)]
    pub parent: Option<(u64, Timestamp)>,
    /// When this generation began.
    #[serde(default)]
    pub rotated_at: Timestamp,
    /// Has a token of the newest attempt been seen? Then the client has it, and the parent is dead.
    pub seen: bool,
}

/// A browser session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who signed in.
    pub user: User,
    /// When. How long it lasts is judged by the lifetime of the moment.
    #[serde(default)]
    pub created_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
}

/// A remembered consent: user × client × redirect host is its key. That of user × client tells the newest grant.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    /// The newest grant of the user to the client, where that is what the row is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub grant: Option<GrantId>,
    /// End.
    pub expires_at: Timestamp,
}

/// A grant whose access tokens are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revocation {
    /// When the last of its access tokens has run out by itself.
    pub expires_at: Timestamp,
}

/// Access tokens of a grant that are refused, since another attempt took the place of theirs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Superseded {
    /// Of each generation, the first attempt that is good, and until when that matters.
    pub generations: Vec<(u64, u64, Timestamp)>,
    /// End.
    pub expires_at: Timestamp,
}

/// A session of an MCP client with a stdio server: what another child has to be told to go on with it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct McpSession {
    /// Its name.
    pub name: String,
    /// Whose it is.
    pub user: UserId,
    /// The user's verified address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// With which client.
    pub client: ClientId,
    /// The client's `initialize` request.
    pub initialize: String,
    /// The result of it.
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

/// A password that is or was configured, under the name of its credential.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct KnownPassword {
    /// How often it was taken up again after it had been dropped: what it began before has ended.
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
