//! Certificates from an authority that speaks ACME (RFC 8555), such as Let's Encrypt: obtained, kept and renewed without
//! anyone looking.
//!
//! - [`renewal`] – when to ask: the thread that looks after the certificate
//! - [`issue`] – one order, from the names to the chain
//! - [`protocol`] – signed requests, nonces, problem documents
//! - [`account`] – the account's key and what is signed with it
//! - [`challenges`] – what the authority may ask for, on either port (RFC 8555 section 8.3, RFC 8737)
//! - [`keep`] – what is kept on disk

pub mod account;
pub mod challenges;
pub mod issue;
pub mod keep;
pub mod protocol;
pub mod renewal;

use std::path::PathBuf;

use crate::http::client::RemoteUrl;

/// Where certificates come from, and for whom.
#[derive(Clone)]
pub struct AcmeConfig {
    /// The authority's directory.
    pub directory: RemoteUrl,
    /// The name on the certificate.
    pub host: String,
    /// Whom the authority may write to.
    pub email: Option<String>,
    /// An account elsewhere that this one is bound to (RFC 8555 section 7.3.4).
    pub external_account: Option<account::ExternalAccount>,
    /// An authority to trust for the directory (PEM), beside the public ones.
    pub ca_file: Option<PathBuf>,
}
