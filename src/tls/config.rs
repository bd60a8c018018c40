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

impl TlsConfig {
    /// The files of the certificate, if it comes from files.
    pub fn files(&self) -> Option<&CertificateFiles> {
        match &self.source {
            Source::Files(files) => Some(files),
            Source::Acme(_) => None,
        }
    }
}
