//! A certificate chain with its key.

use std::sync::Arc;

use rcgen::{CertificateParams, DnType, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::x509::CertificateInfo;

/// A chain and a key that belong together.
#[derive(Debug)]
pub struct CertificateAndKey {
    /// Chain and key in the form that rustls uses.
    pub certified: Arc<CertifiedKey>,
    /// The fields of the first certificate in the chain.
    pub info: CertificateInfo,
    /// Can clients that trust the right authorities trust it? A self-signed one is there so that the port answers.
    pub is_trusted: bool,
}

impl CertificateAndKey {
    /// Reads both from PEM. The error says what is wrong, and is meant to follow the name of the file.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<CertificateAndKey, String> {
        let chain = CertificateDer::pem_slice_iter(chain)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| format!("the certificate is not in PEM form: {e}"))?;
        let first = chain.first().ok_or("there is no certificate in it, in PEM form")?;
        let info = CertificateInfo::of(first).ok_or("the certificate is malformed")?;
        if key.windows(9).any(|w| w == b"ENCRYPTED") {
            return Err(
                "the key is protected by a password; write it without one: openssl pkey -in KEY -out NEW".into()
            );
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| format!("the key is not in PEM form: {e}"))?;
        let key = ring::default_provider()
            .key_provider
            .load_private_key(key)
            .map_err(|e| format!("the key is of no use for TLS: {e}"))?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|e| match e {
            rustls::Error::InconsistentKeys(_) => "certificate and key do not belong together".to_string(),
            // For example, a certificate of version 1 has no extensions and so no names.
            other => format!("clients will refuse the certificate: {other}"),
        })?;
        let is_trusted = !info.is_self_issued;
        Ok(CertificateAndKey { certified: Arc::new(certified), info, is_trusted })
    }

    /// A self-signed certificate for `host`, for use until an authority has issued one.
    pub fn self_signed(host: &str) -> Result<CertificateAndKey, String> {
        let failed = |e: &dyn std::fmt::Display| format!("no certificate could be made for {host}: {e}");
        let key = KeyPair::generate().map_err(|e| failed(&e))?;
        let mut parameters = CertificateParams::new(vec![host.to_string()]).map_err(|e| failed(&e))?;
        // A user who inspects the certificate sees why it is self-signed.
        parameters.distinguished_name.push(DnType::CommonName, "mcp-auth-proxy has no certificate yet: see its log");
        let certificate = parameters.self_signed(&key).map_err(|e| failed(&e))?;
        CertificateAndKey::from_pem(certificate.pem().as_bytes(), key.serialize_pem().as_bytes())
    }
}
