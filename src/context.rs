//! What every handler works with.

use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

use crate::clock::{Clock, Timestamp};
use crate::config::Config;
use crate::http::fetch::{Fetcher, TIMEOUT};
use crate::http::{Request, RequestId};
use crate::identity::{ClientId, CredentialId, User};
use crate::login::federation::Spent;
use crate::login::password::Passwords;
use crate::login::providers::Providers;
use crate::login::providers::people::People;
use crate::login::throttle::Throttle;
use crate::net::buckets::{Buckets, Nested};
use crate::oauth::pending::PendingCodes;
use crate::store::{State, Store, StoreError};
use crate::streams::Streams;
use crate::tokens::{Keys, Secret};

/// Configuration, keys, state and the guards against guessing, shared by all requests.
pub struct Context {
    /// What the program was told.
    pub config: Config,
    /// Signs and verifies.
    pub keys: Keys,
    /// What survives a restart.
    pub state: Arc<State>,
    /// Checks passwords.
    pub passwords: Passwords,
    /// Slows guessing down.
    pub throttle: Throttle,
    /// Registrations per address, per network and in all.
    pub registrations: Nested,
    /// Sign-ins that come back from providers, per address.
    pub returns: Buckets,
    /// Those that have come back already.
    pub spent: Spent,
    /// Authorization codes that wait to be redeemed.
    pub pending: PendingCodes,
    /// Others who say who somebody is.
    pub providers: Providers,
    /// What they said.
    pub people: People,
    /// Event streams that are open.
    pub streams: Streams,
    /// Hears of consents.
    consents: OnceLock<ConsentListener>,
}

type ConsentListener = Box<dyn Fn(&User, &ClientId) + Send + Sync>;

/// Who sent a request, as far as the network tells.
#[derive(Clone, Copy, Debug)]
pub struct Caller {
    /// The client's address, with trusted proxies looked through.
    pub address: IpAddr,
    /// The request's name in the log.
    pub id: RequestId,
}

/// A handler of one endpoint.
pub type Endpoint = fn(&Context, &mut Request<'_>, Caller) -> crate::http::Response;

impl Context {
    /// Puts the parts together; fails when the store can't be read.
    pub fn new(
        config: Config,
        secret: &Secret,
        store: Box<dyn Store>,
        clock: Arc<Clock>,
    ) -> Result<Context, StoreError> {
        let keys = Keys::new(&config.external.origin, secret, &config.previous_secrets);
        let state = Arc::new(State::new(store, clock)?);
        let passwords = Passwords::new(&config.passwords, config.password_queue, &keys, &state)?;
        let fetcher = Fetcher::new(config.outbound_tls.clone(), config.outbound_proxies.clone(), TIMEOUT);
        let providers = Providers::new(config.providers.clone(), fetcher, &keys);
        Ok(Context {
            state,
            keys,
            passwords,
            throttle: Throttle::default(),
            // A hosted client registers for many users from few addresses.
            registrations: Nested::new((100, 1), (200, 2), (2_000, 20)),
            returns: Buckets::new(60, 1),
            spent: Spent::default(),
            pending: PendingCodes::default(),
            providers,
            people: People::default(),
            streams: Streams::default(),
            consents: OnceLock::new(),
            config,
        })
    }

    /// Is `credential` a way to sign in that is configured now?
    pub fn is_current(&self, credential: &CredentialId) -> bool {
        self.passwords.is_current(credential) || self.providers.of_credential(credential).is_some()
    }

    /// Has `listener` hear which user has just let which client in; only the first one does.
    pub fn on_consent(&self, listener: impl Fn(&User, &ClientId) + Send + Sync + 'static) {
        let _ = self.consents.set(Box::new(listener));
    }

    /// A user has let a client in.
    pub fn has_consented(&self, user: &User, client: &ClientId) {
        if let Some(listener) = self.consents.get() {
            listener(user, client);
        }
    }

    /// Now.
    pub fn now(&self) -> Timestamp {
        self.state.clock().now()
    }

    /// An absolute URL on the external origin.
    pub fn url(&self, path: &str) -> String {
        format!("{}{path}", self.config.external.origin)
    }
}
