//! The types of the stored rows.

use std::collections::BTreeMap;
use std::net::IpAddr;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::backend::Table;
use crate::clock::Timestamp;
use crate::identity::{Asserted, ClientId, GrantId, SessionId, User, UserId, UserRecord};
use crate::resource_url::Resources;

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
    /// A JWT that the client has signed (RFC 7523 section 2.2).
    PrivateKeyJwt,
}

/// Where the public keys of a client are.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ClientKeys {
    /// They are known: a JWK set.
    Jwks(serde_json::Value),
    /// In a JWK set at this URL.
    JwksUri(String),
}

/// A grant type that an operator can allow a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GrantType {
    /// A user allows it (RFC 6749 section 4.1).
    #[serde(rename = "authorization_code")]
    AuthorizationCode,
    /// It acts for itself (RFC 6749 section 4.4).
    #[serde(rename = "client_credentials")]
    ClientCredentials,
    /// It acts for users that a trusted issuer names (RFC 7523 section 2.1).
    #[serde(rename = "urn:ietf:params:oauth:grant-type:jwt-bearer")]
    JwtBearer,
}

/// What the operator has registered a client for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Preregistration {
    /// How it may get tokens.
    pub grant_types: Vec<GrantType>,
    /// It is a resource server that may ask about tokens (RFC 7662).
    #[serde(default)]
    pub introspects: bool,
    /// The names of the servers that it may use, or ask about; empty for all.
    #[serde(default)]
    pub servers: Vec<String>,
    /// Lifetime of its access tokens in seconds, if it has one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_lifetime: Option<u64>,
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
    /// SHA-256 of its secret, in base64url. Empty for a client without one, and in a row of an earlier version, whose
    /// secret was derived from the id. Several if keys were rotated since.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secret_digests: Vec<String>,
    /// Its public keys.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<ClientKeys>,
    /// What the operator has registered it for; `None` for a client that has registered itself, or has a document.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preregistered: Option<Preregistration>,
    /// End.
    pub expires_at: Timestamp,
}

impl Client {
    /// The name that it registered, for the log; empty if it has none.
    pub fn shown_name(&self) -> &str {
        self.name.as_deref().unwrap_or_default()
    }

    /// May it get tokens in this way? A client that has registered itself, or has a document, needs a user for it.
    pub fn may(&self, grant_type: GrantType) -> bool {
        match &self.preregistered {
            Some(of) => of.grant_types.contains(&grant_type),
            None => grant_type == GrantType::AuthorizationCode,
        }
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
    /// What a trusted issuer has said about the user, if one has.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asserted: Option<Asserted>,
    /// When it was revoked; 0 if it was not.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub ended_at: Timestamp,
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
    /// It was given without a code, and has no refresh token: client credentials, or an assertion of a trusted issuer.
    Direct,
    /// Ended before it expired.
    Revoked,
}

fn is_zero(time: &Timestamp) -> bool {
    *time == 0
}

impl Grant {
    /// Has it been used, or can it still be?
    pub fn is_live(&self) -> bool {
        matches!(self.phase, Phase::Active { .. } | Phase::Direct)
    }
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
    /// The address that the user signed in from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The kind of browser, as it says of itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub browser: Option<String>,
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
    /// Whose consent it is, so that it can be forgotten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user: Option<UserId>,
    /// For which client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<ClientId>,
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

/// The key of a script that knows no OAuth.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its name.
    pub name: String,
    /// SHA-256 of the key, in base64url.
    pub digest: String,
    /// The names of the servers that it is good for; empty for all.
    #[serde(default)]
    pub servers: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
}

/// An assertion that a client has authenticated with (RFC 7523 section 3): it is good only once. The key is a digest of the
/// client and the assertion's `jti`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsedAssertion {
    /// When the assertion has expired.
    pub expires_at: Timestamp,
}

/// When and from where a grant or an API key was last used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastUse {
    /// When.
    pub at: Timestamp,
    /// From where.
    pub address: IpAddr,
    /// End.
    pub expires_at: Timestamp,
}

/// A typed row.
pub trait Stored: Serialize + DeserializeOwned {
    /// Its table.
    const TABLE: Table;

    /// The time from which the row counts as absent.
    fn expires_at(&self) -> Timestamp;
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
stored!(Client in Clients, Grant in Grants, Session in Sessions, Consent in Consents, Revocation in Revocations, Superseded in Superseded, McpSession in McpSessions, UserRecord in People, KnownPassword in Passwords, ApiKey in ApiKeys, UsedAssertion in Assertions, LastUse in Uses);
