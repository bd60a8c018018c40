//! Who is who: the names that tokens, rows and log lines carry, as types.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

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
    /// A user: provider and stable subject, never an e-mail address. `password` is the one who knows the password.
    UserId
}
name! {
    /// A registered client (RFC 6749 section 2.2).
    ClientId
}
name! {
    /// One authorization of one client by one user; two devices have two.
    GrantId
}
name! {
    /// A browser session.
    SessionId
}
name! {
    /// Names the credential that a user signed in with without revealing it, so that replacing it ends what it began.
    CredentialId
}

/// The scope that every access token has.
pub const SCOPE: &str = "mcp";
/// Asked for by some clients before they expect a refresh token; never in a challenge.
pub const OFFLINE_ACCESS: &str = "offline_access";

/// A person who has signed in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Who.
    pub id: UserId,
    /// A verified address, where the provider has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// With what.
    pub credential: CredentialId,
}

/// On whose behalf a request to the resource is made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// The user.
    pub user: UserId,
    /// The user's verified address.
    pub email: Option<String>,
    /// The client that the user authorized.
    pub client: ClientId,
    /// The authorization.
    pub grant: GrantId,
    /// When the token that shows it runs out.
    pub expires_at: Timestamp,
    /// What a provider says of the user; `None` for those who signed in by password.
    pub person: Option<Arc<UserRecord>>,
}

/// What a provider says of a person, as far as it is wanted here.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserProfile {
    /// What allow rules compare: e-mail address, login, or another claim. Absent when the provider does not vouch for it.
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
    /// The tenant that the person belongs to, where the provider serves many.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Allowed attributes that the person has, as `pointer=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attributes: Vec<String>,
}

impl UserProfile {
    /// The groups in one text, with commas between them; those in names are `%2C`, and percent signs `%25`.
    pub fn group_list(&self) -> String {
        let encoded = self.groups.iter().map(|g| g.replace('%', "%25").replace(',', "%2C"));
        encoded.collect::<Vec<_>>().join(",")
    }
}

/// Provider and stable subject, with what the provider says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProviderUser {
    /// Who.
    pub user: UserId,
    /// What is said of them.
    pub profile: UserProfile,
}

/// Which of the providers.
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

    /// The one that is called so.
    pub fn of(text: &str) -> Option<ProviderId> {
        ProviderId::ALL.into_iter().find(|slug| slug.as_str() == text)
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

/// Somebody who has signed in at a provider, and what it said of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    /// Who.
    pub user: UserId,
    /// At which provider.
    pub provider: ProviderId,
    /// As which client the proxy asked it.
    pub credential: CredentialId,
    /// What it said.
    #[serde(rename = "identity")]
    pub profile: UserProfile,
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
