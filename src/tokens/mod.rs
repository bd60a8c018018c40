//! Everything that is signed or encrypted. Each kind of artefact has its own key, derived from the master secret, the
//! kind and the issuer. So an artefact is accepted neither as another kind nor at another external URL.
//!
//! - [`keys`] – the secret, the derived keys, and their use
//! - [`access`] – access tokens, JWTs by RFC 9068
//! - [`artefacts`] – authorization codes, refresh tokens, pending authorizations and cookies
//! - [`jwt`] – JWTs that others have signed, and their keys
//! - [`signing`] – the key pair of identity assertions

pub mod access;
pub mod artefacts;
pub mod jwt;
mod keys;
pub mod signing;

pub use keys::{Artefact, Keys, Kind, Secret, TokenError, equal, random, random_name};
