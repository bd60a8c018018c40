//! Authentication of users: passwords, identity providers, browser sessions, and the throttle against password
//! guessing. The pages and endpoints that use them are in `interaction`.
//!
//! - [`password`] – password checks; [`gate`] – one per core at a time, with bounded queues
//! - [`htpasswd`] – files of users and groups
//! - [`providers`] – Google, GitHub, OpenID Connect; what they said about a user, and asking them again
//! - [`issuers`] – trusted issuers of assertions; [`api_keys`] – keys for scripts
//! - [`throttle`] – growing delays after wrong passwords
//! - [`session`] – the session, browser and device cookies

pub mod api_keys;
mod gate;
pub mod htpasswd;
pub mod issuers;
pub mod password;
pub mod providers;
pub mod session;
pub mod throttle;

use std::sync::{Arc, RwLock};

use http::HeaderMap;

use self::api_keys::ApiKeys;
use self::htpasswd::Groups;
use self::issuers::Issuers;
use self::password::{Password, Passwords};
use self::providers::Providers;
use self::providers::user_records::UserRecords;
use self::throttle::Throttle;
use crate::core::Core;
use crate::identity::{CredentialId, UserId};
use crate::lock::Unpoisoned;
use crate::store::StoreError;
use crate::store::rows::Session;

/// The configured ways to sign in, and the records of users who signed in at a provider.
pub struct Login {
    /// Keys, state and lifetimes.
    pub core: Arc<Core>,
    /// Checks passwords.
    pub passwords: Passwords,
    /// Delays password attempts after failures.
    pub throttle: Throttle,
    /// The external identity providers.
    pub providers: Arc<Providers>,
    /// What they said about their users.
    pub user_records: UserRecords,
    /// Whoever may name users or workloads without a sign-in.
    pub issuers: Issuers,
    /// The keys of scripts.
    pub api_keys: ApiKeys,
    /// The groups of users of the htpasswd file.
    groups: RwLock<Arc<Groups>>,
}

impl Login {
    /// Puts the parts together.
    pub fn new(
        core: Arc<Core>,
        passwords: Passwords,
        providers: Providers,
        groups: Groups,
        issuers: Issuers,
        api_keys: ApiKeys,
    ) -> Login {
        let providers = Arc::new(providers);
        let user_records = UserRecords::new(core.clone(), providers.clone());
        let groups = RwLock::new(Arc::new(groups));
        Login { core, passwords, throttle: Throttle::default(), providers, user_records, issuers, api_keys, groups }
    }

    /// The groups of a user of the htpasswd file; none for others.
    pub fn groups_of(&self, user: &UserId) -> Vec<String> {
        let name = user.as_str().strip_prefix("htpasswd:");
        name.and_then(|name| self.groups.read().unpoisoned().get(name).cloned()).unwrap_or_default()
    }

    /// Takes these passwords and groups instead of the current ones.
    pub fn replace_passwords(&self, passwords: &[Password], groups: Groups) -> Result<(), StoreError> {
        self.passwords.replace(passwords, &self.core.keys, &self.core.state)?;
        *self.groups.write().unpoisoned() = Arc::new(groups);
        Ok(())
    }

    /// Is `credential` a way to sign in that is configured now, a trusted issuer, or that of a client? What a client began
    /// is revoked when it is removed.
    pub fn is_current(&self, credential: &CredentialId) -> bool {
        self.passwords.is_current(credential)
            || self.providers.of_credential(credential).is_some()
            || self.issuers.of_credential(credential).is_some()
            || credential.as_str().starts_with("client:")
    }

    /// All ways to sign in that are configured now.
    pub fn current_credentials(&self) -> Vec<CredentialId> {
        let mut current = self.passwords.current();
        current.extend(self.providers.all().iter().map(|p| p.credential.clone()));
        current
    }

    /// The session of the browser that sent `headers`. `None` if it is too old, if its credential is not configured any
    /// more, or if the user may not sign in any more. This may send requests to the user's provider.
    pub fn session(&self, headers: &HeaderMap) -> Result<Option<Session>, StoreError> {
        let Some(session) = session::stored(&self.core, headers)? else { return Ok(None) };
        let is_over = self.core.now() >= session.created_at.saturating_add(self.core.lifetimes.session);
        let is_good = !is_over
            && self.is_current(&session.user.credential)
            && self.user_records.is_welcome(&session.user, session.created_at)?;
        Ok(is_good.then_some(session))
    }

    /// The device name from the device cookie, if the user with this name signed in before in this browser with a password
    /// that is still configured.
    pub fn known_device(&self, headers: &HeaderMap, name: Option<&str>) -> Option<String> {
        let cookie = session::device(&self.core, headers)?;
        self.passwords.is_of(&cookie.credential, name).then_some(cookie.device)
    }
}
