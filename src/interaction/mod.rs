//! Endpoints for a person at a browser: signing in, the callback of a provider, allowing a client, signing out. `oauth`
//! carries out the person's decision; the HTML is in `pages`.
//!
//! - [`authorize`] – `/.idp/auth`: the page that a client sends the browser to, and its decision
//! - [`sign_in`] – `/.auth/login` and `/.auth/logout`
//! - [`account`] – `/.auth/account`: applications and browsers that have access
//! - [`provider`] – sends the browser to an identity provider, and handles `/.auth/{provider}/callback`; [`spent`] –
//!   accepts each callback only once
//! - [`complete`] – completes a sign-in
//! - [`failure`] – failures and their error pages
//! - [`shared`] – state and helpers that all of these use

pub mod account;
pub mod authorize;
mod complete;
mod failure;
pub mod provider;
mod shared;
pub mod sign_in;
mod spent;

pub use shared::Interactions;
