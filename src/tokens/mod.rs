//! Everything that is signed. One master secret; for each kind of artefact a key of its own, derived from the secret,
//! the kind and the issuer, so that no artefact passes as another kind's and none passes at another external URL.
//!
//! - [`keys`] – the secret, the keys and what they do
//! - [`access`] – access tokens, JWTs by RFC 9068
//! - [`artefacts`] – authorization codes, refresh tokens, pending authorizations and cookies

pub mod access;
pub mod artefacts;
mod keys;

pub use keys::{Artefact, Keys, Kind, Secret, TokenError, equal, random, random_name};
