//! External identity providers: Google, GitHub and OpenID Connect, and who of their users may sign in.
//!
//! - [`registry`] – the configured providers; [`authorization`] – one sign-in at a provider; [`error`] – why a request
//!   to a provider failed
//! - [`oidc`] – OpenID Connect, including Google, configured by [`oidc_config`]: [`discovery`] fetches its metadata and
//!   keys, [`id_token`] checks ID tokens, [`claims`] builds the profile
//! - [`github`] – GitHub
//! - [`user_records`] – the records of users who have signed in, and asking the provider about them again

mod authorization;
mod claims;
mod discovery;
mod error;
pub mod github;
pub mod id_token;
pub mod oidc;
pub mod oidc_config;
mod registry;
pub mod user_records;

pub use authorization::{AuthorizationParameters, ProviderTokens, Renewed, pkce_and_nonce};
pub use error::ProviderError;
pub use registry::{Dialect, Provider, ProviderConfig, Providers};
