//! The certificate in use, and the settings of the TLS server.

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
use crate::lock::Unpoisoned;

/// HSTS (RFC 6797) for two years, as browsers want it. It does not include subdomains: they may belong to somebody
/// else.
const STRICT_TRANSPORT: HeaderValue = HeaderValue::from_static("max-age=63072000");

/// The certificate for new connections. Replacing it does not affect open ones.
pub struct Certificates {
    current: RwLock<Arc<CertificateAndKey>>,
    challenges: Arc<Challenges>,
}

impl Certificates {
    /// Starts with the certificate `pair`. Validation handshakes are answered from `challenges`.
    pub fn new(pair: CertificateAndKey, challenges: Arc<Challenges>) -> Arc<Certificates> {
        Arc::new(Certificates { current: RwLock::new(Arc::new(pair)), challenges })
    }

    /// The certificate in use.
    pub fn current(&self) -> Arc<CertificateAndKey> {
        self.current.read().unpoisoned().clone()
    }

    /// Uses `pair` for all handshakes from now on.
    pub fn replace(&self, pair: CertificateAndKey) {
        *self.current.write().unpoisoned() = Arc::new(pair);
    }

    /// The settings of a TLS server with this certificate: TLS 1.2 and 1.3. Sessions resume with encrypted tickets,
    /// which need no memory on the server.
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

/// Prefers ChaCha20-Poly1305 on machines without AES instructions, such as small boards: it is faster there.
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
        // Only a handshake that offers acme-tls/1 gets the certificate of a challenge (RFC 8737 section 3).
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

/// Adds HSTS to every response, but only while the certificate is trusted: with HSTS, browsers let no user pass the
/// warning about an untrusted one.
pub struct StrictTransport<H> {
    /// The handler that answers the requests.
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
