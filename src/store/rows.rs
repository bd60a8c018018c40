//! The rows.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::Table;
use crate::clock::Timestamp;
use crate::identity::{ClientId, CredentialId, GrantId, SessionId, User, UserId};
use crate::login::providers::Slug;
use crate::login::providers::rules::Identity;

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
    /// End.
    pub expires_at: Timestamp,
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
        /// The newest refresh token's number.
        generation: u64,
        /// When that token was made.
        since: Timestamp,
        /// Has a token of the newest generation been seen? Then the client has it, and the older one is dead.
        seen: bool,
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

/// A browser session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// Its id.
    pub id: SessionId,
    /// Who signed in.
    pub user: User,
    /// End.
    pub expires_at: Timestamp,
}

/// A remembered consent: user × client × redirect host is its key.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Consent {
    /// End.
    pub expires_at: Timestamp,
}

/// A grant whose access tokens are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Revocation {
    /// When the last of its access tokens has run out by itself.
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

/// Somebody who has signed in at a provider, and what it said of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPerson {
    /// Who.
    pub user: UserId,
    /// At which provider.
    pub provider: Slug,
    /// As which client the proxy asked it.
    pub credential: CredentialId,
    /// What it said.
    pub identity: Identity,
    /// What it gave to ask after them again; encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
    /// Digest of the allow rules at that time: GitHub is asked for the memberships that matter to them only.
    pub rules: String,
    /// When they were let in first, or again after they had been turned away: what began before is good for nothing.
    pub since: Timestamp,
    /// When the provider said so.
    pub asked_at: Timestamp,
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
stored!(Client in Clients, Grant in Grants, Session in Sessions, Consent in Consents, Revocation in Revocations, McpSession in McpSessions, KnownPerson in People);
