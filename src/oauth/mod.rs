//! The authorization server (OAuth 2.1, RFC 6749). Each endpoint and each grant type has its own file.
//!
//! - [`server`] – what the endpoints share
//! - [`metadata`] – `/.well-known/…` (RFC 8414)
//! - [`register`] – `/.idp/register` (RFC 7591)
//! - [`authorize`] – `/.idp/auth`, whose pages are in `interaction`; [`consent`] – remembered consents; [`pending`] –
//!   limits the authorization codes that wait to be redeemed
//! - [`token`] – `/.idp/token`: [`authorization_code`] and [`refresh_token`], with the rules of [`rotation`]; [`issue`]
//!   creates the tokens
//! - [`client_auth`] – client authentication (RFC 6749 section 2.3)
//! - [`revoke`] – `/.idp/revoke` (RFC 7009)
//! - [`resource`] – resource indicators (RFC 8707); [`error`] – error answers

mod authorization_code;
pub mod authorize;
pub mod client_auth;
pub mod consent;
pub mod error;
mod issue;
pub mod metadata;
mod pending;
mod refresh_token;
pub mod register;
pub mod resource;
pub mod revoke;
pub mod rotation;
pub mod server;
pub mod token;

pub use pending::Full;
pub use server::AuthorizationServer;
