//! Types for identities: the ids in tokens, rows and log lines, and the profiles of users.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::clock::Timestamp;

macro_rules! name {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub String);

        impl $name {
            /// As text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

name! {
    /// A user: provider and stable subject, never an e-mail address. `password` is the user who signs in with a
    /// password.
    UserId
}
name! {
    /// A registered client (RFC 6749 section 2.2).
    ClientId
}
name! {
    /// One authorization of one client by one user; the same client on two devices has two grants.
    GrantId
}
name! {
    /// A browser session.
    SessionId
}
name! {
    /// Identifies the credential that a user signed in with, without revealing it. Replacing the credential changes the
    /// id, and so makes its sessions and grants invalid.
    CredentialId
}

impl UserId {
    /// The user that a client is which acts for itself.
    pub fn of_client(client: &ClientId) -> UserId {
        UserId(format!("client:{client}"))
    }

    /// The user that an API key is.
    pub fn of_api_key(name: &str) -> UserId {
        UserId(format!("key:{name}"))
    }
}

impl CredentialId {
    /// The credential of a client that acts for itself. The ids of passwords and providers have no colon.
    pub fn of_client(client: &ClientId) -> CredentialId {
        CredentialId(format!("client:{client}"))
    }

    /// The credential of users that a trusted issuer names.
    pub fn of_issuer(name: &str) -> CredentialId {
        CredentialId(format!("issuer:{name}"))
    }
}

impl GrantId {
    /// What stands for the grant of an API key, which has none.
    pub fn of_api_key(name: &str) -> GrantId {
        GrantId(format!("key:{name}"))
    }
}

/// The scope that every access token has.
pub const SCOPE: &str = "mcp";
/// A scope that some clients request before they expect a refresh token. It is never part of a challenge
/// (WWW-Authenticate).
pub const OFFLINE_ACCESS: &str = "offline_access";

/// A person who has signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// A verified address, where the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// The credential that the user signed in with.
    pub credential: CredentialId,
}

/// The user and client that a request to the resource acts for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// The user's verified address.
    pub email: Option<String>,
    /// The client that the user authorized.
    pub client: ClientId,
    /// The grant that the token belongs to.
    pub grant: GrantId,
    /// When the access token expires.
    pub expires_at: Timestamp,
    /// Who says something about the user; `None` for users who signed in by password, clients and API keys.
    pub person: Option<Voucher>,
}

/// Who vouches for a user, and what is said about the user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Voucher {
    /// The provider where the user signed in.
    Provider(Arc<UserRecord>),
    /// A trusted issuer.
    Issuer(Arc<Asserted>),
}

impl Voucher {
    /// The name of the provider or issuer.
    pub fn name(&self) -> &str {
        match self {
            Voucher::Provider(record) => record.provider.as_str(),
            Voucher::Issuer(asserted) => &asserted.issuer,
        }
    }

    /// What it says.
    pub fn profile(&self) -> &UserProfile {
        match self {
            Voucher::Provider(record) => &record.profile,
            Voucher::Issuer(asserted) => &asserted.profile,
        }
    }
}

/// What a trusted issuer has asserted about a user or a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asserted {
    /// The name of the issuer in the file of trusted issuers.
    pub issuer: String,
    /// The profile.
    pub profile: UserProfile,
    /// When the assertion expires.
    pub exp: Timestamp,
}

/// What a provider says about a user, as far as the proxy uses it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserProfile {
    /// The id that allow rules compare: e-mail address, login, or another claim. `None` if the claim is missing, or if
    /// it is an e-mail address that is not verified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// A verified e-mail address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// How the person is called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Groups; with GitHub, those of the allowed organisations and teams that the person is an active member of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The Google Workspace organisation (`hd`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub workspace: Option<String>,
    /// The person's tenant, if the provider is multi-tenant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// The attributes of the allow rules that the person has, as `pointer=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
    /// The claims that `--header-mapping` names, by their JSON pointer.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub mapped: BTreeMap<String, Value>,
}

impl UserProfile {
    /// The groups joined with commas. A comma in a group name becomes `%2C`, and a percent sign `%25`.
    pub fn group_list(&self) -> String {
        let encoded = self.groups.iter().map(|g| g.replace('%', "%25").replace(',', "%2C"));
        encoded.collect::<Vec<_>>().join(",")
    }
}

/// A user of a provider, with the profile that the provider sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUser {
    /// Who.
    pub user: UserId,
    /// The user's profile.
    pub profile: UserProfile,
}

/// Provider id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProviderId {
    /// Google.
    Google,
    /// GitHub.
    GitHub,
    /// Another, by OpenID Connect.
    Oidc,
}

impl ProviderId {
    /// All of them, in the order of the sign-in page.
    pub const ALL: [ProviderId; 3] = [ProviderId::Google, ProviderId::GitHub, ProviderId::Oidc];

    /// As in URLs.
    pub fn as_str(self) -> &'static str {
        match self {
            ProviderId::Google => "google",
            ProviderId::GitHub => "github",
            ProviderId::Oidc => "oidc",
        }
    }

    /// Parses a provider id.
    pub fn of(text: &str) -> Option<ProviderId> {
        ProviderId::ALL.into_iter().find(|id| id.as_str() == text)
    }

    /// Where the provider sends the browser back to.
    pub fn callback(self) -> &'static str {
        match self {
            ProviderId::Google => "/.auth/google/callback",
            ProviderId::GitHub => "/.auth/github/callback",
            ProviderId::Oidc => "/.auth/oidc/callback",
        }
    }
}

impl fmt::Display for ProviderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The stored record of a user who has signed in at a provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Who.
    pub user: UserId,
    /// The provider.
    pub provider: ProviderId,
    /// The credential (provider and client id) that the user signed in with.
    pub credential: CredentialId,
    /// The profile that the provider sent.
    #[serde(rename = "identity")]
    pub profile: UserProfile,
    /// The provider's tokens for asking about the user again; encrypted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens: Option<String>,
    /// Digest of the allow rules when the provider was asked. The profile depends on them: GitHub is asked only for the
    /// memberships that the rules name.
    pub rules: String,
    /// When the user first signed in, or signed in again after a denial. Sessions and grants from before this time are
    /// invalid.
    pub since: Timestamp,
    /// When the provider was last asked; 0 means that the record counts as deleted.
    pub asked_at: Timestamp,
    /// End.
    pub expires_at: Timestamp,
}
