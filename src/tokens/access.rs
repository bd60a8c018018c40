//! Access tokens: JWTs (RFC 9068), signed with HS256 (RFC 7518 section 3.2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

use super::keys::{Keys, Kind, TokenError};
use crate::clock::Timestamp;
use crate::encoding::base64url;
use crate::identity::{Asserted, ClientId, CredentialId, GrantId, UserId};
use crate::resource_url::Resources;

/// `{"alg":"HS256","typ":"at+jwt"}`. A token with any other header is refused, so that a token can't choose the
/// algorithm.
const HEADER: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6ImF0K2p3dCJ9";

/// The claims.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AccessToken {
    /// The external URL.
    pub iss: String,
    /// The resources that it is for (RFC 8707).
    pub aud: Resources,
    /// The user.
    pub sub: UserId,
    /// The client.
    pub client_id: ClientId,
    /// The scope that it grants.
    pub scope: String,
    /// Random id; distinguishes it from other tokens of its generation.
    pub jti: String,
    /// Issued at.
    pub iat: Timestamp,
    /// End.
    pub exp: Timestamp,
    /// The grant, so that revoking it ends this token too.
    pub grant: GrantId,
    /// The generation of the refresh token that was issued with it.
    pub generation: u64,
    /// The attempt of that refresh token.
    #[serde(default)]
    pub attempt: u64,
    /// The credential that the user signed in with.
    pub credential: CredentialId,
    /// The user's verified address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
    /// Digest of the provider's allow rules that admitted the user; `None` for a user who signed in by password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rules: Option<String>,
    /// For each server of the audience, by its name, the digest of its allow rules, which have admitted the user; empty for
    /// one without rules. Nothing if the token is for one server that has the whole origin.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub servers: BTreeMap<String, String>,
    /// What a trusted issuer has said about the user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub asserted: Option<Box<Asserted>>,
}

impl AccessToken {
    /// Signs the token and returns its text.
    pub fn sign(&self, keys: &Keys) -> String {
        let claims = serde_json::to_vec(self).expect("claims are plain data");
        let mut out = format!("{HEADER}.{}", base64url(claims));
        let mac = keys.mac(Kind::AccessToken, out.as_bytes());
        out.push('.');
        URL_SAFE_NO_PAD.encode_string(mac, &mut out);
        out
    }

    /// Checks form, signature, issuer and lifetime (RFC 9068 section 4), and that the audience is on this origin. The
    /// caller has to check that the audience covers the request, and that the token has not been revoked.
    pub fn verify(text: &str, keys: &Keys, now: Timestamp) -> Result<AccessToken, TokenError> {
        let (signed, mac) = text.rsplit_once('.').ok_or(TokenError::Invalid)?;
        let claims = signed.strip_prefix(HEADER).and_then(|s| s.strip_prefix('.')).ok_or(TokenError::Invalid)?;
        let mac = URL_SAFE_NO_PAD.decode(mac).map_err(|_| TokenError::Invalid)?;
        if !keys.verify_mac(Kind::AccessToken, signed.as_bytes(), &mac) {
            return Err(TokenError::Invalid);
        }
        let claims = URL_SAFE_NO_PAD.decode(claims).map_err(|_| TokenError::Invalid)?;
        let token: AccessToken = serde_json::from_slice(&claims).map_err(|_| TokenError::Invalid)?;
        if token.iss != keys.issuer() || !token.aud.are_on(keys.issuer()) {
            return Err(TokenError::Invalid);
        }
        if now >= token.exp { Err(TokenError::Expired) } else { Ok(token) }
    }

    #[cfg(test)]
    pub(crate) fn sample(issuer: &str, exp: Timestamp) -> AccessToken {
        AccessToken {
            iss: issuer.into(),
            aud: Resources::new(Vec::new(), issuer),
            sub: UserId("password".into()),
            client_id: ClientId("c".into()),
            scope: crate::identity::SCOPE.into(),
            jti: "j".into(),
            iat: 0,
            exp,
            grant: GrantId("g".into()),
            generation: 1,
            attempt: 0,
            credential: CredentialId("k".into()),
            email: None,
            rules: None,
            servers: BTreeMap::new(),
            asserted: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tokens::Secret;

    #[test]
    fn the_header_says_what_it_should() {
        assert_eq!(URL_SAFE_NO_PAD.decode(HEADER).unwrap(), br#"{"alg":"HS256","typ":"at+jwt"}"#);
    }

    #[test]
    fn issuer_and_audience_must_be_ours_even_under_our_signature() {
        let keys = Keys::new("https://a", &Secret::generate(), &[]);
        let good = AccessToken::sample("https://a", 10);
        assert_eq!(AccessToken::verify(&good.sign(&keys), &keys, 9), Ok(good.clone()));
        assert_eq!(AccessToken::verify(&good.sign(&keys), &keys, 10), Err(TokenError::Expired));
        for bad in [
            AccessToken { aud: Resources::new(Vec::new(), "https://b"), ..good.clone() },
            AccessToken { iss: "https://b".into(), ..good },
        ] {
            assert_eq!(AccessToken::verify(&bad.sign(&keys), &keys, 9), Err(TokenError::Invalid));
        }
    }

    #[test]
    fn the_algorithm_is_not_the_tokens_to_choose() {
        let keys = Keys::new("https://a", &Secret::generate(), &[]);
        let token = AccessToken::sample("https://a", 10).sign(&keys);
        let rest = token.strip_prefix(HEADER).unwrap();
        for header in
            [r#"{"alg":"none","typ":"at+jwt"}"#, r#"{"alg":"HS256","typ":"JWT"}"#, r#"{"typ":"at+jwt","alg":"HS256"}"#]
        {
            let forged = format!("{}{rest}", base64url(header));
            assert_eq!(AccessToken::verify(&forged, &keys, 9), Err(TokenError::Invalid));
        }
        let unsigned = format!("{}.{}.", base64url(r#"{"alg":"none"}"#), rest.split('.').nth(1).unwrap());
        assert_eq!(AccessToken::verify(&unsigned, &keys, 9), Err(TokenError::Invalid));
    }
}
