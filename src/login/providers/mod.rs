//! Others who say who somebody is: Google, GitHub and OpenID Connect providers, and who of their users may enter.
//!
//! - [`oidc`] – OpenID Connect, Google included: `discovery`, [`id_token`] checks what it signs, `claims` says who it is
//! - [`github`] – GitHub
//! - [`people`] – what is known of those who have signed in, and asking after them again

mod claims;
mod configure;
mod discovery;
pub mod github;
pub mod id_token;
pub mod oidc;
pub mod people;

use std::fmt;
use std::sync::{Arc, Mutex, RwLock};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use self::configure::{configure, configure_anew};
use self::github::{GitHubClient, GitHubConfig};
use self::oidc::{OidcClient, OidcConfig};
use crate::clock::Timestamp;
use crate::encoding::base64url;
use crate::http::client::Fetcher;
use crate::identity::ProviderUser;
use crate::identity::{CredentialId, ProviderId};
use crate::rules::Rules;
use crate::tokens::{Keys, Kind};

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

/// Why a provider is of no help.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// It could not be asked, or the proxy is not set up as it wants: that says nothing of the person.
    Unreachable(String),
    /// It says no: the person, or the proxy on their behalf, may not any more.
    Refused(String),
    /// What it says can't be believed.
    Invalid(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::Unreachable(why) | Trouble::Refused(why) | Trouble::Invalid(why) => f.write_str(why),
        }
    }
}

/// What goes with the browser to the provider and back.
pub struct Hop<'h> {
    /// Where it comes back to.
    pub redirect_uri: &'h str,
    /// Names the sign-in.
    pub state: &'h str,
    /// PKCE challenge (RFC 7636).
    pub challenge: &'h str,
    /// Comes back in the ID token.
    pub nonce: &'h str,
    /// The person wants to choose another account.
    pub another_account: bool,
    /// The person is to be asked for consent, though it was given before.
    pub consent: bool,
}

/// What the provider gave for later; sealed where it is kept.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProviderTokens {
    /// Refresh token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refresh: Option<String>,
    /// Access token, where it lasts (GitHub).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub access: Option<String>,
}

/// New tokens: those to keep, and those to ask with.
pub struct Renewed {
    /// To keep.
    pub tokens: ProviderTokens,
    /// Access token.
    pub access: String,
    /// ID token, if one came.
    pub id_token: Option<String>,
    /// None came where one could: what is known now may be less than before.
    pub lacks_claims: bool,
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
        self.rules.read().unwrap_or_else(|e| e.into_inner()).clone()
    }

    /// Was it out of reach the last time it was looked at?
    pub fn is_down(&self) -> bool {
        let since = *self.is_down.lock().unwrap_or_else(|e| e.into_inner());
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
    fn note<T>(&self, outcome: Result<T, Trouble>) -> Result<T, Trouble> {
        let is_down = matches!(outcome, Err(Trouble::Unreachable(_)));
        let since = is_down.then(Instant::now);
        let before = std::mem::replace(&mut *self.is_down.lock().unwrap_or_else(|e| e.into_inner()), since);
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
                *provider.rules.write().unwrap_or_else(|e| e.into_inner()) = Arc::new(rules);
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
    pub fn authorize_url(&self, provider: &Provider, hop: &Hop<'_>) -> Result<String, Trouble> {
        let outcome = match &provider.backend {
            Backend::Oidc(client) => client.authorize_url(&self.fetcher, hop),
            Backend::GitHub(client) => client.authorize_url(&provider.rules(), hop),
        };
        // The way there may be known from before: that it is known tells nothing.
        if outcome.is_err() { provider.note(outcome) } else { outcome }
    }

    /// Checks the issuer of an answer (RFC 9207).
    pub fn check_issuer(&self, provider: &Provider, iss: Option<&str>) -> Result<(), Trouble> {
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
    ) -> Result<(ProviderUser, ProviderTokens), Trouble> {
        let rules = provider.rules();
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.redeem(&self.fetcher, &rules, code, hop, verifier, now),
            Backend::GitHub(client) => client.redeem(&self.fetcher, &rules, code, hop, verifier),
        })
    }

    /// Gets new tokens; `None` when the provider gave nothing to ask with.
    fn renew(&self, provider: &Provider, tokens: &ProviderTokens) -> Result<Option<Renewed>, Trouble> {
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.renew(&self.fetcher, tokens),
            Backend::GitHub(client) => client.renew(&self.fetcher, tokens),
        })
    }

    /// Who new tokens belong to.
    fn whose(
        &self,
        provider: &Provider,
        rules: &Rules,
        renewed: &Renewed,
        now: Timestamp,
    ) -> Result<ProviderUser, Trouble> {
        provider.note(match &provider.backend {
            Backend::Oidc(client) => client.whose(&self.fetcher, rules, renewed, now),
            Backend::GitHub(client) => client.identify(&self.fetcher, rules, &renewed.access),
        })
    }
}

/// PKCE verifier and nonce of a sign-in: derived from its state and the browser's secret name, so that neither is kept
/// anywhere, and nobody who sees the state can make them.
pub fn hop_secrets(keys: &Keys, state: &str, browser: &str) -> (String, String) {
    let make = |what: &str| base64url(keys.mac(Kind::HopSecret, format!("{what}\0{browser}\0{state}").as_bytes()));
    (make("verifier"), make("nonce"))
}
