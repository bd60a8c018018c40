//! What the authority may ask for while it makes sure of a domain.

use crate::lock::Unpoisoned;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};

use rcgen::{CertificateParams, CustomExtension, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::sign::CertifiedKey;
use sha2::{Digest, Sha256};

/// The application protocol of a domain's validation (RFC 8737 section 4).
pub const ACME_TLS: &[u8] = b"acme-tls/1";

/// The challenges that are open. Both ports answer from here.
#[derive(Default)]
pub struct Challenges(Mutex<Open>);

#[derive(Default)]
struct Open {
    /// Token to key authorization (RFC 8555 section 8.3).
    http: HashMap<String, String>,
    /// Domain to certificate (RFC 8737 section 3).
    tls: HashMap<String, Arc<CertifiedKey>>,
}

/// Ends what [`Challenges::open_http`] or [`Challenges::open_tls`] began.
#[must_use]
pub struct OpenChallenge<'c> {
    challenges: &'c Challenges,
    token: String,
    domain: String,
}

impl Challenges {
    /// Answers `token` with `key_authorization` on the plain port.
    pub fn open_http(&self, token: &str, key_authorization: String) -> OpenChallenge<'_> {
        self.state().http.insert(token.to_string(), key_authorization);
        OpenChallenge { challenges: self, token: token.to_string(), domain: String::new() }
    }

    /// Shows the authority a certificate that holds the digest of `key_authorization`.
    pub fn open_tls(&self, domain: &str, key_authorization: &str) -> Result<OpenChallenge<'_>, String> {
        let failed = |e: rcgen::Error| format!("the certificate for the challenge could not be made: {e}");
        let key = KeyPair::generate().map_err(failed)?;
        let mut parameters = CertificateParams::new(vec![domain.to_string()]).map_err(failed)?;
        let digest = Sha256::digest(key_authorization);
        parameters.custom_extensions.push(CustomExtension::new_acme_identifier(&digest));
        let certificate = parameters.self_signed(&key).map_err(failed)?;
        // What is in it is critical and known to authorities alone, so that it can't be checked as others are.
        let loaded =
            ring::default_provider().key_provider.load_private_key(PrivateKeyDer::Pkcs8(key.serialize_der().into()));
        let loaded = loaded.map_err(|e| format!("the key for the challenge is of no use: {e}"))?;
        let certified = CertifiedKey::new(vec![certificate.der().clone()], loaded);
        self.state().tls.insert(domain.to_string(), Arc::new(certified));
        Ok(OpenChallenge { challenges: self, token: String::new(), domain: domain.to_string() })
    }

    /// The answer to a request for `token`.
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
