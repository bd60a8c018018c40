//! The providers that are configured.

use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::authorization::{AuthorizationParameters, ProviderTokens, Renewed};
use super::error::ProviderError;
use super::github::{GitHubClient, GitHubConfig};
use super::oidc::OidcClient;
use super::oidc_config::OidcConfig;
use crate::clock::Timestamp;
use crate::http::client::Fetcher;
use crate::identity::{CredentialId, ProviderId, ProviderUser};
use crate::lock::Unpoisoned;
use crate::rules::Rules;
use crate::tokens::Keys;

/// Pause between two checks of the providers: if all can be reached, and if one can't.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long a provider without periodic checks (GitHub) counts as down after a failure.
const BELIEVED_DOWN: Duration = Duration::from_secs(60);

/// A provider as configured.
#[derive(Clone)]
pub struct ProviderConfig {
    /// Which.
    pub id: ProviderId,
    /// What the button calls it.
    pub label: String,
    /// Protocol, with its configuration.
    pub dialect: Dialect,
    /// The allow rules.
    pub rules: Rules,
}

/// Protocol of a provider, with its configuration.
#[derive(Clone)]
pub enum Dialect {
    /// OpenID Connect.
    Oidc(OidcConfig),
    /// GitHub's own variant of OAuth.
    GitHub(GitHubConfig),
}

/// A configured provider.
pub struct Provider {
    /// Which.
    pub id: ProviderId,
    /// What the button calls it.
    pub label: String,
    /// Identifies the provider in grants and tokens. It changes when the client id or the provider's URL changes.
    pub credential: CredentialId,
    rules: RwLock<Arc<Rules>>,
    backend: Backend,
    is_down: Mutex<Option<Instant>>,
}

enum Backend {
    Oidc(OidcClient),
    GitHub(GitHubClient),
}

impl Provider {
    /// The current allow rules; a SIGHUP may replace them.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unpoisoned().clone()
    }

    /// Could the provider not be reached the last time?
    pub fn is_down(&self) -> bool {
        let since = *self.is_down.lock().unpoisoned();
        // GitHub is not checked periodically: only a sign-in could show that it is back, so it counts as down for a
        // while only.
        since.is_some_and(|since| matches!(self.backend, Backend::Oidc(_)) || since.elapsed() < BELIEVED_DOWN)
    }

    /// Would the provider issue a refresh token if the person were asked for consent again?
    pub fn gives_more_with_consent(&self) -> bool {
        matches!(&self.backend, Backend::Oidc(client) if client.gives_more_with_consent())
    }

    /// Do the provider's tokens outlive the person's session at the provider?
    pub fn lasts(&self) -> bool {
        match &self.backend {
            Backend::Oidc(client) => client.lasts(),
            Backend::GitHub(_) => true,
        }
    }

    /// Records whether the provider could be reached, and logs a change.
    fn note<T>(&self, outcome: Result<T, ProviderError>) -> Result<T, ProviderError> {
        let is_down = matches!(outcome, Err(ProviderError::Unreachable(_)));
        let since = is_down.then(Instant::now);
        let before = std::mem::replace(&mut *self.is_down.lock().unpoisoned(), since);
        if before.is_some() != is_down {
            match &outcome {
                Err(why) if is_down => log::warn!(provider:% = self.id, reason:% = why; "the provider can't be used"),
                _ => log::info!(provider:% = self.id; "the provider can be used again"),
            }
        }
        outcome
    }
}

/// All providers that are configured.
pub struct Providers {
    all: Vec<Provider>,
    fetcher: Fetcher,
}

impl Providers {
    /// Creates the providers; sends no request yet.
    pub fn new(configs: Vec<ProviderConfig>, fetcher: Fetcher, keys: &Keys) -> Providers {
        let all = configs.into_iter().map(|config| {
            let (backend, mark) = match config.dialect {
                Dialect::Oidc(oidc) => {
                    let client = OidcClient::new(oidc);
                    let mark = client.mark();
                    (Backend::Oidc(client), mark)
                }
                Dialect::GitHub(github) => {
                    let client = GitHubClient::new(github);
                    let mark = client.mark();
                    (Backend::GitHub(client), mark)
                }
            };
            // A digest without the secret, so that rotating the secret does not end sessions and grants. The prefix
            // keeps it distinct from the ids of passwords.
            let mac = crate::encoding::digest(format!("provider\0{}\0{mark}\0{}", config.id, keys.issuer()).as_bytes());
            Provider {
                id: config.id,
                label: config.label,
                credential: CredentialId(format!("{}-{}", config.id, &mac[..16])),
                rules: RwLock::new(Arc::new(config.rules)),
                backend,
                is_down: Mutex::default(),
            }
        });
        Providers { all: all.collect(), fetcher }
    }

    /// All, in the order of the sign-in page.
    pub fn all(&self) -> &[Provider] {
        &self.all
    }

    /// The provider with this id.
    pub fn by_id(&self, id: ProviderId) -> Option<&Provider> {
        self.all.iter().find(|p| p.id == id)
    }

    /// The provider that a credential belongs to.
    pub fn of_credential(&self, credential: &CredentialId) -> Option<&Provider> {
        self.all.iter().find(|p| p.credential == *credential)
    }

    /// Replaces the allow rules; rules of providers that are not configured are ignored.
    pub fn replace_rules(&self, configs: &[ProviderConfig]) {
        for provider in &self.all {
            if let Some(config) = configs.iter().find(|c| c.id == provider.id) {
                // New rules never open a provider to everybody: if a list became empty, nobody may sign in. A new list
                // closes a provider that was open to everybody.
                let anyone = config.rules.anyone && provider.rules().anyone;
                let rules = Rules { anyone, ..config.rules.clone() };
                *provider.rules.write().unpoisoned() = Arc::new(rules);
            }
        }
    }

    /// Fetches the discovery documents of all OpenID Connect providers, so that the sign-in page can show which ones
    /// are down. Returns the pause until the next check.
    pub fn look(&self) -> Duration {
        for provider in &self.all {
            if let Backend::Oidc(client) = &provider.backend {
                let _ = provider.note(client.look(&self.fetcher));
            }
        }
        if self.all.iter().any(Provider::is_down) { LOOK_AGAIN } else { LOOK_EVERY }
    }

    /// The URL of the authorization request.
    pub fn authorize_url(
        &self,
        provider: &Provider,
        parameters: &AuthorizationParameters<'_>,
    ) -> Result<String, ProviderError> {
        let outcome = match &provider.backend {
            Backend::Oidc(client) => client.authorize_url(&self.fetcher, parameters),
            Backend::GitHub(client) => client.authorize_url(&provider.rules(), parameters),
        };
        // Only errors are recorded: a URL from cached metadata does not prove that the provider can be reached.
        if outcome.is_err() { provider.note(outcome) } else { outcome }
    }

    /// Checks the issuer of an answer (RFC 9207).
    pub fn check_issuer(&self, provider: &Provider, iss: Option<&str>) -> Result<(), ProviderError> {
        match &provider.backend {
            Backend::Oidc(client) => client.check_issuer(&self.fetcher, iss),
            Backend::GitHub(client) => client.check_issuer(iss),
        }
    }

    /// Exchanges the code for tokens and reads the user's profile.
    pub fn redeem(
        &self,
        provider: &Provider,
        code: &str,
        parameters: &AuthorizationParameters<'_>,
        verifier: &str,
        now: Timestamp,
    ) -> Result<(ProviderUser, ProviderTokens), ProviderError> {
        let rules = provider.rules();
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.redeem(&self.fetcher, &rules, code, parameters, verifier, now),
            Backend::GitHub(client) => client.redeem(&self.fetcher, &rules, code, parameters, verifier),
        })
    }

    /// Refreshes the tokens; `None` if there are none that can be used.
    pub(super) fn renew(&self, provider: &Provider, tokens: &ProviderTokens) -> Result<Option<Renewed>, ProviderError> {
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.renew(&self.fetcher, tokens),
            Backend::GitHub(client) => client.renew(&self.fetcher, tokens),
        })
    }

    /// The user that refreshed tokens belong to, with a new profile.
    pub(super) fn whose(
        &self,
        provider: &Provider,
        rules: &Rules,
        renewed: &Renewed,
        now: Timestamp,
    ) -> Result<ProviderUser, ProviderError> {
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.whose(&self.fetcher, rules, renewed, now),
            Backend::GitHub(client) => client.identify(&self.fetcher, rules, &renewed.access),
        })
    }
}
