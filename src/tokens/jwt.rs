//! JWTs of others (RFC 7519): ID tokens of providers, assertions of clients and of trusted issuers. Signed with RS256, ES256
//! (RFC 7518 section 3) or EdDSA on Ed25519 (RFC 8037).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock::Timestamp;

/// Allowed clock difference, in seconds.
pub const LEEWAY: u64 = 60;
/// Maximum length of a token, in bytes.
const MAX_TOKEN: usize = 64 << 10;
/// Maximum number of keys in a set; further ones are ignored.
const MAX_KEYS: usize = 64;

/// The algorithms with which clients and trusted issuers may sign, in the order of the metadata.
pub const ALGORITHMS: [&str; 3] = ["ES256", "RS256", "EdDSA"];

/// Public keys (RFC 7517).
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

/// A public key.
#[derive(Clone, Debug)]
pub struct Key {
    kid: Option<String>,
    /// The only issuer that this key may sign for, if the JWK set is shared by several issuers (Entra ID).
    pub issuer: Option<String>,
    material: Material,
}

#[derive(Clone, Debug)]
enum Material {
    Rsa {
        n: Vec<u8>,
        e: Vec<u8>,
    },
    /// An uncompressed point on P-256.
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    kid: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    alg: Option<String>,
    crv: Option<String>,
    issuer: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl KeySet {
    /// Parses a JWK set. Ignores keys that cannot be used here, since servers publish keys for other purposes too. An
    /// error if no key is left.
    pub fn parse(document: &[u8]) -> Result<KeySet, &'static str> {
        KeySet::of(&serde_json::from_slice(document).map_err(|_| "it is not a JWK set")?)
    }

    /// The same for a set that is part of another document.
    pub fn of(document: &Value) -> Result<KeySet, &'static str> {
        let keys = document.get("keys").and_then(Value::as_array).ok_or("it is not a JWK set")?;
        let usable = |value: &Value| Key::of(Jwk::deserialize(value).ok()?);
        let keys: Vec<Key> = keys.iter().take(MAX_KEYS).filter_map(usable).collect();
        if keys.is_empty() { Err("it has no key for RS256, ES256 or EdDSA") } else { Ok(KeySet(keys)) }
    }

    /// Does a JWK set have a private or a symmetric key in it?
    pub fn has_secrets(document: &Value) -> bool {
        let keys = document.get("keys").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        keys.iter().any(|key| key.get("d").is_some() || key.get("k").is_some())
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Key> {
        if jwk.usage.is_some_and(|u| u != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok();
        let fits = |wanted: &str| jwk.alg.as_deref().is_none_or(|alg| alg == wanted);
        let of_32 = |text: Option<String>| bytes(text).filter(|bytes| bytes.len() == 32);
        let material = match (jwk.kty.as_str(), jwk.crv.as_deref()) {
            ("RSA", _) if fits("RS256") => Material::Rsa { n: bytes(jwk.n)?, e: bytes(jwk.e)? },
            ("EC", Some("P-256")) if fits("ES256") => {
                let (x, y) = (of_32(jwk.x)?, of_32(jwk.y)?);
                Material::P256([&[4], x.as_slice(), y.as_slice()].concat())
            }
            // RFC 9864 gives the algorithm of this curve a name of its own.
            ("OKP", Some("Ed25519")) if fits("EdDSA") || fits("Ed25519") => Material::Ed25519(of_32(jwk.x)?),
            _ => return None,
        };
        Some(Key { kid: jwk.kid, issuer: jwk.issuer, material })
    }

    /// Verifies a signature. `algorithm`, from the token's header, must fit the type of the key.
    fn verify(&self, algorithm: &str, message: &[u8], signature: &[u8]) -> bool {
        match (&self.material, algorithm) {
            (Material::Rsa { n, e }, "RS256") => {
                RsaPublicKeyComponents { n, e }.verify(&RSA_PKCS1_2048_8192_SHA256, message, signature).is_ok()
            }
            (Material::P256(point), "ES256") => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signature).is_ok()
            }
            (Material::Ed25519(point), "EdDSA" | "Ed25519") => {
                UnparsedPublicKey::new(&ED25519, point).verify(message, signature).is_ok()
            }
            _ => false,
        }
    }
}

/// A JWT whose signature has not been verified.
pub struct Unverified<'t> {
    signed: &'t str,
    signature: Vec<u8>,
    algorithm: String,
    kid: Option<String>,
    /// The type (`typ`) of its header.
    pub typ: Option<String>,
    /// Its claims. Only to find out whose keys verify it, until [`Unverified::verify`] has succeeded.
    pub claims: Map<String, Value>,
}

impl<'t> Unverified<'t> {
    /// Reads a compact JWS (RFC 7515 section 7.1) with claims. The error says what is wrong with it.
    pub fn parse(token: &'t str) -> Result<Unverified<'t>, &'static str> {
        #[derive(Deserialize)]
        struct Header {
            alg: String,
            kid: Option<String>,
            typ: Option<String>,
            crit: Option<Value>,
        }
        if token.len() > MAX_TOKEN {
            return Err("it is too long");
        }
        let (signed, signature) = token.rsplit_once('.').ok_or("it is no JWT")?;
        let (header, claims) = signed.split_once('.').ok_or("it is no JWT")?;
        let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| "it is no JWT");
        let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| "its header is malformed")?;
        if header.crit.is_some() {
            return Err("it has critical extensions");
        }
        let (claims, signature) = (decode(claims)?, decode(signature)?);
        let claims = serde_json::from_slice(&claims).map_err(|_| "its claims are malformed")?;
        Ok(Unverified { signed, signature, algorithm: header.alg, kid: header.kid, typ: header.typ, claims })
    }

    /// Is it signed with one of these algorithms?
    pub fn is_signed_with(&self, algorithms: &[&str]) -> bool {
        algorithms.contains(&self.algorithm.as_str())
    }

    /// The key of `keys` that has signed it; `None` if none of them has. A key with another id is not tried.
    pub fn verify<'k>(&self, keys: &'k KeySet) -> Option<&'k Key> {
        let is_candidate = |key: &&Key| match (&self.kid, &key.kid) {
            (Some(wanted), Some(kid)) => wanted == kid,
            _ => true,
        };
        let has_signed = |key: &&Key| key.verify(&self.algorithm, self.signed.as_bytes(), &self.signature);
        keys.0.iter().filter(is_candidate).find(has_signed)
    }

    /// A claim that is a text and not empty.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.claims.get(name).and_then(Value::as_str).filter(|text| !text.is_empty())
    }

    /// A claim that is a time. Some issuers send numbers with a fraction, such as 1700000000.0.
    pub fn time(&self, name: &str) -> Option<Timestamp> {
        self.claims.get(name).and_then(Value::as_f64).filter(|t| *t >= 0.0).map(|t| t as u64)
    }

    /// Checks `exp`, which has to be there, and `iat` and `nbf`, with [`LEEWAY`]. Returns `exp`.
    pub fn check_times(&self, now: Timestamp) -> Result<Timestamp, &'static str> {
        let exp = self.time("exp").ok_or("it has no expiry time (exp)")?;
        if now >= exp.saturating_add(LEEWAY) {
            return Err("it has expired");
        }
        let is_malformed =
            |name: &str| self.claims.get(name).is_some_and(|t| !t.is_null()) && self.time(name).is_none();
        if is_malformed("iat") || is_malformed("nbf") {
            return Err("its times are malformed (iat or nbf)");
        }
        let is_future = |name: &str| self.time(name).is_some_and(|t| t > now.saturating_add(LEEWAY));
        if is_future("iat") || is_future("nbf") { Err("it is not valid yet (iat or nbf)") } else { Ok(exp) }
    }
}
