//! The challenges by which the authority validates a domain, and the answers to them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

use crate::lock::Unpoisoned;

/// The ALPN protocol name of a handshake that validates a domain (RFC 8737 section 4).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The open challenges. The plain port answers those of HTTP, the TLS port those of TLS.
#[derive(Default)]
pub struct Challenges(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// Maps a token to its key authorization (RFC 8555 section 8.3).
    http: HashMap<String, String>,
    /// Maps a domain to its challenge certificate (RFC 8737 section 3).
    tls: HashMap<String, Arc<CertifiedKey>>,
}

/// A challenge opened by [`Challenges::open_http`] or [`Challenges::open_tls`]. Dropping this closes it.
#[must_use]
pub struct OpenChallenge<'c> {
    challenges: &'c Challenges,
    token: String,
    domain: String,
}

impl Challenges {
    /// Opens a challenge: the plain port answers a request for `token` with `key_authorization`.
    pub fn open_http(&self, token: &str, key_authorization: String) -> OpenChallenge<'_> {
        self.state().http.insert(token.to_string(), key_authorization);
        OpenChallenge { challenges: self, token: token.to_string(), domain: String::new() }
    }

    /// Opens a challenge: validation handshakes for `domain` get a certificate with the digest of `key_authorization`.
    pub fn open_tls(&self, domain: &str, key_authorization: &str) -> Result<OpenChallenge<'_>, String> {
        let failed = |e: rcgen::Error| format!("the certificate for the challenge could not be made: {e}");
        let key = KeyPair::generate().map_err(failed)?;
        let mut parameters = CertificateParams::new(vec![domain.to_string()]).map_err(failed)?;
        let digest = Sha256::digest(key_authorization);
        parameters.custom_extensions.push(CustomExtension::new_acme_identifier(&digest));
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        // The acmeIdentifier extension is critical and only authorities know it, so the usual check of certificate and
        // key would refuse this certificate.
        let loaded =
            ring::default_provider().key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.serialize_der().into()));
        let loaded = loaded.map_err(|e| format!("the key for the challenge is of no use: {e}"))?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], loaded);
        self.state().tls.insert(domain.to_string(), Arc::new(certified));
        Ok(OpenChallenge { challenges: self, token: String::new(), domain: domain.to_string() })
    }

    /// The key authorization to answer a request for `token` with, if that challenge is open.
    pub fn key_authorization(&self, token: &str) -> Option<String> {
        self.state().http.get(token).cloned()
    }

    /// The certificate for a handshake that validates `domain`.
    pub fn certificate(&self, domain: &str) -> Option<Arc<CertifiedKey>> {
        self.state().tls.get(&domain.to_ascii_lowercase()).cloned()
    }

    fn state(&self) -> MutexGuard<'_, Open> {
        self.0.lock().unpoisoned()
    }
}

impl Drop for OpenChallenge<'_> {
    fn drop(&mut self) {
        let mut open = self.challenges.state();
        open.http.remove(&self.token);
        open.tls.remove(&self.domain);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_is_answered_while_it_is_open_and_no_other_is() {
        let challenges = Challenges::default();
        {
            let _http = challenges.open_http("token", "token.thumbprint".into());
            let _tls = challenges.open_tls("a.example.com", "token.thumbprint").unwrap();
            assert_eq!(challenges.key_authorization("token").as_deref(), Some("token.thumbprint"));
            assert_eq!(challenges.key_authorization(""), None);
            assert!(challenges.certificate("A.example.com").is_some());
            assert!(challenges.certificate("b.example.com").is_none());
        }
        assert_eq!(challenges.key_authorization("token"), None);
        assert!(challenges.certificate("a.example.com").is_none());
    }
}
