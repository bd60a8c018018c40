//! A person at a browser: signing in, coming back from a provider, allowing a client, signing out. Each ends in a
//! decision that `oauth` carries out; the HTML is in `pages`.
//!
//! - [`authorize`] – `/.idp/auth`: the page that a client sends the browser to, and its decision
//! - [`sign_in`] – `/.auth/login` and `/.auth/logout`
//! - [`provider`] – the way to an identity provider and `/.auth/{provider}/callback`; [`spent`] – each way back counts once
//! - [`complete`] – where every sign-in ends
//! - [`failure`] – what goes wrong, and its page
//! - [`shared`] – what they work with

pub mod authorize;
mod complete;
mod failure;
pub mod provider;
mod shared;
pub mod sign_in;
mod spent;

pub use shared::Interactions;
