//! What nearly every handler needs: the external URL, the keys, the stored state, the lifetimes, and the time.

use std::sync::Arc;

use crate::clock::Timestamp;
use crate::pages::Site;
use crate::store::State;
use crate::tokens::Keys;
use crate::url::ExternalUrl;

/// Shared by all requests. Modules that need more have their own struct that contains this one.
pub struct Core {
    /// The issuer and the audience of every token.
    pub external: ExternalUrl,
    /// What all pages have in common.
    pub site: Site,
    /// Signs, encrypts and verifies.
    pub keys: Keys,
    /// What survives a restart.
    pub state: Arc<State>,
    /// How long things last.
    pub lifetimes: Lifetimes,
}

impl Core {
    /// Now, in seconds since 1970.
    pub fn now(&self) -> Timestamp {
        self.state.clock().now()
    }

    /// An absolute URL on the external origin.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.external.origin)
    }
}

/// How long things last, in seconds.
#[derive(Clone, Copy, Debug)]
pub struct Lifetimes {
    /// An access token.
    pub access_token: u64,
    /// A grant that is not refreshed.
    pub refresh_idle: u64,
    /// A grant, however often it is refreshed.
    pub refresh_total: u64,
    /// A browser session.
    pub session: u64,
    /// A remembered consent.
    pub consent: u64,
    /// What a provider said about a user, when it can't be asked again.
    pub identity: u64,
}
