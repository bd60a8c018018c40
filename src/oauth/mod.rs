//! The authorization server (OAuth 2.1, RFC 6749). Each endpoint and each grant type has its own file.
//!
//! - [`server`] – what the endpoints share
//! - [`metadata`] – `/.well-known/…` (RFC 8414)
//! - [`register`] – `/.idp/register` (RFC 7591)
//! - [`authorize`] – `/.idp/auth`, whose pages are in `interaction`; [`authorization_request`] – its parameters; [`consent`] – remembered consents; [`pending`] –
//!   limits the authorization codes that wait to be redeemed
//! - [`token`] – `/.idp/token`: [`authorization_code`] and [`refresh_token`], with the rules of [`rotation`];
//!   [`client_credentials`] and [`jwt_bearer`], whose grants are [`direct`]; [`issue`] creates the tokens
//! - [`clients`] – finds clients; [`client_metadata`] – the documents of those that have one;
//!   [`client_checks`] – what is checked of all
//! - [`client_auth`] – client authentication (RFC 6749 section 2.3)
//! - [`introspect`] – `/.idp/introspect` (RFC 7662); [`revoke`] – `/.idp/revoke` (RFC 7009)
//! - [`owner`] – what was allowed, for its owner: lists and ends it
//! - [`resource`] – resource indicators (RFC 8707); [`error`] – error answers

mod authorization_code;
mod authorization_request;
pub mod authorize;
pub mod client_auth;
mod client_checks;
mod client_credentials;
pub mod client_metadata;
pub mod clients;
pub mod consent;
mod direct;
pub mod error;
pub mod introspect;
mod issue;
pub mod jwt_bearer;
pub mod metadata;
pub mod owner;
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
