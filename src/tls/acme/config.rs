//! The ACME authority, and what to order from it.

use std::path::PathBuf;

use super::account::ExternalAccount;
use crate::http::client::RemoteUrl;

/// The authority that issues certificates, and the host to certify.
#[derive(Clone)]
pub struct AcmeConfig {
    /// The URL of the authority's ACME directory.
    pub directory: RemoteUrl,
    /// The name on the certificate.
    pub host: String,
    /// The contact e-mail address of the account.
    pub email: Option<String>,
    /// The external account to bind the ACME account to (RFC 8555 section 7.3.4).
    pub external_account: Option<ExternalAccount>,
    /// CA certificates (PEM) to trust for the authority's server, in addition to the public ones.
    pub ca_file: Option<PathBuf>,
}
