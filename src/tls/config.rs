//! Which TLS is spoken, and where its certificate comes from.

use super::acme::AcmeConfig;
use super::files::CertificateFiles;
use crate::url::Listen;

/// TLS at the front.
#[derive(Clone)]
pub struct TlsConfig {
    /// Where TLS is spoken.
    pub listen: Listen,
    /// Where the certificate comes from.
    pub source: Source,
}

/// Where a certificate comes from.
#[derive(Clone)]
pub enum Source {
    /// The user's files.
    Files(CertificateFiles),
    /// An authority.
    Acme(Box<AcmeConfig>),
}
