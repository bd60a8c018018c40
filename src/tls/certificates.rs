//! The certificate in use, and the settings of the TLS server.

use crate::lock::Unpoisoned;
use std::fmt;
use std::sync::{Arc, RwLock};

use http::HeaderValue;
use http::header::STRICT_TRANSPORT_SECURITY;
use http::request::Parts;
use rustls::crypto::{CryptoProvider, ring};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{CipherSuite, ServerConfig};

use super::acme::challenges::{ACME_TLS, Challenges};
use super::certificate_and_key::CertificateAndKey;
use crate::http::{Handler, Request, Response};

/// Two years, as browsers want it, and without other hosts: they may be somebody else's (RFC 6797).
const STRICT_TRANSPORT: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// The certificate that connections are shown from now on. It is replaced without touching those that are open.
pub struct Certificates {
    current: RwLock<Arc<CertificateAndKey>>,
    challenges: Arc<Challenges>,
}

impl Certificates {
    /// To begin with `pair`; `challenges` are answered beside it.
    pub fn new(pair: CertificateAndKey, challenges: Arc<Challenges>) -> Arc<Certificates> {
        Arc::new(Certificates { current: RwLock::new(Arc::new(pair)), challenges })
    }

    /// The one in use.
    pub fn current(&self) -> Arc<CertificateAndKey> {
        self.current.read().unpoisoned().clone()
    }

    /// Shows `pair` from now on.
    pub fn replace(&self, pair: CertificateAndKey) {
        *self.current.write().unpoisoned() = Arc::new(pair);
    }

    /// A TLS server that shows them: TLS 1.2 and 1.3, sessions resumed by sealed tickets, which cost no memory here.
    pub fn server_config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, String> {
        let failed = |e: rustls::Error| format!("TLS can't be set up: {e}");
        let mut config = ServerConfig::builder_with_provider(Arc::new(provider()))
            .with_safe_default_protocol_versions()
            .map_err(failed)?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.ignore_client_order = true;
        config.alpn_protocols = vec![b"http/1.1".to_vec(), ACME_TLS.to_vec()];
        config.ticketer = ring::Ticketer::new().map_err(failed)?;
        Ok(Arc::new(config))
    }
}

/// With the cipher first that this machine is fast at: small boards lack instructions for AES.
fn provider() -> CryptoProvider {
    let mut provider = ring::default_provider();
    if !has_aes() {
        provider.cipher_suites.sort_by_key(|suite| match suite.suite() {
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256
            | CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => 0,
            _ => 1,
        });
    }
    provider
}

#[cfg(target_arch = "x86_64")]
fn has_aes() -> bool {
    std::arch::is_x86_feature_detected!("aes")
}

#[cfg(target_arch = "aarch64")]
fn has_aes() -> bool {
    std::arch::is_aarch64_feature_detected!("aes")
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has_aes() -> bool {
    false
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // RFC 8737 section 3: the challenge's certificate is shown to who asks for that protocol and no other.
        match hello.alpn().is_some_and(|mut offered| offered.any(|p| p == ACME_TLS)) {
            true => self.challenges.certificate(hello.server_name()?),
            false => Some(self.current().certified.clone()),
        }
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Certificates")
    }
}

/// Tells browsers that this host speaks https only, while its certificate is one that they can trust: with another
/// they would not let anybody pass.
pub struct StrictTransport<H> {
    /// Who answers.
    pub handler: H,
    /// The certificate in use.
    pub certificates: Arc<Certificates>,
}

impl<H: Handler> Handler for StrictTransport<H> {
    fn handle(&self, request: Request<'_>) -> Response {
        let response = self.handler.handle(request);
        match self.certificates.current().is_trusted {
            true => response.with(STRICT_TRANSPORT_SECURITY, STRICT_TRANSPORT),
            false => response,
        }
    }

    fn wants_body(&self, head: &Parts, peer: std::net::IpAddr) -> bool {
        self.handler.wants_body(head, peer)
    }

    fn exempt(&self, peer: std::net::IpAddr) -> bool {
        self.handler.exempt(peer)
    }
}
