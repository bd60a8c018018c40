//! The TLS settings: where to listen, and where the certificate comes from.

use super::acme::AcmeConfig;
use super::files::CertificateFiles;
use crate::url::Listen;

/// The settings of the TLS server.
#[derive(Clone)]
pub struct TlsConfig {
    /// The address and port to listen on with TLS.
    pub listen: Listen,
    /// Where the certificate comes from.
    pub source: Source,
}

/// Where a certificate comes from.
#[derive(Clone)]
pub enum Source {
    /// Files that the user provides.
    Files(CertificateFiles),
    /// An ACME authority.
    Acme(Box<AcmeConfig>),
}
