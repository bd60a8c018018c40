//! External identity providers: Google, GitHub and OpenID Connect, and who of their users may sign in.
//!
//! - [`registry`] – the providers that are configured; [`authorization`] – one sign-in at a provider; [`error`] – why one is of
//!   no help
//! - [`oidc`] – OpenID Connect, Google included, as in [`oidc_config`]: [`discovery`], [`id_token`] checks what it signs,
//!   [`claims`] says who it is
//! - [`github`] – GitHub
//! - [`people`] – what is known about those who have signed in, and asking the provider about them again

mod authorization;
mod claims;
mod discovery;
mod error;
pub mod github;
pub mod id_token;
pub mod oidc;
pub mod oidc_config;
pub mod people;
mod registry;

pub use authorization::{Hop, ProviderTokens, Renewed, hop_secrets};
pub use error::ProviderError;
pub use registry::{Dialect, Provider, ProviderConfig, Providers};
