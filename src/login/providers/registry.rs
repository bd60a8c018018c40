//! The providers that are configured.

use crate::lock::Unpoisoned;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use super::authorization::{Hop, ProviderTokens, Renewed};
use super::error::ProviderError;
use super::github::{GitHubClient, GitHubConfig};
use super::oidc::OidcClient;
use super::oidc_config::OidcConfig;
use crate::clock::Timestamp;
use crate::http::client::Fetcher;
use crate::identity::{CredentialId, ProviderId, ProviderUser};
use crate::rules::Rules;
use crate::tokens::Keys;

/// Pause between two looks at a provider that answers, and at one that does not.
const LOOK_EVERY: Duration = Duration::from_secs(600);
const LOOK_AGAIN: Duration = Duration::from_secs(15);
/// How long one that nobody looks at is taken for down.
const BELIEVED_DOWN: Duration = Duration::from_secs(60);

/// A provider as configured.
#[derive(Clone)]
pub struct ProviderConfig {
    /// Which.
    pub slug: ProviderId,
    /// What the button calls it.
    pub label: String,
    /// How to speak to it.
    pub dialect: Dialect,
    /// Who may enter.
    pub rules: Rules,
}

/// How to speak to a provider.
#[derive(Clone)]
pub enum Dialect {
    /// OpenID Connect.
    Oidc(OidcConfig),
    /// GitHub's.
    GitHub(GitHubConfig),
}

/// A provider.
pub struct Provider {
    /// Which.
    pub slug: ProviderId,
    /// What the button calls it.
    pub label: String,
    /// Stands for it in grants and tokens: with another client id or another address it is another.
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
    /// The rules at this moment.
    pub fn rules(&self) -> Arc<Rules> {
        self.rules.read().unpoisoned().clone()
    }

    /// Was it out of reach the last time it was looked at?
    pub fn is_down(&self) -> bool {
        let since = *self.is_down.lock().unpoisoned();
        // Nothing but a sign-in shows that GitHub is back.
        since.is_some_and(|since| matches!(self.backend, Backend::Oidc(_)) || since.elapsed() < BELIEVED_DOWN)
    }

    /// Would it give a refresh token if it asked the person for consent again?
    pub fn gives_more_with_consent(&self) -> bool {
        matches!(&self.backend, Backend::Oidc(client) if client.gives_more_with_consent())
    }

    /// Does what it gave for later last beyond the session that the person has there?
    pub fn lasts(&self) -> bool {
        match &self.backend {
            Backend::Oidc(client) => client.lasts(),
            Backend::GitHub(_) => true,
        }
    }

    /// Takes note of whether it could be reached.
    fn note<T>(&self, outcome: Result<T, ProviderError>) -> Result<T, ProviderError> {
        let is_down = matches!(outcome, Err(ProviderError::Unreachable(_)));
        let since = is_down.then(Instant::now);
        let before = std::mem::replace(&mut *self.is_down.lock().unpoisoned(), since);
        if before.is_some() != is_down {
            match &outcome {
                Err(why) => log::warn!(provider:% = self.slug, reason:% = why; "the provider can't be used"),
                Ok(_) => log::info!(provider:% = self.slug; "the provider can be used again"),
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
    /// Takes the configured ones; nothing is asked yet.
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
            // Not a secret, so that rotating the secret ends nothing: the kind keeps it apart from passwords'.
            let mac =
                crate::encoding::digest(format!("provider\0{}\0{mark}\0{}", config.slug, keys.issuer()).as_bytes());
            Provider {
                slug: config.slug,
                label: config.label,
                credential: CredentialId(format!("{}-{}", config.slug, &mac[..16])),
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

    /// The one that is called so.
    pub fn of_slug(&self, slug: ProviderId) -> Option<&Provider> {
        self.all.iter().find(|p| p.slug == slug)
    }

    /// The one that a credential stands for.
    pub fn of_credential(&self, credential: &CredentialId) -> Option<&Provider> {
        self.all.iter().find(|p| p.credential == *credential)
    }

    /// Takes on other rules; those of providers that are not there are passed over.
    pub fn replace_rules(&self, configs: &[ProviderConfig]) {
        for provider in &self.all {
            if let Some(config) = configs.iter().find(|c| c.slug == provider.slug) {
                // A list that has become empty lets nobody in, and one that is new shuts the door.
                let anyone = config.rules.anyone && provider.rules().anyone;
                let rules = Rules { anyone, ..config.rules.clone() };
                *provider.rules.write().unpoisoned() = Arc::new(rules);
            }
        }
    }

    /// Looks at the providers that have a discovery document, so that the sign-in page knows whether they are there; the
    /// pause until the next look.
    pub fn look(&self) -> Duration {
        for provider in &self.all {
            if let Backend::Oidc(client) = &provider.backend {
                let _ = provider.note(client.look(&self.fetcher));
            }
        }
        if self.all.iter().any(Provider::is_down) { LOOK_AGAIN } else { LOOK_EVERY }
    }

    /// Where the browser goes.
    pub fn authorize_url(&self, provider: &Provider, hop: &Hop<'_>) -> Result<String, ProviderError> {
        let outcome = match &provider.backend {
            Backend::Oidc(client) => client.authorize_url(&self.fetcher, hop),
            Backend::GitHub(client) => client.authorize_url(&provider.rules(), hop),
        };
        // The way there may be known from before: that it is known tells nothing.
        if outcome.is_err() { provider.note(outcome) } else { outcome }
    }

    /// Checks the issuer of an answer (RFC 9207).
    pub fn check_issuer(&self, provider: &Provider, iss: Option<&str>) -> Result<(), ProviderError> {
        match &provider.backend {
            Backend::Oidc(client) => client.check_issuer(&self.fetcher, iss),
            Backend::GitHub(client) => client.check_issuer(iss),
        }
    }

    /// Redeems a code and learns who it is.
    pub fn redeem(
        &self,
        provider: &Provider,
        code: &str,
        hop: &Hop<'_>,
        verifier: &str,
        now: Timestamp,
    ) -> Result<(ProviderUser, ProviderTokens), ProviderError> {
        let rules = provider.rules();
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.redeem(&self.fetcher, &rules, code, hop, verifier, now),
            Backend::GitHub(client) => client.redeem(&self.fetcher, &rules, code, hop, verifier),
        })
    }

    /// Gets new tokens; `None` when the provider gave nothing to ask with.
    pub(super) fn renew(&self, provider: &Provider, tokens: &ProviderTokens) -> Result<Option<Renewed>, ProviderError> {
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.renew(&self.fetcher, tokens),
            Backend::GitHub(client) => client.renew(&self.fetcher, tokens),
        })
    }

    /// Who new tokens belong to.
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
