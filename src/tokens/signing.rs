//! The key pair that signs identity assertions (ES256, RFC 7518 section 3.4), and the public keys that verify them.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::clock::Timestamp;
use crate::encoding::{base64url, digest};

/// How long the public key of a previous pair is published, in seconds. An assertion lives a minute; caches live longer.
const PUBLISHED_AFTER: u64 = 86_400;

/// A key pair.
pub struct SigningKey {
    pair: EcdsaKeyPair,
    kid: String,
    stored: StoredKeys,
}

/// What is stored.
#[derive(Clone, Serialize, Deserialize)]
pub struct StoredKeys {
    /// The pair (PKCS #8, base64).
    pkcs8: String,
    /// Public keys of earlier pairs, each with the time until which it is published.
    #[serde(default)]
    previous: Vec<(Value, Timestamp)>,
}

impl SigningKey {
    /// A new pair. `before` is the one that it replaces; its public key stays published unless it leaked.
    pub fn generate(before: Option<&SigningKey>, now: Timestamp) -> Result<SigningKey, String> {
        let document = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new());
        let document = document.map_err(|_| "no key pair could be made")?;
        let mut previous: Vec<_> = before
            .map(|key| key.stored.previous.iter().filter(|(_, until)| *until > now).cloned().collect())
            .unwrap_or_default();
        previous.extend(before.map(|key| (key.jwk(), now + PUBLISHED_AFTER)));
        SigningKey::load(StoredKeys { pkcs8: STANDARD.encode(document), previous })
    }

    /// The pair from what is stored.
    pub fn load(stored: StoredKeys) -> Result<SigningKey, String> {
        let bytes = STANDARD.decode(&stored.pkcs8).map_err(|_| "the key pair is not base64")?;
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &bytes, &SystemRandom::new());
        let pair = pair.map_err(|_| "the key pair is malformed")?;
        let mut kid = digest(pair.public_key().as_ref());
        kid.truncate(16);
        Ok(SigningKey { pair, kid, stored })
    }

    /// What to store.
    pub fn stored(&self) -> &StoredKeys {
        &self.stored
    }

    /// The public keys (RFC 7517 section 4): the current one first.
    pub fn jwks(&self, now: Timestamp) -> Vec<Value> {
        let previous = self.stored.previous.iter().filter(|(_, until)| *until > now).map(|(jwk, _)| jwk.clone());
        std::iter::once(self.jwk()).chain(previous).collect()
    }

    fn jwk(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.pair.public_key().as_ref();
        json!({
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
            "x": base64url(&point[1..33]), "y": base64url(&point[33..]),
        })
    }

    /// A JWT of this type with these claims.
    pub fn sign(&self, typ: &str, claims: &Value) -> Result<String, String> {
        let header = json!({"alg": "ES256", "typ": typ, "kid": self.kid});
        let mut text = format!("{}.{}", base64url(header.to_string()), base64url(claims.to_string()));
        let signature = self.pair.sign(&SystemRandom::new(), text.as_bytes()).map_err(|_| "nothing can be signed")?;
        text.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut text);
        Ok(text)
    }
}
