//! ID tokens (OpenID Connect Core section 3.1.3.7): JWTs signed by a key of the provider, RS256 or ES256.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::signature::{ECDSA_P256_SHA256_FIXED, RSA_PKCS1_2048_8192_SHA256, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::tokens::equal;

/// Allowed clock difference, in seconds.
const LEEWAY: u64 = 60;
/// Maximum length of a token, in bytes.
const MAX_TOKEN: usize = 64 << 10;
/// Maximum number of keys of a provider; further ones are ignored.
const MAX_KEYS: usize = 64;

/// The provider's keys (RFC 7517).
#[derive(Clone, Debug, Default)]
pub struct KeySet(Vec<Key>);

#[derive(Clone, Debug)]
struct Key {
    kid: Option<String>,
    /// The only issuer that this key may sign for, if the JWK set is shared by several issuers (Entra ID).
    issuer: Option<String>,
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
    /// Parses a JWK set. Ignores keys that cannot be used here, since providers publish keys for other purposes too. An
    /// error if no key is left.
    pub fn parse(document: &[u8]) -> Result<KeySet, &'static str> {
        #[derive(Deserialize)]
        struct Document {
            keys: Vec<Value>,
        }
        let document: Document = serde_json::from_slice(document).map_err(|_| "it is not a JWK set")?;
        let keys: Vec<Key> = document
            .keys
            .into_iter()
            .take(MAX_KEYS)
            .filter_map(|value| Key::of(serde_json::from_value(value).ok()?))
            .collect();
        if keys.is_empty() { Err("it has no key for RS256 or ES256") } else { Ok(KeySet(keys)) }
    }
}

impl Key {
    fn of(jwk: Jwk) -> Option<Key> {
        if jwk.usage.is_some_and(|u| u != "sig") {
            return None;
        }
        let bytes = |text: Option<String>| URL_SAFE_NO_PAD.decode(text?.trim_end_matches('=')).ok();
        let fits = |wanted: &str| jwk.alg.as_deref().is_none_or(|alg| alg == wanted);
        let material = match jwk.kty.as_str() {
            "RSA" if fits("RS256") => Material::Rsa { n: bytes(jwk.n)?, e: bytes(jwk.e)? },
            "EC" if fits("ES256") && jwk.crv.as_deref() == Some("P-256") => {
                let (x, y) = (bytes(jwk.x)?, bytes(jwk.y)?);
                if x.len() != 32 || y.len() != 32 {
                    return None;
                }
                Material::P256([&[4], x.as_slice(), y.as_slice()].concat())
            }
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
            _ => false,
        }
    }
}

/// What the claims are checked against.
pub struct Expected<'e> {
    /// Is this the provider's issuer? Gets `iss` and all claims.
    pub issuer: &'e dyn Fn(&str, &Map<String, Value>) -> bool,
    /// The client id at the provider.
    pub audience: &'e str,
    /// The nonce of this sign-in; `None` for a token from a refresh response (OpenID Connect Core section 12.2).
    pub nonce: Option<&'e str>,
    /// Now.
    pub now: Timestamp,
}

/// Why a token is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// None of the known keys verifies the signature; fetching the provider's keys again may help.
    UnknownKey,
    /// Anything else.
    Invalid(&'static str),
}

/// Checks signature and claims of a token, and returns the claims.
pub fn verify(token: &str, keys: &KeySet, expected: &Expected<'_>) -> Result<Map<String, Value>, Refusal> {
    use Refusal::Invalid;
    #[derive(Deserialize)]
    struct Header {
        alg: String,
        kid: Option<String>,
        crit: Option<Value>,
    }
    if token.len() > MAX_TOKEN {
        return Err(Invalid("it is too long"));
    }
    let (signed, signature) = token.rsplit_once('.').ok_or(Invalid("it is no JWT"))?;
    let (header, claims) = signed.split_once('.').ok_or(Invalid("it is no JWT"))?;
    let decode = |part: &str| URL_SAFE_NO_PAD.decode(part).map_err(|_| Invalid("it is no JWT"));
    let header: Header = serde_json::from_slice(&decode(header)?).map_err(|_| Invalid("its header is malformed"))?;
    if !matches!(header.alg.as_str(), "RS256" | "ES256") {
        return Err(Invalid("its algorithm is neither RS256 nor ES256"));
    }
    if header.crit.is_some() {
        return Err(Invalid("it has critical extensions"));
    }
    let (claims, signature) = (decode(claims)?, decode(signature)?);
    let claims: Map<String, Value> =
        serde_json::from_slice(&claims).map_err(|_| Invalid("its claims are malformed"))?;
    let issuer = claims.get("iss").and_then(Value::as_str).ok_or(Invalid("it has no issuer"))?;
    let is_candidate = |key: &&Key| match (&header.kid, &key.kid) {
        (Some(wanted), Some(kid)) => wanted == kid,
        _ => true,
    };
    let key = keys
        .0
        .iter()
        .filter(is_candidate)
        .find(|key| key.verify(&header.alg, signed.as_bytes(), &signature))
        .ok_or(Refusal::UnknownKey)?;
    check_claims(&claims, issuer, key, expected)?;
    Ok(claims)
}

/// OpenID Connect Core section 3.1.3.7, after the signature.
fn check_claims(claims: &Map<String, Value>, issuer: &str, key: &Key, expected: &Expected<'_>) -> Result<(), Refusal> {
    use Refusal::Invalid;
    if !(expected.issuer)(issuer, claims) {
        return Err(Invalid("its issuer is another"));
    }
    let tenant = claims.get("tid").and_then(Value::as_str).unwrap_or_default();
    if key.issuer.as_ref().is_some_and(|of_key| of_key.replace("{tenantid}", tenant) != issuer) {
        return Err(Invalid("its key signs for another issuer"));
    }
    let audiences = crate::rules::strings(claims.get("aud"));
    let authorized = claims.get("azp").and_then(Value::as_str);
    if !audiences.iter().any(|a| a == expected.audience)
        || authorized.is_some_and(|azp| azp != expected.audience)
        || (audiences.len() > 1 && authorized.is_none())
    {
        return Err(Invalid("it is for another audience"));
    }
    // Some providers send times as numbers with a fraction, such as 1700000000.0.
    let time = |name: &str| claims.get(name).and_then(Value::as_f64).filter(|t| *t >= 0.0).map(|t| t as u64);
    let exp = time("exp").ok_or(Invalid("it has no expiry time (exp)"))?;
    if expected.now >= exp.saturating_add(LEEWAY) {
        return Err(Invalid("it has expired"));
    }
    let iat = time("iat").ok_or(Invalid("it has no issue time (iat)"))?;
    if [Some(iat), time("nbf")].into_iter().flatten().any(|t| t > expected.now.saturating_add(LEEWAY)) {
        return Err(Invalid("it is not valid yet (iat or nbf)"));
    }
    if let Some(nonce) = expected.nonce {
        let found = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
        if !equal(found.as_bytes(), nonce.as_bytes()) {
            return Err(Invalid("its nonce is that of another sign-in"));
        }
    }
    if claims.get("sub").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Err(Invalid("it has no subject (sub)"));
    }
    Ok(())
}
