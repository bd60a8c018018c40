//! Which authority, and what is asked of it.

use std::path::PathBuf;

use super::account::ExternalAccount;
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
    pub external_account: Option<ExternalAccount>,
    /// An authority to trust for the directory (PEM), beside the public ones.
    pub ca_file: Option<PathBuf>,
}
