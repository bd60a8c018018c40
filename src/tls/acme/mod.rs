//! Obtains, stores and renews certificates from an ACME authority (RFC 8555), such as Let's Encrypt, without user
//! action.
//!
//! - [`renewal`] – the thread that decides when to order a certificate
//! - [`issue`] – one order, from the host name to the certificate chain
//! - [`documents`] – orders, authorizations and challenges with their status; types of problems
//! - [`error`] – what can go wrong
//! - [`protocol`] – signed requests, nonces, problem documents
//! - [`account`] – the account's key and what is signed with it
//! - [`challenges`] – answers to challenges, on the plain port (RFC 8555 section 8.3) and the TLS port (RFC 8737)
//! - [`config`] – which authority, and for which host
//! - [`storage`] – what is stored on disk

pub mod account;
pub mod challenges;
mod config;
pub mod documents;
pub mod error;
pub mod issue;
pub mod protocol;
pub mod renewal;
pub mod storage;

pub use config::AcmeConfig;
