//! The account's key, and what is signed with it (RFC 7515, RFC 7518 section 3.4, RFC 7638).

use hmac::{Hmac, KeyInit, Mac};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::encoding::base64url;

/// An ES256 key.
pub struct AccountKey {
    pair: EcdsaKeyPair,
    pem: String,
}

/// A non-ACME account at the authority, which the ACME account is bound to (RFC 8555 section 7.3.4).
#[derive(Clone)]
pub struct ExternalAccount {
    /// The key identifier that the authority gave.
    pub kid: String,
    /// The HMAC key that the authority gave, decoded.
    pub hmac_key: Vec<u8>,
}

impl AccountKey {
    /// A new key.
    pub fn generate() -> Result<AccountKey, String> {
        let pem = rcgen::KeyPair::generate().map_err(|e| format!("no key could be made: {e}"))?.serialize_pem();
        AccountKey::from_pem(pem)
    }

    /// Reads a stored key.
    pub fn from_pem(pem: String) -> Result<AccountKey, String> {
        let failed = |e: &dyn std::fmt::Display| format!("the account's key can't be read: {e}");
        let der = rcgen::KeyPair::from_pem(&pem).map_err(|e| failed(&e))?;
        let pair =
            EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der.serialized_der(), &SystemRandom::new())
                .map_err(|e| failed(&e))?;
        Ok(AccountKey { pair, pem })
    }

    /// The key in PEM, for storage.
    pub fn pem(&self) -> &str {
        &self.pem
    }

    /// The public key as a JWK.
    pub fn jwk(&self) -> Value {
        let (x, y) = self.coordinates();
        json!({"kty": "EC", "crv": "P-256", "x": x, "y": y})
    }

    fn coordinates(&self) -> (String, String) {
        // An uncompressed point: 4, then both coordinates at their full length.
        let point = self.pair.public_key().as_ref();
        (base64url(&point[1..33]), base64url(&point[33..65]))
    }

    /// The key authorization for a challenge's `token`, which proves control over a domain (RFC 8555 section 8.1).
    pub fn key_authorization(&self, token: &str) -> String {
        let (x, y) = self.coordinates();
        // RFC 7638 section 3: these members, in this order, without blanks.
        let canonical = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
        format!("{token}.{}", base64url(Sha256::digest(canonical)))
    }

    /// Signs `payload` with the protected header `protected`; returns a flattened JWS.
    pub fn sign(&self, mut protected: Value, payload: &str) -> Result<String, String> {
        protected["alg"] = "ES256".into();
        flattened(protected, payload, |input| {
            let signature = self.pair.sign(&SystemRandom::new(), input);
            signature.map(|s| s.as_ref().to_vec()).map_err(|_| "signing failed".to_string())
        })
    }
}

impl ExternalAccount {
    /// Signs the external account binding (RFC 8555 section 7.3.4): a JWS which says that `key`, in a request to `url`,
    /// belongs to this account.
    pub fn bind(&self, key: &AccountKey, url: &str) -> Result<Value, String> {
        let protected = json!({"alg": "HS256", "kid": self.kid, "url": url});
        let jws = flattened(protected, &key.jwk().to_string(), |input| {
            let mut mac = Hmac::<Sha256>::new_from_slice(&self.hmac_key).map_err(|e| e.to_string())?;
            mac.update(input);
            Ok(mac.finalize().into_bytes().to_vec())
        })?;
        serde_json::from_str(&jws).map_err(|e| e.to_string())
    }
}

/// A JWS in flattened JSON serialization (RFC 7515 section 7.2.2).
fn flattened(
    protected: Value,
    payload: &str,
    sign: impl FnOnce(&[u8]) -> Result<Vec<u8>, String>,
) -> Result<String, String> {
    let (protected, payload) = (base64url(protected.to_string()), base64url(payload));
    let signature = sign(format!("{protected}.{payload}").as_bytes())?;
    Ok(json!({"protected": protected, "payload": payload, "signature": base64url(signature)}).to_string())
}

#[cfg(test)]
mod tests {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use ring::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    fn decoded(text: &Value) -> Vec<u8> {
        URL_SAFE_NO_PAD.decode(text.as_str().unwrap()).unwrap()
    }

    #[test]
    fn integers_keep_their_leading_zeros() {
        // One key in 128 has a coordinate with a leading zero byte, and one signature in 128 such an integer.
        for _ in 0..300 {
            let key = AccountKey::generate().unwrap();
            let jwk = key.jwk();
            let point = [vec![4], decoded(&jwk["x"]), decoded(&jwk["y"])].concat();
            assert_eq!(point.len(), 65);
            let jws: Value = serde_json::from_str(&key.sign(json!({"nonce": "n"}), "{}").unwrap()).unwrap();
            let signature = decoded(&jws["signature"]);
            assert_eq!(signature.len(), 64);
            let input = format!("{}.{}", jws["protected"].as_str().unwrap(), jws["payload"].as_str().unwrap());
            UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(input.as_bytes(), &signature).unwrap();
        }
    }

    #[test]
    fn a_key_is_the_same_after_it_was_kept() {
        let key = AccountKey::generate().unwrap();
        let again = AccountKey::from_pem(key.pem().to_string()).unwrap();
        assert_eq!(key.key_authorization("token"), again.key_authorization("token"));
        assert!(AccountKey::from_pem("nonsense".into()).is_err());
    }

    #[test]
    fn a_binding_is_signed_with_the_key_that_the_authority_gave() {
        let external = ExternalAccount { kid: "kid-1".into(), hmac_key: b"secret".to_vec() };
        let key = AccountKey::generate().unwrap();
        let jws = external.bind(&key, "https://ca.example/new-account").unwrap();
        let protected: Value = serde_json::from_slice(&decoded(&jws["protected"])).unwrap();
        assert_eq!(protected, json!({"alg": "HS256", "kid": "kid-1", "url": "https://ca.example/new-account"}));
        let payload: Value = serde_json::from_slice(&decoded(&jws["payload"])).unwrap();
        assert_eq!(payload, key.jwk());
        let mut mac = Hmac::<Sha256>::new_from_slice(b"secret").unwrap();
        mac.update(format!("{}.{}", jws["protected"].as_str().unwrap(), jws["payload"].as_str().unwrap()).as_bytes());
        mac.verify_slice(&decoded(&jws["signature"])).unwrap();
    }
}
