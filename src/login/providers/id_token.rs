//! ID tokens (OpenID Connect Core section 3.1.3.7): JWTs signed by a key of the provider, RS256 or ES256.

use serde_json::{Map, Value};

use crate::clock::Timestamp;
use crate::tokens::equal;
use crate::tokens::jwt::{Key, KeySet, Unverified};

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
    let token = Unverified::parse(token).map_err(Refusal::Invalid)?;
    if !token.is_signed_with(&["RS256", "ES256"]) {
        return Err(Refusal::Invalid("its algorithm is neither RS256 nor ES256"));
    }
    let issuer = token.claims.get("iss").and_then(Value::as_str).ok_or(Refusal::Invalid("it has no issuer"))?;
    let key = token.verify(keys).ok_or(Refusal::UnknownKey)?;
    check_claims(&token, issuer, key, expected).map_err(Refusal::Invalid)?;
    Ok(token.claims)
}

/// OpenID Connect Core section 3.1.3.7, after the signature.
fn check_claims(token: &Unverified<'_>, issuer: &str, key: &Key, expected: &Expected<'_>) -> Result<(), &'static str> {
    let claims = &token.claims;
    if !(expected.issuer)(issuer, claims) {
        return Err("its issuer is another");
    }
    let tenant = claims.get("tid").and_then(Value::as_str).unwrap_or_default();
    if key.issuer.as_ref().is_some_and(|of_key| of_key.replace("{tenantid}", tenant) != issuer) {
        return Err("its key signs for another issuer");
    }
    let audiences = crate::rules::strings(claims.get("aud"));
    let authorized = claims.get("azp").and_then(Value::as_str);
    if !audiences.iter().any(|a| a == expected.audience)
        || authorized.is_some_and(|azp| azp != expected.audience)
        || (audiences.len() > 1 && authorized.is_none())
    {
        return Err("it is for another audience");
    }
    token.check_times(expected.now)?;
    if token.time("iat").is_none() {
        return Err("it has no issue time (iat)");
    }
    if let Some(nonce) = expected.nonce {
        let found = claims.get("nonce").and_then(Value::as_str).unwrap_or_default();
        if !equal(found.as_bytes(), nonce.as_bytes()) {
            return Err("its nonce is that of another sign-in");
        }
    }
    if token.text("sub").is_none() { Err("it has no subject (sub)") } else { Ok(()) }
}
