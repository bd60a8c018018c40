//! Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt: obtained, kept and renewed without
//! anyone looking.
//!
//! - [`renewal`] – when to ask: the thread that looks after the certificate
//! - [`issue`] – one order, from the names to the chain
//! - [`documents`] – orders, authorizations, challenges, and their states
//! - [`protocol`] – signed requests, nonces, problem documents
//! - [`account`] – the account's key and what is signed with it
//! - [`challenges`] – what the authority may ask for, on either port (RFC 8555 section 8.3, RFC 8737)
//! - [`config`] – which authority
//! - [`storage`] – what is kept on disk

pub mod account;
pub mod challenges;
mod config;
pub mod documents;
pub mod issue;
pub mod protocol;
pub mod renewal;
pub mod storage;

pub use config::AcmeConfig;
